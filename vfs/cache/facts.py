"""What is known of objects without asking: size, version, absence; shared by all processes.

What lives here: one table in a mapped file, 100 bytes an object, read without a lock or a call.
What must not: how long a fact may be believed (``consistency.py``).

A fact is believed only while its slot's stamp is the one under which it was asked for. Whoever
changes an object through the cache writes a new stamp before and after: the next reader, in
whatever process, asks again. An entry carries its own checksum, so that a reader that meets a
half-written one sees nothing instead of something wrong.
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple

import xxhash

from vfs.cache.mapped import map_file

__all__ = ["ABSENT", "DIRECTORY", "NO_OBJECT", "Facts", "FactsTable", "Sighting"]

#: Sizes that are none.
ABSENT: Final = -1
DIRECTORY: Final = -2
#: There is no object to read; whether there is a directory was not asked.
NO_OBJECT: Final = -3

#: URL digest, stamp, size, mtime, when it was asked (seconds since the epoch), etag.
_ENTRY: Final = struct.Struct("<16sQqdd40p")
_CHECK: Final = struct.Struct("<I")
_ENTRY_BYTES: Final = _ENTRY.size + _CHECK.size
_STAMP: Final = struct.Struct("<Q")

#: What fits an entry: S3's etags have 32 to 38 characters, Azure's and GCS's fewer.
_MAX_ETAG_BYTES: Final = 39

#: Facts with longer etags are kept in the process, this many.
_LONG_KEPT: Final = 10_000

_NO_TIME: Final = float("-inf")


class Facts(NamedTuple):
    """What a store said of one object.

    ``size`` is in bytes, or :data:`ABSENT`, :data:`DIRECTORY` or :data:`NO_OBJECT`;
    ``asked_at`` and ``mtime`` are seconds since the epoch; ``stamp`` is the slot's when the store
    was asked.
    """

    size: int
    etag: str | None
    mtime: float | None
    asked_at: float
    stamp: int

    @property
    def validator(self) -> bytes:
        """What is another one when the content is, as far as the store lets one know.

        Without an etag the stamp takes part: a change through the cache that keeps size and time
        must not find the old blocks.
        """
        if self.exact:
            return f"e{self.size}:{self.etag}".encode()
        return f"m{self.size}:{self.mtime!r}:{self.stamp}:{self.etag}".encode()

    @property
    def absent(self) -> bool:
        """Whether there was nothing to read."""
        return self.size in {ABSENT, NO_OBJECT}

    @property
    def exact(self) -> bool:
        """Whether the etag changes with every byte; HTTP's weak ones (``W/"x"``) need not."""
        return self.etag is not None and not self.etag.startswith("W/")


class Sighting(NamedTuple):
    """Where a fact was seen, and what the bytes were: to find in 0.3 µs that nothing changed."""

    facts: Facts
    at: int
    entry: bytes
    stamp_at: int
    stamp: bytes


class FactsTable:
    """The table of one cache directory.

    Parameters
    ----------
    path : str
        Created if missing.
    slots : int
        A power of two; a table that is there keeps its own number.

    Notes
    -----
    Thread-safe and lock-free: entries are written whole under the interpreter lock, and torn ones
    of other processes fail their checksum. Two places serve a slot; when both are taken the older
    fact is forgotten, which costs a question, never an answer.
    """

    def __init__(self, path: str, slots: int) -> None:
        per_slot = _STAMP.size + _ENTRY_BYTES
        self._map = map_file(path, slots * per_slot)
        self._slots = 1 << ((len(self._map) // per_slot).bit_length() - 1)
        self._mask = self._slots - 1
        self._first = self._slots * _STAMP.size
        self._long: dict[bytes, Facts] = {}

    @property
    def size_bytes(self) -> int:
        """What the table takes of the disk at most."""
        return len(self._map)

    def _slot(self, digest: bytes) -> int:
        return int.from_bytes(digest[:4], "little") & self._mask

    def stamp(self, digest: bytes) -> int:
        """Return the stamp under which facts of this URL are to be asked for."""
        slot = int.from_bytes(digest[:4], "little") & self._mask
        return int(_STAMP.unpack_from(self._map, slot * _STAMP.size)[0])

    def restamp(self, digest: bytes) -> None:
        """Make what anybody knows of this URL unbelievable."""
        new = os.urandom(_STAMP.size)
        at = self._slot(digest) * _STAMP.size
        self._map[at : at + _STAMP.size] = new

    def still(self, seen: Sighting) -> bool:
        """Say whether the table still says what was seen."""
        at, entry, stamp_at, stamp = seen[1:]
        return (
            self._map[at : at + _ENTRY_BYTES] == entry
            and self._map[stamp_at : stamp_at + _STAMP.size] == stamp
        )

    def get(self, digest: bytes) -> Facts | None:
        """Return what is known of a URL, if it was asked under the present stamp."""
        seen = self.see(digest)
        if seen is not None:
            return seen.facts
        facts = self._long.get(digest) if self._long else None
        return facts if facts is not None and facts.stamp == self.stamp(digest) else None

    def see(self, digest: bytes) -> Sighting | None:
        """Return what the table says of a URL, with where and how it says so."""
        slot = int.from_bytes(digest[:4], "little") & self._mask
        for place in (slot, slot ^ 1):
            at = self._first + place * _ENTRY_BYTES
            raw = self._map[at : at + _ENTRY_BYTES]
            if raw[:16] != digest:
                continue
            body = raw[: _ENTRY.size]
            if (
                xxhash.xxh3_64_intdigest(body) & 0xFFFFFFFF
                != _CHECK.unpack_from(raw, _ENTRY.size)[0]
            ):
                continue
            _, stamp, size, mtime, asked_at, etag = _ENTRY.unpack(body)
            stamp_at = slot * _STAMP.size
            present = self._map[stamp_at : stamp_at + _STAMP.size]
            if stamp != _STAMP.unpack(present)[0]:
                return None
            told = etag.decode() if etag else None
            when = None if mtime == _NO_TIME else mtime
            facts = Facts(size, told, when, asked_at, stamp)
            return Sighting(facts, at, raw, stamp_at, present)
        return None

    def remember(self, digest: bytes, facts: Facts) -> None:
        """Keep a fact; useless, and harmless, if the stamp has changed since it was asked."""
        etag = (facts.etag or "").encode()
        if len(etag) > _MAX_ETAG_BYTES:
            if len(self._long) >= _LONG_KEPT:
                self._long.clear()
            self._long[digest] = facts
            return
        mtime = _NO_TIME if facts.mtime is None else facts.mtime
        body = _ENTRY.pack(digest, facts.stamp, facts.size, mtime, facts.asked_at, etag)
        at = self._first + self._place(digest) * _ENTRY_BYTES
        check = _CHECK.pack(xxhash.xxh3_64_intdigest(body) & 0xFFFFFFFF)
        self._map[at : at + _ENTRY_BYTES] = body + check

    def _place(self, digest: bytes) -> int:
        """Return where a fact of this URL goes: its own place, a free one, or the older one."""
        slot = self._slot(digest)
        ages = []
        for place in (slot, slot ^ 1):
            at = self._first + place * _ENTRY_BYTES
            present, _, _, _, asked_at, _ = _ENTRY.unpack_from(self._map, at)
            if present == digest:
                return place
            ages.append((asked_at, place))
        return min(ages)[1]
