"""What a batch service would make of an input file, line by line, before it is sent there.

A finding is of one of four kinds: the service would **refuse** the file, so that no request runs; it would answer the
line with an **error**; the body has a key that **vLLM alone** understands; or it has a key that the service **ignores**
without a word. What is an error or ignored is in the table of `policy`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, BinaryIO, Literal

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol import policy
from vbatch_jupyter.protocol.batch import BatchError
from vbatch_jupyter.protocol.constraint_size import constraints
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.grammar_schema import GRAMMARS
from vbatch_jupyter.protocol.keys import MOST_NAMED, OTHER_ENDPOINTS, about, more_of, shortened, unknown_keys
from vbatch_jupyter.protocol.notes import outside
from vbatch_jupyter.protocol.profiles import Profile
from vbatch_jupyter.protocol.requests import decode_strictly, keys_next_to_body, quoted
from vbatch_jupyter.protocol.validation import input_lines, validate
from vbatch_jupyter.records import EngineLimits

Severity = Literal["refused", "error", "vllm_only", "ignored"]

SEVERITIES: tuple[Severity, ...] = ("refused", "error", "vllm_only", "ignored")
"""The kinds of findings, most severe first."""

_FIRST_LINES = 100


class Finding(msgspec.Struct, frozen=True):
    """One thing that a service would refuse or not understand.

    Parameters
    ----------
    severity
        ``"refused"``: the service would run none of the batch; ``"error"``: this line would be answered with an
        error; ``"vllm_only"``: a key of vLLM's that is not one of OpenAI's; ``"ignored"``: a key that does nothing.
    code, message, param
        As in a batch's errors.
    line
        Line of the file, counted from 1; None if the whole file is meant.
    custom_id
        The request's, where it can be read.
    """

    severity: Severity
    code: str
    message: str
    param: str | None = None
    line: int | None = None
    custom_id: str | None = None

    def __str__(self) -> str:
        place = "file" if self.line is None else f"line {self.line}"
        name = "" if self.custom_id is None else f" ({quoted(self.custom_id)})"
        return f"{place}{name}: {self.severity}: {self.code}: {self.message}"


def check(
    input_file: BinaryIO,
    profile: Profile,
    *,
    endpoint: str | None = None,
    models: Collection[str] | None = None,
    limits: EngineLimits = policy.NO_LIMITS,
) -> Iterator[Finding]:
    """Yield what a service would say about an input file: about the file, then by line. Holds one line in memory.

    Parameters
    ----------
    input_file
        Open for reading bytes, seekable; it must not change meanwhile.
    profile
        Whose limits apply.
    endpoint
        The endpoint that the batch would be made for; by default the url of the first request.
    models
        The models that could answer; None if that is not known, as of a batch service.
    limits
        What is known of the engine that would answer it.

    Examples
    --------
    >>> import io
    >>> from vbatch_jupyter.protocol.profiles import PROFILES
    >>> body = b'{"model": "m", "messages": [], "top_k": 3, "temprature": 0, "stream": true}'
    >>> line = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": %b}' % body
    >>> for finding in check(io.BytesIO(line), PROFILES["parasail"]):
    ...     print(finding.line, finding.custom_id, finding.severity, finding.param)
    1 a refused body.stream
    1 a error body.messages
    1 a vllm_only body.top_k
    1 a ignored body.temprature
    """
    endpoint = endpoint or first_url(input_file, profile)
    errors = list(reversed(validate(input_file, endpoint=endpoint, profile=profile, models=models).errors))
    while errors and errors[-1].line is None:
        yield _refused(errors.pop())
    # The second pass is for the keys, and for the custom_ids of refused requests.
    input_file.seek(0)
    for number, _, _, line in input_lines(input_file, profile.max_line_bytes):
        request = _request_of(line)
        custom_id = request.get("custom_id")
        name = custom_id if isinstance(custom_id, str) else None
        while errors and errors[-1].line == number:
            yield _refused(errors.pop(), name)
        for key in keys_next_to_body(request):
            yield Finding("ignored", "unknown_parameter", outside(key), key, number, name)
        for severity, code, message, key in _of_body(request, endpoint, profile, limits):
            yield Finding(severity, code, message, f"body.{shortened(key)}", number, name)
    # How many more there are than are listed.
    for error in errors:
        yield _refused(error)


def first_url(input_file: BinaryIO, profile: Profile) -> str:
    """Return the url of the first request that has one of a profile's, else its first endpoint.

    Parameters
    ----------
    input_file
        Open for reading bytes, seekable.
    profile
        Whose endpoints count.
    """
    urls = (request.get("url") for request in _first_requests(input_file, profile))
    known = (url for url in urls if isinstance(url, str) and url in profile.endpoints)
    return next(known, next(iter(profile.endpoints)))


def first_model(input_file: BinaryIO, profile: Profile) -> str | None:
    """Return the model of the first request that names one; None if none of the first requests does.

    Parameters
    ----------
    input_file
        Open for reading bytes, seekable.
    profile
        Whose longest line counts.
    """
    bodies = (request.get("body") for request in _first_requests(input_file, profile))
    models = (body.get("model") for body in bodies if isinstance(body, dict))
    return next((model for model in models if isinstance(model, str) and model), None)


def _first_requests(input_file: BinaryIO, profile: Profile) -> Iterator[dict[str, Any]]:
    input_file.seek(0)
    for number, _, _, line in input_lines(input_file, profile.max_line_bytes):
        yield _request_of(line)
        if number >= _FIRST_LINES:
            break


class Summary:
    """How many findings of which kind there are; counts what it passes on.

    Examples
    --------
    >>> summary = Summary("openai")
    >>> list(summary.counted([])), summary.refuses, str(summary)
    ([], False, 'openai takes the file; nothing in it is known to fail or to be ignored.')
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.counts: dict[Severity, int] = dict.fromkeys(SEVERITIES, 0)
        self.lines_with_errors = 0
        self._last_line: int | None = None

    def counted(self, findings: Iterator[Finding] | list[Finding]) -> Iterator[Finding]:
        """Pass findings on and count them."""
        for finding in findings:
            self.counts[finding.severity] += 1
            if finding.severity == "error" and finding.line != self._last_line:
                self.lines_with_errors += 1
                self._last_line = finding.line
            yield finding

    @property
    def refuses(self) -> bool:
        """Whether the service would refuse the batch."""
        return self.counts["refused"] > 0

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {severity}" for severity, count in self.counts.items() if count)
        if self.refuses:
            return f"{self.target} would refuse it: {counts}."
        if not counts:
            return f"{self.target} takes the file; nothing in it is known to fail or to be ignored."
        if not self.lines_with_errors:
            return f"{self.target} takes the file: {counts}."
        lines = "1 line" if self.lines_with_errors == 1 else f"{self.lines_with_errors:,} lines"
        return f"{self.target} takes the file; {lines} would be answered with errors: {counts}."


def _refused(error: BatchError, custom_id: str | None = None) -> Finding:
    return Finding("refused", error.code, error.message, error.param, error.line, custom_id)


def _of_body(
    request: dict[str, Any], endpoint: str, profile: Profile, limits: EngineLimits
) -> Iterator[tuple[Severity, str, str, str]]:
    """Yield severity, code, message and key of what is found in a request's body."""
    url, body = request.get("url"), request.get("body")
    if not isinstance(body, dict):
        return
    # A line for another endpoint is refused as a whole if that is not allowed; its keys are checked for its endpoint.
    path = url if isinstance(url, str) and (url in ENDPOINTS or url in OTHER_ENDPOINTS) else endpoint
    model = body.get("model")
    if profile.models is not None and isinstance(model, str) and not re.fullmatch(profile.models, model):
        yield "refused", "model_not_found", f"{profile.name} has no model {quoted(model)}.", "model"
    wrong = set()
    for key, sentence in policy.broken(path, body, profile.server, limits):
        wrong.add(key)
        yield "error", "invalid_value", f"Invalid '{key}': {sentence}", key
    yield from _unheld([key for key in body if key not in wrong], body, profile)
    yield from _unknown(path, [key for key in body if key not in wrong], profile)
    for key, sentence in policy.ignored(path, body, profile.server):
        yield "ignored", "unknown_parameter", f"vLLM ignores the key {quoted(key)}: {sentence}", key


def _unheld(keys: Sequence[str], body: dict[str, Any], profile: Profile) -> Iterator[tuple[Severity, str, str, str]]:
    """Yield what a grammar does not hold of schemas, which a file has as they were written."""
    for key in keys:
        for strict, schema, level in constraints(key, body):
            is_schema = level == 1 and isinstance(schema, dict)
            left_out = GRAMMARS[profile.grammar].held(schema)[1] if is_schema else {}
            if not left_out:
                continue
            places = [f"{place}: {what}" for place, what in left_out.items()]
            listed = "; ".join(places[:MOST_NAMED]) + ("; …" if len(places) > MOST_NAMED else "")
            if strict and profile.server == "openai":
                yield "error", "invalid_value", f"Invalid '{key}': OpenAI refuses a strict schema with {listed}.", key
            else:
                message = f"No answer is held to all of the schema, and a server may refuse it: {listed}."
                yield "ignored", "invalid_value", message, key


def _unknown(path: str, keys: Sequence[str], profile: Profile) -> Iterator[tuple[Severity, str, str, str]]:
    of_path, other = ENDPOINTS.get(path), OTHER_ENDPOINTS.get(path)
    if other is not None and other.keys:
        for key in [key for key in keys if key not in other.keys][:MOST_NAMED]:
            yield "error", "unknown_parameter", f"OpenAI does not know the key {quoted(key)} for {path}.", key
    if of_path is None:
        return
    nobody_knows = unknown_keys(of_path, keys)
    unnamed = set(nobody_knows[MOST_NAMED:])
    if unnamed:
        severity: Severity = "error" if profile.refuses_unknown else "ignored"
        yield severity, "unknown_parameter", more_of(nobody_knows)[0], nobody_knows[MOST_NAMED]
    for key in (key for key in keys if key not in unnamed):
        if key in of_path.openai_keys:
            continue
        sentence = about(of_path, key) if key in nobody_knows else f"Only vLLM knows the key {quoted(key)}."
        if profile.server == "openai" or (key in nobody_knows and profile.refuses_unknown):
            sentence = f"{policy.unknown_parameter(key).message} {sentence}"
            yield "error", "unknown_parameter", sentence, key
        elif key in nobody_knows:
            yield "ignored", "unknown_parameter", f"{sentence} It would be ignored.", key
        elif profile.server != "local":
            yield "vllm_only", "unknown_parameter", sentence, key


def _request_of(line: bytes | None) -> dict[str, Any]:
    try:
        return {} if line is None else decode_strictly(line)
    except BadRequestError:
        return {}
