"""Which answers of an ended batch do not fit a pydantic class, which checks more than a JSON schema.

Only the kernel that has the class can find them. They are in a file next to the batch's output file and go with it, so
that a Jupyter server's retry runs them again too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import msgspec

from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.store.files import Files


def keep(files: Files, record: BatchRecord, misfits: Mapping[str, str]) -> None:
    """Keep the reasons why answers do not fit, by custom_id, and replace the earlier ones.

    Parameters
    ----------
    files
        The store's.
    record
        A batch that has ended.
    misfits
        The reasons.

    Raises
    ------
    StoreFullError
        There is no room.
    """
    if record.output_file_id is None or find(files, record) == misfits:
        return
    files.keep_sidecar(record.output_file_id, "misfits", msgspec.json.encode(misfits))


def find(files: Files, record: BatchRecord) -> dict[str, str]:
    """Return the reasons by custom_id; nothing if none were kept."""
    with contextlib.suppress(OSError, ValueError):
        kept = files.sidecar(record.output_file_id or "", "misfits").read_bytes()
        return msgspec.json.decode(kept, type=dict[str, str])
    return {}
