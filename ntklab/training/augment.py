"""Random changes of training images, inside the compiled step."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from ntklab._typing import Array


@dataclass(frozen=True)
class CropFlip:
    """Zeros around the image, a random window of its old size, and its mirror image half the time.

    Attributes:
      padding: pixels of zeros on each side.
      flip: whether images are mirrored left to right with probability 1/2.

    Raises:
      ValueError: a negative padding.

    Cost: one gather an image.

    References:
      He, Zhang, Ren & Sun 2016, section 4.2 (padding 4 for CIFAR-10).
    """

    padding: int = 4
    flip: bool = True
    name: str = field(default="crop-flip", init=False)

    def __post_init__(self):
        if self.padding < 0:
            raise ValueError(f"padding must be >= 0, got {self.padding}.")

    def __call__(self, key: Array, x: Array) -> Array:
        """Other images `(b, h, w, c)`."""
        where, mirror = jax.random.split(key)
        p = self.padding
        padded = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        corners = jax.random.randint(where, (len(x), 2), 0, 2 * p + 1)

        def window(image, corner):
            return jax.lax.dynamic_slice(image, (*corner, 0), x.shape[1:])

        cut = jax.vmap(window)(padded, corners)
        if not self.flip:
            return cut
        turned = jax.random.bernoulli(mirror, 0.5, (len(x), 1, 1, 1))
        return jnp.where(turned, cut[:, :, ::-1], cut)
