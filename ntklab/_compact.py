r"""A resumable state held to a number of bytes, with what was given up for it said in words.

A state is a dict of arrays by name, as in an `.npz` file. Where it is too large,

1. momentum is kept in bfloat16, which halves it: rounding of at most `2^-8` of each entry;
2. or in 8 bits, a quarter: blocks of 256 entries, each with a scale of its own, so that an entry
   is off by at most 1/254 of the largest of its block;
3. or the state is left out, and a resume goes on from the start of the phase (`spawn`), where
   there is no momentum yet.

After 1 and 2 a resumed run is close to the undisturbed one and not equal to it: `note` says so,
and belongs into the record. After 3 it is equal; the work since the spawn is done again.
"""

import json
import math
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from ntklab._common import check_finite

BLOCK = 256
_MARK = "@compact"
_FORMS = ("bfloat16", "8 bits")
_SPAWN = "the run went on from the start of its phase, since its state was held to {limit}"
_FEWER = (
    "the run went on from a state with momentum in {form}, held to {limit}: close to an "
    "undisturbed run, not equal to it"
)
Arrays = Mapping[str, np.ndarray]


def compact(
    arrays: Arrays,
    limit_bytes: int | float | None,
    momentum_names: Iterable[str],
    spawn: Arrays | None = None,
) -> tuple[dict[str, np.ndarray], str]:
    """A state of at most `limit_bytes`, and what a run that resumes from it must say.

    Args:
      arrays: the whole state, name -> array.
      limit_bytes: its largest size in bytes, names apart; None for no limit.
      momentum_names: names in `arrays` that may lose bits; of them only float32 and float64 do.
      spawn: the state at the start of the present phase, kept where nothing else fits.

    Returns:
      The state to write, and a note: empty where nothing was given up. The note travels in the
      state and comes out of `restore` again.

    Cost: one pass over the momentum and a copy of it.

    Raises:
      ValueError: nothing fits, a name is not in `arrays`, or momentum is NaN or infinite.

    Source: blocks with scales as in Dettmers et al. (2022), "8-bit optimizers via block-wise
    quantization", here with evenly spaced levels.

    >>> state = {"w": np.ones(1024, np.float32), "m": np.linspace(-1, 1, 1024, dtype=np.float32)}
    >>> kept, note = compact(state, 7000, ["m"])
    >>> size_of(state), size_of(kept), "bfloat16" in note
    (8192, 6144, True)
    >>> float(np.abs(restore(kept)[0]["m"] - state["m"]).max()) < 2**-8
    True
    """
    names = list(momentum_names)
    unknown = [n for n in names if n not in arrays]
    if unknown:
        raise ValueError(f"The state has no array {', '.join(unknown)}, which is named momentum.")
    if limit_bytes is None or size_of(arrays) <= limit_bytes:
        return dict(arrays), ""
    names = [n for n in names if arrays[n].dtype in (np.float32, np.float64)]
    for name in names:
        check_finite(f"the state's {name}", arrays[name])
    limit, sizes = f"{limit_bytes / 2**20:g} MiB", []
    for form in _FORMS if names else ():
        kept = _encoded(arrays, names, form)
        sizes.append(size_of(kept))
        if sizes[-1] <= limit_bytes:
            note = _FEWER.format(form=form, limit=limit)
            return _marked(kept, arrays, note, form, {n: arrays[n] for n in names}), note
    if spawn is not None:
        sizes.append(size_of(spawn))
        if sizes[-1] <= limit_bytes:
            note = _SPAWN.format(limit=limit)
            return _marked(dict(spawn), spawn, note, "", {}), note
    least = min([size_of(arrays), *sizes])
    raise ValueError(
        f"The smallest state that can be resumed takes {_mib(least)} MiB and may take {limit}: "
        f"raise --state-mib to {_mib(least)} or more."
    )


def restore(arrays: Arrays) -> tuple[dict[str, np.ndarray], str]:
    """The state as the training loop knows it, and the note of `compact`.

    Args:
      arrays: what `compact` returned, or a state that never saw it.

    Returns:
      Arrays of the names, shapes and dtypes that `compact` was given, and its note.

    Raises:
      ValueError: the state is of an unknown form.
    """
    if _MARK not in arrays:
        return dict(arrays), ""
    mark = json.loads(str(arrays[_MARK]))
    whole = dict(arrays)
    for name, (shape, dtype) in mark["arrays"].items():
        decoded = _DECODERS[mark["form"]](arrays, name, math.prod(shape))
        whole[name] = decoded.reshape(shape).astype(dtype)
    ordered = {n: whole[n] for n in mark["names"]}
    return ordered, mark["note"]


def size_of(arrays: Arrays) -> int:
    """Bytes of the arrays, without the mark that `compact` adds."""
    return sum(np.asarray(a).nbytes for n, a in arrays.items() if n != _MARK)


def _mib(size: int) -> str:
    """MiB, rounded up to two digits after the point, so that the number named is enough."""
    return f"{math.ceil(100 * size / 2**20) / 100:g}"


def _marked(
    kept: dict, names: Iterable[str], note: str, form: str, momentum: Arrays
) -> dict[str, np.ndarray]:
    shapes = {n: (a.shape, str(a.dtype)) for n, a in momentum.items()}
    text = json.dumps({"note": note, "form": form, "arrays": shapes, "names": list(names)})
    return {**kept, _MARK: np.array(text)}


def _encoded(arrays: Arrays, names: list[str], form: str) -> dict[str, np.ndarray]:
    kept = {}
    for name, array in arrays.items():
        kept |= _ENCODERS[form](name, array) if name in names else {name: array}
    return kept


def _to_bfloat16(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """As 16-bit integers, since an `.npz` file has no bfloat16."""
    return {f"{name}@bf16": array.reshape(-1).astype(jnp.bfloat16).view(np.uint16)}


def _from_bfloat16(arrays: Arrays, name: str, size: int) -> np.ndarray:
    return arrays[f"{name}@bf16"].view(jnp.bfloat16)


def _to_8_bits(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    flat = np.asarray(array, np.float32).reshape(-1)
    rows = np.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
    largest = np.abs(rows).max(axis=1, initial=0.0)
    unit = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    levels = np.clip(np.rint(rows / unit[:, None]), -127, 127).astype(np.int8)
    return {f"{name}@int8": levels.reshape(-1)[: len(flat)], f"{name}@unit": unit}


def _from_8_bits(arrays: Arrays, name: str, size: int) -> np.ndarray:
    unit = np.repeat(arrays[f"{name}@unit"], BLOCK)[:size]
    return arrays[f"{name}@int8"].astype(np.float32) * unit


_ENCODERS = {"bfloat16": _to_bfloat16, "8 bits": _to_8_bits}
_DECODERS = {"bfloat16": _from_bfloat16, "8 bits": _from_8_bits}
