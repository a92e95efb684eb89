"""What is in the package's `__all__`: importable, light, and documented down to the last argument."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys

import pytest

import vbatch_jupyter
from vbatch_jupyter.session.batch import Batch

HEAVY = ("IPython", "httpx", "jinja2", "msgspec", "numpy", "openai", "pandas", "pydantic", "torch", "vllm")


def test_the_public_names_are_sorted_and_all_there():
    assert list(vbatch_jupyter.__all__) == sorted(vbatch_jupyter.__all__)
    assert all(callable(getattr(vbatch_jupyter, name)) for name in vbatch_jupyter.__all__)
    assert set(vbatch_jupyter.__all__) >= {"attach", "load", "run", "submit", "unload"}


def test_importing_the_package_imports_nothing_heavy_and_opens_no_store(tmp_path):
    code = "import json, sys, vbatch_jupyter; print(json.dumps(sorted(sys.modules)))"
    environment = {"VBATCH_STORE": str(tmp_path / "store"), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    modules = json.loads(done.stdout)
    assert "vbatch_jupyter" in modules
    assert [name for name in HEAVY if name in modules] == []
    assert not (tmp_path / "store").exists()


def public_functions():
    yield from ((name, getattr(vbatch_jupyter, name)) for name in vbatch_jupyter.__all__)
    for name, member in vars(Batch).items():
        if not name.startswith("_") and inspect.isfunction(member):
            yield f"Batch.{name}", member


def sections(docstring):
    """Split a numpy docstring into its sections, by title."""
    parts = re.split(r"^(\w+)\n-+\n", docstring, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(("name", "function"), list(public_functions()))
def test_a_public_function_says_in_one_sentence_what_it_does_and_names_each_parameter(name, function):
    docstring = inspect.getdoc(function)
    assert docstring, f"{name} has no docstring"
    assert docstring.partition("\n")[0].endswith(".")
    parameters = {
        {"VAR_KEYWORD": "**", "VAR_POSITIONAL": "*"}.get(parameter.kind.name, "") + parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    }
    documented = set()
    for line in sections(docstring).get("Parameters", "").splitlines():
        if line and not line.startswith(" "):
            documented |= {part.strip() for part in line.split(",")}
    assert documented == parameters
