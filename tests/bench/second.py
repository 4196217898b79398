"""A second Python beside this one, for libraries that do not go together with ours.

`make bench` makes its environment. A script there reads a problem from a folder, and computes once
more for each line on its standard input, so that both sides of a pair run alternately on one
machine.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]


class SecondPython:
    """One problem in a second interpreter, which starts at the first call.

    Args:
      environment: folder of the virtual environment, in the project's.
      script: a file beside this one; it is called with `arguments` and the folder of the problem,
        prints a line of JSON when it is ready, and one for each line that it reads.
      arguments: of the script.
      arrays: name -> array, written to `problem.npz`.
    """

    def __init__(self, environment: str, script: str, arguments: list[str], arrays: dict):
        self.python = ROOT / environment / "bin" / "python"
        self.script, self.arguments, self.arrays = FOLDER / script, arguments, arrays
        self.folder = self.process = None

    def call(self) -> dict:
        """Have it compute once more; what it says of that."""
        if self.process is None:
            self._start()
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return self._reply()

    def close(self) -> None:
        """End the second interpreter, if it was started."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.folder.cleanup()

    def _start(self) -> None:
        if not self.python.exists():
            raise FileNotFoundError(
                f"`make bench` makes the environment {self.python.parents[1].name}: call that."
            )
        self.folder = tempfile.TemporaryDirectory()
        np.savez(self.path / "problem.npz", **self.arrays)
        self.process = subprocess.Popen(
            [self.python, self.script, *self.arguments, self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reply()

    @property
    def path(self) -> Path:
        """The folder of the problem."""
        return Path(self.folder.name)

    def _reply(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the second interpreter ended; its message is above.")
        return json.loads(line)
