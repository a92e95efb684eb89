"""The handle on one batch: what `submit` returns. All of its state is in the store; a handle can be made anew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Self

from vbatch_jupyter.errors import BadRequestError, BatchPausedError, ConflictError, FrameError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.progress import Progress
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord, RequestCounts, Status
from vbatch_jupyter.protocol.stats import EngineStats, Snapshot
from vbatch_jupyter.retry import chain_of, custom_ids_of, lines_of, retry, timed_lines_of

if TYPE_CHECKING:
    import pandas as pd

    from vbatch_jupyter.frames.schema import Schema

_LOOK_SECONDS = 0.05


class Batch:
    """One batch of the store.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    id
        The batch's id.
    engine_stats
        Gives the figures of the engine that may run it.
    df
        The frame it was made from, where it is still at hand.
    schema
        The schema as it was given; a pydantic class checks more than the JSON schema that the store keeps.

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
        df: pd.DataFrame | None = None,
        schema: Schema | None = None,
    ) -> None:
        self.id = id
        self._manager = manager
        self._engine_stats = engine_stats
        self._df = df
        self._schema = schema
        self._record()  # an unknown id is an error here, not later

    def __repr__(self) -> str:
        return Progress(*[self.snapshot()] * 2).line().replace(self.id[:10] + "…", self.id, 1)

    # ------------------------------------------------------------------------------------------------- how it stands

    @property
    def status(self) -> Status:
        """OpenAI's status."""
        return self._record().status

    @property
    def request_counts(self) -> RequestCounts:
        """How many requests it has, and how many have ended which way."""
        return self._record().request_counts

    def to_openai(self) -> Any:
        """Give OpenAI's object of the batch."""
        return self._record().to_openai()

    def snapshot(self) -> Snapshot:
        """Give one moment of the batch and of the engine."""
        record = self._record()
        # The engine here says nothing of a batch that runs at a service.
        engine = self._engine_stats() if record.target is None else None
        return Snapshot(time=time.monotonic(), batch=record, engine=engine)

    def _record(self) -> BatchRecord:
        return self._manager.batches.retrieve(self.id)

    # ------------------------------------------------------------------------------------------------------- waiting

    def wait(self, timeout: float | None = None, *, show: Callable[[Snapshot], None] = lambda _: None) -> Self:
        """Wait for the batch to end; an interrupt ends the wait and not the batch.

        Parameters
        ----------
        timeout
            Seconds.
        show
            Called with a snapshot again and again.

        Raises
        ------
        TimeoutError
            It has not ended within that time; it goes on.
        BatchPausedError
            It does not go on until an engine is loaded anew.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not self._has_ended(show):
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"Batch {self.id} has not ended within {timeout:g} s; it is {self.status}.")
            time.sleep(_LOOK_SECONDS)
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._ended().__await__()

    async def _ended(self) -> Self:
        # The end may come from another process, which can set no event here.
        while not self._has_ended(lambda _: None):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        return self

    def _has_ended(self, show: Callable[[Snapshot], None]) -> bool:
        snapshot = self.snapshot()
        show(snapshot)
        record = snapshot.batch
        if record.paused and record.status not in TERMINAL_STATUSES:
            raise BatchPausedError(f"Batch {self.id} is paused: {record.reason}")
        return record.status in TERMINAL_STATUSES

    # ------------------------------------------------------------------------------------------------------- results

    def results(self, df: pd.DataFrame | None = None, *, full: bool = False) -> pd.DataFrame:
        """Wait for the batch, and give its result; that of a retry has the answers of the batches it retries too.

        Parameters
        ----------
        df
            The frame that the batch was made from. Without it, and after a restart of the kernel, the answers come by
            position.
        full
            Add what is known of each request beside its answer: status_code, finish_reason, prompt_tokens,
            completion_tokens, cached_tokens, latency, and whether its answer was reused.

        Raises
        ------
        FrameError
            ``df`` is another frame, or the batch was made from none.
        BadRequestError
            The input file did not validate; the message has the first reasons.
        """
        from vbatch_jupyter.frames.requests import custom_ids
        from vbatch_jupyter.frames.results import FrameDescription, results

        self.wait()
        self._refuse_failed(self._record())
        chain = chain_of(self._manager, self.id)
        root = chain[0]
        lines = timed_lines_of(self._manager, chain) if full else lines_of(self._manager, chain)
        schema: Schema | None = self._schema
        frame = self._df if df is None else df
        if root.frame is None:
            if df is not None:
                message = f"Batch {self.id} was made from an input file and not from a DataFrame."
                raise FrameError(f"{message} results() without a DataFrame gives the answers in its order.", param="df")
            names = list(custom_ids_of(self._manager, root))
            return results(lines, rows=len(names), custom_ids=names, endpoint=root.endpoint, schema=schema, full=full)
        description = FrameDescription.from_json(root.frame)
        if df is not None:
            description.check(df)
        if frame is not None and description.custom_id is not None:
            names = custom_ids(frame, frame.columns[description.custom_id])
        else:
            names = list(custom_ids_of(self._manager, root))
        return results(
            lines,
            rows=description.rows,
            df=frame,
            custom_ids=names,
            output=description.output,
            schema=schema or description.schema,
            endpoint=root.endpoint,
            extras=description.extras,
            full=full,
        )

    def errors(self) -> pd.DataFrame:
        """List the requests without an answer: custom_id, status code and the reason.

        Raises
        ------
        ConflictError
            The batch has not ended yet.
        BadRequestError
            The input file did not validate.
        """
        from vbatch_jupyter.frames.failures import failures
        from vbatch_jupyter.frames.results import FrameDescription

        record = self._record()
        if record.status not in TERMINAL_STATUSES:
            message = f"Batch {self.id} is {record.status}; its errors are known when it has ended."
            raise ConflictError(message, id=self.id, status=record.status)
        self._refuse_failed(record)
        schema: Schema | None = self._schema
        if schema is None and record.frame is not None:
            schema = FrameDescription.from_json(record.frame).schema
        return failures(lines_of(self._manager, chain_of(self._manager, self.id)), schema=schema)

    def _refuse_failed(self, record: BatchRecord) -> None:
        if record.status == "failed":
            reasons = "; ".join(
                (f"line {error.line}: " if error.line else "") + error.message for error in record.errors[:3]
            )
            more = f" (and {len(record.errors) - 3:,} more)" if len(record.errors) > 3 else ""  # noqa: PLR2004
            raise BadRequestError(f"Batch {self.id} failed validation, and nothing ran. {reasons}{more}")

    # -------------------------------------------------------------------------------------------------------- verbs

    def cancel(self) -> Self:
        """Cancel the batch: what is finished is kept, what runs is aborted.

        Raises
        ------
        ConflictError
            It has ended already.
        """
        self._manager.batches.cancel(self.id)
        return self

    def retry(self) -> Batch:
        """Run the requests without an answer again, in a new batch whose results complete this one's.

        Raises
        ------
        ConflictError
            The batch has not ended, or every request has its answer.
        """
        record = retry(self._manager, self.id, names=set(self.errors()["custom_id"]))
        return Batch(self._manager, record.id, engine_stats=self._engine_stats, df=self._df, schema=self._schema)
