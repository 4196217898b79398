"""The kernel of a network at its present parameters.

`capture` reads a network as a list of equations, `plan` decides which rule each parameter takes,
`prepare` captures a block of examples, `rules` contract two blocks, `assemble` puts the matrix
together; `ntk` is what one calls, `explain` its table, and `operators` do without the matrix.
"""

from ntklab.kernels.empirical.ntk import EmpiricalNTK as EmpiricalNTK
from ntklab.kernels.empirical.ntk import empirical_ntk as empirical_ntk
from ntklab.kernels.empirical.operators import JacobianOperator as JacobianOperator
from ntklab.kernels.empirical.operators import jacobian_operator as jacobian_operator
from ntklab.kernels.empirical.operators import ntk_function_product as ntk_function_product
from ntklab.kernels.empirical.operators import ntk_vector_product as ntk_vector_product
