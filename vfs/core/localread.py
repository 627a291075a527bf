"""Reads of local files that do not block a loop: inline when the page cache has the bytes.

What lives here: the one routine that reads a range of an open file for the hot path. What must
not: paths, filesystems.
"""

from __future__ import annotations

import enum
import errno
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

__all__ = [
    "INLINE_BYTES",
    "WAIT_FOR_DISK",
    "WaitForDisk",
    "fill_range",
    "read_cached",
    "read_range",
    "room_for",
]

#: Inside a loop, larger reads go to a thread even when they are cached: copying holds the loop
#: up (some 60 µs a MiB), and a thread does it without the interpreter lock.
INLINE_BYTES: Final = 2 << 20

_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None) if sys.platform == "linux" else None

#: What a filesystem without RWF_NOWAIT answers, or a kernel without the call.
_NOT_SUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


#: glibc keeps freed memory up to twice the largest block it ever had to map for one allocation,
#: and 32 MiB is the most it will learn; a little less counts as that. Before it has learnt, it
#: gives a 1 MiB buffer back at every free and takes 256 page faults for the next one: 250 to
#: 390 ms instead of 82 to 127 ms for 256 MiB read through zarr (benchmarks, "arrays"), and 33 ms
#: instead of 22 for 13 MB of parquet columns (benchmarks, "shared").
_TEACH_BYTES: Final = (32 << 20) - (64 << 10)

#: Reads from here on are large enough to be mapped by an allocator that has not learnt.
_MAPPED_BYTES: Final = 128 << 10

#: Below this, zeros cost less than the call that avoids them (1.1 µs against 1.6 for 4 KiB, 54
#: against 39 for 1 MiB, 480 against 330 for 4 MiB).
_ZEROED_BYTES: Final = 32 << 10

_taught = False


def _teach_allocator() -> None:
    """Let glibc keep the buffers of large reads, once a process.

    Costs one ``mmap`` and ``munmap``; no page is touched. Other allocators are not impressed.

    References
    ----------
    ``mallopt(3)``, "dynamic mmap threshold".
    """
    global _taught  # noqa: PLW0603 - a property of the process
    _taught = True
    bytes(_TEACH_BYTES)


class WaitForDisk(enum.Enum):
    """The answer is on a local disk, but reading it would hold the caller's loop up."""

    WAIT_FOR_DISK = "read it in a thread"


WAIT_FOR_DISK: Final = WaitForDisk.WAIT_FOR_DISK


def read_range(fd: int, low: int, high: int) -> bytes:
    """Return ``[low, high)`` of an open file, waiting for the disk if need be.

    Notes
    -----
    One system call up to 2 GiB; fewer bytes come back only where the file ends.
    """
    if high - low >= _MAPPED_BYTES and not _taught:
        _teach_allocator()
    data = os.pread(fd, high - low, low)
    if len(data) >= high - low or not data:
        return data
    parts = [data]
    position = low + len(data)
    while position < high and (data := os.pread(fd, high - position, position)):
        parts.append(data)
        position += len(data)
    return b"".join(parts)


def read_cached(fd: int, low: int, high: int) -> bytes | WaitForDisk:
    """Return ``[low, high)`` of an open file if no disk has to be waited for.

    Notes
    -----
    ``preadv2(RWF_NOWAIT)`` answers EAGAIN, or short, when a page is not in the page cache. The
    bytes land in a ``BytesIO`` whose buffer becomes the result without another copy.

    References
    ----------
    ``preadv2(2)``; the idea is that of Seastar and of RocksDB's asynchronous reads.
    """
    count = high - low
    if _NOWAIT is None or count > INLINE_BYTES:
        return WAIT_FOR_DISK
    if count == 0:
        return b""
    holder = room_for(count)
    with holder.getbuffer() as buffer:
        got = fill_range(fd, [buffer], low, may_block=False)
    return WAIT_FOR_DISK if got is WAIT_FOR_DISK else holder.getvalue()


def room_for(count: int) -> io.BytesIO:
    """Return a buffer of some length that becomes ``bytes`` without a copy.

    What it holds is undefined: whoever takes it fills all of it, or drops it.
    """
    if count < _ZEROED_BYTES:
        return io.BytesIO(bytes(count))
    if count >= _MAPPED_BYTES and not _taught:
        _teach_allocator()
    return io.BytesIO(_raw_bytes()(count))


@functools.cache
def _raw_bytes() -> Callable[[int], bytes]:
    """Return what makes ``bytes`` that are not written twice: first zeros, then what was read.

    References
    ----------
    ``PyBytes_FromStringAndSize`` in Python's C API: "If *v* is NULL, the contents of the bytes
    object are uninitialized". A ``BytesIO`` whose bytes nobody else holds lets them be written.
    """
    try:
        import ctypes

        prototype = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_char_p, ctypes.c_ssize_t)
        make = prototype(("PyBytes_FromStringAndSize", ctypes.pythonapi))
    except (ImportError, AttributeError):  # another interpreter than CPython
        return bytes
    return functools.partial(make, None)


def fill_range(
    fd: int, buffers: Sequence[bytearray | memoryview], low: int, *, may_block: bool
) -> int | WaitForDisk:
    """Read what follows ``low`` into buffers, one after the other; return how many bytes came.

    Notes
    -----
    One system call and no copy but the kernel's. Fewer bytes come where the file ends, and from
    2 GiB on.
    """
    if may_block:
        return os.preadv(fd, buffers, low)
    count = sum(len(buffer) for buffer in buffers)
    if _NOWAIT is None or count > INLINE_BYTES:
        return WAIT_FOR_DISK
    try:
        got = os.preadv(fd, buffers, low, _NOWAIT)
    except BlockingIOError:
        return WAIT_FOR_DISK
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return WAIT_FOR_DISK
        raise
    return got if got == count else WAIT_FOR_DISK
