"""Write-temporary, fsync, rename, fsync-directory: the only code that publishes files on disk.

What lives here: atomic publication of one file, in the two strengths a caller may ask for. What
must not: policy about *which* strength; any other use of ``os.rename`` in the library.

The order follows the ALICE study (Pillai et al., OSDI 2014) and our own crash model: without
``fsync`` of the file a rename may survive a power cut before the data does, without ``fsync`` of
the directory the name may not survive at all.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import secrets
import sys
from collections.abc import Iterable
from typing import Final, Literal, Self, TypeAlias

from vfs.errors import UnsupportedError, exists_already

__all__ = [
    "TEMP_PREFIX",
    "Durability",
    "Staging",
    "copy_all",
    "fsync_directory",
    "is_temporary",
    "make_all_directories",
    "make_directories",
    "start_writing",
    "temporary_name",
    "unlink_if_there",
]

#: ``power``: survives a power cut. ``process``: survives a kill, costs no fsync.
Durability: TypeAlias = Literal["power", "process"]

#: Names that are never objects: listings hide them, and they are safe to delete when their
#: writer is gone.
TEMP_PREFIX: Final = ".vfs-tmp-"

#: One step of a copy: large enough that the calls cost nothing, small enough for memory.
_COPY_BYTES: Final = 8 << 20

#: Each lost attempt is a parent that another process removed in the moment it was empty; more in a
#: row than this means that the place takes no directories at all.
_MKDIR_ATTEMPTS: Final = 100

_serial = itertools.count()


_TEMP_NAME: Final = re.compile(re.escape(TEMP_PREFIX) + "[0-9a-f]+-[0-9a-f]+-[0-9a-f]{8}")


def is_temporary(name: str) -> bool:
    """Say whether a file name is one of :func:`temporary_name`, and so no object."""
    return name.startswith(TEMP_PREFIX) and _TEMP_NAME.fullmatch(name) is not None


def temporary_name() -> str:
    """Return a file name that no other writer uses and every listing hides."""
    return f"{TEMP_PREFIX}{os.getpid():x}-{next(_serial):x}-{secrets.token_hex(4)}"


def fsync(fd: int) -> None:
    """Force a file to stable storage. A failure is final: the kernel has dropped the pages.

    References
    ----------
    Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
    """
    if sys.platform == "darwin":
        import fcntl

        # fsync on macOS leaves the data in the drive's cache.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        return
    os.fsync(fd)


def start_writing(fd: int) -> None:
    """Let the kernel begin to write a file out, so that a later :func:`fsync` waits less.

    ``sync_file_range`` is the call for it, which Python does not have. This one begins as well, and
    drops pages that are clean; those of a file that was just written are not.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # it is only advice
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def fsync_directory(path: str) -> None:
    """Make renames and unlinks in a directory durable."""
    if sys.platform == "win32":  # directories cannot be opened there
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fsync(fd)
    finally:
        os.close(fd)


def make_directories(path: str, durability: Durability) -> None:
    """Create a directory and its missing parents, durably if asked; existing ones are fine.

    Raises
    ------
    NotADirectoryError, FileExistsError
        [ENOTDIR, EEXIST] a component is a file.
    """
    make_all_directories([path], durability)


def make_all_directories(paths: Iterable[str], durability: Durability) -> None:
    """Do :func:`make_directories` for several; a parent of many is synced once.

    INVARIANT: none that could not be synced is left: who finds it relies on it.
    (tests/unit/test_core.py::test_directory_that_cannot_be_synced_is_not_left)
    """
    made: list[str] = []
    try:
        for path in paths:
            _make_directory(path, made)
        if durability == "power":
            for parent in filter(None, dict.fromkeys(map(os.path.dirname, made))):
                # One that somebody has removed meanwhile is missed by who wants to use it.
                with contextlib.suppress(FileNotFoundError):
                    fsync_directory(parent)
    except BaseException:
        if durability == "power":
            for path in reversed(made):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
        raise


def _make_directory(path: str, made: list[str]) -> None:
    """Create a directory and its missing parents; note those that were not there."""
    parent = os.path.dirname(path)
    for attempt in range(_MKDIR_ATTEMPTS):
        if os.path.isdir(path):
            return
        if parent and parent != path:
            _make_directory(parent, made)
        try:
            os.mkdir(path)
        except FileExistsError:
            if os.path.lexists(path) and not os.path.isdir(path):
                raise
        except FileNotFoundError:
            # Somebody removed the parent, empty as it still was.
            if attempt == _MKDIR_ATTEMPTS - 1:
                raise
        else:
            made.append(path)
            return


def unlink_if_there(path: str) -> bool:
    """Remove a file; return whether there was one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def copy_all(source: int, target: int) -> int:
    """Copy one open file into another from its start, by the kernel where it can.

    Returns
    -------
    int
        Bytes copied.
    """
    offset = 0
    if hasattr(os, "copy_file_range"):
        try:
            while step := os.copy_file_range(source, target, _COPY_BYTES, offset, offset):
                offset += step
        except OSError as error:
            # Across devices, or a filesystem without it: go on by hand.
            if error.errno not in {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
                raise
        else:
            if offset:
                return offset
    while data := os.pread(source, _COPY_BYTES, offset):
        offset += os.pwrite(target, data, offset)
    return offset


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte: ``os.write`` may stop short at a signal, or at 2 GiB on Linux."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


class Staging:
    """A file being written beside its destination, invisible until :meth:`publish`.

    Parameters
    ----------
    directory : str
        On the same filesystem as the destination; made if missing.
    durability : {'power', 'process'}
        What :meth:`publish` guarantees once it has returned.
    name : str, optional
        The temporary name; random by default.

    Notes
    -----
    Not thread-safe: one writer. Use as a context manager: leaving without :meth:`publish`
    removes the file. After a kill the file stays, under a name that starts with
    :data:`TEMP_PREFIX`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as top:
    ...     with Staging(top, "process") as staging:
    ...         staging.write(b"abc")
    ...         staging.publish(f"{top}/x")
    ...     open(f"{top}/x", "rb").read()
    b'abc'
    """

    def __init__(self, directory: str, durability: Durability, name: str | None = None) -> None:
        self.durability = durability
        self.path = os.path.join(directory, name or temporary_name())
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        self.fd = -1
        # A directory may be removed by a concurrent rm between its creation and the open.
        for _ in range(3):
            try:
                self.fd = os.open(self.path, flags, 0o666)
                break
            except FileNotFoundError:
                make_directories(directory, durability)
        else:
            self.fd = os.open(self.path, flags, 0o666)

    @classmethod
    def adopt(cls, path: str, durability: Durability) -> Staging:
        """Take over a temporary file that was written beside its destination."""
        self = cls.__new__(cls)
        self.durability = durability
        self.path = path
        self.fd = os.open(path, os.O_RDWR)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.discard()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes.

        Raises
        ------
        OSError
            [ENOSPC] disk full, [EDQUOT] quota, [EFBIG] too large for the filesystem.
        """
        write_all(self.fd, data)

    def publish(self, path: str, *, exclusive: bool = False) -> os.stat_result:
        """Give the file its final name, atomically.

        Parameters
        ----------
        path : str
            Replaced if it exists.
        exclusive : bool
            Fail instead of replacing; of many at once exactly one wins.

        Returns
        -------
        os.stat_result
            Of the published file.

        Raises
        ------
        FileExistsError
            [EEXIST] ``exclusive`` and ``path`` exists.
        UnsupportedError
            [ENOTSUP] ``exclusive`` on a filesystem without hard links.
        """
        if self.durability == "power":
            fsync(self.fd)
        facts = os.fstat(self.fd)
        os.close(self.fd)
        self.fd = -1
        if exclusive:
            self._link(path)
        else:
            os.replace(self.path, path)
            self.path = ""
        if self.durability == "power":
            fsync_directory(os.path.dirname(path))
        return facts

    def _link(self, path: str) -> None:
        try:
            os.link(self.path, path)
        except FileExistsError:
            raise exists_already(path) from None
        except OSError as error:
            if error.errno in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
                message = "exclusive creation needs a filesystem with hard links"
                raise UnsupportedError(message, path) from error
            raise
        unlink_if_there(self.path)
        self.path = ""

    def discard(self) -> None:
        """Remove the temporary file; harmless after :meth:`publish`."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self.path:
            unlink_if_there(self.path)
            self.path = ""
