"""The GPU readiness check: counts against XLA and by hand, the table, the budget, failures."""

import json
import os

import jax
import pytest

from ntklab import gpu_check, nets
from ntklab.gpu_check import counts, plan, programs, readiness, rows, timing
from ntklab.gpu_check.counts import Convolution

#: model, image, multiplications of one image: ResNet-18 0.5554 G, ResNet-20 40.8 M (He et al.).
NETWORKS = {
    "resnet-8": (nets.ResNet8(), 32, 12501632),
    "resnet-18": (nets.ResNet18(), 32, 555422720),
    "resnet-20": (nets.ResNet20(), 32, 40813184),
    "odd size": (nets.ResNet((1, 1), (4, 8)), 7, 5292 + 2 * 7056 + 4608 + 512 + 9216 + 80),
}


def row(seconds=None, **changes):
    """A matrix product of 2 GFLOP and 1 MB."""
    base = {"what": "matmul", "size": "1000 x 1000, float32", "dtype": "float32", "images": 0}
    return rows.Row(**base | {"flops": 2e9, "traffic": 1e6, "seconds": seconds} | changes)


def finished(seconds, peaks, **changes):
    return rows.finished(row(**changes), timing.Timing(seconds, 1.0, None, None), peaks)


# Counts.


@pytest.mark.parametrize(("model", "size", "products"), NETWORKS.values(), ids=NETWORKS)
def test_a_forward_pass_counts_the_known_multiplications(model, size, products):
    assert sum(layer.flops for layer in counts.convolutions(model, size)) == 2 * products


def test_training_counts_the_known_passes():
    layers = counts.convolutions(nets.ResNet18(), 32)
    forward = 64 * 2 * 555422720
    units = {"forward": 1, "input gradient": 2, "train step": 3}
    for what, passes in units.items():
        assert counts.network(layers, 64, what, 2).flops == passes * forward
    for steps in (0, 1, 7, 10):
        assert counts.pgd_training(layers, 64, steps, 2).flops == (2 * steps + 3) * forward


def test_traffic_of_a_network_of_one_convolution_by_hand():
    """A 3x3 convolution of 2x2x1 images, 4 numbers in, 8 out, kernel 18; bytes of float32."""
    layers, b = [Convolution(2, 1, 3, 1, 2)], 5
    forward = 5 * (4 + 8) + 18
    attack = forward + 5 * 8 + 5 * 4 + 18 + 5 * 4  # cotangent in, out, kernel, active units
    assert counts.network(layers, b, "forward", 4).traffic == 4 * forward
    assert counts.network(layers, b, "input gradient", 4).traffic == 4 * attack
    learning = 4 * (attack + 5 * (4 + 8)) + 5 * 4 * 18
    assert counts.network(layers, b, "train step", 4).traffic == learning
    assert counts.pgd_training(layers, b, 3, 4).traffic == 3 * 4 * attack + learning


def test_eigenpairs_of_12_000_take_the_known_flops_and_traffic():
    cost = counts.eigh(12_000, 4)
    assert 9e12 < cost.flops < 15e12 and cost.traffic == pytest.approx(2.3e12, rel=0.01)


def xla(program):
    return timing._compiled(program)[0]


def test_xla_counts_a_matrix_product_as_we_do():
    assert xla(programs.matmul(24, "float32", "default")) == counts.matmul(24, 4).flops


@pytest.mark.parametrize("what", counts.PASSES)
def test_xla_counts_a_convolution_as_we_do_but_for_padding(what):
    """Of the taps of a 3x3 kernel on s x s pixels, (3 s - 2)^2 fall on the image."""
    layer = Convolution(6, 1, 3, 8, 8)
    ours = counts.convolution(layer, 2, what, 4).flops * (16 / 18) ** 2
    counted = xla(programs.convolution(8, 6, 2, "float32", what))
    assert ours <= counted < 1.05 * ours  # and the sum of squares


# The table.


def test_floors_come_from_the_measured_peaks():
    peaks = rows.Peaks()
    assert finished(0.01, peaks).floor is None
    peaks.learn(row(0.004))  # 500 GFLOP/s
    peaks.learn(row(0.008))  # slower: no peak
    peaks.learn(row(1e-4, what="copy", flops=0.0))  # 10 GB/s
    assert peaks == {"float32": pytest.approx(5e11), "memory": pytest.approx(1e10)}
    made = finished(0.01, peaks, images=50)
    assert (made.compute_floor, made.memory_floor) == pytest.approx((0.004, 1e-4))
    assert made.floor == made.compute_floor and made.fraction == pytest.approx(0.4)
    assert made.rate == pytest.approx(5000)
    assert finished(0.01, peaks, traffic=8e7).fraction == pytest.approx(0.8)
    assert finished(0.01, peaks, dtype="bfloat16").floor == pytest.approx(1e-4)


def test_a_line_of_the_table():
    peaks = rows.Peaks(float32=5e11)
    made = finished(0.01, peaks, images=50)._replace(xla_flops=1.9e9)
    words = rows.line(made).split()
    assert words[:4] == ["matmul", "1000", "x", "1000,"]
    assert words[5:] == "10 ms 5,000 2 1.9 0.2 4 ms - 40 %".split()
    heads = rows.header().splitlines()[-1]
    assert len(heads) == len(rows.line(made)) and heads.split()[-1] == "roofline"
    assert json.dumps(made.as_json(), allow_nan=False)


def test_seconds_an_epoch_stand_beside_limit_and_target():
    def step(seconds, size="batch 500, 32x32x3, bfloat16", what="ResNet-18, PGD-10 step"):
        return row(seconds, what=what, size=size, images=500)

    slow, fast = step(0.1), step(0.05, "batch 500, 32x32x3, float32")
    text = readiness.epoch_sentence([row(0.1), slow, fast])
    assert "5 s for an epoch of 50,000 images (batch 500, 32x32x3, float32)" in text
    assert "16.7 minutes for 200; limit 1.6 s" in text and text.endswith("target met.")
    assert readiness.epoch_sentence([slow]).endswith("target missed.")
    for other in (step(None), step(0.1, what="small ResNet, PGD-10 step")):
        assert "was not measured" in readiness.epoch_sentence([other])


# What can go wrong.


def fake_tasks(monkeypatch, *builds):
    made = [plan.Task(row(what=f"row {i}"), build) for i, build in enumerate(builds)]
    monkeypatch.setattr(plan, "tasks", lambda sizes, memory: iter(made))


def fails(message, kind=RuntimeError):
    def build():
        raise kind(message)

    return build


def small():
    return programs.matmul(8, "float32", "default")


def test_a_row_that_does_not_fit_says_so_and_the_rest_goes_on(monkeypatch):
    no_memory = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes."
    builds = (fails(no_memory), fails("", MemoryError), fails("UNIMPLEMENTED: no float8."), small)
    fake_tasks(monkeypatch, *builds)
    shown = []
    record = gpu_check.check(quick=True, show=shown.append)
    notes = [r["note"] for r in record["rows"]]
    assert notes[:2] == ["out of memory: this size does not fit on the device."] * 2
    assert notes[2:] == ["failed: RuntimeError: UNIMPLEMENTED: no float8.", ""]
    assert [r["seconds"] is None for r in record["rows"]] == [True, True, True, False]
    assert sum("out of memory" in text for text in shown) == 2
    assert "3 of 4 rows have no time; each says why." in record["summary"]


def test_no_row_is_begun_after_the_minutes(monkeypatch, tmp_path):
    fake_tasks(monkeypatch, small, small, small)
    out = tmp_path / "new" / "check.json"
    record = gpu_check.check(quick=True, minutes=0.0, out=out, show=lambda text: None)
    assert [r["what"] for r in record["rows"]] == ["row 0"]
    assert [text.split(",")[0] for text in record["not_measured"]] == ["row 1", "row 2"]
    assert "the minutes were over: row 1" in record["summary"][-1]
    assert json.loads(out.read_text()) == json.loads(json.dumps(record))


def test_an_interrupted_run_keeps_its_rows(monkeypatch, tmp_path, capsys):
    fake_tasks(monkeypatch, small, fails("", KeyboardInterrupt), small)
    out = tmp_path / "check.json"
    assert gpu_check.main(["--quick", "--out", str(out)]) == 130
    kept = json.loads(out.read_text())
    assert [r["what"] for r in kept["rows"]] == ["row 0"] and not kept["finished"]
    assert str(out) in capsys.readouterr().err


def test_status_1_where_no_row_has_a_time(monkeypatch):
    fake_tasks(monkeypatch, fails("broken"))
    assert gpu_check.main(["--quick"]) == 1


@pytest.mark.parametrize("arguments", [["--minutes", "-1"], ["--out", os.devnull + "/x.json"]])
def test_a_wrong_request_is_one_sentence_before_anything_is_measured(arguments, capsys):
    assert gpu_check.main(["--quick", *arguments]) == 2
    seen = capsys.readouterr()
    assert seen.out == "" and seen.err.count("\n") == 1


# The whole.


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The quick run, through the command line."""
    out = tmp_path_factory.mktemp("gpu") / "check.json"
    assert gpu_check.main(["--quick", "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_the_quick_run_measures_every_kind_of_row(quick):
    assert quick["finished"] and quick["quick"] and not quick["not_measured"]
    assert [r["what"] for r in quick["rows"] if r["note"]] == []
    names = {r["what"] for r in quick["rows"]}
    assert {"matmul", "copy", "eigh", "conv 3x3, forward", "small ResNet, PGD-2 step"} <= names
    assert {f"small ResNet, {w}" for w in ("NTK full", "NTK sum_logits", "train step")} <= names
    assert set(quick["peaks"]) == {"bfloat16", "float32", "float32 highest", "float64", "memory"}
    assert all(r["seconds"] > 0 and r["fraction_of_roofline"] > 0 for r in quick["rows"])


def test_our_counts_are_those_of_xla(quick):
    """XLA leaves out taps on padding and counts normalisation and activations."""
    for r in quick["rows"]:
        if r["what"] in ("copy", "eigh"):
            continue
        assert 0.6 < r["xla_flops"] / r["flops"] < 1.25, r["what"]


def test_the_quick_run_mislabels_nothing(quick, capsys):
    sizes = [r["size"] for r in quick["rows"] if r["what"].startswith("small ResNet")]
    assert sizes and all("16x16x3" in size for size in sizes)
    assert any("PGD-10 on ResNet-18 was not measured" in text for text in quick["summary"])


def test_xla_counts_the_whole_attack_as_the_sum_of_its_parts():
    """Steps are unrolled on a CPU, so there the engine's own program can be counted."""
    made = programs.training(plan.QUICK.model, 8, 2, "float32", 2)
    with jax.numpy_dtype_promotion("standard"):
        whole = timing._cost(made.call.lower(*made.arguments), "flops")
    assert timing._sum(made.counted) == pytest.approx(whole, rel=0.03)


def test_programs_in_bfloat16_multiply_in_bfloat16():
    """A GPU begins with them, and the quick run has none: they are traced, not compiled."""
    made = [programs.network(plan.QUICK.model, 8, 2, "bfloat16", "input gradient")]
    made += [programs.training(plan.QUICK.model, 8, 2, "bfloat16", steps) for steps in (0, 1)]
    made += [programs.convolution(4, 4, 2, "bfloat16", "train step")]
    for one in made:
        with jax.numpy_dtype_promotion("standard"):
            text = one.call.lower(*one.arguments).as_text()
        products = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        assert products and all("bf16>" in line.split(":")[-1] for line in products)


def test_the_full_plan_names_its_sizes(monkeypatch):
    """What a GPU will be asked, without asking it: no program is built."""
    monkeypatch.setattr(programs, "contraction", lambda *sizes: 1e12)
    tasks = list(plan.tasks(plan.FULL, 8 * 2**30))
    sizes = {(t.row.what, t.row.size) for t in tasks}
    assert len(sizes) == len(tasks)
    for batch in (128, 512, 2048):
        for dtype in ("bfloat16", "float32"):
            for what in ("forward", "input gradient", "train step"):
                assert (f"ResNet-18, {what}", f"batch {batch}, 32x32x3, {dtype}") in sizes
            assert ("conv 3x3, forward", f"batch {batch}, 16x16x128, {dtype}") in sizes
    assert ("ResNet-18, PGD-10 step", "batch 128, 32x32x3, bfloat16") in sizes
    assert ("eigh", "12000 x 12000, float32") in sizes
    small = list(plan.tasks(plan.FULL, 2 * 2**30))
    assert ("eigh", "8000 x 8000, float32") in {(t.row.what, t.row.size) for t in small}
