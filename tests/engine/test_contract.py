"""What happens when vLLM has changed: each name of the contract is taken away in turn."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.breaking import breaks
from tests.engine.scripts import ROOT, json_of
from tests.kernels import NotebookKernel
from tools.compare_vllm import missing
from vbatch_jupyter.engine.vllm import installed
from vbatch_jupyter.engine.vllm.contract import CONTRACT, CORE_FAILED, ELSEWHERE, Touch

pytestmark = pytest.mark.timeout(900)

BREAKS = [(use, touch, name) for use, value in CONTRACT.items() for touch in value.touches for name, _ in breaks(touch)]
NAMES = [
    name
    for touch in CONTRACT["scheduler"].touches
    for name in touch.names
    if name.startswith(("Scheduler.", "Request.")) and name != "Scheduler.schedule()"
]
OPTIONAL = [name for name, use in CONTRACT.items() if use.without is not None]


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    found: dict[str, Any] = json_of("breaking.py")
    return found


@pytest.fixture(scope="module")
def played(tiny_model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json_of("scheduling.py", str(tiny_model), *NAMES)
    return found


def named(touch: Touch, name: str) -> str:
    if name in touch.texts:
        return f"{name} in {touch.module}"
    return f"{touch.module}.{name.partition('(')[0]}" if name else touch.module


def test_the_vllm_that_is_installed_has_all_and_to_find_that_out_takes_little(said, figures):
    assert said["whole"] == said["again"] == []
    figures.append(f"the contract was compared in {said['seconds'] * 1000:.1f} ms")


@pytest.mark.parametrize(("use", "touch", "name"), BREAKS, ids=lambda part: getattr(part, "module", part))
def test_what_is_missing_is_told_by_name_and_only_what_is_necessary_ends_a_load(said, use, touch, name):
    notes, lacking = said[f"{use} {touch.module} {name}"], f"vLLM 0.32.0 has no {named(touch, name)}"
    sharing = [
        other
        for other in CONTRACT.values()
        for place in other.touches
        if place.module == touch.module and (not name or name in place.names + place.texts)
    ]
    necessary = [other.purpose for other in sharing if other.without is None]
    if necessary:
        sentence = (
            f"{lacking}, which is needed to {necessary[0]}: install a version that works, 0.32 or 0.33, "
            "with `pip install 'vllm>=0.32,<0.34'`."
        )
        assert notes == ["failed", sentence]
    else:
        assert notes == [f"{lacking}: {other.without}" for other in sharing]


@pytest.mark.parametrize(("use", "touch", "name"), BREAKS, ids=lambda part: getattr(part, "module", part))
def test_the_sources_of_a_release_are_searched_for_each_name(use, touch, name):
    folder = installed.folder()
    assert folder is not None
    if touch.module.startswith("torch"):
        pytest.skip("not part of vLLM's sources")
    last = re.split(r"[.(]", name.partition("(")[0])[-1] if name not in touch.texts else name

    def changed(asked: str) -> str | None:
        source = installed.source(asked, folder)
        if asked != touch.module or source is None:
            return source
        return re.sub(rf"(?<!\w){re.escape(last)}(?!\w)", "gone", source) if name else None

    found = missing(dataclasses.replace(CONTRACT[use], touches=(touch,)), changed)
    assert named(touch, name) in [one.partition("(")[0] for one in found]


def test_the_sources_that_are_installed_have_all_that_is_used_here_and_elsewhere():
    folder = installed.folder()
    assert folder is not None
    read = functools.partial(installed.source, vllm=folder)
    assert [name for use in (*CONTRACT.values(), *ELSEWHERE.values()) for name in missing(use, read)] == []


def test_a_chat_begins_alone_and_never_in_two_steps_one_after_the_other(played):
    steps = played["whole"]["steps"]
    assert len(played["whole"]["finished"]) == 9
    alone = [place for place, step in enumerate(steps) if all(name.startswith("chat") for name in step)]
    assert steps[2] == ["chat-0"]  # it came after two steps, when the batch had all slots
    assert len(alone) == 2
    assert alone[1] > alone[0] + 1


@pytest.mark.parametrize("how", ["v2", "interval"])
def test_a_chat_begins_beside_a_batch_where_vllm_times_steps_itself(played, how):
    steps = played[how]["steps"]
    assert steps[2] == ["batch-0", "batch-1", "batch-2", "chat-0"]
    assert all(any(name.startswith("batch") for name in step) for step in steps)
    assert (len(played[how]["finished"]), played[how]["is_on"]) == (9, True)


@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_that_raises_in_a_step_turns_itself_off_and_all_are_answered(played, name):
    played_without = played["without"][name]
    assert played_without["is_on"] is False
    assert played_without["finished"] == played["whole"]["finished"]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory, new_kernel: Callable[[Path], NotebookKernel]) -> NotebookKernel:
    kernel = new_kernel(tmp_path_factory.mktemp("contract") / "store")
    kernel.run(f"""
import json, os, sys, pandas as pd
sys.path.insert(0, {str(ROOT)!r})
os.environ["PYTHONPATH"] = {str(ROOT)!r}
from tests.engine.breaking import ask_too_much
from vbatch_jupyter.engine.vllm import installed
from vbatch_jupyter.engine.vllm.routes import RenderingExecutor
from vbatch_jupyter.session.session import current
def chat():
    body = {{"model": "tiny", "messages": [{{"role": "user", "content": "Say hello."}}], "max_tokens": 4}}
    async def call():
        response = await current().engine.request("POST", "/v1/chat/completions", json.dumps(body).encode())
        return response.status, json.loads(await response.read())["usage"]["completion_tokens"]
    return current()._thread.call(call(), timeout=100)
def show(value):
    print("JSON" + json.dumps(value))
""").checked()
    return kernel


def test_a_scheduler_that_raises_in_an_engine_does_not_end_it(kernel, tiny_model):
    scheduler = "--scheduler-cls tests.engine.broken_scheduler.BrokenScheduler --max-num-seqs 8 --max-num-active-seqs 8"
    flags = f"--served-model-name tiny --max-model-len 512 --kv-cache-memory-bytes 200M {scheduler}"
    kernel.run(f"%vbatch load {tiny_model} {flags}", timeout=300).checked()
    before = [process.pid for process in kernel.engine_processes()]
    cell = kernel.run(
        """
import time
batch = vb.submit(pd.DataFrame({"n": range(60)}), "Count to {{ n }}", max_tokens=100, ignore_eos=True)
while not current().engine.stats().waiting:
    time.sleep(0.01)
chats = [chat(), chat()]
batch.wait(300)
show([batch.status, batch.request_counts.completed, chats, current().engine.log_path.read_text()])
""",
        timeout=400,
    ).checked()
    status, completed, chats, log = json.loads(cell.stdout.rpartition("JSON")[2])
    assert (status, completed, chats) == ("completed", 60, [[200, 4]] * 2)
    assert [process.pid for process in kernel.engine_processes()] == before
    assert log.count("A chat waits for batches from here on") == 1
    assert "unexpected keyword argument 'drop_stale_output'" in log


def test_a_load_that_fails_in_vllms_process_tells_the_reason_from_its_log(kernel, tiny_model):
    cell = kernel.run(f"%vbatch load {tiny_model} --kv-cache-memory-bytes 1K", timeout=300)
    told = f"UsageError: The engine for '{tiny_model}' did not start: ValueError: No available memory "
    assert cell.stderr.startswith(told)
    assert CORE_FAILED not in cell.stderr


def test_an_engine_does_without_all_that_is_optional_and_says_so_once(kernel, tiny_model):
    flags = "--served-model-name tiny --max-model-len 512 --kv-cache-memory-bytes 200M"
    kernel.run(f"ask_too_much(*{OPTIONAL!r})").checked()
    shown = kernel.run(f"%vbatch load {tiny_model} {flags}", timeout=300).checked().stdout
    notes = [line for line in shown.splitlines() if line.startswith("vLLM 0.32.0 has no vllm.v1.engine.not_there_for_")]
    assert [note.partition(": ")[2] for note in notes] == [CONTRACT[name].without for name in OPTIONAL]
    cell = kernel.run("""
out = vb.run(pd.DataFrame({"n": range(20)}), "Say {{ n }}", max_tokens=4, ignore_eos=True)
engine = current().engine
show([out["error"].isna().all().item(), chat(), engine._routes is None, engine.stats().generation_tokens,
      type(engine._llm.renderer._executor._inner).__name__, engine._llm.vllm_config.scheduler_config.scheduler_cls])
""").checked()
    assert json.loads(cell.stdout.rpartition("JSON")[2]) == [True, [200, 4], True, 0, "ThreadPoolExecutor", None]
    assert "has no" not in cell.stdout


def test_a_load_without_what_is_necessary_is_one_sentence(kernel, tiny_model):
    kernel.run("ask_too_much('openai_layer')").checked()
    cell = kernel.run(f"%vbatch load {tiny_model}")
    assert cell.stderr.strip() == (
        "UsageError: vLLM 0.32.0 has no vllm.v1.engine.not_there_for_openai_layer, which is needed to answer OpenAI's "
        "requests: install a version that works, 0.32 or 0.33, with `pip install 'vllm>=0.32,<0.34'`."
    )
