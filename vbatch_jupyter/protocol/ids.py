"""Ids in OpenAI's formats, random and derived."""

from __future__ import annotations

import hashlib
import re
import secrets
import string

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase

BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
FILE_ID = re.compile(r"file-[0-9A-Za-z]{22}")
UPLOAD_ID = re.compile(r"upload_[0-9a-f]{32}")
PART_ID = re.compile(r"part_[0-9a-f]{32}")


def new_batch_id() -> str:
    """Make a random batch id of 128 bits.

    Examples
    --------
    >>> bool(BATCH_ID.fullmatch(new_batch_id()))
    True
    """
    return f"batch_{secrets.token_hex(16)}"


def new_file_id() -> str:
    """Make a random file id of about 131 bits.

    Examples
    --------
    >>> bool(FILE_ID.fullmatch(new_file_id()))
    True
    """
    return "file-" + "".join(secrets.choice(_BASE62) for _ in range(22))


def new_upload_id() -> str:
    """Make a random upload id of 128 bits.

    Examples
    --------
    >>> bool(UPLOAD_ID.fullmatch(new_upload_id()))
    True
    """
    return f"upload_{secrets.token_hex(16)}"


def new_part_id() -> str:
    """Make a random id of a part of an upload, of 128 bits.

    Examples
    --------
    >>> bool(PART_ID.fullmatch(new_part_id()))
    True
    """
    return f"part_{secrets.token_hex(16)}"


def result_file_id(batch_id: str, kind: str) -> str:
    """Derive the id of a batch's output or error file.

    The id depends on the batch alone, so that a finaliser that is run again after a crash writes the same file.

    Parameters
    ----------
    batch_id
        The batch.
    kind
        ``"output"`` or ``"error"``.

    Examples
    --------
    >>> result_file_id("batch_0", "output") == result_file_id("batch_0", "output")
    True
    >>> result_file_id("batch_0", "output") == result_file_id("batch_0", "error")
    False
    """
    number = int.from_bytes(hashlib.sha256(f"{batch_id}/{kind}".encode()).digest())
    digits = []
    for _ in range(22):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "file-" + "".join(digits)


def request_id(batch_id: str, line: int) -> str:
    """Derive the ``batch_req_…`` id of one request of a batch.

    Parameters
    ----------
    batch_id
        The batch.
    line
        The request's position in its input file, counted from 0.

    Examples
    --------
    >>> request_id("batch_0", 0)
    'batch_req_6648574526ae8d756a9d071aca9cea1e'
    """
    return "batch_req_" + hashlib.sha256(f"{batch_id}/{line}".encode()).hexdigest()[:32]
