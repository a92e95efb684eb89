"""Every exception that vbatch-jupyter raises on purpose; this module imports nothing of the package.

The tree::

    VBatchError
    ├── BadRequestError          a caller's mistake                         → 400
    │   ├── TooLargeError        a file or a body above its limit           → 413
    │   ├── TemplateError        a template that cannot be rendered
    │   └── FrameError           a DataFrame or an argument that cannot become a batch
    ├── NotFoundError            no such batch or file                      → 404
    ├── ServerNotFoundError      the kernel's Jupyter server was not found
    ├── ServiceError             a batch service refused or failed
    ├── ConflictError            the object's status forbids it             → 409
    ├── EngineError
    │   ├── EngineNotLoadedError no engine in this kernel
    │   ├── EngineArgumentError  an argument that vLLM refuses
    │   ├── EngineLoadError      the engine could not be started
    │   ├── EngineDiedError      the engine ended while it ran requests
    │   ├── EngineSilentError    the engine gives no sign of life
    │   ├── RequestAbortedError  the engine stopped one request before it was finished
    │   └── BatchPausedError     a batch that waits until an engine is loaded again
    └── StoreError
        ├── StoreBusyError       another process kept the database locked
        ├── StoreFullError       the disk is full
        ├── StoreFilesystemError the directory is on a network file system
        ├── StoreVersionError    the store was written by a newer release
        ├── StoreCorruptError    the store is damaged
        └── FencedError          another process has taken over the batch
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any


class VBatchError(Exception):
    """Base of every exception that vbatch-jupyter raises on purpose."""


class BadRequestError(VBatchError):
    """A request that is not valid.

    Parameters
    ----------
    message
        What is wrong and what to do next, one sentence each.
    param
        The name of the parameter, for OpenAI's error envelope.
    code
        OpenAI's error code, if there is one.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class TooLargeError(BadRequestError):
    """A file, a part or a body that is too large."""


class TemplateError(BadRequestError):
    """A prompt template that cannot be parsed, or that names an unknown column."""


class FrameError(BadRequestError):
    """A DataFrame or an argument that cannot become a batch."""


class NotFoundError(VBatchError):
    """The store has no object with that id.

    Parameters
    ----------
    kind
        ``"batch"``, ``"file"`` or ``"upload"``.
    id
        The id.
    """

    def __init__(self, kind: str, id: str) -> None:  # noqa: A002 - OpenAI's word
        # Both sentences are OpenAI's own (contract §1.3, §1.6): clients match on them.
        sentence = f"No batch found with id '{id}'." if kind == "batch" else f"No such {kind.capitalize()} object: {id}"
        super().__init__(sentence)
        self.kind = kind
        self.id = id
        self.param = "id"


class ServerNotFoundError(VBatchError):
    """The Jupyter server of this kernel was not found, or programs cannot use it with a key."""


class ServiceError(VBatchError):
    """A batch service refused or failed to do something.

    Parameters
    ----------
    message
        The service, what was asked of it, and its answer.
    status
        The HTTP status of its answer; None if there was no answer.
    after_seconds
        How long the service asks us to wait.
    """

    def __init__(self, message: str, *, status: int | None = None, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.after_seconds = after_seconds


class ConflictError(VBatchError):
    """The status of the object does not allow this.

    Parameters
    ----------
    message
        What happened and what to do.
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
        What to do, if it is something other than loading any model.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or "No engine is loaded in this kernel: run %vbatch load MODEL first.")


class EngineArgumentError(EngineError):
    """An argument of ``%vbatch load`` that vLLM does not know or refuses."""


class EngineLoadError(EngineError):
    """The engine could not be started."""


class EngineDiedError(EngineError):
    """The engine ended while it ran requests. They run again when it is back."""


class EngineSilentError(EngineError):
    """The engine has requests, and has given no sign of life for a while. Try again in a few seconds."""


class RequestAbortedError(EngineError):
    """The engine stopped the request before it was finished. The request has no answer and runs again."""


class BatchPausedError(EngineError):
    """The batch is paused until an engine is loaded again. Its finished answers are kept."""


class StoreError(VBatchError):
    """Something is wrong with the store."""


class StoreBusyError(StoreError):
    """Another process kept the store's database locked for longer than the time allowed."""


class StoreFullError(StoreError):
    """The store's disk is full."""


class StoreFilesystemError(StoreError):
    """The store's directory is on a network file system, where locks and renames are not reliable."""


class StoreVersionError(StoreError):
    """The store was written by a newer vbatch-jupyter; upgrade this one."""


class StoreCorruptError(StoreError):
    """The store is damaged; ``python -m vbatch_jupyter fsck`` says where."""


class FencedError(StoreError):
    """Another process has taken over the batch. The former owner must not write to it any more."""


def did_you_mean(
    name: object, known: Iterable[object], *, written: Callable[[Any], str] = repr, cutoff: float = 0.6
) -> str:
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
    cutoff
        How similar two names must be, from 0 to 1.

    Examples
    --------
    >>> did_you_mean("temprature", ["temperature", "top_k"]), did_you_mean("qqqq", ["temperature"])
    (" Did you mean 'temperature'?", '')
    """
    import difflib

    folded: dict[str, list[object]] = {}
    for other in known:
        folded.setdefault(_folded(str(other)), []).append(other)
    near = difflib.get_close_matches(_folded(str(name)), folded, n=3, cutoff=cutoff)
    found = [other for match in near for other in folded[match]][:3]
    return f" Did you mean {' or '.join(map(written, found))}?" if found else ""


@functools.lru_cache(maxsize=4096)
def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name).casefold().strip("_")
