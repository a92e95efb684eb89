"""``%vbatch`` and ``%%vbatch``."""

from vbatch_jupyter.magics.completion import Completer
from vbatch_jupyter.magics.verbs import VBatchMagics

__all__ = ["Completer", "VBatchMagics"]
