"""neural-tangents' structured derivatives on their last JAX, in the environment `.venv-legacy`."""

import numpy as np
from flax.traverse_util import flatten_dict
from second import SecondPython


class Legacy(SecondPython):
    """One kernel by jax 0.4.25.

    Args:
      network: a name of `networks.NETWORKS`.
      variables: the network's variables, a nested dict of arrays.
      x: images.
      mode: `"full"` or `"sum_logits"`.
    """

    def __init__(self, network: str, variables, x, mode: str):
        flat = {f"v/{k}": np.asarray(v) for k, v in flatten_dict(variables, sep="/").items()}
        arrays = {"x": np.asarray(x), **flat}
        super().__init__(".venv-legacy", "structured.py", [network, mode], arrays)

    def call(self) -> np.ndarray:
        """Compute the kernel again; return the one of the first call."""
        super().call()
        return np.load(self.path / "kernel.npy", mmap_mode="r")
