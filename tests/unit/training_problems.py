"""What the tests of the training loop share: a small network, data, phases."""

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import nets
from ntklab import training as tr

NET = nets.FC(widths=(16,), outputs=3)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(70, 6)), jnp.float32)
Y = jnp.asarray(np.argmax(X[:, :3], 1), jnp.int32)
PLAIN = tr.Phase(3, learning_rate=tr.steps_down(0.3, (2,)))
SPAWN = (
    tr.Phase(2, tr.PGD(0.05, 2), learning_rate=tr.constant(0.2)),
    tr.Phase(1.5, tr.Free(0.05, 2), model="centred", learning_rate=tr.constant(0.1)),
    tr.Phase(1, model="linear", learning_rate=tr.cyclic(0.1, 0.5, 1)),
)


def train(phases=(PLAIN,), **options):
    settings = {"batch_size": 20, "show_progress": False} | options
    return tr.train(settings.pop("module", NET), settings.pop("data", (X, Y)), phases, **settings)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def rows(result):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.metrics]
