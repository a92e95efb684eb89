"""The command line: ``python -m vbatch_jupyter fsck``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vbatch_jupyter.errors import VBatchError
from vbatch_jupyter.store import Store
from vbatch_jupyter.store.fsck import check


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        Words of the command line; the process's own by default.

    Returns
    -------
    int
        The exit status: 0 where all is well, 1 where something is wrong with the store.
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
    options = parser.parse_args(arguments)
    return int(options.command(options))


def _fsck(options: argparse.Namespace) -> int:
    try:
        # A look at a store must not make one, nor take room for a reserve.
        with Store(options.store, must_exist=True, reserve_bytes=0) as store:
            problems = check(store)
            path = store.path
    except VBatchError as error:
        print(error, file=sys.stderr)
        return 1
    for problem in problems:
        print(problem)
    if problems:
        return 1
    print(f"The store in {path} is sound.")
    return 0
