"""What is collected as doctests: every module but those that import vllm, which needs an engine and ten seconds."""

collect_ignore_glob = [
    "vbatch_jupyter/engine/vllm/*.py",
    "tests/engine/broken_scheduler.py",
    "tests/engine/slow_scheduler.py",
    "tests/engine/scheduling.py",
]
