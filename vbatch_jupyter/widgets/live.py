"""A batch drawn while it runs, and replaced by its summary when it has ended.

A thread looks at the batch a few times a second and sets the values of stock widgets; it needs nothing of the kernel's
main thread, which a cell may be blocking. The summary takes the widget's place in the same output, so that a notebook
that is saved shows it without a kernel.

An output is replaced in a page that is open, and in no file: a page that is opened after the batch's end has the
widget still. So the widget shows the summary too and is kept for a while. Without its kernel a widget is nothing, so
the output has text and HTML as well, for a notebook that is saved meanwhile; a page that is open shows `Left` instead;
and a line below says what to type, with what is shown in a notebook that is opened again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import ipywidgets
from IPython.display import display

from vbatch_jupyter.display import drawing
from vbatch_jupyter.display.progress import Progress, Rates, Snapshot, duration
from vbatch_jupyter.errors import ConflictError
from vbatch_jupyter.loop import Loop
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES
from vbatch_jupyter.protocol.endpoints import CHAT, ENDPOINTS, Endpoint
from vbatch_jupyter.widgets.buttons import Left, ServerButton

_REDRAW_SECONDS = 0.22
_END_SECONDS = 5.0
_CANCELLABLE = frozenset({"validating", "in_progress"})

_REOPENED = (
    ".jp-OutputArea-child:has(+ .jp-OutputArea-child .vbatch-hint) > .jp-OutputArea-output.jupyter-widgets"
    "{display:none}"
    ".jp-OutputArea-child:has(> .jp-OutputArea-output.jupyter-widgets) + .jp-OutputArea-child .vbatch-saved"
    "{display:block !important}"
)
"""Styles: JupyterLab draws a widget whose kernel is gone as "Error displaying widget: model not found", in an output of
this class, although the output has HTML as well. The sentence in the output below is shown instead."""

_KEPT = 8
"""How many widgets stay after the end of their batches."""

# A set and no WeakSet: copying it is one step, whichever thread starts a widget meanwhile.
_running: set[Live] = set()
_ended: collections.deque[Live] = collections.deque()


class Live:
    """The widget of one batch that runs.

    Parameters
    ----------
    batch_id
        The batch's id.
    snapshot
        Looks at the batch; called from a thread of this widget's own.
    cancel
        Cancels it, if the Jupyter server did not.
    resume
        Resumes it if it is paused, and if the Jupyter server did not.
    on_end
        Called from that thread when the batch has ended.

    Attributes
    ----------
    box
        The widget.
    left
        What is shown instead of it without its kernel, by mimetype.
    """

    def __init__(
        self,
        batch_id: str,
        *,
        snapshot: Callable[[], Snapshot],
        cancel: Callable[[], object],
        resume: Callable[[], object],
        on_end: Callable[[Live], None],
    ) -> None:
        self._snapshot = snapshot
        self._on_end = on_end
        self._progress = Progress(snapshot())
        self._rates = Rates()
        self._has_generated = False
        self._head, self._answers, self._errors = (html() for _ in range(3))
        self._button = _button("Cancel", f"vbatch/v1/batches/{batch_id}/cancel", cancel)
        self._resume = _button("Resume", f"vbatch/batches/{batch_id}/resume", resume)
        self.left = left_of(f"Batch {batch_id} had not ended when this was shown.")
        self._left = Left(html=self.left["text/html"])
        parts = [self._head, self._answers, self._errors, self._button, self._resume, self._left]
        self.box = ipywidgets.VBox(parts).add_class("vbatch-box")
        self.loop = Loop("live widget", say=self._show_problem)
        self._thread = threading.Thread(target=self._run, name=f"vbatch-live-{batch_id[-8:]}", daemon=True)
        self._draw(self._progress.now)

    def start(self) -> None:
        """Begin to redraw."""
        _running.add(self)
        self._thread.start()

    def finish(self) -> None:
        """Look at once, and wait for the summary of a batch that has ended."""
        self.loop.wake()
        self._thread.join(_END_SECONDS)

    def stop(self) -> None:
        """Stop redrawing; the process is ending."""
        self.loop.end()
        self._thread.join(_END_SECONDS)

    def settle(self, summary: str) -> None:
        """Show the summary, as HTML, instead of everything else."""
        self._head.value = self._left.html = summary
        self.box.children = (self._head, self._left)
        _close(self._answers, self._errors, self._button, self._resume)

    def close(self) -> None:
        """Let the front end forget the widget."""
        _close(*self.box.children, self.box)

    def _run(self) -> None:
        try:
            asyncio.run(self.loop.run(self._look, every=_REDRAW_SECONDS))
        finally:
            _running.discard(self)

    async def _look(self) -> None:
        now = self._snapshot()
        if now.batch.status in TERMINAL_STATUSES:
            self._on_end(self)
            self.loop.end()
        else:
            self._draw(now)

    def _show_problem(self, text: str) -> None:
        self._errors.value = drawing.errors_list({text: 1})

    # ------------------------------------------------------------------------------------------------------- drawing

    def _draw(self, now: Snapshot) -> None:
        endpoint = ENDPOINTS.get(now.batch.endpoint, CHAT)
        self._head.value = self._head_of(self._progress.see(now))
        self._answers.value = drawing.answers_list(_said(endpoint, line) for line in now.answers)
        self._errors.value = drawing.errors_list(now.errors)
        self._button.is_enabled = now.batch.status in _CANCELLABLE
        self._resume.is_enabled = now.batch.paused
        self._resume.layout.display = None if now.batch.paused else "none"

    def _head_of(self, progress: Progress) -> str:
        batch, engine = progress.now.batch, progress.now.engine
        pairs = []
        if seconds := progress.pace.seconds_left:
            pairs.append(("left", duration(seconds)))
        if rate := progress.pace.requests_per_second:
            pairs.append(("requests/s", f"{rate:,.1f}"))
        if engine is not None:
            pairs += [
                ("generation tokens/s", f"{engine.generation_tokens_per_second:,.0f}"),
                ("prompt tokens/s", f"{engine.prompt_tokens_per_second:,.0f}"),
                ("running", f"{engine.running:,}"),
                ("waiting", f"{engine.waiting:,}"),
                ("KV cache usage", f"{engine.kv_cache_usage:.0%}"),
                ("prefix cache hit rate", f"{engine.prefix_cache_hit_rate:.0%}"),
            ]
        parts = [
            drawing.heading(batch, progress.now.waiting),
            drawing.counts_bar(batch),
            f"<div>{drawing.figures(pairs)}</div>",
            self._rate_line(progress),
        ]
        return drawing.page("".join(parts), style="max-width:720px")

    def _rate_line(self, progress: Progress) -> str:
        engine = progress.now.engine
        generated = engine.generation_tokens_per_second if engine else 0.0
        self._has_generated = self._has_generated or generated > 0
        # Embeddings generate no tokens, and a batch service does not report them.
        self._rates.add(generated if self._has_generated else progress.pace.requests_per_second or 0.0)
        return drawing.rate_line(self._rates.values, "generation tokens/s" if self._has_generated else "requests/s")


def show(
    batch_id: str,
    *,
    snapshot: Callable[[], Snapshot],
    cancel: Callable[[], object],
    resume: Callable[[], object],
    summary: Callable[[], dict[str, str]],
) -> Live:
    """Display a batch under the cell that runs, and its summary in that place when it has ended.

    Parameters
    ----------
    batch_id, snapshot, cancel, resume
        As for `Live`.
    summary
        Returns what is left in the notebook, by mimetype.
    """

    def end(live: Live) -> None:
        left = summary()
        live.settle(left["text/html"])
        handle.update(left, raw=True)
        hint.update({"text/plain": "", "text/html": ""}, raw=True)
        _ended.append(live)
        if len(_ended) > _KEPT:
            _ended.popleft().close()

    live = Live(batch_id, snapshot=snapshot, cancel=cancel, resume=resume, on_end=end)
    handle, hint = display_with_hint(live.box, live.left, f"%vbatch attach {batch_id}", "shows this batch again")
    live.start()
    return live


def html(value: str = "") -> ipywidgets.HTML:
    """Make a widget of HTML that looks as in JupyterLab's outputs; its tables above all."""
    return ipywidgets.HTML(value).add_class("jp-RenderedHTMLCommon")


def stop_all() -> None:
    """Stop redrawing; the store is about to be closed."""
    for live in list(_running):
        live.stop()


def loops() -> list[Loop]:
    """Return the loops of the widgets that are still redrawn."""
    return [live.loop for live in list(_running)]


def left_of(sentence: str) -> dict[str, str]:
    """Return by mimetype what a notebook shows of a widget whose kernel is gone."""
    return {"text/plain": sentence, "text/html": drawing.page(drawing.text(sentence, most=1_000))}


def display_with_hint(box: ipywidgets.DOMWidget, left: dict[str, str], call: str, does: str) -> tuple[Any, Any]:
    """Display a widget and a line below it, which stays in the notebook; return the handles of the two.

    Parameters
    ----------
    box
        The widget.
    left
        What is shown where it cannot be drawn, by mimetype.
    call, does
        What can be typed, and what it does.
    """
    handle = display({**box._repr_mimebundle_(), **left}, raw=True, display_id=True)
    saved = f'<div class="vbatch-saved" style="display:none">{left["text/html"]}</div>'
    said = f'<span class="vbatch-hint"><code>{drawing.text(call)}</code> {drawing.faint(does)}</span>'
    hint = drawing.page(f"<style>{_REOPENED}</style>{saved}{said}")
    return handle, display({"text/plain": f"{call} {does}", "text/html": hint}, raw=True, display_id=True)


def _button(label: str, path: str, do_here: Callable[[], object]) -> ServerButton:
    def refused() -> None:
        with contextlib.suppress(ConflictError):  # it has ended meanwhile
            do_here()

    return ServerButton(label, path, on_refused=refused)


def _close(*widgets: ipywidgets.DOMWidget) -> None:
    for widget in widgets:
        # ipywidgets leaves these open, in the kernel and in the browser.
        for part in (getattr(widget, "style", None), widget.layout, widget):
            if part is not None:
                part.close()


def _said(endpoint: Endpoint, line: bytes) -> tuple[str, str]:
    reading = endpoint.read(line)
    answer = reading.answer
    if answer.value is None:
        return reading.custom_id, answer.error or str(answer.tool_calls or "")
    if isinstance(answer.value, str):
        return reading.custom_id, answer.value
    return reading.custom_id, f"{len(answer.value):,} {'texts' if isinstance(answer.value, list) else 'numbers'}"
