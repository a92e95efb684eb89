"""``%vbatch`` and ``%%vbatch``."""

from vbatch_jupyter.magics.verbs import VBatchMagics

__all__ = ["VBatchMagics"]
