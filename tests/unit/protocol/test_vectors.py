"""Embedding responses: one vector or several, and vectors in base64 in the formats of vLLM."""

from __future__ import annotations

import base64
import json
import math
import struct
from array import array
from typing import Literal

import pytest

from vbatch_jupyter.protocol.endpoints import EMBEDDINGS
from vbatch_jupyter.protocol.vectors import reader_of

NUMBERS = [1.0, -0.5, 0.0, 1.75]


def line(*embeddings: object) -> bytes:
    data = [{"index": index, "embedding": one} for index, one in enumerate(embeddings)]
    return json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": {"data": data[::-1]}}}).encode()


def test_a_list_of_inputs_keeps_all_vectors_in_the_order_of_the_inputs() -> None:
    several = EMBEDDINGS.read(line([1.0, 2.0], [3.0, 4.0])).answer.value
    assert several == [array("f", [1.0, 2.0]), array("f", [3.0, 4.0])]
    assert EMBEDDINGS.read(line([1.0, 2.0])).answer.value == array("f", [1.0, 2.0])


@pytest.mark.parametrize("endianness", ["native", "little", "big", None])
@pytest.mark.parametrize(
    ("dtype", "codes"),
    [
        ("float32", [struct.unpack(">I", struct.pack(">f", number))[0] for number in NUMBERS]),
        ("float16", [0x3C00, 0xB800, 0x0000, 0x3F00]),
        ("bfloat16", [0x3F80, 0xBF00, 0x0000, 0x3FE0]),
        ("fp8_e4m3", [0x38, 0xB0, 0x00, 0x3E]),
        ("fp8_e5m2", [0x3C, 0xB8, 0x00, 0x3F]),
        (None, [struct.unpack(">I", struct.pack(">f", number))[0] for number in NUMBERS]),
    ],
)
def test_base64_is_read_as_the_request_asks(dtype: str | None, codes: list[int], endianness: str | None) -> None:
    """In vLLM 0.32.0 (vllm/utils/serial_utils.py) the response does not say what it is."""
    size = {None: 4, "float32": 4, "float16": 2, "bfloat16": 2}.get(dtype, 1)
    order: Literal["big", "little"] = "big" if endianness == "big" else "little"
    coded = base64.b64encode(b"".join(code.to_bytes(size, order) for code in codes)).decode()
    parse = reader_of({"encoding_format": "base64", "embed_dtype": dtype, "endianness": endianness})
    assert EMBEDDINGS.read(line(coded), parse).answer.value.tolist() == NUMBERS


def test_what_fp8_cannot_hold_is_not_a_number() -> None:
    coded = base64.b64encode(bytes([0x7F, 0x7E, 0x01])).decode()
    parse = reader_of({"encoding_format": "base64", "embed_dtype": "fp8_e4m3"})
    nothing, largest, smallest = EMBEDDINGS.read(line(coded), parse).answer.value
    assert math.isnan(nothing)
    assert (largest, smallest) == (448.0, 2.0**-9)


def test_what_is_not_as_it_was_asked_is_an_error() -> None:
    parse = reader_of({"encoding_format": "base64", "embed_dtype": "float16"})
    odd = base64.b64encode(b"abc").decode()
    error = EMBEDDINGS.read(line(odd), parse).answer.error
    assert error is not None
    assert error.startswith("The embedding cannot be read as base64 of float16 (")
    assert error.endswith(f"): '{odd}'.")
    assert reader_of({"encoding_format": "float", "embed_dtype": "float16"}) is None
