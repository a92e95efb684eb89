from __future__ import annotations

import asyncio
import json

import pytest

from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol import policy
from vbatch_jupyter.protocol.constraint_size import check_values
from vbatch_jupyter.protocol.endpoints import ENDPOINTS

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)


def param(path: str, **body):
    try:
        policy.check(path, policy.decode(json.dumps({"model": "m", **body}).encode()))
    except BadRequestError as error:
        return error.param
    return None


def chat_with(*parts):
    return {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    "body",
    [
        {"n": 128, "max_tokens": 4096, "temperature": 0, "logprobs": True, "top_logprobs": 20},
        {"ignore_eos": True, "max_tokens": 8},
        {"ignore_eos": True, "max_completion_tokens": 8},
        {"ignore_eos": False},
        {"ignore_eos": "false"},
        {"background": True, "store": True},  # a chat knows neither as more than a flag
        {"priority": None, "request_id": None, "use_beam_search": False},
        {"chat_template_kwargs": {"enable_thinking": False}, "cache_salt": "tenant"},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"image_url": "http://a"}}}},
        {"max_tokens": -1},  # for vLLM to judge
        {"n": "many"},
    ],
)
def test_what_is_harmless_passes(body):
    assert param(CHAT, **body) is None


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        (CHAT, "n", {"n": 129}),
        (CHAT, "n", {"n": "16384"}),
        (CHAT, "n", {"n": 1e300}),
        (COMPLETIONS, "best_of", {"best_of": 129}),
        (COMPLETIONS, "prompt", {"prompt": ["a"] * 2049}),
        (COMPLETIONS, "prompt", {"prompt": ["a"] * 17, "n": 128}),
        (EMBEDDINGS, "input", {"input": [[1, 2]] * 2049}),
        (CHAT, "max_tokens", {"max_tokens": 10**18}),
        (CHAT, "max_completion_tokens", {"max_completion_tokens": 10**30}),
        (RESPONSES, "max_output_tokens", {"max_output_tokens": str(10**18)}),
        (CHAT, "min_tokens", {"min_tokens": 10**9}),
        (CHAT, "top_logprobs", {"logprobs": True, "top_logprobs": -1}),
        (COMPLETIONS, "logprobs", {"logprobs": -1}),
        (COMPLETIONS, "prompt_logprobs", {"prompt_logprobs": "-1"}),
        (CHAT, "ignore_eos", {"ignore_eos": True}),
        (CHAT, "ignore_eos", {"ignore_eos": "true", "max_tokens": None}),
        (CHAT, "ignore_eos", {"ignore_eos": 1}),
        (CHAT, "use_beam_search", {"use_beam_search": "yes"}),
        (CHAT, "priority", {"priority": -(9**18)}),
        (CHAT, "priority", {"priority": 0}),
        (CHAT, "request_id", {"request_id": "a"}),
        (CHAT, "kv_transfer_params", {"kv_transfer_params": {"prompt_token_ids": [1]}}),
        (RESPONSES, "session_id", {"session_id": "a"}),
        (CHAT, "vllm_xargs", {"vllm_xargs": {}}),
        (COMPLETIONS, "prompt_embeds", {"prompt_embeds": "gASV"}),
        (CHAT, "chat_template", {"chat_template": "{{ 9**9**9 }}"}),
        (CHAT, "chat_template_kwargs", {"chat_template_kwargs": {"tokenize": False}}),
        (CHAT, "chat_template_kwargs", {"chat_template_kwargs": {"depth": {"a": 1}}}),
        (CHAT, "mm_processor_kwargs", {"mm_processor_kwargs": {"num_crops": 10**9}}),
        (EMBEDDINGS, "media_io_kwargs", {"media_io_kwargs": {"video": {"num_frames": -1}}}),
        (RESPONSES, "background", {"background": True}),
        (RESPONSES, "store", {"store": True}),
    ],
)
def test_what_would_do_harm_is_refused_by_the_field(path, field, body):
    assert param(path, **body) == field


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        (CHAT, {"max_tokens": -3}, "it must be an integer, at least 1. Leave it out for no limit."),
        (CHAT, {"max_completion_tokens": -(10**400)}, "it must be an integer, at least 1. Leave it out for no limit."),
        (RESPONSES, {"max_output_tokens": "-3"}, "it must be an integer, at least 1. Leave it out for no limit."),
        (CHAT, {"max_tokens": 10**400}, "the maximum is 1,048,576."),
        (CHAT, {"min_tokens": -2}, "it must be an integer, at least 0."),
        (CHAT, {"n": -2}, "it must be an integer, at least 1."),
        (COMPLETIONS, {"best_of": 129}, "the maximum is 128, because each answer takes a slot of the engine."),
        (COMPLETIONS, {"logprobs": 10**9}, "the maximum is 1,048,576."),
    ],
)
def test_a_message_about_a_bound_names_the_bound_that_was_broken(path, body, sentence):
    with pytest.raises(BadRequestError) as caught:
        policy.check(path, {"model": "m", **body})
    assert caught.value.message == f"Invalid '{next(iter(body))}': {sentence}"


def test_a_body_with_more_than_a_million_values_is_refused_before_it_is_read():
    fits, most = b'{"prompt":[' + b"10," * (1 << 20), 1 << 20
    check_values(fits[: -len(b"10,10,")] + b"]}")
    with pytest.raises(BadRequestError, match=f"at most {most:,} values; this one has {most + 1:,}, by its commas"):
        check_values(fits + b"1]}")
    answer = asyncio.run(EchoEngine(["m"]).request("POST", CHAT, fits + b"1]}"))
    assert answer.status == 400
    check_values(b'{"image_url": "data:image/png;base64,' + b"A" * (1 << 22) + b'"}')


def test_of_very_many_unknown_keys_twenty_are_named_and_a_very_long_one_is_cut():
    unknown = {f"temprature_{number}": 0 for number in range(300)}
    with pytest.raises(BadRequestError) as caught:
        policy.refuse(ENDPOINTS[CHAT], unknown, policy.LOCAL)
    assert caught.value.message.count("Did you mean 'temperature'?") == 20
    assert caught.value.message.endswith(" It has 280 more keys that nobody knows.")
    assert len(policy.unknown_parameter("a" * 10**6).message) < 100


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/a.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "ftp://a/b",
        " http://a",
        "HTTP://a",
        "http:\\\\a\\@b",
        "//a/b",
        "",
        7,
        ["http://a"],
    ],
)
def test_a_url_that_would_be_fetched_is_refused_wherever_it_stands(url):
    assert param(CHAT, **chat_with({"type": "image_url", "image_url": {"url": url}})) == "image_url"
    assert param(CHAT, **chat_with({"type": "video_url", "video_url": {"url": url}})) == "video_url"
    assert param(CHAT, **chat_with({"audio_url": url})) == "audio_url"
    assert param(EMBEDDINGS, **chat_with({"type": "image_url", "image_url": {"url": url}})) == "image_url"
    message = {"role": "user", "content": [{"type": "input_image", "image_url": url}]}
    assert param(RESPONSES, input=[message]) == "image_url"
    output = {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_file", "file_url": url}]}
    assert param(RESPONSES, input=[output]) == "file_url"
    assert param(RESPONSES, input="a", previous_input_messages=[message]) == "image_url"


def test_media_that_come_along_pass():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    assert param(CHAT, **chat_with({"type": "text", "text": "see http://a"}, image, audio)) is None


@pytest.mark.parametrize("kind", ["image_embeds", "audio_embeds", "video_embeds", "prompt_embeds", "image_pil"])
def test_tensors_are_refused_however_they_are_spelt(kind):
    assert param(CHAT, **chat_with({"type": kind, "data": "gASV"})) == kind
    assert param(CHAT, **chat_with({kind: "gASV"})) == kind


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "m", "priority": 1}'.encode("utf-16"),
        b'{"model": "m", "temperature": NaN, "priority": 1}',
        b'{"model": "m", "user": "\\ud800", "priority": 1}',
        b"\xef\xbb\xbf" + b'{"priority": 1}',
        b"[" * 100_000,
        b"",
        b"[1]",
    ],
)
def test_what_vllm_might_read_in_another_way_is_refused(body):
    with pytest.raises(BadRequestError) as caught:
        policy.decode(body)
    assert caught.value.code == "invalid_json"


def test_of_a_field_that_stands_twice_the_last_one_counts_as_in_vllm():
    with pytest.raises(BadRequestError):
        policy.check(CHAT, policy.decode(b'{"priority": null, "pri\\u006frity": 1}'))
    policy.check(CHAT, policy.decode(b'{"priority": 1, "priority": null}'))


def test_each_rule_is_about_fields_that_there_are():
    known = frozenset().union(*(endpoint.openai_keys | endpoint.vllm_keys for endpoint in ENDPOINTS.values()))
    inside = {"image_url", "video_url", "audio_url", "file_url", "image_embeds", "audio_embeds", "video_embeds"}
    fields = [field for rule in policy.RULES for field in rule.fields]
    removed = {field for rule in policy.RULES if "structured_outputs" in rule.sentence for field in rule.fields}
    assert {"guided_json", "guided_choice"} < removed
    assert set(fields) - known == inside | {"image_pil"} | removed - known
    assert all(rule.sentence.endswith(".") for rule in policy.RULES)
