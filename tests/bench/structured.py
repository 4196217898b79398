"""Run by the second interpreter: an empirical kernel by structured derivatives, on request.

    python structured.py NETWORK MODE FOLDER

It reads `FOLDER/problem.npz`, writes `FOLDER/kernel.npy`, and computes once more for each line on
standard input. jax 0.4.25 is the last release on which these derivatives run.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np


class _NoTensorFlow(types.ModuleType):
    """Stands in for the part of neural-tangents whose import would load TensorFlow."""

    def __getattr__(self, name):
        raise AttributeError(name)


sys.modules["neural_tangents.experimental"] = _NoTensorFlow("neural_tangents.experimental")
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import jax  # noqa: E402
import neural_tangents as nt  # noqa: E402
from flax.traverse_util import unflatten_dict  # noqa: E402
from networks import NETWORKS  # noqa: E402


def main(network: str, mode: str, folder: Path) -> None:
    """Answer every line with one JSON line."""
    stored = np.load(folder / "problem.npz")
    flat = {k.removeprefix("v/"): stored[k] for k in stored.files if k.startswith("v/")}
    variables, x = unflatten_dict(flat, sep="/"), jax.numpy.asarray(stored["x"])
    model = NETWORKS[network].model()
    params = jax.tree_util.tree_map(jax.numpy.asarray, variables.pop("params"))

    def apply(params, x):
        logits = model.apply({"params": params, **variables}, x)
        return logits.sum(axis=1, keepdims=True) if mode == "sum_logits" else logits

    kind = nt.NtkImplementation.STRUCTURED_DERIVATIVES
    ntk = nt.empirical_ntk_fn(apply, trace_axes=(), vmap_axes=0, implementation=kind)
    kernel = jax.jit(lambda x, params: ntk(x, None, params))
    np.save(folder / "kernel.npy", np.asarray(kernel(x, params)))
    print(json.dumps({"jax": jax.__version__}), flush=True)
    for _ in sys.stdin:
        kernel(x, params).block_until_ready()
        print(json.dumps({}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
