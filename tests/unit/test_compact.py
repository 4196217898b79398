"""A state held to a number of bytes: what is kept, how exactly, and what is said about it."""

import doctest

import numpy as np
import pytest

from ntklab import _compact
from ntklab._compact import compact, restore, size_of


def state(rng=0, size=(30, 40)) -> dict[str, np.ndarray]:
    """Parameters, momentum of several sizes, and a counter."""
    draw = np.random.default_rng(rng).normal
    return {
        "params/w": draw(size=size).astype(np.float32),
        "momentum/w": 1e-3 * draw(size=size).astype(np.float32),
        "momentum/b": draw(size=7).astype(np.float32),
        "step": np.asarray(12, np.int32),
    }


MOMENTUM = ["momentum/w", "momentum/b"]


def through_a_file(arrays, tmp_path):
    """What an `.npz` file gives back."""
    np.savez(tmp_path / "state.npz", **arrays)
    with np.load(tmp_path / "state.npz") as file:
        return dict(file)


def same(a, b) -> bool:
    """Equal names in order, dtypes, shapes and bits."""
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes()
        for n in a
    )


@pytest.mark.parametrize("limit", [None, 1e9])
def test_a_state_that_fits_is_kept_as_it_is(tmp_path, limit):
    kept, note = compact(state(), limit, MOMENTUM)
    assert note == "" and same(kept, state())
    assert restore(through_a_file(kept, tmp_path))[1] == ""


@pytest.mark.parametrize(
    ("form", "share", "worst"), [("bfloat16", 0.5, 2**-8), ("8 bits", 0.27, 1 / 254)]
)
def test_momentum_in_fewer_bits(tmp_path, form, share, worst):
    whole = state()
    limit = size_of({n: a for n, a in whole.items() if n not in MOMENTUM})
    limit += share * size_of({n: whole[n] for n in MOMENTUM})
    kept, note = compact(whole, limit, MOMENTUM)
    assert size_of(kept) <= limit and form in note and "not equal" in note
    back, said = restore(through_a_file(kept, tmp_path))
    assert said == note and list(back) == list(whole)
    for name, array in whole.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        if name not in MOMENTUM:
            np.testing.assert_array_equal(back[name], array)
            continue
        flat = np.pad(array.reshape(-1), (0, -array.size % _compact.BLOCK))
        largest = np.abs(flat.reshape(-1, _compact.BLOCK)).max(axis=1)
        bound = np.repeat(largest, _compact.BLOCK)[: array.size].reshape(array.shape)
        if form == "bfloat16":
            bound = np.abs(array)
        assert np.all(np.abs(back[name] - array) <= worst * bound * (1 + 1e-4))
        assert np.any(back[name] != array)


def test_eight_bits_keep_the_largest_of_a_block_and_zeros(tmp_path):
    m = np.zeros(600, np.float32)
    m[[3, 300]] = [-2.0, 5.0]
    kept, _ = compact({"m": m}, 700, ["m"])
    np.testing.assert_allclose(restore(kept)[0]["m"], m, rtol=1e-6)


def test_bfloat16_comes_before_fewer_bits():
    whole = state()
    sizes = [size_of(compact(whole, limit, MOMENTUM)[0]) for limit in (1e6, 8000, 6500)]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def test_the_start_of_the_phase_is_the_last_resort(tmp_path):
    whole, spawn = state(), {"params/w": state(1)["params/w"], "step": np.asarray(0, np.int32)}
    kept, note = compact(whole, 5000, MOMENTUM, spawn=spawn)
    assert "start of its phase" in note
    back, said = restore(through_a_file(kept, tmp_path))
    assert said == note and same(back, spawn)


def test_what_fits_nowhere_names_the_number_that_does():
    with pytest.raises(ValueError, match=r"take 0\.001 MiB: raise --state-mib to (\S+) or more"):
        compact(state(), 0.001 * 2**20, MOMENTUM)
    with pytest.raises(ValueError) as caught:
        compact(state(), 10, MOMENTUM)
    enough = float(str(caught.value).split("--state-mib to ")[1].split()[0])
    assert size_of(compact(state(), enough * 2**20, MOMENTUM)[0]) <= enough * 2**20


def test_a_name_that_is_not_there_and_momentum_that_is_not_finite():
    with pytest.raises(ValueError, match="no array momentum/x"):
        compact(state(), 10, ["momentum/x"])
    broken = state() | {"momentum/b": np.full(7, np.nan, np.float32)}
    with pytest.raises(ValueError, match="momentum/b has 7 entries that are NaN"):
        compact(broken, 8000, MOMENTUM)


def test_momentum_that_is_no_float_keeps_its_bits():
    whole = {"m": np.zeros(500, np.float32), "count": np.arange(3)}
    kept, _ = compact(whole, 1100, ["m", "count"])
    np.testing.assert_array_equal(restore(kept)[0]["count"], np.arange(3))


def test_the_example_in_the_documentation():
    assert doctest.testmod(_compact) == (0, 4)
