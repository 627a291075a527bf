"""``VirtualFileSystem``: what every filesystem of this library does right, from few primitives.

What lives here: single-object calls, identity and the sync twins. What must not: tree operations
(``tree.py``), files (``file.py``), anything about one backend.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import tempfile
from collections.abc import Callable
from typing import Any, cast

from fsspec.utils import stringify_path

from vfs.core import file as files
from vfs.core.asyncfile import open_async
from vfs.core.identity import Identity
from vfs.core.localread import WAIT_FOR_DISK, WaitForDisk
from vfs.core.loop import drive, run_in_thread, wait
from vfs.core.path import check_writable_name, clean_key, strip_protocol
from vfs.core.rangereads import RangeReads
from vfs.core.register import register
from vfs.core.storename import protocols_of
from vfs.core.writer import open_writer, staged_value
from vfs.errors import UnsupportedError, exists_already, is_a_directory
from vfs.types import Info, ObjectInfo

__all__ = ["VirtualFileSystem", "derived"]

#: Objects and staged files up to this size move through memory in one piece; larger ones in
#: pieces of this size. 16 MiB is one merged request (see ``ranges.py``).
_PIECE_BYTES = 16 << 20


def derived(method: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a method of a base class that only works when a primitive is given."""
    method._derived = True  # type: ignore[attr-defined]
    return method


def sync_twin(name: str, *, silent: bool = False) -> Callable[..., Any]:
    """Make the synchronous form of a coroutine method: the same code, driven without a loop.

    fsspec would mirror it through its I/O loop at 20 µs a call; a local backend needs no loop.
    A ``silent`` one returns None, as fsspec's does.
    """

    def twin(self: VirtualFileSystem, *args: Any, **kwargs: Any) -> Any:
        method, bound = getattr(self, name), self.loop_bound
        told = wait(method, *args, **kwargs) if bound else drive(method(*args, **kwargs))
        return None if silent else told

    twin.__name__ = twin.__qualname__ = name[1:]
    twin.__doc__ = f"Blocking form of ``{name}``."
    return twin


class VirtualFileSystem(Identity, RangeReads, abstract=True):
    """Base of every backend, layer and tier: hierarchical, from the primitives.

    Subclasses give ``head_object``, ``get_object``, ``put_object``, ``delete_object`` and
    ``list_directory`` (each ``def`` or ``async def``), or override fsspec's own ``_info``,
    ``_cat_file``, ``_pipe_file``, ``_rm_file`` and ``_ls``. Setting ``protocol`` on the class
    registers it.

    Parameters
    ----------
    asynchronous : bool
        Accepted because zarr asks for it; changes nothing. One instance serves synchronous
        callers and coroutines of any loop.
    loop, batch_size, use_listings_cache, ...
        As everywhere in fsspec.

    Notes
    -----
    Thread-safe, fork-safe, picklable. Secrets appear in no pickle, JSON, repr or token.
    """

    root_marker: str = ""
    #: How far files that are read in order read ahead at most.
    readahead_bytes: int = files.LAST_AHEAD_BYTES

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        protocol = cls.__dict__.get("protocol")
        if isinstance(protocol, str) and not cls._is_abstract:
            register(cls, protocol)

    def __init__(self, *args: Any, asynchronous: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, asynchronous=asynchronous, **kwargs)

    # ---------------------------------------------------------------- names

    @classmethod
    def _protocols(cls) -> tuple[str, ...]:
        return protocols_of(cls)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        path = strip_protocol(stringify_path(path), cls._protocols())
        return path.strip("/")

    def _key(self, path: Any) -> str:
        """Return the key of a path, or refuse the name."""
        return clean_key(self._strip_protocol(path))

    def _raw(self, path: Any) -> str:
        """Return the path as given, for rules about its trailing slash."""
        return cast("str", stringify_path(path))

    # ---------------------------------------------------------------- read

    def get_now(
        self, key: str, start: int | None, end: int | None, *, may_block: bool
    ) -> bytes | WaitForDisk | None:
        """Answer a read without waiting for a network, or return None.

        Parameters
        ----------
        key, start, end
            As for ``get_object``.
        may_block : bool
            Whether waiting for a local disk is allowed: the caller is no loop.

        Returns
        -------
        bytes, WAIT_FOR_DISK or None
            The bytes; that they are here, to be had with ``may_block``; or that the slow path
            has to find out.

        Notes
        -----
        This is the hot path: it runs on the caller's thread, or inside the caller's loop. The
        default knows the quick backends; those that hold local copies override it.
        """
        if self.loop_bound or (self.blocking and not may_block):
            return None
        return cast("bytes", self.get_object(key, start, end))

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Read an object or a range of it.

        Parameters
        ----------
        path : str
            With or without the protocol.
        start, end : int, optional
            As in ``data[start:end]``.

        Returns
        -------
        bytes
            Shorter than asked where the object ends.

        Raises
        ------
        FileNotFoundError
            [ENOENT] authoritatively absent.
        """
        key = self._key(path)
        data = self.get_now(key, start, end, may_block=True)
        if data is not None:
            return cast("bytes", data)
        return cast("bytes", self._twin_call(key, start, end))

    _twin_call = sync_twin("_get_slowly")

    async def _get_slowly(self, key: str, start: int | None, end: int | None) -> bytes:
        return cast("bytes", await self._call("get_object", key, start, end))

    @derived
    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        key = self._key(path)
        data = self.get_now(key, start, end, may_block=False)
        if data is WAIT_FOR_DISK:
            # On the caller's own loop: a thread is 25 µs away, the I/O loop 150.
            data = await run_in_thread(self.get_now, key, start, end, may_block=True)
        if data is not None:
            return cast("bytes", data)
        return await self._get_slowly(key, start, end)

    async def _get_file(
        self, rpath: str, lpath: Any, callback: Any = files.NO_CALLBACK, **_: Any
    ) -> Any:
        """Copy an object to a local path (whole or not at all) or into an open file."""
        return await files.download(self, rpath, lpath, callback, _PIECE_BYTES)

    # ---------------------------------------------------------------- facts

    def info_now(self, key: str, *, may_block: bool) -> Info | None:
        """Answer ``info`` without waiting for a network, or return None.

        The counterpart of :meth:`get_now`; None never means "absent".
        """
        del key, may_block
        return None

    def info(self, path: str, **_: Any) -> Info:
        """Return what is known of an object or directory without reading it.

        Returns
        -------
        dict
            ``name``, ``size`` (bytes), ``type``, ``mtime`` (seconds, UTC), ``etag`` (opaque) and
            what the backend adds.

        Raises
        ------
        FileNotFoundError
            [ENOENT] authoritatively absent.
        """
        info = self.info_now(self._key(path), may_block=True)
        return info if info is not None else cast("Info", self._twin_info(path))

    _twin_info = sync_twin("_info")

    @derived
    async def _info(self, path: str, **_: Any) -> Info:
        key = self._key(path)
        info = self.info_now(key, may_block=False)
        return info if info is not None else await self._head(key)

    async def _head(self, key: str) -> Info:
        """Ask the primitive; key-value backends know directories here."""
        info: ObjectInfo = await self._call("head_object", key)
        return info.to_info()

    def exists(self, path: str, **_: Any) -> bool:
        """Say whether there is an object or directory; an unreachable storage raises."""
        try:
            if self.info_now(self._key(path), may_block=True) is not None:
                return True
        except (FileNotFoundError, NotADirectoryError):
            return False
        return bool(self._twin_exists(path))

    async def _exists(self, path: str, **_: Any) -> bool:
        try:
            await self._info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    _twin_exists = sync_twin("_exists")

    def isfile(self, path: str) -> bool:
        """Say whether there is an object; an unreachable storage raises."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Say whether there is a directory; an unreachable storage raises."""
        return self._type(path) == "directory"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    async def _isfile(self, path: str) -> bool:
        try:
            return bool((await self._info(path))["type"] == "file")
        except (FileNotFoundError, NotADirectoryError):
            return False

    async def _isdir(self, path: str) -> bool:
        try:
            return bool((await self._info(path))["type"] == "directory")
        except (FileNotFoundError, NotADirectoryError):
            return False

    async def _modified(self, path: str) -> dt.datetime:
        """Return the time of the last change, UTC."""
        mtime = (await self._info(path)).get("mtime")
        if mtime is None:
            message = "the backend records no modification times"
            raise UnsupportedError(message, path)
        return dt.datetime.fromtimestamp(mtime, tz=dt.UTC)

    async def _created(self, path: str) -> dt.datetime:
        """Return the time of creation, UTC; objects are replaced whole, so that of the version."""
        created = (await self._info(path)).get("created")
        if created is None:
            return await self._modified(path)
        return dt.datetime.fromtimestamp(created, tz=dt.UTC)

    async def _ukey(self, path: str) -> str:
        """Return a string that changes when the object does."""
        info = await self._info(path)
        version = info.get("etag") or (info["size"], info.get("mtime"))
        facts = (self.protocol, info["name"], version)
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    async def _checksum(self, path: str) -> int:
        """Return an integer that changes when the object does."""
        return int(await self._ukey(path), 16)

    def sign(self, path: str, expiration: int = 100, **_: Any) -> str:
        """Refuse: there is no server that could honour a signed URL.

        Raises
        ------
        UnsupportedError
            [ENOTSUP] always.
        """
        message = "this filesystem has no signed URLs"
        raise UnsupportedError(message, self._raw(path))

    # ---------------------------------------------------------------- write

    @derived
    async def _pipe_file(self, path: str, value: Any, mode: str = "overwrite", **_: Any) -> Any:
        """Store a whole object; ``mode="create"`` fails if there is one, atomically.

        Returns
        -------
        ObjectInfo or None
            What the backend's answer told of it, as s3fs hands out S3's.
        """
        self._refuse_if_read_only(path)
        key = self._key(path)
        check_writable_name(self._raw(path), key)
        if self._intrans:
            self.transaction.files.append(staged_value(self, key, value, mode))
            return None
        return await self._call("put_object", key, value, if_none_match=mode == "create")

    @derived
    async def _rm_file(self, path: str, **_: Any) -> None:
        self._refuse_if_read_only(path)
        await self._call("delete_object", self._key(path))

    async def _put_file(
        self,
        lpath: Any,
        rpath: str,
        mode: str = "overwrite",
        callback: Any = files.NO_CALLBACK,
        **_: Any,
    ) -> Any:
        """Store a local file as an object, atomically."""
        self._refuse_if_read_only(rpath)
        local = os.fspath(lpath)
        if os.path.isdir(local):
            return await self._makedirs(rpath, exist_ok=True)
        key = self._key(rpath)
        check_writable_name(self._raw(rpath), key)
        callback.set_size(os.path.getsize(local))
        told = await self._put_local(key, local, if_none_match=mode == "create", if_match=None)
        callback.absolute_update(os.path.getsize(local))
        return told

    async def _put_local(
        self, key: str, local: str, *, if_none_match: bool, if_match: str | None
    ) -> Any:
        conditions = {"if_none_match": if_none_match, "if_match": if_match}
        if self.gives("put_path"):
            return await self._call("put_path", key, local, **conditions)
        with open(local, "rb") as file:
            return await self._call("put_object", key, file.read(), **conditions)

    async def _cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy one object; a directory is made at the destination."""
        self._refuse_if_read_only(path2)
        source, target = self._key(path1), self._key(path2)
        check_writable_name(self._raw(path2), target)
        if self.gives("copy_object"):
            try:
                await self._call("copy_object", source, target)
            except IsADirectoryError:
                await self._makedirs(path2, exist_ok=True)
            return
        try:
            value = await self._cat_file(source)
        except (IsADirectoryError, FileNotFoundError):
            if not await self._isdir(source):
                raise
            await self._makedirs(path2, exist_ok=True)
            return
        await self._call("put_object", target, value)

    async def _mv_file(self, path1: str, path2: str, **_: Any) -> None:
        self._refuse_if_read_only(path1)
        source, target = self._key(path1), self._key(path2)
        check_writable_name(self._raw(path2), target)
        if source == target:
            await self._info(source)
            return  # onto itself: copying and then removing would lose it
        if self.gives("move_object"):
            await self._call("move_object", source, target)
            return
        await self._cp_file(path1, path2)
        await self._rm_file(path1)

    async def _touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Make an empty object; an existing one is emptied, or with ``truncate=False`` kept."""
        if not truncate:
            try:
                await self._pipe_file(path, b"", mode="create")
            except FileExistsError:
                return
        else:
            await self._pipe_file(path, b"")

    @derived
    async def _mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        del create_parents  # they are always made: directories are implicit here
        self._refuse_if_read_only(path)
        await self._call("make_directory", self._key(path))

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        if not exist_ok and await self._exists(path):
            raise exists_already(self._raw(path))
        await self._mkdir(path)

    async def _rmdir(self, path: str) -> None:
        """Remove an empty directory; where directories are only prefixes, do nothing."""
        self._refuse_if_read_only(path)
        key = self._key(path)
        if self.gives("remove_directory"):
            await self._call("remove_directory", key)

    # ---------------------------------------------------------------- files

    def open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        """Open an object as a file; see :mod:`vfs.core.file` for what the files can do."""
        if "r" not in mode or "+" in mode:
            self._refuse_if_read_only(path)
            check_writable_name(self._raw(path), self._key(path))
        return super().open(path, mode, *args, **kwargs)

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **kwargs: Any) -> Any:
        del block_size
        key = self._key(path)
        if mode == "rb":
            return self._open_reader(key)
        return open_writer(self, key, mode, autocommit=kwargs.get("autocommit", True))

    def _new_stage(self, key: str) -> tuple[int, str]:
        """Return descriptor and path of a new local file for a writer's bytes."""
        del key
        return tempfile.mkstemp(prefix="vfs-stage-")

    def _open_reader(self, key: str) -> Any:
        if key.endswith(files.NAMES_WITH_FOOTER) and self.gives("get_end"):
            found = files.run_for(self, files.open_at_end, self, key)
            if found is not None:
                return files.ObjectReader(self, key, found[0].to_info(), end=found[1])
        info = self.info(key)
        if info["type"] == "directory":
            raise is_a_directory(key)
        return files.ObjectReader(self, key, info)

    async def open_async(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """Open an object for coroutines: ``rb``, ``wb`` or ``xb``.

        Raises
        ------
        ValueError
            Text mode or compression, which fsspec's asynchronous files do not have.
        """
        if "b" not in mode or kwargs.get("compression"):
            message = "open_async gives binary files without compression"
            raise ValueError(message)
        return await open_async(self, self._key(path), mode)

    # ---------------------------------------------------------------- sync twins

    cat_ranges = sync_twin("_cat_ranges")
    checksum = sync_twin("_checksum")
    cp_file = sync_twin("_cp_file")
    created = sync_twin("_created")
    get_file = sync_twin("_get_file", silent=True)
    ls = sync_twin("_ls")
    makedirs = sync_twin("_makedirs")
    mkdir = sync_twin("_mkdir")
    modified = sync_twin("_modified")
    mv_file = sync_twin("_mv_file")
    pipe_file = sync_twin("_pipe_file", silent=True)
    put_file = sync_twin("_put_file", silent=True)
    rm_file = sync_twin("_rm_file")
    rmdir = sync_twin("_rmdir")
    size = sync_twin("_size")
    touch = sync_twin("_touch")
    ukey = sync_twin("_ukey")
