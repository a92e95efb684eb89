"""A finished batch as a figure."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.unit.session_surface import open_session
from vbatch_jupyter.display.plots import draw
from vbatch_jupyter.errors import ConflictError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.records import Timing


@pytest.fixture(autouse=True)
def without_a_display(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")


@pytest.fixture
def session(tmp_path):
    session = open_session(tmp_path, refusing="refuse me", latency_seconds=0.1)
    yield session
    session.close()


def titles(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def test_a_batch_draws_its_throughput_latencies_lengths_and_errors(session, tmp_path):
    texts = [*["one two"] * 6, *["three"] * 2, "refuse me", "refuse me too"]
    batch = session.submit(pd.DataFrame({"text": texts}), Ask.of("{{ text }}")).wait(60)
    figure = batch.plot()
    assert titles(figure) == ["Throughput", "Latency", "Length of the answers", "Errors: 2 of 10 (20.0%)"]
    over_time, by_latency, by_length, by_error = figure.axes
    assert over_time.get_ylabel() == "generation tokens/s"
    # What is drawn over time adds up to all that was generated.
    line = over_time.lines[0]
    width = line.get_xdata()[1] - line.get_xdata()[0]
    assert sum(line.get_ydata()) * width == pytest.approx(14)
    assert sum(bar.get_height() for bar in by_latency.patches) == 10
    assert min(bar.get_x() for bar in by_latency.patches) >= 0.1
    assert sum(bar.get_height() for bar in by_length.patches) == 8
    assert [bar.get_width() for bar in by_error.patches] == [8, 2]
    assert by_error.get_yticklabels()[1].get_text().startswith("This request is refused")
    assert batch.id in figure.get_suptitle()
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_batch_that_runs_is_not_drawn_and_one_that_was_all_reused_says_what_is_missing(session, tmp_path):
    df = pd.DataFrame({"text": ["a", "b"]})
    batch = session.submit(df, Ask.of("{{ text }}"))
    with pytest.raises(ConflictError, match="has ended"):
        batch.plot()
    batch.wait(60)
    figure = session.submit(df, Ask.of("{{ text }}")).wait(60).plot()
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "no time was measured" in words
    assert "no latency was measured" in words
    assert titles(figure)[3] == "Errors: 0 of 2 (0.0%)"


def test_messages_are_text_and_many_kinds_of_errors_are_summed_up(tmp_path):
    errors = {f"$x_{{{number}}}$ is <no> $\\frac formula {'long ' * 40}": 20 - number for number in range(8)}
    timings = [Timing(100.0 + number, 0.5) for number in range(4)]
    figure = draw("of $one_", timings=timings, output_tokens=[None] * 4, completed=4, errors=errors)
    figure.savefig(tmp_path / "figure.png")
    labels = [label.get_text() for label in figure.axes[3].get_yticklabels()]
    assert len(labels) == 7
    assert labels[0] == "completed"
    assert labels[1].startswith("$x_{0}$ is <no> $\\frac formula")
    assert labels[1].endswith("…")
    assert labels[-1] == "other errors"
    assert figure.axes[0].get_ylabel() == "requests/s"


def test_a_figure_is_shown_once_where_it_is_returned():
    from matplotlib import pyplot as plt

    draw("a", timings=[], output_tokens=[], completed=0, errors={})
    assert plt.get_fignums() == []
