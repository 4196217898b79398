"""Neural tangent kernels in closed form: a kernel is a frozen dataclass that is called on data.

`kernel(x1, x2)` is the matrix, `kernel.diagonal(x)` its diagonal, `kernel.apply(x, x2, weights)`
a product with it, and `kernel.input_gradient(x, x2, weights)` the gradient of that product with
respect to `x`, which is all that an attack without training needs.

Which one? `TwoLayerNTK` when one trained layer and a formula of one line will do;
`FullyConnected` for networks of any depth, with biases; `Convolutional` when the input is an image
and its layout should count.
"""

from ntklab.kernels.analytic import FullyConnected as FullyConnected
from ntklab.kernels.analytic import TwoLayerNTK as TwoLayerNTK
from ntklab.kernels.base import Kernel as Kernel
from ntklab.kernels.convolutional import Convolutional as Convolutional
from ntklab.kernels.dual import erf_duals as erf_duals
from ntklab.kernels.dual import kappa0 as kappa0
from ntklab.kernels.dual import kappa1 as kappa1
from ntklab.kernels.dual import relu_duals as relu_duals
