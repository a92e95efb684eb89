"""What starting vLLM chooses, as far as it needs no vLLM."""

from __future__ import annotations

import os

import pytest

from vbatch_jupyter.engine.vllm import process as vllm_process


@pytest.mark.parametrize("chosen", [{}, {"VLLM_CPU_NUM_OF_RESERVED_CPU": "1"}, {"VLLM_CPU_OMP_THREADS_BIND": "0"}])
@pytest.mark.parametrize("cores", [2, 4, 5])
def test_few_cores_compute_all_unless_somebody_has_chosen(
    monkeypatch: pytest.MonkeyPatch, cores: int, chosen: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    expected = {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"} if cores <= 4 and not chosen else {}
    assert vllm_process.all_of_few_cores(chosen) == expected
