r"""A linearised network and its exact gradient flow on the squared error."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._common import check_batch, check_finite, float64
from ntklab._typing import Array, Float, Number
from ntklab.kernels.empirical import empirical_ntk
from ntklab.predictors.flow import Solution, check_flow_settings, gradient_flow
from ntklab.predictors.gram_matrix import engine_of, gram_matrix
from ntklab.predictors.kernel_regression import check_targets, check_time
from ntklab.predictors.linear_model import LinearModel, linear_logits

MODES = ("linear", "centred")
_BLOCK = 128


@dataclasses.dataclass(frozen=True, eq=False)
class FittedLinearisedNetwork:
    r"""What `LinearisedNetwork.fit` returns: the flow, at every time that its solver has.

    Attributes:
      network: the linearised network.
      x: training inputs, `(n, ...)`.
      initial: $f_{lin}$ at time 0 on them, shape of the targets; zeros when centred.
      solver: the one that was used, see `KernelRegression`.
      solution: what it computed; its coefficients are those of example and output together.
    """

    network: "LinearisedNetwork"
    x: Array
    initial: np.ndarray
    solver: str
    solution: Solution

    @property
    def condition_number(self) -> float:
        r"""Of $\Theta + \rho I$, `(n k, n k)`."""
        return self.solution.condition_number

    def coefficients(self, t: Number = math.inf) -> np.ndarray:
        r"""$\alpha(t)$ with $\delta(t) = J(\mathcal{X})^\top \alpha(t)$: float64, as the targets.

        Cost and errors: those of `FittedKernelRegression.coefficients` for `n k` examples.
        """
        flat = self.solution.coefficients(self.network.learning_rate * check_time(t))
        return flat.reshape(self.initial.shape)

    def displacement(self, t: Number = math.inf) -> Any:
        r"""The parameters' displacement $\delta(t) = p(t) - p_0$, a pytree like them.

        Args:
          t: time, at least 0; infinity by default.

        Returns:
          The displacement in the precision of the parameters; its terms cancel where $\Theta$ is
          ill-conditioned, and float32 then shows.

        Cost: one backward pass over the training set, 128 examples at a time.

        Raises:
          ValueError: a time that `coefficients` refuses.
        """
        f, params = _as_partial(self.network.f), self.network.params
        total = jax.tree.map(jnp.zeros_like, params)
        alpha = self.coefficients(t).astype(self.x.dtype)
        size = min(_BLOCK, len(self.x))
        for start in range(0, len(self.x), size):
            rows = np.arange(start, start + size) % len(self.x)
            # The last block is filled up with examples of weight zero.
            fill = (np.arange(start, start + size) < len(self.x)).astype(alpha.dtype)
            weights = alpha[rows] * fill.reshape(-1, *[1] * (alpha.ndim - 1))
            total = _add_pull_back(total, f, params, self.x[rows], jnp.asarray(weights))
        return total

    def logits_fn(self, t: Number = math.inf) -> jax.tree_util.Partial:
        r"""The predictor $f_t$ as a logits function: `Partial(linear_logits, model)`.

        Args:
          t: time, at least 0; infinity by default.

        Returns:
          A pytree and function `(b, ...) -> (b, k)` or `(b,)`, one forward-mode derivative a call.

        Cost and errors: those of `displacement`, once.
        """
        return self.network.logits_fn(self.displacement(t))

    def predict(
        self, x: Float[Array, "b ..."], times: Iterable[Number], ntk: Any = None
    ) -> Float[Array, "t b ..."]:
        r"""The scores $f_t(x)$ at many times.

        Args:
          x: inputs, `(b, ...)`.
          times: times, at least 0; infinity is allowed.
          ntk: $\Theta(x, \mathcal{X})$ when it is there already, `(b, n, k, k)` or `(b, n)`: the
            scores are then $f_{lin,0}(x) + \Theta(x, \mathcal{X})\,\alpha(t)$ in float64, without
            the displacement.

        Returns:
          `(len(times), b)` or `(len(times), b, k)`, in the dtype of `x`.

        Cost: a displacement and a derivative a time; with `ntk` two operations an entry a time.

        Raises:
          ValueError: no times, one that `coefficients` refuses, an `ntk` of another shape.
        """
        check_batch("x", x)
        times = list(times)
        if not times:
            raise ValueError("times is empty: give at least one, for example [float('inf')].")
        if ntk is None:
            return jnp.stack([self.logits_fn(t)(x) for t in times])
        start = np.asarray(self.network.logits_fn()(x), np.float64)
        cross = _as_matrix(ntk, start.shape, self.initial.shape)
        moved = [cross @ self.coefficients(t).ravel() for t in times]
        return jnp.asarray(
            np.stack([start + m.reshape(start.shape) for m in moved]).astype(x.dtype)
        )


@dataclasses.dataclass(frozen=True, eq=False)
class LinearisedNetwork:
    r"""A network replaced by its tangent in the parameters, trained by gradient flow.

    $$f_{lin}(x) = f(p_0, x) + J(x)\,(p - p_0), \qquad J(x) = \partial f(p_0, x) / \partial p,$$

    and without the first term in the mode `"centred"`. The flow
    $\dot p = -\lambda\,\big(J(\mathcal{X})^\top (f_{lin}(\mathcal{X}) - \mathcal{Y}) +
    \rho\,(p - p_0)\big)$ is solved exactly: with $\Theta = J(\mathcal{X}) J(\mathcal{X})^\top$,

    $$p(t) - p_0 = J(\mathcal{X})^\top (\Theta + \rho I)^{-1}
      \big(I - e^{-\lambda (\Theta + \rho I) t}\big)\,(\mathcal{Y} - f_{lin, 0}(\mathcal{X})).$$

    The loss is half of a sum over examples and outputs, as for `KernelRegression`.

    Args:
      f: the network, `f(params, x) -> (b, k)` or `(b,)`. It must score every example by itself, so
        batch normalisation keeps its statistics. Give them as `Partial(apply, statistics)` with
        `apply(statistics, params, x)`: attacks that are compiled for one network then serve all
        others of its shape.
      params: $p_0$, a pytree of floating-point arrays.
      mode: `"linear"` or `"centred"`.
      ridge: $\rho \ge 0$, the weight of $\tfrac12 |p - p_0|^2$.
      learning_rate: $\lambda > 0$; only `learning_rate * t` matters.
      solver: see `KernelRegression`, as are `engine` and `dtype`; its sizes count `n k`.
      engine: `"auto"`, `"scipy"` or `"jax"`.
      dtype: `"float64"` or `"float32"`, in which the kernel matrix is decomposed.

    Raises:
      TypeError: parameters that are not floating point.
      ValueError: NaN parameters, a setting out of range.

    Source: Lee et al. (2019), "Wide neural networks of any depth evolve as linear models",
    eqs. 5 to 11; Loo et al. (2022), section 2, for centred.

    >>> import jax.numpy as jnp
    >>> network = LinearisedNetwork(lambda p, x: jnp.tanh(x @ p), jnp.zeros(2), learning_rate=2.0)
    >>> fitted = network.fit(jnp.eye(2), jnp.array([1.0, -1.0]), ntk=jnp.eye(2))
    >>> print(fitted.displacement(), fitted.logits_fn()(jnp.ones((1, 2))))
    [ 1. -1.] [0.]

    From a checkpoint to its kernel in three lines; NumPy's archive here, and any other way to a
    pytree of arrays, such as `flax.serialization.msgpack_restore`, will do:

    >>> import io, numpy as np
    >>> checkpoint = io.BytesIO()  # stands for the path of a file
    >>> np.savez(checkpoint, w=np.ones((2, 3), "f"), v=np.ones((3, 2), "f"))
    >>> place = checkpoint.seek(0)
    >>> params = dict(np.load(checkpoint))
    >>> f = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
    >>> empirical_ntk(f, params, jnp.eye(2)).shape
    (2, 2, 2, 2)
    """

    f: Callable
    params: Any
    mode: str = "linear"
    ridge: Number = 0.0
    learning_rate: Number = 1.0
    solver: str = "auto"
    engine: str = "auto"
    dtype: str = "float64"

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f'mode must be "linear" or "centred", got {self.mode!r}.')
        check_flow_settings(self.ridge, self.learning_rate, self.solver, self.engine, self.dtype)
        for leaf in jax.tree.leaves(self.params):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    f"params must be floating point, got {jnp.result_type(leaf)}: leave counters "
                    "and statistics to `f`."
                )
            check_finite("params", leaf)

    def logits_fn(self, displacement: Any = None) -> jax.tree_util.Partial:
        r"""The scores at $p_0 + \delta$ as a logits function: `Partial(linear_logits, model)`.

        Args:
          displacement: $\delta$, a pytree like the parameters; without it zero.

        Returns:
          A pytree and function `(b, ...) -> (b, k)` or `(b,)`.

        Raises:
          ValueError: a displacement of another structure or of other shapes.
        """
        if displacement is None:
            displacement = jax.tree.map(jnp.zeros_like, self.params)
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (displacement, self.params)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"displacement must be like the parameters, got shapes {shapes[0]}.")
        centred = self.mode == "centred"
        model = LinearModel(_as_partial(self.f), self.params, displacement, centred)
        return jax.tree_util.Partial(linear_logits, model)

    def fit(
        self, x: Float[Array, "n ..."], targets: Float[Array, "n ..."], ntk: Any = None
    ) -> FittedLinearisedNetwork:
        r"""Solve the flow on a training set.

        Args:
          x: training inputs, `(n, ...)`.
          targets: shape of the network's scores, `(n, k)` or `(n,)`; floating point.
          ntk: the empirical kernel matrix $\Theta$ of `x`, `(n, n, k, k)` or `(n, n)`, when it is
            there already; otherwise `kernels.empirical_ntk(f, params, x, mode="full")`.

        Returns:
          The fitted network.

        Cost: the kernel matrix, and `KernelRegression.fit` for `n k` examples.

        Raises:
          TypeError: inputs, targets or `ntk` that are not floating point.
          ValueError: NaN or infinities, shapes that do not fit, a matrix that is not symmetric and
            positive semidefinite.
        """
        check_batch("x", x)
        check_targets(targets, len(x))
        parts = [self.logits_fn()(x[i : i + _BLOCK]) for i in range(0, len(x), _BLOCK)]
        initial = np.concatenate([np.asarray(p, np.float64) for p in parts])
        if initial.shape != np.shape(targets):
            raise ValueError(
                f"targets must have the shape of the network's scores, {initial.shape}, got "
                f"{np.shape(targets)}."
            )
        check_finite("the network's scores", initial)
        left = (np.asarray(targets, np.float64) - initial).reshape(-1, 1)
        engine = engine_of(self.engine)
        ntk = _ntk_of(self.f, self.params, x, initial.ndim) if ntk is None else ntk
        square = _as_matrix(ntk, initial.shape, initial.shape)
        matrix = gram_matrix(square, len(left), self.dtype, engine)
        solver, solution = gradient_flow(matrix, left, float(self.ridge), self.solver)
        return FittedLinearisedNetwork(self, x, initial, solver, solution)


def _as_partial(f: Callable) -> jax.tree_util.Partial:
    """A network as a pytree: the function is static, what it carries are leaves."""
    return f if isinstance(f, jax.tree_util.Partial) else jax.tree_util.Partial(f)


def _ntk_of(f: Callable, params: Any, x: Array, ndim: int) -> Array:
    """The empirical kernel, `(n, n, k, k)`, or `(n, n)` for scores `(n,)`."""
    if ndim == 2:
        return empirical_ntk(f, params, x)
    return empirical_ntk(jax.tree_util.Partial(_column, _as_partial(f)), params, x)[:, :, 0, 0]


def _column(f: Callable, params: Any, x: Array) -> Array:
    return f(params, x)[:, None]


def _as_matrix(ntk: Any, left: tuple[int, ...], right: tuple[int, ...]) -> Any:
    """`(b, n, k, k)` as `(b k, n k)`, example-major; `(b, n)` as it is."""
    outputs = left[1:]
    wanted = (left[0], right[0], *outputs, *outputs)
    if np.shape(ntk) != wanted:
        raise ValueError(
            f"ntk must have shape {wanted} for scores {left} and {right}, got {np.shape(ntk)}; "
            'an empirical kernel has it with mode="full".'
        )
    if not outputs:
        return ntk
    with float64():
        return ntk.transpose(0, 2, 1, 3).reshape(math.prod(left), math.prod(right))


@partial(jax.jit, donate_argnums=0)
def _add_pull_back(total: Any, f: Any, params: Any, x: Array, weights: Array) -> Any:
    """`total` plus one block's part of `J^T alpha`."""
    _, pull_back = jax.vjp(lambda p: f(p, x), params)
    return jax.tree.map(jnp.add, total, pull_back(weights)[0])
