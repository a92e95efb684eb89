"""The server's own description in OpenAPI 3.1."""

from __future__ import annotations

import functools
import re
from importlib import metadata
from typing import Any

from tornado import web

from vbatch_jupyter.server.handler import VBatchHandler
from vbatch_jupyter.server.operations import OPERATIONS, SCHEMAS, Operation, ref

_PARAMETER = re.compile(r"\{(\w+)\}")
_OPEN = "/vbatch/healthz"


def describe(base_url: str) -> dict[str, Any]:
    """Describe all operations.

    Parameters
    ----------
    base_url
        What the server's paths begin with.

    Examples
    --------
    >>> description = describe("/user/ann/")
    >>> description["servers"], sorted(description["paths"]["/vbatch/v1/batches"])
    ([{'url': '/user/ann'}], ['get', 'post'])
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "vbatch-jupyter", "version": metadata.version("vbatch-jupyter")},
        "servers": [{"url": base_url.rstrip("/") or "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "This Jupyter server's token."}
            },
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(operation.path)
    ]
    in_query = [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()]
    words = re.sub(r"\W+", "_", operation.path.removeprefix("/vbatch/")).strip("_")
    described: dict[str, Any] = {
        "operationId": f"{operation.method}_{words}",
        "summary": operation.summary,
        "parameters": [*in_path, *in_query],
        "responses": {
            "200": {"description": "Done.", "content": {operation.answer_type: {"schema": operation.answer}}},
            "default": {
                "description": "OpenAI's error envelope; the header x-request-id names the request in the log.",
                "content": {"application/json": {"schema": ref("Error")}},
            },
        },
    }
    if operation.path == _OPEN:
        described["security"] = []
    if operation.body is not None:
        content = {operation.body_type: {"schema": operation.body}}
        described["requestBody"] = {"required": operation.body_required, "content": content}
    return described


@functools.cache
def _schemas() -> dict[str, Any]:
    """Return the schemas: OpenAI's objects are those of its own package."""
    from openai.types import Batch, FileDeleted, FileObject, Model, Upload
    from openai.types.uploads import UploadPart
    from pydantic.json_schema import models_json_schema

    kinds = (Batch, FileDeleted, FileObject, Model, Upload, UploadPart)
    _, collected = models_json_schema(
        [(kind, "serialization") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    schemas = {**collected["$defs"], **SCHEMAS}
    # A purpose that OpenAI's API has and its package forgets.
    schemas["FileObject"]["properties"]["purpose"]["enum"].append("evals")
    return schemas


class OpenApiHandler(VBatchHandler):
    """``/vbatch/openapi.json``."""

    auth_resource = "vbatch_batches"

    @web.authenticated
    async def get(self) -> None:
        """Return the description."""
        self.send(await self.services.call(lambda: describe(self.base_url)))


ROUTES = ((r"/vbatch/openapi\.json", OpenApiHandler),)
