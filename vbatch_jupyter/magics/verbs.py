"""``%vbatch`` and ``%%vbatch``: parse, one call into the kernel, display."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from vbatch_jupyter import kernel
from vbatch_jupyter.batch import Batch
from vbatch_jupyter.errors import FrameError, VBatchError
from vbatch_jupyter.magics import environment
from vbatch_jupyter.magics.grammar import HelpShownError, cell_parser, check_verb, line_parser, near_misses, words_of
from vbatch_jupyter.protocol.check import Summary, check
from vbatch_jupyter.targets.configuration import rules_of
from vbatch_jupyter.widgets.frontend import draws_widgets

_LISTED = 20
_FINDINGS = 100


@magics_class
class VBatchMagics(Magics):
    """The magics of vbatch-jupyter."""

    @no_var_expand  # IPython would fill {column} from the notebook's variables
    @line_cell_magic  # type: ignore[untyped-decorator, unused-ignore]
    def vbatch(self, line: str, cell: str | None = None) -> Any:
        """``%vbatch VERB …`` or ``%%vbatch DF …`` with the prompt as the cell; ``-h`` says more."""
        try:
            words = words_of(line)
            if cell is None:
                verbs: dict[str, Callable[[argparse.Namespace], Any]] = {
                    "load": _load,
                    "unload": _unload,
                    "engine": _engine,
                    "build": self._build,
                    "list": _list,
                    "show": _show,
                    "attach": _attach,
                    "cancel": _cancel,
                    "results": self._results,
                    "retry": self._results,
                    "run": self._run_file,
                    "check": _check,
                    "env": _env,
                }
                check_verb(words, verbs)
                options = line_parser().parse_args(words or ["-h"])
                return verbs[options.verb](options)
            return self._run_cell(cell_parser().parse_args(words), cell)
        except HelpShownError:
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
            "target": options.target,
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

    def _build(self, options: argparse.Namespace) -> None:
        if not draws_widgets("widget"):
            raise UsageError("%vbatch build is a widget, and there is none outside a notebook: %%vbatch -h says more.")
        from vbatch_jupyter.widgets.build import Builder

        Builder(kernel.current(), self._user_ns(), df=options.df).show()

    def _run_file(self, options: argparse.Namespace) -> Any:
        batch = kernel.current().submit_file(Path(options.file).expanduser(), target=options.target)
        if options.background:
            return self._out(options.out, batch)
        return self._out(options.out, kernel.current().follow(batch).results())

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
        hint = near_misses(name, [known for known in names if not known.startswith("_")])
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


def _check(options: argparse.Namespace) -> None:
    rules = rules_of(options.target)
    summary = Summary(options.target)
    try:
        with Path(options.file).expanduser().open("rb") as file:
            findings = summary.counted(check(file, rules))
            for finding in itertools.islice(findings, _FINDINGS):
                print(finding)
            if more := sum(1 for _ in findings):
                print(f"… and {more:,} more: `python -m vbatch_jupyter check` lists them all")
    except OSError as error:
        raise UsageError(f"{options.file} cannot be read: {error.strerror}.") from error
    print(summary)


def _env(options: argparse.Namespace) -> None:
    values = environment.of_this_server()
    if options.write is None:
        print(environment.exports(values))
        return
    path = Path(options.write).expanduser()
    environment.write(path, values)
    print(f"{path} has {environment.BASE_URL}={values[environment.BASE_URL]} and {environment.API_KEY}, for you alone.")
