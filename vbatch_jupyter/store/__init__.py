"""Files, batches and their finished answers on the disk, the only source of truth; the only room with sqlite3."""

from __future__ import annotations

from vbatch_jupyter.records import Page
from vbatch_jupyter.store.disk import NewFile, allowance, within
from vbatch_jupyter.store.engines import EngineRecord
from vbatch_jupyter.store.files import Incoming
from vbatch_jupyter.store.lease import DISK_FULL_REASON, Lease
from vbatch_jupyter.store.spool import Recovered, SpoolRecord
from vbatch_jupyter.store.store import Store

__all__ = [
    "DISK_FULL_REASON",
    "EngineRecord",
    "Incoming",
    "Lease",
    "NewFile",
    "Page",
    "Recovered",
    "SpoolRecord",
    "Store",
    "allowance",
    "within",
]
