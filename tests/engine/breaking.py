"""Take each name of the contract away from the vLLM that is installed, in turn, and say what a load then says.

``python tests/engine/breaking.py`` prints it as JSON; a kernel imports `ask_too_much`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vbatch_jupyter.engine.vllm import installed
from vbatch_jupyter.engine.vllm.contract import CONTRACT, MOVED, Touch
from vbatch_jupyter.errors import EngineLoadError


def without_module(touch: Touch, undo: contextlib.ExitStack) -> None:
    """Let a module not be found, under any of its names."""
    for name in {touch.module, MOVED.get(touch.module, touch.module)}:
        before = sys.modules.get(name)
        # What is None there cannot be imported.
        sys.modules[name] = None  # type: ignore[assignment]
        undo.callback(_put_back, name, before)


def _put_back(name: str, module: Any) -> None:
    sys.modules.pop(name) if module is None else sys.modules.update({name: module})


def without_name(touch: Touch, name: str, undo: contextlib.ExitStack) -> None:
    """Let a module have no such name, or its function no such parameters."""
    module = installed.load(touch.module)
    path, _, parameters = name.rstrip(")").partition("(")
    owner, _, attribute = path.rpartition(".")
    holder: Any = getattr(module, owner) if owner else module
    if parameters:
        _set(holder, attribute, lambda: None, undo)
    elif hasattr(holder, "__members__"):
        # A member of an enum cannot be taken away.
        others = {one: member for one, member in holder.__members__.items() if one != attribute}
        _set(module, owner, types.SimpleNamespace(**others), undo)
    elif owner:
        for one in holder.__mro__[:-1]:
            _remove(one, attribute, undo)
    elif attribute in vars(module):
        _remove(module, attribute, undo)
    else:
        _set(module, "__getattr__", _raise, undo)


def _raise(name: str) -> None:
    raise AttributeError(name)


def _set(holder: Any, name: str, value: Any, undo: contextlib.ExitStack) -> None:
    if name in vars(holder):
        undo.callback(setattr, holder, name, vars(holder)[name])
    else:
        undo.callback(delattr, holder, name)
    setattr(holder, name, value)


def _remove(holder: Any, name: str, undo: contextlib.ExitStack) -> None:
    if name in vars(holder):
        undo.callback(setattr, holder, name, vars(holder)[name])
        delattr(holder, name)
    fields = getattr(holder, "__dataclass_fields__", {})
    if name in fields:
        undo.callback(fields.__setitem__, name, fields.pop(name))
    # Nor does a constructor set it.
    constructor = vars(holder).get("__init__")
    if (code := getattr(constructor, "__code__", None)) is not None:
        undo.callback(setattr, constructor, "__code__", code)
        names = tuple(f"{one}_gone" if one == name else one for one in code.co_names)
        constructor.__code__ = code.replace(co_names=names)


def without_text(touch: Touch, text: str, undo: contextlib.ExitStack) -> None:
    """Let the source of a module not have a text."""
    module = installed.load(touch.module)
    assert module.__file__ is not None
    folder = undo.enter_context(tempfile.TemporaryDirectory())
    changed = Path(folder, "changed.py")
    changed.write_text(Path(module.__file__).read_text().replace(text, "gone"))
    _set(module, "__file__", str(changed), undo)


def breaks(touch: Touch) -> Iterator[tuple[str, Callable[[contextlib.ExitStack], None]]]:
    """Yield what can be taken away of a module, and how."""
    yield "", lambda undo: without_module(touch, undo)
    for name in touch.names:
        yield name, lambda undo, name=name: without_name(touch, name, undo)  # type: ignore[misc]
    for text in touch.texts:
        yield text, lambda undo, text=text: without_text(touch, text, undo)  # type: ignore[misc]


def ask_too_much(*names: str) -> None:
    """Let some uses need a name that vLLM does not have; what vLLM does by itself is not touched."""
    for name in names:
        touches = (*CONTRACT[name].touches, Touch("vllm.v1.engine", (f"not_there_for_{name}",)))
        CONTRACT[name] = dataclasses.replace(CONTRACT[name], touches=touches)
    installed.missing.cache_clear()


def told() -> list[str]:
    """Return what a load says: its notes, or why it fails."""
    installed.missing.cache_clear()
    try:
        return installed.check()
    except EngineLoadError as error:
        return ["failed", str(error)]


def main() -> dict[str, Any]:
    importlib.import_module("vbatch_jupyter.engine.vllm.arguments")
    said: dict[str, Any] = {"whole": told()}
    begun = time.perf_counter()
    told()
    said["seconds"] = time.perf_counter() - begun
    for use_name, use in CONTRACT.items():
        for touch in use.touches:
            for name, take_away in breaks(touch):
                with contextlib.ExitStack() as undo:
                    take_away(undo)
                    said[f"{use_name} {touch.module} {name}"] = told()
    said["again"] = told()
    return said


if __name__ == "__main__":
    sys.stdout.write("JSON" + json.dumps(main()))
