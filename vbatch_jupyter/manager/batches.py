"""The verbs of ``client.batches``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vbatch_jupyter.errors import BadRequestError, ConflictError, StoreFullError
from vbatch_jupyter.manager.checks import (
    check_choice,
    check_expiry,
    check_idempotency_key,
    check_integer,
    check_metadata,
    check_required,
)
from vbatch_jupyter.manager.waiting import held_models, needs_engine, why_waiting
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.protocol.ids import new_batch_id
from vbatch_jupyter.protocol.profiles import HERE, PROFILES
from vbatch_jupyter.records import Timing
from vbatch_jupyter.store import Page, Store, misfits

_WINDOW_SECONDS = {"24h": 24 * 3600, "1h": 3600}
# What a client sends of a batch; a create that is sent again differs in nothing of it.
_SENT = (
    "input_file_id",
    "endpoint",
    "completion_window",
    "metadata",
    "output_expires_after_seconds",
    "profile",
    "fresh",
    "frame",
    "target",
)


class BatchesManager:
    """The verbs of ``client.batches``.

    Parameters
    ----------
    store
        Where the batches are.
    profile
        The default limits for batches; a key of `PROFILES`.
    wake
        Called after each commit that gives a runner something to do.
    origin
        The notebook that makes the batches, if there is one.

    Attributes
    ----------
    retrieve
        Returns a batch's record; `NotFoundError` if there is none.
    have_misfits
        By id, which of the batches that have ended have answers that do not fit their schemas, as far as
        `retry.has_unanswered` has looked.
    """

    def __init__(self, store: Store, *, profile: str, wake: Callable[[], None], origin: str | None = None) -> None:
        self._store = store
        self._profile = profile
        self._wake = wake
        self._origin = origin
        self.retrieve = store.batches.get
        self.have_misfits: dict[str, bool] = {}

    def create(
        self,
        *,
        input_file_id: str,
        endpoint: str,
        completion_window: str = "24h",
        metadata: Any = None,
        output_expires_after_seconds: int | None = None,
        profile: str | None = None,
        fresh: bool = False,
        frame: str | None = None,
        target: str | None = None,
        retry_of: str | None = None,
        models: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> BatchRecord:
        """Create a batch; it is on the disk, and waits for validation, when the call returns.

        Parameters
        ----------
        input_file_id
            An uploaded file. If it does not exist, the batch fails validation, as at OpenAI.
        endpoint
            Such as ``"/v1/chat/completions"``.
        completion_window
            ``"24h"``.
        metadata
            Up to 16 pairs of strings.
        output_expires_after_seconds
            3,600 to 2,592,000, counted from the creation of the output file; as long as the profile says where it is
            None.
        profile
            Whose limits the input file is held to; the manager's if it is None.
        fresh
            Ask the engine even if an answer is known.
        frame
            What is needed to turn the output back into a DataFrame, as JSON.
        target
            The batch service that runs it instead of an engine, as JSON.
        retry_of
            The batch whose unanswered requests it runs again.
        models
            The models that its requests may name; any by default, and the batch waits for an engine with its model.
        idempotency_key
            A create that was made under the same key gives its batch again, as it is now.

        Raises
        ------
        BadRequestError
            A parameter is wrong, or the key belongs to a create with other parameters.
        StoreFullError
            There is no room for what the batch would write.
        """
        rules = (HERE if target is None else PROFILES)[profile or self._profile]
        check_required("input_file_id", input_file_id)
        check_choice("endpoint", endpoint, rules.endpoints)
        check_choice("completion_window", completion_window, rules.completion_windows)
        check_metadata(metadata)
        check_expiry("output_expires_after.seconds", output_expires_after_seconds)
        check_idempotency_key(idempotency_key)
        if output_expires_after_seconds is None:
            output_expires_after_seconds = rules.file_seconds
        now = int(self._store.clock())
        new = BatchRecord(
            id=new_batch_id(),
            endpoint=endpoint,
            input_file_id=input_file_id,
            created_at=now,
            completion_window=completion_window,
            expires_at=now + _WINDOW_SECONDS[completion_window],
            metadata=metadata,
            output_expires_after_seconds=output_expires_after_seconds,
            idempotency_key=idempotency_key,
            profile=rules.name,
            fresh=fresh,
            frame=frame,
            target=target,
            retry_of=retry_of,
            models=None if models is None else tuple(models),
            origin=self._origin,
        )
        record = self._store.batches.create(new)
        if any(getattr(record, name) != getattr(new, name) for name in _SENT):
            # Not 409, which clients try again: the request will never be valid.
            message = (
                f"The Idempotency-Key was already used with other parameters, for batch '{record.id}'. Send each "
                "new request with a new key."
            )
            raise BadRequestError(message, param="Idempotency-Key", code="idempotency_key_in_use")
        self._wake()
        return record

    def waiting(self, record: BatchRecord) -> str | None:
        """Return why a batch does not advance, as `manager.waiting.why_waiting` says."""
        return why_waiting(record, self._store.engines.live(planned=True) if needs_engine(record) else ())

    def is_served(self, model: str | None) -> bool:
        """Return whether an engine on this store has a model, or would be started for it."""
        return model in held_models(self._store.engines.live(planned=True))

    def notes(self, record: BatchRecord) -> Sequence[str]:
        """Return what the requests of a batch ask in vain: keys that are ignored, and values that are refused."""
        return self._store.files.notes(record.input_file_id).get(record.id, ())

    def misfits(self, record: BatchRecord) -> Mapping[str, str]:
        """Return what `keep_misfits` has kept."""
        return misfits.find(self._store.files, record)

    def keep_misfits(self, record: BatchRecord, found: Mapping[str, str]) -> None:
        """Keep the answers that do not fit a pydantic class, by custom_id with the reason: a retry runs them again."""
        # A failure here must not keep the result from being read.
        with contextlib.suppress(StoreFullError):
            misfits.keep(self._store.files, record, found)

    def timings(self, batch_id: str) -> Sequence[Timing]:
        """Return when each request's answer came, in the input file's order; nothing if that was not kept."""
        return self._store.files.timings(self.retrieve(batch_id))

    def list(self, *, after: str | None = None, limit: int = 20) -> Page[BatchRecord]:
        """Return one page of the batches, of at most 100, newest first.

        Raises
        ------
        BadRequestError
            ``limit`` is out of range.
        NotFoundError
            There is no batch ``after``.
        """
        check_integer("limit", limit, 1, 100)
        return self._store.batches.list(after=after, limit=limit)

    def resume(self, batch_id: str) -> BatchRecord:
        """Continue a batch that is paused, or try one at once that waits; every face that resumes one calls this.

        Raises
        ------
        ConflictError
            It has ended.
        NotFoundError
            There is no such batch.
        """
        record = self._store.batches.resume(batch_id)
        if record.status in TERMINAL_STATUSES:
            message = f"Cannot resume a batch with status '{record.status}'."
            raise ConflictError(message, id=batch_id, status=record.status)
        self._wake()
        return record

    def cancel(self, batch_id: str) -> BatchRecord:
        """Cancel a batch; `ConflictError` if it has ended otherwise, `NotFoundError` if there is none."""
        record = self._store.batches.cancel(batch_id)
        self._wake()
        return record
