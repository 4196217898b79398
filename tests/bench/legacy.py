"""A second Python beside this one: neural-tangents' structured derivatives on their last JAX.

`make bench` makes the environment `.venv-legacy` (jax 0.4.25). `Legacy` starts its interpreter on
`structured.py`, hands it a network's parameters and images, and then has it repeat the kernel each
time that it is called, so that both sides of a pair run alternately on one machine.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict

FOLDER = Path(__file__).resolve().parent
PYTHON = FOLDER.parents[1] / ".venv-legacy" / "bin" / "python"


class Legacy:
    """One kernel in the second interpreter: `call()` computes it once more.

    Args:
      network: a name of `networks.NETWORKS`.
      variables: the network's variables, a nested dict of arrays.
      x: images.
      mode: `"full"` or `"sum_logits"`.
    """

    def __init__(self, network: str, variables, x, mode: str):
        if not PYTHON.exists():
            raise FileNotFoundError("`make bench` makes the environment .venv-legacy: call that.")
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name)
        flat = {f"v/{k}": np.asarray(v) for k, v in flatten_dict(variables, sep="/").items()}
        np.savez(path / "problem.npz", x=np.asarray(x), **flat)
        self.process = subprocess.Popen(
            [PYTHON, FOLDER / "structured.py", network, mode, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reply()

    def call(self) -> np.ndarray:
        """Compute the kernel again; return the one of the first call."""
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        self._reply()
        return np.load(Path(self.folder.name) / "kernel.npy", mmap_mode="r")

    def close(self) -> None:
        """End the second interpreter."""
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()

    def _reply(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the second interpreter ended; its message is above.")
        return json.loads(line)
