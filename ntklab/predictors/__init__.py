"""Predictors: each is fitted to data and gives a logits function, the thing that is attacked.

`KernelRegression` is gradient flow on a kernel, at every time and with a ridge. Its logits
function is a `KernelMachine` inside a `jax.tree_util.Partial`: code that is compiled for one
machine serves all others of equal shapes.
"""

from ntklab.predictors.kernel_machine import KernelMachine as KernelMachine
from ntklab.predictors.kernel_machine import class_gradients as class_gradients
from ntklab.predictors.kernel_machine import kernel_logits as kernel_logits
from ntklab.predictors.kernel_regression import FittedKernelRegression as FittedKernelRegression
from ntklab.predictors.kernel_regression import KernelRegression as KernelRegression
