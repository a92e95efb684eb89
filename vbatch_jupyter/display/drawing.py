"""The parts of the live widget and the summary, as HTML; pure.

Everything from a model, a client or an engine is text, and is escaped here. In JupyterLab the colours are its own,
so that they fit both of its themes.

JupyterLab and nbconvert draw what is between two dollar signs as a formula, unless it is in a `page`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vbatch_jupyter.manager.waiting import counts_text, status_text, unrendered_rows
from vbatch_jupyter.protocol.batch import BatchRecord

ASK_SERVER = Path(__file__).with_name("ask_server.js").read_text(encoding="utf-8")
"""JavaScript: ``askServer(path)``."""

_COMPLETED = "var(--jp-success-color1, #388e3c)"
_FAILED = "var(--jp-error-color1, #d32f2f)"
_LEFT = "var(--jp-layout-color3, #bdbdbd)"
_LINE = "var(--jp-brand-color1, #1976d2)"
_FAINT = "var(--jp-ui-font-color2, #757575)"
_SHOWN_CHARACTERS = 200
_SHOWN_ERRORS = 5
_SHOWN_OF_PROMPT = 2_000
_WIDTH, _HEIGHT = 240, 36


def page(content: str, *, style: str = "") -> str:
    """Return all of an HTML that is shown, in which no text is taken for a formula.

    Parameters
    ----------
    content
        What is in it, as HTML.
    style
        CSS.
    """
    # The first class is for MathJax 3 (JupyterLab), the second for MathJax 2 (nbconvert, nbviewer, Colab).
    return f'<div class="mathjax_ignore tex2jax_ignore" style="{style}">{content}</div>'


def text(value: object, *, most: int = _SHOWN_CHARACTERS) -> str:
    r"""Write anything as text for HTML, on one line, cut if it is long.

    Examples
    --------
    >>> text("<b>bold</b> \n and  wide")
    '&lt;b&gt;bold&lt;/b&gt; and wide'
    """
    return html.escape(one_line(value, most=most))


def one_line(value: object, *, most: int) -> str:
    """Write anything as one line of text, cut if it is long."""
    line = " ".join(str(value).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def faint(value: object) -> str:
    """Write text that is less important than the text next to it."""
    return f'<span style="color:{_FAINT}">{text(value)}</span>'


def heading(batch: BatchRecord, waiting: str | None) -> str:
    """Return the heading of a batch: its id, its status, and why it waits."""
    why = "" if waiting is None else f"<div>{text(waiting, most=1_000)}</div>"
    model = faint(batch.model or "")
    is_bad = batch.request_counts.failed or batch.status == "failed" or unrendered_rows(batch)
    colour = f' style="color:{_FAILED}"' if is_bad else ""
    return f"<div><b{colour}>{text(status_text(batch))}</b> {model} <code>{text(batch.id)}</code></div>{why}"


def problem(error: Exception | str) -> str:
    """Return an error as HTML."""
    return f'<div style="color:{_FAILED}">{text(error, most=1_000)}</div>'


def request(title: str, said: Iterable[tuple[str, str]]) -> str:
    """Draw a request: its messages by role, with their line breaks."""
    told = "".join(
        f'<div style="white-space:pre-wrap">{faint(role)} {html.escape(words[:_SHOWN_OF_PROMPT])}</div>'
        for role, words in said
    )
    return f'<div style="border-left:3px solid {_LEFT};padding-left:8px;margin:4px 0">{faint(title)}{told}</div>'


def counts_bar(batch: BatchRecord) -> str:
    """Draw a batch's counts next to each other, with their numbers; nothing if they are not known yet."""
    counts = batch.request_counts
    if not counts.total:
        return ""
    shares = ((counts.completed, _COMPLETED), (counts.failed, _FAILED), (counts.left, _LEFT))
    parts = "".join(
        f'<div style="background:{colour};width:{100 * count / counts.total:.2f}%;height:8px;float:left"></div>'
        for count, colour in shares
        if count
    )
    label = counts_text(batch)
    bar = f'<div role="img" aria-label="{label}" style="width:100%;height:8px;overflow:hidden">{parts}</div>'
    return f"{bar}<div>{label}</div>"


def figures(pairs: Iterable[tuple[str, str]]) -> str:
    """Put figures and their names next to each other."""
    return " · ".join(f"{text(value)} {faint(name)}" for name, value in pairs)


def rate_line(rates: Sequence[float], unit: str) -> str:
    """Draw a rate over time as a small line, from 0 to its highest value.

    Parameters
    ----------
    rates
        The rates, oldest first.
    unit
        The name of the rate.
    """
    top = max(rates, default=0.0)
    if len(rates) < 2 or not top:  # noqa: PLR2004
        return ""
    step = _WIDTH / (len(rates) - 1)
    points = " ".join(
        f"{place * step:.1f},{_HEIGHT - 1 - rate / top * (_HEIGHT - 2):.1f}" for place, rate in enumerate(rates)
    )
    label = f"{text(unit)} over time, at most {top:,.0f}"
    return (
        f'<svg role="img" aria-label="{label}" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
        f'<title>{label}</title><polyline fill="none" stroke="{_LINE}" stroke-width="1.5" points="{points}"/></svg>'
    )


def answers_list(answers: Iterable[tuple[str, str]]) -> str:
    """List custom_ids with their answers."""
    rows = "".join(
        f'<tr><td style="text-align:left">{text(name)}</td><td style="text-align:left">{text(answer)}</td></tr>'
        for name, answer in answers
    )
    return f"<div>{faint('last answers')}{_table(rows)}</div>" if rows else ""


def errors_list(errors: Mapping[str, int], *, looked_at: str = "") -> str:
    """List errors by kind, the most frequent first.

    Parameters
    ----------
    errors
        How often each kind occurred, as `ErrorGroups` counts them.
    looked_at
        Which errors were counted, if not all of them.
    """
    if not errors:
        return ""
    frequent = list(errors.items())
    rows = "".join(
        f'<tr><td style="text-align:right">{count:,}</td><td style="text-align:left">{text(message)}</td></tr>'
        for message, count in frequent[:_SHOWN_ERRORS]
    )
    more = len(frequent) - _SHOWN_ERRORS
    left_out = f"<div>{faint(f'… and {more:,} other kinds')}</div>" if more > 0 else ""
    return f"<div>{faint('errors' + looked_at)}{_table(rows)}{left_out}</div>"


def _table(rows: str) -> str:
    # JupyterLab centres a table that is in a widget.
    return f'<table style="margin:0">{rows}</table>'
