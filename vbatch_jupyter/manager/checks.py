"""Checks of what a caller may send, with OpenAI's messages, params and codes (contract §1.6)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.batch import MAX_METADATA_PAIRS
from vbatch_jupyter.protocol.requests import document_hint, line_hint
from vbatch_jupyter.store.files import HEAD_BYTES

_EXPIRY_SECONDS = (3600, 2_592_000)
_METADATA_KEY, _METADATA_VALUE = 64, 512
_KEY_LENGTH = 255


def check_given(param: str, value: object) -> None:
    """Raise an error if a parameter is missing."""
    if value is None:
        message = f"Missing required parameter: '{param}'."
        raise BadRequestError(message, param=param, code="missing_required_parameter")


def check_required(param: str, value: object) -> None:
    """Raise an error if a parameter is missing or not a text."""
    check_given(param, value)
    check_text(param, value)


def check_text(param: str, value: object) -> None:
    """Raise an error if this is not a text that can be stored."""
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # A lone surrogate: JSON can have it, but the database and answers cannot.
        message = f"Invalid '{param}': it has a character that is not valid Unicode ({value[error.start]!r})."
        raise BadRequestError(message, param=param, code="invalid_value") from error


def check_choice(param: str, value: object, choices: Collection[str]) -> None:
    """Raise an error if this is not one of OpenAI's values."""
    check_required(param, value)
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


def check_integer(param: str, value: object, least: int, most: int) -> None:
    """Raise an error if this is not an integer in the range."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(param, "an integer", value)
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


def check_expiry(param: str, seconds: object) -> None:
    """Raise an error for a time to live that OpenAI does not allow. None means the default."""
    if seconds is not None:
        check_integer(param, seconds, *_EXPIRY_SECONDS)


def expires_after_of(param: str, value: Any) -> Any:
    """Return the seconds of an ``expires_after`` as clients send it; None if they sent none.

    Parameters
    ----------
    param
        Its name.
    value
        ``{"anchor": "created_at", "seconds": …}``; how many seconds are allowed is for `check_expiry`.

    Raises
    ------
    BadRequestError
        It is of another shape.

    Examples
    --------
    >>> expires_after_of("expires_after", {"anchor": "created_at", "seconds": 3600})
    3600
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise wrong_type(param, "an object", value)
    check_choice(f"{param}.anchor", value.get("anchor"), ("created_at",))
    check_given(f"{param}.seconds", value.get("seconds"))
    return value["seconds"]


def check_idempotency_key(key: object) -> None:
    """Raise an error if the key is not None or a text of at most 255 characters."""
    if key is None:
        return
    check_text("Idempotency-Key", key)
    if not 0 < len(str(key)) <= _KEY_LENGTH:
        message = f"Invalid 'Idempotency-Key': expected 1 to {_KEY_LENGTH} characters, but got {len(str(key))} instead."
        raise BadRequestError(message, param="Idempotency-Key", code="invalid_value")


def check_metadata(metadata: Any) -> None:
    """Raise an error if metadata is not up to 16 pairs of strings."""
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise wrong_type("metadata", "an object", metadata)
    if len(metadata) > MAX_METADATA_PAIRS:
        message = (
            "Invalid 'metadata': too many properties. Expected an object with at most "
            f"{MAX_METADATA_PAIRS} properties, but got an object with {len(metadata)} properties instead."
        )
        raise BadRequestError(message, param="metadata", code="object_above_max_properties")
    for key, value in metadata.items():
        check_text("metadata", key)
        if len(key) > _METADATA_KEY:
            message = (
                f"Invalid property name in 'metadata': string too long. Expected a string with maximum length "
                f"{_METADATA_KEY}, but got a string with length {len(key)} instead."
            )
            raise BadRequestError(message, param="metadata", code="string_above_max_length")
        check_text(f"metadata.{key}", value)
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


def wrong_type(param: str, expected: str, value: object) -> BadRequestError:
    """Return OpenAI's error for a value of another type than ``expected``."""
    # bool before int: in Python the one is the other.
    got = next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "null" if value is None else "it")
    message = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    return BadRequestError(message, param=param, code="invalid_type")


def check_first_line(head: bytearray) -> None:
    """Raise an error if a file for a batch does not begin with a line of JSON.

    Parameters
    ----------
    head
        The file's first bytes; validation checks a first line that is longer than `HEAD_BYTES`.

    Raises
    ------
    BadRequestError
        Its first line is not JSON, or there is none.

    Examples
    --------
    >>> check_first_line(bytearray(b"col1,col2"))
    Traceback (most recent call last):
        ...
    vbatch_jupyter.errors.BadRequestError: Invalid file format for Batch API. Must be .jsonl
    """
    line, end, _ = bytes(head).removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    if not end and len(head) > HEAD_BYTES:
        return
    try:
        msgspec.json.decode(line)
    except (ValueError, RecursionError) as error:
        # OpenAI's sentence (contract §1.6), also for an empty file.
        hint = document_hint(bytes(head)) or line_hint(line, error)
        message = "Invalid file format for Batch API. Must be .jsonl"
        raise BadRequestError(f"{message}: {hint}" if hint else message) from error
