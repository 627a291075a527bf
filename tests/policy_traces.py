"""Traces of reads, and a cache of names only: what tests and benchmarks of policies share."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate, islice, product
from math import prod

from vfs.policies.blocks import Block, EvictionPolicy
from vfs.policies.duel import AdmissionDuel
from vfs.policies.lru import plan_lru
from vfs.policies.s3fifo import SMALL_OBJECT_BYTES, ghost_capacity, plan_restart, plan_s3fifo

Trace = list[tuple[str, int]]

CHUNK = 4_000_000
CACHE = 1000 * CHUNK


class Cache:
    """What would be resident, and what was missed; evicts as the real one does."""

    def __init__(
        self, limit_bytes: int, policy: EvictionPolicy, duel: AdmissionDuel | None = None
    ) -> None:
        self.limit_bytes, self.policy, self.duel = limit_bytes, policy, duel
        self.blocks: dict[str, Block] = {}
        self.ghosts: dict[str, None] = {}
        self.used_bytes = self.now = self.resets = 0
        self.misses = self.small_misses = self.missed_bytes = 0

    def read(self, name: str, size: int) -> None:
        self.now += 1
        if self.duel:
            self.duel.seen(name, size)
            if self.duel.resets != self.resets:
                self.resets = self.duel.resets
                self.requeue(plan_restart(self.blocks.values()).requeue)
        if (block := self.blocks.get(name)) is not None:
            if self.policy is plan_lru:
                self.blocks[name] = block._replace(queued_at=self.now)
            elif block.hits < 3:
                self.blocks[name] = block._replace(hits=block.hits + 1)
            return
        self.misses += 1
        self.missed_bytes += size
        self.small_misses += size <= SMALL_OBJECT_BYTES
        if self.duel is None or self.duel.admits(name, size):
            main = name in self.ghosts
            self.ghosts.pop(name, None)
            self.blocks[name] = Block(name, size, self.now, 0, main)
            self.used_bytes += size
            if self.used_bytes > self.limit_bytes:
                self.evict()

    def evict(self) -> None:
        need = self.used_bytes - int(0.95 * self.limit_bytes)
        plan = self.policy(self.blocks.values(), need, self.limit_bytes)
        for block in plan.evict:
            del self.blocks[block.name]
            self.used_bytes -= block.size_bytes
            if not block.main:
                self.ghosts[block.name] = None
        self.requeue(plan.requeue)
        surplus = len(self.ghosts) - ghost_capacity(len(self.blocks))
        for name in list(islice(self.ghosts, max(0, surplus))):
            del self.ghosts[name]

    def requeue(self, blocks: list[Block]) -> None:
        for block in blocks:
            self.now += 1
            self.blocks[block.name] = block._replace(queued_at=self.now)

    def run(self, trace: Trace) -> float:
        """Read it all; return the share of reads that missed."""
        before = self.misses
        for name, size in trace:
            self.read(name, size)
        return (self.misses - before) / len(trace)


def with_duel(limit_bytes: int = CACHE) -> Cache:
    return Cache(limit_bytes, plan_s3fifo, AdmissionDuel(limit_bytes))


def loop(prefix: str, times: float, epochs: int = 1) -> Trace:
    """Read a set of so many times the cache, again and again in the same order."""
    return [(f"{prefix}{i}", CHUNK) for i in range(int(1000 * times))] * epochs


def shuffled(prefix: str, times: float, epochs: int, seed: int = 1) -> Trace:
    rng, epoch, trace = random.Random(seed), loop(prefix, times), []
    for _ in range(epochs):
        rng.shuffle(epoch)
        trace += epoch
    return trace


def lognormal(rng: random.Random, low: int, median: float, high: int, sigma: float) -> int:
    return int(min(high, max(low, median * rng.lognormvariate(0, sigma))))


def zipf(scanned: float = 0.0, objects: int = 10_000, reads: int = 60_000) -> tuple[Trace, int]:
    """Return reads of exponent 0.9, so many of them replaced by one-off ones; and all sizes."""
    rng = random.Random(1)
    sizes = [lognormal(rng, 10_000, 5e5, 10_000_000, 1.5) for _ in range(objects)]
    weights = list(accumulate(1 / (rank + 1) ** 0.9 for rank in range(objects)))
    trace = []
    for i, rank in enumerate(rng.choices(range(objects), cum_weights=weights, k=reads)):
        if rng.random() < scanned:
            trace.append((f"once{i}", rng.choice(sizes)))
        else:
            trace.append((f"z{rank}", sizes[rank]))
    return trace, sum(sizes)


Shape = tuple[int, ...]
Store = list[tuple[Shape, int]]  # chunks along time, y and x, and the size of one, an array


def session(rng: random.Random, number: int, store: Store) -> Iterator[tuple[str, int]]:
    """Open a store: metadata and coordinates; then move a window of chunks about.

    One session in 50 reads its array from end to end.
    """
    yield f"{number}/zarr.json", 3000
    for name in [*range(len(store)), "t", "y", "x"]:
        yield f"{number}/{name}/zarr.json", 2000
    for axis in "tyx":
        yield f"{number}/{axis}/c/0", 20_000
    array = rng.randrange(len(store))
    shape, size = store[array]
    at = [rng.randrange(n) for n in shape]
    window: Shape = (1, rng.randint(2, 3), rng.randint(2, 4))
    steps = rng.randint(3, 10)
    if rng.random() < 0.02:
        at, window, steps = [0, 0, 0], shape, 1
    for _ in range(steps):
        spans = [range(a, min(n, a + w)) for a, n, w in zip(at, shape, window, strict=True)]
        for chunk in product(*spans):
            yield f"{number}/{array}/c/{chunk}", size
        moved = rng.randrange(3)
        at[moved] = min(shape[moved] - 1, max(0, at[moved] + rng.choice((-1, 1))))


def browse(datasets: int = 60, sessions: int = 1800) -> tuple[Trace, int]:
    """Return the reads of four users who look at zarr stores, and the size of all stores."""
    rng = random.Random(3)
    stores: list[Store] = [
        [
            (
                (rng.randint(6, 20), rng.randint(3, 8), rng.randint(3, 8)),
                lognormal(rng, 200_000, 1.2e6, 8_000_000, 0.7),
            )
            for _ in range(rng.randint(4, 12))
        ]
        for _ in range(datasets)
    ]
    popularity = [1 / (rank + 1) ** 0.5 for rank in range(datasets)]

    def somebody() -> Iterator[tuple[str, int]]:
        number = rng.choices(range(datasets), popularity)[0]
        return session(rng, number, stores[number])

    users, trace = [somebody() for _ in range(4)], []
    while sessions:
        user = rng.randrange(4)
        some = list(islice(users[user], rng.randint(4, 30)))
        trace += some
        if not some:
            users[user] = somebody()
            sessions -= 1
    return trace, sum(prod(shape) * size for store in stores for shape, size in store)


# The duel by itself.
