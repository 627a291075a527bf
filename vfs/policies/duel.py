"""The admission duel: whether a cache stores what it had to fetch, or keeps what it has.

What lives here: two shadow caches that hold names and sizes only, and what follows from their
misses. What must not: bytes, which block leaves (``s3fifo.py``), who counts the hits.

A set read in turns that is larger than the cache defeats every policy that stores each miss: what
is about to be read again has just been pushed out. One that stores nothing then keeps its share.
The duel finds out which of the two would have cost less, on a sample of the names.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from xxhash import xxh3_64_intdigest

from vfs.policies.blocks import Block
from vfs.policies.s3fifo import SMALL_OBJECT_BYTES, ghost_capacity, plan_s3fifo

__all__ = ["AdmissionDuel"]

#: One name in 16 is followed: a sixteenth of the work for each hit.
_SAMPLE: Final = 16

#: A shadow that holds more has its sample halved. 4096 names leave 1.6 % of noise in what a
#: cache of their number holds; all shadows together then take at most 6 MB.
_MAX_BLOCKS: Final = 4096

#: With fewer blocks in the sample, the luck of the draw outweighs what is to be measured. Of
#: traces without loops, two in four cost 4 and 9 % more with 4 to 31 blocks followed, one in ten
#: cost 8 % more with 37, and none of 14 with 75 and more.
_MIN_BLOCKS: Final = 32

#: What a miss costs: a request and its bytes, as measured between a cloud and a cluster.
_REQUEST_S: Final = 0.030
_BYTES_PER_S: Final = 80e6

#: Of the misses, this share is stored while the duel says no, so that what is kept changes.
_LOTTERY: Final = 64

#: To store nothing has to save this share of the time, or the difference is noise.
_SAVING: Final = 0.10

#: Turnovers after which the frozen copy of an open cache is taken anew. A loop of k times the
#: cache comes back after k turnovers: beyond 4 there is little left to win.
_COPY_TURNOVERS: Final = 4

#: What is left of the credit after each turnover: the allowance of a loop of 4 times the cache,
#: of which 3 turnovers in 4 bring no hit, is not used up in between (0.7³ = 0.34 > 0.10).
_CREDIT_DECAY: Final = 0.7

#: After a turnover with fewer hits than this, what the cache holds is useless.
_USELESS_RATIO: Final = 0.02

#: So much of a turnover in names never seen, and not a hit in between, is another dataset.
_STREAK_RATIO: Final = 0.5

#: A hit or a name seen before outweighs this many new ones of its size: a cold cache and a scan
#: beside other reads are no streaks.
_STREAK_BREAK: Final = 4.0

#: Misses are remembered for about so many turnovers: what comes back is not new.
_MEMORY_TURNOVERS: Final = 5

#: Two bits of hits, as every block has.
_MAX_HITS: Final = 3

#: A shadow frees this share at once, as an evictor does.
_BATCH_RATIO: Final = 0.05


class _Shadow:
    """A cache of names and sizes; ghosts included, as the evictor keeps them."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.blocks: dict[str, Block] = {}
        self._ghosts: dict[str, None] = {}
        self._now = 0

    def hit(self, name: str) -> bool:
        """Count a read; say whether it was served."""
        block = self.blocks.get(name)
        if block is None:
            return False
        if block.hits < _MAX_HITS:
            self.blocks[name] = block._replace(hits=block.hits + 1)
        return True

    def store(self, name: str, size_bytes: int) -> None:
        if size_bytes > self.limit_bytes:
            return
        known = name in self._ghosts
        if known:
            del self._ghosts[name]
        self._now += 1
        self.blocks[name] = Block(name, size_bytes, self._now, 0, known)
        self.used_bytes += size_bytes
        if self.used_bytes > self.limit_bytes:
            self._evict()

    def _evict(self) -> None:
        need_bytes = self.used_bytes - int(self.limit_bytes * (1 - _BATCH_RATIO))
        plan = plan_s3fifo(self.blocks.values(), need_bytes, self.limit_bytes)
        for block in plan.evict:
            del self.blocks[block.name]
            self.used_bytes -= block.size_bytes
            if not block.main:
                self._ghosts[block.name] = None
        for block in plan.requeue:
            self._now += 1
            self.blocks[block.name] = block._replace(queued_at=self._now)
        _trim(self._ghosts, ghost_capacity(len(self.blocks)))

    def restart(self) -> None:
        """Put everything back on probation."""
        self.blocks = {n: b._replace(hits=0, main=False) for n, b in self.blocks.items()}

    def copy(self) -> _Shadow:
        twin = _Shadow(self.limit_bytes)
        twin.used_bytes, twin._now = self.used_bytes, self._now
        twin.blocks, twin._ghosts = self.blocks.copy(), self._ghosts.copy()
        return twin

    def thin(self, sample: int) -> None:
        """Follow half as many names: those that belong to the new sample."""
        self.limit_bytes //= 2
        self.blocks = {n: b for n, b in self.blocks.items() if not int(n, 16) % sample}
        self._ghosts = _thinned(self._ghosts, sample)
        self.used_bytes = sum(block.size_bytes for block in self.blocks.values())


def _trim(names: dict[str, None], capacity: int) -> None:
    """Forget the oldest names."""
    for name in list(islice(names, max(0, len(names) - capacity))):
        del names[name]


def _thinned(names: dict[str, None], sample: int) -> dict[str, None]:
    return {name: None for name in names if not int(name, 16) % sample}


def _digest(name: str) -> int:
    return int(xxh3_64_intdigest(name.encode("utf-8", "surrogateescape")))


class AdmissionDuel:
    """Says whether a block that was fetched is to be stored.

    Parameters
    ----------
    limit_bytes : int
        The size of the whole cache.

    Attributes
    ----------
    resets : int
        How often what the cache holds turned out useless. An evictor that sees it grow puts every
        block back on probation (``plan_restart``); it may do so when it next runs.

    Notes
    -----
    Two shadow caches follow a sixteenth of the names. One stores every miss. The other is a copy
    of the first that then stores one miss in 64. As long as the real cache is open, the copy is
    taken anew every four turnovers; when it has saved more than a tenth of the modelled time, the
    real cache closes. The copy is then taken once more, and from there on follows the same rule
    as the real cache: it is a model of it. It starts with a credit of one turnover, pays the time
    it loses and earns the time it saves. When the credit is gone, or when half a turnover of new
    names brings no hit, the cache opens again, and is filled before there can be another duel. So
    a wrong answer costs about what it takes to fill the cache, once.

    S3-FIFO by itself keeps what nobody reads: after a change of dataset its main queue is full of
    blocks with credit, and a loop that is larger than small queue and ghosts together never moves
    them. Whenever the cache opens, and after each turnover without hits, ``resets`` grows. An
    evictor that ignores it still misses 0.88 to 1.00 of the second of two loops at its fifth pass.

    Blocks of at most 68 KiB take no part and are always stored: they have their own reserve. In a
    cache of fewer than about 500 blocks too few are followed, and everything is stored.

    Cost: 0.3 µs for a name that is not followed, 2 to 8 µs for one that is, and up to 5 ms when
    4096 of them are sorted to evict a batch. Memory: at most 6 MB. Deterministic. Thread-safe: no,
    to be called on one loop only.

    References
    ----------
    Set duelling: Qureshi et al., "Adaptive insertion policies for high performance caching",
    ISCA 2007. Sampling by name: Waldspurger et al., "Efficient MRC construction with SHARDS",
    FAST 2015.

    Examples
    --------
    >>> duel = AdmissionDuel(10**9)
    >>> for _ in range(6):  # a loop of twice the cache
    ...     for number in range(2000):
    ...         duel.seen(f"block-{number}", 10**6)
    >>> sum(duel.admits(f"block-{number}", 10**6) for number in range(2000)) < 100
    True
    """

    def __init__(self, limit_bytes: int) -> None:
        self.resets = 0
        self._limit_bytes = limit_bytes
        self._sample = _SAMPLE
        self._open = _Shadow(limit_bytes // _SAMPLE)
        self._frozen: _Shadow | None = None
        self._bypass = False
        self._missed_before: dict[str, None] = {}
        self._turnovers = 0
        self._copied_at = 0
        # All that follows is in modelled seconds or in bytes of the whole cache: what is measured
        # on the sample is multiplied.
        self._turnover_s = 0.0
        self._credit_s = 0.0
        self._spent_s = 0.0
        self._streak_s = 0.0
        self._useless = True
        self._begin_turnover()

    def seen(self, name: str, size_bytes: int) -> None:
        """Take note of a read, whether it was a hit or a miss.

        A caller that leaves out the hits makes what the cache holds look useless.
        """
        if size_bytes <= SMALL_OBJECT_BYTES:
            return
        digest = _digest(name)
        if digest % self._sample == 0:
            self._follow(f"{digest:016x}", size_bytes, wins=self._wins(digest))

    def admits(self, name: str, size_bytes: int) -> bool:
        """Say whether the block, just fetched, is to be stored. Asking changes nothing."""
        if not self._bypass or size_bytes <= SMALL_OBJECT_BYTES:
            return True
        return self._wins(_digest(name))

    def _wins(self, digest: int) -> bool:
        # The lowest bits choose the sample, so the lottery takes the highest. Each turnover has
        # other winners.
        return (digest >> 48) % _LOTTERY == self._turnovers % _LOTTERY

    def _follow(self, name: str, size_bytes: int, *, wins: bool) -> None:
        cost_s = self._sample * (_REQUEST_S + size_bytes / _BYTES_PER_S)
        stored = self._open.hit(name)
        kept = self._frozen is not None and self._frozen.hit(name)
        self._reads += 1
        self._hits += stored
        if stored or kept or name in self._missed_before:
            self._streak_s = max(0.0, self._streak_s - _STREAK_BREAK * cost_s)
        else:
            self._streak_s += cost_s
        if self._frozen is not None and not kept:
            self._credit_s -= cost_s
            self._frozen_bytes += self._sample * size_bytes
            if wins:
                self._frozen.store(name, size_bytes)
        if not stored:
            self._credit_s += cost_s
            self._spent_s += cost_s
            self._open_s += cost_s
            self._open_bytes += self._sample * size_bytes
            self._open.store(name, size_bytes)
            self._remember(name)
        self._decide()
        if max(self._open_bytes, self._frozen_bytes) >= self._limit_bytes:
            self._end_turnover()

    def _remember(self, name: str) -> None:
        self._missed_before.pop(name, None)
        self._missed_before[name] = None
        shadows = [self._open] if self._frozen is None else [self._open, self._frozen]
        if max(len(shadow.blocks) for shadow in shadows) > _MAX_BLOCKS:
            self._sample *= 2
            for shadow in shadows:
                shadow.thin(self._sample)
            self._missed_before = _thinned(self._missed_before, self._sample)

    def _decide(self) -> None:
        if self._bypass:
            self._credit_s = min(self._credit_s, self._turnover_s)
            if (
                self._credit_s < _SAVING * self._turnover_s
                or self._streak_s > _STREAK_RATIO * self._turnover_s
            ):
                self._bypass = False
                self._frozen = None
                self._useless = True
                self._begin_turnover()
                self._reset()
        elif (
            self._frozen is not None
            and len(self._open.blocks) >= _MIN_BLOCKS
            and self._credit_s > _SAVING * max(self._spent_s, self._turnover_s)
        ):
            self._bypass = True
            self._streak_s = 0.0
            self._copy(credit_s=self._turnover_s)

    def _begin_turnover(self) -> None:
        self._reads = self._hits = 0
        self._open_s = 0.0
        self._open_bytes = self._frozen_bytes = 0

    def _end_turnover(self) -> None:
        # One of the two has missed as many bytes as the cache holds.
        useless = (
            self._hits < _USELESS_RATIO * self._reads and len(self._open.blocks) >= _MIN_BLOCKS
        )
        if self._open_bytes:
            self._turnover_s = self._open_s * self._limit_bytes / self._open_bytes
        self._turnovers += 1
        self._credit_s *= _CREDIT_DECAY
        _trim(self._missed_before, _MEMORY_TURNOVERS * len(self._open.blocks))
        self._begin_turnover()
        if self._bypass:
            return
        was_useless, self._useless = self._useless, useless
        if useless:
            self._reset()
            if not was_useless:
                # It is full of what is read now only when the next turnover ends.
                self._frozen = None
                return
        if self._frozen is None or self._turnovers - self._copied_at >= _COPY_TURNOVERS:
            self._copy(credit_s=0.0)

    def _copy(self, *, credit_s: float) -> None:
        self._frozen = self._open.copy()
        self._copied_at = self._turnovers
        self._credit_s = credit_s
        self._spent_s = 0.0

    def _reset(self) -> None:
        self.resets += 1
        self._open.restart()
