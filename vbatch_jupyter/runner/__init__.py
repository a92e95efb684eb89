"""Feeds the engine: lease → plan → feed → spool."""

from __future__ import annotations

from vbatch_jupyter.runner.runner import Runner

__all__ = ["Runner"]
