r"""The networks of the papers, in flax.linen, under the names that the papers give them.

`FC` and `TwoLayer` are fully connected; `MnistCNN` and `CNNMega` are the two convolutional
networks of Tsilivis and Kempe, `ToyCNN` is small enough for a laptop; `ResNet8`, `ResNet20` and
`ResNet18` are residual networks for 32x32 images. All are called as `model.apply(variables, x,
train=False)` on a batch of floating-point inputs, and return logits `(b, outputs)`; `train`
matters to batch normalisation alone.

`as_function(model, variables)` makes of a network what kernels and predictors take: a function
`f(params, x)` and its parameters. `logits_fn(model, variables)` makes what attacks take.

Which one? `FC` with `parameterisation="ntk"` to compare with `ntklab.kernels.FullyConnected`;
`TwoLayer` for laziness by hand; `ToyCNN` for whole experiments on a CPU; `CNNMega` and the
residual networks where a GPU is at hand.
"""

from ntklab.nets.cnn import CNNMega as CNNMega
from ntklab.nets.cnn import MnistCNN as MnistCNN
from ntklab.nets.cnn import ToyCNN as ToyCNN
from ntklab.nets.fully_connected import FC as FC
from ntklab.nets.fully_connected import TwoLayer as TwoLayer
from ntklab.nets.functions import as_function as as_function
from ntklab.nets.functions import logits_fn as logits_fn
from ntklab.nets.layers import Softplus as Softplus
from ntklab.nets.residual import ResNet as ResNet
from ntklab.nets.residual import ResNet8 as ResNet8
from ntklab.nets.residual import ResNet18 as ResNet18
from ntklab.nets.residual import ResNet20 as ResNet20
