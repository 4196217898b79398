"""Evaluation of robustness: judged results, numbers that carry their flags, and resume."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_problems import (
    EPS,
    D,
    K,
    N,
    evaluate,
    problem,
    with_fault,
)
from jax.tree_util import Partial

from ntklab.attacks import _flags, cross_entropy, fgsm, margin, pgd
from ntklab.attacks._problem import AttackResult
from ntklab.attacks._report import RobustnessReport, RobustnessWarning
from ntklab.attacks.evaluate import evaluate_robustness, standard_suite


@pytest.fixture(scope="module")
def honest():
    return with_fault()


@pytest.fixture(scope="module")
def report(honest):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        return evaluate(honest)


# What is found.


def test_an_honest_model_raises_no_flag(report):
    assert report.raised == ()
    assert all(f.raised is False for f in report.flags), report
    assert len({f.name for f in report.flags}) == len(report.flags) == 11
    assert 0 < float(report.accuracy) < report.clean == 1


def test_worst_case_is_the_union_of_all_attacks(report, honest):
    x, y = problem(honest)
    worst = report.worst_case
    assert float(report.accuracy) == worst.robust.mean() == (worst.broken_by == -1).mean()
    assert min(row.accuracy for row in report.rows) >= worst.robust.mean() - 1e-9
    wrong = np.asarray(honest(jnp.asarray(worst.x_adv)).argmax(1) != y)
    np.testing.assert_array_equal(wrong, ~worst.robust)
    assert np.abs(worst.x_adv - x).max() <= EPS + 1e-6
    np.testing.assert_array_equal(worst.x_adv[worst.robust], np.asarray(x)[worst.robust])
    first = [float((worst.broken_by == i).mean()) for i in range(len(report.rows))]
    assert first[0] == 0 and first[1] == pytest.approx(1 - report.rows[1].accuracy)


def test_rows_say_what_was_spent(report):
    rows = {row.attack: row for row in report.rows}
    assert list(rows) == ["clean", "random noise", "FGSM", "PGD", "guess"]
    assert [r.gradients for r in report.rows] == [0, 0, 1, 60, 0]
    assert [r.queries for r in report.rows] == [1, 1, 0, 0, 30]
    assert [r.tested for r in report.rows] == [N] * 5
    assert rows["PGD"].steps == 20 and rows["PGD"].eps == EPS and rows["clean"].eps == 0
    assert rows["FGSM"].accuracy >= rows["PGD"].accuracy


def test_the_exact_answer_of_a_linear_machine():
    model = Partial(lambda w, x: (x - 0.5) @ w, jnp.linspace(-1, 1, D))
    x, y = problem(model)
    expected = (jnp.abs(model(x)) > EPS * jnp.abs(model.args[0]).sum()).mean()
    found = evaluate(model, x, y, {"FGSM": fgsm(EPS)})
    assert float(found.accuracy) == pytest.approx(float(expected)) and 0 < expected < 1
    assert {f.name for f in found.flags if f.raised is None} == {"gradient_free", "order"}
    assert found.raised == () and "2 could not be made" in str(found)


def test_attacks_can_skip_what_is_broken(honest, report):
    quick = evaluate(honest, skip_broken=True)
    tested = [row.tested for row in quick.rows]
    assert tested[:2] == [N, N] and N > tested[2] >= tested[3] >= tested[4] > 0
    accuracies = [row.accuracy for row in quick.rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert abs(quick.worst_case.robust.mean() - report.worst_case.robust.mean()) <= 2 / N
    assert quick.rows[-1].accuracy == pytest.approx(quick.accuracy.with_flags()[0])


def test_an_attack_that_lies_is_judged_by_the_model(honest):
    def liar(logits_fn, x, y, key):
        yes = jnp.ones(len(x), bool)
        return AttackResult(x, jnp.ones(len(x)), yes, 1, jnp.zeros(len(x), jnp.int32))

    assert evaluate(honest, attacks={"liar": liar}).rows[-1].accuracy == 1


def test_points_outside_the_ball_or_the_box_are_refused(honest):
    def shift(by):
        def attack(logits_fn, x, y, key):
            none = jnp.zeros(len(x), jnp.int32)
            return AttackResult(x + by, jnp.zeros(len(x)), none > 0, 1, none)

        return {"shift": attack}

    with pytest.raises(ValueError, match=r"norm 0\.11, outside the ball of radius 0\.1"):
        evaluate(honest, attacks=shift(0.11))
    with pytest.raises(ValueError, match="outside the bounds"):
        evaluate(honest, attacks=shift(0.9))
    with pytest.raises(ValueError, match=r"'PGD' was made for eps = 0\.2, not 0\.1"):
        evaluate(honest, attacks={"PGD": pgd(0.2)})
    with pytest.raises(ValueError, match="'PGD' was made for norm = l2"):
        evaluate(honest, attacks={"PGD": pgd(0.1, "l2")})


def test_senseless_input_is_refused(honest):
    x, y = problem(honest)
    with pytest.raises(ValueError, match="did you mean 8/255"):
        evaluate(honest, x, y, eps=8)
    with pytest.raises(ValueError, match=r"0\.\.3, got values from 4"):
        evaluate(honest, x, y * 0 + 4)
    with pytest.raises(ValueError, match=r"\(48,\)"):
        evaluate(honest, x, jax.nn.one_hot(y, K, dtype=jnp.int32))
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(honest, x, y, block=0)
    nothing = Partial(lambda x: x[:, :3] * jnp.nan)
    with pytest.raises(ValueError, match="NaN or infinities"):
        evaluate(nothing, x, y * 0)


# No number without its flags.


def with_flags(report, *names):
    flags = (_flags.Flag(name, True, "as made for this test") for name in names)
    return RobustnessReport(report.rows, tuple(flags), report.bounds, report._worst)


def test_a_number_travels_with_its_flags(report):
    bad = with_flags(report, "noise", "steps")
    value = float(report.accuracy)
    with pytest.warns(RobustnessWarning, match="noise, steps"):
        assert float(bad.accuracy) == value
    assert bad.accuracy.with_flags() == (value, ("noise", "steps"))
    assert (
        "FLAGS: noise, steps" in f"{bad.accuracy:.2f}" and f"{value:.2f}" in f"{bad.accuracy:.2f}"
    )
    assert "no flags" in str(report.accuracy) and "linf, eps 0.1" in str(report.accuracy)
    assert bad.worst_case.flags == ("noise", "steps")
    assert [row["flags"] for row in bad.table] == ["", *["noise, steps"] * 4]
    with pytest.raises(TypeError):
        assert report.accuracy < 1


def test_a_printed_report_shows_every_flag(report):
    bad = with_flags(report, "noise")
    for text in (str(bad), bad._repr_html_()):
        assert "WARNING: 1 of 1 checks raised a flag" in text
        assert "FLAG noise: as made for this test" in text
    assert "11 checks passed" in str(report) and "WARNING" not in report._repr_html_()
    assert report._repr_html_().count("<tr>") == 6


# Resume.


class Counting:
    """FGSM that counts its calls, and can be interrupted."""

    def __init__(self, fail_at=None):
        self.inner, self.calls, self.fail_at = fgsm(EPS, loss=margin), 0, fail_at

    def __call__(self, *args):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return self.inner(*args)


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tmp_path, honest, report):
    """Blocks of 20 out of 48: the last one is filled up, and nothing of that shows."""
    whole = evaluate(honest, attacks={"a": Counting()}, block=20)
    assert whole.rows[-1].accuracy == report.rows[2].accuracy
    with pytest.raises(KeyboardInterrupt):
        evaluate(honest, attacks={"a": Counting(fail_at=3)}, block=20, resume=tmp_path / "run")
    again = Counting()
    found = evaluate(honest, attacks={"a": again}, block=20, resume=tmp_path / "run")
    assert again.calls == 1
    np.testing.assert_array_equal(found.worst_case.x_adv, whole.worst_case.x_adv)
    np.testing.assert_array_equal(found.worst_case.broken_by, whole.worst_case.broken_by)
    assert [r[:-1] for r in found.rows] == [r[:-1] for r in whole.rows]
    assert not list(tmp_path.rglob("*.tmp")) and len(list(tmp_path.rglob("*.npz"))) == 6


def test_results_of_another_problem_are_refused(tmp_path, honest):
    attacks = {"a": fgsm(EPS, loss=margin)}
    evaluate(honest, attacks=attacks, resume=tmp_path)
    assert json.loads((tmp_path / "problem.json").read_text())["eps"] == EPS
    x, y = problem(honest)
    for name, change in {
        "x": {"x": x + 0.01, "y": y},
        "y": {"x": x, "y": (y + 1) % K},
        "eps, attacks": {"eps": 0.05, "attacks": {"a": fgsm(0.05, loss=margin)}},
        "key": {"key": jax.random.key(3)},
        "block": {"block": 20},
        "attacks": {"attacks": {"a": fgsm(EPS, loss=cross_entropy)}},
        "logits_fn": {"model": with_fault(gain=1.1), "x": x, "y": y},
    }.items():
        with pytest.raises(ValueError, match=rf"another problem \(differs in {name}[,)]"):
            evaluate(**{"model": honest, "attacks": attacks, **change}, resume=tmp_path)


# The standard suite.


def test_the_standard_suite_runs_on_images(honest):
    x, y = problem(honest)
    found = evaluate_robustness(
        honest, x[:8].reshape(8, 2, 4), y[:8], eps=EPS, key=jax.random.key(4), skip_broken=True
    )
    names = ["FGSM", "PGD-20", "PGD-100 x5", "APGD-CE", "APGD-T", "Square"]
    assert [row.attack for row in found.rows] == ["clean", "random noise", *names]
    spent = {row.attack: row.gradients for row in found.rows if row.tested}
    full = {"FGSM": 1, "PGD-20": 20, "PGD-100 x5": 500, "APGD-CE": 100, "APGD-T": 300}
    assert all(spent[name] == full[name] for name in spent if name in full)
    assert found.rows[-1].queries == 5000 and found.rows[-1].tested > 0
    assert all(flag.raised is False for flag in found.flags), found


def test_the_standard_suite_fits_the_model():
    suite = standard_suite(EPS, "l2", (-1.0, 1.0), n_classes=3, images=False)
    assert list(suite)[-2:] == ["APGD-margin", "random block"]
    assert (suite["PGD-100 x5"].steps, suite["PGD-100 x5"].restarts) == (100, 5)
    threats = {(attack.eps, attack.norm, attack.bounds) for attack in suite.values()}
    assert threats == {(EPS, "l2", (-1.0, 1.0))}
    assert standard_suite(EPS, n_classes=5)["APGD-T"].targets == 4


def test_nothing_warns_when_nothing_is_wrong(report):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(report.accuracy) > 0
