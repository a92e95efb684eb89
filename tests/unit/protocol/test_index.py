from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbatch_jupyter.errors import StoreCorruptError
from vbatch_jupyter.protocol.index import LineIndex

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
ENTRIES = st.fixed_dictionaries(
    {
        "offset": U64,
        "length": U32,
        "number": U32,
        "custom_id_hash": U64,
        "request_hash": U64,
        "deterministic": st.booleans(),
        "prefix_key": st.integers(0, 2**128 - 1),
        "output_limit": U32,
    }
)


def build(entries):
    index = LineIndex()
    for entry in entries:
        index.append(**entry)
    return index


@given(st.lists(ENTRIES, max_size=20))
def test_an_index_read_back_has_the_same_entries(entries):
    index = LineIndex.from_bytes(build(entries).to_bytes())

    assert len(index) == len(entries)
    assert list(index.offsets) == [entry["offset"] for entry in entries]
    assert list(index.lengths) == [entry["length"] for entry in entries]
    assert list(index.numbers) == [entry["number"] for entry in entries]
    assert list(index.custom_id_hashes) == [entry["custom_id_hash"] for entry in entries]
    assert list(index.request_hashes) == [entry["request_hash"] for entry in entries]
    assert list(index.deterministic) == [entry["deterministic"] for entry in entries]
    assert list(index.output_limits) == [entry["output_limit"] for entry in entries]
    keys = zip(index.prefix_keys, index.prefix_keys_below, strict=True)
    assert [upper << 64 | lower for upper, lower in keys] == [entry["prefix_key"] for entry in entries]


@given(st.lists(ENTRIES, min_size=1, max_size=5), st.data())
def test_any_torn_index_is_noticed(entries, data):
    whole = build(entries).to_bytes()
    torn = whole[: data.draw(st.integers(0, len(whole) - 1))]

    with pytest.raises(StoreCorruptError, match=r"(incomplete|damaged).* Validate the batch again\."):
        LineIndex.from_bytes(torn)


@given(st.lists(ENTRIES, min_size=1, max_size=5), st.data())
def test_any_changed_byte_is_noticed(entries, data):
    changed = bytearray(build(entries).to_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(StoreCorruptError, match="damaged"):
        LineIndex.from_bytes(bytes(changed))


def test_indexes_are_equal_when_their_entries_are():
    entry = {
        "offset": 0,
        "length": 1,
        "number": 1,
        "custom_id_hash": 2,
        "request_hash": 3,
        "deterministic": True,
        "prefix_key": 4,
    }

    assert build([entry]) == build([entry])
    assert build([entry]) != build([{**entry, "prefix_key": 5}])
    assert build([entry]) != build([entry, entry])
    assert build([]) != "an index"


def test_an_index_says_how_many_requests_it_has_and_takes_53_bytes_for_each():
    index = LineIndex()
    for position in range(1000):
        index.append(
            offset=position * 100,
            length=99,
            number=position + 1,
            custom_id_hash=position,
            request_hash=position,
            deterministic=False,
            prefix_key=0,
        )

    assert repr(index) == "<LineIndex of 1,000 requests>"
    assert len(index.to_bytes()) == 20 + 53 * 1000
