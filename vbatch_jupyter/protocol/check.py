"""What a batch service would make of an input file, line by line, before it is sent there.

A finding is of one of three kinds: the service would **refuse** the file or the line, so that no request runs; the body
has a key that **vLLM alone** understands; or it has a key that neither OpenAI nor vLLM knows, and that vLLM
**ignores** without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, Literal

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.batch import BatchError
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.profiles import Profile
from vbatch_jupyter.protocol.requests import decode_strictly, quoted
from vbatch_jupyter.protocol.validation import input_lines, validate

Severity = Literal["refused", "vllm_only", "ignored"]

SEVERITIES: tuple[Severity, ...] = ("refused", "vllm_only", "ignored")
"""The kinds of findings, most severe first."""

_FIRST_LINES = 100


class Finding(msgspec.Struct, frozen=True):
    """One thing that a service would refuse or not understand.

    Parameters
    ----------
    severity
        ``"refused"``: the service would run none of the batch; ``"vllm_only"``: a key of vLLM's that is not one of
        OpenAI's; ``"ignored"``: a key that neither knows.
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
    input_file: BinaryIO, profile: Profile, *, endpoint: str | None = None, models: Collection[str] | None = None
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

    Examples
    --------
    >>> import io
    >>> from vbatch_jupyter.protocol.profiles import PROFILES
    >>> body = b'{"model": "m", "messages": [], "top_k": 3, "temprature": 0, "stream": true}'
    >>> line = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": %b}' % body
    >>> for finding in check(io.BytesIO(line), PROFILES["parasail"]):
    ...     print(finding.line, finding.custom_id, finding.severity, finding.param)
    1 a refused body.stream
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
        yield from _unknown_keys(request, endpoint, profile, number, name)
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
    ([], False, 'openai would run it; nothing in it is ignored.')
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.counts: dict[Severity, int] = dict.fromkeys(SEVERITIES, 0)

    def counted(self, findings: Iterator[Finding] | list[Finding]) -> Iterator[Finding]:
        """Pass findings on and count them."""
        for finding in findings:
            self.counts[finding.severity] += 1
            yield finding

    @property
    def refuses(self) -> bool:
        """Whether the service would refuse the batch."""
        return self.counts["refused"] > 0

    def __str__(self) -> str:
        says = f"{self.target} would refuse it" if self.refuses else f"{self.target} would run it"
        if not any(self.counts.values()):
            return f"{says}; nothing in it is ignored."
        counts = ", ".join(f"{count:,} {severity}" for severity, count in self.counts.items() if count)
        return f"{says}: {counts}."


def _refused(error: BatchError, custom_id: str | None = None) -> Finding:
    return Finding("refused", error.code, error.message, error.param, error.line, custom_id)


def _unknown_keys(
    request: dict[str, Any], endpoint: str, profile: Profile, number: int, custom_id: str | None
) -> Iterator[Finding]:
    url, body = request.get("url"), request.get("body")
    # A line for another endpoint is refused as a whole if that is not allowed; its keys are checked for its endpoint.
    of_line = ENDPOINTS.get(url) if isinstance(url, str) else None
    of_keys = of_line or ENDPOINTS.get(endpoint)
    if not isinstance(body, dict) or of_keys is None:
        return
    for key in body:
        if key in of_keys.openai_keys:
            continue
        if key in of_keys.vllm_keys:
            severity: Severity = "vllm_only"
            sentence = f"Only vLLM knows the key {quoted(key)}{_of_openai(profile)}"
        else:
            severity = "ignored"
            sentence = f"Neither OpenAI nor vLLM knows the key {quoted(key)}; vLLM ignores it{_of_openai(profile)}"
        yield Finding(severity, "unknown_parameter", f"{sentence}.", f"body.{key}", number, custom_id)


def _of_openai(profile: Profile) -> str:
    # OpenAI answers an unknown argument with an error, so the line gets an error.
    return "; OpenAI answers such a request with an error" if profile.name == "openai" else ""


def _request_of(line: bytes | None) -> dict[str, Any]:
    try:
        return {} if line is None else decode_strictly(line)
    except BadRequestError:
        return {}
