"""The grammar of ``%vbatch`` and ``%%vbatch``: the words that are allowed, and the errors for others."""

from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import json
import keyword
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from IPython.core.error import UsageError
from IPython.utils.text import DollarFormatter

from vbatch_jupyter.errors import did_you_mean
from vbatch_jupyter.frames.ask import Option, offered

_PLACES = re.compile(
    r"(?P<jinja>\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\})|(?P<braces>\{[^{}]*\})|\$\$?(?P<dollar>[A-Za-z_][\w.]*)|(?P<open>\{)"
)
"""What may be filled from a variable in a line, and the Jinja in it, which may not."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises IPython's UsageError, which is shown without a traceback, and names near misses."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = super().parse_known_args(args, namespace)
        # Here and not in parse_args, so that a verb's own parser handles its own options.
        if unknown:
            flags = list(self._option_string_actions)
            hint = did_you_mean(unknown[0].partition("=")[0], flags, written=str) if unknown[0].startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}.{hint}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith((".", "?")) else "."
        raise UsageError(f"{message}{end} See {self.prog} -h.")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        del status, message
        raise HelpShownError


class _Pairs(argparse.Action):
    """Collects ``KEY=VALUE`` of a flag that may be repeated."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, flag: str | None = None
    ) -> None:
        key, _, value = values.partition("=")
        key, pairs = key.replace("-", "_"), dict(getattr(namespace, self.dest) or {})
        if not (key and value):
            parser.error(f"argument {flag}: not of the form {self.metavar}: {values}")
        if pairs.setdefault(key, value) != value:
            parser.error(f"argument {flag}: {key!r} is given twice")
        setattr(namespace, self.dest, pairs)


class HelpShownError(Exception):
    """-h was given; its text has been printed."""


def line_parser() -> argparse.ArgumentParser:
    """Build the grammar of ``%vbatch``."""
    parser = _Parser(prog="%vbatch", description="Run LLM prompts over data on a vLLM engine in this kernel.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, help: str, *arguments: str) -> argparse.ArgumentParser:  # noqa: A002 - argparse's word
        added = verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
        for argument in arguments:
            added.add_argument(argument)
        return added

    load = verb(
        "load",
        "load a model: a Hugging Face id, a folder, or demo; then any argument of vllm serve. Or use a server as the "
        "engine: --url http://host:8000/v1, with --api-key-env NAME if it needs a key.",
        "model",
    )
    load.add_argument("flags", nargs=argparse.REMAINDER, help="such as --max-model-len 2048")
    verb("unload", "stop the engine and its processes")
    verb("engine", "show the engine's figures")
    build = verb("build", "build a batch in a widget, with a preview of its requests, and run it")
    build.add_argument("df", nargs="?", help="name of the DataFrame; the latest one by default")
    listing = verb("list", "list the batches of the store, newest first")
    listing.add_argument("-a", "--all", action="store_true", help="show all of them")
    for name, text in (
        ("show", "show one batch as OpenAI's object, with its errors"),
        ("attach", "follow a batch until it ends; an interrupt leaves it running"),
    ):
        verb(name, text).add_argument("id", nargs="?", help="the newest batch by default")
    verb("cancel", "cancel a batch and keep finished answers", "id")
    verb("resume", "continue a batch that is paused, when the cause of its reason is gone", "id")
    for name, text in (
        ("results", "return a batch's result"),
        ("retry", "run the requests without an answer again, and return the whole result"),
    ):
        added = verb(name, text)
        added.add_argument("id", nargs="?", help="the newest batch by default")
        added.add_argument("-d", "--df", metavar="DF", help="the DataFrame that the batch was made from")
        added.add_argument("-f", "--full", action="store_true", help="with tokens, latency and which rows were reused")
        _add_out(added)
    run = verb("run", "run an input file (JSON lines) as a batch", "file")
    _add_options(run, {name: option for name, option in offered("flag").items() if option.of_run})
    _add_background(run)
    _add_out(run)
    export = verb("export", "write the input file of a DataFrame's batch without running it", "df", "file")
    export.add_argument(
        "-p", "--prompt", required=True, metavar="TEXT", help="the template, or a variable with the template"
    )
    _add_options(export, {name: option for name, option in offered("flag").items() if not option.of_run})
    check = verb("check", "check what a batch service would refuse or ignore in an input file", "file")
    check.add_argument("-t", "--target", default="openai", metavar="T", help="openai, parasail, local or your own")
    environment = verb(
        "env",
        "write BATCH_BASE_URL and BATCH_API_KEY of this Jupyter server into a file that only you can read",
    )
    environment.add_argument("-w", "--write", metavar="FILE", help="the file; .env in the working directory by default")
    environment.add_argument(
        "--show", action="store_true", help="print them instead, with the key, which is then in the saved notebook"
    )
    clean = verb("clean", "remove the batches that ended long ago, with their files; by itself, say what 30d would be")
    clean.add_argument("--older-than", metavar="AGE", help="such as 30d, 12h or 2w; without it nothing is removed")
    clean.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    return parser


def cell_parser() -> argparse.ArgumentParser:
    """Build the grammar of ``%%vbatch``."""
    parser = _Parser(
        prog="%%vbatch",
        description="Run a DataFrame as a batch; the cell is the prompt, with {{ column }} for each row's values.",
        allow_abbrev=False,
    )
    parser.add_argument("df", help="name of the DataFrame")
    parser.add_argument("--dry-run", action="store_true", help="show what it would ask, compute and cost")
    parser.add_argument("--export", metavar="FILE", help="write the input file without running it")
    _add_background(parser)
    _add_out(parser)
    _add_options(parser, offered("flag"))
    return parser


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--out", type=_variable, metavar="NAME", help="variable for the result, which is then not displayed"
    )


def _add_background(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-b", "--background", action=argparse.BooleanOptionalAction, help="return at once; -o then gets the batch"
    )


def _add_options(parser: argparse.ArgumentParser, options: Mapping[str, Option]) -> None:
    for name, option in options.items():
        value: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if option.pairs:
            value = {"action": _Pairs, "metavar": option.metavar}
        elif option.type is not bool:
            value = {"type": _body if option.type is dict else option.type, "metavar": option.metavar}
        parser.add_argument(*flags_of(name, option), help=option.help, **value)


def flags_of(name: str, option: Option) -> list[str]:
    """Return the flags of an option, the long one last.

    Examples
    --------
    >>> flags_of("sample", offered("flag")["sample"]), flags_of("max_tokens", offered("flag")["max_tokens"])
    (['-n', '--sample'], ['--max-tokens'])
    """
    return [*([f"-{option.short}"] if option.short else []), "--" + name.replace("_", "-")]


def verb_parsers() -> Mapping[str, argparse.ArgumentParser]:
    """Return the grammar of each verb."""
    # argparse has no public word for the parsers that it was given.
    (verbs,) = (action for action in line_parser()._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    found: Mapping[str, argparse.ArgumentParser] = verbs.choices
    return found


def description() -> str:
    """Return all help texts: what ``%vbatch?`` shows."""
    parts = [cell_parser().format_help(), line_parser().format_help()]
    return "\n".join([*parts, *(parser.format_usage() for parser in verb_parsers().values())])


def check_verb(words: list[str], verbs: Collection[str]) -> None:
    """Raise an error for a first word that is not a verb, with similar verbs."""
    # argparse would list all of them.
    if words and not words[0].startswith("-") and words[0] not in verbs:
        hint = did_you_mean(words[0], verbs, written=str) or f" The verbs are {', '.join(verbs)}."
        raise UsageError(f"Unknown verb {words[0]!r}.{hint}")


def expanded(line: str, names: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Fill ``{expression}`` and ``$name`` in a line from variables, as IPython does for other magics.

    Jinja and JSON objects stay as they are, and so does what uses no variable. As in IPython, ``$name`` is not filled
    within single quotes, and ``$$name`` is ``$name``.

    Parameters
    ----------
    line
        The line.
    names
        The variables.

    Returns
    -------
    tuple
        The line, and what looks like a variable in it but was not filled.

    Examples
    --------
    >>> expanded('df -n {rows} -m $model -s "{{ text }}" --body {"top_k":5} -t $where', {"rows": 3, "model": "demo"})
    ('df -n 3 -m demo -s "{{ text }}" --body {"top_k":5} -t $where', ['$where'])
    """
    parts, literals, at = [], [], 0
    while match := _PLACES.search(line, at):
        parts.append(line[at : match.start()])
        at, text = match.end(), match[0]
        if text.startswith("{") and not match["jinja"] and (end := _end_of_json(line, match.start())):
            at, text = end, line[match.start() : end]
        elif match["braces"] or (match["dollar"] and line.count("'", at) % 2 == 0):
            text, literal = _filled(text, match["dollar"] or text[1:-1], names)
            literals += literal
        parts.append(text)
    return "".join([*parts, line[at:]]), literals


def _end_of_json(line: str, start: int) -> int:
    try:
        return json.JSONDecoder().raw_decode(line, start)[1]
    except ValueError:
        return 0


def _filled(text: str, expression: str, names: Mapping[str, Any]) -> tuple[str, list[str]]:
    if text.startswith("$$"):
        return text[1:], []
    try:
        tree = ast.parse(expression.partition("!")[0].strip(), mode="eval")
    except (SyntaxError, ValueError):
        return text, []
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    # A word that is only a function of Python, such as {list}, is not a variable.
    if used & names.keys():
        # Whatever an expression raises: IPython leaves it as it is, too.
        with contextlib.suppress(Exception):
            return DollarFormatter().vformat(text, (), names), []
    return text, [text] if used else []


def words_of(line: str) -> list[str]:
    """Split a line as a shell does, without the semicolon at its end that silences a cell."""
    try:
        return shlex.split(line.rstrip().removesuffix(";"))
    except ValueError as error:
        raise UsageError(f"Cannot read the line: {error}. Put text with spaces in quotes.") from error


def with_model(words: list[str]) -> list[str]:
    """Use the address as the name of what ``load --url …`` loads, if no model is given before the flags.

    Examples
    --------
    >>> with_model(["load", "--url", "http://host/v1"]), with_model(["load", "-h"])
    (['load', 'http://host/v1', '--url', 'http://host/v1'], ['load', '-h'])
    """
    if words[:1] != ["load"] or not words[1:2] or not words[1].startswith("--"):
        return words
    for flag, value in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, has_value, same_word = flag.partition("=")
        if name == "--url" and (same_word or value):
            return ["load", same_word if has_value else value, *words[1:]]
    return words


def _body(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError as error:
        # A shell takes the quotes away.
        hint = " (put it in single quotes)" if '"' not in text and text.startswith("{") else ""
        raise argparse.ArgumentTypeError(f"not valid JSON: {text}{hint}") from error
    if not isinstance(body, dict):
        raise argparse.ArgumentTypeError(f"not a JSON object: {text}")
    return body


def _variable(name: str) -> str:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise argparse.ArgumentTypeError(f"not a valid variable name: {name}")
    return name
