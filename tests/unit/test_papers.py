"""Experiments: what they measure, checkpoints that survive a kill, and the road to the ledger."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import data, kernels, ledger, papers
from ntklab.attacks import AttackResult
from ntklab.papers import EXPERIMENTS, Experiment, SeedResult
from ntklab.papers import _experiment as machinery
from ntklab.papers.tsilivis_kempe import cars, evaluate, transfer, two_layer


@dataclass(frozen=True)
class Toy:
    """Arguments of the experiment below."""

    seeds: tuple[int, ...] = (0, 1, 2)
    scale: float = 1.0


def toy(fail_at: int | None = None, calls: list | None = None) -> Experiment:
    """An experiment that draws a number a seed, and may be killed at one of them."""

    def measure(config, seed, checkpoints):
        if seed == fail_at:
            raise KeyboardInterrupt
        if calls is not None:
            calls.append(seed)
        a = config.scale * float(np.random.default_rng(seed).normal())
        return SeedResult({"a": a}, {"c": ([1.0], [a])}, ({"name": "none", "seed": seed},))

    return Experiment("toy", "one number a seed", {"quick": Toy(), "book": Toy()}, measure)


def comparable(result) -> tuple:
    """What must not depend on kills: everything but times and memory."""
    return result.seeds, result.values, result.curves, result.data, result.criteria


def untimed(values: dict) -> dict:
    """Values without those that are wall times."""
    return {name: v for name, v in values.items() if not name.endswith("_seconds")}


def need_data(name: str) -> None:
    """Skip, with the reason, where the images of an experiment cannot be had."""
    sets = "cifar10" if "car" in name or "cifar" in name else "mnist"
    others = {"tk-errata": None, "tk-feature-selection": "cifar10"} | dict.fromkeys(
        ("robust-overfitting", "robust-overfitting-few"), "fashion_mnist"
    )
    sets = others.get(name, sets)
    if sets and not data.found()[sets]:
        pytest.skip(f"{sets} is not on this machine")


@pytest.fixture(scope="module")
def quick_runs(tmp_path_factory):
    """Each experiment's quick run, made when it is first asked for."""
    made = {}

    def run(name):
        need_data(name)
        if name not in made:
            made[name] = papers.record(name, "quick", workdir=tmp_path_factory.mktemp(name))
        return made[name]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_quick_measures_all_that_the_claims_need(quick_runs, name):
    run = quick_runs(name)
    assert all(math.isfinite(v) for numbers in run.values.values() for v in numbers)
    # Claims that only the paper's size measures may name what quick cannot reach.
    claims = ledger.claims(experiment=name)
    claims = [c for c in claims if "book" in c.sizes] or claims
    wanted = {n for c in claims for n in c.names}
    assert wanted and not wanted - set(run.values)
    assert run.size == "quick" and run.command.endswith(f"run {name} --size quick")
    assert all({"name", "fingerprint", "seed"} <= set(d) for d in run.data)
    with pytest.raises(ledger.LedgerError, match="never becomes a record"):
        ledger.store(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_killed_run_resumes_to_the_same_values(quick_runs, name, tmp_path):
    undisturbed, experiment = quick_runs(name), EXPERIMENTS[name]
    config, calls = experiment.presets["quick"], []

    def killed(config, seed, checkpoints):
        if seed == config.seeds[-1]:
            raise KeyboardInterrupt
        return experiment.measure(config, seed, checkpoints)

    def counted(config, seed, checkpoints):
        calls.append(seed)
        return experiment.measure(config, seed, checkpoints)

    with pytest.raises(KeyboardInterrupt):
        replace(experiment, measure=killed).run(config, workdir=tmp_path)
    result = replace(experiment, measure=counted).run(config, workdir=tmp_path, resume=True)
    assert calls == [config.seeds[-1]]
    assert untimed(result.values) == untimed(undisturbed.values)
    assert result.curves == undisturbed.curves


@pytest.mark.slow
def test_a_network_killed_half_way_resumes_to_the_same_values(tmp_path, monkeypatch):
    need_data("tk-transfer-two-layer")
    experiment = EXPERIMENTS["tk-transfer-two-layer"]
    arms = (transfer.Arm("paper", 32, 0.01, False), transfer.Arm("lazy", 32, 1.0, True))
    config = replace(
        experiment.presets["quick"],
        seeds=(3,),
        arms=arms,
        n_train=40,
        n_test=20,
        steps=(5, 20),
        save_every=5,
    )
    whole = experiment.run(config, workdir=tmp_path / "whole")
    save, saves = papers.Checkpoints.save, []

    def killed(self, name, **arrays):
        save(self, name, **arrays)
        if name in ("paper", "lazy"):  # networks, not what was measured on them
            saves.append(name)
            if len(saves) == 6:  # the second arm, half way
                raise KeyboardInterrupt

    monkeypatch.setattr(papers.Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(config, workdir=tmp_path / "killed")
    first = list(saves)
    result = experiment.run(config, workdir=tmp_path / "killed", resume=True)
    assert first == ["paper"] * 4 + ["lazy"] * 2 and saves[6:] == ["lazy"] * 2
    assert comparable(result) == comparable(whole)


def test_a_toy_resumes_and_starts_afresh_when_asked(tmp_path):
    whole = toy().run(Toy(), workdir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        toy(fail_at=2).run(Toy(), workdir=tmp_path / "killed")
    calls = []
    resumed = toy(calls=calls).run(Toy(), workdir=tmp_path / "killed", resume=True)
    assert calls == [2] and comparable(resumed) == comparable(whole)
    toy(calls=calls).run(Toy(), workdir=tmp_path / "killed")
    assert calls == [2, 0, 1, 2]


@pytest.mark.parametrize("other", ["config", "code"])
def test_stale_checkpoints_are_not_taken_up(tmp_path, monkeypatch, capsys, other):
    toy().run(Toy(), workdir=tmp_path)
    calls, config = [], Toy()
    if other == "config":
        config = Toy(scale=2.0)
    else:
        monkeypatch.setattr(machinery, "code_fingerprint", lambda: "another")
    toy(calls=calls).run(config, workdir=tmp_path, resume=True)
    assert calls == [0, 1, 2] and "starts afresh" in capsys.readouterr().err


def test_other_seeds_reuse_the_finished_ones(tmp_path):
    toy().run(Toy(), workdir=tmp_path)
    calls = []
    result = toy(calls=calls).run(Toy(seeds=(1, 5)), workdir=tmp_path, resume=True)
    assert calls == [5] and result.seeds == (1, 5)


def test_code_that_changes_during_a_run_makes_it_dirty(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "commit_of_code", lambda: ledger.Commit("a" * 40, False))
    assert not toy().run(Toy(), workdir=tmp_path).commit.dirty
    marks = iter("abbb")
    monkeypatch.setattr(machinery, "code_fingerprint", lambda: next(marks))
    assert toy().run(Toy(), workdir=tmp_path).commit == ("a" * 40, True)


def test_not_a_number_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="seed 0: a came out as NaN"):
        toy().run(Toy(scale=math.nan), workdir=tmp_path)


def sharing(made: list, fail_at: int | None = None) -> Experiment:
    """The toy, with a number that its seeds share; `made` says when that was computed."""

    def prepare(config, checkpoints):
        known = checkpoints.load("b")
        if known is None:
            made.append("b")
            known = {"b": np.asarray(config.scale)}
            checkpoints.save("b", **known)
        return known

    def measure(config, seed, checkpoints):
        if seed == fail_at:
            raise KeyboardInterrupt
        return SeedResult({"a": seed + float(checkpoints.shared["b"])}, {}, ())

    return replace(toy(), measure=measure, prepare=prepare)


def test_what_seeds_share_is_made_once_and_survives_a_kill(tmp_path):
    made = []
    whole = sharing(made).run(Toy(), workdir=tmp_path / "whole")
    assert made == ["b"] and whole.values == {"a": (1.0, 2.0, 3.0)}
    with pytest.raises(KeyboardInterrupt):
        sharing(made, fail_at=1).run(Toy(), workdir=tmp_path / "killed")
    resumed = sharing(made).run(Toy(), workdir=tmp_path / "killed", resume=True)
    assert made == ["b"] * 2 and comparable(resumed) == comparable(whole)
    again = sharing(made).run(Toy(), workdir=tmp_path / "killed", resume=True)
    assert made == ["b"] * 2 and again.seconds == resumed.seconds
    sharing(made).run(Toy(scale=2.0), workdir=tmp_path / "killed", resume=True)
    assert made == ["b"] * 3


def test_a_run_answers_for_what_its_seeds_share(tmp_path, monkeypatch):
    """Its time, an unclean state of the code, and the criteria of when it was made."""
    monkeypatch.setattr(ledger, "criteria_of", lambda name: {"claim": "before"})
    monkeypatch.setattr(ledger, "commit_of_code", lambda: ledger.Commit("a" * 40, True))
    with pytest.raises(KeyboardInterrupt):
        sharing([], fail_at=0).run(Toy(), workdir=tmp_path)
    work = tmp_path / "shared" / "work.json"
    work.write_text(work.read_text().replace('"seconds": ', '"seconds": 1000'))
    (tmp_path / "seed-0" / "begun.json").unlink()  # as if the kill had come before it
    monkeypatch.setattr(ledger, "criteria_of", lambda name: {"claim": "after"})
    monkeypatch.setattr(ledger, "commit_of_code", lambda: ledger.Commit("a" * 40, False))
    result = sharing([]).run(Toy(), workdir=tmp_path, resume=True)
    assert result.commit.dirty and result.criteria == {} and result.seconds >= 1000


CLAIM = """
- id: toy-claim
  paper: somebody2020
  where: here
  statement: It is small.
  kind: number
  reported: not found
  criterion: [{name: a, op: within, target: [-9, 9], seeds: every}]
  experiment: toy
  chapter: part/page
"""


@pytest.fixture
def scratch_ledger(tmp_path, monkeypatch):
    """A ledger with one claim on the toy, run from clean code."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "claims.yaml").write_text(CLAIM)
    monkeypatch.setenv("NTKLAB_LEDGER", str(tmp_path))
    monkeypatch.setattr(ledger, "commit_of_code", lambda: ledger.Commit("a" * 40, False))
    monkeypatch.setattr(papers, "EXPERIMENTS", {"toy": toy()})
    return tmp_path / "claims.yaml"


def test_from_a_run_to_a_verdict(scratch_ledger, tmp_path):
    run = papers.record("toy", "book", workdir=tmp_path / "work")
    ledger.store(run)
    assert ledger.verdict("toy-claim").verdict == "reproduced"
    assert ledger.value("toy-claim", "a").per_seed == run.values["a"]
    assert run.config == {"seeds": (0, 1, 2), "scale": 1.0} and run.commit == "a" * 40
    assert ledger.runs()[0].config["seeds"] == [0, 1, 2]


def test_a_criterion_changed_between_kill_and_resume_is_not_judged(scratch_ledger, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        toy(fail_at=1).run(Toy(), workdir=tmp_path / "work")
    scratch_ledger.write_text(CLAIM.replace("[-9, 9]", "[-99, 99]"))
    ledger.store(papers.record("toy", "book", workdir=tmp_path / "work", resume=True))
    assert ledger.verdict("toy-claim").verdict == "not run"


def test_unknown_names_are_one_sentence(scratch_ledger):
    with pytest.raises(ValueError, match="no experiment 'toys'; there are toy"):
        papers.record("toys", "book")
    with pytest.raises(ValueError, match="no size 'huge'; it has quick, book"):
        papers.record("toy", "huge")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_the_sizes_of_its_claims(name):
    experiment = EXPERIMENTS[name]
    sizes = {size for claim in ledger.claims(experiment=name) for size in claim.sizes}
    assert experiment.name == name and set(experiment.presets) == {"quick", *sizes}
    assert "book" not in sizes or len(experiment.presets["book"].seeds) >= 3


def test_the_paper_size_reaches_what_its_claims_name():
    config = EXPERIMENTS["tk-transfer-two-layer"].presets["paper"]
    late = {n for c in ledger.claims(experiment="tk-transfer-two-layer") for n in c.names}
    for name in late:
        arm, steps = name.partition("_")[0], name.rpartition("_")[2]
        assert int(steps) in config.steps and arm in {a.name for a in config.arms}


def test_the_paper_size_has_every_width_that_claims_name():
    widths = EXPERIMENTS["chen-networks"].presets["paper"].widths
    names = {n for c in ledger.claims(experiment="chen-networks") for n in c.names}
    named = {int(n.split("_")[1]) for n in names if n.startswith("nn_")}
    assert named >= {10_000, 100_000, 1_000_000} and named <= set(widths)


# --- the pieces of the experiments of Tsilivis and Kempe -----------------------------------------


def test_a_repaired_error_still_counts_as_an_error():
    def score(x):
        return x[:, 0] - 0.5

    def attack(logits_fn, x, y, key):
        return AttackResult(1.0 - x, x[:, 0], x[:, 0] > 0, 0, x[:, 0])

    x = jnp.array([[0.9], [0.1], [0.8]])
    y = jnp.array([1, 1, 0])
    assert evaluate.accuracy(score, x, y) == pytest.approx(1 / 3)
    assert evaluate.robust_accuracy(attack, score, x, y, jax.random.key(0)) == 0.0


def test_random_signs_are_corners_inside_the_box(key):
    x = jnp.full((50, 2, 2, 1), 0.5).at[0].set(0.0)
    moved = evaluate.random_signs(0.25)(None, x, None, key).x_adv
    assert set(np.unique(moved[1:])) == {0.25, 0.75} and set(np.unique(moved[0])) == {0.0, 0.25}


def test_loss_gradients_agree_with_autodiff(key):
    w = jax.random.normal(key, (6, 4))
    score = jax.tree_util.Partial(lambda w, x: jnp.sin(x.reshape(len(x), -1)) @ w, w)
    x, y = jax.random.uniform(key, (5, 2, 3, 1)), jnp.array([0, 1, 2, 3, 0])

    def loss(x):
        return -jnp.take_along_axis(jax.nn.log_softmax(score(x)), y[:, None], axis=1).sum()

    expected = jax.grad(loss)(x).reshape(5, -1)
    found = evaluate.loss_gradients(score, x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert evaluate.mean_cosine(found, expected) == pytest.approx(1.0, abs=1e-5)
    assert evaluate.mean_cosine(found, -expected) == pytest.approx(-1.0, abs=1e-5)


def test_iterated_kernel_machine_is_discrete_gradient_descent(key):
    x = jax.random.normal(key, (12, 5))
    gram = np.asarray(kernels.TwoLayerNTK()(x), np.float64)
    targets = jnp.eye(3)[jnp.arange(12) % 3]
    rate, steps = 0.05, 40
    values, vectors = np.linalg.eigh(gram)
    filtered = (1 - (1 - rate * values) ** steps) / values
    expected = vectors @ (filtered[:, None] * (vectors.T @ np.asarray(targets, np.float64)))
    found = transfer._kernel_steps(
        jnp.asarray(gram, jnp.float32), jnp.zeros_like(targets), targets, rate, steps
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_wide_network_follows_its_kernel_at_the_time_of_the_theory(key):
    """`steps` steps on half the mean squared error are the time `rate * steps / n` of eq. 3."""
    n, rate, steps = 10, 0.1, 50
    keys = jax.random.split(key, 4)
    x = jax.random.normal(keys[0], (n, 6))
    targets = jnp.eye(2)[jax.random.randint(keys[1], (n,), 0, 2)]
    w_0, a = two_layer.initialise(keys[2], 50_000, 6, 2, 1.0)
    w = two_layer.train(w_0, w_0, a, x, targets, rate, steps, centred=True)
    alpha = transfer._kernel_steps(
        kernels.TwoLayerNTK()(x), jnp.zeros_like(targets), targets, rate / n, steps
    )
    new = jax.random.normal(keys[3], (8, 6))
    expected = kernels.TwoLayerNTK()(new, x) @ alpha
    found = two_layer.moved((w, w_0, a), new)
    assert float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)) < 0.05
    assert two_layer.flipped_gates(w, w_0, x) < 0.01


def test_flips_and_kernel_distance_measure_movement(key):
    w, _ = two_layer.initialise(key, 400, 6, 2, 1.0)
    x = jax.random.normal(jax.random.fold_in(key, 1), (20, 6))
    assert two_layer.flipped_gates(w, w, x) == 0.0 and two_layer.flipped_gates(-w, w, x) == 1.0
    assert two_layer.kernel_distance(w, w, x) == pytest.approx(0.0, abs=1e-6)
    fresh, _ = two_layer.initialise(jax.random.fold_in(key, 2), 400, 6, 2, 1.0)
    half = jnp.concatenate([w[:200], fresh[200:]])
    near, far = (two_layer.kernel_distance(v, w, x) for v in (half, fresh))
    assert 0.0 < near < far


def test_both_solvers_are_named_in_the_error(tmp_path):
    config = transfer.Config(solver="magic")
    images = data.load("digits", n_train=20, n_test=10)
    with pytest.raises(ValueError, match="'spectral' or 'iterated', got 'magic'"):
        transfer.kernel_machines(config, images, papers.Checkpoints(tmp_path))


def test_the_notebooks_kernel():
    kernel = cars.KERNELS["fc1"]
    assert (kernel.depth, kernel.w_std, kernel.b_std) == (1, math.sqrt(2), 0.1)
