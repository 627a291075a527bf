"""Reads whose blocks are all here, on the caller's thread.

What lives here: the way from block files, or the level in memory, to the reader's bytes. What must
not: which version is to be read (``versions.py``), blocks that have to be fetched (``fetch.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from vfs.cache.block import Payload, Verify
from vfs.cache.ends import read_any
from vfs.core.localread import WAIT_FOR_DISK, WaitForDisk, room_for

if TYPE_CHECKING:
    from vfs.cache.engine import CacheEngine
    from vfs.cache.fetch import Version

__all__ = ["Hits"]

#: A read of more blocks looks at the first before it takes memory for all: to take 256 MiB costs
#: 60 ms of page faults, which a read that has to be fetched would pay for nothing.
_FEW_BLOCKS: Final = 4

#: Inside a loop, longer reads go to a thread, however short their blocks are: this one holds the
#: loop up for 2 ms. Of 4 MiB in blocks of 1 MiB a thread makes 1.3 ms instead of 1.0.
_LONGEST_INLINE_BYTES: Final = 8 << 20


class Hits:
    """The blocks that one cache filesystem finds in its directory.

    Parameters
    ----------
    engine : CacheEngine
        Whose directory it is.
    verify : {'always', 'once', 'never'}
        See :data:`~vfs.cache.block.Verify`.
    in_memory : bool
        Whether blocks are kept in the memory of the process, too.

    Notes
    -----
    Thread-safe, without a lock.
    """

    __slots__ = ("_engine", "_in_memory", "_verify")

    def __init__(self, engine: CacheEngine, verify: Verify, *, in_memory: bool) -> None:
        self._engine = engine
        self._verify = verify
        self._in_memory = in_memory

    def read(
        self, version: Version, low: int, high: int, *, may_block: bool
    ) -> bytes | WaitForDisk | None:
        """Return a range, or None if some of it has to be fetched.

        Parameters
        ----------
        version : Version
            Of which object.
        low, high : int
            Inside it.
        may_block : bool
            Whether waiting for the disk is allowed.
        """
        if high <= low:
            return b""
        if not version.keep:
            return None
        if not may_block and high - low > _LONGEST_INLINE_BYTES:
            return WAIT_FOR_DISK
        grain = version.grain_bytes
        first, last = low // grain, (high - 1) // grain
        before = b""
        if first == last or last - first >= _FEW_BLOCKS:
            end = high if first == last else (first + 1) * grain
            found = self._block(version, first, low, end, None, may_block=may_block)
            if not isinstance(found, bytes):
                return cast("WaitForDisk | None", found)
            if end == high:
                self._engine.hits += 1
                return found
            before = found
        holder, held = room_for(high - low), len(before)
        with holder.getbuffer() as room:
            room[:held] = before
            done = self.fill(version, low + held, room[held:], may_block=may_block)
        if isinstance(done, WaitForDisk):
            return done
        if not done:
            return None
        self._engine.hits += bool(before)
        return holder.getvalue()

    def fill(
        self, version: Version, low: int, into: memoryview, *, may_block: bool
    ) -> bool | WaitForDisk:
        """Read a range to where it is wanted, each block straight to its place.

        Parameters
        ----------
        version, low, may_block
            As for :meth:`read`.
        into : memoryview
            As long as the range. What it holds is undefined unless the answer is True.

        Returns
        -------
        bool or WAIT_FOR_DISK
            False if some of it has to be fetched.
        """
        if not version.keep:
            return False
        grain, high = version.grain_bytes, low + len(into)
        for number in range(low // grain, -(-high // grain)):
            start, end = max(low, number * grain), min(high, (number + 1) * grain)
            part = into[start - low : end - low]
            data = self._block(version, number, start, end, part, may_block=may_block)
            if data is None or isinstance(data, WaitForDisk):
                return data or False
        self._engine.hits += -(-high // grain) - low // grain
        return True

    def _block(
        self,
        version: Version,
        number: int,
        low: int,
        high: int,
        into: memoryview | None,
        *,
        may_block: bool,
    ) -> Payload | WaitForDisk | None:
        base, engine = number * version.grain_bytes, self._engine
        start, end = low - base, high - base
        if not self._in_memory:
            return read_any(
                engine, version, number, start, end, self._verify, may_block=may_block, into=into
            )
        whole = end - start == version.length(number)
        data = engine.memory.get(version.name(number))
        if data is None:
            found = read_any(engine, version, number, start, end, self._verify, may_block=may_block)
            if not isinstance(found, bytes):
                return found
            if whole:
                engine.memory.put(version.name(number), found)
            data = found
        elif not whole:
            data = data[start:end]
        if into is None:
            return data
        into[:] = data
        return into
