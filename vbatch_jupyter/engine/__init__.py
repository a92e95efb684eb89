"""Engines behind one port, `base.Engine`; only the vLLM files of this room import vllm."""
