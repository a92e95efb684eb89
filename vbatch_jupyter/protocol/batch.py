"""The batch: its statuses, its record in the store and the object that OpenAI's clients see.

The status machine (contract §1.3)::

    validating ─▶ in_progress ─▶ finalizing ─▶ completed
        │  │            │ │
        │  ▼            │ └────▶ expired
        │ failed        ▼
        └──────────▶ cancelling ─▶ cancelled
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from vbatch_jupyter.protocol.file import openai_fields

if TYPE_CHECKING:
    from openai.types import Batch

MAX_METADATA_PAIRS = 16
"""The most pairs that OpenAI keeps with a batch."""

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]

NEXT_STATUSES: Mapping[Status, frozenset[Status]] = MappingProxyType(
    {
        "validating": frozenset({"failed", "in_progress", "cancelling"}),
        "in_progress": frozenset({"finalizing", "expired", "cancelling"}),
        "finalizing": frozenset({"completed"}),
        "cancelling": frozenset({"cancelled"}),
        "failed": frozenset(),
        "completed": frozenset(),
        "expired": frozenset(),
        "cancelled": frozenset(),
    }
)
"""Which statuses may follow each status; a status never moves back."""

TERMINAL_STATUSES: frozenset[Status] = frozenset(status for status, after in NEXT_STATUSES.items() if not after)
"""The statuses that a batch ends in."""


@dataclasses.dataclass(frozen=True, slots=True)
class RequestCounts:
    """How many requests a batch has, and how many have completed and failed.

    Parameters
    ----------
    total
        Requests in the input file; 0 while the batch is validating.
    completed
        Requests answered with a 2xx status.
    failed
        Requests that ran and ended in an error. Requests that never ran, because the batch was cancelled or expired,
        are in neither figure (contract §1.3).
    """

    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def left(self) -> int:
        """Requests without an answer and without an error."""
        return self.total - self.completed - self.failed


@dataclasses.dataclass(frozen=True, slots=True)
class BatchError:
    """One reason why an input file is not valid (contract §1.7).

    Parameters
    ----------
    code
        OpenAI's code, such as ``"duplicate_custom_id"``.
    message
        OpenAI's sentence.
    param
        The offending key, such as ``"body.model"``.
    line
        Line of the input file, counted from 1; None if the whole file is meant.
    """

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a whole batch, summed over the lines of its output file.

    Parameters
    ----------
    input_tokens, cached_tokens, output_tokens, reasoning_tokens
        Tokens; cached ones are part of the input, reasoning ones of the output.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchRecord:
    """One row of the store's table of batches.

    The fields above the line are OpenAI's, in OpenAI's units (Unix seconds). Those below it never leave this machine
    in OpenAI's object.
    """

    id: str
    endpoint: str
    input_file_id: str
    created_at: int
    status: Status = "validating"
    completion_window: str = "24h"
    model: str | None = None
    errors: tuple[BatchError, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: Usage | None = None
    metadata: Mapping[str, str] | None = None
    output_expires_after_seconds: int | None = None
    # ----------------------------------------------------------------------------------------------------------------
    idempotency_key: str | None = None
    """The client's ``Idempotency-Key``; a create that is sent again with it returns this batch."""
    profile: str = "openai"
    """Whose limits the input file is held to; a key of `protocol.profiles.PROFILES`."""
    epoch: int = 0
    """Counts the leases taken on the batch; the fence that keeps a former owner from writing."""
    owner: str | None = None
    """Who holds the lease, for display: ``"host:pid"``."""
    reason: str | None = None
    """Why the batch is not advancing, in one sentence; None while it advances."""
    paused: bool = False
    """No runner runs the batch until an engine is loaded again."""
    deaths: int = 0
    """Deaths of the engine since this batch last got an answer."""
    careful: bool = False
    """Requests run one at a time, to find the one that kills the engine."""
    fresh: bool = False
    """Every request goes to the engine, even if its answer is known."""
    answers_key: str | None = None
    """Identifies the engine that gave the answers, so that they can be reused; empty if several engines did."""
    frame: str | None = None
    """What `frames` needs to turn the output back into a DataFrame, as JSON; opaque to the store."""
    target: str | None = None
    """The batch service that runs it, as JSON that `targets` reads; None if an engine here does."""
    parts: str | None = None
    """The batches that it is at that service, as JSON that `targets` reads; None until it is divided."""
    retry_of: str | None = None
    """The batch whose unanswered requests it runs again; shown in the metadata if there is room."""
    models: tuple[str, ...] | None = None
    """The models that its requests may name; None for any, and the batch waits for its engine."""
    engine_seeds: tuple[int, ...] = ()
    """The seeds of the engines that have run it, in order; it can be repeated if there is only one."""
    origin: str | None = None
    """The notebook that made it, as its kernel's session is called; None if it was made over HTTP."""

    def to_openai(self) -> Batch:
        """Build the object that OpenAI's clients see, every field present.

        Examples
        --------
        >>> record = BatchRecord(id="batch_0", endpoint="/v1/embeddings", input_file_id="file-0", created_at=1)
        >>> record.to_openai().request_counts.total
        0
        """
        from openai.types import Batch

        fields = openai_fields(self, Batch)
        fields["object"] = "batch"
        fields["metadata"] = None if self.metadata is None else dict(self.metadata)
        if self.retry_of is not None and len(self.metadata or ()) < MAX_METADATA_PAIRS:
            fields["metadata"] = {**(self.metadata or {}), "retry_of": self.retry_of}
        fields["request_counts"] = dataclasses.asdict(self.request_counts)
        fields["errors"] = None
        if self.errors:
            fields["errors"] = {"object": "list", "data": [dataclasses.asdict(error) for error in self.errors]}
        fields["usage"] = None if self.usage is None else _usage_to_openai(self.usage)
        return Batch.model_validate(fields)


def _usage_to_openai(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        # cache_write_tokens is required by the types of recent openai packages (contract §5).
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
