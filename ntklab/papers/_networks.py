"""Networks in experiments: trained so that a kill loses little, judged in blocks of test images."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ntklab import data, nets, training
from ntklab.papers._checkpoints import Checkpoints


def train(
    name: str,
    phases: list[training.Phase],
    images: data.Dataset,
    batch_size: int,
    seed: int,
    checkpoints: Checkpoints,
    evaluate: Callable | None = None,
    module: Any = None,
    **settings: Any,
) -> Any:
    """Train the toy CNN, or a module, resumable under the name; a collapse is a row, no warning.

    Further settings are those of `training.train`.
    """

    def after_epoch(network, epoch):
        checkpoints.keep_work()
        return {} if evaluate is None else evaluate(network, epoch)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "epoch .*collapsed", RuntimeWarning)
        trained = training.train(
            nets.ToyCNN() if module is None else module,
            (images.x_train, images.y_train),
            phases,
            seed=seed,
            batch_size=batch_size,
            folder=checkpoints.folder / name,
            resume=True,
            state_mib=checkpoints.state_mib,
            deadline=checkpoints.deadline,
            evaluate=after_epoch,
            **settings,
        )
    for row in trained.metrics:
        if "note" in row:
            checkpoints.note(row["note"])
    return trained


def each(right: Callable, images: data.Dataset, block: int = 500) -> np.ndarray:
    """Whether `right(x, y)` holds for each test image, in blocks."""
    x, y = images.x_test, images.y_test
    parts = [right(x[i : i + block], y[i : i + block]) for i in range(0, len(x), block)]
    return np.concatenate([np.asarray(part) for part in parts])


def share(right: Callable, images: data.Dataset) -> float:
    """The share of test images for which `right(x, y)` holds."""
    return float(each(right, images).mean())
