"""Make a model of two small random layers with the demo model's tokenizer; it answers nonsense, and loads fast.

``python tests/engine/tiny_model.py FOLDER``
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from vbatch_jupyter.engine.demo_model import demo_model_path


def make(folder: Path) -> None:
    """Write the model's folder."""
    demo = demo_model_path()
    config = LlamaConfig.from_pretrained(demo)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 128, 256, 2
    # vLLM's attention on CPUs has no kernel for heads of less than 32.
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 64
    folder.mkdir(parents=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    for path in demo.iterdir():
        if path.name != "config.json" and path.suffix not in {".safetensors", ".bin"}:
            shutil.copy(path, folder / path.name)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
