"""Every route with every verb that it does not have."""

from __future__ import annotations

import re

import pytest
from tornado.web import RequestHandler

from tests.servers import assert_envelope
from vbatch_jupyter.server.app import ROUTES
from vbatch_jupyter.server.handler import UnknownHandler

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def path_of(pattern: str) -> str:
    """Return a path that a route's pattern takes."""
    inner = re.sub(r"\((/[^()]*)\)", r"\1", pattern)
    return re.sub(r"\([^()]*\)", "load", inner).replace("\\", "").removeprefix("/")


@pytest.mark.parametrize(("pattern", "handler"), [route for route in ROUTES if route[1] is not UnknownHandler])
def test_a_verb_that_a_route_does_not_have_is_refused_without_a_traceback(server, http, pattern, handler):
    path = path_of(pattern)
    assert re.fullmatch(pattern, f"/{path}")
    for verb in VERBS:
        if getattr(handler, verb.lower()) is getattr(RequestHandler, verb.lower()):
            answer = http.request(verb, path, content=b"{}" if verb in {"POST", "PUT", "PATCH"} else None)
            assert (answer.status_code, verb) == (405, verb)
            if verb != "HEAD":
                assert_envelope(answer, 405, type="invalid_request_error")
    assert "Traceback" not in server.log()


def test_the_open_route_refuses_other_verbs_to_everyone(server, http):
    for verb in VERBS[1:]:
        answer = http.request(verb, "vbatch/healthz", headers={"Authorization": ""})
        assert answer.status_code == 405
    assert http.get("vbatch/healthz", headers={"Authorization": ""}).text == "ok"
    assert "Traceback" not in server.log()
