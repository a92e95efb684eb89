from __future__ import annotations

import typing

import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest

from vbatch_jupyter.protocol.body import OPENAI_KEYS, VLLM_KEYS

# EmbeddingRequest is an annotated union: one class for each way to write the input.
REQUESTS = {
    "/v1/chat/completions": (ChatCompletionRequest,),
    "/v1/completions": (CompletionRequest,),
    "/v1/embeddings": typing.get_args(typing.get_args(EmbeddingRequest)[0]),
    "/v1/responses": (ResponsesRequest,),
}


@pytest.mark.parametrize("endpoint", REQUESTS)
def test_the_table_has_the_keys_that_vllm_adds_to_openais_and_no_others(endpoint):
    theirs = set().union(*(request.model_fields for request in REQUESTS[endpoint]))

    assert len(theirs) > 10
    assert theirs - OPENAI_KEYS[endpoint] == VLLM_KEYS[endpoint]
