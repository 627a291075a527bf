"""First in, first out: what has been in the cache longest leaves first.

What lives here: the plainest policy there is, to compare others with. What must not: hits and
queues, which it ignores.
"""

from __future__ import annotations

from collections.abc import Iterable

from vfs.policies.blocks import Block, EvictionPlan, evict_in_order

__all__ = ["plan_fifo"]


def plan_fifo(
    blocks: Iterable[Block],
    need_bytes: int,
    limit_bytes: int,  # noqa: ARG001
) -> EvictionPlan:
    """Plan to remove the blocks queued longest ago.

    Parameters
    ----------
    blocks : iterable of Block
        What may leave; ``queued_at`` is when it was stored.
    need_bytes : int
        How much has to go.
    limit_bytes : int
        Not used: the order does not depend on it.

    Returns
    -------
    EvictionPlan
        Nothing is requeued.

    Examples
    --------
    >>> plan = plan_fifo([Block("b", 5, 2, hits=3), Block("a", 5, 1, hits=3)], 5, 10)
    >>> [block.name for block in plan.evict]
    ['a']
    """
    return evict_in_order(blocks, need_bytes)
