r"""The one training loop: `train(module, (x, y), phases, ...)`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from ntklab._common import check_labels
from ntklab._typing import Number
from ntklab.training import course
from ntklab.training.forward import Weights
from ntklab.training.phase import Phase
from ntklab.training.result import Trained
from ntklab.training.store import Store, fingerprint

DTYPES = ("float32", "bfloat16")


def train(
    module: Any,
    data: tuple[Any, Any],
    phases: Sequence[Phase],
    *,
    seed: int | Sequence[int] = 0,
    batch_size: int = 128,
    dtype: str = "float32",
    augment: Any = None,
    shuffle: bool = True,
    start: Weights | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    save_at: Sequence[Number] = (),
    save_seconds: Number = 60.0,
    state_mib: Number | None = None,
    kernels: Any = None,
    evaluate: Callable | None = None,
    deadline: Any = None,
    devices: Sequence[Any] | None = None,
    show_progress: bool = True,
) -> Trained:
    r"""Train a network through phases: plainly, adversarially, linearised, in any order.

    A step takes a batch from the data on the device, changes it at random if asked, lets the
    phase's strategy attack it, and moves the weights by stochastic gradient descent. It is one
    compiled program a phase. A run is a function of its arguments: batches, augmentation and starts
    of attacks come from the seed and the number of the step, so a resumed run is bitwise the
    undisturbed one on the same machine.

    Args:
      module: a linen module from images to logits `(b, k)`, with or without an argument `train`.
      data: images `(n, ...)`, floating point in [0, 1] or bytes (kept as bytes on the device), and
        class indices `(n,)`.
      phases: see `Phase`.
      seed: of initial weights, batches and attacks; several train together under `jax.vmap`,
        sharing the data, which pays for small networks without convolutions.
      batch_size: examples a step; what is left over of an epoch is dropped, and another part is
        dropped in the next one.
      dtype: `"float32"` or `"bfloat16"` for weights and images in the forward pass; master
        weights, momentum, losses and logits stay float32.
      augment: random changes of a batch, `augment(key, x)`, such as `CropFlip()`.
      shuffle: draw a new order every epoch; otherwise that of the data.
      start: weights of an earlier run to begin with, such as `trained.at(3)[1]`; random where None.
      folder: where rows, state and kept weights go (`ntklab.training.store`); memory where None.
      resume: go on with what lies there.
      save_at: cumulative epochs, 0 and fractions allowed, at which weights are kept.
      save_seconds: how often the state is written; a kill loses that much.
      state_mib: hold the state file to so many MiB: momentum loses bits, or a resume goes back to
        the start of the phase; see `ntklab._compact`. The first row after a resume that is not
        exact says so under `note`.
      kernels: a `KernelProbe`, or None.
      evaluate: `evaluate(logits_fn, epoch) -> {name: number}`, called for every row.
      deadline: an `ntklab._deadline.Deadline`, asked after every step.
      devices: over which a batch is spread by `jax.sharding`; the default device where None.
      show_progress: say on standard error how far the run is.

    Returns:
      The trained network. `metrics` has a row at the end of every epoch and phase: `epoch`
      (cumulative), `phase`, `step`, `learning_rate`, `seconds`, `loss` and `accuracy` of the
      examples trained on, means over the epoch as they were met; `clean_loss` and `clean_accuracy`
      where the strategy computes them; what `evaluate` returned; `kernel_norm`; `warning`, one
      sentence, where something went wrong. With several seeds the measured ones are lists.

    Cost: a forward pass counts 1, a step up the loss 2, an update 3: a batch takes 3 (standard), 5
      (FGSM), `3 + 2 steps` (PGD), `7 + 2 steps` (TRADES), `3 replays` (Free). A linear phase takes
      two to three times as much.

    Raises:
      ValueError: shapes, labels or settings that do not fit; a batch larger than the data.
      TypeError: images or labels of a wrong dtype.
      Diverged: the loss became NaN or infinite.
      OutOfTime: the deadline is over; the state has been saved.
      OSError: the folder cannot be written, in one sentence.

    >>> import jax, jax.numpy as jnp
    >>> from ntklab import nets
    >>> x = jax.random.uniform(jax.random.key(0), (64, 4))
    >>> y = (x[:, 0] > 0.5).astype(jnp.int32)
    >>> from ntklab.training import PGD
    >>> phases = [Phase(5, PGD(eps=0.05, steps=2)), Phase(2, model="centred")]
    >>> trained = train(nets.FC(widths=(8,), outputs=2), (x, y), phases, batch_size=16)
    >>> len(trained.metrics), trained.metrics[-1]["phase"]
    (7, 1)
    """
    settings = course.Settings(
        *(module, tuple(phases), (seed,) if isinstance(seed, int) else tuple(seed)),
        *(batch_size, dtype, augment, shuffle, tuple(save_at), save_seconds, state_mib),
        *(kernels, evaluate, deadline, devices and tuple(devices), show_progress),
    )
    run = _begun(settings, data, start, folder, resume)
    run.finish()
    return Trained(
        *(module, dtype, run.state.weights, settings.phases[-1].model),
        *(tuple(run.store.rows), run.seconds, settings.seeds, run.store),
    )


def _begun(settings: course.Settings, data: Any, start: Any, folder: Any, resume: bool) -> Any:
    """The run, ready to make its next step, once its arguments are checked."""
    s = settings
    _check(s.phases, s.seeds, s.batch_size, s.dtype, s.shuffle, data)
    images, labels = (jnp.asarray(a) for a in data)
    mark = fingerprint(
        *(s.module, s.phases, s.seeds, s.batch_size, s.dtype, s.augment, s.shuffle, s.save_at),
        *(images, labels, start, s.kernels and s.kernels.identity),
    )
    return course.Course(s, (images, labels), start, Store(folder, mark, resume))


def _check(phases: tuple, seeds: tuple, batch_size: int, dtype: str, shuffle: bool, data: Any):
    """Raise, in one sentence, for arguments that do not fit."""
    if not phases or not all(isinstance(p, Phase) for p in phases):
        raise ValueError("phases must be a sequence of at least one Phase.")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seed must be a number or different numbers, got {seeds}.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    x, y = (jnp.asarray(a) for a in data)
    check_labels(y, len(x), 2**31 - 1)
    if x.dtype != jnp.uint8:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"images must be floating point in [0, 1] or uint8, got {x.dtype}.")
        low, high = float(x.min()), float(x.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images must lie in [0, 1], got {low:.3g} to {high:.3g}.")
    n = len(x)
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must be in 1..{n}, the number of images, got {batch_size}.")
    if not shuffle and n % batch_size:
        raise ValueError(
            f"without shuffling the last {n % batch_size} of {n} images would never be seen: "
            "choose a batch_size that divides, or shuffle=True."
        )
