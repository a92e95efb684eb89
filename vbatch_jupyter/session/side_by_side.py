"""Two batches of the same rows side by side, and a second run of some rows that shows what differs by itself."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec.structs import replace

from vbatch_jupyter.errors import ConflictError
from vbatch_jupyter.frames.comparison import compare, refuse_other_frame
from vbatch_jupyter.frames.results import results
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.chain import lines_of
from vbatch_jupyter.manager.retry import run_again
from vbatch_jupyter.protocol.batch import BatchRecord

if TYPE_CHECKING:
    import pandas as pd

    from vbatch_jupyter.session.batch import Batch

Side: TypeAlias = tuple[BatchRecord, dict[str, Any]]
"""The batch that has the requests, and the arguments of `results` for it and its retries."""

Handle: TypeAlias = "Callable[[BatchRecord], Batch]"


def side_by_side(
    manager: Manager, first: Side, second: Side, *, names: tuple[str, str], handle: Handle | None = None
) -> pd.DataFrame:
    """Return what `vbatch_jupyter.compare` describes.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    first, second
        The two batches.
    names
        Their names.
    handle
        Returns the handle on a batch; None for no second run.
    """
    refuse_other_frame(first[0].frame, second[0].frame)
    reads = [
        {**read, "df": None, "description": replace(read["description"], output="response")}
        for _, read in (first, second)
    ]
    return compare(
        results(**reads[0]),
        results(**reads[1]),
        custom_ids=(reads[0]["custom_ids"], reads[1]["custom_ids"]),
        names=names,
        df=first[1]["df"],
        run_again=handle and functools.partial(_run_again, manager, handle, (first[0], second[0]), reads),
    )


def _run_again(
    manager: Manager,
    handle: Handle,
    roots: Sequence[BatchRecord],
    reads: Sequence[dict[str, Any]],
    custom_ids: Sequence[str],
) -> list[pd.DataFrame]:
    batches: list[Batch] = []
    try:
        # Both at once: the engine then has other requests at the same time than it had in the first run.
        batches.extend(handle(run_again(manager, root, custom_ids)) for root in roots)
        for batch in batches:
            batch.wait()
    except BaseException:
        for batch in batches:
            with contextlib.suppress(ConflictError):  # it has ended
                batch.cancel()
        raise
    return [_take(manager, batch.id, read, custom_ids) for batch, read in zip(batches, reads, strict=True)]


def _take(manager: Manager, batch_id: str, read: dict[str, Any], custom_ids: Sequence[str]) -> pd.DataFrame:
    """Read the result of a second run, and delete its files, so that no later batch reuses these answers."""
    ended = manager.batches.retrieve(batch_id)
    lines = list(lines_of(manager, [ended]))
    for file_id in filter(None, (ended.input_file_id, ended.output_file_id, ended.error_file_id)):
        manager.files.delete(file_id)
    # A row that could not be rendered has no line and so an error, as in the first run.
    description = replace(read["description"], rows=len(custom_ids), unrendered={})
    return results(lines, description, custom_ids=custom_ids, schema=read["schema"])
