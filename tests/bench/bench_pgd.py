"""PGD-20 on the CIFAR-10 network of Tsilivis & Kempe: against its own passes, a scan, foolbox."""

import importlib.util
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from run import Pair

from ntklab import nets
from ntklab.attacks import _path, cross_entropy, pgd

IMAGES, STEPS, EPS = 256, 20, 8 / 255
ATTACK = pgd(EPS, steps=STEPS, step_size=2 / 255, random_start=False, keep="last")
CAREFUL = pgd(EPS, steps=STEPS, step_size=2 / 255)


@jax.jit
def one_pass(machine, x, y):
    """Forward and input gradient, and the least that can be done with it."""
    gradient = jax.grad(lambda z: cross_entropy(machine(z), y).sum())(x)
    return x + 1e-9 * gradient


def own_passes(machine, x, y):
    """What PGD cannot do without."""
    for _ in range(STEPS):
        x = one_pass(machine, x, y)
    return x


def ours(machine, x, y):
    return ATTACK(machine, x, y).x_adv


def careful(machine, x, y):
    """The same with a random start and best-tracking: two more forward passes."""
    return CAREFUL(machine, x, y, jax.random.key(0)).x_adv


def scanned(machine, x, y):
    """The same walk as one `lax.scan`, as on a GPU."""
    task = _path.Task(machine, x, y, None, EPS, 2 / 255, (0.0, 1.0))
    state = _path.begin(ATTACK.aim, x, jnp.float32)
    state = _path._many_steps(task, state, steps=STEPS, scan=True, aim=ATTACK.aim)
    return _path.visit(task, state, aim=ATTACK.aim).kept


def foolbox_pgd(machine, x, y):
    """foolbox, which is eager, on a jitted model."""
    import foolbox

    model = foolbox.JAXModel(jax.jit(machine), bounds=(0, 1), data_format="channels_last")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=2 / 255, steps=STEPS, random_start=False)
    return attack.run(model, x, foolbox.criteria.Misclassification(y), epsilon=EPS)


def agree(a, b):
    """Equal but for signs of gradients that round to either side of zero."""
    return float(np.isclose(a, b, atol=1e-3).mean()) > 0.98


def pairs():
    """One network, one batch; bounds where the book promises them."""
    model = nets.CNNMega()
    x = jax.random.uniform(jax.random.key(0), (IMAGES, 32, 32, 3))
    y = jnp.arange(IMAGES) % 10
    machine = nets.logits_fn(model, model.init(jax.random.key(1), x[:1]))
    call = (machine, x, y)
    name = f"PGD-{STEPS}, CNNMega, {IMAGES} images"
    passes = partial(own_passes, *call)
    yield Pair(f"{name} / its own passes", partial(ours, *call), passes, 1.1)
    yield Pair(f"{name}, best kept / its own passes", partial(careful, *call), passes, 1.2)
    yield Pair(f"{name} / scanned", partial(ours, *call), partial(scanned, *call), None, agree)
    if importlib.util.find_spec("foolbox"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = partial(foolbox_pgd, *call)
            yield Pair(f"{name} / foolbox, jitted model", partial(ours, *call), other, 1.0, agree)
