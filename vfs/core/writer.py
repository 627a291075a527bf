"""Writers: staged, seekable, published whole when they are closed.

What lives here: the file objects that ``open`` returns for writing. What must not: knowledge of
any backend; they see a filesystem's coroutines only.
"""

from __future__ import annotations

import io
import os
import shutil
import warnings
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, cast

from vfs.core.durable import unlink_if_there
from vfs.core.file import LAST_AHEAD_BYTES, ObjectReader, run_for
from vfs.errors import UnsupportedError, exists_already, is_a_directory, not_found

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from vfs.core.base import VirtualFileSystem

__all__ = ["ObjectWriter", "open_writer", "staged_value"]

#: Staged bytes move from memory to a temporary file beyond this.
_SPOOL_BYTES: Final = 16 << 20


class ObjectWriter(io.BufferedIOBase):
    """A binary file that becomes an object when it is closed, whole or not at all.

    The bytes are staged in memory and, beyond 16 MiB, in a temporary file, so the file can seek,
    be read back and be patched (h5py, tifffile and netCDF need that).

    Parameters
    ----------
    fs : VirtualFileSystem
        Where the object goes.
    key : str
        Its key.
    mode : str
        As given to ``open``.
    if_none_match : bool
        The object must not exist at the end either.
    if_match : str, optional
        The version this file started from must still be the current one at the end.
    autocommit : bool
        False inside a transaction: ``commit`` or ``discard`` is called by it.

    Notes
    -----
    Leaving a ``with`` block by an exception discards the bytes; so does forgetting to close,
    with a ``ResourceWarning``. Durability: what the backend's ``put_object`` promises, once
    ``close`` has returned. When it raises, the bytes stay staged and ``close`` may be repeated.
    """

    def __init__(
        self,
        fs: VirtualFileSystem,
        key: str,
        mode: str,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
        autocommit: bool = True,
    ) -> None:
        super().__init__()
        self.fs = fs
        self.path = key
        self.mode = mode
        self.autocommit = autocommit
        self._if_none_match = if_none_match
        self._if_match = if_match
        self._memory: io.BytesIO | None = io.BytesIO()
        self._file: IO[bytes] = self._memory
        self._staged: str | None = None
        self._settled = False
        self._reported = False

    @property
    def full_name(self) -> str:
        """The URL of the object to be."""
        return cast("str", self.fs.unstrip_protocol(self.path))

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._check_open()
        view = memoryview(data)
        if self._memory is not None and self._memory.tell() + view.nbytes > _SPOOL_BYTES:
            self._spill()
        return self._file.write(view)

    def _spill(self) -> None:
        """Move what is staged from memory to a temporary file."""
        memory = cast("io.BytesIO", self._memory)
        fd, path = self.fs._new_stage(self.path)
        self._staged = path
        file = os.fdopen(fd, "w+b")
        file.write(memory.getbuffer())
        file.seek(memory.tell())
        self._file, self._memory = file, None

    def read(self, size: int | None = -1) -> bytes:
        self._check_open()
        return self._file.read(-1 if size is None else size)

    def read1(self, size: int = -1) -> bytes:
        return self.read(size)

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check_open()
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        self._check_open()
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        self._check_open()
        return self._file.truncate(size)

    def flush(self) -> None:
        """Do nothing that a reader could see: an object appears whole, at the end."""

    def _check_open(self) -> None:
        if self._settled or self.closed:
            message = "I/O operation on a closed file"
            raise ValueError(message)

    def commit(self) -> None:
        """Store the staged bytes as the object."""
        if self._settled:
            return
        run_for(self.fs, self._upload)
        self._drop()

    async def _upload(self) -> None:
        conditions: Any = {"if_none_match": self._if_none_match, "if_match": self._if_match}
        if self._memory is not None:
            value = self._memory.getvalue()
            await self.fs._call("put_object", self.path, value, **conditions)
            return
        self._file.flush()
        local = cast("str", self._staged)
        await self.fs._put_local(self.path, local, **conditions)

    def discard(self) -> None:
        """Forget the staged bytes."""
        if not self._settled:
            self._drop()

    def _drop(self) -> None:
        self._settled = True
        self._file.close()
        if self._staged is not None:
            unlink_if_there(self._staged)  # a local backend has moved it into place
            self._staged = None

    def close(self) -> None:
        """Store the object, unless a transaction will; a second call does nothing."""
        if self.closed:
            return
        if self.autocommit and not self._settled:
            self._reported = True  # whoever closes sees the error; __del__ need not warn
            self.commit()
        super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.discard()
        self.close()

    def __del__(self) -> None:
        # IOBase would close, and so store half an object when an exception unwinds its owner.
        if getattr(self, "_settled", True):
            return
        if self.autocommit and not self._reported:
            text = f"{self.path!r} was opened for writing and never closed: nothing was stored"
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)
        self.discard()


def open_writer(fs: VirtualFileSystem, key: str, mode: str, *, autocommit: bool) -> ObjectWriter:
    """Open a staged writer in one of ``wb xb ab r+b w+b``.

    Raises
    ------
    FileExistsError
        [EEXIST] ``xb`` and the object exists now; it is checked again, atomically, at the end.
    FileNotFoundError
        [ENOENT] ``r+b`` and there is nothing to change.
    UnsupportedError
        [ENOTSUP] any other mode.
    """
    kind = mode.replace("b", "")
    if kind in {"w", "w+"}:
        return ObjectWriter(fs, key, mode, autocommit=autocommit)
    if kind in {"x", "x+"}:
        if fs.exists(key):
            raise exists_already(key)
        return ObjectWriter(fs, key, mode, if_none_match=True, autocommit=autocommit)
    if kind not in {"a", "a+", "r+"}:
        message = f"mode {mode!r} is not one of rb, wb, xb, ab, r+b, w+b"
        raise UnsupportedError(message, key)
    try:
        info = fs.info(key)
    except FileNotFoundError:
        if kind == "r+":
            raise not_found(key) from None
        return ObjectWriter(fs, key, mode, if_none_match=True, autocommit=autocommit)
    if info["type"] == "directory":
        if fs.flat and kind != "r+":
            return ObjectWriter(fs, key, mode, if_none_match=True, autocommit=autocommit)
        raise is_a_directory(key)
    # Two appenders at once: the second to finish must not silently drop what the first wrote.
    based_on = info.get("etag") if fs.writes_conditionally else None
    writer = ObjectWriter(fs, key, mode, if_match=based_on, autocommit=autocommit)
    with ObjectReader(fs, key, info) as source:
        shutil.copyfileobj(source, writer, LAST_AHEAD_BYTES)
    if kind == "r+":
        writer.seek(0)
    return writer


def staged_value(fs: VirtualFileSystem, key: str, value: Any, mode: str) -> ObjectWriter:
    """Stage a whole value for a transaction, as ``pipe_file`` does inside one."""
    exclusive = mode == "create"
    writer = ObjectWriter(fs, key, "wb", if_none_match=exclusive, autocommit=False)
    writer.write(value)
    return writer
