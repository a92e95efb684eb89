"""The panel in a real browser, on a real server and the real engine: run, watch, cancel, read, lose the server."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import expect

from tests.batches import ENDPOINT, content, make_batch, open_store
from tests.servers import JupyterServer
from tests.ui.lab import SCREENSHOTS, configure, until, watching, write_notebook
from tests.ui.panel import LabPanel, write_requests
from tests.waiting import wait_for
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.lines import encode_request_line, output_line
from vbatch_jupyter.store import Lease, SpoolRecord, Store

ENGINE = "--max-model-len 512 --enforce-eager --kv-cache-memory-bytes 200M --max-num-seqs 64"
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[JupyterServer]:
    """Return a JupyterLab that starts the engine itself when a batch needs it."""
    folder = tmp_path_factory.mktemp("panel")
    configure(folder)
    models = {"tiny": f"{tiny_model} {ENGINE}"}
    with JupyterServer(folder, application="lab", config={"models": models, "load_wait_seconds": 240.0}) as server:
        notebooks = folder / "notebooks"
        write_requests(notebooks / "requests.jsonl", [f"Say {n}." for n in range(40)], max_tokens=16)
        write_requests(notebooks / "long.jsonl", [f"Count to {n}." for n in range(2000)], max_tokens=200)
        yield server


@pytest.fixture
def store(server: JupyterServer) -> Iterator[Store]:
    with open_store(server.store) as store:
        yield store


@pytest.fixture
def settings(server: JupyterServer) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """Return what changes JupyterLab's settings for the time of a test."""
    changed: set[str] = set()

    def put(plugin: str, values: dict[str, Any]) -> None:
        with server.http() as http:
            http.put(f"lab/api/settings/{plugin}", json={"raw": json.dumps(values)}).raise_for_status()
        changed.add(plugin)

    yield put
    for plugin in sorted(changed):
        put(plugin, {})


def newest(store: Store) -> BatchRecord:
    return store.batches.list(limit=1).data[0]


def held(store: Store, batch_id: str) -> Lease:
    """Take the lease of a batch, when the server has done with it what needs no engine."""
    lease: Lease = wait_for(lambda: store.batches.acquire(batch_id))
    lifecycle.validate(store, lease)
    return lease


def finished(store: Store, custom_ids: list[str], answers: list[str]) -> BatchRecord:
    """Make a batch that has ended with these answers."""
    # No engine holds that model, and none takes the batch away.
    body = {"model": "other", "messages": [{"role": "user", "content": "Say something."}]}
    lines = [encode_request_line(custom_id, ENDPOINT, body) + b"\n" for custom_id in custom_ids]
    manager = Manager(store, profile="local", origin="/home/ann/reviews.ipynb")
    file = manager.files.create(lines, filename="in.jsonl", purpose="batch")
    made = manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT, metadata={"retry_of": HOSTILE})
    lease = held(store, made.id)
    records = []
    for position, (custom_id, answer) in enumerate(zip(custom_ids, answers, strict=True)):
        choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        answered = output_line(
            id=request_id(made.id, position),
            custom_id=custom_id,
            status_code=200,
            request_id=f"req-{position}",
            body=msgspec.json.encode({"object": "chat.completion", "choices": [choice], "usage": {"total_tokens": 7}}),
        )
        records.append(SpoolRecord(position, False, answered))
    lease.append(records)
    return lifecycle.finish(store, lease)


def test_a_file_of_the_file_browser_runs_as_a_batch_that_is_watched_to_its_end_and_read(server, store, page, figures):
    panel = LabPanel(page, server)
    expect(panel.node).to_contain_text("There are no batches yet.")
    expect(panel.node.locator(".vb-Engine")).to_have_attribute("data-state", "unloaded")
    panel.node.get_by_role("button", name="Load a model in").click()
    expect(panel.node.locator(".vb-Engine")).to_have_attribute("data-state", "loading")

    dialog = panel.run_file("requests.jsonl")
    expect(dialog).to_contain_text("It would run.")
    dialog.get_by_role("button", name="Run", exact=True).click()
    expect(panel.node).to_be_visible()
    record = until(lambda: newest(store), page)
    row = panel.row(record.id)
    expect(row).to_have_attribute("aria-selected", "true")
    expect(row).to_have_attribute("data-status", "in_progress")
    # Why it waits is said, as long as it does; then the engine is there.
    expect(row).to_contain_text(re.compile(r"tiny"))
    expect(panel.node.locator(".vb-Engine")).to_have_attribute("data-state", "ready", timeout=240_000)
    expect(row).to_have_attribute("data-status", "completed", timeout=60_000)
    expect(row.get_by_role("img")).to_have_attribute("aria-label", "40 completed, 0 failed")
    expect(panel.node.locator(".vb-Engine")).to_contain_text("KV cache usage")
    expect(panel.details).to_contain_text("40/40 completed")

    panel.press("Output").table(40)
    with_text = page.locator(".vb-Table-line:visible")
    expect(with_text).to_have_text("Select a line to read all of it.")
    panel.choose_line(2)
    expect(with_text).to_contain_text("custom_id: row-1")
    expect(with_text).to_contain_text("status_code: 200")
    page.screenshot(path=SCREENSHOTS / "panel.png")


def test_a_change_in_the_store_is_seen_within_a_second(server, store, page, figures):
    panel = LabPanel(page, server)
    with held(store, make_batch(store, 4).id) as lease:
        row = panel.row(lease.id)
        expect(row).to_have_attribute("data-status", "in_progress")
        page.evaluate(
            """id => {
              const panel = document.querySelector('#vbatch-batches');
              new MutationObserver(() => {
                const row = panel.querySelector(`[data-batch='${id}']`);
                if (row?.dataset.status === 'cancelling') window.seenAt ??= Date.now() / 1000;
              }).observe(panel, {subtree: true, attributes: true, childList: true});
            }""",
            lease.id,
        )
        store.batches.cancel(lease.id)
        changed = time.time()
        until(lambda: page.evaluate("window.seenAt"), page)
    delay = page.evaluate("window.seenAt") - changed
    figures.append(f"from a status in the store to the panel: {delay:.2f} s")
    assert delay < 10


def test_a_running_batch_is_cancelled_with_the_button(server, store, page, figures):
    panel = LabPanel(page, server)
    with watching(server.store) as watcher:
        panel.run_file("long.jsonl").get_by_role("button", name="Run", exact=True).click()
        record = until(lambda: watcher.seen and watcher.newest, page)
        row = panel.row(record.id)
        expect(row).to_have_attribute("data-status", "in_progress", timeout=60_000)
        until(lambda: watcher.newest.request_counts.completed > 0, page, timeout=60)
        expect(row).to_contain_text(re.compile(r"\d left|h \d+ min left|s left"))
        expect(page.locator(".vb-Status")).to_contain_text(re.compile(r"1 batch in progress · [\d.,]+ tokens/s"))
        panel.press("Input").table(2000)
        page.set_viewport_size({"width": 1280, "height": 800})
        page.screenshot(path=SCREENSHOTS / "panel_running.png")
        # JupyterLab's own list of what runs has it too.
        page.locator(".lm-TabBar-tab[data-id='jp-running-sessions']").click()
        expect(page.locator("#jp-running-sessions")).to_contain_text(
            re.compile(r"in progress · [\d,]+/2,000 completed")
        )
        panel.open()
        pressed = time.time()
        panel.press("Cancel")
        expect(row).to_have_attribute("data-status", "cancelled")
        asked = watcher.first(lambda seen: seen.status in {"cancelling", "cancelled"})
    assert asked is not None
    figures.append(f"from Cancel in the panel to the store: {asked - pressed:.2f} s")
    assert asked - pressed < 10
    counts = store.batches.get(record.id).request_counts
    assert 0 < counts.completed < 2000
    label = f"{counts.completed:,} completed, {counts.failed:,} failed, {counts.left:,} not run"
    expect(row.get_by_role("img")).to_have_attribute("aria-label", label)
    expect(panel.details.get_by_role("button", name="Cancel", exact=True)).to_have_count(0)
    # What has no answer runs again; the new batch is cancelled over JupyterLab's own list.
    panel.press("Run the rest")
    again = until(lambda: newest(store).id != record.id and newest(store), page)
    assert again.to_openai().metadata == {"retry_of": record.id}
    expect(panel.row(again.id)).to_be_visible()
    store.batches.cancel(again.id)
    expect(panel.row(again.id)).to_have_attribute("data-status", "cancelled")


def test_what_a_file_would_be_refused_for_is_seen_before_and_after_it_has_run(server, store, page):
    bad = server.folder / "notebooks" / "bad.jsonl"
    write_requests(bad, ["a", "b", "c"])
    lines = bad.read_text().splitlines()
    bad.write_text("\n".join([lines[0], "no JSON", lines[0], HOSTILE]) + "\n")
    panel = LabPanel(page, server)
    page.locator(".jp-SideBar .lm-TabBar-tab[data-id='filebrowser']").click()
    page.locator(".jp-DirListing-item >> text=bad.jsonl").click(button="right")
    page.locator(".lm-Menu-itemLabel", has_text="Run as Batch…").click()
    dialog = page.locator(".jp-Dialog")
    expect(dialog).to_contain_text("It would be refused.")
    expect(dialog.locator("li")).to_contain_text([re.compile("^refused line 2: invalid_json_line"), "line 3", "line 4"])
    page.screenshot(path=SCREENSHOTS / "run_dialog.png")
    dialog.get_by_role("button", name="Run", exact=True).click()
    record = until(lambda: newest(store).status == "failed" and newest(store), page)
    expect(panel.row(record.id)).to_have_attribute("data-status", "failed")
    errors = panel.details.locator(".vb-Errors li")
    expect(errors).to_contain_text([f"line {error.line}: {error.code}: {error.message}" for error in record.errors])
    panel.details.get_by_role("button", name="line 4", exact=True).click()
    panel.table(4)
    expect(page.locator(".vb-Table-line:visible")).to_contain_text(f"line: {HOSTILE}")


def test_text_of_models_and_names_of_requests_are_shown_as_text(server, store, page):
    record = finished(store, [HOSTILE, "b"], [HOSTILE, "b"])
    panel = LabPanel(page, server)
    details = panel.choose(record.id)
    expect(details).to_contain_text(HOSTILE)
    expect(details).to_contain_text("/home/ann/reviews.ipynb")
    expect(panel.row(record.id)).to_contain_text("reviews.ipynb")
    panel.press("Output").table(2)
    panel.choose_line(1)
    expect(page.locator(".vb-Table-line:visible")).to_contain_text(f"custom_id: {HOSTILE}\n\nstatus_code: 200")
    assert page.locator("img[src=x]").count() == 0
    assert page.title() != "owned"


def test_a_batch_is_taken_into_the_notebook_and_its_id_onto_the_clipboard(server, store, page):
    record = finished(store, ["a"], ["A"])
    write_notebook(server, "insert.ipynb", ["1 + 1"])
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel = LabPanel(page, server, "insert.ipynb")
    expect(page.locator(".jp-Notebook .jp-CodeCell")).to_have_count(1)
    panel.choose(record.id)
    panel.press("Insert %vbatch attach").press("Insert OpenAI code").press("Copy id")
    cells = page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-editor")
    expect(cells).to_have_count(3)
    expect(cells.nth(1)).to_contain_text(f"%vbatch attach {record.id}")
    expect(cells.nth(2)).to_contain_text(f'client.batches.retrieve("{record.id}")')
    assert until(lambda: page.evaluate("navigator.clipboard.readText()"), page) == record.id


def test_a_file_of_fifty_thousand_lines_is_read_page_by_page_in_the_dark_theme(server, store, page, settings):
    count = 50_000
    settings("@jupyterlab/apputils-extension:themes", {"theme": "JupyterLab Dark"})
    record = finished(store, [f"row-{n}" for n in range(count)], [f"Answer {n}" for n in range(count)])
    panel = LabPanel(page, server)
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    panel.choose(record.id)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    panel.press("Output").table(count)
    panel.choose_line(1)
    page.mouse.wheel(0, 24 * count)
    panel.choose_line(12)
    expect(page.locator(".vb-Table-line:visible")).to_contain_text(re.compile(r"response: Answer 49\d\d\d"))
    pages = [url for url in requests if "/lines?" in url]
    assert 2 <= len(pages) <= 8, pages
    page.screenshot(path=SCREENSHOTS / "panel_dark.png")


def test_a_jsonl_file_opens_as_a_table(server, page):
    panel = LabPanel(page, server)
    page.locator(".jp-SideBar .lm-TabBar-tab[data-id='filebrowser']").click()
    page.locator(".jp-DirListing-item >> text=long.jsonl").dblclick()
    panel.table(2000)
    panel.choose_line(1)
    expect(page.locator(".vb-Table-line:visible")).to_contain_text("prompt: Count to 0.")


def test_ten_thousand_batches_are_scrolled_and_walked_through_with_the_keyboard(server, store, page, figures):
    add_ended_batches(store, 10_000)
    total = store.batches.count()
    panel = LabPanel(page, server)
    box = panel.node.get_by_role("listbox")
    expect(panel.node.locator(".vb-Batches h2")).to_contain_text(f"{total:,}")
    frames = page.evaluate(
        """async () => {
          const box = document.querySelector('#vbatch-batches [role=listbox]');
          const times = [];
          let last = performance.now();
          for (let step = 0; step < 120; step++) {
            box.scrollTop += 600;
            await new Promise(requestAnimationFrame);
            const now = performance.now();
            times.push(now - last);
            last = now;
          }
          return times.sort((a, b) => a - b);
        }"""
    )
    rows = box.get_by_role("option")
    assert rows.count() < 60
    until(
        lambda: page.evaluate(
            f"""() => {{
              const box = document.querySelector('#vbatch-batches [role=listbox]');
              box.scrollTop = box.scrollHeight;
              return box.firstElementChild.offsetHeight >= 62 * {total};
            }}"""
        ),
        page,
        timeout=60,
    )
    assert rows.count() < 60
    figures.append(
        f"scrolling {total:,} batches: a frame takes {frames[60]:.0f} ms, one in twenty over {frames[114]:.0f}"
    )
    box.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    expect(rows.and_(page.locator("[aria-selected=true]"))).to_have_attribute("aria-posinset", "2")
    assert box.get_attribute("aria-activedescendant") == f"vb-{store.batches.list(limit=2).data[1].id}"
    page.keyboard.press("End")
    expect(rows.and_(page.locator("[aria-selected=true]"))).to_have_attribute("aria-posinset", str(total))


def test_the_panel_says_that_the_server_is_gone_and_recovers_when_it_is_back(server, store, page, figures):
    panel = LabPanel(page, server)
    line = panel.node.locator(".vb-Connection")
    # JupyterLab says it too, over everything.
    dialog = page.locator(".jp-Dialog")
    page.add_locator_handler(dialog, dialog.locator("button").last.click)
    server.kill()
    expect(line).to_have_attribute("data-connection", "lost")
    expect(line).to_contain_text("The server does not answer")
    page.screenshot(path=SCREENSHOTS / "server_lost.png")
    # Clicked while it is still gone: once it is back, the panel may have found it before a click arrives.
    with page.expect_event("requestfailed", lambda request: "/vbatch/events" in request.url):
        line.get_by_role("button", name="Try now").click()
    record = finished(store, ["a"], ["A"])
    server.start()
    back = time.time()
    expect(line).to_have_attribute("data-connection", "live", timeout=40_000)
    figures.append(f"the server is back: the panel is live after {time.time() - back:.2f} s")
    expect(panel.row(record.id)).to_have_attribute("data-status", "completed")


def test_a_panel_that_is_not_seen_asks_for_nothing(server, page, settings):
    settings("vbatch-jupyter:plugin", {"statusBar": False})
    panel = LabPanel(page, server)
    page.locator(".jp-SideBar .lm-TabBar-tab[data-id='filebrowser']").click()
    expect(panel.node).to_be_hidden()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.wait_for_timeout(3000)
    assert [url for url in requests if "/vbatch/" in url] == []
    expect(page.locator(".vb-Status")).to_have_count(0)
    panel.open()
    assert [url for url in requests if "/vbatch/events" in url]


def add_ended_batches(store: Store, count: int) -> None:
    """Put batches into the store that have ended, all at once: each by itself would take a minute."""
    record = finished(store, ["a"], ["A"])
    assert content(store, record.output_file_id)

    def insert(connection: sqlite3.Connection) -> None:
        names = [row["name"] for row in connection.execute("PRAGMA table_info(batch)") if row["name"] != "number"]
        taken = ", ".join("'batch_' || lower(hex(randomblob(16)))" if name == "id" else name for name in names)
        connection.execute(
            f"WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < {count}) "
            f"INSERT INTO batch ({', '.join(names)}) SELECT {taken} FROM batch, counted WHERE id = ?",
            (record.id,),
        )

    store.database.write(insert)
