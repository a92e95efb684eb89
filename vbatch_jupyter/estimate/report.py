"""A dry run: what a batch would ask, compute and cost, as data that draws itself."""

from __future__ import annotations

import dataclasses
import html as markup
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vbatch_jupyter.display import drawing
from vbatch_jupyter.display.progress import duration
from vbatch_jupyter.estimate.prices import ServicePrices
from vbatch_jupyter.manager.time_left import Work
from vbatch_jupyter.protocol.endpoints import endpoint_of

_SHOWN_CHARACTERS = 600
_SHOWN_COSTS = 4
_SAMPLE = 1_000
_CENT = 0.01
_INDENT = 17
_COST_HEADER = ("service", "model", "price")

_LIKE = 2
"""Numbers of requests and of tokens are alike up to this factor."""

_BUSY = 4
_FASTER, _SLOWER = 0.7, 1.5
"""A margin for the time: batches that are alike are not equal."""


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """A batch of the same engine and endpoint that was measured.

    Parameters
    ----------
    batch_id
        The batch.
    work
        What the engine did for it.
    prompt_tokens, output_tokens
        Tokens of one request, on average.
    """

    batch_id: str
    work: Work
    prompt_tokens: float
    output_tokens: float

    def seconds(self, requests: int, prompt_tokens: float, output_tokens: float) -> float | None:
        """Return how long requests would take at this batch's speed; None if they are not like its requests.

        Parameters
        ----------
        requests
            How many requests the engine would be asked.
        prompt_tokens, output_tokens
            Of one request.
        """
        asked, concurrency = self.work.asked, self.work.concurrency
        # Its speed is that of a busy engine if it was much larger than what the engine runs at once.
        is_busy = asked >= _BUSY * concurrency and requests >= concurrency
        if not (is_busy or _is_like(requests, asked)):
            return None
        lengths = ((prompt_tokens, self.prompt_tokens), (output_tokens, self.output_tokens))
        if not all(_is_like(ours, theirs) for ours, theirs in lengths):
            return None
        tokens = requests * (prompt_tokens + output_tokens)
        return self.work.seconds * tokens / (asked * (self.prompt_tokens + self.output_tokens))


def _is_like(ours: float, theirs: float) -> bool:
    return max(ours, theirs, 1) <= _LIKE * max(min(ours, theirs), 1)


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
        How many requests would share the answer of an equal request.
    deterministic
        How many requests are greedy or seeded, or ask for a vector; the others are samples.
    shared_prefix
        The part of the prompts' text that the request before has too, 0 to 1.
    prompt_tokens
        Of all requests; None if no engine could count them.
    counted
        Of how many requests the tokens were counted; the rest is extrapolated.
    max_output_tokens
        The limit for one answer, if the requests have one.
    measured
        The batches that were measured, newest first.
    notes
        What its requests ask in vain, and which are too long.
    price_list
        The prices of batch services.
    """

    model: str
    endpoint: str
    target: str | None
    requests: Mapping[str, Mapping[str, Any]]
    total: int
    reused: int
    duplicates: int
    deterministic: int
    shared_prefix: float
    prompt_tokens: int | None
    counted: int
    max_output_tokens: int | None
    measured: Sequence[Measured]
    price_list: Mapping[str, ServicePrices]
    notes: Sequence[str] = ()

    @property
    def to_run(self) -> int:
        """How many requests the engine would be asked."""
        return self.total - self.reused - self.duplicates

    @property
    def output_tokens(self) -> float | None:
        """Tokens of one answer: as in the measured batch, but within the limit; else the limit; None without both."""
        if not endpoint_of(self.endpoint).generates:
            return 0.0
        limits = [self.max_output_tokens, *(batch.output_tokens for batch in self.measured[:1])]
        return min((tokens for tokens in limits if tokens is not None), default=None)

    @property
    def seconds(self) -> tuple[float, float] | None:
        """How long it would take here, at least and at most; None if no batch like it was measured."""
        if self.prompt_tokens is None or self.target is not None:
            return None
        prompt, output = self.prompt_tokens / self.total, self.output_tokens or 0
        found = [batch.seconds(self.to_run, prompt, output) for batch in self.measured]
        times = [seconds for seconds in found if seconds is not None]
        return (_FASTER * min(times), _SLOWER * max(times)) if times else None

    @property
    def costs(self) -> Sequence[Cost]:
        """What it would cost at each service with each model that answers such requests, cheapest first."""
        if self.prompt_tokens is None or self.output_tokens is None:
            return ()
        return sorted(
            (
                Cost(service, model, table.cost(model, self.prompt_tokens, self.total * self.output_tokens))
                for service, table in self.price_list.items()
                if self.target in {None, service}
                for model, price in table.models.items()
                if (price.output is not None) == endpoint_of(self.endpoint).generates
            ),
            key=lambda cost: cost.dollars,
        )

    def __repr__(self) -> str:
        return _text(self)

    def _repr_html_(self) -> str:
        return _html(self)


def _text(dry_run: DryRun) -> str:
    lines = [_head(dry_run), ""]
    for custom_id, body in dry_run.requests.items():
        lines.append(custom_id)
        lines += [f"  {role}: {_cut(text)}" for role, text in endpoint_of(dry_run.endpoint).turns(body)]
    lines.append("")
    costs = [_COST_HEADER, *_cost_rows(dry_run)]
    widths = [max(len(cell) for cell in column) for column in zip(*costs, strict=True)]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in costs] if len(costs) > 1 else []
    cost = ("cost", "\n".join([*table, *_cost_notes(dry_run)]))
    rows = [*_rows(dry_run), cost]
    lines += [f"{name:<{_INDENT}}" + value.replace("\n", "\n" + " " * _INDENT) for name, value in rows]
    return "\n".join(lines)


def _html(dry_run: DryRun) -> str:
    """Draw it as HTML; what comes from the frame or the model's name is shown as text."""
    requests = "".join(
        f"<details open><summary><code>{markup.escape(custom_id)}</code></summary>"
        + "".join(
            f"<b>{markup.escape(role)}</b><pre style='white-space:pre-wrap;margin:0'>{markup.escape(_cut(text))}</pre>"
            for role, text in endpoint_of(dry_run.endpoint).turns(body)
        )
        + "</details>"
        for custom_id, body in dry_run.requests.items()
    )
    facts = "".join(_html_row((markup.escape(value),), heading=name) for name, value in _rows(dry_run))
    costs = "".join(_html_row(map(markup.escape, row)) for row in _cost_rows(dry_run))
    if costs:
        names = "".join(f"<th style='text-align:left'>{name}</th>" for name in _COST_HEADER)
        costs = f"<table><thead><tr>{names}</tr></thead><tbody>{costs}</tbody></table>"
    notes = "".join(f"<div>{drawing.faint(note)}</div>" for note in _cost_notes(dry_run))
    head = f"<p>{markup.escape(_head(dry_run))}</p>"
    return drawing.page(f"{head}{requests}<table>{facts}</table><div><b>cost</b></div>{costs}{notes}")


def _html_row(cells: Iterable[str], *, heading: str = "") -> str:
    first = f"<th style='text-align:left'>{markup.escape(heading)}</th>" if heading else ""
    rest = "".join(f"<td style='text-align:left;white-space:pre-wrap'>{cell}</td>" for cell in cells)
    return f"<tr>{first}{rest}</tr>"


def _rows(dry_run: DryRun) -> Iterator[tuple[str, str]]:
    if dry_run.notes:
        yield "notes", "\n".join(dry_run.notes)
    yield "prompt tokens", _prompt_tokens(dry_run)
    if dry_run.output_tokens:
        yield "answer tokens", _answer_tokens(dry_run, dry_run.output_tokens)
    if dry_run.target is None:
        saved = f"{dry_run.duplicates:,} duplicates and {dry_run.reused:,} known answers are free"
        yield "engine requests", f"{dry_run.to_run:,} of {dry_run.total:,}: {saved}"
        if endpoint_of(dry_run.endpoint).generates:
            yield "sampling", "\n".join(_sampling(dry_run))
        yield "shared prefixes", f"up to {dry_run.shared_prefix:.0%} of the prompt tokens are computed only once"
        yield "time", _time(dry_run)


def _sampling(dry_run: DryRun) -> Iterator[str]:
    if samples := dry_run.total - dry_run.deterministic:
        yield f"{samples:,} are samples: each has an answer of its own, and the same one when the batch runs again"
    if dry_run.deterministic:
        yield f"{dry_run.deterministic:,} are greedy or seeded: equal ones share an answer, which is kept"
        yield (
            "in bfloat16 such an answer depends on what else runs (28 of 64 differed between alone and together, on a "
            "CPU); with --dtype float32 none did"
        )


def _head(dry_run: DryRun) -> str:
    place = "" if dry_run.target is None else f" at {dry_run.target}"
    first = f"; the first {len(dry_run.requests)}:" if dry_run.total > len(dry_run.requests) else ":"
    requests = "request" if dry_run.total == 1 else "requests"
    return f"Nothing was run. {dry_run.total:,} {requests} to {dry_run.endpoint} for {dry_run.model!r}{place}{first}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _prompt_tokens(dry_run: DryRun) -> str:
    if dry_run.prompt_tokens is None:
        return "not known: to count them, load an engine that serves this model"
    engine = "the engine's tokenizer" if dry_run.target is None else "the tokenizer of the loaded model"
    if dry_run.counted == dry_run.total:
        return f"{dry_run.prompt_tokens:,}, counted by {engine}"
    part = f"{dry_run.counted:,} of {dry_run.total:,} requests were counted by {engine}"
    return f"about {dry_run.prompt_tokens:,}: {part}"


def _answer_tokens(dry_run: DryRun, expected: float) -> str:
    limit, estimates = dry_run.max_output_tokens, []
    if dry_run.measured and expected != limit:
        like = dry_run.measured[0].batch_id
        estimates.append(f"about {expected * dry_run.total:,.0f}, if answers are as long as in {like}")
    if limit is not None:
        estimates.append(f"at most {limit * dry_run.total:,} ({limit:,} per request)")
    return "; ".join(estimates)


def _time(dry_run: DryRun) -> str:
    if not dry_run.to_run:
        return "none: every answer is known"
    if dry_run.seconds is None:
        sample = min(_SAMPLE, max(dry_run.to_run // _LIKE, 1))
        unlike = "no batch of this model with about as many requests of this length has been measured here"
        return f"not known: {unlike}. Run a part first, for example with --sample {sample}"
    return "{} to {}, from batches of about this size and length".format(*map(duration, dry_run.seconds))


def _cost_rows(dry_run: DryRun) -> list[tuple[str, str, str]]:
    """Return service, model and price; of each service the cheapest models."""
    return [
        (cost.service, cost.model, _dollars(cost.dollars))
        for service in dry_run.price_list
        for cost in [cost for cost in dry_run.costs if cost.service == service][:_SHOWN_COSTS]
    ]


def _cost_notes(dry_run: DryRun) -> list[str]:
    """Return where the prices are from, or why there are none."""
    if dry_run.prompt_tokens is None:
        return ["not known without the prompt tokens"]
    if dry_run.output_tokens is None:
        return ["not known: limit the answers, for example with --max-tokens, or run a sample first"]
    priced = {cost.service for cost in dry_run.costs}
    return [
        f"{service}: list of {table.read_on:%Y-%m-%d}, {table.sources[0]}; {table.note}"
        for service, table in dry_run.price_list.items()
        if service in priced
    ] or ["no price list covers these requests"]


def _dollars(amount: float) -> str:
    if amount >= _CENT or not amount:
        return f"${amount:,.2f}"
    return f"${amount:.{1 - math.floor(math.log10(amount))}f}"
