"""OpenAI's verbs over the store, with OpenAI's rules and sentences (contract §1.1, §1.2, §1.6).

Whatever a caller may get wrong is a `BadRequestError` with OpenAI's message, param and code. What only the input file
can tell is found by validation, after the batch was created.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Literal

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.file import FileRecord
from vbatch_jupyter.protocol.ids import new_batch_id
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.store import Page, Store

FILE_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
"""The purposes that a file may be uploaded for."""

_WINDOW_SECONDS = {"24h": 24 * 3600, "1h": 3600}
_EXPIRY_SECONDS = (3600, 2_592_000)
_METADATA_PAIRS, _METADATA_KEY, _METADATA_VALUE = 16, 64, 512
# The head of an upload that is looked at; a first line longer than that is for validation to judge.
_HEAD_BYTES = 1024 * 1024


class Manager:
    """OpenAI's files and batches on the local store.

    Parameters
    ----------
    store
        Where they are.
    profile
        Whose limits a batch is held to where it does not say; a key of `PROFILES`.
    wake
        Called after each commit that gives a runner something to do.

    Attributes
    ----------
    files, batches
        The verbs.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder, Store(Path(folder, "store"), floor_bytes=0) as store:
    ...     manager = Manager(store)
    ...     file = manager.files.create([b'{"custom_id": "a"}'], filename="in.jsonl", purpose="batch")
    ...     batch = manager.batches.create(
    ...         input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    ...     )
    ...     batch.status
    'validating'
    """

    def __init__(self, store: Store, *, profile: str = "openai", wake: Callable[[], None] = lambda: None) -> None:
        self.files = FilesManager(store)
        self.batches = BatchesManager(store, profile=profile, wake=wake)


class FilesManager:
    """The verbs of ``client.files``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(
        self,
        chunks: Iterable[bytes],
        *,
        filename: str,
        purpose: str,
        expires_after_seconds: int | None = None,
    ) -> FileRecord:
        """Upload a file.

        Parameters
        ----------
        chunks
            Its content, which may be larger than the memory.
        filename
            Kept as data; any name will do.
        purpose
            One of `FILE_PURPOSES`.
        expires_after_seconds
            3,600 to 2,592,000; None keeps the file until it is deleted.

        Raises
        ------
        BadRequestError
            A parameter is wrong, or a file for a batch does not begin with a line of JSON.
        StoreFullError
            There is no room.
        """
        _check_choice("purpose", purpose, FILE_PURPOSES)
        _check_text("filename", filename)
        expires_at = None
        if expires_after_seconds is not None:
            _check_integer("expires_after.seconds", expires_after_seconds, *_EXPIRY_SECONDS)
            expires_at = int(self._store.clock()) + expires_after_seconds
        if purpose == "batch":
            chunks = _json_lines(chunks)
        return self._store.files.create(chunks, filename=filename, purpose=purpose, expires_at=expires_at)

    def retrieve(self, file_id: str) -> FileRecord:
        """Give a file's record; `NotFoundError` where there is none."""
        return self._store.files.get(file_id)

    def list(
        self,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> Page[FileRecord]:
        """Give one page of the files, of at most 10,000.

        Raises
        ------
        BadRequestError
            ``limit`` or ``order`` is out of range.
        NotFoundError
            There never was a file ``after``.
        """
        _check_integer("limit", limit, 1, 10_000)
        _check_choice("order", order, ("asc", "desc"))
        return self._store.files.list(purpose=purpose, after=after, limit=limit, order=order)

    def content(self, file_id: str) -> BinaryIO:
        """Open a file's content for reading; `NotFoundError` where there is none."""
        return self._store.files.open(file_id)

    def delete(self, file_id: str) -> FileRecord:
        """Delete a file; `ConflictError` while a batch that has not ended reads it."""
        return self._store.files.delete(file_id)


class BatchesManager:
    """The verbs of ``client.batches``."""

    def __init__(self, store: Store, *, profile: str, wake: Callable[[], None]) -> None:
        self._store = store
        self._profile = profile
        self._wake = wake

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
    ) -> BatchRecord:
        """Create a batch; it is on the disk, and waits for validation, when the call returns.

        Parameters
        ----------
        input_file_id
            An uploaded file; one that is not there fails the batch's validation, as with OpenAI.
        endpoint
            Such as ``"/v1/chat/completions"``.
        completion_window
            ``"24h"``.
        metadata
            Up to 16 pairs of strings.
        output_expires_after_seconds
            3,600 to 2,592,000, counted from the creation of the output file.
        profile
            Whose limits the input file is held to; the manager's where it is None.
        fresh
            Ask the engine even where an answer is known.
        frame
            What turns the output back into a DataFrame, as JSON.

        Raises
        ------
        BadRequestError
            A parameter is wrong.
        StoreFullError
            There is no room for what the batch would write.
        """
        rules = PROFILES[profile or self._profile]
        _check_required("input_file_id", input_file_id)
        _check_choice("endpoint", endpoint, rules.endpoints)
        _check_choice("completion_window", completion_window, rules.completion_windows)
        _check_metadata(metadata)
        if output_expires_after_seconds is not None:
            _check_integer("output_expires_after.seconds", output_expires_after_seconds, *_EXPIRY_SECONDS)
        now = int(self._store.clock())
        record = self._store.batches.create(
            BatchRecord(
                id=new_batch_id(),
                endpoint=endpoint,
                input_file_id=input_file_id,
                created_at=now,
                completion_window=completion_window,
                expires_at=now + _WINDOW_SECONDS[completion_window],
                metadata=metadata,
                output_expires_after_seconds=output_expires_after_seconds,
                profile=rules.name,
                fresh=fresh,
                frame=frame,
            )
        )
        self._wake()
        return record

    def retrieve(self, batch_id: str) -> BatchRecord:
        """Give a batch's record; `NotFoundError` where there is none."""
        return self._store.batches.get(batch_id)

    def list(self, *, after: str | None = None, limit: int = 20) -> Page[BatchRecord]:
        """Give one page of the batches, of at most 100, the newest first.

        Raises
        ------
        BadRequestError
            ``limit`` is out of range.
        NotFoundError
            There is no batch ``after``.
        """
        _check_integer("limit", limit, 1, 100)
        return self._store.batches.list(after=after, limit=limit)

    def cancel(self, batch_id: str) -> BatchRecord:
        """Cancel a batch; `ConflictError` where it has ended otherwise, `NotFoundError` where there is none."""
        record = self._store.batches.cancel(batch_id)
        self._wake()
        return record


def _json_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Pass an upload on, once its first line has been seen to be JSON."""
    rest = iter(chunks)
    head = b""
    for chunk in rest:
        head += chunk
        if b"\n" in head.lstrip() or len(head) > _HEAD_BYTES:
            break
    line, end, _ = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    if end or len(head) <= _HEAD_BYTES:
        try:
            msgspec.json.decode(line)
        except (ValueError, RecursionError) as error:
            # OpenAI's sentence (contract §1.6), also for an empty file.
            raise BadRequestError("Invalid file format for Batch API. Must be .jsonl") from error
    yield head
    yield from rest


def _check_required(param: str, value: object) -> None:
    if value is None:
        message = f"Missing required parameter: '{param}'."
        raise BadRequestError(message, param=param, code="missing_required_parameter")
    _check_text(param, value)


def _check_text(param: str, value: object) -> None:
    if not isinstance(value, str):
        raise _wrong_type(param, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # A lone surrogate: JSON can spell it, and neither the database nor an answer could hold it.
        message = f"Invalid '{param}': it holds a character that is no Unicode text ({value[error.start]!r})."
        raise BadRequestError(message, param=param, code="invalid_value") from error


def _check_choice(param: str, value: object, choices: Sequence[str]) -> None:
    _check_required(param, value)
    if value not in choices:
        quoted = [f"'{choice}'" for choice in choices]
        listed = quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + f", and {quoted[-1]}"
        if len(quoted) == 2:  # noqa: PLR2004 - two take no comma
            listed = " and ".join(quoted)
        message = f"Invalid value: '{value}'. Supported values are: {listed}."
        if param == "completion_window":
            # OpenAI's answer names the parameter; of its sentence no more is known (contract §1.6).
            message = f"Invalid value for 'completion_window': '{value}'. Supported values are: {listed}."
        raise BadRequestError(message, param=param, code="invalid_value")


def _check_integer(param: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(param, "an integer", value)
    if value < least:
        message = (
            f"Invalid '{param}': integer below minimum value. Expected a value >= {least}, but got {value} instead."
        )
        raise BadRequestError(message, param=param, code="integer_below_min_value")
    if value > most:
        message = (
            f"Invalid '{param}': integer above maximum value. Expected a value <= {most}, but got {value} instead."
        )
        raise BadRequestError(message, param=param, code="integer_above_max_value")


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise _wrong_type("metadata", "an object", metadata)
    if len(metadata) > _METADATA_PAIRS:
        message = (
            f"Invalid 'metadata': too many properties. Expected an object with at most {_METADATA_PAIRS} properties, "
            f"but got an object with {len(metadata)} properties instead."
        )
        raise BadRequestError(message, param="metadata", code="object_above_max_properties")
    for key, value in metadata.items():
        _check_text("metadata", key)
        if len(key) > _METADATA_KEY:
            message = (
                f"Invalid property name in 'metadata': string too long. Expected a string with maximum length "
                f"{_METADATA_KEY}, but got a string with length {len(key)} instead."
            )
            raise BadRequestError(message, param="metadata", code="string_above_max_length")
        _check_text(f"metadata.{key}", value)
        if len(value) > _METADATA_VALUE:
            message = (
                f"Invalid 'metadata.{key}': string too long. Expected a string with maximum length {_METADATA_VALUE}, "
                f"but got a string with length {len(value)} instead."
            )
            raise BadRequestError(message, param=f"metadata.{key}", code="string_above_max_length")


_JSON_TYPES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a decimal"),
    (str, "a string"),
    ((list, tuple), "an array"),
    (dict, "an object"),
)


def _wrong_type(param: str, expected: str, value: object) -> BadRequestError:
    # bool before int: in Python the one is the other.
    found = next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "null" if value is None else "it")
    message = f"Invalid type for '{param}': expected {expected}, but got {found} instead."
    return BadRequestError(message, param=param, code="invalid_type")
