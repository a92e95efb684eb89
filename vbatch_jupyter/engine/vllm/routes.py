"""vLLM's OpenAI layer without the web framework in front of it.

Each of its routes calls a function from a pydantic model to a response. A request of a batch needs nothing
else: no middlewares, no tasks that watch for a client that leaves. Calling the function costs less than half of what
the application costs for a short request. Everything unusual is left to the application, so that every refusal and
error has its own message.

vLLM renders and tokenizes in threads, which costs a short request more than the work itself: that is done in place.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import typing
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any

import pydantic
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from vbatch_jupyter.protocol.endpoints import ENDPOINTS

_Function = Callable[[Any, Request], Awaitable[Any]]

_SHORT_BYTES = 2048
"""A body up to this is rendered and tokenized in a fraction of a millisecond."""

_is_short = contextvars.ContextVar("_is_short", default=False)


class RenderingExecutor(Executor):
    """Does the rendering of short requests of batches at once, and leaves all other to threads.

    Parameters
    ----------
    threads
        vLLM's own.
    """

    def __init__(self, threads: Executor) -> None:
        self._threads = threads

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do a piece of work here or in a thread; return a future that asyncio can wait for."""
        if not _is_short.get():
            return self._threads.submit(fn, *args, **kwargs)
        # asyncio takes a future of its own as it is, and awaiting one that is done does not even go through the loop.
        future = asyncio.get_running_loop().create_future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it is raised where the future is awaited
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """End the threads."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)


class Routes:
    """The functions behind the routes of vLLM's application.

    Parameters
    ----------
    app
        vLLM's application.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self.paths = frozenset(
            route.path for route in app.routes if getattr(route, "path", None) in ENDPOINTS and "POST" in route.methods
        )
        """The endpoints that the model serves."""
        self._functions: dict[str, tuple[pydantic.TypeAdapter[Any], _Function]] = {}
        # A middleware that the user has configured must see every request.
        if getattr(app.state.args, "middleware", None):
            return
        for route in app.routes:
            if isinstance(route, APIRoute) and route.path in ENDPOINTS and "POST" in route.methods:
                self._add(route)

    def _add(self, route: APIRoute) -> None:
        # What its decorators do is for clients that may leave; here a task is cancelled.
        function = inspect.unwrap(route.endpoint)
        if list(inspect.signature(function).parameters) == ["request", "raw_request"]:
            adapter = pydantic.TypeAdapter(typing.get_type_hints(function)["request"])
            self._functions[route.path] = adapter, function

    async def call(self, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> Response | None:
        """Answer a request; None if the application must.

        Cancelling the call aborts the request in the engine.

        Parameters
        ----------
        path, body
            The request's.
        headers
            Lower-case names.

        Raises
        ------
        Exception
            Whatever the function raises, and the application would put into words.
        """
        if path not in self._functions:
            return None
        adapter, function = self._functions[path]
        try:
            request = adapter.validate_json(body)
        except ValueError:
            return None
        if getattr(request, "stream", False) or getattr(request, "background", False):
            return None
        _is_short.set(len(body) <= _SHORT_BYTES)
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": headers,
            "query_string": b"",
            "app": self._app,
        }
        response = await function(request, Request(scope))
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # vLLM makes an answer of it: a refusal with the status 400.
            raise asyncio.CancelledError
        return (
            response if isinstance(response, Response) and isinstance(getattr(response, "body", None), bytes) else None
        )
