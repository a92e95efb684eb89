"""A dry run of a frame: the session's engine counts its tokens, and its store knows answers and rates."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.estimate.measure import estimate
from vbatch_jupyter.estimate.report import DryRun, Rate
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.store.sidecars import find_answers

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
    model = str(requests.ask.model)
    engine = session.engine if session.engine and model in session.engine.served_model_names else None

    def find_known(index: LineIndex, read: Callable[[int], bytes], finished: bytearray) -> int:
        if engine is None or ask.fresh:
            return 0
        return sum(1 for _ in find_answers(session.store, engine.answers_key, index, read, finished))

    return estimate(
        requests.lines,
        model=model,
        endpoint=requests.description.endpoint,
        target=ask.target,
        find_known=find_known,
        # A service has its own tokenizer; the tokenizer of the engine here is the best estimate.
        count_tokens=session.count_tokens
        if (engine or (ask.target and session.engine)) and session.counts_tokens
        else None,
        rate=measured_rate(session, model),
    )


def measured_rate(session: Session, model: str) -> Rate | None:
    """Return the speed of the newest batch of a model that asked the engine for every answer, or None.

    Parameters
    ----------
    session
        Whose store is looked at.
    model
        The model's name.
    """
    for record in itertools.islice(session.batches(), _LOOKED_AT_BATCHES):
        if record.status != "completed" or record.model != model or record.target is not None or record.usage is None:
            continue
        timings = session.manager.batches.timings(record.id)
        came = [(timing.finished_at, timing.latency) for timing in timings]
        timed = [(at, latency) for at, latency in came if at is not None and latency is not None]
        seconds = max((at for at, _ in timed), default=0.0) - min((at - latency for at, latency in timed), default=0.0)
        if len(timed) < len(came) or seconds <= 0:
            continue
        tokens = record.usage.input_tokens + record.usage.output_tokens
        completed = record.request_counts.completed
        if tokens and completed:
            return Rate(tokens / seconds, record.usage.output_tokens / completed, record.id)
    return None
