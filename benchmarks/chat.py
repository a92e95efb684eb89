"""2,000 one-token chats through `vb.run` and through vLLM's own `LLM.chat`, in turn, on the same model.

The model has two small random layers, so that the front end decides and not the arithmetic; ``--model demo`` takes
SmolLM2, and many times as long.
Each side runs in a process of its own with equal engine arguments; the engine's start is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vbatch_jupyter.engine.demo_model import demo_model_path

MAX_MODEL_LEN = 2048
KV_CACHE_BYTES = 2 << 30

_OURS = """
import json, sys, time
import pandas as pd
import vbatch_jupyter as vb
from vbatch_jupyter.kernel import current
count = int(sys.argv[1])
vb.load(sys.argv[2], max_model_len={length}, kv_cache_memory_bytes={kv})
df = pd.DataFrame({{"i": range(count)}})
vb.run(df.head(16), "Warm up {{{{ i }}}}", max_tokens=1)
begun = time.perf_counter()
out = vb.run(df, "Say a word about the number {{{{ i }}}}.", max_tokens=1, temperature=0)
seconds = time.perf_counter() - begun
assert out["error"].isna().all() and len(out) == count
print("FIGURE", json.dumps(seconds))
vb.unload()
"""

_PEER = """
import json, sys, time
from vllm import LLM, SamplingParams
from vbatch_jupyter.engine.vllm_arguments import parse_arguments

def main():
    count = int(sys.argv[1])
    arguments = parse_arguments(sys.argv[2], [])
    llm = LLM(model=sys.argv[2], max_model_len={length}, kv_cache_memory_bytes={kv},
              max_num_seqs=arguments.max_num_seqs, max_num_batched_tokens=arguments.max_num_batched_tokens,
              dtype=arguments.dtype, enforce_eager=arguments.enforce_eager)
    chat = lambda words: [[{{"role": "user", "content": text}}] for text in words]
    llm.chat(chat(f"Warm up {{i}}" for i in range(16)), SamplingParams(max_tokens=1), use_tqdm=False)
    begun = time.perf_counter()
    texts = chat(f"Say a word about the number {{i}}." for i in range(count))
    out = llm.chat(texts, SamplingParams(max_tokens=1, temperature=0), use_tqdm=False)
    seconds = time.perf_counter() - begun
    assert len(out) == count
    print("FIGURE", json.dumps(seconds))

if __name__ == "__main__":
    main()
"""


def measure(program: str, count: int, model: str) -> float:
    """Run one side in a process of its own; give its seconds."""
    text = program.format(length=MAX_MODEL_LEN, kv=KV_CACHE_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "side.py")
        script.write_text(text)
        environment = {**os.environ, "VBATCH_STORE": str(Path(folder, "store")), "VLLM_NO_USAGE_STATS": "1"}
        done = subprocess.run(
            [sys.executable, str(script), str(count), model],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    for line in done.stdout.splitlines():
        if line.startswith("FIGURE "):
            return float(json.loads(line.removeprefix("FIGURE ")))
    raise SystemExit(f"a side of the benchmark failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def main() -> None:
    """Run the sides in turn and print requests per second and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="tiny", help="tiny, demo, or a folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _compare(options, _folder_of(options.model, Path(folder)))


def _folder_of(model: str, made: Path) -> str:
    if model == "demo":
        return str(demo_model_path())
    if model != "tiny":
        return model
    script = Path(__file__).parents[1] / "tests/engine/tiny_model.py"
    subprocess.run([sys.executable, str(script), str(made / "tiny")], check=True, capture_output=True)
    return str(made / "tiny")


def _compare(options: argparse.Namespace, model: str) -> None:
    ours, peer = [], []
    for turn in range(options.rounds):
        ours.append(options.requests / measure(_OURS, options.requests, model))
        peer.append(options.requests / measure(_PEER, options.requests, model))
        print(f"round {turn + 1}: vb.run {ours[-1]:,.1f} requests/s, LLM.chat {peer[-1]:,.1f} requests/s", flush=True)
    ratio = statistics.median(ours) / statistics.median(peer)
    print(
        f"median of {options.rounds}: vb.run {statistics.median(ours):,.1f}, LLM.chat {statistics.median(peer):,.1f} "
        f"requests/s, ratio {ratio:.2f} ({time.strftime('%Y-%m-%d')})"
    )


if __name__ == "__main__":
    main()
