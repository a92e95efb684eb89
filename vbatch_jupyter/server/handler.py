"""What every handler does: authentication, authorisation, and errors in OpenAI's envelope.

A request is authenticated and authorised before the first byte of its body is read, and its body is bounded.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import msgspec
from jupyter_core.utils import ensure_async
from tornado import web
from tornado.iostream import StreamClosedError

from vbatch_jupyter.errors import (
    BadRequestError,
    ConflictError,
    EngineError,
    NotFoundError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    TooLargeError,
    VBatchError,
)
from vbatch_jupyter.protocol.lines import error_body
from vbatch_jupyter.server.backend import BACKEND_KEY, Backend
from vbatch_jupyter.server.receiving import ReceivingHandler

ModelT = TypeVar("ModelT")

MAX_JSON_BYTES = 1024 * 1024
"""The largest body of a request that is JSON; files come in other ways."""

_SERVER_ERROR = 500
_ACTIONS: Mapping[str, str] = {"GET": "read", "HEAD": "read"}
_STATUSES: tuple[tuple[type[VBatchError], int], ...] = (
    (TooLargeError, 413),
    (BadRequestError, 400),
    (NotFoundError, 404),
    (ConflictError, 409),
    (StoreFullError, 507),
    (StoreError, 503),
    (EngineError, 503),
)
_CODES: tuple[tuple[type[VBatchError], str], ...] = (
    (StoreFullError, "store_full"),
    (StoreBusyError, "store_busy"),
    (StoreError, "store_unavailable"),
)
_RETRY_AFTER_SECONDS = 5


class RefusedError(web.HTTPError):
    """An answer that is an error, with what OpenAI's envelope says about it.

    Parameters
    ----------
    status
        The HTTP status.
    message, type, param, code
        Of the envelope.
    headers
        More headers of the answer; those that a handler has set are gone when an error is answered.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 - OpenAI's word
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        # tornado formats the message only if it has arguments.
        super().__init__(status, message.replace("%", "%%"))
        self.headers = headers
        self.body = error_body(message, type=type, param=param, code=code)


def unauthenticated() -> RefusedError:
    """Return OpenAI's answer to a missing or wrong key."""
    message = (
        "Incorrect API key provided. The key is this Jupyter server's token, sent as 'Authorization: Bearer <token>'; "
        "`jupyter server list` shows it."
    )
    return RefusedError(401, message, code="invalid_api_key")


class VBatchHandler(ReceivingHandler):
    """Base of all handlers.

    Attributes
    ----------
    auth_resource
        What Jupyter's authorizer is asked about.
    auth_action
        The action it is asked for; by default ``"read"`` for GET and HEAD, ``"write"`` for everything else.
    max_body_bytes
        How large a body may be.
    """

    auth_resource: ClassVar[str]
    auth_action: ClassVar[str | None] = None
    max_body_bytes: int = MAX_JSON_BYTES

    def initialize(self) -> None:
        """Assign the request its id, which is in its answer and in the log."""
        super().initialize()
        self.request_id = f"req_{secrets.token_hex(16)}"
        self.set_header("x-request-id", self.request_id)
        self._body = bytearray()

    @property
    def backend(self) -> Backend:
        """The server's store and verbs."""
        backend: Backend = self.settings[BACKEND_KEY]
        return backend

    # ------------------------------------------------------------------------------------------------- who may

    async def prepare(self) -> None:  # type: ignore[override]
        """Authenticate and authorise, before the body is read."""
        if (checking := super().prepare()) is not None:
            await checking
        if self._finished or self.request.method == "OPTIONS":
            return
        if self.current_user is None:
            raise unauthenticated()
        if self.request.headers.get("Authorization") and not self.token_authenticated and self._has_authentication():
            # A valid cookie must not make a wrong key valid.
            raise unauthenticated()
        action = self.auth_action or _ACTIONS.get(str(self.request.method), "write")
        allowed = await ensure_async(self.authorizer.is_authorized(self, self.current_user, action, self.auth_resource))
        if not allowed:
            message = f"You are not authorized to {action} {self.auth_resource} on this Jupyter server."
            raise RefusedError(403, message, code="insufficient_permissions")
        if self.request.headers.get("Content-Encoding", "identity") != "identity":
            message = "A body with a Content-Encoding is not accepted. Send it uncompressed."
            raise RefusedError(415, message, code="unsupported_content_encoding")
        self.receive()

    def _has_authentication(self) -> bool:
        return bool(self.identity_provider.auth_enabled)

    def check_xsrf_cookie(self) -> None:
        """Require the XSRF token if a cookie authenticated the request."""
        # JupyterHandler checks XSRF before the user, so a wrong key would get an error about _xsrf.
        if getattr(self, "_jupyter_current_user", True) is None:
            raise unauthenticated()
        super().check_xsrf_cookie()

    def get_login_url(self) -> str:
        """Answer 401 instead of redirecting to the log-in page."""
        raise unauthenticated()

    # ------------------------------------------------------------------------------------------------- the body

    @property
    def idle_seconds(self) -> float:
        """How long the next byte of a body may take."""
        return self.backend.idle_seconds

    def idle_error(self) -> RefusedError:
        """Return the answer to a client that has stopped sending."""
        message = f"No byte of the request's body arrived for {self.idle_seconds:g} s. Send the request again."
        return RefusedError(408, message, code="request_timeout")

    async def take(self, data: bytes) -> None:
        """Take a part of the body into memory."""
        if len(self._body) + len(data) > self.max_body_bytes:
            raise TooLargeError(f"The request's body is too large: the maximum is {self.max_body_bytes:,} bytes.")
        self._body += data

    def let_go(self) -> None:
        """Forget the body."""
        self._body.clear()

    @property
    def has_body(self) -> bool:
        """Whether the request has a body that is not ``null``."""
        return bytes(self._body).strip() not in (b"", b"null")

    def body_as(self, model: type[ModelT]) -> ModelT:
        """Read the body as JSON of a type.

        Raises
        ------
        RefusedError
            The body is not JSON, or has another shape.
        """
        try:
            return msgspec.json.decode(bytes(self._body), type=model)
        except msgspec.ValidationError as error:
            sentence, _, path = str(error).partition(" - at `$.")
            raise RefusedError(400, f"{sentence}.", param=path.rstrip("`") or None, code="invalid_type") from error
        except (ValueError, RecursionError) as error:
            message = f"We could not parse the JSON body of your request: {error}."
            raise RefusedError(400, message) from error

    def integer(self, name: str, default: int) -> int:
        """Return an integer of the query, such as its ``limit``, without checking its range."""
        text = self.get_query_argument(name, "") or str(default)
        try:
            return int(text)
        except ValueError as error:
            message = f"Invalid type for '{name}': expected an integer, but got {text!r} instead."
            raise RefusedError(400, message, param=name, code="invalid_type") from error

    def within(self, name: str, default: int, most: int | None) -> int:
        """Return an integer of the query that is at least 1 and at most ``most``."""
        value = self.integer(name, default)
        if value < 1 or (most is not None and value > most):
            bounds = f"at least 1 and at most {most:,}" if most else "at least 1"
            raise RefusedError(400, f"Invalid '{name}': expected {bounds}, but got {value}.", param=name)
        return value

    # ------------------------------------------------------------------------------------------------- the answer

    def send(self, answer: object) -> None:
        """Answer with an object as JSON; one of OpenAI's types with every field, also those that are null."""
        self.finish(_encoded(answer))

    async def send_from(self, function: Callable[[], object]) -> None:
        """Answer with what a function that blocks returns; it may be long, and is encoded in that thread too."""
        self.finish(await self.backend.call(lambda: _encoded(function())))

    def _handle_request_exception(self, error: BaseException) -> None:
        if isinstance(error, OSError) and not isinstance(error, StreamClosedError):
            error = StoreError(f"The store cannot be used: {error}.")
        if isinstance(error, VBatchError):
            try:
                # tornado answers with the exception that is being handled.
                raise _refused(error) from error
            except RefusedError as refused:
                error = refused
                super()._handle_request_exception(error)
                return
        super()._handle_request_exception(error)

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:  # noqa: ARG002 - tornado's
        """Write the error to the log, without the address's query, which may have a token."""
        request = f"{self.request.method} {self.request.path} {self.request_id}"
        if isinstance(value, web.HTTPError):
            self.log.warning("%d %s: %s", value.status_code, request, value.get_message() or value.reason)
        else:
            self.log.error("Uncaught exception in %s", request, exc_info=value)

    def write_error(self, status_code: int, **kwargs: Any) -> None:  # noqa: ARG002 - tornado's
        """Answer with OpenAI's envelope."""
        self.set_header("Content-Type", "application/json")
        self.set_header("x-request-id", self.request_id)
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, RefusedError):
            body = error.body
            for name, value in error.headers.items():
                self.set_header(name, value)
        elif isinstance(error, web.HTTPError):
            body = error_body(error.log_message or error.reason or self._reason, code=None)
        else:
            message = f"The server had an error. Its log has the details under the id {self.request_id}."
            body = error_body(message, type="server_error", code="internal_error")
        self.finish(body)


class UnknownHandler(VBatchHandler):
    """Unknown routes under ``/vbatch``."""

    auth_resource = "vbatch_files"

    def _refuse(self) -> None:
        raise RefusedError(404, f"Unknown request URL: {self.request.method} {self.request.path}.", code="unknown_url")

    @web.authenticated
    def get(self) -> None:
        """Refuse."""
        self._refuse()

    post = put = patch = delete = head = get


def _refused(error: VBatchError) -> RefusedError:
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), _SERVER_ERROR)
    kind = "server_error" if status >= _SERVER_ERROR else "invalid_request_error"
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    code = code or next((code for of, code in _CODES if isinstance(error, of)), None)
    headers = {}
    if isinstance(error, ConflictError):
        # The client's retries of a conflict would only be refused again.
        headers = {"x-should-retry": "false"}
    elif isinstance(error, StoreError):
        headers = {"retry-after": str(_RETRY_AFTER_SECONDS)}
    return RefusedError(status, str(error), type=kind, param=param, code=code, headers=headers)


def _encoded(answer: object) -> bytes:
    dump = getattr(answer, "model_dump", None)
    return msgspec.json.encode(dump(mode="json") if dump else answer)


def page_of(records: Any) -> dict[str, Any]:
    """Return a page of the store as OpenAI's list object."""
    return {
        "object": "list",
        "data": [record.to_openai().model_dump(mode="json") for record in records.data],
        "first_id": records.first_id,
        "last_id": records.last_id,
        "has_more": records.has_more,
    }
