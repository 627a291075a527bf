"""Block files: their names, their format, and reads that notice every flipped bit.

What lives here: one block as a file, from bytes to bytes. What must not: where the directory is,
what else lies in it, how full it is.

A block file is immutable: payload, one xxh3 checksum for each 64 KiB page of it, and a footer that
holds the file's own name, so that a file that was moved under another name is noticed too. Its
times are bookkeeping: the modification time is the block's place in its queue, the access time
counts hits (see ``evict.py``).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import stat
import struct
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, Literal, TypeAlias

import xxhash

from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.localread import (
    WAIT_FOR_DISK,
    WaitForDisk,
    fill_range,
    read_cached,
    read_range,
)

__all__ = [
    "DAMAGED",
    "MAX_HITS",
    "PAGE_BYTES",
    "DamagedBlock",
    "Payload",
    "Verify",
    "access_time_ns",
    "block_name",
    "block_path",
    "file_bytes",
    "footer_of",
    "hits_of",
    "is_block_name",
    "occupied_bytes",
    "pages_around",
    "payload_of",
    "read_block",
]

#: How much of a block is checked when a read touches it: ``always`` the touched pages at every
#: read, ``once`` the whole block at its first read in a process, ``never`` only length and footer.
Verify: TypeAlias = Literal["always", "once", "never"]

#: What a read gives: bytes of its own, or the part of the reader's buffer that it filled.
Payload: TypeAlias = bytes | memoryview
_PAYLOADS: Final = (bytes, memoryview)

#: A read of one byte has to read and hash a page. 64 KiB costs 4 µs of copying and 0.6 of xxh3.
PAGE_BYTES: Final = 64 << 10

#: Magic, name of the block, length of the payload, checksum of all before it (pages' included).
_FOOTER: Final = struct.Struct("<8s16sQQ")
_CHECK: Final = struct.Struct("<Q")
_MAGIC: Final = b"vfsblk1\n"
_CHECKED_BYTES: Final = _FOOTER.size - _CHECK.size

#: Disk space is given out in pieces of this size, whatever the length of a file.
_DISK_BLOCK_BYTES: Final = 4096

#: What a name takes of its directory: 60 to 76 bytes on ext4 with 200 to 1600 names in each, which
#: for a million small blocks makes 60 MB. (What they take while they are empty is not counted.)
_NAME_BYTES: Final = 80

#: Two bits of hit count are all that S3-FIFO needs (policies/s3fifo.py).
MAX_HITS: Final = 3
_HITS_BITS: Final = 2

#: Access times below this are ours: seconds since the epoch and hits, read as nanoseconds, are
#: half a minute after the epoch.
_TOLD_BELOW_NS: Final = 1 << 36

#: Reading must not set the access time, in which hits are counted, nor follow a link that
#: somebody put there, nor wait for a pipe's writer.
_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
)
#: Answers that mean: what lies there is no file, or the disk cannot read it. All others (no
#: descriptors left, no memory, no permission) say nothing about the block.
_NOT_THE_BLOCK: Final = frozenset(
    {errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EBADMSG}
)

_NOATIME: Final[int] = getattr(os, "O_NOATIME", 0)


class DamagedBlock(enum.Enum):
    """What lies under a block's name is not that block."""

    DAMAGED = "remove it and fetch the block again"


DAMAGED: Final = DamagedBlock.DAMAGED


def block_name(
    url_digest: bytes, validator: bytes, grain_bytes: int, number: int, end: str = ""
) -> str:
    """Return the name of a block: another version of the object has other names.

    Parameters
    ----------
    url_digest : bytes, length 16
        Of store and key.
    validator : bytes
        What changes with the content: the etag, or size and time.
    grain_bytes, number : int
        Size of the object's blocks, and which of them.
    end : str, optional
        Which end of it, where it is not the whole block (``ends.py``).
    """
    kind = f":{end}" if end else ""
    place = f"{grain_bytes}/{number}{kind}/".encode()
    return blake2b(url_digest + place + validator, digest_size=16).hexdigest()


def block_path(name: str) -> str:
    """Return where a block lies, relative to the directory of all blocks."""
    return f"{name[:2]}/{name}"


def is_block_name(name: str) -> bool:
    """Say whether a file name can be a block's."""
    return len(name) == 32 and all(c in "0123456789abcdef" for c in name)


def _tail_bytes(payload_bytes: int) -> int:
    pages = -(-payload_bytes // PAGE_BYTES)
    return pages * _CHECK.size + _FOOTER.size


def file_bytes(payload_bytes: int) -> int:
    """Return the length of the file of a block."""
    return payload_bytes + _tail_bytes(payload_bytes)


def payload_of(length: int) -> int | None:
    """Return the payload of a block file of some length, or None if none has that length."""
    pages = max(1, -(-(length - _FOOTER.size) // (PAGE_BYTES + _CHECK.size)))
    payload = length - _FOOTER.size - pages * _CHECK.size
    return payload if payload > 0 and file_bytes(payload) == length else None


def occupied_bytes(length: int) -> int:
    """Return the disk space that a file of some length takes, with its name."""
    return -(-length // _DISK_BLOCK_BYTES) * _DISK_BLOCK_BYTES + _NAME_BYTES


def footer_of(name: str, payload: bytes | memoryview) -> bytes:
    """Return what follows the payload in a block file."""
    view = memoryview(payload)
    pages = [
        xxhash.xxh3_64_intdigest(view[low : low + PAGE_BYTES])
        for low in range(0, len(view), PAGE_BYTES)
    ]
    sums = struct.pack(f"<{len(pages)}Q", *pages)
    footer = _FOOTER.pack(_MAGIC, bytes.fromhex(name), len(view), 0)[:_CHECKED_BYTES]
    return sums + footer + _CHECK.pack(xxhash.xxh3_64_intdigest(sums + footer))


def _sums_of(tail: bytes, name: str, payload_bytes: int) -> tuple[int, ...] | None:
    """Return the pages' checksums from the end of a file, or None if it is not this block's."""
    # Packed and compared as a whole: a third of the time of unpacking it (0.3 µs, not 0.8).
    check = xxhash.xxh3_64_intdigest(tail[: -_CHECK.size])
    if not tail.endswith(_FOOTER.pack(_MAGIC, bytes.fromhex(name), payload_bytes, check)):
        return None
    return struct.unpack_from(f"<{(len(tail) - _FOOTER.size) // _CHECK.size}Q", tail)


def access_time_ns(hits: int, now_s: float) -> int:
    """Return the access time that says how often a block was read, and when last."""
    return int(now_s) << _HITS_BITS | hits


def hits_of(facts: os.stat_result) -> int:
    """Return in how many different seconds a block was read since it was queued, at most 3.

    A time that no reader wrote was set by the kernel, at some read: that counts as one.
    """
    told = facts.st_atime_ns
    return told & MAX_HITS if 0 <= told < _TOLD_BELOW_NS else 1


def _open(path: str, directory: int) -> int:
    if _NOATIME:
        try:
            return os.open(path, _FLAGS | _NOATIME, dir_fd=directory)
        except PermissionError:
            pass  # another user's file: hits are then counted by the kernel, roughly
    return os.open(path, _FLAGS, dir_fd=directory)


def _count_hit(fd: int, facts: os.stat_result) -> None:
    hits = hits_of(facts)
    if hits == MAX_HITS:
        return
    now_s = SYSTEM_CLOCK.wall_s()
    # Reads that follow each other within a second are one use: a scan by small reads is no sign
    # that a block is wanted again. Lossy on purpose: two readers at one moment count as one.
    if facts.st_atime_ns >> _HITS_BITS != int(now_s):
        with contextlib.suppress(OSError):
            os.utime(fd, ns=(access_time_ns(hits + 1, now_s), facts.st_mtime_ns))


def read_block(
    directory: int,
    name: str,
    payload_bytes: int,
    low: int,
    high: int,
    *,
    verify: Verify,
    may_block: bool,
    verified: dict[str, int],
    counts: bool = True,
    into: memoryview | None = None,
) -> Payload | WaitForDisk | DamagedBlock | None:
    """Return ``[low, high)`` of a block's payload, checked.

    Parameters
    ----------
    directory : int
        Descriptor of the directory of all blocks. A path would go on naming what replaced it.
    name : str
        See :func:`block_name`.
    payload_bytes : int
        What the payload's length must be.
    low, high : int
        Not empty, inside the payload.
    verify : {'always', 'once', 'never'}
        See :data:`Verify`.
    may_block : bool
        Whether waiting for the disk is allowed.
    verified : dict of str to int
        Blocks this process has verified as a whole, with their inode; for ``once``.
    counts : bool
        Whether this is a use of the block, as a verification is not.
    into : memoryview, optional
        Where the bytes go, of their length. What it holds is undefined unless it is returned.

    Returns
    -------
    bytes or memoryview, WAIT_FOR_DISK, DAMAGED or None
        The bytes, or ``into`` that holds them; that they are here; that what is here is wrong; or
        that there is no block.

    Notes
    -----
    Cost: open, fstat, two preads, close, and for the first three reads one utime.
    """
    try:
        fd = _open(block_path(name), directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        return DAMAGED if error.errno in _NOT_THE_BLOCK else None
    try:
        facts = os.fstat(fd)
        if facts.st_size != file_bytes(payload_bytes) or not stat.S_ISREG(facts.st_mode):
            return DAMAGED
        read = read_range if may_block else read_cached
        inode = facts.st_ino
        data: Payload | WaitForDisk | DamagedBlock
        if into is None or (verify == "once" and verified.get(name) != inode):
            data = _checked(fd, inode, name, payload_bytes, low, high, verify, read, verified)
        else:
            data = _filled(fd, name, payload_bytes, low, into, verify, read)
        if isinstance(data, _PAYLOADS):
            if len(data) != high - low:
                return DAMAGED  # cut off this very moment
            if counts:
                _count_hit(fd, facts)
            if into is not None and data is not into:
                into[:] = data
                return into
        return data
    except OSError as error:
        return DAMAGED if error.errno in _NOT_THE_BLOCK else None
    finally:
        os.close(fd)


_Reader: TypeAlias = Callable[[int, int, int], bytes | WaitForDisk]


def _read_sums(
    fd: int, name: str, payload_bytes: int, read: _Reader
) -> tuple[int, ...] | WaitForDisk | DamagedBlock:
    """Return the pages' checksums of an open block file."""
    tail = read(fd, payload_bytes, file_bytes(payload_bytes))
    if not isinstance(tail, bytes):
        return WAIT_FOR_DISK
    sums = _sums_of(tail, name, payload_bytes)
    return DAMAGED if sums is None else sums


def pages_around(low: int, high: int, payload_bytes: int) -> tuple[int, int]:
    """Return where the pages that a range touches begin and end."""
    last = min(-(-high // PAGE_BYTES) * PAGE_BYTES, payload_bytes)
    return low // PAGE_BYTES * PAGE_BYTES, last


def _checked(
    fd: int,
    inode: int,
    name: str,
    payload_bytes: int,
    low: int,
    high: int,
    verify: Verify,
    read: _Reader,
    verified: dict[str, int],
) -> bytes | WaitForDisk | DamagedBlock:
    if verify == "once" and verified.get(name) == inode:
        return read(fd, low, high)
    sums = _read_sums(fd, name, payload_bytes, read)
    if not isinstance(sums, tuple):
        return sums
    if verify == "never":
        return read(fd, low, high)
    if verify == "always":
        first, last = pages_around(low, high, payload_bytes)
    else:
        first, last = 0, payload_bytes
    data = read(fd, first, last)
    if not isinstance(data, bytes):
        return WAIT_FOR_DISK
    if len(data) != last - first or not _pages_right(data, sums[first // PAGE_BYTES :]):
        return DAMAGED
    if verify == "once":
        verified[name] = inode
    return data if (first, last) == (low, high) else data[low - first : high - first]


def _filled(
    fd: int,
    name: str,
    payload_bytes: int,
    low: int,
    into: memoryview,
    verify: Verify,
    read: _Reader,
) -> Payload | WaitForDisk | DamagedBlock:
    """Read straight to where it is wanted; in mode ``once`` what has been verified."""
    may_block, high = read is read_range, low + len(into)
    if verify != "once":
        sums = _read_sums(fd, name, payload_bytes, read)
        if not isinstance(sums, tuple):
            return sums
        if verify == "always":
            return _fill_checked(fd, low, high, into, payload_bytes, sums, may_block=may_block)
    got = fill_range(fd, [into], low, may_block=may_block)
    return WAIT_FOR_DISK if isinstance(got, WaitForDisk) else into[:got]


def _fill_checked(
    fd: int,
    low: int,
    high: int,
    into: memoryview,
    payload_bytes: int,
    sums: tuple[int, ...],
    *,
    may_block: bool,
) -> Payload | WaitForDisk | DamagedBlock:
    """Read whole pages, what is wanted of them to its place and the rest aside; check them."""
    first, last = pages_around(low, high, payload_bytes)
    before, after = memoryview(bytearray(low - first)), memoryview(bytearray(last - high))
    got = fill_range(fd, [before, into, after], first, may_block=may_block)
    if isinstance(got, WaitForDisk):
        return WAIT_FOR_DISK
    if got != last - first:
        return DAMAGED
    pages = range(first, last, PAGE_BYTES)
    for start, expected in zip(pages, sums[first // PAGE_BYTES :], strict=False):
        stop = min(start + PAGE_BYTES, last)
        page = into[max(start - low, 0) : max(stop - low, 0)]
        if start >= low and stop <= high:
            digest = xxhash.xxh3_64_intdigest(page)
        else:  # the first or the last page, a part of which is not wanted
            parts = xxhash.xxh3_64(before if start < low else b"")
            parts.update(page)
            parts.update(after if stop > high else b"")
            digest = parts.intdigest()
        if digest != expected:
            return DAMAGED
    return into


def _pages_right(data: bytes, sums: tuple[int, ...]) -> bool:
    digest = xxhash.xxh3_64_intdigest
    if len(data) <= PAGE_BYTES:
        return digest(data) == sums[0]
    view = memoryview(data)
    return all(
        digest(view[n * PAGE_BYTES : (n + 1) * PAGE_BYTES]) == sums[n]
        for n in range(-(-len(data) // PAGE_BYTES))
    )
