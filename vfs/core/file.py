"""Readers: files that fetch what is asked for, of one version; and whole-object downloads.

What lives here: the file objects that ``open`` returns for reading. What must not: knowledge of
any backend; they see a filesystem's coroutines only.
"""

from __future__ import annotations

import functools
import io
import os
import sys
from typing import TYPE_CHECKING, Any, Final, cast

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import isfilelike

from vfs.core.columns import TRAILER_BYTES, ColumnsAhead
from vfs.core.durable import Staging
from vfs.core.localread import fill_range
from vfs.core.loop import drive, run_in_thread, wait
from vfs.errors import ArchivedError, is_a_directory
from vfs.types import Info, ObjectInfo

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from vfs.core.base import VirtualFileSystem

__all__ = [
    "LAST_AHEAD_BYTES",
    "NAMES_WITH_FOOTER",
    "NO_CALLBACK",
    "LocalSource",
    "ObjectReader",
    "download",
    "open_at_end",
    "run_for",
]

NO_CALLBACK: Final = DEFAULT_CALLBACK

#: First readahead of a reader that has proved sequential, and its bound. It doubles from one to
#: the other, so a text file of 100 MB costs some 20 requests and a random reader none. The bound
#: is the aligned part size that AWS advises for parallel ranges.
_FIRST_AHEAD_BYTES: Final = 64 << 10
LAST_AHEAD_BYTES: Final = 8 << 20

#: Column chunks are fetched each by itself: as many requests in flight as a client has to spare
#: hide a latency, and 32 MiB are what pyarrow's own reader takes by one.
_COLUMNS_RATIO: Final = 4

#: Reads from here on go straight to the reader's memory where they can: a page of the cache. What
#: is shorter would end the use of what was read ahead.
_FILL_BYTES: Final = 64 << 10

#: Files whose readers begin at the end, and what pyarrow's then asks for
#: (``kDefaultFooterReadSize``): opened by a request for that instead of one for the size.
NAMES_WITH_FOOTER: Final = (".parquet", ".parq", ".pq")
_FOOTER_READ_BYTES: Final = 64 << 10


def run_for(fs: VirtualFileSystem, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a coroutine function of ``fs`` from synchronous code."""
    if fs.loop_bound:
        return wait(func, *args, **kwargs)
    return drive(func(*args, **kwargs))


async def open_at_end(fs: VirtualFileSystem, key: str) -> tuple[ObjectInfo, bytes] | None:
    """Return what an object is and its last bytes; None where its info has to be asked for."""
    try:
        found = await fs._call("get_end", key, _FOOTER_READ_BYTES)
    except (FileNotFoundError, IsADirectoryError, ArchivedError):
        return None  # a directory, maybe; or an object that can be described and not read
    return cast("tuple[ObjectInfo, bytes] | None", found)


async def _view_pinned(
    fs: VirtualFileSystem, key: str, info: Info, start: int, end: int
) -> bytes | memoryview:
    return await fs._view_pinned(key, start, end, info)


class _RangeSource(io.RawIOBase):
    """Raw reads of one version of one object, with readahead that has to be earned."""

    mode = "rb"

    def __init__(self, fs: VirtualFileSystem, key: str, info: Info) -> None:
        super().__init__()
        self._fs = fs
        self._key = key
        self._info = info
        self._size = int(info["size"])
        self._position = 0
        self._next = -1  # where a sequential reader would go on
        self._ahead = 0
        self._window: bytes | memoryview = b""
        self._window_start = 0
        self._columns: ColumnsAhead | None = None

    def hold_end(self, data: bytes) -> None:
        """Take the last bytes of the object, which came with its description."""
        self._window, self._window_start = data, self._size - len(data)
        if self._fs.loop_bound:
            self._columns_ahead().saw(self._window_start, data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        if whence not in base:
            message = f"whence {whence} is not one of 0, 1, 2"
            raise ValueError(message)
        target = base[whence] + offset
        if target < 0:
            message = f"cannot seek to {target}, before the start"
            raise ValueError(message)
        self._position = target
        return target

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if len(view) >= _FILL_BYTES and (filled := self.fill(self._position, view)):
            return filled
        data = self._read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        start = self._position
        if self._holds(start, self._size):
            data = self._window[start - self._window_start :]
        else:
            data = self._fetch(start, self._size)
        self._position = max(start, self._size)
        return bytes(data)

    def _holds(self, start: int, end: int) -> bool:
        return self._window_start <= start and end <= self._window_start + len(self._window)

    def _read(self, count: int) -> bytes | memoryview:
        start = self._position
        end = min(start + count, self._size)
        if end <= start:
            return b""
        if not self._holds(start, end):
            if start == self._next and not self._is_column(start, end):
                self._ahead = min(
                    max(2 * self._ahead, _FIRST_AHEAD_BYTES), self._fs.readahead_bytes
                )
            else:
                self._ahead = 0
            self._window = self._fetch(start, min(end + self._ahead, self._size))
            self._window_start = start
        self._position = self._next = end
        cut = start - self._window_start
        return memoryview(self._window)[cut : cut + end - start]

    def fill(self, start: int, view: memoryview) -> int:
        """Read into memory what is here without a request, and return how much; 0 if none is."""
        end = min(start + len(view), self._size)
        if end <= start or self._holds(start, end):
            return 0
        if self._columns is not None and self._columns.expects(start, end):
            return 0
        if not self._fs.fill_pinned_now(self._key, start, view[: end - start], self._info):
            return 0
        self._look_for_footer(start, view[: end - start])
        self._position = self._next = end
        return end - start

    def read_at(self, start: int, count: int) -> bytes | memoryview:
        """Return up to ``count`` bytes from a position, without a copy."""
        self._position = start
        data = self._read(count)
        return self._window if len(data) == len(self._window) else data

    def _fetch(self, start: int, end: int) -> bytes | memoryview:
        if end <= start:
            return b""
        data: bytes | memoryview | None = None
        if self._columns is not None:
            data = self._columns.take(start, end)
        if data is None:
            data = self._fs.read_pinned_now(self._key, start, end, self._info)
        if data is None:
            if self._fs.loop_bound:
                self._columns_ahead().ask(start, end)
            view = self._fs._view_pinned
            data = cast("memoryview", run_for(self._fs, view, self._key, start, end, self._info))
        self._look_for_footer(start, data)
        return data

    def _look_for_footer(self, start: int, data: bytes | memoryview) -> None:
        if start + len(data) >= self._size - TRAILER_BYTES and self._fs.loop_bound:
            self._columns_ahead().saw(start, data)

    def _is_column(self, start: int, end: int) -> bool:
        """Say whether a range is one of those that are fetched ahead by the footer."""
        return self._columns is not None and self._columns.find(start, end) is not None

    def _columns_ahead(self) -> ColumnsAhead:
        if self._columns is None:
            info = self._info
            # Not a method of this object, which would live until the next garbage collection:
            # pyarrow never closes what it opens through fsspec.
            fetch = functools.partial(_view_pinned, self._fs, self._key, info)
            version = (self._fs._fs_token, self._key, self._size, info.get("etag"))
            limit = _COLUMNS_RATIO * self._fs.readahead_bytes
            self._columns = ColumnsAhead(fetch, version, self._size, limit)
        return self._columns

    def close(self) -> None:
        if self._columns is not None:
            self._columns.close()
            self._columns = None
        super().close()


class LocalSource(io.FileIO):
    """An open local file that may be forgotten, as fsspec's readers may.

    pyarrow never closes the files it opens through fsspec. Python's own class would warn of each.
    """

    def fill(self, start: int, view: memoryview) -> int:
        """Read into memory from a position; return how much, 0 if not all could be read at once."""
        got = fill_range(self.fileno(), [view], start, may_block=True)
        return len(view) if got == len(view) else 0

    def __del__(self) -> None:
        self.close()

    def _dealloc_warn(self, source: object) -> None:
        """Do not warn; called by the buffer around this file."""


#: Raw files that read into memory from any position, whatever their own position is.
_FILLING: Final = (_RangeSource, LocalSource)


class ObjectReader(io.BufferedReader):
    """A binary file over one version of an object.

    Attributes
    ----------
    path : str
        The key.
    size : int
        Length in bytes at opening.
    details : dict
        The object's info at opening.

    Parameters
    ----------
    fs, key, info
        The filesystem, the key and its info.
    raw : io.RawIOBase, optional
        Where the bytes come from, if not from range requests: an open local file is pinned to
        its version by the kernel.
    end : bytes
        The last bytes, where they came with the info.

    Raises
    ------
    ConflictError
        [ESTALE] on a read after the object was replaced: bytes of two versions are never mixed.

    Notes
    -----
    Cost: one request to open, which brings the last 64 KiB of an object that is named as a
    parquet file where the backend can, then one per read beyond the buffer. There is no
    readahead until two reads were sequential; then it grows from 64 KiB to 8 MiB. Of a parquet
    file that pyarrow reads from afar, the same columns of the next row groups are fetched beside
    the ones asked for, up to four bytes for each that was read, and 32 MiB. Not thread-safe: open
    one per thread, as with Python's own files.
    """

    def __init__(
        self,
        fs: VirtualFileSystem,
        key: str,
        info: Info,
        raw: io.RawIOBase | None = None,
        *,
        end: bytes = b"",
    ) -> None:
        source = raw or _RangeSource(fs, key, info)
        if isinstance(source, _RangeSource) and end:
            source.hold_end(end)
        super().__init__(source)
        self.fs = fs
        self.path = key
        self.size = int(info["size"])
        self.details = info

    @property
    def full_name(self) -> str:
        """The URL of the object."""
        return cast("str", self.fs.unstrip_protocol(self.path))

    def read(self, size: int | None = -1) -> bytes:
        """Return up to ``size`` bytes, or all that is left; one request at most."""
        small = size is None or size < io.DEFAULT_BUFFER_SIZE
        if small or isinstance(self.raw, io.FileIO):
            return super().read(size)
        return bytes(self._read_past(cast("int", size)))

    def _read_past(self, size: int) -> bytes | memoryview:
        """Read past the buffer.

        Its own read would fetch whole buffers first and the rest by a second request, and its
        ``readinto`` costs two copies more.
        """
        position = self.tell()
        data = cast("_RangeSource", self.raw).read_at(position, size)
        self.seek(position + len(data))
        return data

    def read_buffer(self, size: int = -1) -> Any:
        """Return up to ``size`` bytes as a buffer, which pyarrow's readers ask for.

        Nothing is copied on the way, where that can be helped. What needs no request is read into
        memory of pyarrow's own pool, which is not given back to the kernel after each read, as
        that of ``bytes`` may be.
        """
        count = min(size, self.size - self.tell())
        if count < _FILL_BYTES:
            return self.read(size)
        arrow = sys.modules.get("pyarrow")
        if arrow is not None and isinstance(self.raw, _FILLING):
            position, buffer = self.tell(), arrow.allocate_buffer(count)
            if self.raw.fill(position, memoryview(buffer).cast("B")):
                self.seek(position + count)
                return buffer
        return self.read(size) if isinstance(self.raw, io.FileIO) else self._read_past(size)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:  # Python's buffers refuse by this
        return _reopen, (self.fs, self.path, self.tell())


def _reopen(fs: VirtualFileSystem, path: str, position: int) -> Any:
    file = fs.open(path, "rb")
    file.seek(position)
    return file


async def download(
    fs: VirtualFileSystem, path: str, target: Any, callback: Any, piece_bytes: int
) -> ObjectInfo | None:
    """Copy an object to a local path, atomically, or into an open file.

    Returns
    -------
    ObjectInfo or None
        What the copy is of, where the backend tells by the answer that brought it.

    Raises
    ------
    ConflictError
        [ESTALE] the object was replaced between two pieces; the target is left alone.
    """
    info = await fs._info(path)
    if info["type"] == "directory":
        os.makedirs(target, exist_ok=True)
        return None
    key, size = fs._key(path), int(info["size"])
    callback.set_size(size)
    if isfilelike(target):
        await _pieces(fs, key, info, target.write, callback, piece_bytes)
        return None
    told: ObjectInfo | None = None
    local = os.path.abspath(os.fspath(target))
    if os.path.isdir(local):
        raise is_a_directory(local)
    # Not fsynced: a copy that the user can fetch again. Atomic, since half a file under the final
    # name is the commonest wrong byte there is.
    with Staging(os.path.dirname(local), "process") as staging:
        if fs.gives("get_path"):
            told = await fs._call("get_path", key, staging.path)
            callback.absolute_update(size)
        else:
            await _pieces(fs, key, info, staging.write, callback, piece_bytes)
        await run_in_thread(staging.publish, local)
    return told


async def _pieces(
    fs: VirtualFileSystem, key: str, info: Info, write: Any, callback: Any, piece_bytes: int
) -> None:
    size = int(info["size"])
    if size <= piece_bytes:
        data = await fs._cat_file(key)
        await run_in_thread(write, data)
        callback.relative_update(len(data))
        return
    for start in range(0, size, piece_bytes):
        data = await fs._read_pinned(key, start, min(start + piece_bytes, size), info)
        await run_in_thread(write, data)
        callback.relative_update(len(data))
