"""Breaks the attacks one piece at a time, in a copy, and shows which tests notice.

    python tests/mutations/attacks.py [WORDS]      only mutations whose name contains WORDS

Every mutation names a file, a piece of its text, what to write instead, and the tests to run. A
mutation that no test notices is a hole in the tests: the script then ends with status 1.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATH, APGD, STEPS = "_path.py", "apgd.py", "steps.py"
BALLS, BLOCKS, SEARCH = "projections.py", "_blocks.py", "gradient_free.py"
PROJECT = "ball.steepest(here.gradient)\n        return ball.project(moved, here.x"
PGD, AUTO, FREE = "test_attacks.py", "test_apgd.py", "test_gradient_free.py"
MORE = "test_attack_variants.py"
WALK = f"{AUTO} every_point_of_the_walk"
MUTATIONS = {
    "PGD: stale gradient": (
        PATH,
        "has_aux=True)(at)",
        "has_aux=True)(task.x)",
        f"{PGD} current_iterate",
    ),
    "PGD: descends": (
        STEPS,
        "here.at + here.step_size * ball.steepest(here.gradient)",
        "here.at - here.step_size * ball.steepest(here.gradient)",
        f"{PGD} loss_goes_up",
    ),
    "PGD: no ball": (
        BALLS,
        "jnp.maximum(x - eps, low), jnp.minimum(x + eps, high)",
        "low, high",
        f"{PGD} ball_and_box",
    ),
    "PGD: no l2 ball": (BALLS, "x + (z - x) * shrink", "z", f"{PGD} ball_and_box"),
    "PGD: ball round the last iterate": (
        STEPS,
        PROJECT,
        PROJECT.replace("here.x", "here.at"),
        f"{PGD} ball_and_box",
    ),
    "PGD: no box": (
        BALLS,
        "jnp.maximum(x - eps, low), jnp.minimum(x + eps, high)",
        "x - eps, x + eps",
        f"{PGD} ball_and_box",
    ),
    "PGD: start outside the box": (
        PATH,
        "return ball.project(x + ball.uniform(key, x, eps), x, eps, bounds)",
        "return x + ball.uniform(key, x, eps)",
        f"{PGD} ball_and_box",
    ),
    "PGD: keeps the last point": (
        PATH,
        "(won | (losses > state.kept_loss))",
        "(won | (losses == losses))",
        f"{PGD} loss_never_falls",
    ),
    "PGD: forgets a success": (
        PATH,
        "success = state.success | won",
        "success = won",
        f"{PGD} success_is_never_lost",
    ),
    "PGD: overwrites a success": (
        PATH,
        "better = ~state.success & (won",
        "better = (won",
        f"{PGD} success_is_never_lost",
    ),
    "PGD: clean input not looked at": (
        "gradient.py",
        'if self.random_start and self.aim.keep == "best":',
        "if False:",
        f"{PGD} clean_errors_come_back",
    ),
    "PGD: one start for all restarts": (
        "gradient.py",
        "jax.random.fold_in(key, number)",
        "jax.random.fold_in(key, 0)",
        f"{PGD} restarts_only",
    ),
    "targeted: wrong sign": (
        PATH,
        "-losses if aim.targeted else losses",
        "losses",
        f"{MORE} targeted",
    ),
    "targeted: counts any error": (
        PATH,
        "won = right if aim.targeted else ~right",
        "won = ~right",
        f"{MORE} targeted",
    ),
    "momentum: no memory": (STEPS, "self.decay * memory + scaled", "scaled", f"{MORE} momentum"),
    "momentum: gradients not scaled": (
        STEPS,
        "scaled / jnp.where(mean > 0, mean, 1)",
        "scaled",
        f"{MORE} momentum",
    ),
    "last: keeps the best": (PATH, 'if aim.keep == "last":', "if False:", f"{MORE} last_iterate"),
    "APGD: no inertia": (APGD, "inertia: float = 0.75", "inertia: float = 1.0", WALK),
    "APGD: never halves": (APGD, "memory.scale / 2", "memory.scale", WALK),
    "APGD: condition 1 off": (APGD, "(few_rises | no_gain)", "no_gain", f"{AUTO} step_is_halved"),
    "APGD: condition 2 off": (APGD, "(few_rises | no_gain)", "few_rises", f"{AUTO} step_is_halved"),
    "APGD: halves twice for one lull": (APGD, "~memory.halved & ", "", f"{AUTO} step_is_halved"),
    "APGD: stays where it is": (APGD, "jnp.where(rows, memory.best, here.at)", "here.at", WALK),
    "APGD: gradient of the point left": (
        APGD,
        "jnp.where(rows, memory.best_gradient, here.gradient)",
        "here.gradient",
        WALK,
    ),
    "APGD: rises never reset": (
        APGD,
        "jnp.where(new, 0, memory.rises)",
        "memory.rises",
        f"{AUTO} step_is_halved",
    ),
    "APGD: first step eps": (
        APGD,
        "(steps, 2 * eps, restarts), random_start, aim",
        "(steps, eps, restarts), random_start, aim",
        WALK,
    ),
    "APGD: other checkpoints": (
        APGD,
        "Fraction(3, 100)",
        "Fraction(1, 100)",
        f"{AUTO} checkpoints",
    ),
    "APGD-T: the true class is a target": (
        "gradient.py",
        "jnp.where(is_label, -jnp.inf, logits)",
        "logits",
        f"{AUTO} targets_are",
    ),
    "DLR: second in the denominator": (
        "losses.py",
        "top[:, 0] - top[:, 2] + 1e-12",
        "top[:, 0] - top[:, 1] + 1e-12",
        f"{AUTO} dlr_equals",
    ),
    "Square: keeps a worse point": (
        SEARCH,
        "(wrong | (loss > state.loss))",
        "(wrong | (loss == loss))",
        f"{FREE} linear_machine",
    ),
    "Square: never accepts": (
        SEARCH,
        "(wrong | (loss > state.loss))",
        "wrong",
        f"{FREE} linear_machine",
    ),
    "Square: goes on after a success": (
        SEARCH,
        "asks = ~state.success & ",
        "asks = ",
        f"{FREE} success_is_final",
    ),
    "Square: twice the eps": (
        BLOCKS,
        "jnp.clip(x + eps * s[None, None], *bounds)",
        "jnp.clip(x + 2 * eps * s[None, None], *bounds)",
        f"{FREE} stripes",
    ),
    "Square: no box": (
        BLOCKS,
        "jnp.clip(x + eps * s[None, None], *bounds)",
        "x + eps * s[None, None]",
        f"{FREE} linear_machine or stripes or successes_are_real",
    ),
    "Square: horizontal stripes": (
        BLOCKS,
        ".reshape(1, w, c)",
        ".reshape(h, 1, c)",
        f"{FREE} stripes",
    ),
    "Square: one size": (BLOCKS, "p_init / 2.0 **", "p_init / 1.0 **", f"{FREE} schedule"),
    "Square l2: second window kept": (
        BLOCKS,
        "jnp.where(second, 0, delta)",
        "delta",
        f"{FREE} two_windows",
    ),
    "Square l2: bump of one sign": (
        BLOCKS,
        "(s - s // 2, -1.0)",
        "(s - s // 2, 1.0)",
        f"{FREE} bump",
    ),
    "block: no l2 ball": (
        BLOCKS,
        "jnp.minimum(1, eps / jnp.where(length > 0, length, 1))",
        "1.0",
        f"{FREE} blocks_stay",
    ),
    "search: clean errors lost": (
        SEARCH,
        "~state.clean_wrong & (state.success",
        "(state.success",
        f"{FREE} successes_are_real",
    ),
}


def survives(file, old, new, tests):
    """Break a copy and run its tests; whether all of them pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("ntklab", "tests/unit", "tests/fixtures"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("tests/conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / part, copy / part)
        broken = copy / "ntklab/attacks" / file
        text = broken.read_text()
        assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
        broken.write_text(text.replace(old, new))
        name, words = tests.split(" ", 1)
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
        command += [f"tests/unit/{name}", "-k", words]
        run = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        assert run.returncode in (0, 1), run.stdout + run.stderr
        return run.returncode == 0


def main(words=""):
    """Run all mutations; print one row each."""
    holes = []
    for name, mutation in MUTATIONS.items():
        if words in name:
            start = time.perf_counter()
            alive = survives(*mutation)
            spent = f"{time.perf_counter() - start:5.0f} s"
            print(
                f"{'NOT SEEN' if alive else 'caught':8}  {name:36}  {mutation[3]:40} {spent}",
                flush=True,
            )
            holes += [name] if alive else []
    print(f"{len(holes)} not seen" if holes else "all caught")
    return int(bool(holes))


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
