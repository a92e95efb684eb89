"""The demo models, made and found for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from vbatch_jupyter.engine.demo_model import CHAT_MODEL, demo_embedding_model_path, demo_model_path
from vbatch_jupyter.errors import EngineLoadError

FIND = """
import sys
from vbatch_jupyter.engine.demo_model import demo_model_path
path = demo_model_path(lambda line: print(line, flush=True))
assert not {"torch", "transformers"} & set(sys.modules)
print("path", path)
"""

RENDER = """
import sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(tokenizer.apply_chat_template(
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    add_generation_prompt=True, tokenize=False,
))
"""


def test_two_processes_that_ask_at_once_make_one_whole_folder(tmp_path):
    environment = {**os.environ, "JUPYTER_DATA_DIR": str(tmp_path)}
    leftover = tmp_path / "vbatch-models" / f".{CHAT_MODEL}-killed"
    leftover.mkdir(parents=True)

    processes = [
        subprocess.Popen([sys.executable, "-c", FIND], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]

    folder = tmp_path / "vbatch-models" / CHAT_MODEL
    assert [process.returncode for process in processes] == [0, 0]
    assert all(output.splitlines()[-1] == f"path {folder}" for output in outputs)
    assert sum("Unpacking the weights of SmolLM2-135M-Instruct" in output for output in outputs) == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lock", CHAT_MODEL]

    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "bfloat16")
    assert config["max_position_embeddings"] == 8192
    assert "quantization_config" not in config
    rendered = subprocess.run(
        [sys.executable, "-c", RENDER, str(folder)], capture_output=True, text=True, check=True, timeout=120
    )
    assert rendered.stdout == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n\n"
    )


def test_a_folder_that_cannot_be_written_is_one_error_that_says_where_and_why(tmp_path, monkeypatch):
    (tmp_path / "vbatch-models").write_text("in the way")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))

    with pytest.raises(EngineLoadError, match=r"^The demo model could not be made in .*: FileExistsError: "):
        demo_model_path()


def test_the_embedding_model_is_found_in_its_package():
    folder = demo_embedding_model_path()

    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertModel"]
    assert (folder / "model.safetensors").stat().st_size > 80_000_000
