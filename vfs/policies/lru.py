"""Least recently used: which objects leave first.

What lives here: the choice. What must not: how recency is known, how an object is removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from vfs.policies.blocks import Block, EvictionPlan, evict_in_order

__all__ = ["Resident", "choose_victims", "plan_lru"]


class Resident(NamedTuple):
    """An object that could leave.

    ``used_at`` is any number that grows with time; ``pinned`` objects never leave.
    """

    key: str
    size_bytes: int
    used_at: float
    pinned: bool = False


def choose_victims(
    residents: Iterable[Resident], need_bytes: int, spare_bytes: int = 0
) -> list[Resident]:
    """Return the objects to remove so that at least ``need_bytes`` become free.

    Parameters
    ----------
    residents : iterable of Resident
        Clean objects only: the caller must not offer what exists nowhere else.
    need_bytes : int
        How much has to go.
    spare_bytes : int
        How much more may go at the same time, to make the next evictions rarer; no object is
        removed that would overshoot it.

    Returns
    -------
    list of Resident
        Oldest first; shorter in bytes than asked when everything else is pinned.

    Notes
    -----
    Ties in time go by size, larger first, then by name, so that the same state always gives the
    same answer.

    Examples
    --------
    >>> [r.key for r in choose_victims([Resident("new", 5, 2), Resident("old", 5, 1)], 3)]
    ['old']
    """
    if need_bytes <= 0:
        return []
    victims: list[Resident] = []
    freed = 0
    order = sorted(residents, key=lambda r: (r.used_at, -r.size_bytes, r.key))
    for resident in order:
        if resident.pinned:
            continue
        if freed >= need_bytes and freed + resident.size_bytes > need_bytes + spare_bytes:
            break
        victims.append(resident)
        freed += resident.size_bytes
    return victims


def plan_lru(
    blocks: Iterable[Block],
    need_bytes: int,
    limit_bytes: int,  # noqa: ARG001
) -> EvictionPlan:
    """Plan to remove the blocks of a cache that were used longest ago.

    Parameters
    ----------
    blocks : iterable of Block
        What may leave; ``queued_at`` is the last use.
    need_bytes : int
        How much has to go.
    limit_bytes : int
        Not used: the order does not depend on it.

    Returns
    -------
    EvictionPlan
        Nothing is requeued: it is reading that moves a block to the end.

    Examples
    --------
    >>> plan = plan_lru([Block("read now", 5, 2), Block("read long ago", 5, 1)], 5, 10)
    >>> [block.name for block in plan.evict]
    ['read long ago']
    """
    return evict_in_order(blocks, need_bytes)
