"""``%vbatch`` and ``%%vbatch``: parse, one call into the session, display."""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from IPython.core.error import UsageError
from IPython.core.magic import (
    Magics,
    cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
    output_can_be_silenced,
)
from traitlets import Bool, Enum, Float, Instance, Integer, Unicode

from vbatch_jupyter.display.drawing import one_line
from vbatch_jupyter.display.listing import BatchList
from vbatch_jupyter.errors import BadRequestError, FrameError, NotFoundError, VBatchError, did_you_mean
from vbatch_jupyter.frames.ask import OPTIONS, Ask, Option, Prompt, offered, prompt_of
from vbatch_jupyter.magics import defaults, environment
from vbatch_jupyter.magics.grammar import (
    HelpShownError,
    cell_parser,
    check_verb,
    description,
    expanded,
    line_parser,
    with_model,
    words_of,
)
from vbatch_jupyter.manager.error_groups import ErrorGroups
from vbatch_jupyter.manager.retention import lines_of_clean
from vbatch_jupyter.manager.waiting import models_for
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES
from vbatch_jupyter.protocol.check import Summary, check
from vbatch_jupyter.protocol.endpoints import endpoint_of
from vbatch_jupyter.protocol.policy import NO_LIMITS
from vbatch_jupyter.records import REBUILD_HELP, SILENCE_HELP
from vbatch_jupyter.session import session
from vbatch_jupyter.session.batch import Batch
from vbatch_jupyter.session.input_file import submit_file
from vbatch_jupyter.targets.configuration import rules_of
from vbatch_jupyter.widgets.frontend import PROGRESS_STYLES, draws_widgets

F = TypeVar("F", bound=Callable[..., Any])

_LISTED = 100
_FINDINGS = 100
_ERRORS = 10
_ERROR_CHARACTERS = 100
_TRAITS = {str: Unicode, int: Integer, float: Float, bool: Bool}


def _trait(option: Option) -> Any:
    said: dict[str, Any] = {"allow_none": True, "help": f"{option.help[0].upper()}{option.help[1:]}."}
    # A Dict would be empty if nothing is set.
    trait = Instance(dict, **said) if option.type is dict else _TRAITS[option.type](None, **said)
    return trait.tag(config=True)


def _takes(endpoint: str, name: str) -> bool:
    """Return whether a default applies to the requests of an endpoint; flags always apply."""
    known = endpoint_of(endpoint)
    if name in ("system", "schema"):
        return known.takes_system if name == "system" else known.takes_schema
    option = OPTIONS.get(name)
    return name in known.openai_keys if option is None or option.of_body else True


def _as_one_sentence(run: F) -> F:
    """Show a user's mistake as one sentence; a bug keeps its traceback."""

    @functools.wraps(run)
    def wrapped(self: VBatchMagics, *arguments: Any, **options: Any) -> Any:
        try:
            return run(self, *arguments, **options)
        except HelpShownError:
            return None
        except (VBatchError, UsageError) as error:
            literals = [literal for literal in self.literals if literal in str(error)]
            hint = f" {literals[0]} was taken as it is, because there is no such variable." if literals else ""
            # Exactly UsageError: IPython shows subclasses with a traceback.
            raise UsageError(f"{error}{hint}") from error

    # What %vbatch? shows.
    wrapped.__doc__ = description()
    return cast("F", wrapped)


@magics_class
class VBatchMagics(Magics):
    """The magics of vbatch-jupyter. Each setting is the default of the flag with that name."""

    background = Bool(None, allow_none=True, help="Whether %%vbatch and %vbatch run return at once.").tag(config=True)
    progress = Enum(PROGRESS_STYLES, None, allow_none=True, help="How to show a batch while a cell waits for it.").tag(
        config=True
    )
    engine_silence_seconds = Float(None, allow_none=True, min=0, help=SILENCE_HELP).tag(config=True)
    engine_rebuild_seconds = Float(None, allow_none=True, min=0, help=REBUILD_HELP).tag(config=True)
    locals().update({name: _trait(option) for name, option in offered("trait").items()})

    _in_files: Mapping[str, Any] | None = None
    """The defaults in files, as the current cell has read them."""

    literals: Sequence[str] = ()
    """What looks like a variable in the current line, and is not."""

    @no_var_expand  # IPython would also fill Jinja's {{ … }} and JSON
    @needs_local_scope
    @output_can_be_silenced
    @line_magic("vbatch")  # type: ignore[arg-type, untyped-decorator, unused-ignore]
    @_as_one_sentence
    def line(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Run one verb."""
        self._in_files = None
        words = self._words(line, local_ns)
        verbs: dict[str, Callable[[argparse.Namespace], Any]] = {
            "load": self._load,
            "unload": lambda _: self._session().unload(),
            "engine": lambda _: _print_engine(self._session()),
            "build": self._build,
            "list": self._list,
            "show": lambda options: _print_batch(self._batch(options), self._session()),
            "attach": self._attach,
            "cancel": lambda options: self._batch(options).cancel(),
            "resume": lambda options: self._batch(options).resume(),
            "results": self._results,
            "retry": self._results,
            "run": self._run_file,
            "export": self._export,
            "check": self._check,
            "env": _env,
            "clean": self._clean,
        }
        check_verb(words, verbs)
        options = line_parser().parse_args(with_model(words) or ["-h"])
        return verbs[options.verb](options)

    # Not silenced by a semicolon at the cell's end, which is the prompt's; the first line's counts.
    @no_var_expand
    @needs_local_scope
    @cell_magic("vbatch")  # type: ignore[arg-type, untyped-decorator, unused-ignore]
    @_as_one_sentence
    def cell(self, line: str, cell: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Send a DataFrame through a batch."""
        self._in_files = None
        value = self._run_cell(cell_parser().parse_args(self._words(line, local_ns)), cell)
        return None if line.rstrip().endswith(";") else value

    def _words(self, line: str, local_ns: Mapping[str, Any] | None) -> list[str]:
        line, self.literals = expanded(line, {**self._user_ns(), **(local_ns or {})})
        return words_of(line)

    def _run_cell(self, options: argparse.Namespace, cell: str) -> Any:
        if options.export is not None:
            return self._write(options, cell, options.export)
        current, df, ask = self._session(), self._named(options.df, "DataFrame"), self._ask(options, cell)
        if options.dry_run:
            from vbatch_jupyter.session.dry_run import dry_run

            return self._out(options.out, dry_run(current, df, ask))
        if self._default("background", options.background):
            return self._out(options.out, current.submit(df, ask))
        return self._out(options.out, current.run(df, ask))

    def _ask(self, options: argparse.Namespace, template: Prompt) -> Ask:
        """Return the ask of flags and defaults, without defaults that do not apply to the endpoint."""
        said: dict[str, Any] = {name: getattr(options, name, None) for name in offered("flag")}
        endpoint = self._default("endpoint", said["endpoint"]) or Ask.endpoint
        asked = {
            name: self._default(name, value) if name in offered("trait") and _takes(endpoint, name) else value
            for name, value in said.items()
            if name != "body"
        }
        if asked["schema"] is not None:
            asked["schema"] = self._named(asked["schema"], "schema")
        of_body = {name: asked.pop(name) for name, option in OPTIONS.items() if option.of_body}
        flag = said["body"] or {}
        # --body overrides a default, but must not repeat a flag.
        taken = {"df", "template", *asked, *(name for name in of_body if said[name] is not None)}
        if twice := sorted(taken & flag.keys()):
            named = "--" + twice[0].replace("_", "-")
            raise UsageError(f"{twice[0]!r} is both in --body and in another flag. See {named} in %%vbatch -h.")
        default = {name: value for name, value in (self._default("body", None) or {}).items() if _takes(endpoint, name)}
        body = default | {name: value for name, value in of_body.items() if value is not None} | flag
        asked = {name: value for name, value in asked.items() if value is not None}
        return Ask(template=prompt_of(template, asked), body=body, **asked)

    # ------------------------------------------------------------------------------------------------------ the verbs

    def _load(self, options: argparse.Namespace) -> None:
        self._session().load(options.model, options.flags)

    def _build(self, options: argparse.Namespace) -> None:
        if not draws_widgets("widget"):
            raise UsageError("%vbatch build needs widgets, which only a notebook has. See %%vbatch -h.")
        from vbatch_jupyter.widgets.build import Builder

        Builder(self._session(), self._user_ns(), df=options.df).show()

    def _check(self, options: argparse.Namespace) -> None:
        rules, summary = rules_of(options.target), Summary(options.target)
        current = self._session()
        models = models_for(options.target, current.store)
        engine = current.engine if options.target == "local" else None
        limits = NO_LIMITS if engine is None else engine.limits
        try:
            with Path(options.file).expanduser().open("rb") as file:
                findings = summary.counted(check(file, rules, models=models, limits=limits))
                for finding in itertools.islice(findings, _FINDINGS):
                    print(finding)
                if more := sum(1 for _ in findings):
                    print(f"… and {more:,} more: `python -m vbatch_jupyter check` lists them all")
        except OSError as error:
            raise UsageError(f"{options.file} cannot be read: {error.strerror}.") from error
        print(summary)

    def _list(self, options: argparse.Namespace) -> BatchList:
        current = self._session()
        records = list(current.batches())
        shown = records if options.all else records[:_LISTED]
        waiting = [current.manager.batches.waiting(record) for record in shown]
        return BatchList(shown, waiting, left_out=len(records) - len(shown))

    def _clean(self, options: argparse.Namespace) -> None:
        lines = list(lines_of_clean(self._session().store, older_than=options.older_than, dry_run=options.dry_run))
        # The sum and the advice come last.
        print("\n".join(lines if len(lines) <= _LISTED else [*lines[: _LISTED - 3], "…", *lines[-2:]]))

    def _run_file(self, options: argparse.Namespace) -> Any:
        current, target = self._session(), self._default("target", options.target)
        background = bool(self._default("background", options.background))
        batch = submit_file(
            current,
            Path(options.file).expanduser(),
            target=target,
            fresh=bool(self._default("fresh", options.fresh)),
            may_wait=background,
        )
        if background:
            return self._out(options.out, batch)
        return self._out(options.out, current.follow(batch).results())

    def _attach(self, options: argparse.Namespace) -> Batch:
        batch = self._batch(options)
        if (why := batch.waiting) is not None:
            print(f"{batch.id} waits: {why} Interrupt this cell (■) to use this kernel meanwhile; the batch stays.")
        # Someone else may have made the batch, so only the verb cancels it.
        return self._session().follow(batch, cancels=False)

    def _results(self, options: argparse.Namespace) -> Any:
        df = None if options.df is None else self._named(options.df, "DataFrame")
        batch = self._batch(options)
        if options.verb == "retry":
            batch = self._session().follow(batch.retry())
        elif batch.status not in TERMINAL_STATUSES and self._attach(options).status not in TERMINAL_STATUSES:
            return None  # interrupted
        if df is None and (description := batch.missing_frame) is not None:
            from vbatch_jupyter.frames.frame import frames_among

            # With --sample it was made from the first rows.
            frames = ((name, self._user_ns()[name].iloc[: description.rows]) for name in frames_among(self._user_ns()))
            name, df = next((found for found in frames if description.is_of(found[1])), ("", None))
            if df is None:
                again = f"%vbatch results {batch.id} -d FRAME"
                print(f"The rows are numbered: the DataFrame is not known here. For its index and columns: {again}")
            else:
                print(f"The rows are those of {name}, which is what the batch was made from.")
        return self._out(options.out, batch.results(df, full=options.full))

    def _export(self, options: argparse.Namespace) -> None:
        prompt, names = options.prompt, self._user_ns()
        named = names.get(prompt)
        self._write(options, named if isinstance(named, (str, list)) or callable(named) else prompt, options.file)

    def _write(self, options: argparse.Namespace, template: Prompt, name: str) -> None:
        requests = self._session().requests_of(self._named(options.df, "DataFrame"), self._ask(options, template))
        path = Path(name).expanduser()
        try:
            # Rendered whole before the file is touched: a row that cannot be rendered leaves what was there.
            written = b"".join(requests.lines)
            path.write_bytes(written)
        except OSError as error:
            raise BadRequestError(f"The file {path} cannot be written: {error.strerror}.", param="file") from error
        for note in requests.late_notes():
            print(note)
        count = len(requests.df) - len(requests.unrendered)
        print(f"Wrote {count:,} requests to {path}. To run them: %vbatch run {path}")

    # ---------------------------------------------------------------------------------------------------- what is known

    def _session(self) -> session.Session:
        current = session.current()
        if (style := self._default("progress", None)) is not None:
            current.progress = style
        for name in ("silence_seconds", "rebuild_seconds"):
            if (seconds := self._default(f"engine_{name}", None)) is not None:
                setattr(current.patience, name, seconds)
        return current

    def _default(self, name: str, flag: Any) -> Any:
        """Return a flag's value: from the flag, else from %config, else from the files."""
        if flag is not None:
            return flag
        configured = getattr(self, name)
        if configured is not None:
            return configured
        if self._in_files is None:
            self._in_files = defaults.from_files()
        return self._in_files.get(name)

    def _batch(self, options: argparse.Namespace) -> Batch:
        current = self._session()
        if options.id is not None:
            return current.attach(options.id)
        newest = next(current.batches(), None)
        if newest is None:
            raise UsageError("There are no batches in the store yet.")
        return current.attach(newest.id)

    def _named(self, name: str, kind: str) -> Any:
        names = self._user_ns()
        if name in names:
            return names[name]
        if not name.isidentifier():
            raise FrameError(f"The {kind} must be the name of a variable, not {name!r}. Assign it to a variable first.")
        hint = did_you_mean(name, [known for known in names if not known.startswith("_")], written=str)
        raise FrameError(f"There is no variable '{name}' for the {kind}.{hint}")

    def _out(self, name: str | None, value: Any) -> Any:
        if name is None:
            return value
        self._user_ns()[name] = value
        return None

    def _user_ns(self) -> dict[str, Any]:
        if self.shell is None:
            raise UsageError("%vbatch works only in IPython.")
        names: dict[str, Any] = self.shell.user_ns
        return names


def _print_engine(current: session.Session) -> None:
    for loop in current.loops():
        if loop.last_problem is not None:
            print(f"problem: {loop.last_problem}")
    engine = current.loaded_engine()
    stats = engine.stats()
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
        ("requests sent again", f"{engine.retries:,}"),
        *([] if engine.seed is None else [("seed", str(engine.seed))]),
    ):
        print(f"{name:<22} {value}")


def _print_batch(batch: Batch, current: session.Session) -> None:
    openai = batch.to_openai()
    print(openai.to_json(exclude_unset=False))
    if (waiting := batch.waiting) is not None:
        print(f"waiting: {waiting}")
    for note in current.manager.batches.notes(current.manager.batches.retrieve(batch.id)):
        print(f"note: {note}")
    if batch.status not in TERMINAL_STATUSES or batch.status == "failed":
        return
    # Also without an error file: answers may not fit their schema, and rows may not have been sent.
    try:
        errors = batch.errors()
    except NotFoundError as error:
        print(f"Its errors cannot be listed: {error}")
        return
    if errors.empty:
        return
    if len(errors) > _ERRORS:
        for kind, count in itertools.islice(ErrorGroups(errors["error"]).counted().items(), _ERRORS):
            print(f"{count:>9,}  {one_line(kind, most=_ERROR_CHARACTERS)}")
        print(f"The first {_ERRORS} of {len(errors):,}; vb.attach({batch.id!r}).errors() lists them all:")
    print(errors.head(_ERRORS).to_string(index=False, max_colwidth=_ERROR_CHARACTERS))


def _env(options: argparse.Namespace) -> None:
    values = environment.of_this_server()
    if options.show:
        print(environment.exports(values))
    if options.show and options.write is None:
        return
    path = Path(options.write or ".env").expanduser()
    environment.write(path, values)
    print(f"{path} has {environment.BASE_URL}={values[environment.BASE_URL]} and {environment.API_KEY}, for you alone.")
