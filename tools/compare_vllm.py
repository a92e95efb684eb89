"""Compare what is known of vLLM with a release, which is downloaded and unpacked, and not installed.

``python tools/compare_vllm.py 0.33.0``, or ``make vllm-next VERSION=0.33.0``, prints what the release lacks of
``engine/vllm/contract.toml``, and which body keys it has that ``protocol/endpoints.py`` does not have, or
the other way round. Nothing of it is run: a name that is there may mean something else.
"""

from __future__ import annotations

import argparse
import ast
import functools
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vbatch_jupyter.engine.vllm import installed
from vbatch_jupyter.engine.vllm.contract import CONTRACT, ELSEWHERE, Touch, Use
from vbatch_jupyter.engine.vllm.serve_flags import serve_flags
from vbatch_jupyter.protocol.endpoints import ENDPOINTS

ROOT = Path(__file__).resolve().parent.parent

REQUESTS = {
    "/v1/chat/completions": ("vllm.entrypoints.openai.chat_completion.protocol", "ChatCompletionRequest"),
    "/v1/completions": ("vllm.entrypoints.openai.completion.protocol", "CompletionRequest"),
    "/v1/embeddings": ("vllm.entrypoints.pooling.embed.protocol", "EmbeddingRequest"),
    "/v1/responses": ("vllm.entrypoints.openai.responses.protocol", "ResponsesRequest"),
}
"""The models of the bodies, by endpoint."""

Read = Callable[[str], str | None]
"""Returns the source of a module; None where there is none."""


def missing(use: Use, read: Read) -> list[str]:
    """Name everything of a use that the sources do not have.

    Parameters
    ----------
    use
        One of the contract.
    read
        Returns the sources.
    """
    return [name for touch in use.touches if touch.module.startswith("vllm.") for name in _missing_of(touch, read)]


def _missing_of(touch: Touch, read: Read) -> Iterator[str]:
    if (source := read(touch.module)) is None:
        yield touch.module
        return
    tree = ast.parse(source)
    yield from (f"{touch.module}.{name}" for name in touch.names if not has(tree, name))
    yield from (f"{text} in {touch.module}" for text in touch.texts if not installed.contains(source, text))


def has(tree: ast.Module, name: str) -> bool:
    r"""Tell whether a module has a name as `contract.Touch` writes it.

    Parameters
    ----------
    tree
        The module's.
    name
        Such as ``"SomeClass.attribute"`` and ``"some_function(parameter)"``.

    Examples
    --------
    >>> tree = ast.parse("class A:\n    def __init__(self, b):\n        self.c = b\nclass D(A):\n    e: int")
    >>> [has(tree, name) for name in ("A", "A.c", "D.c", "D.e", "D.__init__(b)", "A.e", "D.__init__(c)")]
    [True, True, True, True, True, False, False]
    """
    path, is_called, parameters = name.rstrip(")").partition("(")
    owner, _, attribute = path.rpartition(".")
    found = [node for known, node in (_attributes(tree, owner) if owner else _names(tree.body)) if known == attribute]
    if not is_called:
        return bool(found)
    wanted = set(filter(None, parameters.split(",")))
    functions = [node for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return any(wanted <= {one.arg for one in _arguments(function)} for function in functions)


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def _names(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node
            case ast.Assign(targets=targets):
                yield from ((target.id, node) for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node
            case ast.Import() | ast.ImportFrom():
                yield from ((alias.asname or alias.name, node) for alias in node.names)
            case ast.If() | ast.Try():
                yield from _names([*node.body, *node.orelse])


def _attributes(tree: ast.Module, owner: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the attributes of a class and of those of its bases that stand in the same module."""
    for known, node in _names(tree.body):
        if known == owner and isinstance(node, ast.ClassDef):
            yield from _names(node.body)
            for one in ast.walk(node):
                if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store):
                    yield one.attr, one
            for base in node.bases:
                if isinstance(base, ast.Name):
                    yield from _attributes(tree, base.id)


def body_keys(module: str, name: str, read: Read) -> set[str]:
    """Return the keys of a request's body: the fields of a pydantic model, or of all in a union.

    Parameters
    ----------
    module, name
        Of the model.
    read
        Returns the sources.
    """
    tree = ast.parse(read(module) or "")
    keys: set[str] = set()
    for known, node in _names(tree.body):
        if known != name:
            continue
        match node:
            case ast.ClassDef(body=body, bases=bases):
                keys |= {key for key, field in _names(body) if isinstance(field, ast.AnnAssign) and _is_field(field)}
                parts = [base.id for base in bases if isinstance(base, ast.Name)]
            case ast.ImportFrom(module=origin, level=level):
                origin = ".".join([*module.split(".")[:-level], origin or ""]) if level else origin or ""
                return body_keys(origin, name, read) if origin.startswith("vllm.") else set()
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                parts = [part.id for part in ast.walk(value) if isinstance(part, ast.Name)]
            case _:
                parts = []
        keys.update(*(body_keys(module, part, read) for part in parts))
    return keys


def _is_field(node: ast.AnnAssign) -> bool:
    name = ast.unparse(node.target)
    return "ClassVar" not in ast.unparse(node.annotation) and not name.startswith("_") and name != "model_config"


def sources(version: str) -> Path:
    """Download a release of vLLM with pip, unpack its Python sources, and return their folder.

    Parameters
    ----------
    version
        Such as ``"0.33.0"``; what is there already is taken.
    """
    folder = ROOT / "build" / "vllm" / version
    if not (folder / "vllm").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            download = [
                "download",
                f"vllm=={version}",
                "--no-deps",
                "--only-binary=:all:",
                f"--dest={place}",
                "--quiet",
            ]
            print(f"Downloading vLLM {version} (some 300 MB) ...", flush=True)
            if subprocess.run([sys.executable, "-m", "pip", *download], check=False).returncode:
                sys.exit(f"pip cannot download vLLM {version}; it says above why.")
            (wheel,) = Path(place).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(place, [name for name in archive.namelist() if name.endswith(".py")])
            # In one step: what is there is complete.
            Path(place, "vllm").rename(folder / "vllm")
    return folder / "vllm"


def report(read: Read) -> Iterator[str]:
    """Yield a line for each name of the contract that is missing.

    Parameters
    ----------
    read
        Returns the sources.
    """
    for use in (*CONTRACT.values(), *ELSEWHERE.values()):
        for name in missing(use, read):
            yield f"missing: {name}, needed to {use.purpose}; without it {use.without or 'no engine can be loaded.'}"


def new_keys(read: Read) -> Iterator[str]:
    """Yield a line for each body key that is not as `protocol.endpoints` has it.

    Parameters
    ----------
    read
        Returns the sources.
    """
    for path, (module, name) in REQUESTS.items():
        theirs, endpoint = body_keys(module, name, read), ENDPOINTS[path]
        known = endpoint.known_keys | endpoint.newer_keys.keys()
        yield from (f"new key of {path}: {key}" for key in sorted(theirs - known))
        yield from (f"key of {path} that is gone: {key}" for key in sorted(endpoint.vllm_keys - theirs))


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description="Compare what is known of vLLM with the sources of a release.")
    parser.add_argument("version", help="such as 0.33.0")
    version = parser.parse_args().version
    vllm = sources(version)
    read = functools.partial(installed.source, vllm=vllm)
    lines, flags = list(report(read)), serve_flags(vllm)
    if not flags:
        lines.append(f"missing: flags, needed to {CONTRACT['tab'].purpose}; without them {CONTRACT['tab'].without}")
    print(*lines, *new_keys(read), sep="\n")
    touches = [touch for use in (*CONTRACT.values(), *ELSEWHERE.values()) for touch in use.touches]
    names = sum(len(touch.names) + len(touch.texts) for touch in touches)
    print(f"vLLM {version}: {names} names and texts of {len(touches)} modules compared, {len(lines)} missing;", end=" ")
    print(f"Tab would offer {len(flags)} flags. Nothing was run.")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
