"""How many bytes a cache directory holds and may hold, agreed by all its processes.

What lives here: reservations against the limit. What must not: files, or what to evict.

The counter may be above the truth, never below: bytes are charged before a file is made and given
back after it is gone. What a killed process had charged is found by the next scan (``evict.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from vfs.cache.mapped import map_file
from vfs.core.filelock import LockFile

__all__ = ["MAX_OWNERS", "NO_OWNER", "Ledger", "ScanStart", "find_owner", "read_counters"]

#: Processes that may use one cache directory at a time; one more caches nothing.
MAX_OWNERS: Final = 1024
NO_OWNER: Final = -1

_FIELD: Final = struct.Struct("<Q")
_LIMIT, _USED, _CHARGED, _GHOST_CLOCK, _GHOST_CAPACITY, _EPOCH, _COUNTED = range(7)
_CLEAN, _UNCLEAN = 1, 2
_FIRST_OWNER: Final = 16
_BYTES: Final = (_FIRST_OWNER + MAX_OWNERS) * _FIELD.size


class ScanStart(NamedTuple):
    """What the ledger said when a scan of the directory began."""

    charged_bytes: int
    in_flight_bytes: int


class Ledger:
    """The counters of one cache directory, in a file that every process maps.

    Parameters
    ----------
    path : str
        Created if missing.
    locks : LockFile
        One of its bytes guards the counters.
    lock_byte : int
        Which one.

    Notes
    -----
    Thread-safe. Cost: 4 µs a call.
    """

    def __init__(self, path: str, locks: LockFile, lock_byte: int) -> None:
        self._locks = locks
        self._byte = lock_byte
        self._map = map_file(path, _BYTES)

    def _get(self, field: int) -> int:
        return int(_FIELD.unpack_from(self._map, field * _FIELD.size)[0])

    def _set(self, field: int, value: int) -> None:
        _FIELD.pack_into(self._map, field * _FIELD.size, max(0, value))

    @property
    def limit_bytes(self) -> int:
        """The limit, 0 before one was set."""
        return self._get(_LIMIT)

    @limit_bytes.setter
    def limit_bytes(self, value: int) -> None:
        self._set(_LIMIT, value)

    @property
    def counted(self) -> bool:
        """Whether the counter was ever found by a scan; False in a new ledger."""
        return bool(self._get(_COUNTED))

    @property
    def unclean(self) -> bool:
        """Whether there may be blocks from before the machine went down."""
        return self._get(_COUNTED) == _UNCLEAN

    @property
    def used_bytes(self) -> int:
        """What is charged: files there are, and files being written."""
        return self._get(_USED)

    def reserve(self, owner: int, count: int) -> bool:
        """Charge bytes that are about to be written, or return False where the limit is.

        INVARIANT: nothing is written before it is charged.
        (tests/cache/test_limit.py::test_limit_holds_at_every_instant)
        """
        with self._locks.hold_briefly(self._byte):
            used = self._get(_USED)
            if used + count > self._get(_LIMIT):
                return False
            self._set(_USED, used + count)
            self._set(_CHARGED, self._get(_CHARGED) + count)
            self._add_in_flight(owner, count)
        return True

    def _add_in_flight(self, owner: int, count: int) -> None:
        field = _FIRST_OWNER + owner
        self._set(field, self._get(field) + count)

    def landed(self, owner: int, count: int, *, kept: bool) -> None:
        """Say that a reservation has become a file, or has not."""
        with self._locks.hold_briefly(self._byte):
            self._add_in_flight(owner, -count)
            if not kept:
                self._set(_USED, self._get(_USED) - count)

    @property
    def epoch(self) -> int:
        """Changes when a scan begins or ends; to be read before a file is removed."""
        return self._get(_EPOCH)

    def give_back(self, count: int, epoch: int) -> None:
        """Say that files of this size are gone, removed since ``epoch`` was read.

        INVARIANT: nothing is given back across a scan, which may not have counted it any more.
        (tests/cache/test_limit.py::test_scan_between_a_removal_and_its_entry)
        """
        with self._locks.hold_briefly(self._byte):
            if self._get(_EPOCH) == epoch:
                self._set(_USED, self._get(_USED) - count)

    def owners_in_flight(self) -> list[int]:
        """Return the processes with open reservations, the dead among them."""
        return [n for n in range(MAX_OWNERS) if self._get(_FIRST_OWNER + n)]

    def bury(self, owner: int) -> None:
        """Forget what a dead process had in flight; the bytes stay charged until a scan."""
        with self._locks.hold_briefly(self._byte):
            self._set(_FIRST_OWNER + owner, 0)

    def begin_scan(self) -> ScanStart:
        """Note what a scan that starts now has to reckon with."""
        with self._locks.hold_briefly(self._byte):
            self._set(_EPOCH, self._get(_EPOCH) + 1)
            flying = sum(self._get(_FIRST_OWNER + n) for n in range(MAX_OWNERS))
            return ScanStart(self._get(_CHARGED), flying)

    def end_scan(self, start: ScanStart, found_bytes: int, *, first: bool = False) -> None:
        """Correct the counter by what a scan found.

        Every file there now was found, or was in flight when the scan began, or was charged
        since: their sum is no less than the truth. The counter itself is no less either, unless
        it is new or from another boot, which ``first`` says: then only the sum counts.
        """
        with self._locks.hold_briefly(self._byte):
            self._set(_EPOCH, self._get(_EPOCH) + 1)
            since = self._get(_CHARGED) - start.charged_bytes
            most = found_bytes + start.in_flight_bytes + since
            if first:
                # What was there before was never synced, perhaps.
                self._set(_COUNTED, _UNCLEAN if found_bytes else _CLEAN)
                self._set(_USED, most)
                return
            self._set(_USED, max(min(self._get(_USED), most), found_bytes))

    def tick_ghosts(self, count: int, capacity: int) -> int:
        """Advance the clock of evictions; return where it stood. ``evict.py`` says what for."""
        with self._locks.hold_briefly(self._byte):
            now = self._get(_GHOST_CLOCK)
            self._set(_GHOST_CLOCK, now + count)
            self._set(_GHOST_CAPACITY, capacity)
        return now

    @property
    def ghost_clock(self) -> int:
        """Evictions from the small queue so far."""
        return self._get(_GHOST_CLOCK)

    @property
    def ghost_capacity(self) -> int:
        """How many evictions a ghost lives."""
        return self._get(_GHOST_CAPACITY)


def read_counters(path: str) -> tuple[int, int]:
    """Return limit and used bytes from a ledger's file without mapping or locking it."""
    try:
        with open(path, "rb") as file:
            data = file.read((_USED + 1) * _FIELD.size)
    except FileNotFoundError:
        data = b""
    if len(data) < (_USED + 1) * _FIELD.size:
        return 0, 0  # claimed, and not used yet
    limit, used = (_FIELD.unpack_from(data, n * _FIELD.size)[0] for n in (_LIMIT, _USED))
    return int(limit), int(used)


def find_owner(lock: Callable[[int], int | None]) -> tuple[int, int] | None:
    """Return the first number nobody holds and the descriptor that now holds it."""
    for owner in range(MAX_OWNERS):
        fd = lock(owner)
        if fd is not None:
            return owner, fd
    return None
