"""One batch at a service: its parts are sent, followed, cancelled and collected.

What is known about a part is in the store before the next step is taken, so that any process with the key can continue
after a kill at any moment. If a create got no answer, the service is asked for the batch by its metadata, which
every batch there carries: no part is made twice. What is downloaded goes into the batch's spool, as an engine's answers
do, and the lifecycle ends the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vbatch_jupyter.errors import BadRequestError, ConflictError, EngineError, ServiceError
from vbatch_jupyter.loop import in_thread
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.batch import MAX_METADATA_PAIRS, BatchRecord
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.lines import decode_response, error_body, output_line, parse_output_line
from vbatch_jupyter.protocol.reading import usage_in
from vbatch_jupyter.store import Lease, SpoolRecord, Store
from vbatch_jupyter.targets.configuration import Target
from vbatch_jupyter.targets.parts import (
    Part,
    Stretch,
    counts_of,
    divide,
    parts_from_json,
    parts_to_json,
    positions,
)
from vbatch_jupyter.targets.service import Service

if TYPE_CHECKING:
    from openai.types import Batch

BATCH_KEY, PART_KEY, ATTEMPT_KEY = "vbatch_batch", "vbatch_part", "vbatch_attempt"
"""The keys of the metadata by which a batch at a service is found again."""

_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
# The service has refused the request and will refuse it again.
_REFUSALS = frozenset({400, 413, 415, 422})
_NOT_FOUND = 404
_LOST_AFTER = 8
_FILE_ATTEMPTS = 5
_GROUP_LINES = 256
_UNEXECUTED = frozenset({"batch_expired", "batch_cancelled"})
_NO_ROOM = "token_limit_exceeded"


class ServiceBatch:
    """One batch at a service, under a lease.

    Parameters
    ----------
    store
        The store.
    lease
        On the batch.
    target
        The service.
    service
        The same, with its key.
    """

    def __init__(self, store: Store, lease: Lease, target: Target, service: Service) -> None:
        self._store = store
        self._lease = lease
        self._target = target
        self._service = service
        self._parts: list[Part] = []
        self._not_found: dict[int, int] = {}

    async def advance(self) -> Literal["ended", "changed", "unchanged"]:
        """Take every step that can be taken now.

        Raises
        ------
        ServiceError
            The service failed at a step. The steps before it are in the store, and the next call continues from there.
        """
        record = await in_thread(self._lease.refresh)
        if record.status == "validating":
            record = await in_thread(lifecycle.validate, self._store, self._lease)
            if record.status == "failed":
                return "ended"
        if record.in_progress_at is None:
            await in_thread(lifecycle.finish, self._store, self._lease)
            return "ended"
        self._parts = parts_from_json(record.parts) or await self._divide(record)
        before = parts_to_json(self._parts)
        await self._advance_parts(record)
        if all(part.collected for part in self._parts):
            await in_thread(self._end)
            return "ended"
        return "unchanged" if before == parts_to_json(self._parts) else "changed"

    async def _divide(self, record: BatchRecord) -> list[Part]:
        def divided() -> list[Part]:
            index = lifecycle.load_index(self._store, self._lease)
            with self._store.files.open(record.input_file_id) as input_file:
                return divide(index, input_file, record.endpoint, self._target.rules())

        self._parts = await in_thread(divided)
        await self._save()
        return self._parts

    async def _save(self) -> None:
        fields = {"parts": parts_to_json(self._parts), "request_counts": counts_of(self._parts), "reason": None}
        await in_thread(lambda: self._lease.update(**fields))

    # ------------------------------------------------------------------------------------------------------ one part

    async def _advance_parts(self, record: BatchRecord) -> None:
        problem: ServiceError | None = None
        for part in self._parts:
            # If one part could not be sent, the next one would fail too; existing ones can still be followed.
            if part.collected or (problem is not None and part.batch_id is None):
                continue
            try:
                await self._advance_part(record, part)
            except ServiceError as error:
                problem = error
                if error.status is None:
                    break
        if problem is not None:
            raise problem

    async def _advance_part(self, record: BatchRecord, part: Part) -> None:
        is_cancelling = (await in_thread(self._lease.refresh)).status == "cancelling"
        if part.batch_id is None:
            await self._find_or_send(record, part, send=not is_cancelling)
        if part.batch_id is not None and not part.collected:
            await self._look(record, part, cancel=is_cancelling)

    async def _find_or_send(self, record: BatchRecord, part: Part, *, send: bool) -> None:
        number = self._parts.index(part)
        mark = {BATCH_KEY: record.id, PART_KEY: str(number), ATTEMPT_KEY: str(part.attempt)}
        if part.asked and (found := await self._service.find(mark, since=record.created_at)) is not None:
            await self._note(part, found)
        elif send:
            await self._send(record, part, number, mark)
        else:
            part.collected = True
            await self._save()

    async def _send(self, record: BatchRecord, part: Part, number: int, mark: dict[str, str]) -> None:
        try:
            if part.file_id is None:
                with self._store.files.open(record.input_file_id) as input_file:
                    stretch = Stretch(input_file, part.start, part.end)
                    part.file_id = await self._service.upload(stretch, f"{record.id}_{number}.jsonl")  # type: ignore[arg-type]
            part.asked = True
            await self._save()
            made = await self._service.create(
                file_id=part.file_id,
                endpoint=record.endpoint,
                completion_window=record.completion_window,
                metadata=_metadata(record) | mark,
                idempotency_key=f"{record.id}-{number}-{part.attempt}",
            )
        except ServiceError as error:
            if error.status == _NOT_FOUND and part.asked:
                # It has lost the file; the next call uploads it again.
                part.file_id = None
                await self._save()
            if error.status not in _REFUSALS:
                raise
            await self._refuse(record, part, str(error), status=int(error.status or 400))
            return
        await self._note(part, made)

    async def _look(self, record: BatchRecord, part: Part, *, cancel: bool) -> None:
        assert part.batch_id is not None
        try:
            batch = await self._service.retrieve(part.batch_id)
            if cancel and batch.status in {"validating", "in_progress"}:
                await self._service.cancel(part.batch_id)
                batch = await self._service.retrieve(part.batch_id)
            await self._note(part, batch)
            if batch.status in _ENDED:
                await self._collect(record, part, batch)
        except ServiceError as error:
            if error.status != _NOT_FOUND:
                raise
            # Once is a service that has not told all of its machines yet.
            times = self._not_found[part.first] = self._not_found.get(part.first, 0) + 1
            if times < _LOST_AFTER:
                raise
            await self._refuse(record, part, f"{error} The batch or its files are lost there.", status=502)
        else:
            self._not_found.pop(part.first, None)

    async def _note(self, part: Part, batch: Batch) -> None:
        counts = batch.request_counts
        seen = (batch.id, batch.status, counts.completed if counts else 0, counts.failed if counts else 0)
        if seen != (part.batch_id, part.status, part.completed, part.failed):
            part.batch_id, part.status, part.completed, part.failed = seen
            await self._save()

    # ------------------------------------------------------------------------------------------------------- its end

    async def _collect(self, record: BatchRecord, part: Part, batch: Batch) -> None:
        if batch.status == "failed":
            await self._failed(record, part, batch)
            return
        with self._store.files.open(record.input_file_id) as input_file:
            left = await in_thread(positions, input_file, part)
        group: list[SpoolRecord] = []
        for file_id, is_error in ((batch.output_file_id, False), (batch.error_file_id, True)):
            if not file_id:
                continue
            async for line in self._service.lines(file_id):
                if line.strip() and (spooled := _spooled(record.id, line, left, is_error=is_error)) is not None:
                    group.append(spooled)
                if len(group) >= _GROUP_LINES:
                    await self._append(group)
        await self._append(group)
        if batch.status == "completed":
            message = f"{self._target.name} completed the batch {batch.id} without a line for this request."
            await self._append([_error(record.id, left[name], name, message, status=502) for name in left])
        part.collected = True
        await self._save()

    async def _failed(self, record: BatchRecord, part: Part, batch: Batch) -> None:
        errors = (batch.errors.data if batch.errors else None) or []
        codes = {error.code for error in errors}
        lost_its_file = any(error.param == "file_id" for error in errors) and part.attempt < _FILE_ATTEMPTS
        if _NO_ROOM in codes or lost_its_file:
            # As OpenAI says: again, once some of the batches in progress have been completed.
            part.attempt += 1
            part.batch_id, part.status, part.asked = None, None, False
            part.file_id = None if lost_its_file else part.file_id
            await self._save()
            said = next(error.message for error in errors if lost_its_file or error.code == _NO_ROOM)
            raise ServiceError(f"{self._target.name} will take the batch later: {said}")
        said = "; ".join(str(error.message) for error in errors[:3]) or "no reason given"
        await self._refuse(record, part, f"{self._target.name} refused the batch {batch.id}: {said}", status=400)

    async def _refuse(self, record: BatchRecord, part: Part, message: str, *, status: int) -> None:
        """Write a line in the error file for every request of a part."""
        with self._store.files.open(record.input_file_id) as input_file:
            left = await in_thread(positions, input_file, part)
        await self._append([_error(record.id, place, name, message, status=status) for name, place in left.items()])
        part.completed, part.failed, part.collected = 0, part.requests, True
        await self._save()

    async def _append(self, group: list[SpoolRecord]) -> None:
        records, counts = list(group), counts_of(self._parts)
        group.clear()
        if records:
            await in_thread(lambda: self._lease.append(records, counts=counts))

    def _end(self) -> None:
        record = self._lease.refresh()
        if record.status == "in_progress" and self._lease.recover().counts.left:
            if any(part.status == "expired" for part in self._parts):
                # The service's clock counts, not this machine's.
                self._lease.update(expires_at=int(self._store.clock()))
            else:
                # It was cancelled at the service.
                self._store.batches.cancel(record.id)
        try:
            lifecycle.finish(self._store, self._lease)
        except ConflictError:
            # All its lines are there, and it was cancelled in the last moment.
            lifecycle.finish(self._store, self._lease)


def _metadata(record: BatchRecord) -> dict[str, str]:
    pairs = dict(record.to_openai().metadata or {})
    # The service takes no more than OpenAI does, and ours come first.
    return dict(list(pairs.items())[: MAX_METADATA_PAIRS - 3])


def _spooled(batch_id: str, line: bytes, left: dict[str, int], *, is_error: bool) -> SpoolRecord | None:
    """Turn a line of a service's file into ours; None if the request stays unexecuted or is not one of ours."""
    try:
        parsed = parse_output_line(line)
    except BadRequestError:
        return None
    position = left.get(parsed.custom_id)
    if position is None:
        return None
    if parsed.code in _UNEXECUTED and parsed.response is None:
        return None
    del left[parsed.custom_id]
    response = parsed.response
    if response is None or (parsed.reason is not None and bytes(response.body) == b"null"):
        reason = parsed.reason or "The service returned neither a response nor an error for this request."
        status = 504 if response is None else response.status_code
        return _error(batch_id, position, parsed.custom_id, reason, parsed.code, status=status)
    body, status = bytes(response.body), response.status_code
    try:
        usage = usage_in(decode_response(parsed.custom_id, status, body))
    except EngineError as error:
        return _error(batch_id, position, parsed.custom_id, str(error), status=502)
    written = output_line(
        id=parsed.id or request_id(batch_id, position),
        custom_id=parsed.custom_id,
        status_code=status,
        request_id=response.request_id or "",
        body=body,
    )
    return SpoolRecord(position, is_error or status >= 400, written, usage=usage)  # noqa: PLR2004 - HTTP's errors


def _error(
    batch_id: str, position: int, custom_id: str, message: str, code: str | None = None, *, status: int
) -> SpoolRecord:
    body = error_body(message, type="server_error" if status >= 500 else "invalid_request_error", code=code)  # noqa: PLR2004
    line_id = request_id(batch_id, position)
    written = output_line(id=line_id, custom_id=custom_id, status_code=status, request_id="", body=body)
    return SpoolRecord(position, True, written)
