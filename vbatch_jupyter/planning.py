"""In which order the requests of a batch run, and which of them share an answer."""

from __future__ import annotations

import dataclasses
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vbatch_jupyter.protocol.index import LineIndex

_SHIFTS = (48, 32, 16, 0)
"""How far a prefix key is shifted to compare 128, 512, 2,048 and 8,192 characters of the prompt."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How to run the requests of a batch that have no answer yet.

    Every such request stands exactly once: either in ``order`` or among the followers of one that does.

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

    Requests that share 8,192, 2,048, 512 or 128 characters of their prompt form groups within groups; a group runs
    where its first request stands in the file, and inside it the file's order is kept.

    The plan compares hashes. Before an answer is shared the caller must compare the bytes of both requests (url and
    body, without the custom_id), and run the follower by itself where they differ.

    Parameters
    ----------
    index
        The batch's requests.
    finished
        One byte per request; 0 where it has no answer yet.

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
    ...         prefix_key=prefix,
    ...     )
    >>> plan(index, bytes(4))
    Plan(order=array('I', [0, 2, 1]), followers={0: array('I', [3])})
    """
    if len(finished) != len(index):
        raise ValueError(f"finished has {len(finished):,} entries, and the index has {len(index):,} requests")
    unfinished = array("I", (position for position, done in enumerate(finished) if not done))
    candidates, followers = _share(index, unfinished)
    return Plan(array("I", _group(candidates, index.prefix_keys, _SHIFTS)), followers)


def _share(index: LineIndex, unfinished: array[int]) -> tuple[array[int], dict[int, array[int]]]:
    """Take deterministic duplicates out, behind the first of their kind."""
    deterministic, hashes = index.deterministic, index.request_hashes
    repeated = _repeated(hashes[position] for position in unfinished if deterministic[position])
    candidates = array("I")
    followers: dict[int, array[int]] = {}
    leaders: dict[int, int] = {}
    for position in unfinished:
        if not deterministic[position] or hashes[position] not in repeated:
            candidates.append(position)
            continue
        leader = leaders.setdefault(hashes[position], position)
        if leader == position:
            candidates.append(position)
        else:
            followers.setdefault(leader, array("I")).append(position)
    return candidates, followers


def _repeated(hashes: Iterable[int]) -> frozenset[int]:
    """Find what stands more than once; a sorted array is a third of a dict's size where a million differ."""
    ordered = sorted(hashes)
    return frozenset(ordered[i] for i in range(1, len(ordered)) if ordered[i] == ordered[i - 1])


def _group(positions: Sequence[int], keys: array[int], shifts: tuple[int, ...]) -> Iterator[int]:
    """Walk groups in the order in which they first appear, each from its widest level to its narrowest."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for position in positions:
        groups[keys[position] >> shifts[0]].append(position)
    for group in groups.values():
        # Two of a kind are next to each other already.
        if len(group) <= 2 or len(shifts) == 1:  # noqa: PLR2004
            yield from group
        else:
            yield from _group(group, keys, shifts[1:])
