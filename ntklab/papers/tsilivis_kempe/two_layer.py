"""The finite two-layer network of the supplement (eq. 28) and its full-batch training."""

from functools import partial

import jax
import jax.numpy as jnp

from ntklab._typing import Array, Float, Int, Key


def initialise(
    key: Key[Array, ""], width: int, d: int, k: int, std: float
) -> tuple[Float[Array, "m d"], Float[Array, "m k"]]:
    """First-layer weights W, normal of standard deviation `std`, and the frozen signs A.

    Args:
      key: randomness.
      width: hidden units m.
      d: pixels times channels.
      k: outputs.
      std: standard deviation of W; the supplement has 0.01.
    """
    key_w, key_a = jax.random.split(key)
    w = std * jax.random.normal(key_w, (width, d))
    return w, jax.random.rademacher(key_a, (width, k), jnp.float32)


def network(
    w: Float[Array, "m d"], a: Float[Array, "m k"], x: Float[Array, "b ..."]
) -> Float[Array, "b k"]:
    r"""`f(x) = A^T max(W x, 0) / sqrt(m)`, eq. 28 (the supplement prints A for A^T).

    Cost: `b m d` multiplications.

    >>> import jax.numpy as jnp
    >>> print(network(jnp.eye(2), jnp.ones((2, 1)), jnp.array([[2.0, -1.0]])))
    [[1.4142135]]
    """
    hidden = jax.nn.relu(x.reshape(len(x), -1) @ w.T)
    return hidden @ a / jnp.sqrt(jnp.float32(len(w)))


def moved(
    params: tuple[Float[Array, "m d"], Float[Array, "m d"], Float[Array, "m k"]],
    x: Float[Array, "b ..."],
) -> Float[Array, "b k"]:
    """`f - f_0`: what training added. `params` is W now, W at the start, A."""
    w, w_0, a = params
    return network(w, a, x) - network(w_0, a, x)


@partial(jax.jit, static_argnames="centred")
def train(
    w: Float[Array, "m d"],
    w_0: Float[Array, "m d"],
    a: Float[Array, "m k"],
    x: Float[Array, "n ..."],
    targets: Float[Array, "n k"],
    learning_rate: float | Float[Array, ""],
    steps: int | Int[Array, ""],
    *,
    centred: bool,
) -> Float[Array, "m d"]:
    r"""Full-batch gradient descent on `1/(2n) sum_i |f(x_i) - y_i|^2`; only W moves.

    With this loss `steps` steps are the time `t = learning_rate * steps / n` of gradient flow on
    the sum over images, which is what eq. 3 describes with lambda = 1.

    Args:
      w: W to start from.
      w_0: W at initialisation.
      a: signs A.
      x: images.
      targets: one-hot rows.
      learning_rate: size of a step.
      steps: how many.
      centred: fit `f - f_0` to the targets instead of `f`.

    Cost: `4 n m d` multiplications a step; memory for two `(n, m)` arrays.
    """
    x = x.reshape(len(x), -1)
    shift = network(w_0, a, x) if centred else jnp.zeros_like(targets)

    def loss(w):
        return 0.5 * ((network(w, a, x) - shift - targets) ** 2).sum(axis=1).mean()

    return jax.lax.fori_loop(0, steps, lambda _, w: w - learning_rate * jax.grad(loss)(w), w)


def flipped_gates(
    w: Float[Array, "m d"], w_0: Float[Array, "m d"], x: Float[Array, "n ..."]
) -> float:
    """Share of (image, hidden unit) pairs whose ReLU changed between on and off.

    Cost: `2 n m d` multiplications; memory for two `(n, m)` arrays.

    >>> import jax.numpy as jnp
    >>> w_0, w = jnp.array([[1.0], [1.0]]), jnp.array([[1.0], [-1.0]])
    >>> flipped_gates(w, w_0, jnp.ones((3, 1)))
    0.5
    """
    x = x.reshape(len(x), -1)
    return float(jnp.mean((x @ w.T > 0) != (x @ w_0.T > 0)))


def kernel_distance(
    w: Float[Array, "m d"], w_0: Float[Array, "m d"], x: Float[Array, "n ..."]
) -> float:
    r"""`1 - cos` between the empirical NTKs at W and at W_0, on the images x.

    Of one output with itself the kernel is `x_i . x_j` times the share of units that are on for
    both images, since A is +1 or -1; it is the same for all outputs.

    Cost: `2 n m d + 2 n^2 m` multiplications; memory for two `(n, m)` and four `(n, n)` arrays.

    >>> import jax.numpy as jnp
    >>> abs(kernel_distance(jnp.eye(2), jnp.eye(2), jnp.eye(2))) < 1e-6
    True
    """
    x = x.reshape(len(x), -1)

    def gram(w):
        gates = (x @ w.T > 0).astype(x.dtype)
        return (x @ x.T) * (gates @ gates.T) / len(w)

    k, k_0 = gram(w), gram(w_0)
    return float(1 - (k * k_0).sum() / (jnp.linalg.norm(k) * jnp.linalg.norm(k_0)))
