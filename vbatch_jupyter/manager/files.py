"""The verbs of ``client.files``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from vbatch_jupyter.manager.checks import check_choice, check_expiry, check_first_line, check_integer, check_text
from vbatch_jupyter.protocol.file import FileRecord
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

    Attributes
    ----------
    begin
        Begins an upload whose content comes piece by piece, before its purpose is known; `keep` ends it.
    retrieve, content, delete
        Return a file's record, open its content for reading, and delete it; `NotFoundError` if there is no such file.
    """

    def __init__(self, store: Store, *, profile: Profile) -> None:
        self._store = store
        self._profile = profile
        self.begin = store.files.begin
        self.retrieve, self.content, self.delete = store.files.get, store.files.open, store.files.delete

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
        with self.begin() as incoming:
            incoming.write_all(chunks)
            return self.keep(incoming, filename=filename, purpose=purpose, expires_after_seconds=expires_after_seconds)

    def keep(
        self, incoming: Incoming, *, filename: str, purpose: str, expires_after_seconds: int | None = None
    ) -> FileRecord:
        """Make a file of what has arrived; arguments and errors are those of `create`."""
        self.check(filename=filename, purpose=purpose, expires_after_seconds=expires_after_seconds)
        if purpose == "batch":
            check_first_line(incoming.head)
        expires_at = self.expires_at(purpose, expires_after_seconds)
        return self._store.files.keep(incoming, filename=filename, purpose=purpose, expires_at=expires_at)

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
