"""The widgets in a real kernel, by what it tells a front end; the engine is the echo engine.

That they are seen, and that Cancel reaches the batch while a cell blocks the kernel, is proved in `tests/ui`.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from tests.batches import open_store
from tests.kernels import NotebookKernel
from tests.waiting import wait_for
from vbatch_jupyter.store import Store

PREPARE = """
%load_ext vbatch_jupyter
import pandas as pd, time
import vbatch_jupyter as vb
from vbatch_jupyter.session import session
from vbatch_jupyter.engine.echo import EchoEngine
session.current()._loader._make_engine = lambda *_, **__: EchoEngine(latency_seconds=0.5, refusing="refuse me")
df = pd.DataFrame({"n": list(range(1499)) + ["refuse me"]})
%vbatch load echo
"""
RUN = "%%vbatch df -o out\nSay {{ n }}"
WIDGET = "application/vnd.jupyter.widget-view+json"

Message = dict[str, Any]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotebookKernel]:
    """Start a kernel as a Jupyter server does for a notebook."""
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook.ipynb")
    kernel = NotebookKernel(tmp_path / "store")
    kernel.run(PREPARE).checked()
    yield kernel
    kernel.close()


@pytest.fixture
def store(kernel: NotebookKernel, tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as store:
        yield store


def told(kernel: NotebookKernel, until: Callable[[Message], bool], timeout: float = 60) -> list[Message]:
    """Return all that the kernel tells its front ends until it tells what is waited for."""
    messages: list[Message] = []
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            message = kernel.client.get_iopub_msg(timeout=1)
        except Empty:
            continue
        messages.append({**message, "at": time.monotonic()})
        if until(message):
            return messages
    raise AssertionError(f"not told within {timeout} s, but {[message['msg_type'] for message in messages]}")


def end_of(sent: str) -> Callable[[Message], bool]:
    return lambda message: bool(
        message["msg_type"] == "status"
        and message["content"]["execution_state"] == "idle"
        and message["parent_header"].get("msg_id") == sent
    )


def is_update(message: Message) -> bool:
    return bool(message["msg_type"] == "update_display_data")


def is_summary(message: Message) -> bool:
    return is_update(message) and bool(message["content"]["data"]["text/plain"])


def comms(messages: list[Message]) -> dict[str, str]:
    """Return the widgets that kernel and front end have to keep, with their kind."""
    opened = {
        message["content"]["comm_id"]: message["content"]["data"]["state"].get("_model_name", "")
        for message in messages
        if message["msg_type"] == "comm_open"
    }
    closed = {message["content"]["comm_id"] for message in messages if message["msg_type"] == "comm_close"}
    return {comm: kind for comm, kind in opened.items() if comm not in closed}


def heads(messages: list[Message]) -> list[tuple[float, str]]:
    """Return when and how the widget's head was redrawn."""
    updates = [
        (message["at"], message["content"]["data"].get("state", {}).get("value", ""))
        for message in messages
        if message["msg_type"] == "comm_msg"
    ]
    return [(at, value) for at, value in updates if "requests/s" in value]


def test_a_cell_that_waits_shows_a_widget_that_moves_and_leaves_its_summary_in_that_place(kernel, store):
    messages = told(kernel, end_of(kernel.start(RUN)))
    shown, hint = (message for message in messages if message["msg_type"] == "display_data")
    (ended,) = filter(is_summary, messages)
    assert set(shown["content"]["data"]) == {WIDGET, "text/plain", "text/html"}
    assert set(hint["content"]["data"]) == {"text/plain", "text/html"}
    assert ended["content"]["transient"]["display_id"] == shown["content"]["transient"]["display_id"]
    assert set(ended["content"]["data"]) == {"text/plain", "text/html"}
    (record,) = store.batches.list().data
    # What a notebook has that is saved meanwhile; nbconvert and GitHub show it.
    sentence = f"Batch {record.id} had not ended when this was shown."
    assert shown["content"]["data"]["text/plain"] == sentence
    assert sentence in shown["content"]["data"]["text/html"]
    assert ended["content"]["data"]["text/plain"].startswith(f"{record.id} completed 1,499/1,500 completed, 1 failed")
    assert "This request is refused, as it asked to be." in ended["content"]["data"]["text/html"]

    drawn = heads(messages)
    completed = [int(found.replace(",", "")) for _, head in drawn for found in re.findall(r"([\d,]+) completed", head)]
    assert len(drawn) >= 5
    assert sorted(completed) == completed
    assert len(set(completed)) >= 3
    pauses = [later[0] - earlier[0] for earlier, later in itertools.pairwise(drawn)]
    assert sorted(pauses)[len(pauses) // 2] < 2
    answers = [message for message in messages if "last answers" in str(message["content"].get("data"))]
    assert "Say " in str(answers[-1]["content"]["data"])
    # A page that is opened now finds the widget, with the summary in it; one that was open, no hint any more.
    left = comms(messages)
    assert sorted(kind for kind in left.values() if "Layout" not in kind and "Style" not in kind) == [
        "AnyModel",
        "HTMLModel",
        "VBoxModel",
    ]
    (said,) = [comm for comm, kind in left.items() if kind == "HTMLModel"]
    values = [m["content"]["data"]["state"].get("value") for m in messages if m["content"].get("comm_id") == said]
    assert values[-1] == ended["content"]["data"]["text/html"]
    assert hint["content"]["data"]["text/plain"] == f"%vbatch attach {record.id} shows this batch again"
    (taken,) = (message for message in messages if is_update(message) and not is_summary(message))
    assert taken["content"]["transient"]["display_id"] == hint["content"]["transient"]["display_id"]
    assert taken["content"]["data"] == {"text/plain": "", "text/html": ""}
    assert all(message["msg_type"] != "stream" for message in messages)


def test_of_batches_that_have_ended_the_last_keep_their_widgets(kernel):
    kernel.run("from vbatch_jupyter.widgets import live\nlive._KEPT = 2").checked()
    messages = [
        message
        for _ in range(4)
        for message in told(kernel, end_of(kernel.start("%%vbatch df --fresh --sample 1 -o out\nSay {{ n }}")))
    ]
    assert list(comms(messages).values()).count("VBoxModel") == 2
    assert list(comms(messages).values()).count("HTMLModel") == 2
    assert list(comms(messages).values()).count("AnyModel") == 2


def test_a_background_batch_is_redrawn_while_a_cell_computes(kernel):
    sent = kernel.start("%%vbatch df -b\nSay {{ n }}")
    begun = told(kernel, end_of(sent))
    assert [WIDGET in message["content"]["data"] for message in begun if message["msg_type"] == "display_data"] == [
        True,
        False,
    ]
    assert all(message["msg_type"] != "execute_result" for message in begun)
    busy = kernel.start("until = time.monotonic() + 2\nwhile time.monotonic() < until: pass\nprint('done')")
    messages = told(kernel, end_of(busy))
    assert len(heads(messages)) >= 2
    (ended,) = filter(is_summary, messages if any(map(is_summary, messages)) else told(kernel, is_summary))
    assert "1,499/1,500 completed" in ended["content"]["data"]["text/plain"]


def test_the_buttons_message_cancels_where_no_server_did(kernel, store):
    kernel.run("session.current().engine.latency_seconds = 3600").checked()
    begun = told(kernel, end_of(kernel.start("%%vbatch df -b\nSay {{ n }}")))
    (button,) = {
        message["content"]["comm_id"]
        for message in begun
        if message["msg_type"] == "comm_open" and message["content"]["data"]["state"].get("label") == "Cancel"
    }
    data = {"method": "custom", "content": {"refused": True}}
    message = kernel.client.session.msg("comm_msg", {"comm_id": button, "data": data})
    kernel.client.shell_channel.send(message)
    wait_for(lambda: store.batches.list().data[0].status in {"cancelling", "cancelled"})
    (ended,) = filter(is_summary, told(kernel, is_summary))
    assert " cancelled " in ended["content"]["data"]["text/plain"]


def test_a_batch_that_was_followed_is_not_shown_twice_in_its_cell_and_is_shown_in_the_next(kernel):
    told(kernel, end_of(kernel.start(RUN)))
    messages = told(kernel, end_of(kernel.start("batch = %vbatch attach\nbatch")))
    assert [message["msg_type"] for message in messages if "data" in message["msg_type"]] == [
        "display_data",
        "display_data",
        "update_display_data",
        "update_display_data",
    ]
    (result,) = (m for m in told(kernel, end_of(kernel.start("batch"))) if m["msg_type"] == "execute_result")
    assert set(result["content"]["data"]) == {"text/plain", "text/html"}


@pytest.mark.parametrize(("style", "said"), [("text", "completed 1,499/1,500 completed, 1 failed"), ("none", "")])
def test_other_styles_show_no_widget(kernel, style, said):
    kernel.run(f"session.current().progress = {style!r}").checked()
    messages = told(kernel, end_of(kernel.start(RUN)))
    assert all(message["msg_type"] not in {"display_data", "comm_open"} for message in messages)
    text = "".join(message["content"]["text"] for message in messages if message["msg_type"] == "stream")
    assert said in text if said else text == ""


def test_a_kernel_without_a_notebook_shows_text(tmp_path):
    kernel = NotebookKernel(tmp_path / "store")
    kernel.run(PREPARE).checked()
    cell = kernel.run(RUN).checked()
    assert "completed 1,499/1,500 completed, 1 failed" in cell.stdout
    assert cell.result == ""
    kernel.close()


def test_the_builder_is_shown_with_the_latest_frame(kernel):
    messages = told(kernel, end_of(kernel.start("%vbatch build")))
    shown, hint = (message for message in messages if message["msg_type"] == "display_data")
    assert WIDGET in shown["content"]["data"]
    assert shown["content"]["data"]["text/plain"] == "Here was a builder of batches, which needs its kernel."
    assert hint["content"]["data"]["text/plain"] == "%vbatch build df opens this builder again"
    states = [m["content"]["data"]["state"] for m in messages if m["msg_type"] == "comm_open"]
    assert any(state.get("_options_labels") == ["df"] for state in states)
    assert any(state.get("description") == "Run all" for state in states)
    assert any(state.get("description") == "n" for state in states)
