"""Checks before a batch is made for a service: its name, its key, and what it accepts."""

from __future__ import annotations

import itertools
from typing import BinaryIO

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.check import check
from vbatch_jupyter.targets.configuration import Target, named_target

_SHOWN = 5
_COUNTED = 1000


def reachable_target(name: str) -> Target:
    """Return a target whose key is set.

    Raises
    ------
    BadRequestError
        There is no such target, or its key is not in the environment.
    """
    target = named_target(name)
    if target.key() is None:
        message = (
            f"The API key for {name} is missing. Set the environment variable {target.api_key_env}, for example: "
            f"os.environ[{target.api_key_env!r}] = getpass.getpass()"
        )
        raise BadRequestError(message, param="target")
    return target


def check_for_target(input_file: BinaryIO, target: Target, endpoint: str) -> str | None:
    """Check an input file before it is sent; return a sentence about what it would refuse or ignore.

    Parameters
    ----------
    input_file
        Open for reading bytes, seekable.
    target
        The service. The file may be too large for one of its batches.
    endpoint
        The batch's.

    Raises
    ------
    BadRequestError
        The service would refuse it; the message has the first reasons.
    """
    rules = target.rules()
    refused: list[str] = []
    failing: dict[int | None, str] = {}
    others: dict[str, None] = {}
    if endpoint not in rules.endpoints:
        message = f"{target.name} does not have the endpoint {endpoint!r}, only {', '.join(rules.endpoints)}."
        raise BadRequestError(message, param="endpoint", code="invalid_value")
    findings = check(input_file, rules.without_limits_of_files(), endpoint=endpoint)
    # Stop counting refusals at some point: nobody reads more of them.
    for finding in itertools.takewhile(lambda _: len(refused) < _COUNTED, findings):
        if finding.severity == "refused":
            refused.append(str(finding) if len(refused) < _SHOWN else "")
        elif finding.severity == "error":
            failing.setdefault(finding.line, str(finding))
        elif finding.param is not None:
            others.setdefault(finding.param.removeprefix("body."))
    if max_bytes := rules.max_bytes:
        refused += _too_long_for_a_file(input_file, max_bytes)
    if refused:
        more = f"\n… and {len(refused) - _SHOWN:,} more" if len(refused) > _SHOWN else ""
        listed = "\n".join(filter(None, refused))
        message = f"{target.name} would refuse this batch, so nothing was sent:\n{listed}{more}"
        raise BadRequestError(message, param="target")
    notes = []
    if failing:
        lines = "1 line" if len(failing) == 1 else f"{len(failing):,} lines"
        notes.append(f"{target.name} would answer {lines} with errors; the first: {next(iter(failing.values()))}")
    if others:
        notes.append(f"{target.name} may not know these keys of the requests: {', '.join(others)}.")
    return "\n".join(notes) or None


def _too_long_for_a_file(input_file: BinaryIO, max_bytes: int) -> list[str]:
    if input_file.seek(0, 2) <= max_bytes:
        return []
    input_file.seek(0)
    return [
        f"line {number}: refused: invalid_request: This line is larger than a whole file may be ({max_bytes:,} bytes)."
        for number, line in enumerate(iter(lambda: len(input_file.readline()), 0), start=1)
        if line > max_bytes
    ]
