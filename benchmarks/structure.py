"""The structure of the package in figures: rooms, arrows, circles, code lines, and the way of a small frame.

A room is a first-level name of the package. An arrow is a pair of rooms of which one imports the other; imports for
annotations count. A change of module is two successive call or return events in different files of the package, on
the main thread, while a frame of three rows goes through a warm echo engine. Another checkout, such as an earlier
commit's, is measured with the same script::

    python benchmarks/structure.py ../before
"""

from __future__ import annotations

import argparse
import ast
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import tokenize
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = "vbatch_jupyter"
ROOT = Path(__file__).resolve().parent.parent

MOST_ARROWS = 100
MOST_LOOSE_FILES = 6
MOST_MODULES = 40
MOST_CHANGES = 180
"""The goals: the highest figures allowed. Code lines have none, for they grow with what the package can do."""

_SESSIONS = (("session.session", "Session", "engine.echo"), ("kernel", "Kernel", "engine.echo_engine"))
"""Where this and earlier commits have the object that a process holds, and the echo engine."""

_IDLE_SECONDS = 2.5

_UNCOUNTED = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


def code_lines(path: Path) -> int:
    """Count the lines of a module that are code: no blank line, no comment, no docstring.

    Parameters
    ----------
    path
        The module's file.
    """
    source = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _UNCOUNTED:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def measure_imports(checkout: Path) -> dict[str, Any]:
    """Count rooms, arrows, circles and loose files of the checkout that is first on ``sys.path``.

    Parameters
    ----------
    checkout
        Where the package's folder is.
    """
    import grimp

    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=False, cache_dir=None)
    modules = sorted(graph.modules)

    def room(module: str) -> str:
        return module.split(".")[1] if "." in module else "__init__"

    arrows = {
        (room(importer), room(imported))
        for importer in modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if room(importer) != room(imported)
    }
    folder = checkout / PACKAGE
    return {
        "modules": len(modules),
        "rooms": len({room(module) for module in modules}),
        "arrows": len(arrows),
        "circles": sorted(
            f"{one} <-> {other}" for one, other in arrows if one < other and _reaches(arrows, other, one)
        ),
        "loose_files": len(list(folder.glob("*.py"))),
        "code_lines": sum(code_lines(path) for path in folder.rglob("*.py")),
    }


def _reaches(arrows: set[tuple[str, str]], start: str, end: str) -> bool:
    seen, ahead = set[str](), [start]
    while ahead:
        place = ahead.pop()
        seen.add(place)
        ahead += [to for source, to in arrows if source == place and to not in seen]
    return end in seen


def measure_frame(checkout: Path) -> dict[str, Any]:
    """Count the modules that a frame of three rows passes, and the changes of module on the way.

    Parameters
    ----------
    checkout
        Where the package's folder is.
    """
    import importlib
    import importlib.util
    import threading

    import pandas as pd

    store = importlib.import_module(f"{PACKAGE}.store")
    place, name, echo = next(
        found for found in _SESSIONS if importlib.util.find_spec(f"{PACKAGE}.{found[0].split('.')[0]}") is not None
    )
    session_class = getattr(importlib.import_module(f"{PACKAGE}.{place}"), name)
    engine_class = importlib.import_module(f"{PACKAGE}.{echo}").EchoEngine
    has_asks = importlib.util.find_spec(f"{PACKAGE}.frames.ask") is not None
    asked = importlib.import_module(f"{PACKAGE}.frames.ask").Ask.of if has_asks else str
    folder = str(checkout / PACKAGE) + os.sep
    passed: list[str] = []
    elsewhere: set[tuple[str, str]] = set()

    def watch(frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "return") and frame.f_code.co_filename.startswith(folder):
            passed.append(frame.f_code.co_filename)

    def watch_elsewhere(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(folder):
            elsewhere.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    df = pd.DataFrame({"text": ["one", "two", "three"]})
    # Threads that begin from here on are watched: the engine's and its pool's.
    threading.setprofile(watch_elsewhere)
    with tempfile.TemporaryDirectory() as directory:
        session = session_class(store.Store(Path(directory) / "store"), make_engine=lambda *_, **__: engine_class())
        try:
            session.progress = "none"
            session.load("echo")
            session.run(df, asked("Warm {{ text }}"))
            # What the loops of an idle session pass as well is no part of a frame's way.
            elsewhere.clear()
            time.sleep(_IDLE_SECONDS)
            idle = set(elsewhere)
            changes, ways = [], []
            # Waiting looks at the store again and again: of some runs the shortest has the fewest of these looks.
            for number in range(9):
                passed.clear()
                elsewhere.clear()
                sys.setprofile(watch)
                session.run(df, asked(f"{number} {{{{ text }}}}"))
                sys.setprofile(None)
                # Not after the session is closed, which is no part of the way.
                ways.append({file for file, _ in elsewhere - idle} | set(passed))
                changes.append(sum(one != other for one, other in itertools.pairwise(passed)))
        finally:
            session.close()
        threading.setprofile(None)
    # Nor is what only some of the runs pass.
    return {"frame_modules": len(set.intersection(*ways)), "frame_changes": min(changes)}


def main() -> int:
    """Measure a checkout, print the figures and, for this one, which goals are missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=ROOT, help="the checkout to measure; this one")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    if not options.inside:
        # In a process of its own, whose package is the checkout's.
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        command = [sys.executable, __file__, str(checkout), "--inside"]
        done = subprocess.run(command, env=environment, cwd=checkout, check=True, stdout=subprocess.PIPE, text=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        goals = {
            "arrows": MOST_ARROWS,
            "loose_files": MOST_LOOSE_FILES,
            "frame_modules": MOST_MODULES,
            "frame_changes": MOST_CHANGES,
        }
        missed = [name for name, most in goals.items() if figures[name] > most] + ["circles"] * bool(figures["circles"])
        for name, figure in figures.items():
            goal = f" (goal: at most {goals[name]:,})" if name in goals else ""
            print(f"{name:<14} {figure if isinstance(figure, list) else f'{figure:,}'}{goal}")
        print("missed: " + ", ".join(missed) if missed else "all goals are met")
        return int(bool(missed))
    print(json.dumps({**measure_imports(checkout), **measure_frame(checkout)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
