"""OpenAI's verbs over the store, with OpenAI's rules and messages (contract §1.1, §1.2, §1.6).

A caller's mistake is a `BadRequestError` with OpenAI's message, param and code. What only the input file
shows is found by validation, after the batch was created.
"""

from __future__ import annotations

from collections.abc import Callable

from vbatch_jupyter.manager.batches import BatchesManager
from vbatch_jupyter.manager.files import FILE_PURPOSES, FilesManager
from vbatch_jupyter.manager.uploads import UploadsManager
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.store import Store

__all__ = ["FILE_PURPOSES", "BatchesManager", "FilesManager", "Manager", "UploadsManager"]


class Manager:
    """OpenAI's files, uploads and batches on the local store.

    Parameters
    ----------
    store
        Where they are.
    profile
        The default limits for batches, and the defaults for files; a key of `PROFILES`.
    wake
        Called after each commit that gives a runner something to do.
    origin
        The notebook that makes the batches, if there is one.

    Attributes
    ----------
    files, uploads, batches
        The verbs.
    commits
        How often this store object has committed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder, Store(Path(folder, "store"), floor_bytes=0) as store:
    ...     manager = Manager(store)
    ...     file = manager.files.create([b'{"custom_id": "a"}'], filename="in.jsonl", purpose="batch")
    ...     batch = manager.batches.create(
    ...         input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    ...     )
    ...     batch.status
    'validating'
    """

    def __init__(
        self,
        store: Store,
        *,
        profile: str = "openai",
        wake: Callable[[], None] = lambda: None,
        origin: str | None = None,
    ) -> None:
        self.commits = store.database.commits
        self.files = FilesManager(store, profile=PROFILES[profile])
        self.uploads = UploadsManager(store, files=self.files)
        self.batches = BatchesManager(store, profile=profile, wake=wake, origin=origin)
