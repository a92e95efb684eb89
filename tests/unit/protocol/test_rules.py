"""The table of rules: each by its own examples, and for each target. tests/engine/test_semantics.py asks vLLM."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.rules import EXAMPLES, body_of
from vbatch_jupyter.protocol import policy
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.records import EngineLimits

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
LIMITS = EngineLimits(max_model_len=1024, paths=frozenset({CHAT}), takes_tools=False, takes_dimensions=False)


def broken(
    path: str, body: dict[str, Any], server: policy.Server, limits: EngineLimits = policy.NO_LIMITS
) -> list[str]:
    return [breach.field for breach in policy.broken(path, body_of(path, json.dumps(body)), server, limits)]


@pytest.mark.parametrize(("rule", "example", "breaks"), EXAMPLES)
def test_each_rule_finds_its_examples_and_nothing_in_what_keeps_it(rule, example, breaks):
    path = rule.path or CHAT
    found = broken(path, json.loads(example), "local", LIMITS)
    assert (set(found) & set(rule.fields) != set()) == breaks


@pytest.mark.parametrize(
    ("path", "body", "local", "openai", "compatible"),
    [
        (CHAT, {"temperature": 5}, ["temperature"], ["temperature"], ["temperature"]),
        (CHAT, {"n": 3, "temperature": 0}, ["n"], [], []),
        (CHAT, {"top_p": 0}, ["top_p"], [], []),
        (CHAT, {"temperature": "1"}, [], ["temperature"], []),
        (CHAT, {"top_k": -3}, ["top_k"], [], []),
        (COMPLETIONS, {"prompt": ""}, ["prompt"], [], []),
        (EMBEDDINGS, {"input": ["a", ""]}, ["input"], ["input"], []),
        (EMBEDDINGS, {"temperature": 5}, [], [], []),
        (CHAT, {"guided_json": {}}, ["guided_json"], [], []),
        (CHAT, {"messages": [{"role": "user"}]}, ["messages"], ["messages"], []),
        (CHAT, {"messages": [{"role": "human", "content": "a"}]}, [], ["messages"], []),
        (CHAT, {"messages": [{"role": "developer", "content": "a"}]}, [], [], []),
        ("/v1/responses", {"max_output_tokens": 8}, [], ["max_output_tokens"], []),
    ],
)
def test_a_rule_belongs_to_the_server_that_refuses_it(path, body, local, openai, compatible):
    """VLLM 0.32.0 takes a text that looks like a number, and no greedy n; OpenAI the other way round."""
    assert [broken(path, body, server) for server in ("local", "openai", "compatible")] == [local, openai, compatible]


CHOICE = {"structured_outputs": {"choice": ["yes", "no"]}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**CHOICE, "allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"response_format": {"type": "json_object"}, "allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"response_format": {"type": "text"}, "allowed_token_ids": [1]}, None),
        ({**CHOICE, "bad_words": ["e"]}, "bad_words"),
        ({"structured_outputs": {"json": {"properties": {"a": {"enum": ["yes"]}}}}, "bad_words": ["yes"]}, "bad_words"),
        ({**CHOICE, "bad_words": ["maybe", 5, ""]}, None),
        ({"bad_words": ["yes"]}, None),
        ({**CHOICE, "tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ({**CHOICE, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({**CHOICE, "tools": TOOLS, "tool_choice": "auto"}, None),
        ({"tools": TOOLS, "tool_choice": "required"}, None),
    ],
)
def test_what_does_not_hold_next_to_a_grammar_is_refused_before_the_engine(body, field):
    """VLLM 0.32.0 answers 500 to the tokens, and 200 to the others, with a text that is not what was asked."""
    found = [breach.field for breach in policy.broken(CHAT, {"model": "m", **body}, "here")]
    assert found == ([field] if field else [])
    assert [breach.field for breach in policy.broken(CHAT, {"model": "m", **body}, "openai")] == []


def test_what_an_engine_cannot_do_is_known_only_with_its_limits():
    tools = [{"type": "function", "function": {"name": "f"}}]
    for path, body, field in (
        (CHAT, {"max_tokens": 1025}, "max_tokens"),
        (CHAT, {"tools": tools}, "tools"),
        (EMBEDDINGS, {}, "model"),
    ):
        assert broken(path, body, "local") == []
        assert broken(path, body, "local", LIMITS) == [field]
    assert broken(CHAT, {"max_tokens": 1024, "tools": tools, "tool_choice": "none"}, "local", LIMITS) == []
    assert broken(EMBEDDINGS, {"dimensions": 8}, "local", LIMITS) == ["model", "dimensions"]
    (breach,) = policy.broken(CHAT, body_of(CHAT, '{"max_tokens": 1025}'), "local", LIMITS)
    assert breach.sentence == "the model takes at most 1,024 tokens, prompt and answer together."


def test_each_rule_says_who_and_where_and_is_proved_by_vllm_or_says_why_not():
    for rule in policy.RULES:
        assert rule.by & {"here", "vllm", "openai"}
        assert rule.path is None or rule.path in ENDPOINTS
        if "vllm" in rule.by:
            assert rule.source
            assert (
                (rule.keeps if rule.ignored else rule.breaks)
                or "tests/engine" in rule.source
                or "answers 400" in rule.source
            )
