"""What this device makes of its peak, before a long run is started on it.

    python -m ntklab.gpu_check [--quick] [--minutes M] [--out FILE]

measures matrix products and a copy, which are the device's peaks; 3x3 convolutions; ResNet-18
forward, with the gradient of its images, and in training; the step of PGD-10; blocks of the
empirical tangent kernel; and `eigh`. Beside each time stand FLOPs by hand and by XLA, and the least
time that the measured peaks allow. Networks run through `ntklab.training`.
"""

import argparse
import sys
from collections.abc import Sequence

from ntklab.gpu_check.readiness import MINUTES
from ntklab.gpu_check.readiness import check as check


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check from the command line.

    Args:
      argv: the arguments; those of the process where None.

    Returns:
      0; 1 where no row has a time; 2 for a wrong argument or a file that cannot be written, with
      one sentence on standard error; 130 when interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m ntklab gpu-check", description=_DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="small sizes, seconds")
    text = f"begin no row after M minutes (default {MINUTES:g})"
    parser.add_argument("--minutes", type=float, default=MINUTES, metavar="M", help=text)
    parser.add_argument("--out", metavar="FILE", help="also write JSON, anew after every row")
    options = parser.parse_args(argv)
    try:
        record = check(options.quick, options.minutes, options.out, _show)
    except (ValueError, OSError) as error:
        print(f"ntklab: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = f"; the rows are in {options.out}" if options.out else ""
        print(f"\nInterrupted{kept}.", file=sys.stderr)
        return 130
    return int(not any(row["seconds"] for row in record["rows"]))


_DESCRIPTION = "Throughput of this device beside its measured roofline, in a few minutes."


def _show(text: str) -> None:
    print(text, flush=True)
