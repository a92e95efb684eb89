"""A widget that builds a batch: it previews the requests while you write, and can be copied as a cell."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import ipywidgets
import msgspec
from IPython.display import display

from vbatch_jupyter.display import drawing
from vbatch_jupyter.display.snapshot import Snapshot
from vbatch_jupyter.errors import FrameError, VBatchError
from vbatch_jupyter.protocol.endpoints import ENDPOINTS, Endpoint, endpoint_of
from vbatch_jupyter.widgets.cell_text import cell_text
from vbatch_jupyter.widgets.copy_button import CopyButton
from vbatch_jupyter.widgets.live import Live, html

if TYPE_CHECKING:
    import pandas as pd

_HERE = "the engine here"
_ENDPOINTS = tuple(endpoint.name for endpoint in ENDPOINTS.values())
_ROWS_SEEN = 3
_SAMPLE = 5
_ROWS_SHOWN = 10
_COLUMNS_OFFERED = 30
_WIDE = ipywidgets.Layout(width="100%", max_width="900px")


class _Batch(Protocol):
    id: str

    def snapshot(self) -> Snapshot: ...
    def cancel(self) -> object: ...
    def results(self) -> pd.DataFrame: ...
    def summary(self) -> dict[str, str]: ...


class _Session(Protocol):
    def submit(self, df: pd.DataFrame, template: str, **options: Any) -> _Batch: ...
    def served_model_names(self) -> Sequence[str]: ...
    def target_names(self) -> Sequence[str]: ...
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
        for field in self._fields:
            field.observe(self._changed, names="value")
        self._frame.observe(lambda _: self._offer_columns(), names="value")
        self._offer_columns()
        self._changed()

    def _make(self, frames: Sequence[str], df: str) -> None:
        served = list(self._session.served_model_names())
        text = functools.partial(ipywidgets.Textarea, layout=_WIDE, continuous_update=True)
        self._frame = ipywidgets.Dropdown(description="DataFrame", options=frames, value=df)
        self._target = ipywidgets.Dropdown(description="runs at", options=[_HERE, *self._session.target_names()])
        self._model = ipywidgets.Combobox(description="model", options=served, value=served[0] if served else "")
        self._endpoint = ipywidgets.Dropdown(description="endpoint", options=_ENDPOINTS)
        self._system = text(description="system", rows=2)
        self._template = text(description="prompt", rows=5, placeholder="{{ column }} is the row's value")
        self._max_tokens = ipywidgets.Text(description="max_tokens", placeholder="the model's own")
        self._temperature = ipywidgets.Text(description="temperature", placeholder="the model's own")
        self._seed = ipywidgets.Text(description="seed", placeholder="none")
        self._out = ipywidgets.Text(description="result in", value="out")
        self._fields = (
            *(self._frame, self._target, self._model, self._endpoint, self._system, self._template),
            *(self._max_tokens, self._temperature, self._seed, self._out),
        )
        self._columns = ipywidgets.HBox(layout=ipywidgets.Layout(flex_flow="row wrap"))
        self._preview = ipywidgets.HTML()
        self._sample = ipywidgets.Button(description=f"Run a sample of {_SAMPLE}")
        self._all = ipywidgets.Button(description="Run all", button_style="primary")
        self._sample.on_click(lambda _: self._run(sample=_SAMPLE))
        self._all.on_click(lambda _: self._run(sample=None))
        self._cell = ipywidgets.Textarea(description="as a cell", layout=_WIDE, rows=4)
        self._copy = CopyButton()
        self._result = ipywidgets.VBox()
        row = ipywidgets.HBox
        self.box = ipywidgets.VBox(
            [
                row([self._frame, self._target, self._model, self._endpoint], layout=self._columns.layout),
                self._columns,
                self._system,
                self._template,
                row([self._max_tokens, self._temperature, self._seed], layout=self._columns.layout),
                self._preview,
                row([self._sample, self._all, self._out]),
                self._result,
                self._cell,
                self._copy,
            ]
        )

    def show(self) -> None:
        """Display it under the cell that runs."""
        display(self.box)

    # ------------------------------------------------------------------------------------------------ what is chosen

    @property
    def _df(self) -> pd.DataFrame:
        from vbatch_jupyter.frames.frame import check_frame

        df: Any = self._names.get(self._frame.value)
        check_frame(df)
        return cast("pd.DataFrame", df)

    def _options(self) -> dict[str, Any]:
        """Return the options of `submit` that are set. Raises an error if a number is not valid."""
        chosen = {
            "endpoint": None if self._endpoint.value == _ENDPOINTS[0] else self._endpoint.value,
            "model": self._model.value.strip() or None,
            "target": None if self._target.value == _HERE else self._target.value,
            "system": self._system.value or None,
            "max_tokens": _number(self._max_tokens, int),
            "temperature": _number(self._temperature, float),
            "seed": _number(self._seed, int),
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def _offer_columns(self) -> None:
        from vbatch_jupyter.frames.columns import placeholder

        buttons = []
        for label in list(self._df.columns)[:_COLUMNS_OFFERED]:
            button = ipywidgets.Button(description=str(label), layout=ipywidgets.Layout(width="auto"))
            button.on_click(functools.partial(self._insert, placeholder(label)))
            buttons.append(button)
        self._columns.children = (ipywidgets.Label("insert"), *buttons)

    def _insert(self, words: str, _: object) -> None:
        # The front end does not tell where the cursor is.
        before = self._template.value
        self._template.value = before + (" " if before and not before[-1].isspace() else "") + words

    # -------------------------------------------------------------------------------------------------- what it sends

    def _changed(self, _: object = None) -> None:
        try:
            options = self._options()
            if not self._out.value.isidentifier():
                raise FrameError(f"{self._out.value!r} is not a valid variable name.")
            self._preview.value = self._rendered(options)
            self._copy.text = self._cell.value = cell_text(
                self._frame.value, self._template.value, options, out=self._out.value
            )
            is_ready = bool(self._template.value.strip())
        except VBatchError as error:
            self._preview.value = drawing.problem(error)
            is_ready = False
        self._sample.disabled = self._all.disabled = not is_ready

    def _rendered(self, options: Mapping[str, Any]) -> str:
        from vbatch_jupyter.frames.batches import requests_of
        from vbatch_jupyter.protocol.lines import parse_request_line

        body = {name: value for name, value in options.items() if name != "target"}
        lines, _ = requests_of(self._df.iloc[:_ROWS_SEEN], self._template.value, **{"model": "", **body})
        parts = []
        for line in lines:
            request = parse_request_line(line.rstrip(b"\n"))
            endpoint, content = endpoint_of(request.url), msgspec.json.decode(request.body)
            tokens = self._session.tokenize(endpoint, content)
            counted = "" if tokens is None else f" · {tokens:,} prompt tokens"
            parts.append(drawing.request(request.custom_id + counted, list(endpoint.turns(content))))
        return "".join(parts) or drawing.faint("The DataFrame has no rows.")

    # -------------------------------------------------------------------------------------------------------- running

    def _run(self, *, sample: int | None) -> None:
        try:
            batch = self._session.submit(self._df, self._template.value, sample=sample, **self._options())
        except VBatchError as error:
            self._result.children = (html(drawing.problem(error)),)
            return
        out = None if sample else self._out.value
        ended = functools.partial(self._ended, batch, out)
        live = Live(batch.id, snapshot=batch.snapshot, cancel=batch.cancel, on_end=ended)
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
            parts.append(result.to_html(max_rows=_ROWS_SHOWN))
        self._result.children = tuple(html(part) for part in parts)
        live.close()


def _number(field: ipywidgets.Text, kind: type[int | float]) -> int | float | None:
    if not (text := field.value.strip()):
        return None
    try:
        return kind(text)
    except ValueError as error:
        raise FrameError(f"{field.description} must be a number, not {text!r}.") from error
