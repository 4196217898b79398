"""Neural tangent kernels: in closed form, of a network as it is, and matrices of both.

A kernel in closed form is a frozen dataclass that is called on data: `kernel(x1, x2)` is the
matrix, `kernel.diagonal(x)` its diagonal, `kernel.apply(x, x2, weights)` a product with it, and
`kernel.input_gradient(x, x2, weights)` the gradient of that product with respect to `x`, which is
all that an attack without training needs.

Which one? `TwoLayerNTK` when one trained layer and a formula of one line will do;
`FullyConnected` for networks of any depth, with biases; `Convolutional` when the input is an image
and its layout should count; `Stax` for every other architecture, through neural-tangents.

`empirical_ntk(f, params, x)` is the kernel of a network of finite width at its present parameters.
`gram(kernel, x)` builds the matrix of any of them in tiles: bounded in memory, on disk if wanted.
"""

from ntklab.kernels.analytic import FullyConnected as FullyConnected
from ntklab.kernels.analytic import TwoLayerNTK as TwoLayerNTK
from ntklab.kernels.base import Kernel as Kernel
from ntklab.kernels.convolutional import Convolutional as Convolutional
from ntklab.kernels.dual import erf_duals as erf_duals
from ntklab.kernels.dual import kappa0 as kappa0
from ntklab.kernels.dual import kappa1 as kappa1
from ntklab.kernels.dual import leaky_relu_duals as leaky_relu_duals
from ntklab.kernels.dual import relu_duals as relu_duals
from ntklab.kernels.empirical import EmpiricalNTK as EmpiricalNTK
from ntklab.kernels.empirical import JacobianOperator as JacobianOperator
from ntklab.kernels.empirical import empirical_ntk as empirical_ntk
from ntklab.kernels.empirical import jacobian_operator as jacobian_operator
from ntklab.kernels.empirical import ntk_function_product as ntk_function_product
from ntklab.kernels.empirical import ntk_vector_product as ntk_vector_product
from ntklab.kernels.gram import GramPlan as GramPlan
from ntklab.kernels.gram import gram as gram
from ntklab.kernels.gram import plan_gram as plan_gram
from ntklab.kernels.stax import Stax as Stax
