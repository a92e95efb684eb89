from __future__ import annotations

import json
import subprocess
import sys

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from vbatch_jupyter.engine.vllm.serve_flags import serve_flags
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.keys import installed_vllm, numbers_of

# In a process of its own: vLLM's import warns, and a warning is an error here. EmbeddingRequest is an annotated union:
# one class for each way to write the input.
LIST_KEYS = """
import json, typing
from vbatch_jupyter.engine.vllm import installed
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
from vllm.utils.argparse_utils import FlexibleArgumentParser
requests = {
    "/v1/chat/completions": (ChatCompletionRequest,),
    "/v1/completions": (CompletionRequest,),
    "/v1/embeddings": typing.get_args(typing.get_args(EmbeddingRequest)[0]),
    "/v1/responses": (ResponsesRequest,),
}
keys = {path: sorted(set().union(*(one.model_fields for one in classes))) for path, classes in requests.items()}
parser = installed.load("vllm.entrypoints.common.cli_args").make_arg_parser(FlexibleArgumentParser(add_help=False))
flags = list(parser._option_string_actions)
print("KEYS", json.dumps({**keys, "flags": flags}))
"""


@pytest.fixture(scope="module")
def vllm_keys() -> dict[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", LIST_KEYS], capture_output=True, text=True, check=True)
    keys: dict[str, list[str]] = json.loads(done.stdout.rpartition("KEYS ")[2])
    return keys


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda endpoint: endpoint.name)
def test_the_table_has_the_keys_that_vllm_adds_to_openais_and_no_others(vllm_keys, endpoint):
    theirs = set(vllm_keys[endpoint.path])
    assert len(theirs) > 10
    here = installed_vllm()
    newer = {key for key, version in endpoint.newer_keys.items() if here is None or here >= numbers_of(version)}
    assert theirs - endpoint.openai_keys == endpoint.vllm_keys | newer


def test_tab_offers_the_flags_that_vllm_serve_has(vllm_keys):
    theirs = {flag for flag in vllm_keys["flags"] if flag.startswith("--") and not flag.startswith("--no-")}
    assert theirs > {"--max-model-len", "--served-model-name", "--tool-call-parser", "--port"}
    assert set(serve_flags()) == theirs
    shell = InteractiveShell()
    shell.run_cell("%load_ext vbatch_jupyter")
    code = "%vbatch load demo --enforce-eager --max-num-b"
    with provisionalcompleter():
        (offered,) = shell.Completer.completions(code, len(code))
    assert code[: offered.start] + offered.text == "%vbatch load demo --enforce-eager --max-num-batched-tokens"
    assert "vllm" not in sys.modules
