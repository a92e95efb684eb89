"""``%vbatch`` and ``%%vbatch``: parse, one call into the kernel, display."""

from __future__ import annotations

import argparse
import difflib
import json
import keyword
import shlex
from collections.abc import Callable, Collection, Iterable
from typing import Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from vbatch_jupyter import kernel
from vbatch_jupyter.batch import Batch
from vbatch_jupyter.errors import FrameError, VBatchError

_LISTED = 20


class _Parser(argparse.ArgumentParser):
    """A parser that raises IPython's UsageError, which is shown without a traceback, and names near misses."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = super().parse_known_args(args, namespace)
        # Here and not in parse_args, so that a verb's own parser sees to its own options.
        if unknown:
            flags = list(self._option_string_actions)
            hint = _near(unknown[0].partition("=")[0], flags) if unknown[0].startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}.{hint}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith((".", "?")) else "."
        raise UsageError(f"{message}{end} {self.prog} -h says more.")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        del status, message
        raise _HelpShownError


class _HelpShownError(Exception):
    """-h was given, and its text is printed."""


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def line_parser() -> argparse.ArgumentParser:
    """Build the grammar of ``%vbatch``."""
    parser = _Parser(prog="%vbatch", description="Run LLM prompts over data on a vLLM engine in this kernel.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, help: str, *arguments: str) -> argparse.ArgumentParser:  # noqa: A002 - argparse's word
        added = verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
        for argument in arguments:
            added.add_argument(argument)
        return added

    load = verb("load", "load a model: a Hugging Face id, a folder, or demo; then any argument of vllm serve", "model")
    load.add_argument("flags", nargs=argparse.REMAINDER, help="such as --max-model-len 2048")
    verb("unload", "end the engine and its processes")
    verb("engine", "show the engine's figures")
    verb("list", "list the batches of the store, the newest first")
    for name, text in (
        ("show", "show one batch as OpenAI has it, with its errors"),
        ("attach", "follow a batch until it ends; an interrupt leaves it running"),
    ):
        verb(name, text).add_argument("id", nargs="?", help="the newest batch by default")
    verb("cancel", "cancel a batch; what is finished is kept", "id")
    for name, text in (
        ("results", "give a batch's result"),
        ("retry", "run a batch's requests without an answer again, and give the completed result"),
    ):
        added = verb(name, text)
        added.add_argument("id", nargs="?", help="the newest batch by default")
        added.add_argument("-d", "--df", metavar="DF", help="the DataFrame that the batch was made from")
        added.add_argument("-o", "--out", type=_variable, metavar="NAME", help="variable for the result")
    return parser


def cell_parser() -> argparse.ArgumentParser:
    """Build the grammar of ``%%vbatch``."""
    parser = _Parser(
        prog="%%vbatch",
        description="Send a DataFrame through a batch; the cell is the prompt, with {{ column }} for a row's values.",
        allow_abbrev=False,
    )
    parser.add_argument("df", help="name of the DataFrame")
    parser.add_argument(
        "-o", "--out", type=_variable, metavar="NAME", help="variable for the result, which is then not displayed"
    )
    parser.add_argument("-b", "--background", action="store_true", help="return at once; -o gets the batch")
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")
    parser.add_argument("--schema", metavar="NAME", help="variable with a pydantic model class or a JSON schema")
    parser.add_argument("--sample", type=int, metavar="N", help="run the first N rows only")
    parser.add_argument("--fresh", action="store_true", help="ask the engine even where an answer is known")
    parser.add_argument("--endpoint", default="chat", help="chat, completions, embeddings or responses")
    parser.add_argument("--model", help="the model's name; the loaded engine's by default")
    parser.add_argument("--output", default="response", metavar="COLUMN", help="name of the response column")
    parser.add_argument("--custom-id", metavar="COLUMN", help="column whose values name the requests")
    parser.add_argument("--max-tokens", type=int, metavar="N")
    parser.add_argument("--temperature", type=float, metavar="T")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--body", type=_body, default={}, metavar="JSON", help="what else goes into each request")
    return parser


def _check_verb(words: list[str], verbs: Collection[str]) -> None:
    # argparse would list them all, whatever was meant.
    if words and not words[0].startswith("-") and words[0] not in verbs:
        hint = _near(words[0], verbs) or f" The verbs are {', '.join(verbs)}."
        raise UsageError(f"%vbatch has no verb {words[0]!r}.{hint}")


def _body(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"this is no JSON: {text}") from error
    if not isinstance(body, dict):
        raise argparse.ArgumentTypeError(f"this is no JSON object: {text}")
    return body


def _variable(name: str) -> str:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise argparse.ArgumentTypeError(f"this is no name of a variable: {name}")
    return name


@magics_class
class VBatchMagics(Magics):
    """The magics of vbatch-jupyter."""

    @no_var_expand  # IPython would fill {column} from the notebook's variables
    @line_cell_magic  # type: ignore[untyped-decorator, unused-ignore]
    def vbatch(self, line: str, cell: str | None = None) -> Any:
        """``%vbatch VERB …`` or ``%%vbatch DF …`` with the prompt as the cell; ``-h`` says more."""
        try:
            words = _words(line)
            if cell is None:
                verbs: dict[str, Callable[[argparse.Namespace], Any]] = {
                    "load": _load,
                    "unload": _unload,
                    "engine": _engine,
                    "list": _list,
                    "show": _show,
                    "attach": _attach,
                    "cancel": _cancel,
                    "results": self._results,
                    "retry": self._results,
                }
                _check_verb(words, verbs)
                options = line_parser().parse_args(words or ["-h"])
                return verbs[options.verb](options)
            return self._run_cell(cell_parser().parse_args(words), cell)
        except _HelpShownError:
            return None
        except VBatchError as error:
            # Exactly UsageError: IPython shows subclasses with a traceback.
            raise UsageError(str(error)) from error

    def _run_cell(self, options: argparse.Namespace, cell: str) -> Any:
        asked = {name: getattr(options, name) for name in ("max_tokens", "temperature", "seed")}
        arguments = {
            "system": options.system,
            "schema": None if options.schema is None else self._named(options.schema, "schema"),
            "endpoint": options.endpoint,
            "model": options.model,
            "output": options.output,
            "custom_id": options.custom_id,
            "sample": options.sample,
            "fresh": options.fresh,
            **{name: value for name, value in asked.items() if value is not None},
        }
        if twice := sorted({"df", "template", *arguments} & options.body.keys()):
            flag = "--" + twice[0].replace("_", "-")
            raise UsageError(f"--body has {twice[0]!r}, which is given in another way: see {flag} in %%vbatch -h.")
        arguments |= options.body
        df = self._named(options.df, "DataFrame")
        if options.background:
            return self._out(options.out, kernel.current().submit(df, cell, **arguments))
        return self._out(options.out, kernel.current().run(df, cell, **arguments))

    def _results(self, options: argparse.Namespace) -> Any:
        df = None if options.df is None else self._named(options.df, "DataFrame")
        batch = _batch(options)
        if options.verb == "retry":
            batch = kernel.current().follow(batch.retry())
        return self._out(options.out, batch.results(df))

    def _named(self, name: str, kind: str) -> Any:
        names = self._user_ns()
        if name in names:
            return names[name]
        hint = _near(name, [known for known in names if not known.startswith("_")])
        raise FrameError(f"There is no variable '{name}' to take as the {kind}.{hint}")

    def _out(self, name: str | None, value: Any) -> Any:
        if name is None:
            return value
        self._user_ns()[name] = value
        return None

    def _user_ns(self) -> dict[str, Any]:
        if self.shell is None:
            raise UsageError("%vbatch works inside IPython only.")
        names: dict[str, Any] = self.shell.user_ns
        return names


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"The line cannot be read: {error}. Quote text with blanks.") from error


def _batch(options: argparse.Namespace) -> Batch:
    known = kernel.current()
    if options.id is not None:
        return known.attach(options.id)
    newest = next(known.batches(), None)
    if newest is None:
        raise UsageError("There is no batch in the store yet.")
    return known.attach(newest.id)


def _load(options: argparse.Namespace) -> None:
    kernel.current().load(options.model, options.flags)


def _unload(options: argparse.Namespace) -> None:
    del options
    kernel.current().unload()


def _engine(options: argparse.Namespace) -> None:
    del options
    stats = kernel.current().loaded_engine().stats()
    for name, value in (
        ("model", stats.model),
        ("state", stats.state),
        ("running", f"{stats.running:,}"),
        ("waiting", f"{stats.waiting:,}"),
        ("KV cache usage", f"{stats.kv_cache_usage:.1%}"),
        ("prefix cache hit rate", f"{stats.prefix_cache_hit_rate:.1%}"),
        ("prompt tokens/s", f"{stats.prompt_tokens_per_second:,.1f}"),
        ("generation tokens/s", f"{stats.generation_tokens_per_second:,.1f}"),
        ("prompt tokens", f"{stats.prompt_tokens:,}"),
        ("generation tokens", f"{stats.generation_tokens:,}"),
    ):
        print(f"{name:<22} {value}")


def _list(options: argparse.Namespace) -> None:
    del options
    for count, record in enumerate(kernel.current().batches()):
        if count == _LISTED:
            print("… older ones are left out")
            return
        print(kernel.current().attach(record.id))


def _show(options: argparse.Namespace) -> None:
    batch = _batch(options)
    record = batch.snapshot().batch
    print(batch.to_openai().to_json(exclude_unset=False))
    if record.reason is not None:
        print(f"reason: {record.reason}")
    if record.error_file_id is not None:
        print(batch.errors().to_string(index=False))


def _attach(options: argparse.Namespace) -> Batch:
    # Whoever made it may not be waiting for it: to cancel it takes the word.
    return kernel.current().follow(_batch(options), cancels=False)


def _cancel(options: argparse.Namespace) -> Batch:
    return _batch(options).cancel()
