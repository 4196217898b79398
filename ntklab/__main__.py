"""The command line: `python -m ntklab doctor | data | list | run | ledger | pack | unpack`.

Each sub-command imports what it needs and nothing else. Exit status: 0 done; 1 the doctor found
something wrong; 2 the request was wrong, with one sentence on standard error; 75 the minutes of a
run are over, and the same command goes on; 130 interrupted.
"""

import argparse
import errno
import os
import shlex
import sys
from collections.abc import Sequence

from ntklab._deadline import OutOfTime

#: What a wrong request, a missing file or a missing package raises, with a message that helps.
_EXPECTED = (ValueError, RuntimeError, OSError, ImportError)
_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return the exit status.

    Args:
      argv: the arguments; those of the process where None.

    >>> main(["data"])  # doctest: +ELLIPSIS
    mnist ...
    0
    """
    options = _parser().parse_args(argv)
    try:
        status = options.function(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"\nInterrupted{options.advice(options)}.", file=sys.stderr)
        return 130
    except OutOfTime as pause:
        print(f"The time is up: {pause}{options.advice(options)}.")
        return 75
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _EXPECTED as error:
        if options.traceback or not _ours(error):
            raise
        print(f"ntklab: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _ours(error: Exception) -> bool:
    """Whether the message is meant for the user: ntklab wrote it, or the disk is at fault.

    ntklab's sentences end in a full stop and those of Python do not; and Python names the module
    in an `ImportError` of its own.
    """
    if isinstance(error, OSError) and error.errno in _DISK:
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    written_here = module.split(".")[0] == "ntklab" or module == "__main__"
    return written_here and str(error).endswith(".") and getattr(error, "name", None) is None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ntklab", description=__doc__.split("\n")[0])
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.set_defaults(advice=lambda options: "")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(function=function)
        return added

    command("doctor", _doctor, "what this machine has, and what is wrong")
    data = command("data", _data, "where the data sets are; with NAME, get one and describe it")
    data.add_argument("name", metavar="NAME", nargs="?")
    command("list", _list, "the experiments and their sizes")
    _add_run(command("run", _run, "run an experiment and put its record into the ledger"))
    ledger = command("ledger", _ledger, "every claim, what was measured and the verdict")
    ledger.add_argument(
        "--missing",
        choices=("book", "paper"),
        help="experiments not run at this size, oldest claim first, and what they would take",
    )
    _add_pack(command("pack", _pack, "cut folders and files into checksummed parts"))
    _add_unpack(command("unpack", _unpack, "check the parts of a pack and put them together"))
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("experiment", metavar="EXPERIMENT", help="a name that `list` shows")
    run.add_argument("--size", choices=("quick", "book", "paper"), required=True)
    run.add_argument("--resume", action="store_true", help="go on where an earlier run stopped")
    run.add_argument("--out", metavar="DIR", help="folder for checkpoints")
    run.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="stop after M minutes with everything saved, exit status 75; go on by --resume",
    )
    run.add_argument(
        "--state-mib",
        type=float,
        metavar="M",
        help="hold the resumable state of a training to M MiB, by momentum in fewer bits or a "
        "restart from the start of its phase; the record says so",
    )
    run.set_defaults(advice=_resume)


def _add_pack(pack: argparse.ArgumentParser) -> None:
    pack.add_argument("path", metavar="PATH", nargs="*", help="a folder or file, .cache/runs/NAME")
    pack.add_argument("--out", metavar="DIR", required=True, help="folder for the parts")
    pack.add_argument("--part-mib", metavar="N", type=float, required=True, help="size of a part")
    pack.add_argument("--name", help="of the pack; by default that of the first path")
    pack.add_argument(
        "--runs",
        metavar="EXPERIMENT",
        nargs="?",
        const="",
        help="pack the ledger's run records instead, all or those of one experiment",
    )


def _add_unpack(unpack: argparse.ArgumentParser) -> None:
    unpack.add_argument("folder", metavar="DIR", help="where the parts are, or one manifest")
    where = unpack.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="DIR", help="folder that gets what was packed")
    where.add_argument("--runs", action="store_true", help="run records go into the ledger")
    unpack.add_argument(
        "--replace", action="store_true", help="put what was packed in the place of what is there"
    )


def _doctor(options: argparse.Namespace) -> int:
    from ntklab._doctor import report

    return int("\nWrong: " in "\n" + report())


def _data(options: argparse.Namespace) -> int:
    from ntklab.data import NAMES, found, load

    if options.name is None:
        where = {"digits": "in scikit-learn"} | found()
        for name in NAMES:
            print(f"{name:14} {where[name] or 'not here yet: downloaded when first used'}")
        return 0
    data = load(options.name)
    print(f"{data}, read from {data.source}")
    for split, y in (("train", data.y_train), ("test", data.y_test)):
        labels = y.tolist()
        counts = (f"{c} {labels.count(i)}" for i, c in enumerate(data.classes))
        print(f"{split}: {', '.join(counts)}")
    if data.inexact:
        print(f"{data.inexact} images are not byte-exact; load(..., drop_inexact=True) drops them")
    return 0


def _list(options: argparse.Namespace) -> int:
    from ntklab.papers import EXPERIMENTS

    for name, experiment in EXPERIMENTS.items():
        print(f"{name:32} {experiment.help} [{', '.join(experiment.presets)}]")
    return 0


def _resume(options: argparse.Namespace) -> str:
    command = ["python -m ntklab run", options.experiment, "--size", options.size]
    for name in ("out", "minutes", "state_mib"):
        if (given := getattr(options, name)) is not None:
            given = f"{given:g}" if isinstance(given, float) else shlex.quote(given)
            command += [f"--{name.replace('_', '-')}", given]
    return f"; what is finished is kept, go on with: {' '.join(command)} --resume"


def _run(options: argparse.Namespace) -> int:
    from ntklab import ledger
    from ntklab._deadline import Deadline
    from ntklab.papers import record

    run = record(
        options.experiment,
        options.size,
        workdir=options.out,
        resume=options.resume,
        deadline=Deadline(options.minutes),
        state_mib=options.state_mib,
    )
    for name, numbers in run.values.items():
        print(f"{name} = {sum(numbers) / len(numbers):.4g}  ({len(numbers)} seeds)")
    print(f"{run.seconds:.0f} s, {run.peak_memory_mib:.0f} MiB, {run.device}")
    if options.size == "quick":
        print("A quick run tests the code and is no record.")
        return 0
    print(f"Record: {ledger.store(run)}")
    if run.dirty:
        print("It shows but never counts: files differed from the commit; commit and run again.")
        return 0
    for verdict in ledger.verdicts(size=options.size):
        if verdict.claim.experiment == run.experiment:
            print(f"{verdict.claim.id}: {verdict}")
    return 0


def _ledger(options: argparse.Namespace) -> int:
    from ntklab import ledger

    if options.missing:
        from ntklab import papers

        for row in papers.missing(options.missing):
            times = papers.estimated_seconds(row.cost).items() if row.cost else ()
            cost = ", ".join(f"{name} {_duration(s)}" for name, s in times)
            cost = f"about {cost}" if cost else "cost not counted"
            command = f"python -m ntklab run {row.experiment} --size {options.missing} --resume"
            print(f"{command}  # {cost}; for {', '.join(row.claims)}")
        return 0
    for row in ledger.rows():
        measured = row["measured"].replace("\n", "; ") or row["command"]
        print(f"{row['id']} [{row['size']}] {row['verdict']}: {measured}")
    return 0


def _duration(seconds: float) -> str:
    """Whole minutes up to two hours, then hours; at least one minute."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes <= 120 else f"{seconds / 3600:.0f} h"


def _pack(options: argparse.Namespace) -> int:
    from ntklab._pack import pack

    paths, name = options.path, options.name
    if options.runs is not None:
        if paths:
            raise ValueError("Pack run records (--runs) and other files in separate packs.")
        paths, name = _records(options.runs), name or "runs"
    manifest = pack(paths, options.out, options.part_mib, name)
    print(f"Packed, with its parts beside it: {manifest}")
    return 0


def _records(experiment: str) -> list:
    """The paths of the ledger's records, all or those of one experiment."""
    from ntklab import ledger

    runs = ledger.runs(experiment=experiment or None)
    if not runs:
        raise ValueError(f"The ledger has no run records{' of ' * bool(experiment)}{experiment}.")
    return [ledger.folder() / "runs" / run.file for run in runs]


def _unpack(options: argparse.Namespace) -> int:
    from ntklab._unpack import unpack

    if not options.runs:
        for path in unpack(options.folder, options.to, replace=options.replace):
            print(path)
        return 0
    from ntklab import ledger

    new = []
    runs = ledger.folder(write=True) / "runs"
    here = unpack(options.folder, runs, move=lambda made, to: new.extend(ledger.adopt(made, to)))
    print(f"{len(here)} records, {len(new)} of them new, in {runs}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
