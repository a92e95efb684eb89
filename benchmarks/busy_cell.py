"""The speed of a batch while a cell computes, against its speed while another process computes; a tiny model.

So small a model leaves the front end in the kernel's process, and with it the interpreter's lock, the most to do. A
ratio of 1 says that a busy cell costs a batch nothing but the core that it takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.kernels import BEGIN_BATCH, NotebookKernel  # noqa: E402 - of this checkout
from tests.models import make_tiny_model  # noqa: E402 - of this checkout

ROWS = 400
PREPARE = f"""
{BEGIN_BATCH}
import subprocess, sys

BUSY = "count = 0\\nwhile not ended.is_set():\\n    for _ in range(1000): count += 1"

def idle():
    ended, begun = begin({ROWS})
    ended.wait()
    return ended.at - begun

def beside_a_busy_process():
    busy = subprocess.Popen([sys.executable, "-c", "count = 0\\nwhile True: count += 1"])
    try:
        return idle()
    finally:
        busy.kill()
        busy.wait()

def beside_a_busy_cell():
    ended, begun = begin({ROWS})
    exec(compile(BUSY, "cell", "exec"), {{"ended": ended}})
    return ended.at - begun
"""


def seconds_of(kernel: NotebookKernel, call: str) -> float:
    """Run one batch in the kernel; give its seconds."""
    text = kernel.run(f"show({call})", timeout=600).checked().stdout
    return float(json.loads(text.rpartition("JSON")[2]))


def main() -> None:
    """Measure in turns, each as often first: what else the machine does meets both alike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder, "model"))
        kernel = NotebookKernel(Path(folder, "store"))
        try:
            kernel.run("%load_ext vbatch_jupyter\nimport vbatch_jupyter as vb\n" + PREPARE).checked()
            kernel.run(f"%vbatch load {model} --max-model-len 512 --kv-cache-memory-bytes 200M").checked()
            alone = [seconds_of(kernel, "idle()") for _ in range(3)][1:]
            process, cell = list[float](), list[float]()
            for pair in range(options.pairs):
                runs = [(process, "beside_a_busy_process()"), (cell, "beside_a_busy_cell()")]
                for seconds, call in runs if pair % 2 else reversed(runs):
                    seconds.append(seconds_of(kernel, call))
        finally:
            kernel.close()
    print(f"while another process is busy, a batch has {mean(alone) / mean(process):.2f} of its speed alone")
    print(f"while a cell is busy, it has {mean(process) / mean(cell):.2f} of that ({time.strftime('%Y-%m-%d')})")


if __name__ == "__main__":
    main()
