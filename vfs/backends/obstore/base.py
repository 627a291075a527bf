"""Listings and writes of an object store, and what its filesystems share.

What lives here: the requests that list, store, copy and remove. What must not: reads
(``reads.py``), anything about one provider (``filesystem.py``).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import obstore

from vfs.backends.obstore.client import Stores, usable_here
from vfs.backends.obstore.errors import translate_obstore
from vfs.backends.obstore.options import StoreConfig
from vfs.backends.obstore.reads import (
    ObjectStoreReads,
    conditions,
    describe,
    describe_now,
    plain,
    quoted,
)
from vfs.config.secrets import reveal
from vfs.core.loop import gather, run_in_thread
from vfs.errors import ConfigError, is_a_directory, not_a_directory, not_found, os_error
from vfs.types import Info, ObjectInfo

__all__ = ["ObjectStoreFileSystem"]

#: Uploads above this go in parts of this size; S3 allows no smaller ones than 5 MiB.
UPLOAD_PART_BYTES: Final = 16 << 20
#: S3 allows 10 000 parts; larger files than 160 GB get larger parts.
_MOST_PARTS: Final = 10_000
#: Keys of one page of a listing, and of one bulk delete: what S3 allows.
_PAGE: Final = 1000


class ObjectStoreFileSystem(ObjectStoreReads, abstract=True):
    """Base of the three: buckets of an object store as top directories.

    Notes
    -----
    Thread-safe; one instance serves every loop and thread. Picklable without its secrets. Not
    usable in a process forked after the first request ([ENOTSUP], at once): use ``spawn``.
    Durability: what the store promises when it acknowledges a write.
    """

    #: Whether DELETE of an absent key is answered as a success.
    deletes_silently: ClassVar[bool] = False
    #: What the store takes in one request; None where that is no bound to meet.
    largest_put_bytes: ClassVar[int | None] = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if options.get("batch_size") is None:
            # INVARIANT: so many objects of one call are in flight; fsspec's own bound is an eighth
            # of the descriptors, which may be thousands of connections
            # (tests/backends/test_obstore.py::test_calls_for_many_objects_are_bounded).
            self.batch_size = self.ranges_in_flight
        made = self._translate(reveal(options))
        self._stores = Stores(self._maker(made), made)

    @classmethod
    def takes(cls, options: Mapping[str, Any]) -> bool:
        """Say whether every option means something here, and this process can use the client."""
        try:
            cls._translate(options)
        except ConfigError:
            return False
        return usable_here()

    @classmethod
    def _translate(cls, options: Mapping[str, Any]) -> StoreConfig:
        """Return what the stores are made with; refuse options without meaning."""
        raise NotImplementedError

    def _maker(self, made: StoreConfig) -> Callable[..., Any]:
        """Return what makes the store of a bucket."""
        raise NotImplementedError

    # ---------------------------------------------------------------- list

    async def list_objects(  # type: ignore[override]
        self, prefix: str, start_after: str
    ) -> AsyncIterator[ObjectInfo]:
        async for page in self._metas(prefix, start_after):
            bucket = prefix.partition("/")[0]
            for meta in page:
                yield describe(f"{bucket}/{meta['path']}", meta)

    async def _metas(
        self, prefix: str, start_after: str = "", *, everything: bool = False
    ) -> AsyncIterator[Any]:
        """Yield pages of what obstore tells of the keys below a prefix.

        For who wants everything the next one is asked for before the last is handed out: it comes
        while that is made use of (``benchmarks/engines.py``, find).
        """
        store, path = self._store(prefix)
        offset = start_after.partition("/")[2] or None
        pages = obstore.list(store, path or None, offset=offset, chunk_size=_PAGE)
        coming: Any = None
        try:
            while True:
                try:
                    page = await (coming or pages.__anext__())
                except StopAsyncIteration:
                    return
                except Exception as error:
                    raise translate_obstore(error, "find", prefix) from error
                # Begins at once, on a thread of the client.
                coming = pages.__anext__() if everything else None
                yield page
        finally:
            if isinstance(coming, asyncio.Future):
                coming.cancel()

    async def _list_children(self, key: str) -> list[ObjectInfo]:
        store, path = self._store(key)
        found = await self._ask(
            "ls", key, lambda: obstore.list_with_delimiter_async(store, path or None)
        )
        bucket = key.partition("/")[0]
        folders = found["common_prefixes"]
        children = [ObjectInfo(f"{bucket}/{name}", 0, kind="directory") for name in folders]
        # The marker of the directory itself ("dir/") comes under the directory's own name.
        own = [meta for meta in found["objects"] if meta["path"] == path]
        children += [
            describe(f"{bucket}/{meta['path']}", meta)
            for meta in found["objects"]
            if meta["path"] != path
        ]
        if not children and not own and path:
            await self.head_object(key)  # raises if there is nothing at all
            raise not_a_directory(key)
        return children

    async def _list_tree(self, key: str, maxdepth: int | None) -> dict[str, Info]:
        if maxdepth == 1:
            return await self._list_one_level(key)
        bucket, _, path = key.partition("/")
        found: dict[str, Info] = {}
        folders: set[str] = {key}
        unclear: list[str] = []
        async for page in self._metas(f"{key}/", everything=True):
            for meta in page:
                name = f"{bucket}/{meta['path']}"
                if not meta["size"]:
                    if meta["path"] == path:
                        continue  # the directory's own marker
                    unclear.append(name)
                parent = name.rpartition("/")[0]
                while parent not in folders:
                    folders.add(parent)
                    parent = parent.rpartition("/")[0]
                found[name] = describe_now(name, meta)
        await self._drop_markers(unclear, found, folders)
        folders.discard(key)
        for name in folders:
            found.setdefault(name, ObjectInfo(name, 0, kind="directory").to_info())
        if maxdepth is not None:
            deepest = key.count("/") + maxdepth
            found = {name: info for name, info in found.items() if name.count("/") <= deepest}
        return found

    async def _list_one_level(self, key: str) -> dict[str, Info]:
        try:
            return {item.key: item.to_info() for item in await self._list_children(key)}
        except (FileNotFoundError, NotADirectoryError):
            if "/" not in key:
                raise  # no such bucket
            return {}

    async def _drop_markers(
        self, names: list[str], found: dict[str, Info], folders: set[str]
    ) -> None:
        """Tell empty objects from markers of directories ("dir/"), which lose their slash here."""

        async def look(name: str) -> None:
            try:
                await self.head_object(name)
            except FileNotFoundError:
                found.pop(name, None)
                folders.add(name)

        await gather([lambda name=name: look(name) for name in names])  # type: ignore[misc]

    # ---------------------------------------------------------------- write

    async def put_object(
        self,
        key: str,
        value: bytes,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> ObjectInfo:
        """Store an object: one request, or parallel parts above 16 MiB if it is unconditional.

        Raises
        ------
        OSError
            [EFBIG] a conditional write of more than the store takes in one request.
        """
        store, path = self._object(key)
        view = memoryview(value).cast("B")
        mode = _mode(if_none_match, if_match)
        return await self._upload(key, view, view.nbytes, mode, store, path)

    async def _upload(
        self, key: str, body: Any, size: int, mode: Any, store: Any, path: str
    ) -> ObjectInfo:
        parts = mode == "overwrite" and size > UPLOAD_PART_BYTES
        if not parts and self.largest_put_bytes is not None and size > self.largest_put_bytes:
            # S3 itself takes conditions when parts are completed; the Rust client sends none.
            detail = (
                f"a conditional write is one request, of {self.largest_put_bytes} bytes at most, "
                f"and this has {size}; write without a condition, or create by s3:// with "
                "engine='s3fs'"
            )
            raise os_error(errno.EFBIG, key, detail)
        part = max(UPLOAD_PART_BYTES, -(-size // _MOST_PARTS))
        answer = await self._ask(
            "pipe_file",
            key,
            lambda: obstore.put_async(
                store, path, body, mode=mode, use_multipart=parts, chunk_size=part
            ),
        )
        return ObjectInfo(key, size, etag=plain(answer.get("e_tag")))

    async def put_path(
        self, key: str, local: str, *, if_none_match: bool, if_match: str | None
    ) -> ObjectInfo:
        """Store a local file; bounded memory, but for a conditional write, which is one request.

        Raises
        ------
        OSError
            [EFBIG] a conditional write of more than the store takes in one request.
        """
        store, path = self._object(key)
        size = await run_in_thread(os.path.getsize, local)
        mode = _mode(if_none_match, if_match)
        return await self._upload(key, Path(local), size, mode, store, path)

    async def delete_object(self, key: str) -> None:
        store, path = self._object(key)
        if self.deletes_silently:
            await self.head_object(key)
        await self._ask("rm_file", key, lambda: obstore.delete_async(store, path))

    async def _delete_many(self, keys: list[str]) -> None:
        """Delete in bulk: a request for a thousand keys where the store can."""
        if not self.deletes_silently:
            await super()._delete_many(keys)
            return
        buckets: dict[str, list[str]] = {}
        for key in keys:
            bucket, _, path = key.partition("/")
            buckets.setdefault(bucket, []).append(path)
        calls = [
            lambda b=bucket, page=paths[n : n + _PAGE]: self._delete_page(b, page)
            for bucket, paths in buckets.items()
            for n in range(0, len(paths), _PAGE)
        ]
        await gather(calls)

    async def _delete_page(self, bucket: str, paths: list[str]) -> None:
        store, _ = self._store(bucket)
        await self._ask("rm", bucket, lambda: obstore.delete_async(store, paths))

    async def copy_object(self, source: str, target: str) -> None:
        """Copy on the server; through this machine between buckets and above 5 GiB."""
        store, path = self._object(source)
        _, to_path = self._object(target)
        try:
            if source.partition("/")[0] != target.partition("/")[0]:
                await self._copy_through(source, target)
            elif source != target:
                await obstore.copy_async(store, path, to_path)
            else:
                await self.head_object(source)
        except FileNotFoundError:
            if await self._first_below(source) is not None:
                raise is_a_directory(source) from None
            raise not_found(source) from None
        except Exception as error:
            better = translate_obstore(error, "copy", source)
            if isinstance(better, OSError) and "EntityTooLarge" in str(error):
                await self._copy_through(source, target)
                return
            raise better from error

    async def _copy_through(self, source: str, target: str) -> None:
        info = await self.head_object(source)
        if info.size <= UPLOAD_PART_BYTES:
            await self.put_object(target, await self.get_object(source, None, None))
            return
        store, path = self._object(source)
        answer = await self._ask(
            "copy",
            source,
            lambda: obstore.get_async(store, path, options=conditions(None, info.etag)),
        )
        to_store, to_path = self._object(target)
        await self._upload(target, answer, info.size, "overwrite", to_store, to_path)

    def sign(self, path: str, expiration: int = 100, method: str = "GET", **_: Any) -> str:
        """Return a URL that gives access to one object for ``expiration`` seconds.

        Parameters
        ----------
        path : str
            With or without the protocol.
        expiration : int
            Seconds.
        method : str
            What the URL allows: ``"GET"``, ``"PUT"``, ``"HEAD"`` or ``"DELETE"``.

        Notes
        -----
        Cost: none, unless credentials have to be fetched.
        """
        key = self._key(path)
        store, inner = self._object(key)
        try:
            lasting = dt.timedelta(seconds=expiration)
            return obstore.sign(store, cast("Any", method), inner, lasting)
        except Exception as error:
            raise translate_obstore(error, "sign", key) from error


def _mode(if_none_match: bool, if_match: str | None) -> Any:
    if if_none_match:
        return "create"
    return "overwrite" if if_match is None else {"e_tag": quoted(if_match)}
