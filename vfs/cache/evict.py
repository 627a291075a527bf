"""Making room: scan the directory, ask the policy, remove what it names.

What lives here: the I/O around a policy of ``vfs/policies``. What must not: the choice itself.

There is no index: a scan costs 2 µs a block, and a batch frees 5 % of the limit, so that a full
cache is scanned once for every twentieth of its size. All state is in the files, so it survives
processes: a block's modification time is its place in its queue (odd microseconds: the main one),
its access time the hits since then (``block.py``). Names lately evicted from the small queue are
remembered in a table of fingerprints.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

from vfs.cache.block import access_time_ns, block_path, hits_of, is_block_name, occupied_bytes
from vfs.cache.ledger import Ledger
from vfs.cache.mapped import map_file
from vfs.core.durable import unlink_if_there
from vfs.policies.blocks import Block
from vfs.policies.s3fifo import ghost_capacity, plan_restart, plan_s3fifo

__all__ = [
    "Ghosts",
    "evict_batch",
    "queue_time_ns",
    "remove_block",
    "remove_stray",
    "scan_blocks",
    "scan_strays",
]

#: A batch frees this share of the limit beyond what is needed: 1 to 2 % more misses on recorded
#: traces, and a twentieth of the scans.
_BATCH_RATIO: Final = 0.05

#: Modification times are in steps of this, so that filesystems with 100 ns resolution keep them;
#: the lowest step tells the queue.
_STEP_NS: Final = 1000

#: Bytes are given back to the ledger after this many removals.
_PAGE: Final = 64

_GHOST: Final = struct.Struct("<II")


class Ghosts:
    """Names of blocks that left the small queue lately: should one return, it goes to main.

    Parameters
    ----------
    path : str
        Created if missing.
    slots : int
        A power of two.
    ledger : Ledger
        Its clock of evictions tells how old a ghost is.

    References
    ----------
    The table of fingerprints is that of Yang et al., "FIFO queues are all you need for cache
    eviction", SOSP 2023, section 4.2.
    """

    def __init__(self, path: str, slots: int, ledger: Ledger) -> None:
        self._map = map_file(path, slots * _GHOST.size)
        self._slots = 1 << ((len(self._map) // _GHOST.size).bit_length() - 1)
        self._ledger = ledger

    @property
    def size_bytes(self) -> int:
        """What the table takes of the disk at most."""
        return len(self._map)

    def _where(self, name: str) -> tuple[int, int]:
        number = int(name[:16], 16)
        return (number % self._slots) * _GHOST.size, (number >> 32) | 1

    def add(self, name: str, clock: int) -> None:
        """Remember a name that leaves the small queue."""
        at, fingerprint = self._where(name)
        _GHOST.pack_into(self._map, at, fingerprint, clock & 0xFFFFFFFF)

    def has(self, name: str) -> bool:
        """Say whether a name left the small queue lately."""
        at, fingerprint = self._where(name)
        found, clock = _GHOST.unpack_from(self._map, at)
        age = (self._ledger.ghost_clock - clock) & 0xFFFFFFFF
        return bool(found == fingerprint and age <= self._ledger.ghost_capacity)


def queue_time_ns(now_ns: int, *, main: bool) -> int:
    """Return the modification time that puts a block at the end of a queue."""
    return now_ns // (2 * _STEP_NS) * (2 * _STEP_NS) + (_STEP_NS if main else 0)


def scan_strays(root: str) -> Iterator[str]:
    """Yield what lies among the blocks and is none, or lies where no read looks for it."""
    for shelf in _listed(root):
        for entry in _listed(shelf.path):
            if not is_block_name(entry.name) or entry.name[:2] != shelf.name:
                yield entry.path


def scan_blocks(root: str) -> Iterator[tuple[Block, int]]:
    """Yield every block file with its length, in no order; strays are ignored."""
    for shelf in _listed(root):
        for entry in _listed(shelf.path):
            if not is_block_name(entry.name) or entry.name[:2] != shelf.name:
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # removed meanwhile
            main = bool(facts.st_mtime_ns // _STEP_NS % 2)
            size = occupied_bytes(facts.st_size)
            yield Block(entry.name, size, facts.st_mtime_ns, hits_of(facts), main), facts.st_size


def _listed(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        return []


def remove_block(root: str, name: str) -> bool:
    """Remove whatever lies under a block's name; return whether something did."""
    return remove_stray(os.path.join(root, block_path(name)))


def remove_stray(path: str) -> bool:
    """Remove a file or whatever else there is; return whether something was."""
    try:
        return unlink_if_there(path)
    except OSError:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
            return True
        raise


def evict_batch(
    root: str,
    ledger: Ledger,
    ghosts: Ghosts,
    need_bytes: int,
    *,
    restart: bool = False,
    now_ns: Callable[[], int] = time.time_ns,
) -> tuple[int, int]:
    """Free ``need_bytes`` and a batch more; blocking, by one caller at a time on the machine.

    Parameters
    ----------
    root, ledger, ghosts
        Of the cache directory.
    need_bytes : int
        What is wanted.
    restart : bool
        Put every block back on probation first: what the cache holds has proved useless.
    now_ns : callable
        The clock.

    Returns
    -------
    freed_bytes, count : int
        What was removed; less than needed when there was no more.

    Notes
    -----
    Killed at any point it leaves a directory that is right: files are removed before their bytes
    are given back, and the next scan corrects the counter.
    """
    start = ledger.begin_scan()
    blocks = [block for block, _ in scan_blocks(root)]
    ledger.end_scan(start, sum(block.size_bytes for block in blocks))
    limit = ledger.limit_bytes
    need = ledger.used_bytes + need_bytes - limit
    if need <= 0:
        return 0, 0  # the scan itself has found the room
    if restart:
        requeued = plan_restart(blocks).requeue
        _requeue(root, requeued, now_ns())
        blocks = [block._replace(queued_at=place) for place, block in enumerate(requeued)]
    plan = plan_s3fifo(blocks, need + int(limit * _BATCH_RATIO), limit)
    small = sum(not block.main for block in plan.evict)
    clock = ledger.tick_ghosts(small, ghost_capacity(len(blocks)))
    freed = count = page = 0
    epoch = ledger.epoch
    for block in plan.evict:
        if not block.main:
            clock += 1
            ghosts.add(block.name, clock)
        with contextlib.suppress(OSError):
            if remove_block(root, block.name):
                page += block.size_bytes
                count += 1
        if count % _PAGE == 0 and page:
            ledger.give_back(page, epoch)
            freed, page = freed + page, 0
    ledger.give_back(page, epoch)
    _requeue(root, plan.requeue, now_ns())
    return freed + page, count


def _requeue(root: str, blocks: list[Block], now_ns: int) -> None:
    for place, block in enumerate(blocks):
        queued = queue_time_ns(now_ns + place * 2 * _STEP_NS, main=block.main)
        with contextlib.suppress(OSError):  # removed meanwhile
            path = os.path.join(root, block_path(block.name))
            told = access_time_ns(block.hits, now_ns / 1e9)
            os.utime(path, ns=(told, queued), follow_symlinks=False)
