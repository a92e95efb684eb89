"""vLLM's OpenAI layer without the web framework in front of it.

Behind each of its routes stands a function from a pydantic model to a response. A request of a batch needs nothing
else: no middlewares, no tasks that watch for a client that leaves. Calling the function costs less than half of what
the application costs for a short request. What is not plain is left to the application, so that every refusal and every
error has its words.
"""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Awaitable, Callable
from typing import Any

import pydantic
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from vbatch_jupyter.engine.base import PATHS

_Function = Callable[[Any, Request], Awaitable[Any]]


class Routes:
    """The functions behind the routes of vLLM's application.

    Parameters
    ----------
    app
        vLLM's application.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._functions: dict[str, tuple[pydantic.TypeAdapter[Any], _Function]] = {}
        # A middleware that somebody has asked for sees every request.
        if getattr(app.state.args, "middleware", None):
            return
        for route in app.routes:
            if isinstance(route, APIRoute) and route.path in PATHS and "POST" in route.methods:
                self._add(route)

    def _add(self, route: APIRoute) -> None:
        # What its decorators do is for clients that may leave; here a task is cancelled.
        function = inspect.unwrap(route.endpoint)
        if list(inspect.signature(function).parameters) == ["request", "raw_request"]:
            adapter = pydantic.TypeAdapter(typing.get_type_hints(function)["request"])
            self._functions[route.path] = adapter, function

    async def call(self, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> Response | None:
        """Answer a request; None where the application must.

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
