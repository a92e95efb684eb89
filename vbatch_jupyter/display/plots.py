"""A finished batch as a figure: throughput over time, latencies, lengths of the answers, and errors."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vbatch_jupyter.display.drawing import one_line
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.chain import timed_lines_of
from vbatch_jupyter.manager.error_groups import ErrorGroups
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.endpoints import CHAT, ENDPOINTS
from vbatch_jupyter.records import Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 30
_SHOWN_ERRORS = 5
_SHOWN_CHARACTERS = 60
_BLUE, _GREEN, _RED = "#1976d2", "#388e3c", "#d32f2f"


def plot_of(manager: Manager, record: BatchRecord, errors: Iterable[str]) -> Figure:
    """Draw a batch that has ended, of its files.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    record
        The batch.
    errors
        Of its requests without an answer.
    """
    counted = ErrorGroups(errors).counted()
    timings, output_tokens = [], []
    read = ENDPOINTS.get(record.endpoint, CHAT).read
    for text, kept in timed_lines_of(manager, [record]):
        reading = read(text)
        timings.append(kept.get(reading.id or ""))
        output_tokens.append(reading.usage.written)
    return draw(
        f"{record.id} · {record.model or ''} · {record.status}",
        timings=timings,
        output_tokens=output_tokens,
        completed=len(timings) - sum(counted.values()),
        errors=counted,
    )


def draw(
    title: str,
    *,
    timings: Sequence[Timing | None],
    output_tokens: Sequence[int | None],
    completed: int,
    errors: Mapping[str, int],
) -> Figure:
    """Draw a batch that has ended.

    Parameters
    ----------
    title
        The title.
    timings
        When each answer came, if it is known.
    output_tokens
        How long each answer is, if the response has it; in the order of ``timings``.
    completed
        How many requests have an answer.
    errors
        How often each error occurred.
    """
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
    # The cell shows the returned figure; pyplot must not show it a second time.
    plt.close(figure)
    figure.suptitle(title, fontsize="medium", parse_math=False)
    (over_time, by_latency), (by_length, by_error) = axes
    _throughput(over_time, timings, output_tokens)
    latencies = [timing.latency for timing in timings if timing is not None and timing.latency is not None]
    _histogram(by_latency, latencies, "Latency", "seconds", "no latency was measured")
    lengths = [tokens for tokens in output_tokens if tokens is not None]
    _histogram(by_length, lengths, "Length of the answers", "tokens", "no response counts its tokens")
    _shares(by_error, completed, errors)
    return figure


def _throughput(axes: Axes, timings: Sequence[Timing | None], output_tokens: Sequence[int | None]) -> None:
    axes.set_title("Throughput", fontsize="small")
    came = [
        (timing.finished_at, timing.latency, tokens or 0)
        for timing, tokens in zip(timings, output_tokens, strict=True)
        # A reused answer says nothing about the engine.
        if timing is not None and timing.finished_at is not None and timing.latency is not None
    ]
    if not came:
        _say(axes, "no time was measured")
        return
    start = min(at - latency for at, latency, _ in came)
    width = max(max(at for at, *_ in came) - start, 1e-3) / _BINS
    requests, tokens = collections.Counter[int](), collections.Counter[int]()
    for at, _, count in came:
        place = min(int((at - start) / width), _BINS - 1)
        requests[place] += 1
        tokens[place] += count
    middles = [(place + 0.5) * width for place in range(_BINS)]
    unit, counts = ("generation tokens/s", tokens) if any(tokens.values()) else ("requests/s", requests)
    axes.fill_between(middles, [counts[place] / width for place in range(_BINS)], color=_BLUE, alpha=0.3, step="mid")
    axes.step(middles, [counts[place] / width for place in range(_BINS)], color=_BLUE, where="mid")
    axes.set(xlabel="seconds", ylabel=unit, ylim=(0, None), xlim=(0, _BINS * width))


def _histogram(axes: Axes, values: Sequence[float], title: str, unit: str, nothing: str) -> None:
    axes.set_title(title, fontsize="small")
    if not values:
        _say(axes, nothing)
        return
    axes.hist(values, bins=min(_BINS, len(set(values)) + 1), color=_BLUE)
    middle = sorted(values)[len(values) // 2]
    axes.axvline(middle, color="black", linewidth=1, linestyle="--", label=f"median {middle:,.3g}")
    axes.legend(fontsize="small")
    axes.set(xlabel=unit, ylabel="requests")


def _shares(axes: Axes, completed: int, errors: Mapping[str, int]) -> None:
    failed = sum(errors.values())
    total = completed + failed
    share = failed / total if total else 0.0
    axes.set_title(f"Errors: {failed:,} of {total:,} ({share:.1%})", fontsize="small")
    most = collections.Counter(errors).most_common(_SHOWN_ERRORS)
    bars = [
        ("completed", completed, _GREEN),
        *((one_line(message, most=_SHOWN_CHARACTERS), count, _RED) for message, count in most),
    ]
    if (rest := failed - sum(count for _, count in most)) > 0:
        bars.append(("other errors", rest, _RED))
    places = list(range(len(bars)))
    drawn: Any = axes.barh(places, [count for _, count, _ in bars], color=[colour for *_, colour in bars])
    axes.bar_label(drawn, [f"{count:,}" for _, count, _ in bars], fontsize="small", padding=2)
    # A message is text: with two dollar signs it would be set as a formula, or fail as one.
    axes.set_yticks(places, [name for name, *_ in bars], fontsize="small", parse_math=False)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel("requests")


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes, color="gray")
    axes.set_axis_off()
