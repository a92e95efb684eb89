"""Sends mutated and made-up inputs into everything that reads what others have written.

``make fuzz`` does it a million times. An input is made of the seed and its number alone, so that both together make it
again. Most inputs go to the functions that read; every fiftieth is sent to a real server, whose loop's CPU is measured.
What counts as a fault: an exception that is not ours, an answer of 5xx, and an input that holds a thread for more than
100 ms of CPU.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.rules import EXAMPLES, PROMPTS
from tests.servers import JupyterServer
from vbatch_jupyter.errors import VBatchError
from vbatch_jupyter.manager import checks
from vbatch_jupyter.protocol import check, lines, policy, validation
from vbatch_jupyter.protocol.answer_schema import checker
from vbatch_jupyter.protocol.endpoints import CHAT, ENDPOINTS
from vbatch_jupyter.protocol.grammar_schema import GRAMMARS
from vbatch_jupyter.protocol.index import beginning
from vbatch_jupyter.protocol.keys import unknown_keys
from vbatch_jupyter.protocol.profiles import HERE, PROFILES
from vbatch_jupyter.records import EngineLimits
from vbatch_jupyter.server.batches import NewBatch
from vbatch_jupyter.server.multipart import FormReader

MOST_CPU = 0.1
"""Seconds of CPU that one input may hold a thread."""

HTTP_EVERY = 50
"""Every so many inputs one goes to the server."""

_AGAIN = 3
_LIMITS = EngineLimits(max_model_len=1024, paths=frozenset({CHAT.path}), takes_tools=False)
_PATHS = tuple(ENDPOINTS)

_SCHEMA = {
    "type": "object",
    "properties": {
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,9}$"}, "uniqueItems": True},
        "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None},
        "kind": {"$ref": "#/$defs/Kind"},
        "pair": {"type": "array", "prefixItems": [{"const": 1}, {"enum": ["a", "b"]}], "contains": {"type": "number"}},
    },
    "required": ["stars", "kind"],
    "additionalProperties": False,
    "$defs": {"Kind": {"oneOf": [{"enum": ["a", "b"]}, {"not": {"type": "string"}}]}},
}
_BODIES: list[tuple[str, dict[str, Any]]] = [(path, {"model": "m", **PROMPTS[path]}) for path in _PATHS]
_BODIES += [(rule.path or CHAT.path, json.loads(example)) for rule, example, _ in EXAMPLES]
_BODIES += [
    (path, {"model": "m", **PROMPTS[path], **more})
    for path, more in (
        (CHAT.path, {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA}}}),
        (CHAT.path, {"structured_outputs": {"choice": ["yes", "no"]}, "bad_words": ["yes"], "allowed_token_ids": [1]}),
        (CHAT.path, {"structured_outputs": {"regex": "[a-z]{1,9}"}}),
        (CHAT.path, {"structured_outputs": {"json": _SCHEMA}}),
        (
            CHAT.path,
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": _SCHEMA}}]},
        ),
        (
            CHAT.path,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        ),
        ("/v1/responses", {"text": {"format": {"type": "json_schema", "name": "s", "schema": _SCHEMA}}}),
        ("/v1/responses", {"input": [{"role": "user", "content": "a"}], "tools": [{"type": "function", "name": "f"}]}),
        ("/v1/embeddings", {"input": ["a", [1, 2]], "dimensions": 8, "encoding_format": "base64"}),
    )
]
_USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": None}
_CALL = {"id": "c", "function": {"name": "f", "arguments": '{"a": 1}'}}
_RESPONSES = [
    {"choices": [{"index": 0, "message": {"content": '{"stars": 4}', "tool_calls": [_CALL]}}], "usage": _USAGE},
    {"choices": [{"text": "a", "finish_reason": "length", "stop_reason": "}"}], "usage": _USAGE},
    {"output": [{"type": "message", "content": [{"type": "output_text", "text": "a"}]}], "status": "incomplete"},
    {"data": [{"index": 0, "embedding": [0.5, 1]}, {"index": 1, "embedding": "AAAAAA=="}]},
    {"error": {"message": "no", "code": 400}},
]
_BATCH = {"input_file_id": "file-x", "endpoint": CHAT.path, "completion_window": "24h", "metadata": {"a": "b"}}
_BATCH["output_expires_after"] = {"anchor": "created_at", "seconds": 3600}
_UPLOAD = {"bytes": 3, "filename": "a", "mime_type": "text/plain", "purpose": "batch"}
_FORM = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\nContent-Type: text/plain\r\n\r\n'
    b'{"custom_id":"a"}\n\r\n--x--\r\n'
)
_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, -3, 0.5, 1e308, 5e-324, 2**31, 2**63, -(2**64), 10**30, "", " ", "a", "0", "999",
    "nan", "-1", "true", "null", "\x00", "\u2028", "\u0085", "\ud800", "é" * 3, "😀", "a" * 70, "%", "{{ a }}", "..",
    "/", "\r\n",
    [], {}, [[]], [None], [{}], {"": None}, {"a": {"b": []}}, "data:,", "http://a", "^(?!a)[", "(a+)+$", "[a-z]{1,999}",
    "#/$defs/Kind", "#", "string", "object", "array", "text", "json_schema", "user", "assistant", "function",
)  # fmt: skip
_KEYS = (
    *sorted({key for endpoint in ENDPOINTS.values() for key in endpoint.known_keys}),
    "guided_json", "temprature", "type", "role", "content", "$ref", "properties", "items", "anyOf", "pattern", "enum",
    "const", "format", "not", "minContains", "dependentRequired", "custom_id", "url", "body", "", "\x00", "a" * 600,
)  # fmt: skip
_PIECES = (
    b"{", b"}", b"[", b"]", b'"', b"\\", b"\\ud800", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r\n", b"NaN", b"-",
    b"1e999", b"\xff\xfe", b"--x", b"--x--", b"\r\n\r\n", b"Content-Disposition: ", b'name="', b";", b",", b":",
    b"null", b"[" * 300, b'{"a":' * 300, b"9" * 400, b'"usage":', b"\xe2\x80\xa8", b"\x1f\x8b", b"PK\x03\x04",
)  # fmt: skip


class Maker(random.Random):
    """Makes inputs; all that it makes follows from its seed."""

    spent = 0.0
    """Seconds of CPU that it took to make JSON."""

    def json_of(self, value: Any, most: int = 40_000) -> bytes:
        """Mutate a value a few times and write it in so many characters, sometimes with bytes of it changed."""
        start = time.thread_time()
        for _ in range(self.choice((0, 1, 1, 1, 2, 2, 3, 6))):
            changed = self._changed(value)
            value = changed if len(repr(changed)) < most else value
        text = json.dumps(value, ensure_ascii=self.random() < 0.5).encode(errors="surrogatepass")
        text = self.bytes_of(text) if self.random() < 0.25 else text
        self.spent += time.thread_time() - start
        return text

    def bytes_of(self, text: bytes) -> bytes:
        """Change some bytes."""
        for _ in range(self.choice((1, 1, 2, 4))):
            start = self.randrange(len(text) + 1)
            end = min(len(text), start + self.choice((0, 0, 1, 1, 2, 8, 64)))
            other = self.randrange(len(text) + 1)
            piece = self.choice(
                (b"", self.choice(_PIECES), self.randbytes(2), text[other : other + self.randrange(40)])
            )
            text = text[:start] + piece + text[end:]
        return text

    def _changed(self, value: Any) -> Any:
        """Return a copy with one value, key or element of it changed."""
        if isinstance(value, dict) and value and self.random() < 0.85:
            copy = dict(value)
            key = self.choice(list(copy))
            match self.randrange(8):
                case 0:
                    del copy[key]
                case 1:
                    copy[self.choice(_KEYS)] = copy.pop(key)
                case 2:
                    copy[self.choice(_KEYS)] = self._odd()
                case _:
                    copy[key] = self._changed(copy[key])
            return copy
        if isinstance(value, list) and value and self.random() < 0.85:
            at = self.randrange(len(value))
            match self.randrange(6):
                case 0:
                    return value[:at] + value[at + 1 :]
                case 1:
                    return value * self.choice((2, 3, 50))
                case 2:
                    return [*value, self._odd()]
                case _:
                    return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
        return self._odd() if self.random() < 0.9 else self._wrapped(value)

    def _odd(self) -> Any:
        if self.random() < 0.02:
            return self.choice((["a"] * 2049, {f"k{n}": n for n in range(300)}, "x" * 70_000, self._wrapped("a", 300)))
        return self.choice(_ODD)

    def _wrapped(self, value: Any, most: int = 30) -> Any:
        for _ in range(self.randrange(1, most)):
            value = {"a": value} if self.random() < 0.5 else [value]
        return value

    def line(self) -> bytes:
        """Make a line of an input file."""
        path, body = self.choice(_BODIES)
        request = {"custom_id": self.choice(("a", "b", "row-1")), "method": "POST", "url": path, "body": body}
        return self.json_of(request)

    def file(self) -> bytes:
        """Make an input file."""
        ends = self.choice((b"\n", b"\n", b"\r\n", b"\n\n", b" \n", b"\r"))
        text = ends.join(self.line() for _ in range(self.choice((0, 1, 2, 3, 5))))
        start = self.choice((b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\n"))
        return start + (self.bytes_of(text) if self.random() < 0.2 else text)


# ------------------------------------------------------------------------------------------------- in this process


def _body(maker: Maker) -> None:
    path, body = maker.choice(_BODIES)
    endpoint, content = ENDPOINTS[path], policy.decode(maker.json_of(body))
    list(policy.ignored(path, content, "local"))
    unknown_keys(endpoint, content)
    endpoint.output_limit(content)
    beginning(endpoint.turns(content))
    for server in ("local", "openai", "compatible"):
        list(policy.broken(path, content, server, _LIMITS))
    if (schema := endpoint.schema(content)) is not None:
        _held(schema)
    try:
        policy.refuse(endpoint, content, policy.Answering("local", _LIMITS))
    except VBatchError as error:
        str(error).encode()
    policy.check(path, content, refuses_unknown=maker.random() < 0.5)
    endpoint.countable(content)


def _held(schema: Any) -> None:
    for grammar in GRAMMARS.values():
        grammar.held(schema)


def _schema(maker: Maker) -> None:
    schema = policy.decode(maker.json_of(_SCHEMA))
    _held(schema)
    try:
        read = checker(schema, has_columns=maker.random() < 0.5)
    except ValueError:
        return
    try:
        read(maker.json_of({"stars": 3, "tags": ["a"], "when": None, "kind": "a", "pair": [1, "a"]}).decode())
    except ValueError:
        return


def _file(maker: Maker) -> None:
    profile = (PROFILES if maker.random() < 0.5 else HERE)[maker.choice(("openai", "parasail", "local"))]
    file, endpoint = io.BytesIO(maker.file()), maker.choice(_PATHS)
    found = validation.validate(file, endpoint=endpoint, profile=profile, models=maker.choice((None, ("m",))))
    json.dumps([dataclasses.asdict(error) for error in found.errors]).encode()
    summary = check.Summary(profile.name)
    for finding in summary.counted(check.check(file, profile, limits=maker.choice((policy.NO_LIMITS, _LIMITS)))):
        str(finding).encode()
        msgspec.json.encode(finding)
    checks.check_first_line(bytearray(file.getvalue()))


def _output(maker: Maker) -> None:
    response = {"status_code": 200, "request_id": "r", "body": maker.choice(_RESPONSES)}
    line = maker.json_of({"id": "i", "custom_id": "a", "response": response, "error": None})
    lines.count_all(line)
    lines.parse_output_line(line)
    endpoint = maker.choice(list(ENDPOINTS.values()))
    str(endpoint.read(line, maker.choice((None, checker(_SCHEMA)))))


def _request(maker: Maker) -> None:
    line = maker.line()
    lines.encode_request_line("a", CHAT.path, bytes(lines.parse_request_line(line).body))
    lines.decode_request_line(line)


class _Kept(list[bytes]):
    write, discard = list.append, list.clear


def _form(maker: Maker) -> None:
    kind = "multipart/form-data; boundary=x"
    kind = maker.bytes_of(kind.encode()).decode("latin-1") if maker.random() < 0.1 else kind
    text = maker.bytes_of(_FORM) if maker.random() < 0.9 else _FORM
    reader = FormReader(kind, file_field="file", begin=_Kept)
    while text:
        size = maker.choice((1, 7, 64, 4096))
        reader.write(text[:size])
        text = text[size:]
    reader.finish()


def _batch(maker: Maker) -> None:
    try:
        new = msgspec.json.decode(maker.json_of(_BATCH), type=NewBatch)
    except (ValueError, RecursionError):
        return
    checks.check_required("input_file_id", new.input_file_id)
    checks.check_choice("endpoint", new.endpoint, _PATHS)
    checks.check_choice("completion_window", new.completion_window, ("24h",))
    checks.check_metadata(new.metadata)
    checks.check_expiry("output_expires_after", checks.expires_after_of("x", new.output_expires_after))


READERS: dict[str, Callable[[Maker], None]] = {
    "bodies": _body,
    "schemas": _schema,
    "files": _file,
    "output lines": _output,
    "request lines": _request,
    "forms": _form,
    "batch bodies": _batch,
}
_WEIGHTS = (6, 2, 4, 2, 2, 2, 1)


# ------------------------------------------------------------------------------------------------- over HTTP


def _http(maker: Maker, names: dict[str, str]) -> tuple[str, str, dict[str, Any]]:
    """Make a request: its method, its path below the server's root, and its body and headers."""
    name = maker.choice([*names.values(), "x", "file-" + "a" * 300, "%00", "..", "%F0%9F%98%80", "a%2Fb", "%ff"])
    numbers = ("", "0", "1", "-1", "101", "9" * 30, "1.5", "é", "a", "%00", "\u0661")
    query = {
        maker.choice(("limit", "after", "order", "purpose", "from", "target", "a")): maker.choice((*numbers, name))
        for _ in range(maker.randrange(3))
    }
    json_type = {"content-type": "application/json"}
    match maker.randrange(7):
        case 0 | 1:
            path, body = maker.choice(_BODIES)
            return "POST", f"vbatch{path}", {"content": maker.json_of(body, most=1_000_000), "headers": json_type}
        case 2:
            form = {"content-type": "multipart/form-data; boundary=x"}
            path = maker.choice(("files", "files", f"uploads/{names['upload']}/parts"))
            return "POST", f"vbatch/v1/{path}", {"content": maker.bytes_of(_FORM), "headers": form}
        case 3:
            path, body = maker.choice((("batches", {**_BATCH, "input_file_id": names["file"]}), ("uploads", _UPLOAD)))
            return "POST", f"vbatch/v1/{path}", {"content": maker.json_of(body), "headers": json_type}
        case 4:
            kind = {"content-type": "application/jsonl"}
            return "POST", "vbatch/check", {"content": maker.file(), "headers": kind, "params": query}
        case 5:
            path = maker.choice((f"uploads/{name}/complete", f"uploads/{name}/cancel", f"batches/{name}/cancel"))
            ended = maker.json_of({"part_ids": ["part_x"], "md5": "0" * 32})
            return "POST", f"vbatch/v1/{path}", {"content": ended, "headers": json_type, "params": query}
        case _:
            paths = ("files", f"files/{name}", f"files/{name}/content", "batches", f"batches/{name}", "models", name)
            path = f"v1/{maker.choice(paths)}" if maker.random() < 0.7 else maker.choice(("batches", "engines", name))
            return maker.choice(("GET", "GET", "DELETE", "HEAD", "PUT")), f"vbatch/{path}", {"params": query}


class Server:
    """A real server, and how much CPU its loop has used."""

    def __init__(self, server: JupyterServer) -> None:
        self._server, self._http = server, server.http()
        with server.client() as client:
            file = client.files.create(file=("in.jsonl", b'{"custom_id": "a"}'), purpose="batch")
            batch = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            upload = client.uploads.create(bytes=3, filename="x", mime_type="text/plain", purpose="user_data")
        self.names = {"file": file.id, "batch": batch.id, "upload": upload.id}

    def cpu(self) -> float:
        """Return the seconds of CPU of the main thread, on which the loop runs."""
        return int(Path(f"/proc/{self._server.pid}/task/{self._server.pid}/schedstat").read_text().split()[0]) / 1e9

    def ask(self, maker: Maker) -> int:
        """Send a request; return the status."""
        method, path, rest = _http(maker, self.names)
        try:
            return self._http.request(method, path, **rest).status_code
        except (httpx.InvalidURL, UnicodeError):
            return 0

    def close(self) -> None:
        """Close the client."""
        self._http.close()


# ------------------------------------------------------------------------------------------------- the run


@dataclasses.dataclass
class Counts:
    """What has come of the inputs."""

    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    refused: int = 0
    longest: float = 0.0
    faults: list[str] = dataclasses.field(default_factory=list)

    def __add__(self, other: Counts) -> Counts:
        longest = max(self.longest, other.longest)
        return Counts(self.kinds + other.kinds, self.refused + other.refused, longest, self.faults + other.faults)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.kinds.items()))
        return (
            f"{self.kinds.total():,} inputs ({kinds}); {self.refused:,} refused; longest CPU "
            f"{self.longest * 1000:.1f} ms; {len(self.faults)} faults"
        )


def fuzz(seed: int, numbers: Iterator[int], server: Server | None) -> Counts:
    """Read inputs, and return what has come of them.

    Parameters
    ----------
    seed
        Of all inputs.
    numbers
        Which of them.
    server
        Where every fiftieth is sent; None for none of them.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each form that is none
    counts = Counts()
    for number in numbers:
        is_http = number % HTTP_EVERY == 0 and server is not None
        name = "requests over HTTP" if is_http else _maker(seed, number).choices(list(READERS), _WEIGHTS)[0]
        counts.kinds[name] += 1
        cpu = _try(seed, number, name, server, counts)
        if cpu > MOST_CPU:
            # A collection of the garbage may fall on it once, but not each time.
            cpu = min(_try(seed, number, name, server, Counts()) for _ in range(_AGAIN))
        counts.longest = max(counts.longest, cpu)
        if cpu > MOST_CPU:
            counts.faults.append(f"--only {number}: {name}: {cpu:.2f} s of CPU")
    return counts


def _maker(seed: int, number: int) -> Maker:
    return Maker(f"{seed}/{number}")


def _try(seed: int, number: int, name: str, server: Server | None, counts: Counts) -> float:
    """Read one input; return the seconds of CPU."""
    maker = _maker(seed, number)
    maker.random()
    clock = time.thread_time if name in READERS or server is None else server.cpu
    start = clock()
    try:
        if name in READERS:
            READERS[name](maker)
        elif server is not None:
            status = server.ask(maker)
            counts.refused += status >= 400
            if status >= 500:
                counts.faults.append(f"--only {number}: {name}: status {status}")
    except VBatchError as error:
        counts.refused += 1
        str(error).encode(errors="surrogatepass")
    except Exception as error:  # noqa: BLE001 - it is what is looked for
        counts.faults.append(f"--only {number}: {name}: {type(error).__name__}: {str(error)[:200]}")
    return clock() - start - (maker.spent if name in READERS else 0.0)
