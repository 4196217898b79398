"""What both experiments of this paper report of a machine."""

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks


def summary(name: str, score, radius, y, n_first: int) -> dict[str, float]:
    """Accuracy, and radii of the correctly classified.

    Args:
      name: of the machine, in front of every value.
      score: of the test images, `(b,)`; positive for class 1.
      radius: certified, `(b,)`.
      y: class indices, 0 and 1.
      n_first: images of the second mean, from the front.

    Returns:
      `_accuracy`; `_certificate`, the mean radius of the correctly classified; `_deviation`, its
      standard deviation; `_certificate_100`, the mean over the first.
    """
    right = (score > 0) == np.asarray(y == 1)
    first = np.arange(len(right)) < n_first
    return {
        f"{name}_accuracy": float(right.mean()),
        f"{name}_certificate": float(radius[right].mean()),
        f"{name}_deviation": float(radius[right].std()),
        f"{name}_certificate_100": float(radius[right & first].mean()),
    }


def smallest_found(config, logits_fn, score, x, seed: int) -> np.ndarray:
    """The smallest perturbation of each image with which PGD changes the sign of its score.

    Args:
      config: with `eps`, the budgets, and `steps`.
      logits_fn: the machine.
      score: its clean scores, `(b,)`.
      x: images, `(b, ...)`.
      seed: of the random starts.

    Returns:
      Its l-infinity norm, `(b,)`; infinite where no budget is enough.
    """
    predicted = jnp.asarray((score > 0).astype(np.int32))
    smallest = np.full(len(x), np.inf)
    for eps in config.eps:
        found = attacks.pgd(eps, steps=config.steps)(logits_fn, x, predicted, jax.random.key(seed))
        size = np.abs(np.asarray(found.x_adv - x)).reshape(len(x), -1).max(axis=1)
        smallest = np.where(found.success, np.minimum(smallest, size), smallest)
    return smallest


def mean_of_finite(values: np.ndarray) -> float:
    """The mean of the numbers that are not infinite; 0 where there are none."""
    hit = np.isfinite(values)
    return float(values[hit].mean()) if hit.any() else 0.0
