"""The file: its record in the store and the object that OpenAI's clients see."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec

from vbatch_jupyter.errors import BadRequestError

if TYPE_CHECKING:
    from openai.types import FileObject

# How much of a file is checked here; validation checks a longer first line.
_HEAD_BYTES = 1024 * 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One row of the store's table of files.

    Parameters
    ----------
    id
        ``file-…``.
    bytes
        Its size.
    created_at, expires_at
        Unix seconds.
    filename
        The name it was given; data only, never a path.
    purpose
        ``"batch"`` for input files, ``"batch_output"`` for output and error files.
    sha256
        Hex digest of its content.
    """

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    sha256: str
    expires_at: int | None = None

    def to_openai(self) -> FileObject:
        """Build the object that OpenAI's clients see.

        Examples
        --------
        >>> FileRecord(
        ...     id="file-0", bytes=2, created_at=1, filename="a.jsonl", purpose="batch", sha256=""
        ... ).to_openai().status
        'processed'
        """
        from openai.types import FileObject

        fields = {name: value for name, value in dataclasses.asdict(self).items() if name != "sha256"}
        # The status is deprecated by OpenAI, but required by its clients' types (contract §1.4). Constructed and not
        # validated: the purpose "evals" may be uploaded, and is missing among those that the type knows.
        return FileObject.model_construct(**fields, object="file", status="processed", status_details=None)


class FirstLine:
    """Checks, while a file arrives, that it begins with a line of JSON, as a file for a batch must.

    Examples
    --------
    >>> first_line = FirstLine()
    >>> first_line.write(b"col1,col2")
    >>> first_line.check()
    Traceback (most recent call last):
        ...
    vbatch_jupyter.errors.BadRequestError: Invalid file format for Batch API. Must be .jsonl
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._whole = False

    def write(self, data: bytes) -> None:
        """Check the next bytes of the file."""
        if not self._whole:
            self._head += data[: _HEAD_BYTES + 1]
            self._whole = len(self._head) > _HEAD_BYTES or b"\n" in _stripped(self._head)

    def check(self) -> None:
        """Check what has arrived.

        Raises
        ------
        BadRequestError
            Its first line is not JSON, or it has no line.
        """
        line, end, _ = _stripped(self._head).partition(b"\n")
        if not end and len(self._head) > _HEAD_BYTES:
            return
        try:
            msgspec.json.decode(line)
        except (ValueError, RecursionError) as error:
            # OpenAI's sentence (contract §1.6), also for an empty file.
            raise BadRequestError("Invalid file format for Batch API. Must be .jsonl") from error


def _stripped(head: bytearray) -> bytes:
    return bytes(head).removeprefix(b"\xef\xbb\xbf").lstrip()
