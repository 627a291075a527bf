"""Least recently used, for blocks: the same order that whole objects leave in."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs.policies import lru
from vfs.policies.blocks import Block
from vfs.policies.lru import Resident, choose_victims, plan_lru

BLOCKS = [Block("c", 10, 3), Block("a", 10, 1, 3, main=True), Block("b", 10, 2, 3)]


@pytest.mark.parametrize("need, evict", [(-1, ""), (0, ""), (1, "a"), (11, "ab"), (99, "abc")])
def test_longest_unused_first(need: int, evict: str) -> None:
    plan = plan_lru(BLOCKS, need, 100)
    assert "".join(block.name for block in plan.evict) == evict
    assert plan.requeue == []


@given(st.lists(st.integers(1, 9)), st.integers(0, 100))
def test_blocks_leave_as_objects_do(sizes: list[int], need: int) -> None:
    blocks = [Block(f"{i}", size, i) for i, size in enumerate(sizes)]
    victims = choose_victims([Resident(b.name, b.size_bytes, b.queued_at) for b in blocks], need)
    plan = plan_lru(reversed(blocks), need, 100)
    assert [b.name for b in plan.evict] == [v.key for v in victims]


def test_examples() -> None:
    failed, attempted = doctest.testmod(lru)
    assert failed == 0
    assert attempted > 0
