"""Predictors: each is fitted to data and gives a logits function, the thing that is attacked.

`KernelRegression` is gradient flow on a kernel, at every time and with a ridge. Its logits
function is a `KernelMachine` inside a `jax.tree_util.Partial`: code that is compiled for one
machine serves all others of equal shapes. `KernelSVM` has a margin loss in place of the squared
error; it gives the same kind of logits function. `LinearisedNetwork` is a network's tangent at
given parameters, with its exact gradient flow; its logits function is one derivative of the
network. `learnabilities` and `eigenlearning` say which part of a target a training set lets a
kernel learn.
"""

from ntklab.predictors.kernel_machine import KernelMachine as KernelMachine
from ntklab.predictors.kernel_machine import class_gradients as class_gradients
from ntklab.predictors.kernel_machine import kernel_logits as kernel_logits
from ntklab.predictors.kernel_regression import FittedKernelRegression as FittedKernelRegression
from ntklab.predictors.kernel_regression import KernelRegression as KernelRegression
from ntklab.predictors.learnability import Eigenlearning as Eigenlearning
from ntklab.predictors.learnability import eigenlearning as eigenlearning
from ntklab.predictors.learnability import learnabilities as learnabilities
from ntklab.predictors.linear_model import LinearModel as LinearModel
from ntklab.predictors.linear_model import linear_logits as linear_logits
from ntklab.predictors.linearised import FittedLinearisedNetwork as FittedLinearisedNetwork
from ntklab.predictors.linearised import LinearisedNetwork as LinearisedNetwork
from ntklab.predictors.stored import fit_stored as fit_stored
from ntklab.predictors.svm import FittedKernelSVM as FittedKernelSVM
from ntklab.predictors.svm import KernelSVM as KernelSVM
