"""The upload, which brings a large file in parts: its records in the store, and the objects that clients see."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from vbatch_jupyter.protocol.file import FileRecord, openai_fields

if TYPE_CHECKING:
    from openai.types import Upload
    from openai.types.uploads import UploadPart

UploadStatus = Literal["pending", "completed", "cancelled", "expired"]

UPLOAD_SECONDS = 3600
"""How long after its creation an upload expires."""

MAX_UPLOAD_BYTES = 8 * 1024**3
"""Bytes of one upload, all parts together (contract §1.1)."""

MAX_PART_BYTES = 64 * 1024**2
"""Bytes of one part (contract §1.1)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UploadRecord:
    """One row of the store's table of uploads.

    Parameters
    ----------
    id
        ``upload_…``.
    bytes
        The size of all parts together.
    created_at, expires_at
        Unix seconds; past the latter it takes no parts and cannot be completed.
    filename, purpose
        Of the file that it becomes.
    mime_type
        As the client gave it; kept as data.
    status
        As OpenAI has it.
    file_expires_after_seconds
        How long after its creation the file expires; None if its client did not say.
    file_id
        The file, once it is completed.
    """

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    mime_type: str
    status: UploadStatus = "pending"
    file_expires_after_seconds: int | None = None
    file_id: str | None = None

    def to_openai(self, file: FileRecord | None = None) -> Upload:
        """Build the object that OpenAI's clients see.

        Parameters
        ----------
        file
            The file that it became.

        Examples
        --------
        >>> UploadRecord(
        ...     id="upload_0", bytes=2, created_at=1, expires_at=3601, filename="a", purpose="batch", mime_type=""
        ... ).to_openai().status
        'pending'
        """
        from openai.types import Upload

        made = None if file is None else file.to_openai()
        return Upload.model_construct(**openai_fields(self, Upload), object="upload", file=made)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartRecord:
    """One row of the store's table of parts.

    Parameters
    ----------
    id
        ``part_…``.
    upload_id
        The upload that it was added to.
    bytes
        Its size.
    created_at
        Unix seconds.
    position
        Its place in the file, counted from 0; None if the file does not use it, or is not made yet.
    """

    id: str
    upload_id: str
    bytes: int
    created_at: int
    position: int | None = None

    def to_openai(self) -> UploadPart:
        """Build the object that OpenAI's clients see.

        Examples
        --------
        >>> PartRecord(id="part_0", upload_id="upload_0", bytes=2, created_at=1).to_openai().object
        'upload.part'
        """
        from openai.types.uploads import UploadPart

        return UploadPart(id=self.id, created_at=self.created_at, object="upload.part", upload_id=self.upload_id)
