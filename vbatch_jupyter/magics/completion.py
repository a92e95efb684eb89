"""What Tab offers in ``%vbatch …``, ``x = %vbatch …``, ``%%vbatch …`` and in the prompt below it.

It is one matcher of IPython's completer, and not a ``complete_command`` hook: a hook is asked neither about an
assignment nor about the lines below a cell magic.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from vbatch_jupyter.engine.vllm.serve_flags import serve_flags
from vbatch_jupyter.errors import VBatchError
from vbatch_jupyter.frames.schema import schemas_among
from vbatch_jupyter.magics.grammar import cell_parser, verb_parsers
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.session import session
from vbatch_jupyter.session.loader import DEMO_MODELS
from vbatch_jupyter.targets.configuration import targets

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_LINE = re.compile(r"\s*(?:[^=%'\"#]+=\s*)?%vbatch(?=\s)")
_CELL = re.compile(r"%%vbatch(?=\s)")
_IN_TEMPLATE = re.compile(r"\{[{%](?:(?!\}\}|%\}).)*?(\w*)$")
_OFFERED_BATCHES = 100


class Completer:
    """Completes the magics of one shell.

    Parameters
    ----------
    shell
        The shell; its variables are offered.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell

    @classmethod
    def attach(cls, shell: InteractiveShell) -> None:
        """Add this to the completer of a shell, once."""
        cls.detach(shell)
        shell.Completer.custom_matchers.append(cls(shell).match)

    @classmethod
    def detach(cls, shell: InteractiveShell) -> None:
        """Remove this from the completer of a shell."""
        matchers = shell.Completer.custom_matchers
        matchers[:] = [matcher for matcher in matchers if not isinstance(getattr(matcher, "__self__", None), cls)]

    @context_matcher(identifier="vbatch")
    def match(self, context: CompletionContext) -> SimpleMatcherResult:
        """Answer IPython's completer.

        Parameters
        ----------
        context
            The cell, and where the cursor is in it.
        """
        before = context.text_until_cursor
        header = context.full_text.split("\n", 1)[0]
        if in_cell := _CELL.match(header):
            if context.cursor_line:
                return self._in_template(before, header[in_cell.end() :])
            return self._in_words(before[in_cell.end() :], cell_parser())
        if in_line := _LINE.match(before):
            return self._in_line(before[in_line.end() :])
        return {"completions": []}

    def _in_line(self, text: str) -> SimpleMatcherResult:
        words, _ = _split(text)
        parsers = verb_parsers()
        if not words:
            return _result(text, parsers)
        if words[0] not in parsers:
            return {"completions": []}
        return self._in_words(text.lstrip().removeprefix(words[0]), parsers[words[0]])

    def _in_words(self, text: str, parser: argparse.ArgumentParser) -> SimpleMatcherResult:
        words, current = _split(text)
        flags: Mapping[str, argparse.Action] = parser._option_string_actions  # noqa: SLF001 - no public word for them
        flag = flags.get(words[-1]) if words else None
        if flag is not None and flag.nargs != 0:
            return _result(text, self._values(flag, words))
        positional = list(parser._get_positional_actions())  # noqa: SLF001
        if current.startswith("-"):
            # Whatever follows the model is vLLM's.
            are_vllms = words and any(action.nargs == argparse.REMAINDER for action in positional)
            return _result(text, serve_flags() if are_vllms else flags)
        place = sum(not _belongs_to_flag(words, number, flags) for number in range(len(words)))
        return _result(text, self._values(positional[place], words) if place < len(positional) else ())

    def _in_template(self, before: str, header: str) -> SimpleMatcherResult:
        match = _IN_TEMPLATE.search(before)
        words, current = _split(header)
        if match is None:
            return {"completions": []}
        names = [label for label in self._columns([*words, current]) if label.isidentifier()]
        completions = [SimpleCompletion(name, type="column") for name in names if name.startswith(match[1])]
        return {"completions": completions, "suppress": bool(completions), "matched_fragment": match[1]}

    # ----------------------------------------------------------------------------------------------------- the values

    def _values(self, action: argparse.Action, words: Sequence[str]) -> Iterable[str]:
        values: Mapping[str, Callable[[], Iterable[str]]] = {
            "df": self._frames,
            "id": lambda: [record.id for record in _batches()],
            "model": lambda: _models(can_load=not action.option_strings),
            "target": _targets,
            "endpoint": lambda: [endpoint.name for endpoint in ENDPOINTS.values()],
            "custom_id": lambda: self._columns(words),
            "schema": lambda: schemas_among(self._shell.user_ns),
        }
        # IPython completes files itself, and a text or a number cannot be completed.
        return values.get(action.dest, tuple)()

    def _columns(self, words: Iterable[str]) -> Iterable[str]:
        df = self._frame(words)
        return () if df is None else [label for label in df.columns if isinstance(label, str)]

    def _frames(self) -> Sequence[str]:
        from vbatch_jupyter.frames.frame import frames_among

        return frames_among(self._shell.user_ns)

    def _frame(self, words: Iterable[str]) -> Any:
        names = self._frames()
        return next((self._shell.user_ns[word] for word in words if word in names), None)


def _split(text: str) -> tuple[list[str], str]:
    """Return the complete words, and the word at the cursor."""
    try:
        words = shlex.split(text)
    except ValueError:  # inside of quotes
        return text.split(), ""
    return (words[:-1], words[-1]) if words and not text[-1:].isspace() else (words, "")


def _belongs_to_flag(words: Sequence[str], number: int, flags: Mapping[str, argparse.Action]) -> bool:
    before = flags.get(words[number - 1]) if number else None
    return words[number].startswith("-") or (before is not None and before.nargs != 0)


def _result(text: str, names: Iterable[str]) -> SimpleMatcherResult:
    current = re.split(r"\s", text)[-1]
    fitting = [SimpleCompletion(shlex.quote(name)) for name in names if name.startswith(current)]
    return {"completions": fitting, "suppress": bool(fitting), "matched_fragment": current}


def _batches() -> Sequence[BatchRecord]:
    with contextlib.suppress(VBatchError):
        return list(itertools.islice(session.current().batches(), _OFFERED_BATCHES))
    return ()


def _targets() -> Iterable[str]:
    with contextlib.suppress(VBatchError):
        return targets()
    return ()


def _models(*, can_load: bool) -> Iterable[str]:
    served: Sequence[str] = ()
    with contextlib.suppress(VBatchError):
        served = session.current().served_model_names()
    names = (record.model for record in _batches() if record.model is not None)
    return dict.fromkeys([*served, *(DEMO_MODELS if can_load else ()), *names])
