"""Measures of moving kernels: by hand, by brute force in numpy, invariances, limits, bad input."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import dynamics
from ntklab._common import float64

N, K = 6, 3
SHAPES = ["matrix", "stack", "full"]
PAIRED = [dynamics.similarity, dynamics.distance, dynamics.rotation]


def features(seed, p=40):
    """Gradients of K outputs on N examples, `(N, K, p)`."""
    return np.random.default_rng(seed).standard_normal((N, K, p))


def kernel_of(phi, shape):
    full = np.einsum("icp,jdp->ijcd", phi, phi)
    shapes = {
        "matrix": np.einsum("ijcc->ij", full),
        "stack": np.einsum("ijcc->ijc", full),
        "full": full,
    }
    return jnp.asarray(shapes[shape], jnp.result_type(float))


def brute_matrix(kernel):
    """Entry by entry, what `as_matrix` states."""
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim == 2:
        return kernel
    n, m, k = kernel.shape[:3]
    matrix = np.zeros((n * k, m * k))
    for i, j, c, d in itertools.product(range(n), range(m), range(k), range(k)):
        if kernel.ndim == 4:
            matrix[i * k + c, j * k + d] = kernel[i, j, c, d]
        elif c == d:
            matrix[i * k + c, j * k + c] = kernel[i, j, c]
    return matrix


def brute_cosine(a, b):
    a, b = brute_matrix(a), brute_matrix(b)
    return np.trace(a @ b.T) / np.sqrt(np.trace(a @ a.T) * np.trace(b @ b.T))


def brute_top(matrix, r, bottom=False):
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(values if bottom else -values)[:r]
    return sum(values[i] * np.outer(vectors[:, i], vectors[:, i]) for i in order)


def turned_kernel(angle):
    """Eigenvalues 4, 3, 2, 1; of the eigenvectors, those of 3 and 2 turned by the angle."""
    q = np.eye(4)
    q[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return jnp.asarray(q @ np.diag([4.0, 3.0, 2.0, 1.0]) @ q.T, jnp.float32)


# --- shapes


@pytest.mark.parametrize("shape", SHAPES)
def test_flattening_is_example_major(shape):
    kernel = kernel_of(features(0), shape)
    np.testing.assert_array_equal(dynamics.as_matrix(kernel), brute_matrix(kernel).astype("f4"))


def test_flattened_rectangular_kernel_multiplies_targets_example_major():
    full = jnp.asarray(np.random.default_rng(1).standard_normal((2, 4, 3, 3)), jnp.float32)
    y = jnp.arange(12.0).reshape(4, 3)
    product = (dynamics.as_matrix(full) @ y.reshape(-1)).reshape(2, 3)
    np.testing.assert_allclose(product, jnp.einsum("ijcd,jd->ic", full, y), rtol=1e-5)


def test_class_wise_kernels_and_measures():
    full, other = kernel_of(features(2), "full"), kernel_of(features(3), "full")
    stack = dynamics.per_class(full)
    np.testing.assert_array_equal(stack, kernel_of(features(2), "stack"))
    each = dynamics.class_wise(dynamics.similarity)(full, dynamics.per_class(other))
    by_hand = [brute_cosine(full[:, :, c, c], other[:, :, c, c]) for c in range(K)]
    np.testing.assert_allclose(each, by_hand, rtol=1e-5)
    polar = functools.partial(dynamics.polar, top=2)
    assert dynamics.class_wise(polar)(full, other).angle.shape == (K,)


def test_centring_removes_the_mean_of_every_output():
    phi = features(4)
    centred = phi - phi.mean(axis=0)
    for shape in SHAPES:
        got = dynamics.centre(kernel_of(phi, shape))
        np.testing.assert_allclose(got, kernel_of(centred, shape), atol=2e-5)


# --- two kernels


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("centred", [False, True])
def test_similarity_is_the_papers_formula(shape, centred):
    phi, psi = features(5), features(6)
    a, b = kernel_of(phi, shape), kernel_of(psi, shape)
    if centred:
        phi, psi = phi - phi.mean(axis=0), psi - psi.mean(axis=0)
    cosine = brute_cosine(kernel_of(phi, shape), kernel_of(psi, shape))
    similarity, distance, rotation = (measure(a, b, centred=centred) for measure in PAIRED)
    np.testing.assert_allclose(similarity, cosine, rtol=1e-5)
    np.testing.assert_allclose(distance, 1 - cosine, rtol=1e-5)
    np.testing.assert_allclose(rotation, np.arccos(cosine), rtol=1e-5)
    velocity = dynamics.velocity(a, b, 0.4, centred=centred)
    np.testing.assert_allclose(velocity, (1 - cosine) / 0.4, rtol=1e-5)


def test_centred_similarity_does_not_see_a_common_mean():
    phi = features(7)
    mean = 3 * np.random.default_rng(8).standard_normal((1, K, 40))
    for shape in SHAPES:
        pair = kernel_of(phi, shape), kernel_of(phi + mean, shape)
        assert dynamics.distance(*pair, centred=True) < 1e-9
        assert dynamics.distance(*pair) > 0.01


@pytest.mark.parametrize("angle", [0.0, 1e-3, 0.3, 2.5, np.pi])
def test_rotation_by_a_known_angle(angle):
    start = jnp.array([[3.0, 0.0], [0.0, 0.0]])
    end = jnp.array([[2 * np.cos(angle), 2 * np.sin(angle)], [0.0, 0.0]])
    np.testing.assert_allclose(dynamics.rotation(start, end), angle, rtol=1e-5, atol=3e-7)
    # One minus a cosine keeps no digit of 5e-7 in float32; half a squared chord keeps all.
    expected = 2 * np.sin(angle / 2) ** 2
    np.testing.assert_allclose(dynamics.distance(start, end), expected, rtol=2e-5, atol=1e-13)
    np.testing.assert_allclose(dynamics.similarity(start, end), np.cos(angle), atol=1e-6)


@pytest.mark.parametrize("measure", PAIRED)
def test_scale_and_order_of_examples_are_not_seen(measure):
    a, b = kernel_of(features(9), "full"), kernel_of(features(10), "full")
    value = measure(a, b)
    np.testing.assert_allclose(measure(1e25 * a, 1e-25 * b), value, rtol=1e-5)
    order = np.random.default_rng(11).permutation(N)
    shuffled = (k[order][:, order] for k in (a, b))
    np.testing.assert_allclose(measure(*shuffled), value, rtol=1e-5)
    np.testing.assert_allclose(measure(b, a), value, rtol=1e-6)


def test_rectangular_kernels_have_a_distance():
    a, b = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[1.0, 1.0, 0.0]])
    np.testing.assert_allclose(dynamics.distance(a, b), 1 - np.sqrt(0.5), rtol=1e-6)


def test_gradient_of_the_distance_is_that_of_the_formula():
    with float64():
        a, b = kernel_of(features(12), "matrix"), kernel_of(features(13), "matrix")
        gradient = jax.jit(jax.grad(dynamics.distance))(a, b)
        u, v = np.asarray(a), np.asarray(b)
        nu, nv = np.linalg.norm(u), np.linalg.norm(v)
        by_hand = -(v / nv - (u * v).sum() / (nu * nv) * u / nu) / nu
        np.testing.assert_allclose(gradient, by_hand, rtol=1e-10)
        assert jnp.isfinite(jax.grad(dynamics.rotation)(a, a)).all()


def test_clocks_of_the_velocity():
    a, b = kernel_of(features(14), "matrix"), kernel_of(features(15), "matrix")
    before = {"w": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
    after = {"w": jnp.array([3.0, 1.0]), "b": jnp.array([4.0])}
    change = dynamics.relative_change(before, after)
    np.testing.assert_allclose(change, 0.2, rtol=1e-6)
    per_change = dynamics.velocity(a, b, change)
    np.testing.assert_allclose(per_change, 5 * dynamics.distance(a, b), rtol=1e-6)
    np.testing.assert_allclose(dynamics.velocity(a, b, 0.1 * 2), per_change, rtol=1e-6)


# --- spectra


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_of_the_spectrum_by_brute_force(shape):
    kernel = kernel_of(features(16), shape)
    matrix, size = brute_matrix(kernel), np.abs(kernel).max()
    top, bottom = dynamics.truncate(kernel, top=4), dynamics.truncate(kernel, bottom=2)
    np.testing.assert_allclose(top, brute_top(matrix, 4), atol=1e-5 * size)
    np.testing.assert_allclose(bottom, brute_top(matrix, 2, bottom=True), atol=1e-5 * size)
    rest = dynamics.truncate(kernel, bottom=len(matrix) - 4)
    np.testing.assert_allclose(top + rest, matrix, atol=1e-5 * size)
    values = np.linalg.eigvalsh(matrix)[::-1]
    mass = (values[:4] ** 2).sum() / (values**2).sum()
    np.testing.assert_allclose(dynamics.norm_concentration(kernel, 4), mass, rtol=1e-5)
    p = values / values.sum()
    rank = np.exp(-(p * np.log(p)).sum())
    np.testing.assert_allclose(dynamics.effective_rank(kernel), rank, rtol=1e-4)


@pytest.mark.parametrize("part", [{}, {"top": 4}, {"bottom": 2}], ids=str)
def test_polar_coordinates_truncate_each_kernel_to_its_own_space(part):
    trace = [kernel_of(features(seed), "stack") for seed in (17, 18, 19)]
    matrices = [brute_matrix(kernel) for kernel in trace]
    if part:
        r = next(iter(part.values()))
        matrices = [brute_top(matrix, r, bottom="bottom" in part) for matrix in matrices]
    start, now, end = matrices
    radius, angle = dynamics.polar(trace[1], trace[0], trace[2], **part)
    expected = np.linalg.norm(now - start) / np.linalg.norm(end - start)
    np.testing.assert_allclose(radius, expected, rtol=1e-4)
    np.testing.assert_allclose(angle, np.arccos(brute_cosine(now, start)), rtol=1e-4)
    unscaled = dynamics.polar(trace[1], trace[0], **part)
    np.testing.assert_allclose(unscaled.radius, np.linalg.norm(now - start), rtol=1e-4)


def test_polar_angle_of_the_top_space_by_hand():
    # Top one: v v^T with v turned by t, so that the cosine of the parts is cos(t)^2.
    start, now = jnp.diag(jnp.array([5.0, 1.0])), np.array([np.cos(0.4), np.sin(0.4)])
    now = jnp.asarray(5 * np.outer(now, now) + np.eye(2) - np.outer(now, now), jnp.float32)
    np.testing.assert_allclose(
        dynamics.polar(now, start, top=1).angle, np.arccos(np.cos(0.4) ** 2), rtol=1e-5
    )


def test_known_ranks_and_concentrations():
    for shape in SHAPES:
        one = kernel_of(np.ones((N, K, 1)) if shape != "stack" else np.ones((N, 1, 1)), shape)
        np.testing.assert_allclose(dynamics.effective_rank(one), 1, rtol=1e-3)
        np.testing.assert_allclose(dynamics.norm_concentration(one, 1), 1, rtol=1e-6)
    np.testing.assert_allclose(dynamics.effective_rank(7e20 * jnp.eye(5)), 5, rtol=1e-5)
    np.testing.assert_allclose(dynamics.norm_concentration(7e20 * jnp.eye(5), 2), 0.4, rtol=1e-5)


def test_eigenspaces_turned_by_a_known_angle():
    start = turned_kernel(0.0)
    for angle in (1e-3, 0.5, 1.2):
        now = turned_kernel(angle)
        angles = dynamics.principal_angles(start, now, 2)
        np.testing.assert_allclose(angles, [0, angle], rtol=1e-3, atol=1e-6)
        chordal = dynamics.eigenspace_distance(start, now, 2)
        np.testing.assert_allclose(chordal, np.sin(angle) / np.sqrt(2), rtol=1e-3)
        worst = dynamics.eigenspace_distance(start, now, 2, kind="projection")
        np.testing.assert_allclose(worst, np.sin(angle), rtol=1e-3)
        # The turn is inside the space of the three largest.
        assert dynamics.eigenspace_distance(start, now, 3, kind="projection") < 1e-6


def test_eigenspace_distances_by_projections():
    a, b = kernel_of(features(20), "full"), kernel_of(features(21), "full")
    projections = []
    for kernel in (a, b):
        vectors = np.linalg.eigh(brute_matrix(kernel))[1][:, -5:]
        projections.append(vectors @ vectors.T)
    difference = projections[0] - projections[1]
    chordal = np.linalg.norm(difference) / np.sqrt(10)
    np.testing.assert_allclose(dynamics.eigenspace_distance(a, b, 5), chordal, rtol=1e-4)
    worst = dynamics.eigenspace_distance(a, b, 5, kind="projection")
    np.testing.assert_allclose(worst, np.linalg.norm(difference, 2), rtol=1e-4)


# --- targets


def one_hot(labels):
    return jnp.asarray(np.eye(K)[labels], jnp.float32)


LABELS = np.array([0, 1, 2, 0, 1, 0])


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_alignment_is_the_cosine_with_the_targets_kernel(shape, centred):
    phi, y = features(22), one_hot(LABELS)
    kernel, targets = kernel_of(phi, shape), np.asarray(y, np.float64)
    if centred:
        phi, targets = phi - phi.mean(axis=0), targets - targets.mean(axis=0)
    flat = targets if shape == "matrix" else targets.reshape(-1, 1)
    expected = brute_cosine(brute_matrix(kernel_of(phi, shape)), flat @ flat.T)
    got = dynamics.target_alignment(kernel, y, centred=centred)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_known_alignments():
    y = jnp.array([1.0, -1.0, 1.0, -1.0])
    aligned = dynamics.target_alignment
    np.testing.assert_allclose(aligned(3 * y[:, None] * y[None], -2 * y), 1, rtol=1e-6)
    np.testing.assert_allclose(aligned(jnp.eye(4), y), 0.5, rtol=1e-6)
    np.testing.assert_allclose(aligned(jnp.ones((4, 4)), y), 0, atol=1e-7)
    balanced = one_hot(np.array([0, 1, 2, 0, 1, 2]))
    k = kernel_of(features(23), "matrix")
    full = k[:, :, None, None] * jnp.eye(K)[None, None]
    np.testing.assert_allclose(aligned(full, balanced), aligned(k, balanced) / K, rtol=1e-5)


@pytest.mark.parametrize("shape", ["stack", "full"])
def test_specialisation_by_brute_force(shape):
    kernel, y = kernel_of(features(24), shape), one_hot(LABELS)
    a = np.zeros((K, K))
    for c, d in itertools.product(range(K), range(K)):
        own = kernel_of(features(24), "stack")[:, :, c]
        a[c, d] = brute_cosine(own, np.outer(y[:, d], y[:, d]))
    by_target = dynamics.specialisation(kernel, y)
    np.testing.assert_allclose(by_target, a / a.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(by_target.mean(axis=0), 1, rtol=1e-5)
    own = dynamics.specialisation(kernel, y, normalised_by="own")
    np.testing.assert_allclose(own, a / np.trace(a) * K, rtol=1e-4)
    np.testing.assert_allclose(jnp.diagonal(own).mean(), 1, rtol=1e-5)


def test_specialisation_of_known_kernels():
    y = one_hot(LABELS)
    special = jnp.einsum("ic,jc->ijc", y, y)
    np.testing.assert_allclose(dynamics.specialisation(special, y), K * np.eye(K), atol=1e-6)
    same = jnp.broadcast_to(kernel_of(features(25), "matrix")[:, :, None], (N, N, K))
    np.testing.assert_allclose(dynamics.specialisation(same, y), np.ones((K, K)), rtol=1e-5)
    # Centring takes a common mean out of the kernels and the targets.
    phi = features(26)
    pair = [
        dynamics.specialisation(kernel_of(phi + shift, "stack"), y, centred=True)
        for shift in (0, 2 * np.random.default_rng(27).standard_normal((1, K, 40)))
    ]
    np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-3)


# --- compiled


def test_everything_runs_compiled_and_agrees():
    y = one_hot(LABELS)

    def everything(a, b):
        return {
            "pairs": [measure(a, b, centred=True) for measure in PAIRED],
            "velocity": dynamics.velocity(a, b, 2.0),
            "polar": dynamics.polar(a, b, a + b, top=3),
            "spectrum": [dynamics.norm_concentration(a, 2), dynamics.effective_rank(a)],
            "angles": dynamics.principal_angles(a, b, 2),
            "targets": [dynamics.target_alignment(a, y), dynamics.specialisation(a, y)],
        }

    pair = kernel_of(features(28), "stack"), kernel_of(features(29), "stack")
    plain, compiled = everything(*pair), jax.jit(everything)(*pair)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), plain, compiled)
    broken = jax.jit(everything)(pair[0] * jnp.nan, pair[1])
    assert all(bool(jnp.isnan(leaf).any()) for leaf in jax.tree.leaves(broken))


# --- bad input


EYE = jnp.eye(4)
BAD = [
    (lambda: dynamics.similarity(EYE, jnp.eye(3)), "one shape, on the same images: got"),
    (lambda: dynamics.similarity(EYE, EYE.astype(jnp.float16)), "must have one dtype"),
    (lambda: dynamics.distance(EYE, EYE * jnp.nan), "other has entries that are NaN"),
    (lambda: dynamics.rotation(0 * EYE, EYE), "kernel is zero everywhere"),
    (lambda: dynamics.distance(EYE, 0 * EYE + 0.1, centred=True), "other is constant over the exa"),
    (lambda: dynamics.velocity(EYE, EYE, 0.0), "elapsed must be above 0, got 0.0"),
    (lambda: dynamics.as_matrix(jnp.ones(3)), r"shape \(n, m\), .*, got \(3,\)"),
    (lambda: dynamics.as_matrix(jnp.ones((3, 3, 2, 4))), "output axes of kernel must be equally"),
    (lambda: dynamics.class_wise(dynamics.similarity)(EYE, EYE), "class_wise needs kernels"),
    (lambda: dynamics.truncate(EYE, top=5), "top must be a whole number from 1 to 4, got 5"),
    (lambda: dynamics.truncate(EYE, top=1, bottom=1), "not both"),
    (lambda: dynamics.truncate(EYE[:2]), r"same examples on both sides.*\(2, 4\)"),
    (lambda: dynamics.effective_rank(jnp.triu(EYE + 1)), "not symmetric, by 0.5 of its largest"),
    (lambda: dynamics.effective_rank(-EYE), "not positive semidefinite: its smallest .* -1,"),
    (lambda: dynamics.polar(2 * EYE, EYE, EYE), "start and end are the same kernel"),
    (lambda: dynamics.principal_angles(EYE, EYE, 2), "eigenvalues 2 and 3 of kernel agree"),
    (lambda: dynamics.eigenspace_distance(EYE, EYE, 4, kind="sine"), 'must be "chordal" or'),
    (lambda: dynamics.target_alignment(EYE, jnp.ones(3)), r"shape \(4,\) or \(4, k\)"),
    (lambda: dynamics.target_alignment(EYE, jnp.ones(4), centred=True), "NaN, infinite or zero"),
    (lambda: dynamics.specialisation(EYE, EYE), "needs one kernel an output"),
    (lambda: dynamics.specialisation(EYE[..., None], EYE), r"must have shape \(4, 1\) beside"),
    (
        lambda: dynamics.specialisation(EYE[..., None], EYE[:, :1], normalised_by="row"),
        'must be "target" or "own"',
    ),
    (lambda: dynamics.relative_change({"w": EYE}, {"b": EYE}), "must be the same tree"),
    (lambda: dynamics.relative_change([0 * EYE], [EYE]), "or zero everywhere at the start"),
]


@pytest.mark.parametrize(("call", "words"), BAD, ids=[words[:30] for _, words in BAD])
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises((ValueError, TypeError), match=words) as error:
        call()
    assert str(error.value).rstrip(".").count(". ") == 0


def test_a_class_without_examples_is_named():
    y = one_hot(np.zeros(N, int))
    with pytest.raises(ValueError, match="a class has no examples"):
        dynamics.specialisation(kernel_of(features(30), "stack"), y)
