"""Checks what a batch service would refuse in an input file in the store or in the request's body."""

from __future__ import annotations

import io
import itertools
from typing import Any

import msgspec
from tornado import web

from vbatch_jupyter.manager.waiting import models_for
from vbatch_jupyter.protocol.check import Finding, Summary, check, first_url
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.server.handler import RefusedError, VBatchHandler

MAX_BODY_BYTES = 8 * 1024 * 1024
"""The largest file that is checked from a body; a larger one is uploaded, and named."""

MAX_FINDINGS = 1000
"""Findings in one answer; the counts are of all of them."""

_HERE = "here"
"""The target of a batch that is made on this server."""

_FILES_OF_LINES = ("application/jsonl", "application/x-ndjson", "application/octet-stream")


class CheckedFile(msgspec.Struct):
    """The body of a check of a file that is in the store."""

    file_id: str
    target: str = "openai"


class CheckHandler(VBatchHandler):
    """``/vbatch/check``."""

    auth_resource = "vbatch_files"
    # Nothing is changed.
    auth_action = "read"
    max_body_bytes = MAX_BODY_BYTES

    @web.authenticated
    async def post(self) -> None:
        """Check a file: ``{"file_id": …, "target": …}``, or JSON lines with the target in the query."""
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind in _FILES_OF_LINES:
            content = bytes(self._body)
            target = self.get_query_argument("target", "openai")
            self._refuse_unknown(target)
            await self.send_from(lambda: self._report(io.BytesIO(content), target))
            return
        asked = self.body_as(CheckedFile)
        self._refuse_unknown(asked.target)
        await self.send_from(lambda: self._report_of(asked))

    def _report_of(self, asked: CheckedFile) -> dict[str, Any]:
        with self.backend.manager.files.content(asked.file_id) as content:
            return self._report(content, asked.target)

    def _report(self, content: Any, target: str) -> dict[str, Any]:
        summary = Summary(target)
        # Here, batches over HTTP have the limits of a service, and an engine answers them.
        profile = self.backend.profile.answered_here() if target == _HERE else PROFILES[target]
        endpoint = first_url(content, profile)
        # A batch waits for its model here, so that is only said of a check for what can run now.
        models = models_for(target, self.backend.store)
        findings = summary.counted(check(content, profile, endpoint=endpoint, models=models))
        listed: list[Finding] = list(itertools.islice(findings, MAX_FINDINGS))
        left_out = sum(1 for _ in findings)
        return {
            "object": "vbatch.check",
            "target": target,
            "endpoint": endpoint,
            "endpoints": list(profile.endpoints),
            "would_run": not summary.refuses,
            "counts": summary.counts,
            "findings": listed,
            "left_out": left_out,
            "summary": str(summary),
        }

    def _refuse_unknown(self, target: str) -> None:
        if target not in (known := [_HERE, *PROFILES]):
            message = f"Invalid value: '{target}'. Supported values are: {', '.join(map(repr, known))}."
            raise RefusedError(400, message, param="target", code="invalid_value")


ROUTES = ((r"/vbatch/check", CheckHandler),)
