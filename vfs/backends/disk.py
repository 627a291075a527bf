"""``disk://``: local files, read inline from the page cache and published atomically.

What lives here: the primitives of a local directory tree. What must not: temporary-and-rename
code (``core/durable.py``), knowledge of tiers or caches that keep their copies here.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import IO, Any, cast

from fsspec.utils import stringify_path

from vfs.config.options import check_choice, check_known
from vfs.core.base import VirtualFileSystem
from vfs.core.durable import (
    Durability,
    Staging,
    copy_all,
    fsync_directory,
    is_temporary,
    make_directories,
    temporary_name,
)
from vfs.core.file import LocalSource, ObjectReader
from vfs.core.localread import WaitForDisk, read_cached, read_range
from vfs.core.path import clean_key, strip_protocol
from vfs.core.ranges import resolve
from vfs.errors import UnsupportedError, directory_not_empty, is_a_directory
from vfs.types import Info, ObjectInfo

__all__ = ["DiskFileSystem", "describe"]


def describe(key: str, facts: os.stat_result) -> ObjectInfo:
    """Turn a stat result into what the library knows of an object.

    The etag changes with every replacement, since a replaced file has another inode, and with
    every change in place that moves size or mtime.
    """
    is_directory = stat.S_ISDIR(facts.st_mode)
    return ObjectInfo(
        key,
        0 if is_directory else facts.st_size,
        facts.st_mtime,
        None if is_directory else f"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}",
        "directory" if is_directory else "file",
        {"created": facts.st_ctime, "ino": facts.st_ino, "mode": facts.st_mode},
    )


class DiskFileSystem(VirtualFileSystem):
    """Files of this machine.

    Parameters
    ----------
    durability : {"power", "process"}, default "power"
        What survives once a write has returned: a power cut (file and directory are fsynced) or
        a kill of the process only.

    Notes
    -----
    Thread-safe and safe between processes. Writes replace whole files atomically; parents are
    made. Reads run on the caller's thread, or inside its loop when the page cache has the
    bytes. Symbolic links are followed. Writers killed half-way leave a hidden file whose name
    starts with ``.vfs-tmp-``. ``touch(truncate=False)`` sets the time of an existing file.

    Examples
    --------
    >>> import tempfile
    >>> top = tempfile.mkdtemp()
    >>> fs = DiskFileSystem(durability="process")
    >>> fs.pipe_file(f"{top}/a/b", b"hello")
    >>> fs.cat_file(f"disk://{top}/a/b", 1, 3)
    b'el'
    """

    protocol = "disk"
    root_marker = "/"
    blocking = True

    def __init__(self, durability: Durability = "power", **kwargs: Any) -> None:
        check_known("disk", kwargs, ["durability"])
        check_choice("durability", durability, ("power", "process"))
        super().__init__(**kwargs)
        self._durability = durability

    # ---------------------------------------------------------------- names

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        # "file" and "local": a tier or layer over file:// is served by this class.
        path = strip_protocol(stringify_path(path), ("disk", "file", "local"))
        if path[:1] != "/":
            path = f"{os.getcwd()}/{path}"
        return path.rstrip("/") or "/"

    def _key(self, path: Any) -> str:
        if (
            type(path) is str
            and path[:1] == "/"
            and "/." not in path
            and "//" not in path
            and "\0" not in path
            and path[-1:] != "/"
        ):
            return path
        return "/" + clean_key(self._strip_protocol(path))

    # ---------------------------------------------------------------- read

    def get_now(
        self, key: str, start: int | None, end: int | None, *, may_block: bool
    ) -> bytes | WaitForDisk | None:
        fd = os.open(key, os.O_RDONLY)
        try:
            low, high = resolve(start, end, os.fstat(fd).st_size)
            return read_range(fd, low, high) if may_block else read_cached(fd, low, high)
        except IsADirectoryError:
            raise is_a_directory(key) from None
        finally:
            os.close(fd)

    def get_object(self, key: str, start: int | None, end: int | None) -> bytes:
        return cast("bytes", self.get_now(key, start, end, may_block=True))

    def get_path(self, key: str, local: str) -> None:
        source = os.open(key, os.O_RDONLY)
        target = os.open(local, os.O_WRONLY)
        try:
            copy_all(source, target)
        finally:
            os.close(source)
            os.close(target)

    def head_object(self, key: str) -> ObjectInfo:
        return describe(key, os.stat(key))

    def info_now(self, key: str, *, may_block: bool) -> Info | None:
        # Inline in a loop too: a stat waits for a disk only where the path was never looked up.
        del may_block
        return describe(key, os.stat(key)).to_info()

    def list_directory(self, key: str) -> list[ObjectInfo]:
        prefix = "/" if key == "/" else f"{key}/"
        found = []
        with os.scandir(key) as entries:
            for entry in entries:
                if is_temporary(entry.name):
                    continue
                try:
                    facts = entry.stat()
                except FileNotFoundError:
                    if not entry.is_symlink():
                        continue  # removed since it was listed
                    facts = entry.stat(follow_symlinks=False)  # a dangling link
                found.append(describe(prefix + entry.name, facts))
        return found

    # ---------------------------------------------------------------- write

    def put_object(
        self,
        key: str,
        value: bytes,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> ObjectInfo:
        _refuse_if_match(key, if_match)
        with Staging(os.path.dirname(key), self._durability) as staging:
            staging.write(value)
            return describe(key, self._publish(staging, key, exclusive=if_none_match))

    def put_path(self, key: str, local: str, *, if_none_match: bool, if_match: str | None) -> None:
        _refuse_if_match(key, if_match)
        directory = os.path.dirname(key)
        where, name = os.path.split(local)
        if where == directory and is_temporary(name):
            with Staging.adopt(local, self._durability) as staging:
                self._publish(staging, key, exclusive=if_none_match)
            return
        with Staging(directory, self._durability) as staging:
            _copy_into(local, staging)
            self._publish(staging, key, exclusive=if_none_match)

    def _publish(self, staging: Staging, key: str, *, exclusive: bool) -> os.stat_result:
        try:
            return staging.publish(key, exclusive=exclusive)
        except IsADirectoryError:
            raise is_a_directory(key) from None

    def _new_stage(self, key: str) -> tuple[int, str]:
        # In the destination's directory, so that closing the writer is a rename, not a copy.
        directory = os.path.dirname(key)
        make_directories(directory, self._durability)
        path = f"{directory}/{temporary_name()}"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), path

    def delete_object(self, key: str) -> None:
        try:
            os.unlink(key)
        except PermissionError:
            if os.path.isdir(key):  # what macOS answers for a directory
                raise is_a_directory(key) from None
            raise
        if self._durability == "power":
            fsync_directory(os.path.dirname(key))

    def copy_object(self, source: str, target: str) -> None:
        if os.path.isdir(source):
            raise is_a_directory(source)
        with Staging(os.path.dirname(target), self._durability) as staging:
            _copy_into(source, staging)
            self._publish(staging, target, exclusive=False)

    def move_object(self, source: str, target: str) -> None:
        make_directories(os.path.dirname(target), self._durability)
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self.copy_object(source, target)
            os.unlink(source)
        if self._durability == "power":
            fsync_directory(os.path.dirname(target))
            fsync_directory(os.path.dirname(source))

    def make_directory(self, key: str) -> None:
        make_directories(key, self._durability)

    def remove_directory(self, key: str) -> None:
        try:
            os.rmdir(key)
        except OSError as error:
            if os.path.isdir(key) and os.listdir(key):
                raise directory_not_empty(key) from error
            raise

    async def _touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        if not truncate and await self._exists(path):
            os.utime(self._key(path))
            return
        await super()._touch(path, truncate=truncate, **kwargs)

    # ---------------------------------------------------------------- files

    def _open_reader(self, key: str) -> Any:
        raw = LocalSource(key)
        facts = os.fstat(raw.fileno())
        return ObjectReader(self, key, describe(key, facts).to_info(), raw)


def _refuse_if_match(key: str, if_match: str | None) -> None:
    if if_match is not None:
        message = "local files have no conditional overwrite"
        raise UnsupportedError(message, key)


def _copy_into(local: str, staging: Staging) -> None:
    source: IO[bytes]
    with open(local, "rb") as source:
        copy_all(source.fileno(), staging.fd)
