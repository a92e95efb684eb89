"""A dry run of a frame: the session's engine counts its tokens, and its store knows answers and rates."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.estimate.measure import estimate
from vbatch_jupyter.estimate.report import DryRun, Measured
from vbatch_jupyter.manager.time_left import work_of
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.session.session import Session

if TYPE_CHECKING:
    import pandas as pd

    from vbatch_jupyter.frames.ask import Ask

_LOOKED_AT_BATCHES = 20


def dry_run(session: Session, df: pd.DataFrame, ask: Ask) -> DryRun:
    """Find out what a batch of a frame would do; nothing is run, and nothing is written into the store.

    Parameters
    ----------
    session
        Whose engine counts the tokens, and whose store knows answers and rates.
    df, ask
        The frame, and what is asked of its rows.

    Raises
    ------
    TemplateError, FrameError, BadRequestError
        The template, the DataFrame or an argument is not valid.
    EngineNotLoadedError
        No engine is loaded, and ``model`` is not given.
    """
    requests = session.requests_of(df, ask)
    if not len(requests.df):
        raise FrameError("The DataFrame has no rows, so there is nothing to run.", param="df")
    model = requests.ask.model or "several models"
    engine = session.engine if session.engine and model in session.engine.served_model_names else None
    # A service has its own tokenizer; the tokenizer of the engine here is the best estimate.
    counting = session.engine if ask.target else engine

    def find_known(index: LineIndex, read: Callable[[int], bytes], finished: bytearray) -> int:
        if engine is None or ask.fresh:
            return 0
        return sum(1 for _ in session.store.answers.find(engine.answers_key, index, read, finished))

    found = estimate(
        requests.lines,
        model=model,
        endpoint=requests.description.endpoint,
        target=ask.target,
        find_known=find_known,
        count_tokens=session.count_tokens if counting is not None and counting.counts_tokens else None,
        measured=measured_batches(session, model, requests.description.endpoint),
        max_model_len=None if engine is None or ask.target else engine.limits.max_model_len,
    )
    return dataclasses.replace(found, notes=[*found.notes, *requests.late_notes()])


def measured_batches(session: Session, model: str, endpoint: str) -> list[Measured]:
    """Return the newest batches of a model that asked the engine for every answer, newest first.

    Parameters
    ----------
    session
        Whose store is looked at.
    model, endpoint
        What they asked.
    """
    found, key = [], None if session.engine is None else session.engine.answers_key
    for record in itertools.islice(session.batches(), _LOOKED_AT_BATCHES):
        completed, usage = record.request_counts.completed, record.usage
        if (record.status, record.model, record.endpoint, record.target) != ("completed", model, endpoint, None):
            continue
        if key is not None and record.answers_key != key:  # another engine, or other flags
            continue
        work = work_of(session.manager.batches.timings(record.id))
        # A reused answer took no time, and a refused request has no tokens.
        if usage is not None and completed == work.asked and work.seconds and not work.reused:
            lengths = usage.input_tokens / completed, usage.output_tokens / completed
            found.append(Measured(record.id, work, *lengths))
    return found
