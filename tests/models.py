"""The small model of tests and benchmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def make_tiny_model(folder: Path) -> Path:
    """Make a model of two small random layers in a process of its own: it imports what no test needs to."""
    script = Path(__file__).with_name("engine") / "tiny_model.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder
