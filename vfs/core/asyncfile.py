"""Files for coroutines, usable from any loop.

What lives here: what ``open_async`` returns. What must not: text mode, compression.
"""

from __future__ import annotations

import io
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from vfs.core.loop import hop
from vfs.core.writer import ObjectWriter
from vfs.errors import UnsupportedError, exists_already, is_a_directory
from vfs.types import Info

if TYPE_CHECKING:
    from vfs.core.base import VirtualFileSystem

__all__ = ["AsyncObjectFile", "open_async"]


class AsyncObjectFile:
    """A binary file for coroutines: ``read seek tell write close``, usable from any loop.

    Reading is pinned to one version, as in :class:`ObjectReader`; writing is staged, as in
    :class:`ObjectWriter`.
    """

    def __init__(self, fs: VirtualFileSystem, key: str, info: Info | None, writer: Any) -> None:
        self.fs = fs
        self.path = key
        self.details = info
        self._writer: ObjectWriter | None = writer
        self._position = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and self._writer is not None:
            self._writer.discard()
        await self.close()

    async def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, or all that is left."""
        if self.details is None:
            message = "file is open for writing"
            raise io.UnsupportedOperation(message)
        total = int(self.details["size"])
        end = total if size < 0 else min(self._position + size, total)
        if end <= self._position:
            return b""
        data = await self.fs._read_pinned(self.path, self._position, end, self.details)
        self._position = end
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; no request is made."""
        if self._writer is not None:
            return self._writer.seek(offset, whence)
        total = int(self.details["size"]) if self.details else 0
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: total}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._writer.tell() if self._writer is not None else self._position

    async def write(self, data: Any) -> int:
        """Stage bytes."""
        if self._writer is None:
            message = "file is open for reading"
            raise io.UnsupportedOperation(message)
        return self._writer.write(data)

    async def close(self) -> None:
        """Store what was written; a second call does nothing."""
        writer = self._writer
        if writer is None or writer._settled:
            return
        if self.fs.loop_bound and not self.fs.loop_free:
            await hop(writer._upload)
        else:
            await writer._upload()
        writer.discard()


async def open_async(fs: VirtualFileSystem, key: str, mode: str) -> AsyncObjectFile:
    """Open an object for coroutines in ``rb``, ``wb`` or ``xb``.

    Raises
    ------
    UnsupportedError
        [ENOTSUP] any other mode.
    """
    if mode == "rb":
        info = await fs._info(key)
        if info["type"] == "directory":
            raise is_a_directory(key)
        return AsyncObjectFile(fs, key, info, None)
    if mode not in {"wb", "xb"}:
        message = f"mode {mode!r} is not one of rb, wb, xb for asynchronous files"
        raise UnsupportedError(message, key)
    if mode == "xb" and await fs._exists(key):
        raise exists_already(key)
    writer = ObjectWriter(fs, key, mode, if_none_match=mode == "xb", autocommit=False)
    return AsyncObjectFile(fs, key, None, writer)
