"""What a dry run says of a batch, on the echo engine, whose tokens are words."""

from __future__ import annotations

import pandas as pd
import pytest

import vbatch_jupyter as vb
from tests.unit.session_surface import open_session
from vbatch_jupyter.errors import BadRequestError, FrameError, TemplateError
from vbatch_jupyter.estimate import measure as preview
from vbatch_jupyter.estimate.report import Measured
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.manager.time_left import Work
from vbatch_jupyter.records import EngineLimits


@pytest.fixture
def session(tmp_path, monkeypatch, as_current):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "configuration"))
    session = as_current(open_session(tmp_path, latency_seconds=0.2))
    yield session
    session.close()


def test_a_dry_run_runs_nothing_and_counts_every_prompts_tokens(session):
    df = pd.DataFrame({"text": ["one", "two words", "three more words", "a b c d"]})
    dry = vb.dry_run(df, "Say {{ text }}", system="Be brief", max_tokens=10)
    assert session.engine.requests == 0
    assert list(session.batches()) == []
    assert session.store.files.list().data == ()
    assert dry.prompt_tokens == 2 + 3 + 4 + 5
    assert (dry.total, dry.to_run, dry.counted, dry.max_output_tokens) == (4, 4, 4, 10)
    assert list(dry.requests) == ["row-0", "row-1", "row-2"]
    assert dry.requests["row-1"]["messages"][1] == {"role": "user", "content": "Say two words"}
    said = repr(dry)
    assert "Nothing was run. 4 requests to /v1/chat/completions for 'echo'; the first 3:" in said
    assert "  system: Be brief\n  user: Say one\n" in said
    assert "14, counted by the engine's tokenizer" in said
    assert "at most 40 (10 per request)" in said
    assert "Run a part first, for example with --sample 2" in said


def test_duplicates_known_answers_and_shared_prefixes_are_what_the_run_then_saves(session):
    document = "word " * 100
    df = pd.DataFrame({"text": ["a", "b", "b", "c"]})
    template = document + "{{ text }}"
    session.run(df[:1], Ask.of(template, temperature=0))
    dry = vb.dry_run(df, template, temperature=0)
    assert (dry.total, dry.reused, dry.duplicates, dry.to_run) == (4, 1, 1, 2)
    assert dry.shared_prefix == pytest.approx(500 / 1002)
    assert vb.dry_run(df, template, temperature=0, fresh=True).reused == 0
    before = session.engine.requests
    session.run(df, Ask.of(template, temperature=0))
    assert session.engine.requests - before == dry.to_run


def test_a_dry_run_names_the_rows_that_are_too_long_and_what_is_asked_in_vain(session):
    session.engine.limits = EngineLimits(max_model_len=8)
    df = pd.DataFrame({"text": ["a", "b " * 8, "c " * 9, "d " * 7, *["e " * 20] * 3]})
    dry = vb.dry_run(df, "{{ text }}", verbosity="low")
    too_long = "5 requests have more tokens than the model takes (8) and would be answered with an error"
    assert dry.notes == [
        "All 7 requests have a key that is ignored: 'verbosity': leave it out.",
        f"{too_long}: 'row-1', 'row-2', 'row-4', …",
    ]
    assert "notes" in repr(dry)
    assert vb.dry_run(df.iloc[:1], "{{ text }}").notes == []


def test_a_dry_run_says_which_answers_are_samples_and_what_holds_for_the_others(session):
    """Measured with vLLM 0.32.0 on a CPU: alone and together, 28 of 64 greedy answers differ in bfloat16."""
    df = pd.DataFrame({"text": ["a", "b", "b"]})
    samples = repr(vb.dry_run(df, "{{ text }}", temperature=1))
    assert "3 are samples: each has an answer of its own, and the same one when the batch runs again\n" in samples
    assert "bfloat16" not in samples
    greedy = repr(vb.dry_run(df, "{{ text }}", temperature=0))
    assert "3 are greedy or seeded: equal ones share an answer, which is kept\n" in greedy
    assert "in bfloat16 such an answer depends on what else runs (28 of 64 differed" in greedy
    assert "are samples" not in greedy
    assert "sampling" not in repr(vb.dry_run(df, "{{ text }}", endpoint="embeddings"))


def test_the_time_is_a_range_from_the_batches_that_were_measured(session):
    df = pd.DataFrame({"text": [f"a b c {n}" for n in range(3)]})
    assert vb.dry_run(df, "{{ text }}").seconds is None
    batch = session.submit(df, Ask.of("{{ text }}")).wait(60)
    session.submit(df, Ask.of("{{ text }}")).wait(60)  # all reused: nothing was measured
    dry = vb.dry_run(df, "{{ text }}", fresh=True)
    (measured,) = dry.measured
    assert measured.batch_id == batch.id
    assert (measured.prompt_tokens, measured.output_tokens) == (4, 4)
    # Three requests at once of 0.2 s.
    assert measured.work.asked == 3
    assert measured.work.seconds >= 0.2
    assert dry.seconds == pytest.approx((0.7 * measured.work.seconds, 1.5 * measured.work.seconds))
    assert "from batches of about this size and length" in repr(dry)
    assert "none: every answer is known" in repr(vb.dry_run(df, "{{ text }}"))
    assert vb.dry_run(df, "{{ text }}", max_tokens=2).output_tokens == 2
    assert f"about 12, if answers are as long as in {batch.id}" in repr(dry)
    assert "24 per request)" in repr(vb.dry_run(df, "{{ text }}", max_tokens=24))


@pytest.mark.parametrize(
    ("requests", "prompt", "output", "factor"),
    [
        (5_000, 100, 10, 5),  # the engine was busy
        (1_000, 190, 10, 200 / 110),
        (1_000, 300, 10, None),  # other prompts
        (1_000, 100, 40, None),  # other answers
        (20, 100, 10, None),  # too few to keep it busy
    ],
)
def test_a_large_batch_tells_the_time_of_larger_ones_of_its_length(requests, prompt, output, factor):
    work = Work(asked=1_000, reused=0, seconds=60.0, concurrency=200.0)
    seconds = Measured("batch_0", work, 100, 10).seconds(requests, prompt, output)
    assert seconds == (None if factor is None else pytest.approx(60 * factor))


def test_a_small_batch_tells_nothing_about_a_large_one():
    """VLLM 0.32.0 on a CPU: 28 minutes were told from a small batch, and 78 seconds taken."""
    # 20 requests that ran at once: 5,000 would run 256 at once, and much faster than 250 times its time.
    small = Measured("batch_0", Work(asked=20, reused=0, seconds=7.0, concurrency=19.0), 100, 10)
    assert small.seconds(5_000, 100, 10) is None
    assert small.seconds(30, 100, 10) == pytest.approx(10.5)


def test_costs_are_those_of_the_price_list_and_the_cheapest_comes_first(session, tmp_path):
    (tmp_path / "configuration").mkdir()
    (tmp_path / "configuration" / "vbatch-prices.toml").write_text(
        """
        [ours]
        read_on = 2027-02-02
        sources = ["https://ours.example.org"]
        [ours.models]
        dear = { input = 4e6, output = 2e6 }
        cheap = { input = 2e6, output = 2e6 }
        vector = { input = 1.0 }
        """
    )
    df = pd.DataFrame({"text": ["a b", "a b"]})
    dry = vb.dry_run(df, "{{ text }}", max_tokens=3)
    ours = [(cost.model, round(cost.dollars, 6)) for cost in dry.costs if cost.service == "ours"]
    # Duplicates cost at a service: 4 tokens in, 6 out, at half of the list price.
    assert ours == [("cheap", 10.0), ("dear", 14.0)]
    assert {cost.service for cost in dry.costs} == {"openai", "parasail", "ours"}
    (cheapest,) = [cost for cost in dry.costs if cost.model == "gpt-4.1-nano"]
    assert cheapest.dollars == pytest.approx(1.4e-6)
    assert "openai    gpt-4.1-nano" in repr(dry)
    assert "$0.0000014" in repr(dry)
    lines = [line.split() for line in repr(dry).splitlines()]
    assert ["ours", "cheap", "$10.00"] in lines
    assert ["ours", "dear", "$14.00"] in lines
    assert "ours: list of 2027-02-02, https://ours.example.org" in repr(dry)
    drawn = dry._repr_html_()
    assert "<td style='text-align:left;white-space:pre-wrap'>cheap</td>" in drawn
    assert drawn.startswith('<div class="mathjax_ignore tex2jax_ignore"')
    assert {
        cost.service for cost in vb.dry_run(df, "{{ text }}", target="parasail", model="m", max_tokens=3).costs
    } == {"parasail"}
    vectors = vb.dry_run(df, "{{ text }}", endpoint="embeddings")
    assert [cost.model for cost in vectors.costs if cost.service == "ours"] == ["vector"]
    assert vectors.prompt_tokens == 4


def test_without_a_limit_or_a_measured_batch_the_cost_is_not_guessed(session):
    df = pd.DataFrame({"text": ["a"]})
    assert "limit the answers, for example with --max-tokens" in repr(vb.dry_run(df, "{{ text }}"))
    other = vb.dry_run(df, "{{ text }}", model="other", max_tokens=1)
    assert other.prompt_tokens is None
    assert "load an engine that serves this model" in repr(other)
    assert other.costs == ()


def test_of_many_requests_a_part_is_counted_and_that_is_said(session, monkeypatch):
    monkeypatch.setattr(preview, "COUNTED_REQUESTS", 10)
    df = pd.DataFrame({"text": ["a b"] * 50})
    dry = vb.dry_run(df, "{{ text }}")
    assert (dry.prompt_tokens, dry.counted, dry.total) == (100, 10, 50)
    assert "about 100: 10 of 50 requests were counted" in repr(dry)


def test_responses_are_counted_as_the_chats_they_are(session):
    dry = vb.dry_run(pd.DataFrame({"text": ["a b c"]}), "{{ text }}", endpoint="responses", system="s")
    assert dry.prompt_tokens == 3
    assert "  instructions: s\n  input: a b c\n" in repr(dry)


def test_a_mistake_is_an_error_as_in_a_run(session):
    df = pd.DataFrame({"text": ["a"]})
    with pytest.raises(TemplateError, match="'tixt'"):
        vb.dry_run(df, "{{ tixt }}")
    with pytest.raises(BadRequestError, match="temperature"):
        vb.dry_run(df, "{{ text }}", temprature=1)
    with pytest.raises(FrameError, match="no rows"):
        vb.dry_run(df[:0], "{{ text }}")


def test_what_stands_in_the_frame_is_shown_as_text(session):
    df = pd.DataFrame({"text": ["<img src=x onerror=alert(1)>"], "id": ["<b>7</b>"]})
    shown = vb.dry_run(df, "{{ text }}", custom_id="id", model="<i>m</i>")._repr_html_()
    assert "<img" not in shown
    assert "<b>7" not in shown
    assert "<i>m" not in shown
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
