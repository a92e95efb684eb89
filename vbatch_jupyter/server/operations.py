"""Every operation of the server, for its description; a test compares the table with the routes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.profiles import PROFILES

Schema = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One verb of one path.

    Parameters
    ----------
    method
        Lower-case.
    path
        With its parameters in braces.
    summary
        What it does.
    answer
        The schema of its answer with status 200.
    query
        By name the schema of each parameter of the query.
    body
        The schema of its body; None if it takes none.
    body_type, answer_type
        Their content types.
    body_required
        Whether there must be a body.
    """

    method: str
    path: str
    summary: str
    answer: Schema
    query: Mapping[str, Schema] = dataclasses.field(default_factory=dict)
    body: Schema | None = None
    body_type: str = "application/json"
    answer_type: str = "application/json"
    body_required: bool = True


def ref(name: str) -> Schema:
    """Refer to a schema of the description's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(name: str, **more: Schema) -> Schema:
    """Describe OpenAI's list object."""
    properties = {"object": {"const": "list"}, "data": {"type": "array", "items": ref(name)}, **more}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _object(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


_TEXT: Schema = {"type": "string"}
_BINARY: Schema = {"type": "string", "format": "binary"}
_ID_OR_NULL: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_PAGED = {"first_id": _ID_OR_NULL, "last_id": _ID_OR_NULL, "has_more": {"type": "boolean"}}
_AFTER: Schema = {"type": "string", "description": "The id of the last object of the previous page."}
_TARGET: Schema = {"enum": list(PROFILES), "default": "openai"}
_EXPIRES_AFTER = _object(
    ("anchor", "seconds"),
    anchor={"const": "created_at"},
    seconds={"type": "integer", "minimum": 3600, "maximum": 2_592_000},
)
_ENDPOINT: Schema = {"enum": list(ENDPOINTS)}
_PURPOSE: Schema = {"enum": ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]}


def _integer(least: int, most: int, default: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}


_NEW_BATCH = _object(
    ("input_file_id", "endpoint", "completion_window"),
    input_file_id=_TEXT,
    endpoint=_ENDPOINT,
    completion_window={"const": "24h"},
    metadata={
        "type": ["object", "null"],
        "maxProperties": 16,
        "propertyNames": {"maxLength": 64},
        "additionalProperties": {"type": "string", "maxLength": 512},
    },
    output_expires_after=_EXPIRES_AFTER,
)
_NEW_FILE = {
    **_object(("file", "purpose"), file=_BINARY, purpose=_PURPOSE),
    "description": "expires_after is sent as the fields expires_after[anchor] and expires_after[seconds].",
}
_NEW_UPLOAD = _object(
    ("bytes", "filename", "mime_type", "purpose"),
    bytes={"type": "integer", "minimum": 1},
    filename=_TEXT,
    mime_type=_TEXT,
    purpose=_PURPOSE,
    expires_after=_EXPIRES_AFTER,
)
_OBJECTS = {"type": "array", "items": {"type": "object"}}
_READY = _object(
    ("status", "store", "problems", "engines"),
    status={"enum": ["ready", "not_ready"]},
    store=_object(free_bytes=_COUNT, writable={"type": "boolean"}, reason=_ID_OR_NULL),
    problems=_OBJECTS,
    engines=_OBJECTS,
)
_LINES = list_of("Line", total=_COUNT, has_more={"type": "boolean"})
_SNAPSHOT = _object(
    ("batches", "engines", "problems"),
    batches={"type": "array", "items": ref("BatchView")},
    engines={"type": "array", "items": ref("Engine")},
    problems=_OBJECTS,
)
_CHECK = _object(
    ("object", "target", "endpoint", "endpoints", "would_run", "counts", "findings"),
    endpoint=_TEXT,
    endpoints={"type": "array", "items": _TEXT},
    would_run={"type": "boolean"},
)


_OF_OPENAI = (
    Operation("get", "/vbatch/v1/models", "List the models that engines serve.", list_of("Model")),
    Operation("get", "/vbatch/v1/models/{model}", "Retrieve a model.", ref("Model")),
    *(
        Operation(
            "post",
            f"/vbatch{path}",
            "Let the engine of the model answer at once, before all batches.",
            {"type": "object"},
            body=_object(("model",), model=_TEXT),
        )
        for path in ENDPOINTS
    ),
    Operation(
        "get",
        "/vbatch/v1/files",
        "List the files.",
        list_of("FileObject", **_PAGED),
        {
            "purpose": _TEXT,
            "order": {"enum": ["asc", "desc"], "default": "desc"},
            "limit": _integer(1, 10_000, 10_000),
            "after": _AFTER,
        },
    ),
    Operation(
        "post",
        "/vbatch/v1/files",
        "Upload a file.",
        ref("FileObject"),
        body=_NEW_FILE,
        body_type="multipart/form-data",
    ),
    Operation("get", "/vbatch/v1/files/{file_id}", "Retrieve a file.", ref("FileObject")),
    Operation("delete", "/vbatch/v1/files/{file_id}", "Delete a file.", ref("FileDeleted")),
    Operation(
        "get",
        "/vbatch/v1/files/{file_id}/content",
        "Download a file.",
        _BINARY,
        answer_type="application/octet-stream",
    ),
    Operation("post", "/vbatch/v1/uploads", "Begin an upload in parts.", ref("Upload"), body=_NEW_UPLOAD),
    Operation(
        "post",
        "/vbatch/v1/uploads/{upload_id}/parts",
        "Add a part to an upload.",
        ref("UploadPart"),
        body=_object(("data",), data=_BINARY),
        body_type="multipart/form-data",
    ),
    Operation(
        "post",
        "/vbatch/v1/uploads/{upload_id}/complete",
        "Make a file of the parts, in the order given.",
        ref("Upload"),
        body=_object(("part_ids",), part_ids={"type": "array", "items": _TEXT}, md5=_TEXT),
    ),
    Operation("post", "/vbatch/v1/uploads/{upload_id}/cancel", "Cancel an upload.", ref("Upload")),
    Operation(
        "get",
        "/vbatch/v1/batches",
        "List the batches, newest first.",
        list_of("Batch", **_PAGED),
        {"limit": _integer(1, 100, 20), "after": _AFTER},
    ),
    Operation("post", "/vbatch/v1/batches", "Create a batch.", ref("Batch"), body=_NEW_BATCH),
    Operation("get", "/vbatch/v1/batches/{batch_id}", "Retrieve a batch.", ref("Batch")),
    Operation("post", "/vbatch/v1/batches/{batch_id}/cancel", "Cancel a batch.", ref("Batch")),
)

_OF_OURS = (
    Operation("get", "/vbatch/healthz", "Check that the process answers. No key.", _TEXT, answer_type="text/plain"),
    Operation("get", "/vbatch/readyz", "Check whether batches can be taken; status 503 if not.", _READY),
    Operation("get", "/vbatch/openapi.json", "Describe all this.", {"type": "object"}),
    Operation(
        "get",
        "/vbatch/events",
        "Send batches and engines as they are now, and then each change, as server-sent events.",
        _TEXT,
        answer_type="text/event-stream",
    ),
    Operation("get", "/vbatch/snapshot", "Return the snapshot that the events begin with.", _SNAPSHOT),
    Operation(
        "get",
        "/vbatch/batches",
        "List the batches as the panel shows them, newest first, with why one waits and the notebook that made it.",
        list_of("BatchView", total=_COUNT, has_more={"type": "boolean"}),
        {"limit": _integer(1, 1000, 100), "after": _AFTER},
    ),
    Operation(
        "post",
        "/vbatch/batches/{batch_id}/retry",
        "Make a new batch of the requests that have no answer.",
        ref("Batch"),
    ),
    Operation(
        "get",
        "/vbatch/files/{file_id}/lines",
        "Return a page of a file's lines, each as JSON or as text.",
        _LINES,
        {"start": {"type": "integer", "minimum": 1, "default": 1}, "limit": _integer(1, 1000, 100)},
    ),
    Operation(
        "post",
        "/vbatch/check",
        "Check line by line what a batch service would refuse or ignore in a file.",
        _CHECK,
        body=_object(("file_id",), file_id=_TEXT, target=_TARGET),
    ),
    Operation("get", "/vbatch/engines", "List the engines of all kernels, with their figures.", list_of("Engine")),
    Operation(
        "post",
        "/vbatch/engines/{name}/load",
        "Load a model in a kernel; a model that the server starts itself needs no body.",
        {"type": "object"},
        body=_object(("model",), model=_TEXT, flags={"type": "array", "items": _TEXT}),
        body_required=False,
    ),
    Operation("post", "/vbatch/engines/{name}/unload", "Unload the model of an engine.", {"type": "object"}),
)

OPERATIONS = (*_OF_OPENAI, *_OF_OURS)
"""All of them."""

SCHEMAS: Mapping[str, Schema] = {
    "Error": _object(
        ("error",),
        error=_object(
            ("message", "type", "param", "code"),
            message=_TEXT,
            type=_TEXT,
            param=_ID_OR_NULL,
            code=_ID_OR_NULL,
        ),
    ),
    "BatchView": _object(
        ("batch", "waiting", "requests_per_second", "seconds_left", "paused", "retry_of", "origin"),
        batch=ref("Batch"),
        waiting=_ID_OR_NULL,
        requests_per_second={"type": ["number", "null"]},
        seconds_left={"type": ["integer", "null"]},
        paused={"type": "boolean"},
        retry_of=_ID_OR_NULL,
        origin=_ID_OR_NULL,
    ),
    "Line": _object(
        ("number", "json", "text", "truncated"),
        number={"type": "integer", "minimum": 1},
        json={},
        text={"type": ["string", "null"], "description": "The text of a line that is not JSON."},
        truncated={"type": "boolean"},
    ),
    "Engine": _object(
        ("object", "id", "name", "models", "state", "kernel_id", "pid", "stats", "note"),
        object={"const": "engine"},
        models={"type": "array", "items": _TEXT},
        state={"enum": ["unloaded", "loading", "ready", "dead"]},
    ),
}
"""The schemas that are not OpenAI's."""
