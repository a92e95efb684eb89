"""What `make lint` checks of the rooms of the package besides the imports: names, sizes, and CONTRIBUTING's map.

``pyproject.toml`` (``[tool.importlinter]``) says which rooms there are and on which floor; the map in CONTRIBUTING.md
has a line for each of them, from the top floor to the lowest. A module has a name that no other module has.
"""

from __future__ import annotations

import collections
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vbatch_jupyter"

SHARED_NAMES = {
    "__init__.py": "a folder's own",
    "batch.py": "OpenAI's object, and the handle on it",
    "batches.py": "the resource: its rows, its verbs, its routes",
    "engines.py": "the resource: its rows, its routes",
    "files.py": "the resource: its rows, its verbs, its routes",
    "uploads.py": "the resource: its rows, its verbs, its routes",
}
"""Names that may be in several rooms, and what they have in common there; every other name is unique."""

MOST_LINES = 420


def floors() -> list[list[str]]:
    """Return the rooms of each floor, the top floor first, as ``pyproject.toml`` has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [re.findall(r"\w+", layer) for layer in layers]


def rooms_in_map() -> list[str]:
    """Return the rooms that CONTRIBUTING.md maps, in its order."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = text.partition("\n## Rooms\n")[2].partition("\n## ")[0].splitlines()
    return [match[1] for line in lines if (match := re.match(r" {4}(\w+)(?:/|\.py)\s", line))]


def rooms_in_package() -> set[str]:
    """Return the first-level names of the package."""
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {path.stem for path in PACKAGE.glob("*.py")}
    return found - {"__init__"}


def problems() -> Iterator[str]:
    """Yield what is wrong, a sentence each."""
    named = [room for floor in floors() for room in floor]
    if missing := sorted(rooms_in_package() - set(named)):
        yield f"pyproject.toml gives no floor to {', '.join(missing)}."
    if gone := sorted(set(named) - rooms_in_package()):
        yield f"pyproject.toml gives a floor to {', '.join(gone)}, and the package has no such room."
    mapped = rooms_in_map()
    floor_of = {room: number for number, floor in enumerate(floors()) for room in floor}
    if sorted(mapped) != sorted(named):
        yield f"The map in CONTRIBUTING.md and the floors in pyproject.toml differ: {set(mapped) ^ set(named)}."
    elif mapped != sorted(mapped, key=floor_of.__getitem__):
        yield "The map in CONTRIBUTING.md is not in the order of the floors in pyproject.toml."
    modules = collections.defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        modules[path.name].append(path.relative_to(ROOT))
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES:
            yield f"{path.relative_to(ROOT)} has {lines} lines; split it into two nouns of at most {MOST_LINES}."
    for name, paths in modules.items():
        if len(paths) > 1 and name not in SHARED_NAMES:
            yield f"Two modules have the name {name}: {', '.join(map(str, paths))}. Rename one."


def main() -> int:
    """Print what is wrong; the exit status is 1 where something is."""
    found = list(problems())
    print("\n".join(found) if found else "Rooms, names and sizes are as agreed.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
