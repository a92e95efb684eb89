"""Whether an engine's processes compute, with real processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.waiting import wait_for
from vbatch_jupyter.engine.vllm.work import Processes

SPINS = "while True: pass"
SLEEPS = "import time; print(flush=True); time.sleep(3600)"
STARTS_ONE_THAT_SPINS = f"import subprocess, sys; input(); subprocess.run([sys.executable, '-c', {SPINS!r}])"

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True))
        return started[-1]

    yield run
    for process in started:
        with process:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children():
                    child.kill()
            process.kill()


def test_a_process_that_computes_works_and_one_that_is_stopped_does_not(start: Start) -> None:
    process = psutil.Process(start(SPINS).pid)
    processes = Processes([process.pid])
    wait_for(lambda: processes.worked(1))
    process.suspend()
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
    # Not even for what it had computed before.
    assert not processes.worked(0)
    process.resume()
    wait_for(lambda: processes.worked(1))


def test_a_process_that_sleeps_does_not_work(start: Start) -> None:
    sleeping = start(SLEEPS)
    assert sleeping.stdout is not None
    sleeping.stdout.readline()
    processes = Processes([sleeping.pid])
    # Once for its start.
    processes.worked(0)
    assert not processes.worked(60)


def test_a_process_that_was_started_meanwhile_counts(start: Start) -> None:
    parent = start(STARTS_ONE_THAT_SPINS)
    processes = Processes([parent.pid])
    assert parent.stdin is not None
    parent.stdin.write("\n")
    parent.stdin.flush()
    wait_for(lambda: psutil.Process(parent.pid).children())
    wait_for(lambda: processes.worked(1))
    wait_for(lambda: processes.worked(1))


def test_what_has_ended_or_is_elsewhere_is_no_error(start: Start) -> None:
    ended = start("pass")
    ended.wait()
    assert Processes([]).worked(3600)
    processes = Processes([ended.pid])
    processes.kill()
