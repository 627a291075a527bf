"""S3-FIFO and its reserve: each rule in a table, and any state against a plain model.

Miss ratios on traces are in test_duel.py, next to the simulator.
"""

from __future__ import annotations

import doctest
import random
from collections import deque
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs.policies import blocks as blocks_module
from vfs.policies import s3fifo
from vfs.policies.blocks import Block, EvictionPlan, in_queue_order
from vfs.policies.s3fifo import SMALL_OBJECT_BYTES, ghost_capacity, plan_restart, plan_s3fifo

MB = 1_000_000
LIMIT = 100 * MB  # so the small queue may hold 10 MB and the reserve 3 MB


def small(name: str, queued_at: int, hits: int = 0, size: int = 5 * MB) -> Block:
    return Block(name, size, queued_at, hits, main=False)


def main(name: str, queued_at: int, hits: int = 0, size: int = 5 * MB) -> Block:
    return Block(name, size, queued_at, hits, main=True)


def tiny(name: str, queued_at: int, hits: int = 0, size: int = 50_000) -> Block:
    return Block(name, size, queued_at, hits, main=False)


def outcome(plan: EvictionPlan) -> tuple[str, list[tuple[str, int]]]:
    return " ".join(b.name for b in plan.evict), [(b.name, b.hits) for b in plan.requeue]


@pytest.mark.parametrize(
    "blocks, need, evict, requeue",
    [
        pytest.param([], 1, "", [], id="nothing there"),
        pytest.param([small("a", 1)], 0, "", [], id="nothing needed"),
        pytest.param([small("a", 1)], -5, "", [], id="less than nothing needed"),
        pytest.param([small("a", 1)], 1, "a", [], id="main empty: from small below its target"),
        pytest.param(
            [small("b", 2), small("a", 1), small("c", 3), main("m", 0)],
            6 * MB,
            "a m",
            [],
            id="from small, oldest first, down to its target; then from main",
        ),
        pytest.param(
            [small("a", 1), small("b", 2), main("m", 3)],
            1,
            "m",
            [],
            id="small holds just its target: from main, though queued later",
        ),
        pytest.param(
            [small("a", 1, hits=1), small("b", 2), small("c", 3), main("m", 0)],
            1,
            "a",
            [],
            id="one hit is not enough to stay",
        ),
        pytest.param(
            [small("a", 1, hits=2), small("b", 2), small("c", 3), small("d", 4), main("m", 0)],
            1,
            "b",
            [("a", 0)],
            id="two hits lead to main, where it starts from none",
        ),
        pytest.param(
            [small("a", 1, hits=3), small("b", 2), small("c", 3), main("m", 0, hits=1)],
            1,
            "a",
            [("m", 0)],
            id="a mover stands behind what is in main, and leaves when all of that has hits",
        ),
        pytest.param(
            [main("a", 1, hits=3), main("b", 2, hits=1), main("c", 3)],
            1,
            "c",
            [("a", 2), ("b", 0)],
            id="main: a hit buys one more round",
        ),
        pytest.param(
            [main("a", 1, hits=3), main("b", 2, hits=1)],
            1,
            "b",
            [("a", 1)],
            id="main: several rounds until one has none left",
        ),
        pytest.param([main("a", 1, hits=3)], 1, "a", [], id="main: in the end the last one goes"),
        pytest.param(
            [main("a", 1, hits=3), small("b", 2, hits=3)], 99 * MB, "a b", [], id="more than all"
        ),
        pytest.param(
            [small("whale", 1, size=60 * MB), small("b", 2), main("m", 0)],
            1,
            "whale",
            [],
            id="larger than the small queue: like any other",
        ),
        pytest.param(
            [small("whale", 1, hits=2, size=60 * MB), main("m", 0)],
            1,
            "m",
            [("whale", 0)],
            id="larger than the small queue, and used",
        ),
        pytest.param([small("b", 1), small("a", 1)], 1, "a", [], id="ties go by name"),
    ],
)
def test_queues(blocks: list[Block], need: int, evict: str, requeue: list[tuple[str, int]]) -> None:
    plan = plan_s3fifo(blocks, need, LIMIT)
    assert outcome(plan) == (evict, requeue)
    assert all(block.main for block in plan.requeue)


def test_reserve_is_passed_over() -> None:
    metadata = [tiny(f"t{i}", i) for i in range(60)]  # 3.0 MB, the whole of it
    plan = plan_s3fifo([*metadata, small("a", 98), small("b", 99)], 7 * MB, LIMIT)
    assert outcome(plan) == ("a b", [])


def test_reserve_exposes_what_is_above_it_and_no_more() -> None:
    names = [f"t{i:02}" for i in range(70)]
    metadata = [tiny(name, i) for i, name in enumerate(names)]  # 3.5 MB: ten too many
    others = [small("a", 98), small("b", 99)]
    # Those ten stand in the small queue before the others; the rest is not asked.
    assert outcome(plan_s3fifo([*metadata, *others], 6 * MB, LIMIT))[0].split() == [
        *names[:10],
        "a",
        "b",
    ]


def test_what_is_above_the_reserve_keeps_its_rights() -> None:
    metadata = [tiny(f"t{i:02}", i, hits=2 if i == 0 else 0) for i in range(61)]  # one too many
    plan = plan_s3fifo([*metadata, small("a", 98, size=20 * MB)], 1, LIMIT)
    assert outcome(plan) == ("a", [("t00", 0)])


def test_reserve_goes_when_all_else_is_gone() -> None:
    metadata = [tiny("t1", 1, hits=3), tiny("t2", 2)]
    plan = plan_s3fifo([*metadata, main("m", 3, hits=3)], 5 * MB + 1, LIMIT)
    assert outcome(plan) == ("m t2", [("t1", 0)])
    assert len(plan_s3fifo([*metadata, main("m", 3)], LIMIT, LIMIT).evict) == 3


@pytest.mark.parametrize(
    "size, stays", [(SMALL_OBJECT_BYTES, True), (SMALL_OBJECT_BYTES + 1, False)]
)
def test_small_is_64_kib_and_what_a_file_occupies_beyond(size: int, *, stays: bool) -> None:
    assert SMALL_OBJECT_BYTES == 68 * 1024
    plan = plan_s3fifo([small("old", 1, size=size), small("new", 2)], 1, LIMIT)
    assert outcome(plan)[0] == ("new" if stays else "old")


def test_restart_keeps_the_order_and_nothing_else() -> None:
    blocks = [main("b", 2, hits=3), small("a", 1, hits=1), main("c", 3)]
    plan = plan_restart(blocks)
    assert plan.evict == []
    assert plan.requeue == [small("a", 1), small("b", 2), small("c", 3)]


def test_ghosts_are_nine_tenths_of_the_residents() -> None:
    assert [ghost_capacity(n) for n in (0, 1, 10, 1000)] == [0, 0, 9, 900]


def test_a_full_main_queue_of_favourites_comes_to_an_end() -> None:
    blocks = [main(f"{i:05}", i, hits=3) for i in range(20_000)]
    plan = plan_s3fifo(blocks, 5 * MB * 1000, 5 * MB * 20_000)
    assert [b.name for b in plan.evict] == [f"{i:05}" for i in range(1000)]
    assert [b.hits for b in plan.requeue] == [0] * 19_000


# Sizes on both sides of "small object", times with ties, limits that make the small queue and the
# reserve now full, now empty.
SIZES = st.one_of(st.integers(1, SMALL_OBJECT_BYTES), st.integers(1, 40 * SMALL_OBJECT_BYTES))
STATES = st.lists(
    st.builds(
        Block,
        name=st.text("abcd", min_size=1, max_size=4),
        size_bytes=SIZES,
        queued_at=st.integers(0, 12),
        hits=st.integers(0, 3),
        main=st.booleans(),
    ),
    max_size=40,
    unique_by=lambda block: block.name,
)
NEEDS = st.integers(0, 200 * SMALL_OBJECT_BYTES)
LIMITS = st.integers(0, 1000 * SMALL_OBJECT_BYTES)


def model(blocks: list[Block], need: int, limit: int) -> EvictionPlan:
    """Do the same with two queues and one block a turn, as the paper has it."""
    tinies = in_queue_order([b for b in blocks if b.size_bytes <= SMALL_OBJECT_BYTES])
    reserve = deque(tinies)
    while sum(b.size_bytes for b in reserve) > int(limit * 0.03):
        reserve.popleft()
    asked = sorted(set(blocks) - set(reserve), key=lambda b: (b.queued_at, b.name))
    evict: list[Block] = []
    changed: dict[str, None] = {}
    given = {b.name: b for b in blocks}
    room = int(limit * 0.1)
    while True:
        s = deque(b for b in asked if not b.main)
        m = deque(b for b in asked if b.main)
        while sum(b.size_bytes for b in evict) < need and (s or m):
            if s and (not m or sum(b.size_bytes for b in s) > room):
                block = s.popleft()
                stays, hits = block.hits > 1, 0
            else:
                block = m.popleft()
                stays, hits = block.hits > 0, block.hits - 1
            changed.pop(block.name, None)
            if stays:
                changed[block.name] = None
                m.append(block._replace(hits=hits, main=True))
            else:
                evict.append(given[block.name])
        if sum(b.size_bytes for b in evict) >= need or not reserve:
            return EvictionPlan(evict, [b for b in m if b.name in changed])
        asked, room = list(reserve), 0
        reserve.clear()


@given(STATES, NEEDS, LIMITS)
def test_plan_is_that_of_the_model(blocks: list[Block], need: int, limit: int) -> None:
    assert plan_s3fifo(blocks, need, limit) == model(blocks, need, limit)


@given(STATES, NEEDS, LIMITS, st.randoms(use_true_random=False))
def test_plan_is_sound(blocks: list[Block], need: int, limit: int, rng: random.Random) -> None:
    plan = plan_s3fifo(iter(blocks), need, limit)
    freed = sum(b.size_bytes for b in plan.evict)
    gone, stay = {b.name for b in plan.evict}, {b.name for b in plan.requeue}

    # Enough is freed, or all is gone; nothing goes that was not needed.
    assert freed >= need or len(plan.evict) == len(blocks)
    assert not plan.evict or freed - plan.evict[-1].size_bytes < need

    # Every block has one fate; evicted ones are as they were given.
    assert set(plan.evict) <= set(blocks)
    assert len(gone) == len(plan.evict)
    assert len(stay) == len(plan.requeue)
    assert not gone & stay

    # Survivors are in main and have paid for it.
    given = {b.name: b for b in blocks}
    for block in plan.requeue:
        before = given[block.name]
        assert block.main
        assert block[:3] == before[:3]
        assert 0 <= block.hits < before.hits

    # The reserve is intact as long as there is anything else.
    if any(b.size_bytes > SMALL_OBJECT_BYTES for b in set(blocks) - set(plan.evict)):
        tinies = [b for b in blocks if b.size_bytes <= SMALL_OBJECT_BYTES]
        kept = sum(b.size_bytes for b in tinies if b.name not in gone)
        all_of_it = sum(b.size_bytes for b in tinies)
        assert kept >= min(all_of_it, int(limit * 0.03) - SMALL_OBJECT_BYTES)

    # The order in which a directory is listed is no fact.
    rng.shuffle(blocks)
    assert plan_s3fifo(blocks, need, limit) == plan


@pytest.mark.parametrize("module", [blocks_module, s3fifo])
def test_examples(module: ModuleType) -> None:
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted > 0
