"""An earlier commit against this checkout, in turn: `vb.run` on real engines.

Each commit runs in a process of its own, which starts its engine once; then every round runs both on the same requests,
in an order that turns. Printed are the seconds of a round, the CPU time of the front end's process per request, and the
ratios of medians with the interval that 95 of 100 redrawn samples of the rounds lie in. The exit status is 1 where this
checkout needs more than 1.02 times the CPU time per request of (d), or where the interval of its speed in (a) does not
reach 1.0.

``python benchmarks/two_commits.py 2ecf096 --workloads a,d --rounds 5``
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from report import interval
from rounds import Engine, Figures, Side, in_turn
from settings import flags_of, folder_of, variables_of
from workloads import OURS, WORKLOADS, Workload

ROOT = Path(__file__).resolve().parent.parent
MOST_CPU = 1.02
BEFORE, NOW = "before", "now"


def check_out(commit: str, folder: Path) -> Path:
    """Put the files of a commit into a folder, where Python finds them and vLLM finds their plug-in.

    Parameters
    ----------
    commit
        Any name that git knows.
    folder
        An empty folder.
    """
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE)  # noqa: S607
    subprocess.run(["tar", "-x"], cwd=folder, check=True, input=archive.stdout)  # noqa: S607
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # The environment knows the entry points of this checkout; these are found before.
    about = folder / f"vbatch_jupyter-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: vbatch-jupyter\nVersion: {project['version']}\n", encoding="utf-8")
    groups = project["entry-points"].items()
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items()) for group, named in groups
    ]
    (about / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def measure(workload: Workload, checkouts: dict[str, Path], rounds: int, place: Path) -> dict[str, list[Figures]]:
    """Run the checkouts in turn.

    Parameters
    ----------
    workload
        What is asked.
    checkouts
        By name.
    rounds
        How often.
    place
        Where models and stores may be made.
    """
    folder = folder_of(workload.setting, place)
    flags = flags_of(workload.setting, folder, equal=True)
    variables = variables_of(workload.setting, equal=True)
    figures: dict[str, list[Figures]] = {name: [] for name in checkouts}
    with contextlib.ExitStack() as stack:
        sides = {}
        for name, checkout in checkouts.items():
            own = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))
            sides[name] = stack.enter_context(Side(OURS, Engine(str(folder), flags, variables, str(own)), checkout))
            sides[name].warm_up(workload.requests(0))
        for turn in range(rounds):
            requests = workload.requests(turn)
            for name in in_turn(list(sides), turn):
                done = sides[name].run(requests)
                per_request = 1e6 * done["cpu_seconds"] / len(requests)
                figures[name].append({**done, "rate": len(requests) / done["seconds"], "cpu": per_request})
                print(
                    f"{workload.title}, round {turn + 1}, {name}: {done['seconds']:.2f} s, {per_request:,.0f} us of CPU"
                )
    return figures


def compare(workload: Workload, figures: dict[str, list[Figures]]) -> bool:
    """Print the ratios of a workload, and return whether its goal is met."""
    found = {}
    for key, what in (("rate", "requests per second"), ("cpu", "CPU time per request")):
        now, before = ([each[key] for each in figures[name]] for name in (NOW, BEFORE))
        ratio = statistics.median(now) / statistics.median(before)
        found[key] = (ratio, *interval(now, before))
        print(
            f"{workload.title}: {what}, now / before: {ratio:.3f} ({found[key][1]:.3f}-{found[key][2]:.3f})", flush=True
        )
    return found["rate"][2] >= 1 if workload.title.startswith("(a)") else found["cpu"][0] <= MOST_CPU


def main() -> int:
    """Compare what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier commit")
    parser.add_argument("--workloads", default="a,d")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    met = []
    with tempfile.TemporaryDirectory() as made:
        place = Path(made, "made")
        place.mkdir()
        checkouts = {BEFORE: check_out(options.commit, Path(tempfile.mkdtemp(dir=made))), NOW: ROOT}
        for name in options.workloads.split(","):
            for make in WORKLOADS[name]:
                workload = make()
                met.append(compare(workload, measure(workload, checkouts, options.rounds, place)))
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
