"""Reads a million mutated and made-up inputs, and prints what is wrong and one line of counts.

``python -m tools.fuzz 1000000`` takes a seed by chance, which it prints; ``--seed S --only N`` reads one input again.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import sys
import tempfile
from pathlib import Path

from tests.fuzzing import Counts, Server, fuzz
from tests.servers import JupyterServer

_PART = 50_000
_SHOWN = 100


def main() -> int:
    """Read the numbers of inputs that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--seed", type=int, default=0, help="by default one by chance, which is printed")
    parser.add_argument("--only", type=int, help="the number of one input")
    asked = parser.parse_args()
    seed = asked.seed or random.SystemRandom().randrange(1, 2**32)
    print(f"seed {seed}", flush=True)
    numbers = iter(range(asked.inputs) if asked.only is None else (asked.only,))
    counts = Counts()
    with tempfile.TemporaryDirectory() as folder, JupyterServer(Path(folder)) as jupyter:
        server = Server(jupyter)
        while part := list(itertools.islice(numbers, _PART)):
            counts += fuzz(seed, iter(part), server)
            print(counts, flush=True)
        server.close()
        counts.faults += re.findall(r"Uncaught exception .*", jupyter.log())
    print("\n".join([*counts.faults[:_SHOWN], str(counts)]))
    return bool(counts.faults)


if __name__ == "__main__":
    sys.exit(main())
