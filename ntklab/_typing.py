"""Array types with shapes: jaxtyping's where it is installed, plain aliases where it is not.

jaxtyping is optional because Colab does not carry it. The tests require it: they import the
package through its hook, so that every annotated shape is checked by beartype.
"""

from collections.abc import Callable

import jax
import numpy as np

try:
    from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt8
except ImportError:
    Array = jax.Array

    class _Plain:
        """Stands in for a jaxtyping dtype: `Float[Array, "n d"]` is then `Array`."""

        def __class_getitem__(cls, item):
            return item[0]

    Bool = Float = Int = Key = Shaped = UInt8 = _Plain

#: A batch of inputs in, scores out: `(b, ...) -> (b, k)`, or `(b, ...) -> (b,)` for a binary
#: classifier whose positive score means class 1.
LogitsFn = Callable[[Array], Array]

#: A number as an argument, from Python or NumPy.
Number = float | int | np.floating | np.integer

__all__ = ["Array", "Bool", "Float", "Int", "Key", "LogitsFn", "Number", "Shaped", "UInt8"]
