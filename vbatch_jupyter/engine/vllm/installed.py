"""The vLLM that is installed, compared with the contract."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

from vbatch_jupyter.engine.vllm.contract import CONTRACT, MOVED, REQUIREMENT, VERSIONS
from vbatch_jupyter.errors import EngineLoadError


def check() -> list[str]:
    """Compare the contract with the vLLM that is installed, and import what it names.

    Returns
    -------
    list of str
        A sentence for each use that lacks something.

    Raises
    ------
    EngineLoadError
        Something necessary is missing; the message names the versions that work.
    ImportError
        vLLM is not in order.
    """
    version, working = str(importlib.import_module("vllm").__version__), " or ".join(VERSIONS)
    notes = []
    if ".".join(version.split(".")[:2]) not in VERSIONS:
        notes.append(f"vLLM {version} has not been tried with vbatch-jupyter, which is made for {working}.")
    for part, use in CONTRACT.items():
        if not (name := missing(part)):
            continue
        if use.without is None:
            raise EngineLoadError(
                f"vLLM {version} has no {name}, which is needed to {use.purpose}: install a version that works, "
                f"{working}, with `pip install '{REQUIREMENT}'`."
            )
        notes.append(f"vLLM {version} has no {name}: {use.without}")
    return notes


@functools.cache
def missing(part: str) -> str:
    """Return the first name of a part of the contract that the installed vLLM does not have; empty if it has all.

    Parameters
    ----------
    part
        Such as ``"scheduler"``.
    """
    for touch in CONTRACT[part].touches:
        try:
            module = load(touch.module)
        except ImportError as error:
            if CONTRACT[part].without is None and not _is_part(MOVED.get(touch.module, touch.module), error.name):
                raise
            return touch.module
        for name in touch.names:
            if not _has(module, name):
                return f"{touch.module}.{name.partition('(')[0]}"
        source = Path(module.__file__ or "").read_text(encoding="utf-8") if touch.texts else ""
        for text in touch.texts:
            if not contains(source, text):
                return f"{text} in {touch.module}"
    return ""


def load(module: str) -> ModuleType:
    """Import a module of the contract under its name in the installed version."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if module not in MOVED or not _is_part(module, error.name):
            raise
        return importlib.import_module(MOVED[module])


def folder() -> Path | None:
    """Find the folder of vLLM without importing it; None if it is not installed."""
    found = importlib.util.find_spec("vllm")
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None


def source(module: str, vllm: Path) -> str | None:
    """Read the source of a module without importing it; None if there is no such module.

    Parameters
    ----------
    module
        A name of the contract.
    vllm
        The package's folder.
    """
    for name in (module, MOVED.get(module, module)):
        path = vllm.joinpath(*name.split(".")[1:])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file.read_text(encoding="utf-8")
    return None


def contains(source: str, text: str) -> bool:
    """Return whether a source has a text, as whole words.

    Examples
    --------
    >>> contains("VLLM_PLUGINS_OF_MINE = 1", "VLLM_PLUGINS"), contains('post("/tokenize")', '"/tokenize"')
    (False, True)
    """
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", source) is not None


def _is_part(module: str, package: str | None) -> bool:
    return package is not None and (module == package or module.startswith(package + "."))


def _has(module: ModuleType, name: str) -> bool:
    path, is_called, parameters = name.rstrip(")").partition("(")
    owner, _, attribute = path.rpartition(".")
    holder = getattr(module, owner, None) if owner else module
    if not is_called:
        return hasattr(holder, attribute) or _is_field(holder, attribute)
    if (function := getattr(holder, attribute, None)) is None:
        return False
    return set(filter(None, parameters.split(","))) <= {*inspect.signature(inspect.unwrap(function)).parameters}


def _is_field(owner: object, attribute: str) -> bool:
    """Return whether the constructor of a class sets an attribute."""
    constructors = [vars(one).get("__init__") for one in getattr(owner, "__mro__", ())]
    codes = [getattr(constructor, "__code__", None) for constructor in constructors]
    return attribute in getattr(owner, "__dataclass_fields__", ()) or any(
        attribute in code.co_names for code in codes if code is not None
    )
