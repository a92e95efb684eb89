"""The limits for an input file: OpenAI's, Parasail's, or only those of this machine."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.policy import Server

_MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The rules of one batch service.

    Parameters
    ----------
    name
        Its key in `PROFILES`.
    max_lines
        Requests in one input file; None for no limit.
    max_bytes
        Bytes of one input file; None for no limit.
    max_line_bytes
        Bytes of one line. No service documents one; it bounds what a single line can take of this machine's memory.
    max_custom_id_bytes
        Bytes of one custom_id in UTF-8; not documented by any service either.
    max_embedding_inputs
        Inputs of embedding requests, summed over the file; None for no limit.
    endpoints
        The paths of the endpoints that a batch may be made for; all of `endpoints.ENDPOINTS` by default.
    match_endpoint
        Whether each line's url must be the batch's endpoint; otherwise any of `endpoints` will do.
    single_model
        Whether all lines must name the same model.
    completion_windows
        The values of ``completion_window`` that are accepted.
    extra_inputs
        Whether the inputs that only vLLM knows (``prompt_embeds`` for completions, ``messages`` for embeddings) count
        as the request's input.
    server
        Who answers the requests, for the rules of `policy`.
    refuses_unknown
        Whether a request with a key that nobody knows is answered with an error.
    models
        A regular expression that the names of its models fit; None for any.
    file_seconds
        How long after its creation a file for a batch, or a batch's output or error file, expires if its client does
        not say; None keeps it until it is deleted.
    grammar
        Which grammars hold answers to a schema; one of `grammar_schema.GRAMMARS`.
    """

    name: str
    max_lines: int | None = None
    max_bytes: int | None = None
    max_line_bytes: int = 16 * _MIB
    max_custom_id_bytes: int = 512
    max_embedding_inputs: int | None = None
    endpoints: Collection[str] = dataclasses.field(default_factory=ENDPOINTS.keys)
    match_endpoint: bool = True
    single_model: bool = True
    completion_windows: Sequence[str] = ("24h",)
    extra_inputs: bool = False
    server: Server = "local"
    refuses_unknown: bool = False
    models: str | None = None
    file_seconds: int | None = None
    grammar: str = "vllm"

    def answered_here(self) -> Profile:
        """Return the rules for a batch that an engine here answers.

        Examples
        --------
        >>> sorted(set(PROFILES["openai"].endpoints) - set(PROFILES["openai"].answered_here().endpoints))
        ['/v1/images/edits', '/v1/images/generations', '/v1/moderations', '/v1/videos']
        """
        # Where urls may differ, what the engine cannot answer becomes an error line. A whole batch of it would not do.
        endpoints = ENDPOINTS.keys() if self.match_endpoint else self.endpoints
        return dataclasses.replace(self, server="local", models=None, endpoints=endpoints)

    def without_limits_of_files(self) -> Profile:
        """Return the rules for a file that will be divided into several.

        Examples
        --------
        >>> PROFILES["openai"].without_limits_of_files().max_lines
        """
        return dataclasses.replace(self, max_lines=None, max_bytes=None, max_embedding_inputs=None)


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
PROFILES: Mapping[str, Profile] = MappingProxyType(
    {name: Profile(name=name, **limits) for name, limits in _TABLE.items()}
)
"""The profiles by name."""

HERE: Mapping[str, Profile] = MappingProxyType({name: profile.answered_here() for name, profile in PROFILES.items()})
"""The same for batches that an engine here answers."""
