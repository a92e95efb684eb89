"""The order in which the requests of a batch run, and which of them share an answer."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Mapping, Sequence

from vbatch_jupyter.protocol.index import LineIndex, repeated


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How to run the requests of a batch that have no answer yet.

    Every such request is there exactly once: in ``order``, or among the followers of a request in it.

    Parameters
    ----------
    order
        Positions of the requests to run, counted from 0 in the input file, in the order in which to start them.
    followers
        By the position of a request in ``order``, the positions of those that take its answer.
    """

    order: array[int]
    followers: Mapping[int, array[int]]

    def __len__(self) -> int:
        """How many requests the plan answers."""
        return len(self.order) + sum(map(len, self.followers.values()))


def plan(index: LineIndex, finished: bytes | bytearray) -> Plan:
    """Put requests with a common beginning next to each other, and deterministic duplicates behind one of them.

    Requests whose prompts share a beginning form groups within groups, by the lengths of `protocol.index`. Among the
    groups of a group, and among single requests, those with the longest answers run first, so that none of them is
    left alone with the engine at the end; where answers may be equally long, the file's order is kept.

    The plan compares hashes. Before an answer is shared the caller must compare the bytes of both requests (url and
    body, without the custom_id), and run the follower by itself where they differ.

    Parameters
    ----------
    index
        The batch's requests.
    finished
        One byte per request; 0 if it has no answer yet.

    Raises
    ------
    ValueError
        ``finished`` and ``index`` are not of the same length.

    Examples
    --------
    >>> index = LineIndex()
    >>> for position, (request, prefix) in enumerate([(1, 1 << 48), (2, 2 << 48), (3, 1 << 48), (1, 1 << 48)]):
    ...     index.append(
    ...         offset=0,
    ...         length=0,
    ...         number=position + 1,
    ...         custom_id_hash=position,
    ...         request_hash=request,
    ...         deterministic=True,
    ...         prefix_key=prefix << 64,
    ...     )
    >>> plan(index, bytes(4))
    Plan(order=array('I', [0, 2, 1]), followers={0: array('I', [3])})
    """
    if len(finished) != len(index):
        raise ValueError(f"finished has {len(finished):,} entries, and the index has {len(index):,} requests")
    unfinished = array("I", (position for position, done in enumerate(finished) if not done))
    candidates, followers = _share(index, unfinished)
    order = array("I")
    _arrange(candidates, _levels(index), index.output_limits, order)
    return Plan(order, followers)


def _share(index: LineIndex, unfinished: array[int]) -> tuple[array[int], dict[int, array[int]]]:
    """Move deterministic duplicates behind the first request of their kind."""
    deterministic, hashes = index.deterministic, index.request_hashes
    shared = repeated(hashes[position] for position in unfinished if deterministic[position])
    candidates = array("I")
    followers: dict[int, array[int]] = {}
    leaders: dict[int, int] = {}
    for position in unfinished:
        if not deterministic[position] or hashes[position] not in shared:
            candidates.append(position)
            continue
        leader = leaders.setdefault(hashes[position], position)
        if leader == position:
            candidates.append(position)
        else:
            followers.setdefault(leader, array("I")).append(position)
    return candidates, followers


def _levels(index: LineIndex) -> Sequence[tuple[array[int], int]]:
    """Return the column and the shift of its numbers for each level of the prefix keys, widest first."""
    return [(column, shift) for column in (index.prefix_keys, index.prefix_keys_below) for shift in (48, 32, 16, 0)]


def _arrange(
    positions: Sequence[int], levels: Sequence[tuple[array[int], int]], limits: array[int], order: array[int]
) -> None:
    """Append positions to an order, group by group, each from its widest level to its narrowest."""
    blocks: list[int | list[int]] = []
    if levels:
        column, shift = levels[0]
        shared = repeated(column[position] >> shift for position in positions)
        groups: dict[int, list[int]] = {}
        for position in positions:
            key = column[position] >> shift
            if key not in shared:
                blocks.append(position)
            elif key in groups:
                groups[key].append(position)
            else:
                groups[key] = [position]
                blocks.append(groups[key])
    else:
        blocks = list(positions)
    blocks.sort(
        key=lambda block: limits[block] if isinstance(block, int) else max(map(limits.__getitem__, block)), reverse=True
    )
    for block in blocks:
        if isinstance(block, int):
            order.append(block)
        else:
            _arrange(block, levels[1:], limits, order)
