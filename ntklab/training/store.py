"""Where a run keeps what it has: a folder that survives a kill, or memory.

metrics.jsonl       a row an epoch, appended as it is known
state.npz           all that the next step needs; replaced atomically
epoch-2.5.npz       the weights at an epoch that was asked for
kernel-2.5.npz      kernel matrices at an epoch that was asked for
run.json            which run the folder belongs to
"""

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import _common


class Store:
    """The files of one run, or the same in memory where `folder` is None.

    Args:
      folder: made where missing.
      fingerprint: of all arguments; another run's folder is refused on resume.
      resume: take up what is there; otherwise what an earlier run left is removed.

    Raises:
      ValueError: on resume, a folder that belongs to a run with other arguments.
      OSError: a folder that cannot be written, said before any training.
    """

    def __init__(self, folder: str | Path | None, fingerprint: str, resume: bool):
        self.folder = None if folder is None else Path(folder)
        self.memory: dict[str, dict[str, np.ndarray]] = {}
        self.rows: list[dict] = []
        self.last = "nothing yet"
        if self.folder is None:
            return
        mark = self.folder / "run.json"
        with self._writing("run.json"):
            self.folder.mkdir(parents=True, exist_ok=True)
            if resume and mark.exists():
                if json.loads(mark.read_text(encoding="utf-8"))["fingerprint"] != fingerprint:
                    raise ValueError(
                        f"{self.folder} holds a run with other arguments or data: give them again, "
                        "choose another folder, or start afresh with resume=False."
                    )
            else:
                for old in self._files():
                    old.unlink()
            _common.write_json(mark, {"fingerprint": fingerprint})

    def save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep arrays under a name, in place of what was there."""
        if self.folder is None:
            self.memory[name] = arrays
            return
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        with self._writing(f"{name}.npz"):
            _common.write_atomically(self.folder / f"{name}.npz", buffer.getbuffer())

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """What was kept under a name, or None.

        Raises:
          ValueError: a damaged file.
        """
        if self.folder is None:
            return self.memory.get(name)
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        try:
            with np.load(path) as file:
                return dict(file)
        except Exception as error:
            raise ValueError(f"{path} is damaged: delete it and start afresh.") from error

    def names(self, prefix: str) -> list[str]:
        """The names that begin so."""
        if self.folder is None:
            return [n for n in self.memory if n.startswith(prefix)]
        return sorted(
            p.stem if p.suffix == ".npz" else p.name for p in self.folder.glob(f"{prefix}*.npz")
        )

    def add_row(self, row: dict) -> None:
        """Append a row of metrics."""
        self.rows.append(row)
        if self.folder is not None:
            with (
                self._writing("metrics.jsonl"),
                open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file,
            ):
                file.write(json.dumps(row, allow_nan=False) + "\n")

    def take_rows(self, count: int) -> None:
        """Go back to the first `count` rows, those that the state knows of."""
        if self.folder is None:
            return
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines()[:count] if path.exists() else []
        if len(lines) < count:
            raise ValueError(f"{path} has lost rows: delete {self.folder} and start afresh.")
        self.rows = [json.loads(line) for line in lines]
        with self._writing("metrics.jsonl"):
            _common.write_atomically(path, "".join(line + "\n" for line in lines))

    def _files(self) -> list[Path]:
        patterns = ("metrics.jsonl", "state.npz", "epoch-*.npz", "kernel-*.npz")
        return [path for pattern in patterns for path in self.folder.glob(pattern)]

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Turn a failure of the disk into one sentence that says what is safe."""
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self.folder / name} could not be written ({error.strerror}); kept so far: "
                f"{self.last}. Make room or choose another folder, then go on with resume=True.",
            ) from error


def to_arrays(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The leaves of a pytree by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {prefix + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(template: Any, arrays: dict[str, np.ndarray], prefix: str = "") -> Any:
    """A pytree like `template` with leaves from `to_arrays`.

    Raises:
      ValueError: a leaf that is missing or has another shape.
    """

    def leaf(path, like):
        name = prefix + jax.tree_util.keystr(path)
        if name not in arrays or arrays[name].shape != jnp.shape(like):
            raise ValueError(f"the saved state has no {name} of shape {jnp.shape(like)}.")
        return jnp.asarray(arrays[name])

    return jax.tree_util.tree_map_with_path(leaf, template)


def fingerprint(*parts: Any) -> str:
    """SHA-256 over settings (by their words, without addresses) and the bytes of arrays."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(parts, is_leaf=lambda a: a is None):
        if isinstance(leaf, np.ndarray | jax.Array):
            a = np.ascontiguousarray(leaf)
            digest.update(f"{a.dtype}{a.shape}".encode() + a.tobytes())
        else:
            digest.update(re.sub(r" at 0x[0-9a-f]+", "", repr(leaf)).encode() + b"\0")
    return digest.hexdigest()
