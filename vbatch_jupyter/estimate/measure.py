"""Find out what a batch would ask and compute, without running anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.estimate import prices
from vbatch_jupyter.estimate.fitting import CountTokens, too_long
from vbatch_jupyter.estimate.report import DryRun, Measured
from vbatch_jupyter.planning.plan import plan as plan_requests
from vbatch_jupyter.protocol.endpoints import Endpoint, endpoint_of
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.protocol.lines import decode_request_line
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.protocol.validation import validate

COUNTED_REQUESTS = 2_000
"""How many requests have their tokens counted; of more requests, an evenly spread sample."""

_COMPARED_PAIRS = 5_000
_SHOWN_REQUESTS = 3


def estimate(
    lines: Iterable[bytes],
    *,
    model: str,
    endpoint: str,
    target: str | None = None,
    find_known: Callable[[LineIndex, Callable[[int], bytes], bytearray], int] = lambda *_: 0,
    count_tokens: CountTokens | None = None,
    measured: Sequence[Measured] = (),
    max_model_len: int | None = None,
) -> DryRun:
    """Find out what a batch would do.

    Parameters
    ----------
    lines
        Of its input file.
    model, endpoint, target
        Where its requests would go.
    find_known
        Called with the index, a function that reads a line, and one byte for each request, which it sets to 1 where
        the answer is known; gives their number.
    count_tokens
        Returns the prompt tokens of each of some bodies; None if no engine can.
    measured
        Batches that were measured, newest first.
    max_model_len
        The most tokens that the model takes; None if that is not known.

    Raises
    ------
    BadRequestError
        The batch is not valid, or the price list in Jupyter's configuration directory is not valid.
    """
    with tempfile.TemporaryFile() as file:
        file.writelines(lines)
        index, found = _validated(file, endpoint)
        notes = list(found)

        def read(position: int) -> bytes:
            return os.pread(file.fileno(), index.lengths[position], index.offsets[position])

        def body(position: int) -> dict[str, Any]:
            return decode_request_line(read(position)).body

        served = endpoint_of(endpoint)

        finished = bytearray(len(index))
        reused = 0 if target is not None else find_known(index, read, finished)
        plan = plan_requests(index, finished)
        counted = _spread(len(index), COUNTED_REQUESTS)
        tokens = None
        if count_tokens is not None:
            token_counts = count_tokens([served.countable(body(position)) for position in counted])
            tokens = round(sum(token_counts) * len(index) / len(counted))
            if max_model_len is not None:
                sizes = zip(index.lengths, index.offsets, strict=True)
                long = too_long(file, sizes, count_tokens=count_tokens, max_model_len=max_model_len)
                notes += [] if long is None else [long]
        first = [decode_request_line(read(position)) for position in range(min(_SHOWN_REQUESTS, len(index)))]
        bodies = {line.custom_id: line.body for line in first}
        return DryRun(
            model=model,
            endpoint=endpoint,
            target=target,
            requests=bodies,
            total=len(index),
            reused=reused,
            duplicates=0 if target is not None else sum(map(len, plan.followers.values())),
            deterministic=sum(index.deterministic),
            shared_prefix=_shared_prefix(served, plan.order, body),
            prompt_tokens=tokens,
            counted=len(counted),
            max_output_tokens=next(filter(None, map(served.output_limit, bodies.values())), None),
            measured=measured,
            notes=notes,
            price_list=prices.load(),
        )


def _validated(file: BinaryIO, endpoint: str) -> tuple[LineIndex, Sequence[str]]:
    result = validate(file, endpoint=endpoint, profile=PROFILES["local"])
    if result.errors:
        error = result.errors[0]
        raise BadRequestError(f"Line {error.line}: {error.message}", param=error.param, code=error.code)
    return result.index, result.notes


def _spread(total: int, most: int) -> Sequence[int]:
    return range(total) if total <= most else [number * total // most for number in range(most)]


def _shared_prefix(endpoint: Endpoint, order: Sequence[int], body: Callable[[int], dict[str, Any]]) -> float:
    def prompt(place: int) -> str:
        return "\n".join(text for _, text in endpoint.turns(body(order[place])))

    shared = length = 0
    for place in _spread(len(order), _COMPARED_PAIRS):
        text = prompt(place)
        length += len(text)
        if place:
            shared += len(os.path.commonprefix([prompt(place - 1), text]))  # noqa: RUF071 - characters are meant
    return shared / length if length else 0.0
