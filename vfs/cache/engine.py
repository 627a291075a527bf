"""One cache directory as one process sees it: opened once, shared by all filesystem instances.

What lives here: opening, degradation, fork, installing blocks, counters. What must not: the order
of a read (``fetch.py``), fsspec paths (``filesystem.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import Counter, deque
from typing import Any, Final

from vfs.cache.block import (
    DamagedBlock,
    Payload,
    Verify,
    access_time_ns,
    block_path,
    file_bytes,
    footer_of,
    occupied_bytes,
    read_block,
)
from vfs.cache.claim import claim, read_boot
from vfs.cache.evict import Ghosts, evict_batch, queue_time_ns, remove_block, scan_blocks
from vfs.cache.facts import Facts, FactsTable
from vfs.cache.ledger import MAX_OWNERS, NO_OWNER, Ledger, find_owner
from vfs.cache.memory import MemoryLevel
from vfs.core.clock import SYSTEM_CLOCK, boot_id
from vfs.core.durable import Staging, unlink_if_there
from vfs.core.engine import Engine
from vfs.core.filelock import LockFile
from vfs.core.localread import WAIT_FOR_DISK, WaitForDisk
from vfs.core.loop import run_in_thread
from vfs.core.single_flight import SingleFlight
from vfs.observe import Event, emit, logger
from vfs.policies.duel import AdmissionDuel

__all__ = ["FETCH_SLOTS", "CacheEngine"]

#: Bytes of the lock file: one a fetch slot, one for whoever evicts, one for the ledger, then one
#: each process holds for life. Two blocks that share a slot only wait for each other.
FETCH_SLOTS: Final = 1 << 20
_EVICT_LOCK: Final = FETCH_SLOTS
_LEDGER_LOCK: Final = FETCH_SLOTS + 1
_LIFE_LOCKS: Final = FETCH_SLOTS + 2

#: Default limit: a tenth of the disk, and no more than this.
_DEFAULT_LIMIT_RATIO: Final = 0.1
_DEFAULT_LIMIT_BYTES: Final = 50 << 30

#: A directory that could not be used is tried again after this time.
_RETRY_S: Final = 10.0

#: One fact is remembered for each so many bytes of the limit, within bounds: 64 KiB is a small
#: zarr chunk. At 100 bytes each the table takes 0.15 % of the limit.
_BYTES_A_SLOT: Final = 64 << 10
_MIN_SLOTS: Final = 256
_MAX_SLOTS: Final = 1 << 20

#: Uses that wait to be told to the duel, which is asked at the next fetch.
_USES_KEPT: Final = 65_536

#: Blocks verified as a whole, and listings, that a process remembers.
_VERIFIED_KEPT: Final = 100_000
_LISTINGS_KEPT: Final = 1_000


class CacheEngine(Engine):
    """Everything the instances of one process share for one cache directory.

    Parameters
    ----------
    root : str
        The cache directory; made if missing.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.max_bytes: int | None = None
        self.memory = MemoryLevel(0)
        self._reset()

    def _reset(self) -> None:
        self.ready = False
        self.flights: dict[str, asyncio.Task[Any]] = {}
        self.openings: dict[bytes, asyncio.Task[bytes | None]] = {}
        self.questions: SingleFlight[Facts] = SingleFlight()
        self.counts: Counter[str] = Counter()
        self.hits = 0
        self.verified: dict[str, int] = {}
        self.listings: dict[bytes, tuple[int, float, Any]] = {}
        self.blocks = -1
        self._opening = threading.Lock()
        self._evicting = asyncio.Lock()
        self._uses: deque[tuple[str, int]] = deque(maxlen=_USES_KEPT)
        self._duel: AdmissionDuel | None = None
        self._duel_limit = 0
        self._restarts = 0
        self._slots: dict[int, asyncio.Semaphore] = {}
        self._broken_since: float | None = None
        self._warned = False
        self._warning = threading.Lock()
        self._life: int | None = None
        self._stamp: list[tuple[int, int]] = []
        self._serial = 0
        self._complained: set[str] = set()

    def after_fork(self) -> None:
        """Start anew in a child: locks, tasks and the owner's number belong to the parent."""
        if self.ready:
            self.locks.forget_after_fork()
            os.close(self.blocks)
        self._reset()

    def close(self) -> None:
        """Give up descriptors."""
        if self.ready:
            self.ready = False
            self._let_go()

    def _let_go(self) -> None:
        """Close what is open; maps are left to whoever may still read them."""
        if self._life is not None:
            self.locks.release(self._life)
            self._life = None
        if self.blocks >= 0:
            os.close(self.blocks)
            self.blocks = -1

    def configure(self, max_bytes: int | None, memory_bytes: int = 0) -> None:
        """Take over what a new instance was configured with; the last limit given wins."""
        if memory_bytes and memory_bytes != self.memory.max_bytes:
            self.memory = MemoryLevel(memory_bytes)
        if max_bytes is not None:
            self.max_bytes = max_bytes
            if self.ready and self._still_there():
                with contextlib.suppress(OSError):  # it is being lost: the next use notices
                    self._obey_limit()

    # ---------------------------------------------------------------- opening

    def usable(self) -> bool:
        """Open the directory at first use; say whether it can be used now.

        Raises
        ------
        ConfigError
            The directory holds other files, or another format.

        Notes
        -----
        A directory that cannot be opened leaves reads to the target, with one warning; it is
        tried again every 10 s.
        """
        if self.ready and self._still_there():
            return True
        with self._opening:
            if self.ready:
                return True
            now = SYSTEM_CLOCK.monotonic_s()
            if self._broken_since is not None and now - self._broken_since < _RETRY_S:
                return False
            try:
                self._open()
            except OSError as error:
                self._broken_since = now
                self._let_go()
                self.degrade(str(error))
                return False
            self._broken_since = None
            self.ready = True
            if self._warned:
                self._warned = False
                emit(Event("recovered", "", reason=self.root))
        return True

    def degrade(self, reason: str) -> None:
        """Say once that blocks cannot be kept; reads go on."""
        with self._warning:
            said, self._warned = self._warned, True
        if not said:
            logger.warning("cache %s cannot be used: %s", self.root, reason)
            emit(Event("degraded", "", reason=reason))

    def _still_there(self) -> bool:
        with contextlib.suppress(OSError):
            if self._identity() == self._stamp:
                return True
        with self._opening:
            if self.ready:
                self.ready = False
                self._let_go()
                self._broken_since = SYSTEM_CLOCK.monotonic_s()
                self.degrade("it was removed or replaced")
        return False

    def _identity(self) -> list[tuple[int, int]]:
        """Return which files lie where the locks and the blocks are to be."""
        found = [os.stat(os.path.join(self.root, name)) for name in ("locks", "blocks")]
        return [(facts.st_dev, facts.st_ino) for facts in found]

    def _open(self) -> None:
        claim(self.root)
        self.locks = LockFile(os.path.join(self.root, "locks"))
        self.ledger = Ledger(os.path.join(self.root, "ledger"), self.locks, _LEDGER_LOCK)
        owned = find_owner(lambda n: self.locks.acquire_now(_LIFE_LOCKS + n))
        if owned is None:
            # It reads, and tells the others what it changes, but keeps nothing.
            self.owner, self._life = NO_OWNER, None
            self.degrade(f"{MAX_OWNERS} processes use it already; this one keeps nothing")
        else:
            self.owner, self._life = owned
            self._bury(self.owner)
        self._bury_the_dead()
        limit = self._first_limit()
        slots = 1 << max(0, (limit // _BYTES_A_SLOT).bit_length() - 1)
        slots = min(max(slots, _MIN_SLOTS), _MAX_SLOTS)
        self.facts = FactsTable(os.path.join(self.root, "facts"), slots)
        self.ghosts = Ghosts(os.path.join(self.root, "ghosts"), slots, self.ledger)
        top = os.path.join(self.root, "blocks")
        _make_shelves(top)
        self.blocks = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        self._stamp = self._identity()
        self._count_if_new(top)
        self._obey_limit()

    def _count_if_new(self, top: str) -> None:
        """Count what is there, where the ledger cannot know.

        It is new, or some of its pages did not reach the disk before a power cut.
        INVARIANT: counted before anything is reserved.
        (tests/cache/test_limit.py::test_ledger_of_before_a_power_cut)
        """
        path, boot = os.path.join(self.root, "boot"), boot_id()
        if not (self.ledger.counted and read_boot(path) == boot):
            start = self.ledger.begin_scan()
            found = sum(block.size_bytes for block, _ in scan_blocks(top))
            self.ledger.end_scan(start, found, first=True)
            with open(path, "w", encoding="ascii") as file:
                file.write(boot)
        self.unclean = self.ledger.unclean

    def _first_limit(self) -> int:
        """Return the limit that was given, is recorded, or follows from the disk."""
        limit = self.max_bytes or self.ledger.limit_bytes
        if not limit:
            disk = os.statvfs(self.root)
            share = int(disk.f_blocks * disk.f_frsize * _DEFAULT_LIMIT_RATIO)
            limit = min(share, _DEFAULT_LIMIT_BYTES)
        return limit

    def _obey_limit(self) -> None:
        """Record the limit, less what the tables take, and shrink to it."""
        tables = self.facts.size_bytes + self.ghosts.size_bytes
        limit = self.max_bytes
        if limit is None:
            if self.ledger.limit_bytes:
                return
            limit = self._first_limit()
        # Never 0, which would mean that none was given.
        self.ledger.limit_bytes = max(1, limit - tables)
        if self.ledger.used_bytes > self.ledger.limit_bytes:
            with self.locks.hold_briefly(_EVICT_LOCK):
                self._evict(0)

    def _bury_the_dead(self) -> None:
        """Undo what processes that died were doing."""
        for owner in {*self.ledger.owners_in_flight(), *self._owners_of_staged_files()}:
            if owner == self.owner:
                continue
            fd = self.locks.acquire_now(_LIFE_LOCKS + owner)
            if fd is not None:
                self._bury(owner)
                self.locks.release(fd)

    def _owners_of_staged_files(self) -> set[int]:
        names = os.listdir(os.path.join(self.root, "tmp"))
        return {int(owner) for name in names if (owner := name.partition("-")[0]).isdecimal()}

    def _bury(self, owner: int) -> None:
        staged = os.path.join(self.root, "tmp")
        for name in os.listdir(staged):
            if name.startswith(f"{owner}-"):
                unlink_if_there(os.path.join(staged, name))
        self.ledger.bury(owner)

    # ---------------------------------------------------------------- blocks

    def read(
        self,
        name: str,
        payload_bytes: int,
        low: int,
        high: int,
        verify: Verify,
        *,
        may_block: bool,
        counts: bool = True,
        into: memoryview | None = None,
    ) -> Payload | WaitForDisk | None:
        """Return bytes of a block, or None if it has to be fetched; see ``read_block``."""
        if self.unclean and verify == "never":
            verify = "once"  # nothing was fsynced before the machine went down
        data = read_block(
            self.blocks,
            name,
            payload_bytes,
            low,
            high,
            verify=verify,
            may_block=may_block,
            verified=self.verified,
            counts=counts,
            into=into,
        )
        if isinstance(data, DamagedBlock):
            self.discard(name, payload_bytes)
            return None
        if len(self.verified) > _VERIFIED_KEPT:
            self.verified.clear()
        if counts and data is not None and data is not WAIT_FOR_DISK:
            self._uses.append((name, payload_bytes))
        return data

    def discard(self, name: str, payload_bytes: int) -> None:
        """Remove a damaged block; it is fetched again."""
        self.counts["damaged"] += 1
        self.verified.pop(name, None)
        if name not in self._complained:
            self._complained.add(name)
            logger.warning(
                "cache %s: block %s is damaged and will be fetched again", self.root, name
            )
            emit(Event("damaged", name, reason=self.root))
        self.remove(name, payload_bytes)

    def remove(self, name: str, payload_bytes: int) -> bool:
        """Remove a block and give its bytes back; return whether there was one.

        Of what was charged and what a scan may have counted the less is given back.
        """
        top = os.path.join(self.root, "blocks")
        try:
            epoch = self.ledger.epoch
            found = os.lstat(os.path.join(top, block_path(name))).st_size
            removed = remove_block(top, name)
            if removed:
                charged = occupied_bytes(file_bytes(payload_bytes))
                self.ledger.give_back(min(charged, occupied_bytes(found)), epoch)
        except OSError:  # the directory is being lost: the next use notices
            return False
        return removed

    async def install(self, name: str, payload: memoryview, *, may_evict: bool) -> bool:
        """Keep a block, if there is or can be made room for it.

        Returns
        -------
        bool
            Whether it is kept. An object that is larger than the limit streams past.
        """
        count = occupied_bytes(file_bytes(len(payload)))
        kept = False
        try:
            if self.ready and self.owner != NO_OWNER:
                # The directory may be lost and opened anew while this goes on.
                ledger, owner = self.ledger, self.owner
                wanted = self._admits(name, len(payload)) and may_evict
                if await self._reserve(ledger, owner, count, may_evict=wanted):
                    kept = await run_in_thread(self._write, ledger, owner, name, payload, count)
        except OSError as error:
            # Disk full, read-only, gone: the reader has its bytes, the cache is left alone.
            self.degrade(str(error))
        self.counts["not_kept"] += not kept
        return kept

    def _admits(self, name: str, payload_bytes: int) -> bool:
        """Say whether a block that was fetched is worth the room of others; on the I/O loop."""
        limit = self.ledger.limit_bytes
        if self._duel is None or limit != self._duel_limit:
            self._duel, self._duel_limit, self._restarts = AdmissionDuel(limit), limit, 0
        duel, before = self._duel, ""
        while self._uses:
            used, size = self._uses.popleft()
            if used != before:  # reads of one block that follow each other are one use
                duel.seen(used, size)
            before = used
        duel.seen(name, payload_bytes)
        return duel.admits(name, payload_bytes)

    async def _reserve(self, ledger: Ledger, owner: int, count: int, *, may_evict: bool) -> bool:
        if ledger.reserve(owner, count):
            return True
        if not may_evict or count > ledger.limit_bytes:
            return False
        async with self._evicting, self.locks.hold([_EVICT_LOCK]):
            if ledger.reserve(owner, count):
                return True
            await run_in_thread(self._evict, count)
            return ledger.reserve(owner, count)

    def _evict(self, count: int) -> None:
        self._bury_the_dead()
        top = os.path.join(self.root, "blocks")
        restarts = self._duel.resets if self._duel is not None else 0
        restart, self._restarts = restarts > self._restarts, restarts
        freed, removed = evict_batch(top, self.ledger, self.ghosts, count, restart=restart)
        self.counts["evictions"] += removed
        if removed:
            emit(Event("evicted", "", freed, f"{removed} blocks"))

    def _write(
        self, ledger: Ledger, owner: int, name: str, payload: memoryview, count: int
    ) -> bool:
        kept = False
        path = os.path.join(self.root, "blocks", block_path(name))
        self._serial += 1
        try:
            staged = os.path.join(self.root, "tmp")
            with Staging(staged, "process", f"{owner}-{self._serial}-{name}") as staging:
                staging.write(payload)
                staging.write(footer_of(name, payload))
                queued = queue_time_ns(time.time_ns(), main=self.ghosts.has(name))
                os.utime(staging.fd, ns=(access_time_ns(0, time.time()), queued))
                if self.ledger is ledger and not os.path.lexists(path):
                    staging.publish(path)
                    kept = True
                    self.verified.pop(name, None)  # the file system may give out an inode again
                    self._warned = False
        finally:
            with contextlib.suppress(OSError):  # the lock file is gone, and the ledger with it
                ledger.landed(owner, count, kept=kept)
        return kept

    def request_slot(self, concurrency: int) -> asyncio.Semaphore:
        """Return what bounds the requests in flight of this process."""
        slot = self._slots.get(concurrency)
        if slot is None:
            slot = self._slots[concurrency] = asyncio.Semaphore(concurrency)
        return slot

    # ---------------------------------------------------------------- small tables

    def remember_listing(self, digest: bytes, stamp: int, asked_at: float, found: Any) -> None:
        """Keep a listing at hand while nothing below its directory is changed through the cache."""
        if len(self.listings) >= _LISTINGS_KEPT:
            self.listings.clear()
        self.listings[digest] = (stamp, asked_at, found)


def _make_shelves(top: str) -> None:
    """Make the directories of the blocks that are not there, by one look."""
    os.makedirs(top, exist_ok=True)
    for name in {f"{number:02x}" for number in range(256)}.difference(os.listdir(top)):
        os.makedirs(os.path.join(top, name), exist_ok=True)
