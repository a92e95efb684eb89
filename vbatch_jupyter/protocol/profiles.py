"""The limits for an input file: OpenAI's, Parasail's, or only those of this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from vbatch_jupyter.protocol.endpoints import ENDPOINTS

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
    more_endpoints
        The endpoints that a batch may be made for besides those in `endpoints.ENDPOINTS`.
    match_endpoint
        Whether each line's url must be the batch's endpoint; otherwise any of `endpoints` will do.
    single_model
        Whether all lines must name the same model.
    completion_windows
        The values of ``completion_window`` that are accepted.
    extra_inputs
        Whether the inputs that only vLLM knows (``prompt_embeds`` for completions, ``messages`` for embeddings) count
        as the request's input.
    file_seconds
        How long after its creation a file for a batch, or a batch's output or error file, expires if its client does
        not say; None keeps it until it is deleted.
    """

    name: str
    max_lines: int | None
    max_bytes: int | None
    max_line_bytes: int = 16 * _MIB
    max_custom_id_bytes: int = 512
    max_embedding_inputs: int | None = None
    more_endpoints: tuple[str, ...] = ()
    match_endpoint: bool = True
    single_model: bool = True
    completion_windows: tuple[str, ...] = ("24h",)
    extra_inputs: bool = False
    file_seconds: int | None = None

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The paths of all endpoints that a batch may be made for."""
        return (*ENDPOINTS, *self.more_endpoints)

    def without_limits_of_files(self) -> Profile:
        """Return the rules for a file that will be divided into several.

        Examples
        --------
        >>> PROFILES["openai"].without_limits_of_files().max_lines
        """
        return dataclasses.replace(self, max_lines=None, max_bytes=None, max_embedding_inputs=None)


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            # OpenAI says "200 MB"; the larger reading is taken, so that no file OpenAI would run is refused here.
            Profile(
                name="openai",
                max_lines=50_000,
                max_bytes=200 * _MIB,
                max_embedding_inputs=50_000,
                file_seconds=30 * 24 * 3600,
            ),
            # Parasail's own client sends up to 500 MB (its pages say 100), mixed models, windows of an hour, and urls
            # other than the batch's endpoint; what the engine here cannot answer becomes an error line.
            Profile(
                name="parasail",
                max_lines=50_000,
                max_bytes=500 * _MIB,
                more_endpoints=("/v1/score", "/v1/rerank", "/v1/images/edits", "/v1/images/generations"),
                match_endpoint=False,
                single_model=False,
                completion_windows=("24h", "1h"),
            ),
            # What a notebook made is kept until its user deletes it; OpenAI's 30 days are for its API.
            # One engine is in the kernel, so a second model in the file could not be answered.
            Profile(name="local", max_lines=None, max_bytes=None, extra_inputs=True),
        )
    }
)
"""The profiles by name."""
