"""Reads a multipart form as it arrives: short fields into memory, its one file into the store.

It promises that any body takes no more memory than a few pieces of it, and that every mistake in it
is reported in one sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from vbatch_jupyter.errors import BadRequestError, TooLargeError

_MAX_PARTS = 8
_MAX_HEADER_BYTES = 16 * 1024
_MAX_FIELD_BYTES = 64 * 1024


class Sink(Protocol):
    """Takes the content of the file."""

    def write(self, data: bytes) -> None:
        """Append bytes."""

    def discard(self) -> None:
        """Leave nothing of it; a second call does nothing."""


SinkT = TypeVar("SinkT", bound=Sink)


class FormReader(Generic[SinkT]):
    r"""Reads one form.

    Parameters
    ----------
    content_type
        The request's header.
    file_field
        The name of the field that is the file.
    begin
        Makes what takes the file's content; called when its first byte is near.

    Attributes
    ----------
    fields
        The other fields by name.
    filename
        The file's name, which is data and no path.
    sink
        What `begin` has made; None before.

    Raises
    ------
    BadRequestError
        It is not a form.

    Examples
    --------
    >>> class Kept(list):
    ...     write, discard = list.append, list.clear
    >>> form = FormReader("multipart/form-data; boundary=x", file_field="file", begin=Kept)
    >>> form.write(b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n')
    >>> form.write(b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{}\r\n--x--\r\n')
    >>> form.finish()
    >>> form.fields, form.filename, form.sink
    ({'purpose': 'batch'}, 'a', [b'{}'])
    """

    def __init__(self, content_type: str, *, file_field: str, begin: Callable[[], SinkT]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            message = (
                f"The Content-Type must be multipart/form-data with a boundary, and have the field '{file_field}'; "
                f"it is {content_type[:200]!r}."
            )
            raise BadRequestError(message, code="invalid_content_type")
        self._file_field = file_field
        self._begin = begin
        self.fields: dict[str, str] = {}
        self.filename = "upload"
        self.sink: SinkT | None = None
        self._parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._header_name, self._header_value = bytearray(), bytearray()
        self._name = ""
        self._field: bytearray | None = None
        self._ended = False
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._on_part_begin,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_header_begin": self._on_header_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_end": self._on_end,
                },
                max_header_size=_MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def write(self, data: bytes) -> None:
        """Read the next bytes of the body, and pass those of the file to its sink.

        Raises
        ------
        BadRequestError
            The form is malformed, or has more parts, longer headers or longer fields than it may have.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(error) from error

    def finish(self) -> None:
        """Note the end of the body.

        Raises
        ------
        BadRequestError
            The form is not complete, or has no file.
        """
        if not self._ended:
            message = "The multipart form ends before its last boundary: the upload was interrupted. Send it again."
            raise BadRequestError(message, code="incomplete_upload")
        if self.sink is None:
            message = f"Missing required parameter: '{self._file_field}'."
            raise BadRequestError(message, param=self._file_field, code="missing_required_parameter")

    def discard(self) -> None:
        """Leave nothing of the file; a second call does nothing."""
        if self.sink is not None:
            self.sink.discard()

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            message = f"The multipart form has too many parts: the maximum is {_MAX_PARTS}."
            raise BadRequestError(message, code="too_many_parts")
        self._headers = {}

    def _on_header_begin(self) -> None:
        self._header_name, self._header_value = bytearray(), bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._field = None
        if self._name != self._file_field:
            self._field = bytearray()
            return
        if self.sink is not None:
            message = f"The multipart form has the field '{self._file_field}' twice. Send one file at a time."
            raise BadRequestError(message, param=self._file_field, code="invalid_value")
        self.filename = options.get(b"filename", b"").decode(errors="replace") or self.filename
        self.sink = self._begin()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            assert self.sink is not None
            self.sink.write(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > _MAX_FIELD_BYTES:
            shown = self._name[:100]
            message = f"The field '{shown}' is too large: the maximum is {_MAX_FIELD_BYTES:,} bytes."
            raise TooLargeError(message, param=shown)

    def _on_part_end(self) -> None:
        if self._field is not None:
            self.fields[self._name] = self._field.decode(errors="replace")

    def _on_end(self) -> None:
        self._ended = True


def _malformed(error: FormParserError) -> BadRequestError:
    return BadRequestError(f"The multipart form is malformed: {error}.", code="invalid_multipart")
