"""The keys that a request's body may have, so that a misspelt one is an error and not silently ignored.

vLLM takes any key and ignores those it does not know. The tables are written down, because neither vLLM nor the
``openai`` package should have to be imported to check a key; tests hold them to vLLM 0.32 and openai 3.57.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from vbatch_jupyter.errors import BadRequestError

ENDPOINTS: Mapping[str, str] = MappingProxyType(
    {
        "chat": "/v1/chat/completions",
        "completions": "/v1/completions",
        "embeddings": "/v1/embeddings",
        "responses": "/v1/responses",
    }
)
"""The short names of the endpoints, and their paths."""


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPENAI_KEYS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "/v1/chat/completions": _keys("""
            audio frequency_penalty function_call functions logit_bias logprobs
            max_completion_tokens max_tokens messages metadata modalities model moderation n
            parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_options
            prompt_cache_retention reasoning_effort response_format safety_identifier seed
            service_tier stop store stream stream_options temperature tool_choice tools top_logprobs
            top_p user verbosity web_search_options
        """),
        "/v1/completions": _keys("""
            best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty
            prompt seed stop stream stream_options suffix temperature top_p user
        """),
        "/v1/embeddings": _keys("""
            dimensions encoding_format input model user
        """),
        "/v1/responses": _keys("""
            access_programs background background_options context_management conversation image
            include input instructions max_output_tokens max_tool_calls metadata model moderation
            parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_options
            prompt_cache_retention reasoning safety_identifier service_tier store stream
            stream_options temperature text tool_choice tools top_logprobs top_p truncation user
        """),
    }
)
"""By endpoint, the keys of OpenAI's API."""

VLLM_KEYS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "/v1/chat/completions": _keys("""
            add_generation_prompt add_special_tokens allowed_token_ids bad_words cache_salt
            chat_template chat_template_kwargs continue_final_message documents ec_transfer_params
            echo ignore_eos include_reasoning include_stop_str_in_output kv_transfer_params
            length_penalty logprob_token_ids media_io_kwargs min_p min_tokens mm_payload
            mm_processor_kwargs priority prompt_logprobs repetition_detection repetition_penalty
            request_id return_mm_kwargs return_prompt_text return_token_ids return_token_offsets
            return_tokens_as_token_ids routed_experts_prompt_start session_id skip_special_tokens
            spaces_between_special_tokens stop_token_ids stream_interval structured_outputs
            thinking_token_budget top_k truncate_prompt_tokens truncation_side use_beam_search
            vllm_xargs watermarking
        """),
        "/v1/completions": _keys("""
            add_special_tokens allowed_token_ids bad_words cache_salt ec_transfer_params ignore_eos
            include_stop_str_in_output kv_transfer_params length_penalty logprob_token_ids min_p
            min_tokens mm_payload priority prompt_embeds prompt_logprobs repetition_detection
            repetition_penalty request_id response_format return_mm_kwargs return_token_ids
            return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start session_id
            skip_special_tokens spaces_between_special_tokens stop_token_ids stream_interval
            structured_outputs thinking_token_budget top_k truncate_prompt_tokens truncation_side
            use_beam_search vllm_xargs watermarking
        """),
        "/v1/embeddings": _keys("""
            add_generation_prompt add_special_tokens cache_salt chat_template chat_template_kwargs
            continue_final_message embed_dtype endianness media_io_kwargs messages
            mm_processor_kwargs padding priority request_id truncate_prompt_tokens truncation_side
            use_activation
        """),
        "/v1/responses": _keys("""
            cache_salt chat_template_kwargs ec_transfer_params enable_response_messages
            frequency_penalty ignore_eos include_reasoning include_stop_str_in_output
            kv_transfer_params logit_bias media_io_kwargs min_p mm_payload mm_processor_kwargs
            presence_penalty previous_input_messages priority repetition_penalty request_id
            return_mm_kwargs seed session_id skip_special_tokens stop stop_token_ids
            structured_outputs top_k vllm_xargs watermarking
        """),
    }
)
"""By endpoint, the keys that vLLM adds to OpenAI's."""


def endpoint_path(name_or_path: str) -> str:
    """Give the path of an endpoint that is named either way.

    Raises
    ------
    BadRequestError
        There is no such endpoint.

    Examples
    --------
    >>> endpoint_path("chat"), endpoint_path("/v1/embeddings")
    ('/v1/chat/completions', '/v1/embeddings')
    """
    path = ENDPOINTS.get(name_or_path, name_or_path)
    if path not in OPENAI_KEYS:
        supported = ", ".join(f"'{name}'" for name in (*ENDPOINTS, *ENDPOINTS.values()))
        message = f"Invalid value: '{name_or_path}'. Supported values are: {supported}."
        raise BadRequestError(message, param="endpoint", code="invalid_value")
    return path


def check_body_keys(endpoint: str, keys: Iterable[str]) -> None:
    """Refuse keys that neither OpenAI nor vLLM knows.

    Parameters
    ----------
    endpoint
        A short name or a path.
    keys
        The body's keys.

    Raises
    ------
    BadRequestError
        Names every unknown key, and the known keys nearest to it.

    Examples
    --------
    >>> check_body_keys("chat", ["temperature", "top_k"])
    >>> check_body_keys("chat", ["temprature"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    vbatch_jupyter.errors.BadRequestError: Neither OpenAI nor vLLM knows the key 'temprature' ... 'temperature'?
    """
    path = endpoint_path(endpoint)
    known = OPENAI_KEYS[path] | VLLM_KEYS[path]
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise BadRequestError(" ".join(_unknown_key(key, path, known) for key in unknown), param=unknown[0])


def _unknown_key(key: str, path: str, known: frozenset[str]) -> str:
    elsewhere = [other for other in OPENAI_KEYS if key in OPENAI_KEYS[other] | VLLM_KEYS[other]]
    near = difflib.get_close_matches(key, sorted(known), cutoff=0.7)
    if elsewhere:
        advice = f"; it belongs to {' and '.join(elsewhere)}."
    elif near:
        advice = ": did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    else:
        advice = "; leave it out."
    return f"Neither OpenAI nor vLLM knows the key '{key}' for {path}{advice}"
