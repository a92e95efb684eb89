"""The verbs of ``client.uploads``: a large file in parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.manager.checks import (
    check_first_line,
    check_given,
    check_integer,
    check_required,
    check_text,
    wrong_type,
)
from vbatch_jupyter.manager.files import FilesManager
from vbatch_jupyter.protocol.file import FileRecord
from vbatch_jupyter.protocol.ids import new_upload_id
from vbatch_jupyter.protocol.upload import MAX_UPLOAD_BYTES, UPLOAD_SECONDS, PartRecord, UploadRecord
from vbatch_jupyter.store import Store


class UploadsManager:
    """The verbs of ``client.uploads``.

    Parameters
    ----------
    store
        Where the uploads are.
    files
        Whose rules the file of an upload follows.

    Attributes
    ----------
    begin_part, keep_part
        Begin a part of at most 64 MiB whose content comes piece by piece, and add what has arrived to the upload.
    cancel
        Cancels an upload; `ConflictError` if it has ended otherwise.
    """

    def __init__(self, store: Store, *, files: FilesManager) -> None:
        self._store = store
        self._files = files
        self.begin_part, self.keep_part = store.uploads.begin_part, store.uploads.keep_part
        self.cancel = store.uploads.cancel

    def create(
        self,
        *,
        bytes: int,  # noqa: A002 - OpenAI's word
        filename: str,
        mime_type: str,
        purpose: str,
        expires_after_seconds: int | None = None,
    ) -> UploadRecord:
        """Create an upload, which takes parts for an hour.

        Parameters
        ----------
        bytes
            What its parts will come to; 1 to 8 GiB.
        filename, purpose, expires_after_seconds
            Of the file, as in `FilesManager.create`.
        mime_type
            Of the file; kept as data.

        Raises
        ------
        BadRequestError
            A parameter is wrong.
        StoreFullError
            There is no room for the parts and the file.
        """
        check_integer("bytes", bytes, 1, MAX_UPLOAD_BYTES)
        check_required("filename", filename)
        check_required("mime_type", mime_type)
        self._files.check(filename=filename, purpose=purpose, expires_after_seconds=expires_after_seconds)
        now = int(self._store.clock())
        return self._store.uploads.create(
            UploadRecord(
                id=new_upload_id(),
                bytes=bytes,
                created_at=now,
                expires_at=now + UPLOAD_SECONDS,
                filename=filename,
                purpose=purpose,
                mime_type=mime_type,
                file_expires_after_seconds=expires_after_seconds,
            )
        )

    def add_part(self, upload_id: str, chunks: Iterable[bytes]) -> PartRecord:
        """Add a part of at most 64 MiB whose content is in memory; see `begin_part`."""
        with self.begin_part(upload_id) as incoming:
            incoming.write_all(chunks)
            return self.keep_part(upload_id, incoming)

    def complete(self, upload_id: str, *, part_ids: Any, md5: Any = None) -> tuple[UploadRecord, FileRecord]:
        """Make the file of an upload's parts; return the upload and its file.

        Parameters
        ----------
        upload_id
            A pending upload, or one that was completed with the same parts.
        part_ids
            Its parts, in the order of the file.
        md5
            Hex digest that the file must have.

        Raises
        ------
        BadRequestError
            The parts are not the upload's, do not come to its bytes, have another digest, or do not begin with a line
            of JSON though the file is for a batch.
        NotFoundError
            There is no such upload.
        ConflictError
            It has ended in another way.
        StoreFullError
            The disk is full.
        """
        check_given("part_ids", part_ids)
        if not isinstance(part_ids, list):
            raise wrong_type("part_ids", "an array", part_ids)
        for number, part_id in enumerate(part_ids):
            check_text(f"part_ids[{number}]", part_id)
        if not part_ids:
            raise BadRequestError("Invalid 'part_ids': name at least one part.", param="part_ids", code="invalid_value")
        if md5 is not None:
            check_text("md5", md5)
        record = self._store.uploads.get(upload_id)
        file = self._store.uploads.complete(
            upload_id,
            part_ids,
            md5=md5,
            expires_at=self._files.expires_at(record.purpose, record.file_expires_after_seconds),
            check_head=check_first_line if record.purpose == "batch" else None,
        )
        return self._store.uploads.get(upload_id), file
