"""The summary of an ended batch, as a line of text and as HTML that needs no kernel and no widget; pure.

It stays in a notebook that is saved and opened again. Its one script adds a button where the page is Jupyter's and
trusts the notebook; anywhere else the sentence next to it says what to type.
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

from vbatch_jupyter.display import drawing
from vbatch_jupyter.display.progress import Progress, Snapshot, duration
from vbatch_jupyter.errors import NotFoundError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.error_groups import ErrorGroups
from vbatch_jupyter.manager.retry import has_unanswered, misfits
from vbatch_jupyter.manager.time_left import Work, work_of
from vbatch_jupyter.manager.waiting import retry_label, unrendered_rows
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.protocol.endpoints import CHAT
from vbatch_jupyter.protocol.shapes import Parse

_LINES_READ = 10_000
_BUTTON = Path(__file__).with_name("summary_button.js").read_text(encoding="utf-8")
_BUTTON_SCRIPT = f"(() => {{\n{drawing.ASK_SERVER}{_BUTTON}}})();"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The summary of a batch, which draws itself.

    Parameters
    ----------
    batch
        The batch.
    waiting
        Why it does not advance.
    has_unanswered
        Whether a retry would run a request again.
    errors
        How often each kind of error occurred.
    looked_at
        Which errors were counted, if not all of them.
    misfits
        How often each reason occurred why the answer of a completed request cannot be used.
    unrendered
        How often each reason occurred why a row of its frame was not sent.
    work
        What the engine did for it, if that is known.

    Examples
    --------
    >>> Summary(batch=BatchRecord(id="batch_0", endpoint="/v1/embeddings", input_file_id="", created_at=0))
    batch_0 validating
    """

    batch: BatchRecord
    waiting: str | None = None
    has_unanswered: bool = False
    errors: Mapping[str, int] = dataclasses.field(default_factory=dict)
    looked_at: str = ""
    misfits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unrendered: Mapping[str, int] = dataclasses.field(default_factory=dict)
    work: Work | None = None

    def __repr__(self) -> str:
        # A reopened notebook needs the whole id.
        line = Progress(Snapshot(time=0.0, batch=self.batch, waiting=self.waiting)).line(whole_id=True)
        return " · ".join([line, *self._faults(), *(f"{value} {name}".strip() for name, value in self._figures())])

    def _repr_html_(self) -> str:
        batch = self.batch
        parts = [drawing.heading(batch, self.waiting), drawing.counts_bar(batch)]
        parts += map(drawing.problem, self._faults())
        if pairs := self._figures():
            parts.append(f"<div>{drawing.figures(pairs)}</div>")
        rejected = ErrorGroups(error.message for error in batch.errors).counted()
        parts.append(
            drawing.errors_list(
                rejected or {**self.errors, **self.misfits, **self.unrendered}, looked_at=self.looked_at
            )
        )
        if self.has_unanswered:
            parts.append(_button(batch.id, "retry", retry_label(batch), "to run the requests without an answer again:"))
        if batch.paused and batch.status not in TERMINAL_STATUSES:
            parts.append(_button(batch.id, "resume", "Resume", "to continue:"))
        return drawing.page("".join(parts), style="max-width:720px")

    def _faults(self) -> list[str]:
        """Return what the counts of requests do not say."""
        count = sum(self.misfits.values())
        return [f"{count:,} {'answer' if count == 1 else 'answers'} cannot be used"] if count else []

    def _figures(self) -> list[tuple[str, str]]:
        batch, work = self.batch, self.work or Work(0, 0, 0.0, 0.0)
        ends = (batch.completed_at, batch.failed_at, batch.expired_at, batch.cancelled_at)
        ended = next((at for at in ends if at is not None), None)
        if ended is None:
            return []
        pairs = []
        usage = batch.usage
        # How many tokens the answers have that were not reused is not known.
        if usage is not None and usage.output_tokens and work.seconds and not work.reused:
            pairs.append(("generation tokens/s", f"{usage.output_tokens / work.seconds:,.0f}"))
        elif work.seconds:
            pairs.append(("requests/s", f"{work.asked / work.seconds:,.1f}"))
        if work.reused:
            pairs.append(("answers reused", f"{work.reused:,}"))
        # Without timings, the time from its start to its end, in which an engine may have been missing.
        seconds = work.seconds or ended - (batch.in_progress_at or batch.created_at)
        if not work.reused or work.asked:
            pairs.append(("", duration(seconds) if seconds >= 1 else "under 1 s"))
        if usage is not None and usage.input_tokens:
            pairs.append(("prompt tokens", f"{usage.input_tokens:,}"))
            pairs.append(("generation tokens", f"{usage.output_tokens:,}"))
        return [(name, value) for name, value in pairs if value != "0"]

    def bundle(self) -> dict[str, str]:
        """Return the summary by mimetype."""
        return {"text/plain": repr(self), "text/html": self._repr_html_()}


def summary_of(manager: Manager, batch: BatchRecord, *, parse: Parse | None = None) -> Summary:
    """Return the summary of a batch, with the errors in its error file and the answers that cannot be used.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    batch
        The batch.
    parse
        As for `retry.misfits`.
    """
    errors: dict[str, int] = {}
    looked_at = ""
    if batch.error_file_id is not None:
        # It may have been deleted, or have expired.
        with contextlib.suppress(NotFoundError), manager.files.content(batch.error_file_id) as lines:
            errors, looked_at = count_errors(lines)
    # A file that is not valid has no answers.
    has_answers = batch.status in TERMINAL_STATUSES and batch.request_counts.completed
    found = misfits(manager, batch, parse=parse) if has_answers else []
    return Summary(
        batch=batch,
        waiting=manager.batches.waiting(batch),
        has_unanswered=bool(found) or has_unanswered(manager, batch),
        errors=errors,
        looked_at=looked_at,
        unrendered=unrendered_rows(batch),
        misfits=ErrorGroups(misfit.error for misfit in found).counted(),
        work=work_of(manager.batches.timings(batch.id)),
    )


def count_errors(lines: Iterable[bytes]) -> tuple[dict[str, int], str]:
    """Count the errors in an error file by kind; return them and, if the file is long, how much of it was read.

    Parameters
    ----------
    lines
        Its lines.
    """
    lines = iter(lines)
    # The errors of all endpoints are alike.
    found = (CHAT.read(line).answer.error for line in itertools.islice(lines, _LINES_READ))
    groups = ErrorGroups(error for error in found if error is not None)
    return groups.counted(), f" (the first {_LINES_READ:,})" if next(lines, None) is not None else ""


def _button(batch_id: str, verb: str, label: str, purpose: str) -> str:
    # A script makes the button, so that there is no button if scripts do not run.
    quoted = html.escape(batch_id, quote=True)
    return (
        f'<div data-vbatch-batch="{quoted}" data-vbatch-verb="{verb}" data-vbatch-label="{label}">'
        f"{drawing.faint(purpose)} "
        f"<code>%vbatch {verb} {drawing.text(batch_id)}</code> </div><script>{_BUTTON_SCRIPT}</script>"
    )
