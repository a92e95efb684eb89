from __future__ import annotations

import typing

from openai.types.batch_create_params import BatchCreateParams

from vbatch_jupyter.protocol.profiles import PROFILES


def test_the_openai_profile_has_openais_documented_limits():
    profile = PROFILES["openai"]

    assert (profile.max_lines, profile.max_bytes, profile.max_embedding_inputs) == (50_000, 200 * 1024 * 1024, 50_000)
    assert (profile.match_endpoint, profile.single_model, profile.completion_windows) == (True, True, ("24h",))
    four = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    # openai 3.57.0, types/batch_create_params.py: all eight of OpenAI's.
    assert sorted(profile.endpoints) == sorted(typing.get_args(typing.get_type_hints(BatchCreateParams)["endpoint"]))
    # An engine here has no pictures.
    assert list(profile.answered_here().endpoints) == four


def test_the_parasail_profile_takes_what_parasails_client_sends():
    profile = PROFILES["parasail"]

    assert (profile.max_lines, profile.max_bytes) == (50_000, 500 * 1024 * 1024)
    assert (profile.match_endpoint, profile.single_model) == (False, False)
    assert set(profile.completion_windows) == {"24h", "1h"}
    assert "/v1/score" in profile.endpoints


def test_the_local_profile_is_bounded_by_the_disk_alone():
    profile = PROFILES["local"]

    assert (profile.max_lines, profile.max_bytes, profile.max_embedding_inputs) == (None, None, None)
    assert profile.single_model
    assert all(profile.name == name for name, profile in PROFILES.items())
