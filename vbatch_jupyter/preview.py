"""What a batch would ask, compute and cost, without running anything."""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from vbatch_jupyter.errors import BadRequestError, FrameError
from vbatch_jupyter.kernel import Kernel
from vbatch_jupyter.planning.plan import plan as plan_requests
from vbatch_jupyter.protocol import prices
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.protocol.lines import parse_request_line
from vbatch_jupyter.protocol.prefix import prompt_text
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.protocol.validation import validate

if TYPE_CHECKING:
    import pandas as pd

COUNTED_REQUESTS = 2_000
"""How many requests have their tokens counted; of more, so many that are spread evenly."""

_COMPARED_PAIRS = 5_000
_LOOKED_AT_BATCHES = 20
_SHOWN_REQUESTS = 3
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_EMBEDDINGS = "/v1/embeddings"


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """How fast an engine has answered a batch.

    Parameters
    ----------
    tokens_per_second
        Prompt and generation tokens together.
    output_tokens
        Generated for each request, on average.
    batch_id
        The batch in which that was measured.
    """

    tokens_per_second: float
    output_tokens: float
    batch_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What the batch would cost at one service with one of its models, in US dollars."""

    service: str
    model: str
    dollars: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a batch would do.

    Parameters
    ----------
    model, endpoint, target
        Where its requests would go.
    requests
        Bodies of the first requests, by custom_id.
    total
        How many requests it has.
    reused
        How many answers are known from earlier batches.
    duplicates
        How many requests would take the answer of an equal one.
    shared_prefix
        What part of the prompts' text follows a beginning that the request before has too, 0 to 1.
    prompt_tokens
        Of all requests; None where no engine could count them.
    counted
        Of how many requests the tokens were counted; those of the rest are taken to be like them.
    max_output_tokens
        The limit for one answer, where the requests have one.
    rate
        How fast the engine was; None where that was not measured yet.
    price_list
        What services charge.
    """

    model: str
    endpoint: str
    target: str | None
    requests: Mapping[str, Mapping[str, Any]]
    total: int
    reused: int
    duplicates: int
    shared_prefix: float
    prompt_tokens: int | None
    counted: int
    max_output_tokens: int | None
    rate: Rate | None
    price_list: Mapping[str, prices.ServicePrices]

    @property
    def to_run(self) -> int:
        """How many requests the engine would be asked."""
        return self.total - self.reused - self.duplicates

    @property
    def output_tokens(self) -> float | None:
        """Tokens of one answer: as in the measured batch, but within the limit; else the limit; None without both."""
        if self.endpoint == _EMBEDDINGS:
            return 0.0
        limits = [self.max_output_tokens, None if self.rate is None else self.rate.output_tokens]
        return min((tokens for tokens in limits if tokens is not None), default=None)

    @property
    def seconds(self) -> float | None:
        """How long it would take here at the measured rate; None where something of that is not known."""
        if self.rate is None or self.prompt_tokens is None or self.target is not None:
            return None
        output = self.output_tokens or 0
        return self.to_run * (self.prompt_tokens / self.total + output) / self.rate.tokens_per_second

    @property
    def costs(self) -> Sequence[Cost]:
        """What it would cost at each service with each model that answers such requests, the cheapest first."""
        if self.prompt_tokens is None or self.output_tokens is None:
            return ()
        return sorted(
            (
                Cost(service, model, table.cost(model, self.prompt_tokens, self.total * self.output_tokens))
                for service, table in self.price_list.items()
                if self.target in {None, service}
                for model, price in table.models.items()
                if (price.output is None) == (self.endpoint == _EMBEDDINGS)
            ),
            key=lambda cost: cost.dollars,
        )

    def __repr__(self) -> str:
        from vbatch_jupyter.widgets.preview import text

        return text(self)

    def _repr_html_(self) -> str:
        from vbatch_jupyter.widgets.preview import html

        return html(self)


def dry_run(
    kernel: Kernel,
    df: pd.DataFrame,
    template: str,
    *,
    model: str | None = None,
    target: str | None = None,
    sample: int | None = None,
    fresh: bool = False,
    **options: Any,
) -> DryRun:
    """Find out what a batch of a frame would do; nothing is run, and nothing is written into the store.

    Parameters
    ----------
    kernel
        Whose engine counts the tokens, and whose store knows answers and rates.
    df, template, model, target, sample, fresh, **options
        As for `vbatch_jupyter.submit`.

    Raises
    ------
    TemplateError, FrameError, BadRequestError
        Template, frame or an argument is wrong.
    EngineNotLoadedError
        No engine is loaded, and no ``model`` was named.
    """
    from vbatch_jupyter.frames import batches as frame_batches

    df = frame_batches.sampled(df, sample)
    name = model or kernel.default_model(target)
    lines, description = frame_batches.requests_of(df, template, model=name, **options)
    if not len(df):
        raise FrameError("The DataFrame has no rows, so there is nothing to run.", param="df")
    engine = kernel.engine if kernel.engine and name in kernel.engine.served_model_names else None

    def find_known(index: LineIndex, read: Callable[[int], bytes], finished: bytearray) -> int:
        if engine is None or fresh:
            return 0
        return sum(1 for _ in kernel.store.answers.find(engine.answers_key, index, read, finished))

    return estimate(
        lines,
        model=name,
        endpoint=description.endpoint,
        target=target,
        find_known=find_known,
        # A service has its own tokenizer; that of the engine here, whatever it holds, is as near as one can come.
        count_tokens=kernel.count_tokens if (engine or (target and kernel.engine)) and kernel.counts_tokens else None,
        rate=measured_rate(kernel, name),
    )


def measured_rate(kernel: Kernel, model: str) -> Rate | None:
    """Give how fast the newest batch of a model was that asked the engine for every answer; None where there is none.

    Parameters
    ----------
    kernel
        Whose store is looked at.
    model
        The model's name.
    """
    for record in itertools.islice(kernel.batches(), _LOOKED_AT_BATCHES):
        if record.status != "completed" or record.model != model or record.target is not None or record.usage is None:
            continue
        timings = kernel.manager.batches.timings(record.id)
        came = [(timing.finished_at, timing.latency) for timing in timings]
        known = [(at, latency) for at, latency in came if at is not None and latency is not None]
        seconds = max((at for at, _ in known), default=0.0) - min((at - latency for at, latency in known), default=0.0)
        if len(known) < len(came) or seconds <= 0:
            continue
        tokens = record.usage.input_tokens + record.usage.output_tokens
        completed = record.request_counts.completed
        if tokens and completed:
            return Rate(tokens / seconds, record.usage.output_tokens / completed, record.id)
    return None


def estimate(
    lines: Iterable[bytes],
    *,
    model: str,
    endpoint: str,
    target: str | None = None,
    find_known: Callable[[LineIndex, Callable[[int], bytes], bytearray], int] = lambda *_: 0,
    count_tokens: Callable[[Sequence[bytes]], Sequence[int]] | None = None,
    rate: Rate | None = None,
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
        Gives the prompt tokens of each of some bodies; None where no engine can.
    rate
        How fast the engine was.

    Raises
    ------
    BadRequestError
        The batch would not validate, or Jupyter's configuration directory has a price list that is none.
    """
    with tempfile.TemporaryFile() as file:
        file.writelines(lines)
        index = _index_of(file, endpoint)

        def read(position: int) -> bytes:
            return os.pread(file.fileno(), index.lengths[position], index.offsets[position])

        def body(position: int) -> bytes:
            return bytes(parse_request_line(read(position)).body)

        finished = bytearray(len(index))
        reused = 0 if target is not None else find_known(index, read, finished)
        plan = plan_requests(index, finished)
        counted = _spread(len(index), COUNTED_REQUESTS)
        tokens = None
        if count_tokens is not None:
            found = count_tokens([_countable(endpoint, body(position)) for position in counted])
            tokens = round(sum(found) * len(index) / len(counted))
        first = [parse_request_line(read(position)) for position in range(min(_SHOWN_REQUESTS, len(index)))]
        bodies = {line.custom_id: msgspec.json.decode(bytes(line.body)) for line in first}
        return DryRun(
            model=model,
            endpoint=endpoint,
            target=target,
            requests=bodies,
            total=len(index),
            reused=reused,
            duplicates=0 if target is not None else sum(map(len, plan.followers.values())),
            shared_prefix=_shared_prefix(plan.order, body),
            prompt_tokens=tokens,
            counted=len(counted),
            max_output_tokens=next(
                (known[key] for known in bodies.values() for key in _LIMITS if known.get(key)), None
            ),
            rate=rate,
            price_list=prices.load(),
        )


def _index_of(file: BinaryIO, endpoint: str) -> LineIndex:
    result = validate(file, endpoint=endpoint, profile=PROFILES["local"])
    if result.errors:
        error = result.errors[0]
        raise BadRequestError(f"Line {error.line}: {error.message}", param=error.param, code=error.code)
    return result.index


def _spread(total: int, most: int) -> Sequence[int]:
    return range(total) if total <= most else [number * total // most for number in range(most)]


def _countable(endpoint: str, raw: bytes) -> bytes:
    """Make of any request one whose prompt tokens an engine can count: a chat or a completion."""
    body = msgspec.json.decode(raw)
    # Without the model's name: that of a service is none of the engine's.
    kept = {key: body[key] for key in ("messages", "prompt", "tools", "chat_template_kwargs") if key in body}
    if endpoint == _EMBEDDINGS:
        kept["prompt"] = body["input"]
    elif endpoint == "/v1/responses":
        opening = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
        kept["messages"] = [*opening, {"role": "user", "content": body["input"]}]
        kept.pop("tools", None)  # they are shaped otherwise there
    return msgspec.json.encode(kept)


def _shared_prefix(order: Sequence[int], body: Callable[[int], bytes]) -> float:
    shared = length = 0
    for place in _spread(len(order), _COMPARED_PAIRS):
        text = prompt_text(msgspec.json.decode(body(order[place])))
        length += len(text)
        if place:
            before = prompt_text(msgspec.json.decode(body(order[place - 1])))
            shared += len(os.path.commonprefix([before, text]))  # noqa: RUF071 - characters are meant
    return shared / length if length else 0.0
