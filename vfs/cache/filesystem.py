"""``cache::``: blocks of any filesystem on a local disk.

What lives here: fsspec's calls, which version they mean, and what a change makes unbelievable.
What must not: the order of a fetch (``fetch.py``), files (``engine.py``), the verbs (``verbs.py``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from vfs.cache.engine import CacheEngine
from vfs.cache.facts import ABSENT, DIRECTORY, NO_OBJECT
from vfs.cache.fetch import Fetcher, Version
from vfs.cache.hits import Hits
from vfs.cache.options import OPTION_NAMES, CacheOptions
from vfs.cache.verbs import CacheVerbs
from vfs.cache.versions import Versions
from vfs.config.options import check_known
from vfs.config.secrets import reveal
from vfs.core.chained import WrapperFileSystem
from vfs.core.engine import get_engine
from vfs.core.localread import WaitForDisk
from vfs.core.loop import hop, run_in_thread, wait
from vfs.core.rangereads import one_each
from vfs.core.ranges import resolve
from vfs.core.storename import store_name
from vfs.errors import ConflictError, not_found, replaced
from vfs.types import Info, ObjectInfo

__all__ = ["CacheFileSystem"]

T = TypeVar("T")

#: How often a read begins again because the object was replaced before its first byte came.
_TRIES: Final = 5

#: Downloads move in pieces of this size, each a multiple of every grain.
_PIECE_BYTES: Final = 16 << 20


class CacheFileSystem(CacheVerbs, WrapperFileSystem):
    """Blocks of another filesystem, kept on a local disk: verified, bounded, shared.

    Parameters
    ----------
    directory : str, optional
        Where blocks lie, a local directory that belongs to the cache alone. Several processes,
        users of one URL and caches of different stores may share it. Default: the platform's
        cache directory.
    max_bytes : int or str, optional
        Limit of the directory, over all processes, as ``"20 GiB"``. Default: the one recorded in
        the directory, else a tenth of the disk and at most 50 GiB. The last one given wins.
    consistency : {"open", "immutable", "ttl", "strict"}, default "open"
        How old an answer may be. ``immutable``: objects never change, nothing is asked again.
        ``ttl``: asked again after ``ttl_s``. ``open``: asked at each open of a file and by each
        call that reads an object in one go. ``strict``: asked at every read of an open file too.
    ttl_s : float, default 60
        For ``ttl``.
    negative_ttl_s : float, default 5
        For how long an absence is believed, in ``immutable`` and ``ttl``.
    grain_bytes : int or str, default "1 MiB"
        Size of a block, a multiple of 64 KiB.
    small_bytes : int or str, default 4 MiB and 64 KiB
        Objects up to this size are one block, fetched whole.
    gap_bytes : int or str, default "1 MiB"
        Wanted blocks that lie no farther apart share a request.
    request_bytes : int or str, default "16 MiB"
        Longer requests are split at multiples of half of it.
    concurrency : int, default 16
        Requests in flight of one process.
    verify : {"always", "once", "never"}, default "always"
        Whether every read checks what it touches, the first of a process checks the whole block,
        or none checks more than the footer.
    access : {"auto", "epoch"}, default "auto"
        ``epoch``: evict nothing for what is read here; when the cache is full the rest streams
        past. Best for loops over a dataset that is larger than the cache.
    memory_bytes : int or str, default 0
        Blocks that were read as a whole stay in the memory of the process, up to this size.
    readahead_bytes : int or str, default "8 MiB"
        How far a file that is read in order reads ahead at most; it begins with 64 KiB at the
        second read that follows another.
    target_protocol, target_options, fs, fo, engine
        See :class:`~vfs.core.chained.WrapperFileSystem`.

    Raises
    ------
    ConfigError
        A wrong option; at first use, a directory that holds other files.

    Notes
    -----
    A hit is open, fstat, two preads, close on the caller's thread, checked by xxh3: no index, no
    lock. A missing block is fetched once for all threads, loops and processes of the machine.
    Writes, removals and moves through this filesystem are seen at once by every process that uses
    the same directory, in every mode. Thread-safe, fork-safe, picklable. Durability: none is
    needed, since everything here is a copy; writes are as durable as the target makes them.

    Examples
    --------
    >>> import tempfile, fsspec
    >>> top = tempfile.mkdtemp()
    >>> fs = fsspec.filesystem("cache", target_protocol="mem", directory=f"{top}/cache")
    >>> fs.pipe_file("a/b", b"hello")
    >>> fs.cat_file("a/b"), fs.cat_file("a/b", start=1, end=3)
    (b'hello', b'el')
    """

    protocol = "cache"
    always_on_loop = True

    def __init__(
        self,
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        fs: Any = None,
        fo: str | None = None,
        *,
        directory: Any = None,
        max_bytes: Any = None,
        consistency: str = "open",
        ttl_s: Any = None,
        negative_ttl_s: Any = None,
        grain_bytes: Any = None,
        small_bytes: Any = None,
        gap_bytes: Any = None,
        request_bytes: Any = None,
        concurrency: Any = None,
        verify: str = "always",
        access: str = "auto",
        memory_bytes: Any = None,
        readahead_bytes: Any = None,
        **kwargs: Any,
    ) -> None:
        check_known("cache", kwargs, OPTION_NAMES)
        options = CacheOptions.parse(
            directory=reveal(directory, name="directory"),
            max_bytes=max_bytes,
            consistency=consistency,
            ttl_s=ttl_s,
            negative_ttl_s=negative_ttl_s,
            grain_bytes=grain_bytes,
            small_bytes=small_bytes,
            gap_bytes=gap_bytes,
            request_bytes=request_bytes,
            concurrency=concurrency,
            verify=verify,
            access=access,
            memory_bytes=memory_bytes,
            readahead_bytes=readahead_bytes,
        )
        super().__init__(target_protocol, target_options, fs, fo, **kwargs)
        self._options = options
        self._remembers = options.consistency.remembers
        self._engine = get_engine(
            CacheEngine,
            os.path.realpath(options.directory),
            lambda: CacheEngine(options.directory),
        )
        self._engine.configure(options.max_bytes, options.memory_bytes)
        self._hits = Hits(self._engine, options.verify, in_memory=options.memory_bytes > 0)
        self.readahead_bytes = options.readahead_bytes
        self._versions = Versions(self._engine, self.target, options, store_name(self.fs, ""))
        self._fetcher = Fetcher(self._engine, self.target, options)
        # Reads are pinned here, with or without the target's help.
        self.reads_conditionally = True

    # ---------------------------------------------------------------- read

    def get_now(
        self, key: str, start: int | None, end: int | None, *, may_block: bool
    ) -> bytes | WaitForDisk | None:
        engine = self._engine
        if not self._remembers or not (engine.ready or engine.usable()):
            return None
        version = self._versions.believed(key)
        if version is None or version.facts.size < 0:
            return None
        size = version.facts.size
        low, high = (0, size) if start is None and end is None else resolve(start, end, size)
        return self._hits.read(version, low, high, may_block=may_block)

    async def get_object(
        self, key: str, start: int | None, end: int | None, *, if_match: str | None = None
    ) -> bytes:
        if start is None and end is None and if_match is None:
            whole = await self._fetcher.open_by_reading(key, self._versions)
            if whole is not None:
                return whole
        try:
            (data,) = await self._read_many(key, [(start, end)], if_match)
        except ConflictError:
            if if_match is not None:
                raise
            # Written faster than it can be asked for. One request gives one version, whichever.
            return await self.target.cat_file(key, start, end)
        return data

    def cat_ranges(self, paths: Any, starts: Any, ends: Any, *args: Any, **kwargs: Any) -> Any:
        """Read many ranges; those of one object are planned as one read."""
        if self._remembers and isinstance(paths, list):
            found = self._ranges_now(paths, starts, ends)
            if found is not None:
                return found
        return wait(self._cat_ranges, paths, starts, ends, *args, **kwargs)

    def _ranges_now(self, paths: list[str], starts: Any, ends: Any) -> list[bytes] | None:
        """Read ranges whose blocks are all here, those of one object from one version.

        INVARIANT: one version an object, although another may be written meanwhile.
        (tests/cache/test_history.py::test_own_writer)
        """
        engine = self._engine
        if not (engine.ready or engine.usable()):
            return None
        first, last = one_each(starts, len(paths)), one_each(ends, len(paths))
        versions: dict[str, Version | None] = {}
        found: list[bytes] = []
        for path, start, end in zip(paths, first, last, strict=True):
            key = self._key(path)
            if key not in versions:
                versions[key] = self._versions.believed(key)
            version = versions[key]
            if version is None or version.facts.size < 0:
                return None
            low, high = resolve(start, end, version.facts.size)
            data = self._hits.read(version, low, high, may_block=True)
            if not isinstance(data, bytes):
                return None
            found.append(data)
        return found

    def _plan_ranges(
        self,
        paths: list[str],
        starts: list[int | None],
        ends: list[int | None],
        gap_bytes: int,
        results: list[Any],
    ) -> list[Callable[[], Any]]:
        del gap_bytes  # blocks are what is merged here
        by_path: dict[str, list[int]] = {}
        for index, path in enumerate(paths):
            by_path.setdefault(path, []).append(index)

        async def read(path: str, indexes: list[int]) -> None:
            bounds = [(starts[index], ends[index]) for index in indexes]
            try:
                data: Sequence[Any] = await hop(self._read_many, self._key(path), bounds)
            except Exception as error:  # noqa: BLE001 - handed to the caller, by contract
                data = [error] * len(indexes)
            for index, item in zip(indexes, data, strict=True):
                results[index] = item

        return [
            (lambda p=path, i=indexes: read(p, i))  # type: ignore[misc]
            for path, indexes in by_path.items()
        ]

    async def _read_many(
        self,
        key: str,
        bounds: list[tuple[int | None, int | None]],
        if_match: str | None = None,
    ) -> list[bytes]:
        async def read(version: Version) -> list[bytes]:
            ranges = [resolve(start, end, version.facts.size) for start, end in bounds]
            return await self._fetcher.read(version, ranges)

        return await self._from_one_version(key, read, if_match)

    async def get_path(self, key: str, local: str) -> None:
        await self._from_one_version(key, lambda version: self._download(version, local))

    async def _from_one_version(
        self,
        key: str,
        read: Callable[[Version], Awaitable[T]],
        if_match: str | None = None,
        known: Version | None = None,
    ) -> T:
        """Read the present version, and begin again while it is replaced under the read.

        Nothing was given out before the read is done. Who wants a certain version gets one try;
        who has just asked for the present one says so, and it is not asked for again.
        """
        for attempt in range(_TRIES):
            version = known or await self._versions.current(key)
            known = None
            if if_match is not None and version.facts.etag != if_match:
                raise replaced(key)
            try:
                return await read(version)
            except ConflictError:
                self._versions.forget([key])
                if if_match is not None or attempt + 1 == _TRIES:
                    raise
        raise AssertionError

    async def _download(self, version: Version, local: str) -> None:
        size = version.facts.size
        with open(local, "wb") as file:
            for low in range(0, size, _PIECE_BYTES):
                span = (low, min(low + _PIECE_BYTES, size))
                (data,) = await self._fetcher.read(version, [span])
                await run_in_thread(file.write, data)

    # ---------------------------------------------------------------- open files

    def read_pinned_now(self, key: str, start: int, end: int, info: Info) -> bytes | None:
        version = self._opened(key, info)
        if version is None:
            return None
        low, high = resolve(start, end, version.facts.size)
        data = self._hits.read(version, low, high, may_block=True)
        return data if isinstance(data, bytes) else None

    def fill_pinned_now(self, key: str, start: int, into: memoryview, info: Info) -> bool:
        version = self._opened(key, info)
        if version is None or start + len(into) > version.facts.size:
            return False
        return self._hits.fill(version, start, into, may_block=True) is True

    def _opened(self, key: str, info: Info) -> Version | None:
        if self._options.consistency.mode == "strict" or not self._engine.ready:
            return None
        return self._versions.opened_as(key, info)

    async def _read_pinned(self, key: str, start: int, end: int, info: Info) -> bytes:
        """Read a range of the version a file was opened with."""
        return await hop(self._read_pinned_here, key, start, end, info)

    async def _read_pinned_here(self, key: str, start: int, end: int, info: Info) -> bytes:
        version = self._versions.opened_as(key, info)
        facts = version.facts
        if self._options.consistency.mode == "strict":
            now = (await self._versions.current(key)).facts
            if (now.size, now.etag, now.mtime) != (facts.size, facts.etag, facts.mtime):
                raise replaced(key)
        try:
            (data,) = await self._fetcher.read(version, [resolve(start, end, facts.size)])
        except ConflictError:
            self._versions.forget([key])  # who opens it again is told of the new one
            raise
        return data

    # ---------------------------------------------------------------- facts

    def info_now(self, key: str, *, may_block: bool) -> Info | None:
        del may_block
        engine = self._engine
        if not self._remembers or not (engine.ready or engine.usable()):
            return None
        version = self._versions.believed(key)
        if version is None or version.facts.size in {DIRECTORY, NO_OBJECT}:
            return None
        facts = version.facts
        if facts.size == ABSENT:
            raise not_found(key)
        return ObjectInfo(key, facts.size, facts.mtime, facts.etag).to_info()

    async def head_object(self, key: str) -> ObjectInfo:
        facts = await self._versions.facts(key)
        if facts.size == ABSENT:
            raise not_found(key)
        if facts.size == DIRECTORY:
            return ObjectInfo(key, 0, facts.mtime, kind="directory")
        return ObjectInfo(key, facts.size, facts.mtime, facts.etag)

    async def list_directory(self, key: str) -> list[ObjectInfo]:
        found: list[ObjectInfo] = await self._versions.listing(
            key, "", lambda: self.target.children(key), learn=True
        )
        return list(found)

    async def _tree(self, key: str, maxdepth: int | None) -> dict[str, Info]:
        async def listed() -> dict[str, Info]:
            found: dict[str, Info] = await self._versions.listing(
                key, f"tree {maxdepth}", lambda: self.target.tree(key, maxdepth)
            )
            return found

        return {name: dict(info) for name, info in (await hop(listed)).items()}

    # ---------------------------------------------------------------- changes

    @contextlib.asynccontextmanager
    async def _changing(self, *keys: str) -> AsyncIterator[None]:
        """Make what is known of keys unbelievable, before and after they change.

        INVARIANT: both times. A reader that asks while the change is under way may be told the
        old state, and must not keep it.
        (tests/cache/test_consistency.py::test_fact_asked_during_a_write_is_not_kept)
        """
        self._versions.changed(keys)
        try:
            yield
        finally:
            self._versions.changed(keys)

    async def put_object(
        self,
        key: str,
        value: bytes,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> None:
        async with self._changing(key):
            await super().put_object(key, value, if_none_match=if_none_match, if_match=if_match)

    async def put_path(
        self, key: str, local: str, *, if_none_match: bool, if_match: str | None
    ) -> None:
        async with self._changing(key):
            await super().put_path(key, local, if_none_match=if_none_match, if_match=if_match)

    async def delete_object(self, key: str) -> None:
        async with self._changing(key):
            await super().delete_object(key)

    async def _delete_many(self, keys: list[str]) -> None:
        async with self._changing(*keys):
            await super()._delete_many(keys)

    async def copy_object(self, source: str, target: str) -> None:
        async with self._changing(target):
            await super().copy_object(source, target)

    async def move_object(self, source: str, target: str) -> None:
        async with self._changing(source, target):
            await super().move_object(source, target)

    async def make_directory(self, key: str) -> None:
        async with self._changing(key):
            await super().make_directory(key)

    async def remove_directory(self, key: str) -> None:
        async with self._changing(key):
            await super().remove_directory(key)
