"""The server's own description in OpenAPI 3.1: ``openapi.yaml``, with what other modules know filled in."""

from __future__ import annotations

import functools
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from tornado import web

from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.server.handler import VBatchHandler

_EACH_ENDPOINT = "/vbatch{endpoint}"


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
    return {**_description(), "servers": [{"url": base_url.rstrip("/") or "/"}]}


@functools.cache
def _description() -> dict[str, Any]:
    import yaml

    description: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8"))
    description["info"]["version"] = metadata.version("vbatch-jupyter")
    paths, schemas = description["paths"], description["components"]["schemas"]
    online = paths.pop(_EACH_ENDPOINT)
    paths |= {f"/vbatch{path}": {method: dict(online[method]) for method in online} for path in ENDPOINTS}
    for path, operations in paths.items():
        in_path = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in re.findall(r"\{(\w+)\}", path)
        ]
        words = re.sub(r"\W+", "_", path.removeprefix("/vbatch/")).strip("_")
        for method, operation in operations.items():
            operation["operationId"] = f"{method}_{words}"
            operation["parameters"] = [*in_path, *operation.get("parameters", ())]
            operation["responses"]["default"] = {"$ref": "#/components/responses/Error"}
    schemas |= {"Endpoint": {"enum": list(ENDPOINTS)}, "Profile": {"enum": list(PROFILES)}}
    description["components"]["schemas"] = {**_openai_schemas(), **schemas}
    return description


def _openai_schemas() -> dict[str, Any]:
    """Return the schemas of OpenAI's objects, which are those of its own package."""
    from openai.types import Batch, FileDeleted, FileObject, Model, Upload
    from openai.types.uploads import UploadPart
    from pydantic.json_schema import models_json_schema

    kinds = (Batch, FileDeleted, FileObject, Model, Upload, UploadPart)
    _, collected = models_json_schema(
        [(kind, "serialization") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Any] = collected["$defs"]
    # A purpose that OpenAI's API has and its package forgets.
    schemas["FileObject"]["properties"]["purpose"]["enum"].append("evals")
    return schemas


class OpenApiHandler(VBatchHandler):
    """``/vbatch/openapi.json``."""

    auth_resource = "vbatch_batches"

    @web.authenticated
    async def get(self) -> None:
        """Return the description."""
        await self.send_from(lambda: describe(self.base_url))


ROUTES = ((r"/vbatch/openapi\.json", OpenApiHandler),)
