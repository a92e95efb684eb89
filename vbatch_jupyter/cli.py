"""The command line: ``python -m vbatch_jupyter fsck``, ``check``, ``resume``, ``clean`` and ``backup``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vbatch_jupyter.errors import VBatchError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.retention import DEFAULT_AGE, lines_of_clean
from vbatch_jupyter.manager.waiting import models_for, status_text
from vbatch_jupyter.protocol.check import Summary, check
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.store import Store
from vbatch_jupyter.store import fsck as store_fsck
from vbatch_jupyter.store.backup import backup
from vbatch_jupyter.store.disk import MIB
from vbatch_jupyter.targets.configuration import rules_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        Words of the command line; the process's own by default.

    Returns
    -------
    int
        The exit status: 0 if all is well, 1 if something is wrong with the store, or if the service would
        refuse the file.
    """
    parser = argparse.ArgumentParser(prog="python -m vbatch_jupyter", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    fsck = commands.add_parser(
        "fsck",
        help="check the store",
        description="Check a store's invariants, and print one line for each problem. The store is only read.",
    )
    fsck.add_argument("store", nargs="?", help="the store's directory; by default $VBATCH_STORE, or Jupyter's")
    fsck.set_defaults(command=_fsck)
    checked = commands.add_parser(
        "check",
        help="say what a batch service would make of an input file",
        description="Print one line for each thing in an input file that a batch service would refuse, that only vLLM "
        "understands, or that would be ignored; the last line sums up. The exit status is 1 where it would be refused.",
    )
    checked.add_argument("file", type=Path, help="the input file, JSON lines")
    checked.add_argument(
        "--target",
        default="openai",
        help="openai (the default), parasail, a target of your own, or local: an engine here",
    )
    checked.add_argument("--endpoint", choices=tuple(ENDPOINTS), help="by default the url of the first request")
    checked.set_defaults(command=_check)
    resumed = commands.add_parser(
        "resume", help="continue a batch that is paused", description="Continue a batch that is paused."
    )
    resumed.add_argument("batch", help="the batch's id")
    resumed.add_argument("store", nargs="?", help="the store's directory; by default $VBATCH_STORE, or Jupyter's")
    resumed.set_defaults(command=_resume)
    cleaned = commands.add_parser(
        "clean",
        help="remove old batches and their files",
        description="Remove the batches that ended long enough ago, with their files, and say how much that is. "
        f"Without --older-than nothing is removed: it says what --older-than {DEFAULT_AGE} would.",
    )
    cleaned.add_argument("--older-than", metavar="AGE", help="such as 30d, 12h or 2w")
    cleaned.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    cleaned.add_argument("store", nargs="?", help="the store's directory; by default $VBATCH_STORE, or Jupyter's")
    cleaned.set_defaults(command=_clean)
    backed = commands.add_parser(
        "backup",
        help="copy the store while it is used",
        description="Copy the store as it is at one moment into a new directory, while batches run.",
    )
    backed.add_argument("directory", type=Path, help="a new directory")
    backed.add_argument("store", nargs="?", help="the store's directory; by default $VBATCH_STORE, or Jupyter's")
    backed.set_defaults(command=_backup)
    options = parser.parse_args(arguments)
    try:
        return int(options.command(options))
    except VBatchError as error:
        print(error, file=sys.stderr)
        return 1


def _fsck(options: argparse.Namespace) -> int:
    # Looking at a store must not make one, nor use space for a reserve.
    with Store(options.store, must_exist=True, reserve_bytes=0) as store:
        problems = store_fsck.check(store)
        path = store.path
    for problem in problems:
        print(problem)
    if problems:
        return 1
    print(f"The store in {path} is sound.")
    return 0


def _resume(options: argparse.Namespace) -> int:
    with Store(options.store, must_exist=True, reserve_bytes=0) as store:
        print(status_text(Manager(store).batches.resume(options.batch)))
    return 0


def _clean(options: argparse.Namespace) -> int:
    with Store(options.store, must_exist=True, reserve_bytes=0) as store:
        for line in lines_of_clean(store, older_than=options.older_than, dry_run=options.dry_run):
            print(line)
    return 0


def _backup(options: argparse.Namespace) -> int:
    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done:,} of {total:,} files", end="", file=sys.stderr, flush=True)

    with Store(options.store, must_exist=True, reserve_bytes=0) as store:
        try:
            copied = backup(store, options.directory, on_progress=show)
        except OSError as error:
            print(f"The backup cannot be made in {options.directory}: {error.strerror}.", file=sys.stderr)
            return 1
    print(f"{options.directory} is a copy of {store.path}: {copied.files:,} files, {copied.bytes / MIB:,.1f} MiB.")
    return 0


def _check(options: argparse.Namespace) -> int:
    rules, summary, models = rules_of(options.target), Summary(options.target), None
    if options.target == "local":
        with Store(must_exist=True, reserve_bytes=0) as store:
            models = models_for(options.target, store)
    try:
        with options.file.open("rb") as file:
            for finding in summary.counted(check(file, rules, endpoint=options.endpoint, models=models)):
                print(finding)
    except OSError as error:
        print(f"{options.file} cannot be read: {error.strerror}.", file=sys.stderr)
        return 1
    print(summary)
    return int(summary.refuses)
