"""The server's own description: of every route and verb, and held to by the server whatever a client sends."""

from __future__ import annotations

import re

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import booleans
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance
from tornado.web import RequestHandler

from tests.servers import JupyterServer
from vbatch_jupyter.server.app import ROUTES
from vbatch_jupyter.server.handler import UnknownHandler
from vbatch_jupyter.server.openapi import describe

VERBS = ("get", "post", "put", "patch", "delete", "head")
DESCRIPTION = describe("/")
SCHEMA = schemathesis.openapi.from_dict(DESCRIPTION)
OPERATIONS = sorted(
    (path, method)
    for path, methods in DESCRIPTION["paths"].items()
    for method in methods
    # A stream has no end.
    if path != "/vbatch/events"
)


def test_every_route_and_verb_is_described_and_nothing_else():
    paths = {path: re.sub(r"\{\w+\}", "x", path) for path in DESCRIPTION["paths"]}
    described = set()
    for path, example in paths.items():
        pattern, handler = next(each for each in ROUTES if re.fullmatch(each[0], example))
        assert handler is not UnknownHandler, path
        for method in DESCRIPTION["paths"][path]:
            assert getattr(handler, method) is not getattr(RequestHandler, method), (path, method)
            described.add((pattern, method))
    for pattern, handler in ROUTES:
        for method in VERBS:
            if handler is not UnknownHandler and getattr(handler, method) is not getattr(RequestHandler, method):
                assert (pattern, method) in described, (pattern, method)
    # Where one pattern stands for several paths, each of them.
    for name in ("chat/completions", "completions", "embeddings", "responses"):
        assert set(DESCRIPTION["paths"][f"/vbatch/v1/{name}"]) == {"post"}
    assert {f"/vbatch/engines/{{name}}/{verb}" for verb in ("load", "unload")} <= set(paths)


def test_the_description_is_served_to_who_has_the_key(server):
    with server.http() as http:
        answer = http.get("vbatch/openapi.json")
    assert answer.status_code == 200
    assert answer.json() == {**DESCRIPTION, "servers": [{"url": "/user/ann"}]}
    refused = httpx.get(f"{server.root}vbatch/openapi.json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.fixture(scope="module")
def log_before(server: JupyterServer) -> str:
    """Return what the server has logged before the tests of this module."""
    return server.log()


@pytest.fixture(scope="module")
def known(server: JupyterServer, log_before: str) -> dict[str, str]:
    """Return the ids of objects that are there, by the names that the description has for them."""
    with server.client() as client:
        file = client.files.create(file=("in.jsonl", b'{"custom_id": "a"}'), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        upload = client.uploads.create(bytes=3, filename="x", mime_type="text/plain", purpose="user_data")
    return {"file_id": file.id, "batch_id": batch.id, "upload_id": upload.id}


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=[f"{method} {path}" for path, method in OPERATIONS])
def test_no_request_that_can_be_made_of_the_description_is_a_server_error(server, known, path, method):
    operation = SCHEMA[path][method]
    headers = {"Authorization": f"Bearer {server.token}"}

    @given(
        operation.as_strategy(GenerationMode.POSITIVE) | operation.as_strategy(GenerationMode.NEGATIVE),
        booleans(),
    )
    @settings(max_examples=12, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    def ask(case, of_one_that_is_there):
        if of_one_that_is_there:
            names = case.path_parameters or {}
            case.path_parameters = {name: known.get(name, value) for name, value in names.items()}
        response = case.call(base_url=server.root.rstrip("/"), headers=headers, timeout=30)
        case.validate_response(response, checks=[not_a_server_error, response_schema_conformance])

    ask()


def test_nothing_of_all_that_was_an_error_of_the_server(server, log_before):
    # Last: the log of what the others have sent.
    log = server.log().removeprefix(log_before)
    assert "Traceback" not in log
    assert not re.search(r"\] 5\d\d (GET|POST|DELETE) ", log)
