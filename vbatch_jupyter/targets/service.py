"""A batch service, reached through the ``openai`` package.

The package's own retries are switched off: a create that is sent twice would make two batches. The caller decides
what to do next, and finds a batch again by its metadata.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO

from vbatch_jupyter.errors import ServiceError
from vbatch_jupyter.targets.configuration import Target

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

_TIMEOUT_SECONDS = 60.0
# A service has uploaded files to look at before it answers.
_UPLOAD_SECONDS = 600.0
_CLOCKS_DIFFER_SECONDS = 3600
_MESSAGE = 500


class Service:
    """One batch service, with its key.

    Parameters
    ----------
    target
        The service.
    key
        Its key; no message of this object has it.
    """

    def __init__(self, target: Target, key: str) -> None:
        import openai

        self.name = target.name
        self._key = key
        self._client = openai.AsyncOpenAI(
            base_url=target.base_url, api_key=key, max_retries=0, timeout=_TIMEOUT_SECONDS
        )

    def use(self, key: str) -> None:
        """Use this key from now on; an empty one changes nothing."""
        self._key = self._client.api_key = key or self._key

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def upload(self, content: BinaryIO, filename: str) -> str:
        """Upload an input file, and return its id.

        Raises
        ------
        ServiceError
            It failed.
        """
        with self._translated("upload an input file"):
            uploaded = await self._client.files.create(
                file=(filename, content), purpose="batch", timeout=_UPLOAD_SECONDS
            )
        return uploaded.id

    async def create(
        self, *, file_id: str, endpoint: str, completion_window: str, metadata: Mapping[str, str], idempotency_key: str
    ) -> Batch:
        """Create a batch.

        Raises
        ------
        ServiceError
            The service refused, or did not answer; in that case the batch may exist all the same.
        """
        with self._translated("create a batch"):
            return await self._client.batches.create(
                input_file_id=file_id,
                endpoint=endpoint,  # type: ignore[arg-type] # Parasail has others
                completion_window=completion_window,  # type: ignore[arg-type]
                metadata=dict(metadata),
                extra_headers={"Idempotency-Key": idempotency_key},
            )

    async def find(self, metadata: Mapping[str, str], *, since: int) -> Batch | None:
        """Find a batch by its metadata among those made since a time; None if there is no such batch.

        Parameters
        ----------
        metadata
            Pairs that it has, among others.
        since
            Unix seconds of this machine's clock.
        """
        with self._translated("list its batches"):
            async for batch in self._client.batches.list(limit=100):
                if metadata.items() <= (batch.metadata or {}).items():
                    return batch
                if batch.created_at < since - _CLOCKS_DIFFER_SECONDS:
                    break
        return None

    async def retrieve(self, batch_id: str) -> Batch:
        """Return the current state of a batch."""
        with self._translated("retrieve a batch"):
            return await self._client.batches.retrieve(batch_id)

    async def cancel(self, batch_id: str) -> None:
        """Cancel a batch; one that has ended stays as it is."""
        try:
            with self._translated("cancel a batch"):
                await self._client.batches.cancel(batch_id)
        except ServiceError as error:
            if error.status not in {400, 409}:
                raise

    async def lines(self, file_id: str) -> AsyncIterator[bytes]:
        """Download a file line by line, without their ends."""
        with self._translated("download a result file"):
            async with self._client.files.with_streaming_response.content(file_id) as response:
                rest = bytearray()
                async for chunk in response.iter_bytes():
                    searched = len(rest)
                    rest += chunk
                    if rest.find(b"\n", searched) >= 0:
                        *whole, last = bytes(rest).split(b"\n")
                        rest = bytearray(last)
                        for line in whole:
                            yield line
                if rest:
                    yield bytes(rest)

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            raise self._refusal(what, error) from None
        except openai.APIConnectionError as error:
            raise ServiceError(f"{self.name} did not answer when asked to {what}: {error.__cause__ or error}") from None
        except (openai.OpenAIError, OSError) as error:
            raise ServiceError(f"{self.name} failed to {what}: {self._hidden(str(error))}") from None
        except Exception as error:
            # What breaks while an answer is being read comes from the transport under the package, as it is.
            if type(error).__module__.partition(".")[0] not in {"httpx", "httpx2", "httpcore", "httpcore2", "pydantic"}:
                raise
            raise ServiceError(f"{self.name} failed to {what}: {type(error).__name__} {error}") from None

    def _refusal(self, what: str, error: openai.APIStatusError) -> ServiceError:
        after = error.response.headers.get("retry-after", "")
        message = error.body.get("message") if isinstance(error.body, dict) else None
        said = self._hidden(message if isinstance(message, str) else error.message)
        return ServiceError(
            f"{self.name} failed to {what} (status {error.status_code}): {said}",
            status=error.status_code,
            after_seconds=float(after) if after.isdecimal() else None,
        )

    def _hidden(self, text: str) -> str:
        # A service may repeat the key that it refuses.
        return " ".join(text.replace(self._key, "…").split())[:_MESSAGE]
