"""A widget that builds a batch: it previews the requests while you write, and can be copied as a cell."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import ipywidgets

from vbatch_jupyter.display import drawing
from vbatch_jupyter.display.progress import Snapshot
from vbatch_jupyter.errors import FrameError, VBatchError
from vbatch_jupyter.frames.ask import OPTIONS, Ask, Option, offered, prompt_of
from vbatch_jupyter.frames.schema import schemas_among
from vbatch_jupyter.protocol.endpoints import ENDPOINTS, Endpoint, endpoint_of
from vbatch_jupyter.widgets.buttons import CopyButton, Left
from vbatch_jupyter.widgets.cell_text import cell_text
from vbatch_jupyter.widgets.live import Live, display_with_hint, html, left_of

if TYPE_CHECKING:
    import pandas as pd

    from vbatch_jupyter.frames.render import Requests

_HERE = "the engine here"
_FIRST = ("target", "model", "endpoint")
_ROWS_SEEN = 3
_SAMPLE = 5
_ROWS_SHOWN = 10
_COLUMNS_OFFERED = 30
_LEFT = left_of("Here was a builder of batches, which needs its kernel.")
_WIDE = ipywidgets.Layout(width="100%", max_width="900px")


class _Batch(Protocol):
    id: str

    def snapshot(self) -> Snapshot: ...
    def cancel(self) -> object: ...
    def resume(self) -> object: ...
    def results(self) -> pd.DataFrame: ...
    def summary(self) -> dict[str, str]: ...


class _Session(Protocol):
    def submit(self, df: pd.DataFrame, ask: Ask) -> _Batch: ...
    def served_model_names(self) -> Sequence[str]: ...
    def target_names(self) -> Sequence[str]: ...
    def requests_of(self, df: pd.DataFrame, ask: Ask, *, tells: bool) -> Requests: ...
    def tokenize(self, endpoint: Endpoint, body: Mapping[str, Any]) -> int | None: ...


class Builder:
    """The widget; nothing runs before a button is pressed.

    Parameters
    ----------
    session
        Submits batches.
    names
        The notebook's variables, with the DataFrames and the result.
    df
        Name of the first DataFrame; the latest one by default.

    Raises
    ------
    FrameError
        There is no DataFrame among the variables, or not one of that name.
    """

    def __init__(self, session: _Session, names: dict[str, Any], *, df: str | None = None) -> None:
        from vbatch_jupyter.frames.frame import frames_among

        self._session = session
        self._names = names
        frames = frames_among(names)
        if df is not None and df not in frames:
            raise FrameError(f"The notebook has no DataFrame {df!r}.", param="df")
        if not frames:
            raise FrameError("The notebook has no DataFrame to build a batch from.", param="df")
        self._make(frames, df or frames[0])
        for field in (self._frame, *self._fields.values(), self._out):
            field.observe(self._changed, names="value")
        self._frame.observe(lambda _: self._offer_columns(), names="value")
        self._offer_columns()
        self._changed()

    def _make(self, frames: Sequence[str], df: str) -> None:
        self._frame = ipywidgets.Dropdown(description="DataFrame", options=frames, value=df)
        self._fields = {name: self._field(name, option) for name, option in offered("builder").items()}
        self._out = ipywidgets.Text(description="result in", value="out")
        self._columns = ipywidgets.HBox(layout=ipywidgets.Layout(flex_flow="row wrap"))
        self._preview = ipywidgets.HTML()
        self._sample = ipywidgets.Button(description=f"Run a sample of {_SAMPLE}")
        self._all = ipywidgets.Button(description="Run all", button_style="primary")
        self._sample.on_click(lambda _: self._run(sample=_SAMPLE))
        self._all.on_click(lambda _: self._run(sample=None))
        self._cell = ipywidgets.Textarea(description="as a cell", layout=_WIDE, rows=4)
        self._copy = CopyButton()
        self._result = ipywidgets.VBox()
        row = functools.partial(ipywidgets.HBox, layout=self._columns.layout)
        texts = [self._fields[name] for name, option in offered("builder").items() if option.has_lines]
        first = [self._fields[name] for name in _FIRST]
        others = [field for field in self._fields.values() if field not in (*texts, *first)]
        self.box = ipywidgets.VBox(
            [
                row([self._frame, *first]),
                self._columns,
                *texts,
                row(others),
                self._preview,
                row([self._sample, self._all, self._out]),
                self._result,
                self._cell,
                self._copy,
                Left(html=_LEFT["text/html"]),
            ]
        ).add_class("vbatch-box")

    def _field(self, name: str, option: Option) -> ipywidgets.DOMWidget:
        described = {"description": option.label or name, "tooltip": option.help}
        if option.type is bool:
            return ipywidgets.Checkbox(**described, indent=False)
        if name in ("endpoint", "target"):
            names = [endpoint.name for endpoint in ENDPOINTS.values()]
            choices = names if name == "endpoint" else [_HERE, *self._session.target_names()]
            return ipywidgets.Dropdown(**described, options=choices)
        described["placeholder"] = option.help
        if name in ("model", "schema"):
            known = schemas_among(self._names) if name == "schema" else list(self._session.served_model_names())
            chosen = known[0] if known and name == "model" else ""
            return ipywidgets.Combobox(**described, options=known, value=chosen)
        if option.has_lines:
            return ipywidgets.Textarea(**described, layout=_WIDE, rows=5 if name == "template" else 2)
        return ipywidgets.Text(**described)

    def show(self) -> None:
        """Display it under the cell that runs."""
        display_with_hint(self.box, _LEFT, f"%vbatch build {self._frame.value}", "opens this builder again")

    # ------------------------------------------------------------------------------------------------ what is chosen

    @property
    def _df(self) -> pd.DataFrame:
        from vbatch_jupyter.frames.frame import check_frame

        df: Any = self._names.get(self._frame.value)
        check_frame(df)
        return cast("pd.DataFrame", df)

    def _options(self) -> dict[str, Any]:
        """Return the options that are set, in the form of the flags. Raises an error if a value is not valid."""
        unset = ("", _HERE, False, Ask.endpoint)
        values = {name: field.value for name, field in self._fields.items() if name != "template"}
        return {
            name: _value(name, OPTIONS[name], value)
            for name, value in values.items()
            if (value.strip() if isinstance(value, str) else value) not in unset
        }

    def _ask(self, options: Mapping[str, Any], *, sample: int | None = None) -> Ask:
        fields = {name: value for name, value in options.items() if not OPTIONS[name].of_body}
        if "schema" in fields:
            if fields["schema"] not in self._names:
                raise FrameError(f"There is no variable {fields['schema']!r} to use as the schema.", param="schema")
            fields["schema"] = self._names[fields["schema"]]
        body = {name: value for name, value in options.items() if OPTIONS[name].of_body} | fields.pop("body", {})
        template = prompt_of(self._fields["template"].value, fields)
        return Ask(template=template, sample=sample, body=body, **fields)

    def _offer_columns(self) -> None:
        from vbatch_jupyter.frames.cells import placeholder

        buttons = []
        for label in list(self._df.columns)[:_COLUMNS_OFFERED]:
            button = ipywidgets.Button(description=str(label), layout=ipywidgets.Layout(width="auto"))
            button.on_click(functools.partial(self._insert, placeholder(label)))
            buttons.append(button)
        self._columns.children = (ipywidgets.Label("insert"), *buttons)

    def _insert(self, words: str, _: object) -> None:
        # The front end does not tell where the cursor is.
        template = self._fields["template"]
        before = template.value
        template.value = before + (" " if before and not before[-1].isspace() else "") + words

    # -------------------------------------------------------------------------------------------------- what it sends

    def _changed(self, _: object = None) -> None:
        template, cell, is_ready = self._fields["template"].value, "", False
        try:
            options = self._options()
            if not self._out.value.isidentifier():
                raise FrameError(f"{self._out.value!r} is not a valid variable name.")
            if template.strip() or "messages" in options:
                self._preview.value = self._rendered(self._ask(options, sample=_ROWS_SEEN))
                cell, is_ready = cell_text(self._frame.value, template, options, out=self._out.value), True
            else:
                self._preview.value = drawing.faint("Write a prompt. The buttons above it insert a column.")
        except VBatchError as error:
            self._preview.value = drawing.problem(error)
        # Not the cell of another prompt, when this one has an error.
        self._copy.text = self._cell.value = cell
        self._sample.disabled = self._all.disabled = not is_ready

    def _rendered(self, ask: Ask) -> str:
        from vbatch_jupyter.protocol.lines import decode_request_line

        ask = dataclasses.replace(ask, model=ask.model or "model")
        requests = self._session.requests_of(self._df, ask, tells=False)
        parts = [*map(drawing.faint, requests.notes)]
        for line in requests.lines:
            request = decode_request_line(line.rstrip(b"\n"))
            endpoint = endpoint_of(request.url)
            tokens = self._session.tokenize(endpoint, request.body)
            counted = "" if tokens is None else f" · {tokens:,} prompt tokens"
            parts.append(drawing.request(request.custom_id + counted, list(endpoint.turns(request.body))))
        parts += map(drawing.faint, requests.late_notes())
        return "".join(parts) or drawing.faint("The DataFrame has no rows.")

    # -------------------------------------------------------------------------------------------------------- running

    def _run(self, *, sample: int | None) -> None:
        try:
            batch = self._session.submit(self._df, self._ask(self._options(), sample=sample))
        except VBatchError as error:
            self._result.children = (html(drawing.problem(error)),)
            return
        out = None if sample else self._out.value
        ended = functools.partial(self._ended, batch, out)
        live = Live(batch.id, snapshot=batch.snapshot, cancel=batch.cancel, resume=batch.resume, on_end=ended)
        self._result.children = (live.box,)
        live.start()

    def _ended(self, batch: _Batch, out: str | None, live: Live) -> None:
        parts = [batch.summary()["text/html"]]
        try:
            result = batch.results()
        except VBatchError as error:
            parts.append(drawing.problem(error))
        else:
            if out is not None:
                self._names[out] = result
                parts.append(f"<div>{drawing.faint(f'{len(result):,} rows, in the variable {out}')}</div>")
            parts.append(drawing.page(result.to_html(max_rows=_ROWS_SHOWN)))
        self._result.children = tuple(html(part) for part in parts)
        live.close()


def _value(name: str, option: Option, value: Any) -> Any:
    """Read a field of the builder."""
    if option.type in (str, bool):
        return value.strip() if option.type is str and not option.has_lines else value
    try:
        read = json.loads(value) if option.type is dict else option.type(value)
    except ValueError as error:
        kind = "a JSON object" if option.type is dict else "a number"
        raise FrameError(f"{name} must be {kind}, not {value!r}.", param=name) from error
    if not isinstance(read, option.type):
        raise FrameError(f"{name} must be a JSON object, not {value!r}.", param=name)
    return read
