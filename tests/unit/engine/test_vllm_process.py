"""What starting vLLM chooses, as far as it needs no vLLM."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import pytest

from vbatch_jupyter.engine.vllm import child
from vbatch_jupyter.engine.vllm import process as vllm_process
from vbatch_jupyter.engine.vllm.answers_key import answers_key


@pytest.mark.parametrize("chosen", [{}, {"VLLM_CPU_NUM_OF_RESERVED_CPU": "1"}, {"VLLM_CPU_OMP_THREADS_BIND": "0"}])
@pytest.mark.parametrize("cores", [2, 4, 5])
def test_few_cores_compute_all_unless_somebody_has_chosen(
    monkeypatch: pytest.MonkeyPatch, cores: int, chosen: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    expected = {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"} if cores <= 4 and not chosen else {}
    assert vllm_process.all_of_few_cores(chosen) == expected


@dataclasses.dataclass
class Adapter:
    name: str
    path: str


@pytest.mark.parametrize("flag", ["model", "lora_modules", "tokenizer", "generation_config"])
def test_answers_are_not_reused_when_files_that_decide_them_were_written_again(tmp_path: Path, flag: str) -> None:
    folders = {name: tmp_path / name for name in ("model", "lora_modules", "tokenizer", "generation_config", "media")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "weights").write_text("old")
    arguments = argparse.Namespace(
        chat_template=None,
        lora_modules=[Adapter("tuned", str(folders["lora_modules"]))],
        tokenizer=str(folders["tokenizer"]),
        generation_config=str(folders["generation_config"]),
        allowed_local_media_path=str(folders["media"]),
    )
    before = answers_key(str(folders["model"]), arguments)
    (folders["media"] / "weights").write_text("these decide nothing")
    assert answers_key(str(folders["model"]), arguments) == before
    (folders[flag] / "weights").write_text("trained once more")
    assert answers_key(str(folders["model"]), arguments) != before


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ({}, {}, {"GLOO_SOCKET_IFNAME": "lo"}),
        ({"distributed_executor_backend": "mp"}, {}, {"GLOO_SOCKET_IFNAME": "lo"}),
        ({}, {"GLOO_SOCKET_IFNAME": "eth1"}, {"GLOO_SOCKET_IFNAME": "eth1"}),
        ({"distributed_executor_backend": "ray"}, {}, {}),
        ({"nnodes": 2, "distributed_executor_backend": "mp"}, {}, {}),
        ({"data_parallel_address": "10.0.0.1"}, {}, {}),
        ({"data_parallel_backend": "ray"}, {}, {}),
    ],
)
def test_workers_listen_on_loopback_unless_they_are_on_several_machines(
    arguments: dict[str, object], environment: dict[str, str], expected: dict[str, str]
) -> None:
    usual = {"nnodes": 1, "distributed_executor_backend": None, "data_parallel_backend": "mp"}
    chosen = argparse.Namespace(**usual | {"data_parallel_address": None} | arguments)
    assert child.loopback_of(chosen, environment) == expected
