from __future__ import annotations

import typing

import pytest
from openai.types import (
    completion_create_params,
    embedding_create_params,
    image_generate_params,
    moderation_create_params,
    video_create_params,
)
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.endpoints import CHAT, EMBEDDINGS, ENDPOINTS, endpoint_of
from vbatch_jupyter.protocol.keys import OTHER_ENDPOINTS, check_keys

PARAMS = {
    "/v1/chat/completions": (
        chat_create_params.CompletionCreateParamsNonStreaming,
        chat_create_params.CompletionCreateParamsStreaming,
    ),
    "/v1/completions": (
        completion_create_params.CompletionCreateParamsNonStreaming,
        completion_create_params.CompletionCreateParamsStreaming,
    ),
    "/v1/embeddings": (embedding_create_params.EmbeddingCreateParams,),
    "/v1/responses": (
        response_create_params.ResponseCreateParamsNonStreaming,
        response_create_params.ResponseCreateParamsStreaming,
    ),
}


@pytest.mark.parametrize("endpoint", PARAMS)
def test_the_table_has_the_keys_of_the_openai_package_and_no_others(endpoint):
    theirs = set().union(*(typing.get_type_hints(params) for params in PARAMS[endpoint]))

    assert theirs == ENDPOINTS[endpoint].openai_keys


def test_the_registry_has_openais_four_endpoints_whose_objects_do_not_contradict_themselves():
    assert list(ENDPOINTS) == list(PARAMS)
    for path, endpoint in ENDPOINTS.items():
        assert endpoint.path == path
        assert not endpoint.openai_keys & endpoint.vllm_keys
        known = endpoint.openai_keys | endpoint.vllm_keys
        named = {endpoint.prompt_key, endpoint.system_key, endpoint.schema_key, *endpoint.vllm_inputs, *endpoint.limits}
        assert named - {None} <= known


@pytest.mark.parametrize(
    ("endpoint", "keys"),
    [
        ("chat", ["messages", "response_format", "max_completion_tokens", "top_k", "chat_template_kwargs"]),
        ("completions", ["prompt", "echo", "structured_outputs", "prompt_logprobs"]),
        ("embeddings", ["input", "dimensions", "truncate_prompt_tokens", "messages"]),
        ("responses", ["input", "instructions", "max_output_tokens", "top_k"]),
        ("/v1/chat/completions", []),
    ],
)
def test_keys_of_openai_and_of_vllm_pass(endpoint, keys):
    check_keys(endpoint_of(endpoint), keys)


def test_a_misspelt_key_is_refused_with_its_near_misses():
    with pytest.raises(BadRequestError) as caught:
        check_keys(CHAT, ["model", "temprature", "max_token"])

    assert caught.value.param == "temprature"
    first, second = caught.value.message.split("? ")
    assert first == (
        "Neither OpenAI nor vLLM knows the key 'temprature' for /v1/chat/completions. Did you mean 'temperature'"
    )
    assert second.startswith(
        "Neither OpenAI nor vLLM knows the key 'max_token' for /v1/chat/completions. Did you mean 'max_tokens' or "
    )


def test_a_key_of_another_endpoint_is_refused_with_that_endpoint():
    with pytest.raises(BadRequestError) as caught:
        check_keys(CHAT, ["instructions"])

    assert caught.value.message == (
        "Neither OpenAI nor vLLM knows the key 'instructions' for /v1/chat/completions; it belongs to /v1/responses."
    )


def test_a_key_that_is_like_no_other_is_refused():
    with pytest.raises(BadRequestError) as caught:
        check_keys(EMBEDDINGS, ["qqqq"])

    assert caught.value.message == "Neither OpenAI nor vLLM knows the key 'qqqq' for /v1/embeddings; leave it out."


def test_an_endpoint_is_found_by_its_name_or_its_path():
    for path, endpoint in ENDPOINTS.items():
        assert endpoint_of(endpoint.name) is endpoint_of(path) is endpoint


@pytest.mark.parametrize("name", ["", "chats", "/v1/chat/completions/", "/v1/images/edits"])
def test_an_unknown_endpoint_is_refused_with_those_there_are(name):
    with pytest.raises(BadRequestError) as caught:
        endpoint_of(name)

    assert (caught.value.param, caught.value.code) == ("endpoint", "invalid_value")
    assert caught.value.message == (
        f"Invalid value: '{name}'. Supported values are: 'chat', 'completions', 'embeddings', 'responses', "
        "'/v1/chat/completions', '/v1/completions', '/v1/embeddings', '/v1/responses'."
    )


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/v1/moderations", (moderation_create_params.ModerationCreateParams,)),
        (
            "/v1/images/generations",
            (
                image_generate_params.ImageGenerateParamsNonStreaming,
                image_generate_params.ImageGenerateParamsStreaming,
            ),
        ),
        ("/v1/videos", (video_create_params.VideoCreateParams,)),
    ],
)
def test_the_table_has_the_keys_of_the_endpoints_that_only_services_answer(path, params):
    theirs = set().union(*(typing.get_type_hints(one) for one in params))

    assert theirs == OTHER_ENDPOINTS[path].keys
    assert OTHER_ENDPOINTS[path].required in theirs
