"""What a finished run gives back."""

from typing import Any, NamedTuple

import jax
import numpy as np

from ntklab._typing import Number
from ntklab.training import forward
from ntklab.training.forward import Forward, Weights
from ntklab.training.store import Store, from_arrays


class Trained(NamedTuple):
    """A finished run.

    Attributes:
      module: the network.
      dtype: in which it computed.
      weights: those at the end; with several seeds each leaf has a leading axis.
      model: `"nonlinear"`, `"linear"` or `"centred"`, of the last phase.
      metrics: a row an epoch, see `train`.
      seconds: time in training steps, over all processes that worked on the run.
      seeds: the seeds.
      store: what was kept on the way.
    """

    module: Any
    dtype: str
    weights: Weights
    model: str
    metrics: tuple[dict, ...]
    seconds: float
    seeds: tuple[int, ...]
    store: Store

    def logits_fn(self, epoch: Number | None = None, seed: int | None = None) -> Any:
        """The trained function for attacks and kernels' machines, `(b, ...) -> (b, k)`.

        Args:
          epoch: one of `save_at`; the end where None.
          seed: which of several seeds; may be left out when there is one.

        Raises:
          ValueError: an epoch that was not kept, or a seed that was not run or is not named.
        """
        model, weights = (self.model, self.weights) if epoch is None else self.at(epoch)
        if len(self.seeds) > 1:
            if seed not in self.seeds:
                raise ValueError(f"seed must be one of {self.seeds}, got {seed}.")
            number = self.seeds.index(seed)
            weights = jax.tree.map(lambda a: a[number], weights)
        return forward.logits_fn(Forward(self.module, model, self.dtype), weights)

    def at(self, epoch: Number) -> tuple[str, Weights]:
        """The model's kind and its weights at a kept epoch.

        Raises:
          ValueError: it was not kept.
        """
        arrays = self.store.load(f"epoch-{epoch:g}")
        if arrays is None:
            kept = ", ".join(self.store.names("epoch-")) or "nothing"
            raise ValueError(f"epoch {epoch:g} was not kept (kept: {kept}): add it to save_at.")
        model = str(arrays["model"])
        full = self.weights._replace(
            trained=self._parameters(), start=None if model == "nonlinear" else self._parameters()
        )
        return model, from_arrays(full, arrays)

    def kernel(self, epoch: Number) -> dict[str, np.ndarray]:
        """The matrices that a `KernelProbe` took at an epoch.

        Raises:
          ValueError: none was taken there.
        """
        arrays = self.store.load(f"kernel-{epoch:g}")
        if arrays is None:
            raise ValueError(f"no kernel was taken at epoch {epoch:g}: add it to the probe's.")
        return arrays

    def _parameters(self) -> Any:
        return self.weights.trained if self.model == "nonlinear" else self.weights.start
