"""The flags of ``vllm serve``, read from the source of the installed vLLM, because importing it takes ten seconds."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from vbatch_jupyter.engine.vllm import installed
from vbatch_jupyter.engine.vllm.contract import CONTRACT


@functools.cache
def serve_flags(vllm: Path | None = None) -> tuple[str, ...]:
    """Return the long flags in alphabetical order; empty if vLLM is not installed or has another layout.

    Parameters
    ----------
    vllm
        The package's folder; that of the vLLM that is installed by default.
    """
    if (folder := vllm or installed.folder()) is None:
        return ()
    sources = [installed.source(touch.module, folder) or "" for touch in CONTRACT["tab"].touches]
    return tuple(sorted({flag for source in sources for flag in _flags_in(source)}))


def _flags_in(source: str) -> Iterator[str]:
    r"""Return the flags that a module adds to a parser, by name or one for each field of its classes for that.

    Examples
    --------
    >>> source = "class FrontendArgs:\n    port: int\nparser.add_argument('--seed', '-s')"
    >>> sorted(_flags_in(source))
    ['--port', '--seed']
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr="add_argument")):
                words = [word.value for word in node.args if isinstance(word, ast.Constant)]
                yield from (word for word in words if isinstance(word, str) and word.startswith("--"))
            case ast.ClassDef(name="BaseFrontendArgs" | "FrontendArgs"):
                fields = [field.target for field in node.body if isinstance(field, ast.AnnAssign)]
                yield from ("--" + field.id.replace("_", "-") for field in fields if isinstance(field, ast.Name))
