"""Who may do what: every route and verb of a real server, with a wrong key, with a cookie, and where it is refused."""

from __future__ import annotations

import re
from typing import Any

import httpx
import openai
import pytest

from tests.servers import JupyterServer, assert_envelope
from vbatch_jupyter.server.app import ROUTES
from vbatch_jupyter.server.handler import VBatchHandler

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
PROMPT = "a prompt that nobody but its author may read"

AUTHORIZER = """
from jupyter_server.auth.authorizer import Authorizer

class Refusing(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        return handler.request.headers.get("X-Refuse") != f"{action} {resource}"
"""


def path_of(pattern: str) -> str:
    """Return an address that the pattern takes."""
    path = re.sub(r"\(\[\^/\]\+\)|\(\.\+\)|\(\.\*\)|\.\*", "x", pattern)
    path = re.sub(r"\(\?:([^|)]*)[^)]*\)|\(([^|)]*)[^)]*\)", lambda found: found[1] or found[2], path)
    path = re.sub(r"\\(.)", r"\1", path)
    assert re.fullmatch(pattern, path), (pattern, path)
    return path.removeprefix("/")


PATHS: dict[str, Any] = {path_of(route[0]): route[1] for route in ROUTES}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("auth")
    (folder / "refusing.py").write_text(AUTHORIZER)
    with JupyterServer(folder, server_config={"ServerApp": {"authorizer_class": "refusing.Refusing"}}) as server:
        yield server


@pytest.fixture(scope="module")
def nobody(server):
    with httpx.Client(base_url=server.root, timeout=20) as nobody:
        yield nobody


@pytest.fixture(scope="module")
def browser(server):
    """Log a browser in, which then has a cookie and no key."""
    with httpx.Client(base_url=server.root, timeout=20, follow_redirects=True) as browser:
        browser.get("login")
        form = {"password": server.token, "_xsrf": browser.cookies["_xsrf"]}
        assert browser.post("login", data=form).status_code < 500
        assert browser.get("vbatch/v1/batches", headers={"Referer": server.root}).status_code == 200
        yield browser


def test_all_handlers_are_ours_and_all_but_one_ask_who_it_is():
    assert [path for path, handler in PATHS.items() if not issubclass(handler, VBatchHandler)] == []
    open_to_all = {
        path
        for path, handler in PATHS.items()
        for verb in {*handler.SUPPORTED_METHODS} - {"OPTIONS"}
        # jupyter_server's mark for what it lets pass without a user.
        if getattr(getattr(handler, verb.lower()), "__allow_unauthenticated", False)
    }
    assert open_to_all == {"vbatch/healthz"}
    for path, handler in PATHS.items():
        assert handler.auth_resource in {"vbatch_files", "vbatch_batches", "vbatch_engine"}, path


@pytest.mark.parametrize("path", sorted(PATHS.keys() - {"vbatch/healthz"}))
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "token wrong"},
        {"Authorization": "Basic d3Jvbmc="},
        {"Cookie": "username-127-0-0-1=wrong"},
        {"X-Forwarded-User": "root", "Origin": "http://evil.example"},
    ],
)
def test_no_verb_of_any_route_answers_without_a_key(nobody, path, headers):
    for verb in VERBS:
        answer = nobody.request(verb, path, headers=headers)
        if verb == "HEAD":
            assert (answer.status_code, answer.headers["x-request-id"][:4]) == (401, "req_")
            continue
        message = assert_envelope(answer, 401, type="invalid_request_error", param=None, code="invalid_api_key")
        assert message.startswith("Incorrect API key provided.")
        assert "_xsrf" not in answer.text
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path", ["vbatch/v1/files/", "vbatch/v1//files", "vbatch/v1/%2e%2e/files", "vbatch/v1/files%2fx"]
)
def test_an_address_of_another_spelling_tells_nothing_either(nobody, path):
    assert_envelope(nobody.get(path), 401)
    assert_envelope(nobody.get(f"{path}?token=wrong"), 401)


def test_health_is_open_and_says_only_ok(nobody):
    answer = nobody.get("vbatch/healthz")
    assert (answer.status_code, answer.text) == (200, "ok")
    assert nobody.post("vbatch/healthz").status_code in {403, 405}


def test_the_stock_client_sees_an_authentication_error(server):
    with pytest.raises(openai.AuthenticationError) as caught:
        server.client(api_key="wrong").batches.list()
    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
    assert str(caught.value.request_id).startswith("req_")


def test_a_key_in_the_address_is_a_key(server, nobody):
    assert nobody.get(f"vbatch/v1/batches?token={server.token}").json()["data"] == []
    nobody.cookies.clear()


@pytest.mark.parametrize("path", sorted(PATHS.keys() - {"vbatch/healthz"}))
def test_a_cookie_needs_the_token_against_forged_requests(browser, path):
    for verb in ("POST", "PUT", "PATCH", "DELETE"):
        for headers in ({}, {"Origin": "http://evil.example"}, {"Content-Type": "text/plain"}):
            answer = browser.request(verb, path, headers=headers, content=b"{}")
            expected = 404 if "Origin" in headers else 403
            message = assert_envelope(answer, expected, type="invalid_request_error")
            assert expected == 404 or "_xsrf" in message


def test_a_cookie_with_the_token_is_as_good_as_a_key(browser):
    answer = browser.post(
        "vbatch/v1/batches",
        headers={"X-XSRFToken": browser.cookies["_xsrf"]},
        json={"input_file_id": "file-x", "endpoint": "/v1/embeddings", "completion_window": "24h"},
    )
    assert (answer.status_code, answer.json()["status"]) == (200, "validating")


def test_a_cookie_beside_a_wrong_key_does_not_make_it_right(browser):
    assert_envelope(browser.get("vbatch/v1/batches", headers={"Authorization": "Bearer wrong"}), 401)


@pytest.mark.parametrize("path", sorted(PATHS.keys() - {"vbatch/healthz"}))
def test_an_authorizer_is_asked_for_every_verb_of_every_route(server, path):
    handler = PATHS[path]
    with server.http() as http:
        for verb in VERBS:
            action = handler.auth_action or ("read" if verb in {"GET", "HEAD"} else "write")
            refuse = {"X-Refuse": f"{action} {handler.auth_resource}"}
            answer = http.request(verb, path, headers=refuse)
            if verb == "HEAD":
                assert answer.status_code == 403
            else:
                message = assert_envelope(answer, 403, code="insufficient_permissions")
                assert message.startswith(f"You are not authorized to {action} {handler.auth_resource}")


def test_a_client_that_may_only_read_reads(server):
    with server.http(headers={"X-Refuse": "write vbatch_files"}) as http:
        assert http.get("vbatch/v1/files").json()["data"] == []
        assert_envelope(http.post("vbatch/v1/files", files={"file": b"x"}, data={"purpose": "vision"}), 403)


def test_neither_keys_nor_prompts_stand_in_the_log(server, nobody):
    secret = "sk-a-key-that-was-mistyped"
    with pytest.raises(openai.AuthenticationError):
        server.client(api_key=secret).files.list()
    client = server.client()
    line = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":"%s"}}\n'
    file = client.files.create(file=line % PROMPT.encode(), purpose="batch")
    client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    with pytest.raises(openai.APIStatusError):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": PROMPT}])
    with server.http() as http:
        http.post("vbatch/v1/batches", content=f'{{"metadata": "{PROMPT}'.encode())
        http.post("vbatch/v1/batches", content=f'"{PROMPT}"'.encode())
    for path in ("vbatch/v1/files/file-x", "vbatch/v1/nothing", "vbatch/v1/files?limit=x", "vbatch/v1/files/x/content"):
        url = f"{path}{'&' if '?' in path else '?'}token={server.token}"
        answer = nobody.get(url, headers={"Referer": f"{server.root}lab?token={server.token}"})
        assert answer.status_code in {400, 404}
        assert answer.headers["x-request-id"] in server.log()
    nobody.cookies.clear()
    log = server.log()
    assert server.token not in log
    assert secret not in log
    assert PROMPT not in log
    assert "Traceback" not in log
