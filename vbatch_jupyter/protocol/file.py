"""The file: its record in the store and the object that OpenAI's clients see."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai.types import FileObject
    from pydantic import BaseModel


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

        # The status is deprecated by OpenAI, but required by its clients' types (contract §1.4). Constructed and not
        # validated: the purpose "evals" may be uploaded, and is missing among those that the type knows.
        return FileObject.model_construct(
            **openai_fields(self, FileObject), object="file", status="processed", status_details=None
        )


def openai_fields(record: object, kind: type[BaseModel]) -> dict[str, Any]:
    """Return the fields that a record of the store has in common with OpenAI's object.

    Parameters
    ----------
    record
        Such as a `FileRecord`.
    kind
        OpenAI's class.
    """
    return {name: getattr(record, name) for name in kind.model_fields if hasattr(record, name)}
