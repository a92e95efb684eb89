"""What an input file asks in vain, said once for all of its requests."""

from __future__ import annotations

from vbatch_jupyter.protocol.notes import Notes
from vbatch_jupyter.protocol.profiles import PROFILES


def test_values_that_python_takes_for_equal_are_told_apart():
    notes = Notes(PROFILES["openai"])
    for name, value in (("a", True), ("b", 1), ("c", [1])):
        notes.see("/v1/chat/completions", {"model": "m", "messages": [], "logprobs": value}, name)
    (logprobs,) = (sentence for sentence in notes.sentences() if "logprobs" in sentence)
    assert logprobs.startswith("2 of 3 requests ('b', 'c') would be answered with an error: Invalid 'logprobs'")
