"""The examples of the table of rules, as whole bodies."""

from __future__ import annotations

import json
from typing import Any

from vbatch_jupyter.protocol import policy

PROMPTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4},
    "/v1/completions": {"prompt": "Hello", "max_tokens": 4},
    "/v1/embeddings": {"input": "Hello"},
    "/v1/responses": {"input": "Hello", "max_output_tokens": 16},
}

EXAMPLES = [
    (rule, example, breaks)
    for rule in policy.RULES
    for breaks, examples in ((True, rule.breaks), (False, () if rule.ignored else rule.keeps))
    for example in examples
]
"""A rule, one of its examples, and whether it breaks the rule."""


def body_of(path: str, example: str, model: str = "m") -> dict[str, Any]:
    """Return the whole body of an example."""
    return {"model": model, **PROMPTS[path], **json.loads(example)}
