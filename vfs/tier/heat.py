"""How often objects are read: hot copies in a shared table, cold ones counted and kept for plans.

What lives here: counting. What must not: deciding anything by it (``policies/moves.py``).

Both count within about a day: what was counted today, and of yesterday the share that is still
within 24 hours if its reads were spread evenly.
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from vfs.policies.moves import DAY_S
from vfs.tier.history import note_cold_reads

if TYPE_CHECKING:
    from vfs.tier.catalog import Catalog

__all__ = ["ColdReads", "Heat", "reads_of_a_day"]

#: Copies share so many counters, by inode. A million copies of one disk then mostly have one of
#: their own; two that share one are both taken for hotter than they are, and stay.
_SLOTS: Final = 1 << 20

_COUNTER: Final = struct.Struct("<IHH")  # day, reads of that day, reads of the day before
_MOST: Final = 0xFFFF

#: Keys whose cold reads are remembered in memory.
_REMEMBERED: Final = 10_000

#: Cold reads are written down together, at most so often: one commit costs some 100 µs.
_EVERY_S: Final = 5.0


def reads_of_a_day(day: int, today: float, before: float, now: float) -> float:
    """Return the reads within the last 24 hours from the counts of a day and the one before.

    Examples
    --------
    >>> noon = 10.5 * DAY_S
    >>> [reads_of_a_day(day, 4, 8, noon) for day in (10, 9, 8)]
    [8.0, 2.0, 0.0]
    """
    elapsed = now / DAY_S - day
    if 0 <= elapsed < 1:
        return today + before * (1 - elapsed)
    return today * (2 - elapsed) if 1 <= elapsed < 2 else 0.0


class Heat:
    """Reads of hot copies, over all processes: a table that is shared, lossy and never locked.

    Parameters
    ----------
    path : str
        Of the table; made if missing. It is sparse, and may be lost.
    """

    def __init__(self, path: str) -> None:
        with open(path, "ab") as file:
            if file.tell() < _SLOTS * _COUNTER.size:
                file.truncate(_SLOTS * _COUNTER.size)
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SLOTS * _COUNTER.size)

    def note(self, inode: int, now: float) -> None:
        """Count a read.

        Notes
        -----
        Called on a hit, but at most once a second for one copy: reads within the same second
        count as one, and a hit of a hot loop pays nothing.
        """
        place = inode % _SLOTS * _COUNTER.size
        today = int(now // DAY_S)
        day, count, before = _COUNTER.unpack_from(self._map, place)
        if day != today:
            before, count = (count if day == today - 1 else 0), 0
        _COUNTER.pack_into(self._map, place, today, min(count + 1, _MOST), before)

    def forget(self, inode: int) -> None:
        """Begin anew for a file that has the number of an older one."""
        _COUNTER.pack_into(self._map, inode % _SLOTS * _COUNTER.size, 0, 0, 0)

    def reads(self, inode: int, now: float) -> float:
        """Return about how often a copy was read within a day."""
        day, count, before = _COUNTER.unpack_from(self._map, inode % _SLOTS * _COUNTER.size)
        return reads_of_a_day(day, count, before, now)


class ColdReads:
    """Reads that cold answered, of one process; written to the catalogue now and then."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._fresh: dict[str, tuple[int, int | None]] = {}
        self._lock = threading.Lock()
        self._saved_at = 0.0
        #: What must be recalled before it can be read, as far as is known.
        self.archived: set[str] = set()

    def note_archived(self, key: str) -> None:
        """Remember that a read was refused until the object is recalled."""
        if len(self.archived) < _REMEMBERED:
            self.archived.add(key)

    def count(self, key: str) -> int:
        """Count a cold read; return how many there were before, as far as is remembered."""
        with self._lock:
            before = self._counts.pop(key, 0)
            if len(self._counts) >= _REMEMBERED:
                self._counts.pop(next(iter(self._counts)), None)
            self._counts[key] = before + 1
            if key in self._fresh or len(self._fresh) < _REMEMBERED:
                count, size = self._fresh.get(key, (0, None))
                self._fresh[key] = (count + 1, size)
        return before

    def note_size(self, key: str, size: int) -> None:
        """Remember how large an object is that was just counted."""
        with self._lock:
            if key in self._fresh:
                self._fresh[key] = (self._fresh[key][0], size)

    def is_due(self, now: float) -> bool:
        """Say whether it is time to :meth:`save`."""
        return bool(self._fresh) and not 0 <= now - self._saved_at < _EVERY_S

    def save(self, catalog: Catalog, now: float) -> None:
        """Add what was counted since the last time to the catalogue."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
            self._saved_at = now
        if fresh:
            found: Iterable[tuple[str, int, int | None]] = (
                (key, count, size) for key, (count, size) in fresh.items()
            )
            note_cold_reads(catalog, found, int(now // DAY_S))
