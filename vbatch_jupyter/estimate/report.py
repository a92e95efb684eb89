"""A dry run: what a batch would ask, compute and cost, as data that draws itself."""

from __future__ import annotations

import dataclasses
import html as markup
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vbatch_jupyter.display.progress import duration
from vbatch_jupyter.estimate.prices import ServicePrices
from vbatch_jupyter.protocol.endpoints import endpoint_of

_SHOWN_CHARACTERS = 600
_SHOWN_COSTS = 4
_CENT = 0.01
_INDENT = 17


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """How fast an engine has answered a batch.

    Parameters
    ----------
    tokens_per_second
        Prompt and generation tokens together.
    output_tokens
        Generated per request, on average.
    batch_id
        The batch in which it was measured.
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
    rate
        How fast the engine was; None if that was not measured yet.
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
    rate: Rate | None
    price_list: Mapping[str, ServicePrices]

    @property
    def to_run(self) -> int:
        """How many requests the engine would be asked."""
        return self.total - self.reused - self.duplicates

    @property
    def output_tokens(self) -> float | None:
        """Tokens of one answer: as in the measured batch, but within the limit; else the limit; None without both."""
        if not endpoint_of(self.endpoint).generates:
            return 0.0
        limits = [self.max_output_tokens, None if self.rate is None else self.rate.output_tokens]
        return min((tokens for tokens in limits if tokens is not None), default=None)

    @property
    def seconds(self) -> float | None:
        """How long it would take here at the measured rate; None if it is not known."""
        if self.rate is None or self.prompt_tokens is None or self.target is not None:
            return None
        output = self.output_tokens or 0
        return self.to_run * (self.prompt_tokens / self.total + output) / self.rate.tokens_per_second

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
    lines += [f"{name:<{_INDENT}}" + value.replace("\n", "\n" + " " * _INDENT) for name, value in _rows(dry_run)]
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
    table = "".join(
        f"<tr><th style='text-align:left'>{markup.escape(name)}</th>"
        f"<td style='text-align:left;white-space:pre-wrap'>{markup.escape(value)}</td></tr>"
        for name, value in _rows(dry_run)
    )
    return f"<p>{markup.escape(_head(dry_run))}</p>{requests}<table>{table}</table>"


def _rows(dry_run: DryRun) -> Iterator[tuple[str, str]]:
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
    yield "cost", _cost(dry_run)


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
    if dry_run.rate is not None and expected != limit:
        estimates.append(f"about {expected * dry_run.total:,.0f}, if answers are as long as in {dry_run.rate.batch_id}")
    if limit is not None:
        estimates.append(f"at most {limit * dry_run.total:,} ({limit:,} per request)")
    return "; ".join(estimates)


def _time(dry_run: DryRun) -> str:
    rate, seconds = dry_run.rate, dry_run.seconds
    if rate is None:
        return "not known: no batch of this model has been measured here. Run one, for example with --sample 20"
    if seconds is None:
        return "not known"
    return f"about {duration(seconds)}, at the {rate.tokens_per_second:,.0f} tokens/s of {rate.batch_id}"


def _cost(dry_run: DryRun) -> str:
    if dry_run.prompt_tokens is None:
        return "not known without the prompt tokens"
    if dry_run.output_tokens is None:
        return "not known: limit the answers, for example with --max-tokens, or run a sample first"
    lines = []
    for service, table in dry_run.price_list.items():
        costs = [cost for cost in dry_run.costs if cost.service == service]
        if costs:
            priced = ", ".join(f"{cost.model} {_dollars(cost.dollars)}" for cost in costs[:_SHOWN_COSTS])
            lines.append(f"{service}: {priced} (list of {table.read_on:%Y-%m-%d}, {table.sources[0]}; {table.note})")
    return "\n".join(lines) if lines else "no price list covers these requests"


def _dollars(amount: float) -> str:
    if amount >= _CENT or not amount:
        return f"${amount:,.2f}"
    return f"${amount:.{1 - math.floor(math.log10(amount))}f}"
