"""Refuse phrases that are not plain English, and say what to write instead.

Reads the documents, the text cells of the notebooks, and the comments and strings of the code. A phrase is found across
the end of a line too.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

PLACES = (
    "README.md",
    "CHANGELOG.md",
    "docs/*.md",
    "notebooks/*.ipynb",
    "CONTRIBUTING.md",
    "vbatch_jupyter/**/*.py",
    "vbatch_jupyter/[!l]*/**/*.toml",
    "vbatch_jupyter/[!l]*/**/*.yaml",
    "labextension/src/*.ts",
    "labextension/src/*.tsx",
    "labextension/schema/*.json",
)

BANNED = {
    r"anew": "again",
    r"beside": "next to, as well as, with",
    r"at hand": "available, loaded, known",
    r"be it": "whether",
    r"whoever|whomever": "name who: the caller, a client, the user",
    r"(?<!there )(?<!`)(?<!in )(is|are|was|were) none": "is not valid, is not one",
    r"none of its": "not one of its",
    r"(?<!there )(?<!There )is no(?= )(?! (longer|more|one|such|sooner|need|different)\b)": "is not a",
    r"(?<!not )(?<!first )stands?(?!-in| (for|in for|out|up)\b)": "is, are",
    r"stands for itself": "is clear by itself",
    r"as (it|they) stands?": "unchanged",
    r"the which|with which": "that … with",
    r"thereby|therewith|thereof|herewith": "so, with it, of it",
    r"in the place of": "instead of",
    r"(gets|get|got) on\b": "progress",
    r"(take|takes|taken|taking) up\b": "start, pick up, continue",
    r"(is|are|was|were) not there": "is missing, does not exist",
    r"for good": "permanently, never again",
    r"of (before|a moment|the moment)": "earlier, temporary, current",
    r"at (its|their) word": "as it is",
    r"but for": "except",
    r"lest|aught|naught": "so that … not, anything, nothing",
    r"speaks? of": "mentions, says",
    r"sees? to": "takes care of",
    r"(is|are|was|were) to be": "must be, will be",
    r"(None|False|True|nothing) where": "None if, False if …",
    r"(Had|Were) (a|an|the|they|it|one)": "If … had, If … were",
}
"""Phrases, as regular expressions between the ends of words, and what to write instead."""

OPENINGS = {r"Gives?\b": "Return …", r"(Say|Tell)s? (whether|which|how|what|if|why)\b": "Return …"}
"""How a docstring must not begin."""


def main(paths: list[str]) -> int:
    """Print one line for each banned phrase in the files; all of `PLACES` where none is named.

    Returns
    -------
    int
        The exit status: 1 if there was a banned phrase.
    """
    files = [Path(path) for path in paths] or sorted(path for place in PLACES for path in ROOT.glob(place))
    problems = [problem for path in files for problem in problems_of(path)]
    print("\n".join(problems) if problems else f"{len(files)} files have no banned phrase.")
    return int(bool(problems))


def problems_of(path: Path) -> Iterator[str]:
    """Find the banned phrases in one file."""
    for first_line, text in _TEXTS.get(path.suffix, _whole)(path.read_text(encoding="utf-8")):
        joined = _LINE_END.sub("\n", text)
        for pattern, instead in _PATTERNS + (_OPENINGS if text.startswith('"""') else []):
            for match in pattern.finditer(joined):
                line = first_line + joined.count("\n", 0, match.start())
                phrase = " ".join(match.group().split()).strip('"')
                yield f"{path}:{line}: {phrase!r}: write {instead!r}"


# With the blanks around it, and the mark of a comment.
_LINE_END = re.compile(r"[ \t]*\n[ \t#*/]*")
_PATTERNS = [(re.compile(rf"\b(?:{words})\b".replace(" ", "[ \n]")), instead) for words, instead in BANNED.items()]
_OPENINGS = [(re.compile(rf'\A"""(?:{words})'), instead) for words, instead in OPENINGS.items()]


def _of_python(source: str) -> Iterator[tuple[int, str]]:
    """Yield comments, successive ones as one text, and strings, each with the number of its first line."""
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_comment = token.type == tokenize.COMMENT
        if comments and (not is_comment or token.start[0] != comments[-1][0] + 1) and token.type != tokenize.NL:
            yield comments[0][0], "\n".join(text for _, text in comments)
            comments = []
        if is_comment:
            comments.append((token.start[0], token.string))
        elif tokenize.tok_name[token.type] in {"STRING", "FSTRING_MIDDLE"}:
            yield token.start[0], token.string


def _of_notebook(source: str) -> Iterator[tuple[int, str]]:
    """Yield the text cells, numbered from 1 instead of lines."""
    for number, cell in enumerate(json.loads(source)["cells"], 1):
        if cell["cell_type"] == "markdown":
            yield number, "".join(cell["source"]).replace("\n", " ")


def _whole(source: str) -> Iterator[tuple[int, str]]:
    yield 1, source


_TEXTS = {".py": _of_python, ".ipynb": _of_notebook}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
