"""A batch of an input file that the user has, as ``%vbatch run`` makes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.check import first_model, first_url
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.session.batch import Batch
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.targets.submission import reachable_target

_CHUNK_BYTES = 1024 * 1024


def submit_file(
    session: Session, path: Path, *, target: str | None = None, fresh: bool = False, may_wait: bool = True
) -> Batch:
    """Make a batch of an input file.

    Parameters
    ----------
    session
        Whose store and engine it is for.
    path
        The file; it may hold as many requests as the disk does.
    target
        The batch service that runs it; the engine here by default.
    fresh
        Ask the engine even if an answer is known.
    may_wait
        Whether it may wait for an engine that serves its model, and the caller does not wait for the batch.

    Raises
    ------
    EngineNotLoadedError
        No engine serves its model, and it may not wait.
    BadRequestError
        It cannot be read, or the service would refuse it.
    """
    service = None if target is None else reachable_target(target)
    rules = PROFILES["local"] if service is None else service.rules()
    with contextlib.ExitStack() as opened:
        with _reading(path):
            content = opened.enter_context(path.open("rb"))
            endpoint, model = first_url(content, rules), first_model(content, rules)
            content.seek(0)
        if service is None and not may_wait:
            session.refuse_to_wait(model)
        file = session.manager.files.create(_chunks_of(content, path), filename=path.name, purpose="batch")
    record = session.create(file, model, endpoint=endpoint, target=service, may_wait=may_wait, fresh=fresh)
    return session.attach(record.id)


def _chunks_of(content: BinaryIO, path: Path) -> Iterator[bytes]:
    while True:
        with _reading(path):
            chunk = content.read(_CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    # Only what reads the user's file: an error of the store is not one of this file.
    try:
        yield
    except OSError as error:
        raise BadRequestError(f"The file {path} cannot be read: {error.strerror}.", param="file") from error
