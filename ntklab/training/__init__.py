r"""One engine for every training run.

    trained = train(nets.ToyCNN(), (x, y), [Phase(10, PGD(eps=0.1, steps=7))], batch_size=100)
    trained.logits_fn()          what attacks take
    trained.metrics              a row an epoch

A run is a list of `Phase`s, data that `dataclasses.asdict` writes into a record: which examples a
batch is learned on (`Standard`, `FGSM`, `RSFGSM`, `PGD`, `TRADES`, `Free`, `DoubleStep`), which
function is trained (the network, its tangent, its tangent without the initial function), the
learning rate (`constant`, `steps_down`, `cyclic`), and what batch normalisation does. Give `folder`
and `resume=True`, and a killed run goes on as if nothing had happened.
"""

from ntklab.training.augment import CropFlip as CropFlip
from ntklab.training.forward import Forward as Forward
from ntklab.training.forward import Weights as Weights
from ntklab.training.loop import train as train
from ntklab.training.phase import Phase as Phase
from ntklab.training.phase import Schedule as Schedule
from ntklab.training.phase import constant as constant
from ntklab.training.phase import cyclic as cyclic
from ntklab.training.phase import steps_down as steps_down
from ntklab.training.probe import KernelProbe as KernelProbe
from ntklab.training.report import Diverged as Diverged
from ntklab.training.result import Trained as Trained
from ntklab.training.strategies import FGSM as FGSM
from ntklab.training.strategies import PGD as PGD
from ntklab.training.strategies import RSFGSM as RSFGSM
from ntklab.training.strategies import STRATEGIES as STRATEGIES
from ntklab.training.strategies import TRADES as TRADES
from ntklab.training.strategies import DoubleStep as DoubleStep
from ntklab.training.strategies import Free as Free
from ntklab.training.strategies import Standard as Standard
