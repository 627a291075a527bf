"""Locks between processes that the kernel frees when their holder dies.

What lives here: byte-range locks of one file, owned by an open file description, so that threads
and coroutines of one process exclude each other too. What must not: what the locks mean.

References
----------
Open file description locks, ``fcntl(2)``, Linux 3.15. Unlike ``flock`` they cover single bytes,
so one file serves any number of names; unlike POSIX locks, closing another descriptor of the
same file does not drop them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

from vfs.errors import UnsupportedError

__all__ = ["LockFile"]

#: ``struct flock`` of 64-bit Linux: type, whence, start, length, pid (which must be 0).
_FLOCK: Final = "hhqqi4x"
_SETLK: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None)
_SETLKW: Final[int] = getattr(fcntl, "F_OFD_SETLKW", 0)
_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES})

#: Waiting for another process is polling, as the kernel's blocking call would hold a thread each.
#: The first step is below a local write's own time, the last far below a person's patience.
_FIRST_PAUSE_S: Final = 0.0005
_LAST_PAUSE_S: Final = 0.02

#: Of one line: two lines with a file each are a fifth of the 1024 descriptors that most machines
#: give a process, where fsspec starts 1280 calls of one ``cat`` or ``pipe`` together.
_MOST_AT_ONCE: Final = 128


class LockFile:
    """Byte locks in one file.

    Parameters
    ----------
    path : str
        Created if missing; it stays empty.

    Notes
    -----
    Every holder has its own descriptor. :meth:`forget_after_fork` closes the copies that a child
    inherits, since a lock lives as long as any copy of its descriptor.
    """

    def __init__(self, path: str) -> None:
        if _SETLK is None:
            message = "this operating system has no open file description locks (Linux has)"
            raise UnsupportedError(message, path)
        self.path = path
        self._held: set[int] = set()
        self._lines: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_MOST_AT_ONCE)
        )
        os.close(self._open())

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)

    def try_lock(self, fd: int, byte: int) -> bool:
        """Lock one byte for the descriptor; return False if another holder has it."""
        request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        try:
            fcntl.fcntl(fd, _SETLK or 0, request)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def acquire_now(self, byte: int) -> int | None:
        """Lock one byte without waiting; return the descriptor that holds it, or None."""
        fd = self._open()
        if self.try_lock(fd, byte):
            self._held.add(fd)
            return fd
        os.close(fd)
        return None

    def release(self, fd: int) -> None:
        """Give up everything a descriptor holds."""
        self._held.discard(fd)
        # Unlock by name: a forked child may hold a copy of the descriptor.
        request = struct.pack(_FLOCK, fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, _SETLK or 0, request)
        os.close(fd)

    @contextlib.asynccontextmanager
    async def hold(self, bytes_: Iterable[int], *, line: str | None = None) -> AsyncIterator[None]:
        """Hold several bytes, taken in ascending order, so that two holders never deadlock.

        Parameters
        ----------
        bytes_ : iterable of int
            Which.
        line : str, optional
            Wait in this line, without a descriptor, until fewer than 128 of it have one. Not for
            who holds something that the first of the line may be waiting for.

        Notes
        -----
        INVARIANT: a call for thousands of objects leaves descriptors to others.
        (tests/interop/test_many_names.py::test_call_for_many_objects_takes_few_descriptors)
        """
        waiting = self._lines[line] if line is not None else contextlib.nullcontext()
        async with waiting, self._hold(bytes_):
            yield

    @contextlib.asynccontextmanager
    async def _hold(self, bytes_: Iterable[int]) -> AsyncIterator[None]:
        fd = self._open()
        self._held.add(fd)
        try:
            for byte in sorted(set(bytes_)):
                pause_s = _FIRST_PAUSE_S
                while not self.try_lock(fd, byte):
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LAST_PAUSE_S)
            yield
        finally:
            self.release(fd)

    @contextlib.contextmanager
    def hold_briefly(self, byte: int) -> Iterator[None]:
        """Hold one byte, blocking the thread: on a loop only what is held for a few instructions.

        Notes
        -----
        Cost: open, two fcntl, close, about 4 µs. Not to be used while forks are possible in
        between, as the child would hold the byte too: see :meth:`forget_after_fork`.
        """
        fd = self._open()
        self._held.add(fd)
        try:
            request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            fcntl.fcntl(fd, _SETLKW, request)
            yield
        finally:
            self.release(fd)

    def forget_after_fork(self) -> None:
        """Close what a forked child inherited, without unlocking the parent's locks."""
        for fd in self._held:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._held.clear()
        self._lines.clear()  # those who waited in them are the parent's
