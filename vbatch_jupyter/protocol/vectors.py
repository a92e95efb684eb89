"""The shape of responses whose answer is a vector, and vectors in base64.

OpenAI encodes float32, little-endian. vLLM also takes ``embed_dtype`` and ``endianness`` in the request; the response
does not say what was asked.
"""

from __future__ import annotations

import base64
import functools
import struct
import sys
from array import array
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from vbatch_jupyter.protocol.shapes import Answer, Parse, ResponseBody, quote


class _Embedding(msgspec.Struct):
    index: int = 0
    embedding: list[float] | str | None = None

    def vector(self, decode: Parse | None) -> array[float]:
        """Return it as numbers; ValueError if it cannot be read."""
        if self.embedding is None:
            raise ValueError("The response has no embedding.")
        if isinstance(self.embedding, list):
            return array("f", self.embedding)
        try:
            vector: array[float] = (decode or read_vector)(self.embedding)
        except ValueError as error:
            raise ValueError(f"The embedding {error}: {quote(self.embedding)}.") from error
        return vector


class EmbeddingBody(ResponseBody):
    """A response whose answer is a vector, or one for each text of the input."""

    data: list[_Embedding] | None = None

    def answer(self, parse: Parse | None) -> Answer | None:
        """Return the vector, or all of them in the order of the input."""
        if not self.data:
            return None
        try:
            found = [one.vector(parse) for one in sorted(self.data, key=lambda one: one.index)]
        except ValueError as error:
            return Answer(error=str(error))
        return Answer(found[0] if len(found) == 1 else found)

    @classmethod
    def echo(cls, text: str) -> dict[str, Any]:
        """Make a vector of a text's length."""
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [float(len(text)), 0.0]}],
        }


def reader_of(body: Mapping[str, Any]) -> Callable[[str], array[float]] | None:
    """Return a function that reads the vectors in the response to a request; None if they are OpenAI's.

    The function raises a `ValueError` if a vector is not encoded as the request asks.

    Parameters
    ----------
    body
        The body of the request.

    Examples
    --------
    >>> read = reader_of({"encoding_format": "base64", "embed_dtype": "float16", "endianness": "big"})
    >>> read("PAC4AA==").tolist()
    [1.0, -0.5]
    >>> reader_of({"encoding_format": "base64"}) is None
    True
    """
    if body.get("encoding_format") != "base64":
        return None
    dtype, endianness = body.get("embed_dtype") or "float32", body.get("endianness") or "native"
    if (dtype, endianness) in (("float32", "native"), ("float32", "little")):
        return None
    return functools.partial(read_vector, dtype=dtype, is_big=endianness == "big")


def read_vector(text: str, *, dtype: str = "float32", is_big: bool = False) -> array[float]:
    """Read a vector.

    Parameters
    ----------
    text
        Base64.
    dtype
        vLLM's ``embed_dtype``.
    is_big
        Whether its numbers are big-endian.

    Raises
    ------
    ValueError
        It is not what it should be.
    """
    try:
        return _NUMBERS[dtype](base64.b64decode(text, validate=True), is_big)
    except (ValueError, KeyError) as error:
        # A name that vLLM does not know would not have been answered.
        reason = "unknown" if isinstance(error, KeyError) else error
        raise ValueError(f"cannot be read as base64 of {dtype} ({reason})") from error


def _array(code: str, data: bytes, is_big: bool) -> array[Any]:  # noqa: FBT001 - as the functions below take it
    numbers = array(code)
    numbers.frombytes(data)
    if is_big != (sys.byteorder == "big"):
        numbers.byteswap()
    return numbers


def _float32(data: bytes, is_big: bool) -> array[float]:  # noqa: FBT001
    return _array("f", data, is_big)


def _float16(data: bytes, is_big: bool) -> array[float]:  # noqa: FBT001
    halves = _array("H", data, is_big)
    return array("f", struct.unpack(f"{len(halves)}e", halves.tobytes()))


def _bfloat16(data: bytes, is_big: bool) -> array[float]:  # noqa: FBT001
    # The upper half of a float32.
    numbers = array("f")
    numbers.frombytes(array("I", (half << 16 for half in _array("H", data, is_big))).tobytes())
    return numbers


def _fp8_e5m2(data: bytes, is_big: bool) -> array[float]:  # noqa: FBT001
    del is_big
    # The upper half of a float16.
    return array("f", struct.unpack(f"<{len(data)}e", bytes(part for byte in data for part in (0, byte))))


def _fp8_e4m3(data: bytes, is_big: bool) -> array[float]:  # noqa: FBT001
    del is_big
    return array("f", (_e4m3()[byte] for byte in data))


@functools.cache
def _e4m3() -> tuple[float, ...]:
    """Return the numbers of the 256 bytes: a sign, four bits of exponent and three of fraction, without infinity."""
    positive = [
        (fraction / 8 if exponent == 0 else 1 + fraction / 8) * 2.0 ** (max(exponent, 1) - 7)
        for exponent in range(16)
        for fraction in range(8)
    ]
    positive[-1] = float("nan")
    return (*positive, *(-number for number in positive))


_NUMBERS: Mapping[str, Callable[[bytes, bool], array[float]]] = {
    "float32": _float32,
    "float16": _float16,
    "bfloat16": _bfloat16,
    "fp8_e4m3": _fp8_e4m3,
    "fp8_e5m2": _fp8_e5m2,
}
