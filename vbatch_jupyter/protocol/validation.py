r"""The one pass over an input file that decides whether its batch runs at all (contract §1.7).

Every bad line is reported, with OpenAI's code, line, param and message. If OpenAI has not published one, the code is
``invalid_request`` (for too many requests it is Azure's) and the message is ours:

- ``invalid_json_line``: not JSON that every parser reads (`requests.decode_strictly`).
- ``missing_required_parameter``: ``custom_id``, ``method``, ``url`` or ``body`` is absent or null.
- ``invalid_request``: one of them has another type or is too long; the method is not POST; the body has no model, or no
  messages, prompt or input; the response would run in the background; the file is too large, its embedding inputs too
  many; or the file does not exist (`missing_input_file`).
- ``invalid_url``: the line's url is not the batch's endpoint.
- ``streaming_unsupported``: the body asks for a stream.
- ``model_not_found``: none of the models that were asked about.
- ``mismatched_model``: not the model of the first request.
- ``duplicate_custom_id``: reported at the later one of the two lines.
- ``empty_file``: no request in the file.
- ``too_many_tasks``: more requests than the profile allows; the pass ends there.
- ``token_limit_exceeded`` never occurs here: there is no quota of tokens.

Lines end at ``\n`` alone. Blank lines, a byte order mark before the first line, and ``\r`` before a line's end are
part of no request.
"""

from __future__ import annotations

import codecs
import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any, BinaryIO, NamedTuple

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.batch import BatchError
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.index import UNLIMITED, LineIndex, beginning, hash_of, prefix_key, prefix_lengths, repeated
from vbatch_jupyter.protocol.notes import Notes
from vbatch_jupyter.protocol.profiles import Profile
from vbatch_jupyter.protocol.requests import (
    NOT_JSON,
    check_request,
    decode_strictly,
    document_hint,
    embedding_inputs,
    is_deterministic,
    is_faultless,
    keys_next_to_body,
    quoted,
)

MAX_ERRORS = 1000
"""Errors that one validation lists; a last entry says how many more there are."""

_HEAD = 64 * 1024
_STOP_EVERY = 4 * 1024 * 1024
_SKIP = 1024 * 1024
_COMPARED_BODIES = 64
_BLANK = b" \t\r\n"


@dataclasses.dataclass(frozen=True, slots=True)
class Validation:
    """What the pass over an input file found.

    Parameters
    ----------
    errors
        What is wrong: with the whole file first, then by line; empty if the batch may run.
    index
        Its requests; complete only if there are no errors.
    model
        The model that all requests name; None if they name several.
    notes
        What the requests ask in vain, as `notes.Notes` says.
    stopped
        Whether ``should_stop`` ended the pass, so that the rest says nothing about the whole file.
    """

    errors: tuple[BatchError, ...]
    index: LineIndex
    model: str | None
    notes: tuple[str, ...] = ()
    stopped: bool = False


def validate(
    input_file: BinaryIO,
    *,
    endpoint: str,
    profile: Profile,
    models: Collection[str] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Validation:
    """Check an input file in one pass, with only one line and the first few in memory.

    Parameters
    ----------
    input_file
        Open for reading bytes, seekable.
    endpoint
        The batch's, such as ``"/v1/chat/completions"``.
    profile
        Whose limits apply.
    models
        The models that could answer; None if that is not asked.
    should_stop
        Asked every 4 MiB; true ends the pass.

    Examples
    --------
    >>> import io
    >>> from vbatch_jupyter.protocol.profiles import PROFILES
    >>> lines = io.BytesIO(b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m"}}')
    >>> validate(lines, endpoint="/v1/embeddings", profile=PROFILES["openai"]).errors
    (BatchError(code='invalid_request', message='Input parameter is required.', param='body.input', line=1),)
    """
    size = input_file.seek(0, 2)
    input_file.seek(0)
    head = input_file.read(_HEAD)
    input_file.seek(0)
    if profile.max_bytes is not None and size > profile.max_bytes:
        message = f"The input file has {size:,} bytes; at most {profile.max_bytes:,} are allowed. {_SPLIT}"
        return Validation((BatchError("invalid_request", message, "input_file_id"),), LineIndex(), None)
    if hint := document_hint(head):
        message = f"{NOT_JSON} {hint}"
        return Validation((BatchError("invalid_json_line", message, None, 1),), LineIndex(), None)
    validator = _Validator(input_file, endpoint=endpoint, profile=profile, models=models)
    stopped = not validator.read(should_stop)
    if not stopped:
        validator.compare()
    notes = validator.notes.sentences()
    return Validation(validator.errors.listed(), validator.index, validator.model, notes, stopped)


class InputLine(NamedTuple):
    """A line of an input file that is not blank.

    Parameters
    ----------
    number
        In the file, from 1.
    offset
        The position of its first byte in the file.
    size
        Bytes, with the line's end.
    line
        Without its end and without a byte order mark; None if it is too long.
    """

    number: int
    offset: int
    size: int
    line: bytes | None


def input_lines(file: BinaryIO, longest: int) -> Iterator[InputLine]:
    r"""Yield the lines of an input file from its current position on, without the blank ones.

    Parameters
    ----------
    file
        Open for reading bytes, at its beginning.
    longest
        Bytes that a line may have; of a longer one only as much is held.

    Examples
    --------
    >>> import io
    >>> [line.line for line in input_lines(io.BytesIO(b"{}\r\n\n[1, 2, 3]"), 4)]
    [b'{}', None]
    """
    offset = 0
    number = 0
    # Room for the longest line and its end, \n or \r\n.
    while line := file.readline(longest + 2):
        number += 1
        size = len(line)
        if size > longest and not line.endswith(b"\n"):
            while rest := file.readline(_SKIP):
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
        mark = len(codecs.BOM_UTF8) if offset == 0 and line.startswith(codecs.BOM_UTF8) else 0
        content = line[mark:].rstrip(_BLANK)
        if content or size > len(line):
            is_too_long = len(content) > longest or size > len(line)
            yield InputLine(number, offset + mark, size, None if is_too_long else content)
        offset += size


def missing_input_file(file_id: str) -> BatchError:
    """Make the error of a batch whose input file does not exist when it is validated.

    Examples
    --------
    >>> missing_input_file("file-0").message
    'Cannot find file file-0, or organization does not have access to it.'
    """
    message = f"Cannot find file {file_id}, or organization does not have access to it."
    return BatchError("invalid_request", message, "file_id")


def duplicates(index: LineIndex, custom_id_at: Callable[[int], str]) -> Iterator[tuple[int, str]]:
    """Find the requests whose custom_id an earlier request has.

    Equal hashes are only a suspicion: the custom_ids themselves are compared.

    Parameters
    ----------
    index
        The requests.
    custom_id_at
        Reads the custom_id of the request at a position.

    Yields
    ------
    tuple
        The later request's position and its custom_id, in the file's order.
    """
    suspects = repeated(index.custom_id_hashes)
    if not suspects:
        return
    seen = set()
    for position, hashed in enumerate(index.custom_id_hashes):
        if hashed in suspects:
            custom_id = custom_id_at(position)
            if custom_id in seen:
                yield position, custom_id
            seen.add(custom_id)


_SPLIT = "Split it into several batches."


class _Errors:
    """Keeps the first errors by line and counts the others, so that errors cannot fill the memory."""

    def __init__(self) -> None:
        self._of_file: list[BatchError] = []
        self._of_lines: list[BatchError] = []
        self._of_custom_ids: list[BatchError] = []
        self._count = 0

    def add(self, code: str, message: str, param: str | None = None, line: int | None = None) -> None:
        self._keep(self._of_file if line is None else self._of_lines, BatchError(code, message, param, line))

    def add_duplicate(self, custom_id: str, line: int) -> None:
        message = (
            f"The custom_id '{custom_id}' for this request is a duplicate of another request. "
            "The custom_id parameter must be unique for each request in a batch."
        )
        # Found after the pass, so kept apart: each list holds the first errors of its kind by line.
        self._keep(self._of_custom_ids, BatchError("duplicate_custom_id", message, "custom_id", line))

    def listed(self) -> tuple[BatchError, ...]:
        of_lines = sorted(self._of_lines + self._of_custom_ids, key=lambda error: error.line or 0)
        listed = (self._of_file + of_lines)[:MAX_ERRORS]
        if more := self._count - len(listed):
            message = f"{more:,} more errors were found; only the first {MAX_ERRORS:,} are listed."
            listed.append(BatchError("invalid_request", message))
        return tuple(listed)

    def _keep(self, errors: list[BatchError], error: BatchError) -> None:
        self._count += 1
        if len(errors) < MAX_ERRORS:
            errors.append(error)


class _Validator:
    """One pass over one input file."""

    def __init__(
        self, input_file: BinaryIO, *, endpoint: str, profile: Profile, models: Collection[str] | None
    ) -> None:
        self.errors = _Errors()
        self.index = LineIndex()
        self.notes = Notes(profile)
        self._file = input_file
        self._endpoint = endpoint
        self._profile = profile
        self._models = models
        self._first_model: str | None = None
        self._several_models = False
        self._requests = 0
        self._embedding_inputs = 0
        self._prefix_lengths: tuple[int, ...] = ()

    @property
    def model(self) -> str | None:
        return None if self._several_models else self._first_model

    def read(self, should_stop: Callable[[], bool]) -> bool:
        """Check line after line; False if the pass was stopped."""
        most = self._profile.max_lines
        next_stop = _STOP_EVERY
        lines = ((line, self._decoded(line)) for line in input_lines(self._file, self._profile.max_line_bytes))
        first = []
        for read in lines:
            first.append(read)
            if len(first) == _COMPARED_BODIES or read[0].offset >= _STOP_EVERY:
                break
        self._prefix_lengths = prefix_lengths([text for _, request in first if (text := self._prompt_of(request))])
        for line, request in itertools.chain(first, lines):
            if line.offset >= next_stop:
                if should_stop():
                    return False
                next_stop = line.offset + _STOP_EVERY
            self._requests += 1
            if most is not None and self._requests > most:
                self.errors.add("too_many_tasks", f"The input file has more than {most:,} requests. {_SPLIT}")
                return True
            if isinstance(request, BatchError):
                self.errors.add(request.code, request.message, line=line.number)
            else:
                self._check(line, request)
        return True

    def _decoded(self, line: InputLine) -> dict[str, Any] | BatchError:
        """Decode a line, once for all checks."""
        if line.line is None:
            message = f"This line has {line.size:,} bytes; at most {self._profile.max_line_bytes:,} are allowed."
            return BatchError("invalid_request", message)
        try:
            return decode_strictly(line.line)
        except BadRequestError as error:
            return BatchError(str(error.code), error.message)

    def _prompt_of(self, request: dict[str, Any] | BatchError) -> str:
        body = request.get("body") if isinstance(request, dict) else None
        url = request.get("url") if isinstance(request, dict) else None
        endpoint = ENDPOINTS.get(url) if isinstance(url, str) else None
        return "" if endpoint is None or not isinstance(body, dict) else beginning(endpoint.turns(body))

    def compare(self) -> None:
        """Check what only the whole file shows."""
        if not self._requests:
            message = "The input file is empty. Please ensure that the batch contains at least one request."
            self.errors.add("empty_file", message)
        most = self._profile.max_embedding_inputs
        if most is not None and self._embedding_inputs > most:
            begin = f"The input file has {self._embedding_inputs:,} embedding inputs"
            self.errors.add("invalid_request", f"{begin}; at most {most:,} are allowed. {_SPLIT}", "body.input")
        for position, custom_id in duplicates(self.index, self._custom_id_at):
            self.errors.add_duplicate(custom_id, self.index.numbers[position])

    def _check(self, line: InputLine, request: dict[str, Any]) -> None:
        number, nameless = line.number, False
        if not is_faultless(request, endpoint=self._endpoint):
            for problem in check_request(request, endpoint=self._endpoint, profile=self._profile):
                self.errors.add(*problem, line=number)
                nameless = nameless or problem.param == "custom_id"
        body, url = request.get("body"), request.get("url")
        if not isinstance(body, dict) or not isinstance(url, str):
            body, url = {}, self._endpoint
        endpoint = ENDPOINTS.get(url)
        if endpoint is not None and not endpoint.generates and body:
            self._embedding_inputs += embedding_inputs(body)
        self._check_model(body.get("model"), number)
        if not nameless and line.line is not None:
            lengths = self._prefix_lengths
            text = "" if endpoint is None else beginning(endpoint.turns(body), lengths[-1])
            self.notes.see(url, body, request["custom_id"], others=keys_next_to_body(request))
            limit = None if endpoint is None else endpoint.output_limit(body)
            self.index.append(
                offset=line.offset,
                length=len(line.line),
                number=number,
                custom_id_hash=hash_of(request["custom_id"].encode()),
                # Written as the feed writes it, so that equal requests have equal hashes.
                request_hash=hash_of(url.encode(), msgspec.json.encode(body)),
                deterministic=is_deterministic(body, endpoint),
                prefix_key=prefix_key(text, lengths),
                output_limit=UNLIMITED if limit is None else min(limit, UNLIMITED),
            )

    def _check_model(self, model: Any, number: int) -> None:
        if not isinstance(model, str) or not model:
            return
        if self._models is not None and model not in self._models:
            message = f"The provided model {quoted(model)} is not supported by the Batch API."
            self.errors.add("model_not_found", message, "body.model", number)
        if self._first_model is None:
            self._first_model = model
        elif model != self._first_model:
            self._several_models = True
            if self._profile.single_model:
                message = (
                    f"The model {quoted(model)} for this request does not match the rest of the batch. "
                    "Each batch must contain requests for a single model."
                )
                self.errors.add("mismatched_model", message, "body.model", number)

    def _custom_id_at(self, position: int) -> str:
        self._file.seek(self.index.offsets[position])
        custom_id: str = msgspec.json.decode(self._file.read(self.index.lengths[position]))["custom_id"]
        return custom_id
