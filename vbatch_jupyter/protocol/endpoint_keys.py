"""The keys that the body of a request may have, by the name of its endpoint.

vLLM takes any key and ignores those it does not know, so that a misspelt one would be lost without a word. The keys are
written down, because neither vLLM nor the ``openai`` package should have to be imported to check one; tests compare
them with vLLM 0.32 and openai 3.57.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPENAI_KEYS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "chat": _keys("""
            audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
            messages metadata modalities model moderation n parallel_tool_calls prediction presence_penalty
            prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort response_format
            safety_identifier seed service_tier stop store stream stream_options temperature tool_choice tools
            top_logprobs top_p user verbosity web_search_options
        """),
        "completions": _keys("""
            best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed
            stop stream stream_options suffix temperature top_p user
        """),
        "embeddings": _keys("""
            dimensions encoding_format input model user
        """),
        "responses": _keys("""
            access_programs background background_options context_management conversation image include input
            instructions max_output_tokens max_tool_calls metadata model moderation parallel_tool_calls
            previous_response_id prompt prompt_cache_key prompt_cache_options prompt_cache_retention reasoning
            safety_identifier service_tier store stream stream_options temperature text tool_choice tools
            top_logprobs top_p truncation user
        """),
    }
)
"""The keys of OpenAI's API."""

VLLM_KEYS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "chat": _keys("""
            add_generation_prompt add_special_tokens allowed_token_ids bad_words cache_salt chat_template
            chat_template_kwargs continue_final_message documents ec_transfer_params echo ignore_eos
            include_reasoning include_stop_str_in_output kv_transfer_params length_penalty logprob_token_ids
            media_io_kwargs min_p min_tokens mm_payload mm_processor_kwargs priority prompt_logprobs
            repetition_detection repetition_penalty request_id return_mm_kwargs return_prompt_text
            return_token_ids return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start
            session_id skip_special_tokens spaces_between_special_tokens stop_token_ids stream_interval
            structured_outputs thinking_token_budget top_k truncate_prompt_tokens truncation_side
            use_beam_search vllm_xargs watermarking
        """),
        "completions": _keys("""
            add_special_tokens allowed_token_ids bad_words cache_salt ec_transfer_params ignore_eos
            include_stop_str_in_output kv_transfer_params length_penalty logprob_token_ids min_p min_tokens
            mm_payload priority prompt_embeds prompt_logprobs repetition_detection repetition_penalty request_id
            response_format return_mm_kwargs return_token_ids return_token_offsets return_tokens_as_token_ids
            routed_experts_prompt_start session_id skip_special_tokens spaces_between_special_tokens
            stop_token_ids stream_interval structured_outputs thinking_token_budget top_k truncate_prompt_tokens
            truncation_side use_beam_search vllm_xargs watermarking
        """),
        "embeddings": _keys("""
            add_generation_prompt add_special_tokens cache_salt chat_template chat_template_kwargs
            continue_final_message embed_dtype endianness media_io_kwargs messages mm_processor_kwargs padding
            priority request_id truncate_prompt_tokens truncation_side use_activation
        """),
        "responses": _keys("""
            cache_salt chat_template_kwargs ec_transfer_params enable_response_messages frequency_penalty
            ignore_eos include_reasoning include_stop_str_in_output kv_transfer_params logit_bias
            media_io_kwargs min_p mm_payload mm_processor_kwargs presence_penalty previous_input_messages
            priority repetition_penalty request_id return_mm_kwargs seed session_id skip_special_tokens stop
            stop_token_ids structured_outputs top_k vllm_xargs watermarking
        """),
    }
)
"""The keys that vLLM adds."""
