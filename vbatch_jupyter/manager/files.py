"""The verbs of ``client.files``."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO, Literal, Self

from vbatch_jupyter.manager.checks import check_choice, check_expiry, check_integer, check_text
from vbatch_jupyter.protocol.file import FileRecord, FirstLine
from vbatch_jupyter.protocol.profiles import Profile
from vbatch_jupyter.store import Incoming, Page, Store

FILE_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
"""The purposes that a file may be uploaded for."""


class FilesManager:
    """The verbs of ``client.files``.

    Parameters
    ----------
    store
        Where the files are.
    profile
        Whose default for the life of a file for a batch is taken.
    """

    def __init__(self, store: Store, *, profile: Profile) -> None:
        self._store = store
        self._profile = profile

    def begin(self, *, max_bytes: int | None = None) -> FileUpload:
        """Begin an upload whose content comes piece by piece, before what its file is for is known.

        Parameters
        ----------
        max_bytes
            The size above which it is refused.

        Raises
        ------
        StoreFullError
            The disk is full.
        """
        return FileUpload(self, self._store, self._store.files.begin(max_bytes=max_bytes))

    def create(
        self,
        chunks: Iterable[bytes],
        *,
        filename: str,
        purpose: str,
        expires_after_seconds: int | None = None,
    ) -> FileRecord:
        """Upload a file.

        Parameters
        ----------
        chunks
            Its content, which may be larger than the memory.
        filename
            Kept as data; any name will do.
        purpose
            One of `FILE_PURPOSES`.
        expires_after_seconds
            3,600 to 2,592,000; if it is None a file for a batch lives as long as the profile says, and any other
            until it is deleted.

        Raises
        ------
        BadRequestError
            A parameter is wrong, or a file for a batch does not begin with a line of JSON.
        StoreFullError
            The disk is full.
        """
        with self.begin() as upload:
            for chunk in chunks:
                upload.write(chunk)
            return upload.commit(filename=filename, purpose=purpose, expires_after_seconds=expires_after_seconds)

    def check(self, *, filename: object, purpose: object, expires_after_seconds: object) -> None:
        """Raise an error for parameters that a file cannot have.

        Raises
        ------
        BadRequestError
            One is wrong.
        """
        check_choice("purpose", purpose, FILE_PURPOSES)
        check_text("filename", filename)
        check_expiry("expires_after.seconds", expires_after_seconds)

    def expires_at(self, purpose: str, expires_after_seconds: int | None) -> int | None:
        """Return when a file that is made now expires, in Unix seconds; None if it does not."""
        if expires_after_seconds is None and purpose == "batch":
            expires_after_seconds = self._profile.file_seconds
        return None if expires_after_seconds is None else int(self._store.clock()) + expires_after_seconds

    def retrieve(self, file_id: str) -> FileRecord:
        """Return a file's record; `NotFoundError` if there is none."""
        return self._store.files.get(file_id)

    def list(
        self,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> Page[FileRecord]:
        """Return one page of the files, of at most 10,000.

        Raises
        ------
        BadRequestError
            ``limit`` or ``order`` is out of range.
        NotFoundError
            There never was a file ``after``.
        """
        check_integer("limit", limit, 1, 10_000)
        check_choice("order", order, ("asc", "desc"))
        return self._store.files.list(purpose=purpose, after=after, limit=limit, order=order)

    def content(self, file_id: str) -> BinaryIO:
        """Open a file's content for reading; `NotFoundError` if there is none."""
        return self._store.files.open(file_id)

    def delete(self, file_id: str) -> FileRecord:
        """Delete a file; `ConflictError` while a batch that has not ended reads it."""
        return self._store.files.delete(file_id)


class FileUpload:
    """An upload on its way; leaving its block discards what was not committed.

    Parameters
    ----------
    files
        Whose upload it is.
    store
        Where the file will be.
    incoming
        Takes its content.
    """

    def __init__(self, files: FilesManager, store: Store, incoming: Incoming) -> None:
        self._files = files
        self._store = store
        self._incoming = incoming
        self._first_line = FirstLine()

    def write(self, data: bytes) -> None:
        """Append bytes; `TooLargeError` above the limit, `StoreFullError` without room."""
        self._first_line.write(data)
        self._incoming.write(data)

    def commit(self, *, filename: str, purpose: str, expires_after_seconds: int | None = None) -> FileRecord:
        """Make a file of what has arrived; arguments and errors are those of `FilesManager.create`."""
        with self:
            self._files.check(filename=filename, purpose=purpose, expires_after_seconds=expires_after_seconds)
            if purpose == "batch":
                self._first_line.check()
            return self._store.files.keep(
                self._incoming,
                filename=filename,
                purpose=purpose,
                expires_at=self._files.expires_at(purpose, expires_after_seconds),
            )

    def discard(self) -> None:
        """Leave nothing of it; after `commit`, and a second time, it does nothing."""
        self._incoming.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()
