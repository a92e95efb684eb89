"""The handle on one batch: what `submit` returns. All of its state is in the store; a handle can be made again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from vbatch_jupyter.display.progress import Snapshot
from vbatch_jupyter.display.summary import summary_of
from vbatch_jupyter.errors import BatchPausedError, ConflictError, FrameError, StoreError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.chain import chain_of, custom_ids_of, lines_of, parsers_of, refuse_failed, timed_lines_of
from vbatch_jupyter.manager.retry import Unanswered, retry, unanswered
from vbatch_jupyter.manager.waiting import lasts
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord, RequestCounts, Status
from vbatch_jupyter.protocol.shapes import Parse
from vbatch_jupyter.records import EngineStats
from vbatch_jupyter.runner.collector import Latest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from vbatch_jupyter.frames.frame import FrameDescription
    from vbatch_jupyter.frames.schema import Schema
    from vbatch_jupyter.widgets.live import Live

_PAUSE_SECONDS = 0.02
_LOOK_SECONDS = 0.25
"""How often to look, which takes a core from the engine for a millisecond, while only another process may commit."""


class Batch:
    """One batch of the store.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    id
        The batch's id.
    engine_stats
        Returns the figures of the engine that may run it.
    latest
        Returns what was last finished of it, if it runs in this process.
    draws_widgets
        Returns whether the front end shows it as a widget while it runs.
    tell
        Called with the batch while a call waits for it that shows no progress.
    reopen
        Makes a handle of the batch's id, in another process too; None if no process can.
    df
        The DataFrame it was made from, if this process still has it.
    schema
        The schema as it was given. A pydantic class checks more than the JSON schema in the store.

    Examples
    --------
    >>> batch = submit(df, "Is this positive? {{ review }}")  # doctest: +SKIP
    >>> batch.wait().request_counts  # doctest: +SKIP
    RequestCounts(total=3, completed=3, failed=0)
    """

    def __init__(
        self,
        manager: Manager,
        id: str,  # noqa: A002 - OpenAI's word
        *,
        engine_stats: Callable[[], EngineStats | None] = lambda: None,
        latest: Callable[[str], Latest | None] = lambda _: None,
        draws_widgets: Callable[[], bool] = lambda: False,
        tell: Callable[[BatchRecord], None] = lambda _: None,
        reopen: Callable[[str], Batch] | None = None,
        df: pd.DataFrame | None = None,
        schema: Schema | None = None,
    ) -> None:
        self.id = id
        self._manager = manager
        self._engine_stats = engine_stats
        self._latest = latest
        self._draws_widgets = draws_widgets
        self._tell, self._reopen = tell, reopen
        self._drawn_in: int | None = None
        self._df = df
        self._schema = schema
        self._ended: BatchRecord | None = None
        """The batch as it ended, if a wait has seen its end."""

    def __repr__(self) -> str:
        return self.summary()["text/plain"]

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Callable[[str], Batch], tuple[str]]:
        if self._reopen is None:
            raise TypeError(f"A handle on batch {self.id} cannot be pickled. Pickle its id.")
        return self._reopen, (self.id,)

    # ------------------------------------------------------------------------------------------------- how it is drawn

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        del include, exclude  # there are two mimetypes, and IPython picks
        return self.summary()

    def summary(self) -> dict[str, str]:
        """Return its status by mimetype, as text and as HTML that needs neither a widget nor a kernel."""
        return summary_of(self._manager, self._record(), parse=self._parse()).bundle()

    def _ipython_display_(self) -> None:
        from vbatch_jupyter.widgets.frontend import cell_number

        if self._drawn_in is not None and self._drawn_in == cell_number():
            return  # the cell has shown it while it ran
        if self._record().status in TERMINAL_STATUSES or self.live() is None:
            raise NotImplementedError  # IPython's word for: display it in another way

    def live(self) -> Live | None:
        """Display it as a widget that its summary replaces at its end; None if the front end shows no widgets."""
        if not self._draws_widgets():
            return None
        from vbatch_jupyter.widgets.frontend import cell_number
        from vbatch_jupyter.widgets.live import show

        self._drawn_in = cell_number()
        return show(self.id, snapshot=self.snapshot, cancel=self.cancel, resume=self.resume, summary=self.summary)

    # -------------------------------------------------------------------------------------------------- its status

    @property
    def status(self) -> Status:
        """OpenAI's status."""
        return self._record().status

    @property
    def request_counts(self) -> RequestCounts:
        """How many requests it has, and how many have completed and failed."""
        return self._record().request_counts

    @property
    def waiting(self) -> str | None:
        """Why it does not advance, in a sentence; None if it advances or has ended."""
        return self._manager.batches.waiting(self._record())

    @property
    def engine_seeds(self) -> tuple[int, ...]:
        """The seeds of the engines that ran it, in order: ``vb.load(model, seed=batch.engine_seeds[0])`` repeats it."""
        return self._record().engine_seeds

    @property
    def missing_frame(self) -> FrameDescription | None:
        """The DataFrame that it was made from, if this process does not have it; else None."""
        if self._df is not None or (frame := chain_of(self._manager, self._record())[0].frame) is None:
            return None
        from vbatch_jupyter.frames.frame import FrameDescription

        return FrameDescription.from_json(frame)

    def to_openai(self) -> Any:
        """Return OpenAI's object of the batch."""
        return self._record().to_openai()

    def snapshot(self, record: BatchRecord | None = None) -> Snapshot:
        """Return one moment of the batch and of the engine.

        Parameters
        ----------
        record
            The batch as the store has it, if it has just been read.
        """
        record = record or self._record()
        # The engine here says nothing about a batch that runs at a service.
        engine = self._engine_stats() if record.target is None else None
        latest = self._latest(self.id)
        return Snapshot(
            time=time.monotonic(),
            batch=record,
            waiting=self._manager.batches.waiting(record),
            engine=engine,
            answers=latest.answers() if latest else (),
            errors=latest.errors() if latest else {},
        )

    def _record(self) -> BatchRecord:
        return self._manager.batches.retrieve(self.id)

    # ------------------------------------------------------------------------------------------------------- waiting

    def wait(self, timeout: float | None = None, *, show: Callable[[BatchRecord], None] | None = None) -> Self:
        """Wait for the batch to end. An interrupt ends the wait, not the batch.

        If the batch does not advance, it says once why.

        Parameters
        ----------
        timeout
            Seconds.
        show
            Called repeatedly with the current state of the batch, instead of saying anything.

        Raises
        ------
        TimeoutError
            It did not end within that time. It keeps running.
        BatchPausedError
            It is paused until it is resumed.
        """
        until = None if timeout is None else time.monotonic() + timeout
        for record in self._looks(show):
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"Batch {self.id} did not end within {timeout:g} s. Its status is {record.status}.")
            time.sleep(_PAUSE_SECONDS)
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._awaited().__await__()

    async def _awaited(self) -> Self:
        for _ in self._looks():
            await asyncio.sleep(_PAUSE_SECONDS)
        return self

    def _looks(self, show: Callable[[BatchRecord], None] | None = None) -> Iterator[BatchRecord]:
        """Read the batch until it has ended, whenever it may have changed; the caller pauses in between."""
        record = self._ended
        while True:
            # Before reading the batch, or a commit in the meantime would be missed.
            commits, looked_at = self._manager.commits.count, time.monotonic()
            try:
                record = self._ended or self._record()
                if show is not None:
                    show(record)
            except (StoreError, OSError) as error:
                # The batch goes on after such an error, and so does who waits for it. The loops say it.
                if record is None or lasts(error):
                    raise
            if record.status in TERMINAL_STATUSES:
                self._ended = record
                return
            if record.paused:
                raise BatchPausedError(f"Batch {self.id} is paused: {record.reason}")
            if show is None:
                self._tell(record)
            yield record
            while self._manager.commits.count == commits and time.monotonic() - looked_at < _LOOK_SECONDS:
                yield record

    # ------------------------------------------------------------------------------------------------------- results

    def results(self, df: pd.DataFrame | None = None, *, full: bool = False) -> pd.DataFrame:
        """Wait for the batch, and return its result; for a retry, with the answers of the batches it retries.

        Text columns have the dtype of the frame's own text, ``str`` in pandas 3, in which a missing answer is unequal
        to everything: ``(r.response == r.gold).mean()`` counts failed rows as wrong. Numbers and booleans of a schema
        are nullable, and ``mean`` skips what is missing; ``(r.stars == r.gold).fillna(False).mean()`` counts it.

        Parameters
        ----------
        df
            The DataFrame that the batch was made from. Without it, the answers come with their custom_ids.
        full
            Add more columns about each request: the reasoning, custom_id, status_code, finish_reason, prompt_tokens,
            completion_tokens, cached_tokens, latency, and whether its answer was reused.

        Raises
        ------
        FrameError
            ``df`` is another DataFrame, or the batch was not made from a DataFrame.
        BadRequestError
            The input file is not valid; the message has the first reasons.
        """
        from vbatch_jupyter.frames.results import results

        result = results(**self._read(df, full=full))
        if self._parse() is not None:
            # What only the class finds is kept with the batch.
            self._unanswered(chain_of(self._manager, self._record()))
        return result

    def compare(self, other: Batch, *, names: tuple[str, str] = ("a", "b"), noise: bool = False) -> pd.DataFrame:
        """Put another batch of the same rows next to this one, as `vbatch_jupyter.compare` describes.

        Parameters
        ----------
        other
            For example the same DataFrame with another prompt or another model.
        names
            The names of the two in the result.
        noise
            Run up to 32 of the rows that changed a second time, to see which answers differ by themselves.

        Raises
        ------
        FrameError
            They were made from different DataFrames, or have no row or no column of answers in common.
        EngineNotLoadedError
            With ``noise``: no engine serves the model of one of them.
        """
        from vbatch_jupyter.session.side_by_side import side_by_side

        # Reading waits for the end, and a batch has its model only when it is validated.
        reads = self._read(None), other._read(None)
        records = self._record(), other._record()
        sides = [(chain_of(self._manager, record)[0], read) for record, read in zip(records, reads, strict=True)]
        return side_by_side(self._manager, *sides, names=names, handle=self._handle if noise else None)

    def _read(self, df: pd.DataFrame | None, *, full: bool = False) -> dict[str, Any]:
        """Wait for the batch, and return the arguments for its result."""
        from vbatch_jupyter.frames.frame import FrameDescription
        from vbatch_jupyter.frames.render import custom_ids

        self.wait()
        assert self._ended is not None
        refuse_failed(self._ended)
        chain = chain_of(self._manager, self._ended)
        root = chain[0]
        description = frame = None
        if root.frame is not None:
            description = FrameDescription.from_json(root.frame)
            if df is not None:
                description.check(df)
            frame = self._df if df is None else df
        elif df is not None:
            message = f"Batch {self.id} was made from an input file, not from a DataFrame."
            raise FrameError(f"{message} results() without a DataFrame has the answers in its order.", param="df")
        if description is not None and frame is not None:
            label = None if description.custom_id is None else frame.columns[description.custom_id]
            names = custom_ids(frame, label)
        else:
            names = list(custom_ids_of(self._manager, root))
            names = description.all_names(names) if description else names
        return {
            "output_lines": timed_lines_of(self._manager, chain) if full else lines_of(self._manager, chain),
            "description": description or FrameDescription(fingerprint="", rows=len(names), endpoint=root.endpoint),
            "df": frame,
            "custom_ids": names,
            "schema": self._schema,
            "parser_of": parsers_of(self._manager, root, schemas=False),
            "full": full,
        }

    def errors(self) -> pd.DataFrame:
        """List the rows and requests without an answer: custom_id, status code and the reason.

        A batch that has not ended is a `ConflictError`, and an input file that is not valid a `BadRequestError`.
        """
        from vbatch_jupyter.frames.frame import FrameDescription
        from vbatch_jupyter.frames.results import failures

        chain = chain_of(self._manager, self._record())
        unrendered = FrameDescription.from_json(chain[0].frame).unrendered_rows() if chain[0].frame else ()
        return failures([*((row.custom_id, None, row.error) for row in unrendered), *self._unanswered(chain)])

    def plot(self) -> Figure:
        """Draw throughput over time, latencies, lengths of the answers, and the share of errors.

        Returns a matplotlib figure: a notebook shows it, and ``savefig`` saves it. For a retry it shows
        only what the retry itself has run.

        Raises
        ------
        ConflictError
            The batch has not ended yet.
        BadRequestError
            The input file is not valid.
        """
        from vbatch_jupyter.display.plots import plot_of

        record = self._record()
        return plot_of(self._manager, record, (failure.error for failure in self._unanswered([record])))

    def _unanswered(self, chain: Sequence[BatchRecord]) -> list[Unanswered]:
        record = chain[-1]
        if record.status not in TERMINAL_STATUSES:
            message = f"Batch {self.id} is {record.status}. Its errors are known when it has ended."
            raise ConflictError(message, id=self.id, status=record.status)
        refuse_failed(record)
        return unanswered(self._manager, chain, parse=self._parse())

    def _parse(self) -> Parse | None:
        """Return the reader of answers for a pydantic class; a JSON schema is in the store."""
        if not isinstance(self._schema, type):
            return None
        from vbatch_jupyter.frames.schema import parser

        return parser(self._schema)

    # -------------------------------------------------------------------------------------------------------- verbs

    def cancel(self) -> Self:
        """Cancel the batch: finished answers are kept and what runs is aborted; `ConflictError` if it has ended."""
        self._manager.batches.cancel(self.id)
        return self

    def resume(self) -> Self:
        """Continue the batch if it is paused, or try it at once if it waits; `ConflictError` if it has ended."""
        self._manager.batches.resume(self.id)
        return self

    def retry(self) -> Batch:
        """Run the requests without an answer again, in a new batch whose results complete this one's.

        Raises
        ------
        ConflictError
            The batch has not ended, or every request has its answer.
        """
        refuse_failed(self._record())
        return self._handle(retry(self._manager, self.id, parse=self._parse()))

    def _handle(self, record: BatchRecord) -> Batch:
        """Return the handle on another batch of the same DataFrame."""
        other = Batch.__new__(Batch)
        vars(other).update(vars(self), id=record.id, _ended=None, _drawn_in=None)
        return other
