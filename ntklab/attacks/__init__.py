"""Attacks: functions of a logits function, so that every predictor is attacked by the same code.

`attack = pgd(eps=8/255)` makes an attack; `result = attack(logits_fn, x, y, key)` runs it on a
batch and returns an `AttackResult`. `logits_fn` is a network, a kernel machine or any other
callable from `(b, ...)` to `(b, k)`, or to `(b,)` for a binary machine. eps is in the units of
`bounds`: normalisation belongs to the model.
"""

from ntklab.attacks import linearised as linearised
from ntklab.attacks import losses as losses
from ntklab.attacks import projections as projections
from ntklab.attacks import training_free as training_free
from ntklab.attacks._flags import random_noise as random_noise
from ntklab.attacks._problem import Attack as Attack
from ntklab.attacks._problem import AttackResult as AttackResult
from ntklab.attacks._report import RobustnessReport as RobustnessReport
from ntklab.attacks._report import RobustnessWarning as RobustnessWarning
from ntklab.attacks.adaptive import SoftGate as SoftGate
from ntklab.attacks.adaptive import TransferAttack as TransferAttack
from ntklab.attacks.adaptive import averaged_gradient as averaged_gradient
from ntklab.attacks.adaptive import borrowed_gradient as borrowed_gradient
from ntklab.attacks.adaptive import estimated_gradient as estimated_gradient
from ntklab.attacks.adaptive import transfer as transfer
from ntklab.attacks.apgd import apgd as apgd
from ntklab.attacks.apgd import apgd_targeted as apgd_targeted
from ntklab.attacks.evaluate import evaluate_robustness as evaluate_robustness
from ntklab.attacks.evaluate import standard_suite as standard_suite
from ntklab.attacks.gradient import GradientAttack as GradientAttack
from ntklab.attacks.gradient import fgsm as fgsm
from ntklab.attacks.gradient import mi_fgsm as mi_fgsm
from ntklab.attacks.gradient import pgd as pgd
from ntklab.attacks.gradient_free import QueryCurve as QueryCurve
from ntklab.attacks.gradient_free import SearchAttack as SearchAttack
from ntklab.attacks.gradient_free import random_block as random_block
from ntklab.attacks.gradient_free import square as square
from ntklab.attacks.losses import correct as correct
from ntklab.attacks.losses import cross_entropy as cross_entropy
from ntklab.attacks.losses import dlr as dlr
from ntklab.attacks.losses import margin as margin
from ntklab.attacks.steps import MomentumStep as MomentumStep
from ntklab.attacks.steps import SteepestStep as SteepestStep
from ntklab.attacks.training_free import TrainingFreeAttack as TrainingFreeAttack
