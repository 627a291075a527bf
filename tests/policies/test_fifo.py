"""First in, first out: hits and queues count for nothing."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs.policies import fifo
from vfs.policies.blocks import Block
from vfs.policies.fifo import plan_fifo

BLOCKS = [Block("c", 10, 3), Block("a", 10, 1, 3, main=True), Block("b", 10, 2, 3)]


@pytest.mark.parametrize(
    "need, evict", [(-1, ""), (0, ""), (1, "a"), (10, "a"), (11, "ab"), (30, "abc"), (99, "abc")]
)
def test_oldest_first(need: int, evict: str) -> None:
    plan = plan_fifo(BLOCKS, need, 100)
    assert "".join(block.name for block in plan.evict) == evict
    assert plan.requeue == []


@given(
    st.lists(
        st.builds(
            Block,
            name=st.text("abcd", min_size=1, max_size=3),
            size_bytes=st.integers(1, 9),
            queued_at=st.integers(0, 5),
        ),
        unique_by=lambda block: block.name,
    ),
    st.integers(0, 100),
)
def test_the_front_of_the_queue_and_no_more(blocks: list[Block], need: int) -> None:
    order = sorted(blocks, key=lambda b: (b.queued_at, b.name))
    plan = plan_fifo(reversed(blocks), need, 100)
    freed = sum(block.size_bytes for block in plan.evict)
    assert plan.evict == order[: len(plan.evict)]
    assert freed >= need or len(plan.evict) == len(blocks)
    assert not plan.evict or freed - plan.evict[-1].size_bytes < need


def test_examples() -> None:
    failed, attempted = doctest.testmod(fifo)
    assert failed == 0
    assert attempted > 0
