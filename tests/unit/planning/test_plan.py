from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbatch_jupyter.planning.plan import plan
from vbatch_jupyter.protocol.index import LEVELS, UNLIMITED, LineIndex

PREFIXES = st.tuples(*[st.integers(0, 2)] * LEVELS)


def key(*levels: int) -> int:
    """Make a prefix key of one number per level, the widest first; levels not given are 0."""
    packed = 0
    for level in (*levels, *[0] * LEVELS)[:LEVELS]:
        packed = packed << 16 | level
    return packed


def build(*requests: tuple[int, bool, int], limits: Sequence[int] = ()) -> LineIndex:
    """Make an index of (request hash, deterministic, prefix key), and of the output limits where there are any."""
    index = LineIndex()
    for position, (request_hash, deterministic, prefix_key) in enumerate(requests):
        index.append(
            offset=position,
            # As in real files, lines of equal requests differ in length by their custom_ids.
            length=position,
            number=position + 1,
            custom_id_hash=position,
            request_hash=request_hash,
            deterministic=deterministic,
            prefix_key=prefix_key,
            output_limit=limits[position] if limits else UNLIMITED,
        )
    return index


def test_requests_that_share_nothing_keep_the_order_of_the_file():
    index = build(*((position, True, key(100 - position)) for position in range(10)))

    assert list(plan(index, bytes(10)).order) == list(range(10))


def test_an_empty_batch_has_an_empty_plan():
    empty = plan(LineIndex(), b"")

    assert (len(empty), empty.order, empty.followers) == (0, array("I"), {})


def test_requests_with_a_common_beginning_run_together_where_the_first_of_them_stands():
    prefixes = [9, 5, 9, 7, 5, 9]
    index = build(*((position, False, key(prefix)) for position, prefix in enumerate(prefixes)))

    assert list(plan(index, bytes(6)).order) == [0, 2, 5, 1, 4, 3]


def test_longer_common_beginnings_are_groups_within_the_groups_of_shorter_ones():
    prefixes = [key(1, 9), key(2, 1), key(1, 3), key(1, 9, 4), key(1, 3, 1), key(1, 9), key(1, 9, 4, 8)]
    index = build(*((position, False, prefix) for position, prefix in enumerate(prefixes)))

    assert list(plan(index, bytes(7)).order) == [0, 5, 3, 6, 2, 4, 1]


def test_the_longest_answers_run_first_and_those_of_equal_length_in_the_order_of_the_file():
    index = build(*((n, False, key(n)) for n in range(6)), limits=[16, 512, 16, UNLIMITED, 512, 64])

    assert list(plan(index, bytes(6)).order) == [3, 1, 4, 5, 0, 2]


def test_the_longest_answer_of_a_group_brings_the_group_forward_and_does_not_leave_it():
    prefixes = [key(1), key(2), key(3, 1), key(3, 2), key(1), key(3, 1), key(2)]
    index = build(*((n, False, prefix) for n, prefix in enumerate(prefixes)), limits=[16, 64, 16, 32, 16, 128, 512])

    assert list(plan(index, bytes(7)).order) == [6, 1, 5, 2, 3, 0, 4]


def test_deterministic_duplicates_follow_the_first_of_them():
    index = build(*((request, True, key(request)) for request in (1, 2, 1, 3, 2, 1)))

    planned = plan(index, bytes(6))

    assert list(planned.order) == [0, 1, 3]
    assert planned.followers == {0: array("I", [2, 5]), 1: array("I", [4])}
    assert len(planned) == 6


def test_duplicates_that_are_not_deterministic_run_each_by_itself():
    planned = plan(build(*((1, False, key(1)) for _ in range(4))), bytes(4))

    assert list(planned.order) == [0, 1, 2, 3]
    assert planned.followers == {}


def test_a_request_that_is_deterministic_never_leads_one_that_is_not():
    planned = plan(build((1, False, 0), (1, True, 0), (1, False, 0), (1, True, 0)), bytes(4))

    assert list(planned.order) == [0, 1, 2]
    assert planned.followers == {1: array("I", [3])}


def test_finished_requests_neither_run_nor_lead():
    index = build(*((1, True, key(1)) for _ in range(4)))

    planned = plan(index, bytearray([1, 0, 2, 0]))

    assert list(planned.order) == [1]
    assert planned.followers == {1: array("I", [3])}
    assert len(plan(index, b"\1\1\2\2")) == 0


def test_a_list_of_finished_requests_of_another_batch_is_refused():
    with pytest.raises(ValueError, match="finished has 3 entries, and the index has 2 requests"):
        plan(build((1, True, 0), (2, True, 0)), bytes(3))


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), PREFIXES, st.integers(0, 2), st.sampled_from([8, 16, UNLIMITED])),
        max_size=40,
    )
)
def test_every_unfinished_request_is_planned_exactly_once_and_groups_stay_whole(requests):
    limits = [limit for *_, limit in requests]
    index = build(*((request, sure, key(*prefix)) for request, sure, prefix, _, _ in requests), limits=limits)
    finished = bytes(done for _, _, _, done, _ in requests)

    planned = plan(index, finished)

    followers = [position for group in planned.followers.values() for position in group]
    assert sorted([*planned.order, *followers]) == [i for i, done in enumerate(finished) if not done]
    assert len(planned) == len(planned.order) + len(followers)
    for leader, group in planned.followers.items():
        assert leader in planned.order
        assert list(group) == sorted(group)
        assert all(index.deterministic[i] for i in [leader, *group])
        assert {index.request_hashes[i] for i in group} == {index.request_hashes[leader]}
    for level in range(1, LEVELS + 1):
        along = [requests[position][2][:level] for position in planned.order]
        leads = [i for i in range(len(along)) if i == 0 or along[i - 1] != along[i]]
        assert len(leads) == len(set(along)), "a group was split"
        if level == 1:
            groups = itertools.pairwise([*leads, len(along)])
            longest = [max(limits[planned.order[i]] for i in range(*ends)) for ends in groups]
            assert longest == sorted(longest, reverse=True)
