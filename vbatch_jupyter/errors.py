"""Every exception that vbatch-jupyter raises on purpose; this module imports nothing of the package.

The tree::

    VBatchError
    ├── BadRequestError          a caller's mistake                         → 400
    │   ├── TooLargeError        a file or a body above its limit           → 413
    │   ├── TemplateError        a template that cannot be rendered
    │   └── FrameError           a DataFrame or an argument that cannot become a batch
    ├── NotFoundError            no such batch or file                      → 404
    ├── ServerNotFoundError      no Jupyter server that this kernel could name
    ├── ServiceError             a batch service did not do what it was asked
    ├── ConflictError            the object's status forbids it             → 409
    ├── EngineError
    │   ├── EngineNotLoadedError no engine in this kernel
    │   ├── EngineArgumentError  an argument that vLLM refuses
    │   ├── EngineLoadError      the engine could not be started
    │   ├── EngineDiedError      the engine ended under its requests
    │   ├── RequestAbortedError  the engine gave one request up unfinished
    │   └── BatchPausedError     a batch that waits for an engine to be loaded anew
    └── StoreError
        ├── StoreBusyError       another process kept the database locked
        ├── StoreFullError       no room on the disk
        ├── StoreFilesystemError the directory is on a network file system
        ├── StoreVersionError    the store was written by a newer release
        ├── StoreCorruptError    an invariant of the store does not hold
        └── FencedError          another owner has taken the batch over
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any


class VBatchError(Exception):
    """Base of every exception that vbatch-jupyter raises on purpose."""


class BadRequestError(VBatchError):
    """A request that cannot be served as it was made.

    Parameters
    ----------
    message
        What is wrong and what to do next, one sentence each.
    param
        The name of the offending parameter, as OpenAI's error envelope has it.
    code
        OpenAI's error code, where it has one.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class TooLargeError(BadRequestError):
    """A file, a part or a body that is larger than it may be."""


class TemplateError(BadRequestError):
    """A prompt template that cannot be parsed, or that names a column which is not there."""


class FrameError(BadRequestError):
    """A DataFrame, or an argument beside it, that cannot become a batch."""


class NotFoundError(VBatchError):
    """No object of that id is in the store.

    Parameters
    ----------
    kind
        ``"batch"``, ``"file"`` or ``"upload"``.
    id
        The id that was asked for.
    """

    def __init__(self, kind: str, id: str) -> None:  # noqa: A002 - OpenAI's word
        # Both sentences are OpenAI's own (contract §1.3, §1.6): clients match on them.
        sentence = f"No batch found with id '{id}'." if kind == "batch" else f"No such {kind.capitalize()} object: {id}"
        super().__init__(sentence)
        self.kind = kind
        self.id = id
        self.param = "id"


class ServerNotFoundError(VBatchError):
    """Which Jupyter server runs this kernel cannot be told, or no program can reach it with a key."""


class ServiceError(VBatchError):
    """A batch service did not do what it was asked.

    Parameters
    ----------
    message
        The service, what it was asked, and what it said.
    status
        The HTTP status of its answer; None where there was none.
    after_seconds
        How long it asks to wait.
    """

    def __init__(self, message: str, *, status: int | None = None, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.after_seconds = after_seconds


class ConflictError(VBatchError):
    """The object's status forbids what was asked.

    Parameters
    ----------
    message
        What is in the way.
    id
        The batch or file concerned.
    status
        Its status.
    """

    def __init__(self, message: str, *, id: str, status: str) -> None:  # noqa: A002 - OpenAI's word
        super().__init__(message)
        self.id = id
        self.status = status


class EngineError(VBatchError):
    """Something is wrong with the engine."""


class EngineNotLoadedError(EngineError):
    """No engine is loaded in this kernel, or none that serves the model.

    Parameters
    ----------
    message
        What to do about it, where that is not to load any model.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or "No engine is loaded in this kernel: run %vbatch load MODEL first.")


class EngineArgumentError(EngineError):
    """An argument of ``%vbatch load`` that vLLM does not know or refuses."""


class EngineLoadError(EngineError):
    """The engine could not be started."""


class EngineDiedError(EngineError):
    """The engine ended while requests were with it; they are run again on the next one."""


class RequestAbortedError(EngineError):
    """The engine gave the request up before it was finished; it has no answer and is run again."""


class BatchPausedError(EngineError):
    """The batch does not go on until an engine is loaded anew; its finished answers are kept."""


class StoreError(VBatchError):
    """Something is wrong with the store."""


class StoreBusyError(StoreError):
    """Another process kept the store's database locked for longer than the time allowed."""


class StoreFullError(StoreError):
    """There is no room left on the store's disk."""


class StoreFilesystemError(StoreError):
    """The store's directory is on a network file system, where locks and renames cannot be trusted."""


class StoreVersionError(StoreError):
    """The store was written by a newer vbatch-jupyter; upgrade this one."""


class StoreCorruptError(StoreError):
    """An invariant of the store does not hold; ``python -m vbatch_jupyter fsck`` says which."""


class FencedError(StoreError):
    """Another owner has taken the batch over; this one must write nothing more to it."""


def did_you_mean(name: object, known: Iterable[object], *, written: Callable[[Any], str] = repr) -> str:
    """Return a question that names what is nearest to a name nobody knows, to be put after a message; else nothing.

    Case, spaces and punctuation do not count: ``review_text`` finds ``"Review Text"``.

    Parameters
    ----------
    name
        What was written.
    known
        What could have been meant.
    written
        Writes one of them.

    Examples
    --------
    >>> did_you_mean("temprature", ["temperature", "top_k"]), did_you_mean("qqqq", ["temperature"])
    (" Did you mean 'temperature'?", '')
    """
    import difflib

    folded: dict[str, list[object]] = {}
    for other in known:
        folded.setdefault(_folded(other), []).append(other)
    near = difflib.get_close_matches(_folded(name), folded, n=3, cutoff=0.7)
    found = [other for match in near for other in folded[match]][:3]
    return f" Did you mean {' or '.join(map(written, found))}?" if found else ""


def _folded(name: object) -> str:
    return re.sub(r"[\W_]+", "_", str(name)).casefold().strip("_")
