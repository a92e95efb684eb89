r"""The ``pattern`` of a JSON schema as vLLM's grammars read it.

vLLM has two libraries for grammars, and the first schema that an engine gets decides which of them reads all others. A
pattern is sent only as both read it, and may then allow more than it should: answers are checked with the pattern as it
was written.

================================  ====================================================================================
in a pattern                      is sent as
================================  ====================================================================================
no ``^`` or ``$`` at an end       ``.*`` at that end: xgrammar would hold the whole text to what is a part of it
``\A``, ``\z``, ``\Z``            ``^`` and ``$``: xgrammar would have the model write the letters A and z
``\w``                            the letters of all languages: both libraries allow only those of ASCII
``{1,129}`` and more              ``{1,}``: xgrammar fails
look-ahead and look-behind        nothing: it is ignored or refused
``\b``, ``\B``                    nothing: it is refused
a named group                     a group
anything else that only one of    no pattern at all
them reads, or reads as Python
================================  ====================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MOST_REPEATS = 128
"""xgrammar 0.2.8 fails at a higher bound of a repetition."""

MOST_NESTED = 512
"""The most that repetitions inside of each other may ask for: a grammar for 1,024 takes 18 s on two cores."""

_WORD = "0-9A-Za-z_\u00aa-\U0010ffff"
_LOOK = "a look-ahead or look-behind"
_TOKEN = re.compile(
    r"""
    (?P<escape> \\(?: x[0-9A-Fa-f]{2} | u[0-9A-Fa-f]{4} | [pP]\{[^}]*\} | . ))
  | (?P<set>    \[\^?\]? (?: \\. | [^\]\\] )* \])
  | (?P<look>   \(\?<?[=!])
  | (?P<group>  \( (?: \?: | \?P?<\w+> )? (?!\?))
  | (?P<other>  \(\?)
  | (?P<repeat> \{\d+(?:,\d*)?\})
  | (?P<plain>  .)
    """,
    re.VERBOSE | re.DOTALL,
)
_BOUND = re.compile(r"\d{1,9}")
_ESCAPES = {"\\A": "^", "\\z": "$", "\\Z": "$", "\\w": f"[{_WORD}]"}
# Python's ASCII punctuation is what may be escaped everywhere; of the letters both libraries know these.
_SAME = re.compile(r"""\\(?:[dDsSW] | x(?!22|5[cC]|[01])[0-9A-Fa-f]{2} | u(?!0022|005[cC]|00[01])[0-9A-Fa-f]{4}
                        | [^\w\s"\\<>])""", re.VERBOSE)  # fmt: skip

_IN_SET = frozenset({'\\"', "\\<", "\\>"})
_NOT_IN_SET = _IN_SET | {"\\w", "\\\\", "\\n", "\\r", "\\t"}


class _UnheldError(Exception):
    """The pattern cannot be sent; the message names what is in it."""


def held_pattern(pattern: str) -> tuple[str | None, list[str]]:
    r"""Return what to send in place of a pattern, and what of it the grammars do not hold.

    Parameters
    ----------
    pattern
        As Python's ``re``, pydantic or ECMAScript reads it.

    Returns
    -------
    str or None
        A pattern that allows at least what the given one does; None if there is none that holds something.
    list of str
        What is not held.

    Examples
    --------
    >>> held_pattern("^[A-Z]{2}$"), held_pattern("^https://")
    (('^[A-Z]{2}$', []), ('^https://.*$', []))
    >>> held_pattern(r"^(?!bad)[a-z]+$")
    ('^[a-z]+$', ['a look-ahead or look-behind'])
    >>> held_pattern(r"^(a|b)\1$")
    (None, ['\\1'])
    """
    unheld: list[str] = []
    try:
        parts = list(_parts(pattern, unheld))
        if _repeats(parts)[1] > MOST_NESTED:
            return None, ["repetitions inside of each other"]
        branches = [_complete(branch) for branch in _branches(parts)]
    except _UnheldError as error:
        return None, [str(error)]
    sent = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
    return (None if sent == ".*" else f"^{sent}$"), unheld


def most_repeats(pattern: str) -> tuple[int, int]:
    """Return the highest bound of a repetition, and the most that those inside of each other ask for.

    Examples
    --------
    >>> most_repeats("^[a-z]{1,9}$"), most_repeats("(?:a{2}b{3,}){5}")
    ((9, 9), (5, 15))
    """
    return _repeats(token.group() for token in _TOKEN.finditer(pattern))


def _repeats(parts: Iterable[str]) -> tuple[int, int]:
    # For each open group, and for the one that was just closed, the most that its repetitions ask for.
    open_groups, closed, largest = [1], 1, 1
    for part in parts:
        if part[0] == "(":
            open_groups.append(1)
        elif part == ")" and len(open_groups) > 1:
            closed = open_groups.pop()
            open_groups[-1] = max(open_groups[-1], closed)
            continue
        elif part[0] == "{" and len(part) > 1:
            bound = max(int(bound) for bound in _BOUND.findall(part))
            largest = max(largest, bound)
            closed *= bound
            open_groups[-1] = max(open_groups[-1], closed)
        closed = 1
    return largest, max(open_groups)


def _parts(pattern: str, unheld: list[str]) -> Iterator[str]:
    """Yield the parts of a pattern as they are sent."""
    found = list(_TOKEN.finditer(pattern))
    place = 0
    while place < len(found):
        kind, text = str(found[place].lastgroup), found[place].group()
        place += 1
        if kind == "look":
            place = _after_group(found, place)
            unheld.append(_LOOK)
        elif text in ("\\b", "\\B"):
            unheld.append("\\b or \\B")
        elif kind == "other":
            raise _UnheldError(pattern[found[place - 1].start() :][:4])
        else:
            yield _sent(kind, text)


def _after_group(found: list[re.Match[str]], place: int) -> int:
    """Return the place behind a group that is left out, and behind the repetition of it."""
    depth = 1
    while depth and place < len(found):
        kind, text = found[place].lastgroup, found[place].group()
        depth += kind in ("look", "group", "other")
        depth -= kind == "plain" and text == ")"
        place += 1
    if place < len(found) and (found[place].lastgroup == "repeat" or found[place].group() in ("?", "*", "+")):
        place += 1
    return place


def _sent(kind: str, text: str) -> str:
    if kind == "repeat":
        return _sent_repeat(text)
    if kind == "set":
        return _sent_set(text)
    is_unheld = text in '"{\n\t\r'
    if kind == "escape":
        text = _ESCAPES.get(text, text)
        is_unheld = text[0] == "\\" and not _SAME.fullmatch(text)
    if is_unheld:
        # xgrammar compares with the JSON, in which quotes and line breaks are written otherwise. What the libraries
        # make of { and of other escapes differs.
        raise _UnheldError(text if text.isprintable() else repr(text))
    return "(?:" if kind == "group" else text


def _sent_repeat(text: str) -> str:
    least, comma, most = text[1:-1].partition(",")
    if max(int(least), int(most or 0)) > MOST_REPEATS:
        return f"{{{min(int(least), MOST_REPEATS)},}}"
    return f"{{{least}{comma}{most}}}"


def _sent_set(text: str) -> str:
    inside = text[1:-1]
    is_negated = inside.startswith("^")
    if "[" in inside or "&&" in inside or inside.startswith(("]", "^]")):
        raise _UnheldError(text)
    sent = []
    for part in re.findall(r"\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\.|[^\\]", inside, re.DOTALL):
        if part == "\\w" and not is_negated:
            sent.append(_WORD)
        elif part[0] == "\\" and part not in (_NOT_IN_SET if is_negated else _IN_SET) and not _SAME.fullmatch(part):
            raise _UnheldError(part)
        else:
            sent.append(part)
    return f"[{''.join(sent)}]"


def _branches(parts: Iterable[str]) -> list[list[str]]:
    """Divide a pattern at the bars outside of its groups."""
    branches: list[list[str]] = [[]]
    depth = 0
    for part in parts:
        depth += (part == "(?:") - (part == ")" and depth > 0)
        if part == "|" and not depth:
            branches.append([])
        else:
            branches[-1].append(part)
    return branches


def _complete(branch: list[str]) -> str:
    """Return a branch without its anchors, with ``.*`` where it has none."""
    begins = bool(branch) and branch[0] == "^"
    ends = bool(branch) and branch[-1] == "$"
    middle = "".join(branch[begins : len(branch) - ends])
    begin = "" if begins or middle.startswith(".*") else ".*"
    end = "" if ends or middle.endswith(".*") else ".*"
    return ".*" if not middle and begin and end else f"{begin}{middle}{end}"
