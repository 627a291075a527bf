"""Reads from an object store: ranges, parts in parallel, one version.

What lives here: the requests that read. What must not: listings and writes (``base.py``), options.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Final, TypeVar, cast

import obstore

from vfs.backends.obstore.client import Stores
from vfs.backends.obstore.errors import status_of, translate_obstore
from vfs.core.keyvalue import KeyValueFileSystem
from vfs.core.loop import gather, hop, run_in_thread
from vfs.core.ranges import resolve
from vfs.core.wholereads import of_one_version
from vfs.errors import (
    ConflictError,
    IntegrityError,
    UnsupportedError,
    invalid_path,
    is_a_directory,
    replaced,
)
from vfs.types import Info, ObjectInfo

__all__ = [
    "PART_BYTES",
    "ObjectStoreReads",
    "conditions",
    "describe",
    "describe_now",
    "plain",
    "quoted",
]

T = TypeVar("T")

#: Objects are read in parallel pieces of this size, and a first request asks for no more: one
#: stream of S3 gives about 85 MB/s however wide the link is. 8 to 16 MB aligned to parts is what
#: AWS advises.
PART_BYTES: Final = 8 << 20
#: Parts of one object in flight together: 128 MiB of buffers, and 1.3 GB/s at that rate.
_PARTS_AT_ONCE: Final = 16

_UNSATISFIABLE: Final = 416
_NOT_IMPLEMENTED: Final = 501
_NO_RANGE: Final = ("NotPartial", "StartTooLarge", "CONTENT_RANGE", "suffix range")


class ObjectStoreReads(KeyValueFileSystem, abstract=True):
    """The reading half of :class:`~vfs.backends.obstore.base.ObjectStoreFileSystem`."""

    loop_free = True
    reads_conditionally = True
    #: 64 KiB cost 0.7 ms at 85 MB/s, less than any request; wider gaps only waste bytes, since
    #: all ranges of a call are in flight together. fsspec's parquet reader chose the same.
    merge_gap_bytes = 64 << 10
    #: One client waits for all of them, without a thread each; more gain nothing (``engines``).
    ranges_in_flight = 64
    _stores: Stores

    #: Protocols of other clients for the same storage: a wrapper told ``s3://`` may stand on this
    #: one, and whoever calls it goes on to write ``s3://``.
    aliases: ClassVar[tuple[str, ...]] = ()

    # ---------------------------------------------------------------- names

    @classmethod
    def _protocols(cls) -> tuple[str, ...]:
        return (*super()._protocols(), *cls.aliases)

    def _key(self, path: Any) -> str:
        plain = self._strip_protocol(path)
        if "//" in plain:
            why = "obstore cannot name keys with empty parts; use s3:// with engine='s3fs'"
            raise invalid_path(self._raw(path), why)
        return super()._key(plain)

    def _store(self, key: str) -> tuple[Any, str]:
        """Return the store and the path in it of a key."""
        bucket, _, path = key.partition("/")
        if not bucket:
            message = f"{self.protocol} cannot list buckets; name one: {self.protocol}://bucket"
            raise UnsupportedError(message, key)
        return self._stores.of(bucket, key), path

    def _object(self, key: str) -> tuple[Any, str]:
        store, path = self._store(key)
        if not path:
            raise is_a_directory(key)
        return store, path

    async def _ask(self, operation: str, key: str, request: Callable[[], Awaitable[T]]) -> T:
        try:
            return await request()
        except Exception as error:
            better = translate_obstore(error, operation, key)
            if better is error:
                raise
            raise better from error

    # ---------------------------------------------------------------- read

    async def _head(self, key: str) -> Info:
        if key and "/" not in key:
            await self._first_below(key)  # raises if there is no such bucket
            return ObjectInfo(key, 0, kind="directory").to_info()
        return await super()._head(key)

    async def head_object(self, key: str) -> ObjectInfo:
        store, path = self._object(key)
        meta = await self._ask("info", key, lambda: obstore.head_async(store, path))
        return describe(key, meta)

    async def get_object(
        self, key: str, start: int | None, end: int | None, *, if_match: str | None = None
    ) -> bytes:
        """Return ``data[start:end]``.

        Notes
        -----
        Cost: one request up to 8 MiB; a larger read goes in parallel parts of one version, and
        begins again when the object is replaced meanwhile. One more request where both bounds
        are needed and one is negative.
        """
        self._object(key)
        once = if_match is not None
        buffers = partial(self._buffers, key, start, end, if_match)
        return b"".join(await (buffers() if once else of_one_version(buffers)))

    async def get_whole(self, key: str) -> tuple[ObjectInfo | None, bytes]:
        """Return an object and what it is, by the requests that :meth:`get_object` makes."""
        self._object(key)
        info, buffers = await of_one_version(partial(self._read, key, 0, None, None))
        return info, b"".join(buffers)

    async def _view_pinned(self, key: str, start: int, end: int, info: Info) -> bytes | memoryview:
        etag = info.get("etag")
        if etag is None:
            return await self._read_pinned(key, start, end, info)
        buffers = await hop(self._buffers, key, start, end, etag)
        count = sum(map(len, buffers))
        if count != end - start:
            raise _short(key, count, end - start)
        return memoryview(buffers[0]) if len(buffers) == 1 else b"".join(buffers)

    async def _buffers(
        self, key: str, start: int | None, end: int | None, if_match: str | None
    ) -> list[Any]:
        """Return a range in the client's own buffers, which a caller may copy or not."""
        if (start or 0) >= 0 and (end is None or end >= 0):
            first = start or 0
            if end is not None and end <= first:
                return []
            if if_match is None and end is not None and end - first <= PART_BYTES:
                data = await self._read_small(key, first, end)
                if data is not None:
                    return [data]
            return (await self._read(key, first, end, if_match))[1]
        if end is None:
            return await self._suffix(key, -cast("int", start), if_match)
        info = await self.head_object(key)
        _check(key, info, if_match)
        first, last = resolve(start, end, info.size)
        return (await self._read(key, first, last, info.etag))[1] if first < last else []

    async def _read_small(self, key: str, start: int, end: int) -> Any:
        """Read a range by the shortest way; None where the answer has to be looked at.

        A third less time a request than with what else an answer tells (``engines``).
        """
        store, path = self._object(key)
        try:
            return await obstore.get_range_async(store, path, start=start, end=end)
        except Exception as error:
            if not _answers_no_range(error):
                raise translate_obstore(error, "cat_file", key) from error
        return None

    async def _read(
        self, key: str, start: int, end: int | None, if_match: str | None
    ) -> tuple[ObjectInfo | None, list[Any]]:
        """Return what an object is and a range's buffers.

        The first answer tells both how many parts follow and what the object is; None for the
        latter where it does not tell the version.
        """
        first_end = start + PART_BYTES if end is None else min(end, start + PART_BYTES)
        answer = await self._start(key, start, first_end, if_match)
        if answer is None:
            return None, []
        info = describe(key, answer.meta)
        stop = info.size if end is None else min(end, info.size)
        if answer.range != (start, min(first_end, stop)):
            return _told(info), [await self._whole(key, answer, start, stop)]
        if info.etag is None and first_end < stop:
            # Nothing would tell parts of one version from those of another: one request, then.
            answer = await self._start(key, start, stop, None)
            return None, [] if answer is None else [await self._body(key, answer, stop - start)]
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: self._body(key, answer, min(first_end, stop) - start)
        ]
        for low in range(first_end, stop, PART_BYTES):
            high = min(low + PART_BYTES, stop)
            calls.append(lambda low=low, high=high: self._part(key, low, high, info.etag))  # type: ignore[misc]
        return _told(info), await gather(calls, limit=_PARTS_AT_ONCE)

    async def _start(self, key: str, start: int, end: int, if_match: str | None) -> Any:
        """Ask for a range; None if the object ends before it."""
        store, path = self._object(key)
        options = conditions((start, end), if_match)
        try:
            return _same(key, await obstore.get_async(store, path, options=options), if_match)
        except ConflictError:
            raise
        except Exception as error:
            if not _answers_no_range(error):
                raise translate_obstore(error, "cat_file", key) from error
        # Beyond the end; or a server that answers with the whole, as some do for an empty object
        # and some always. Asking without a range tells which.
        options.pop("range")
        answer = await self._ask(
            "cat_file", key, lambda: obstore.get_async(store, path, options=options)
        )
        _same(key, answer, if_match)
        return answer if int(answer.meta["size"]) > start else None

    async def _whole(self, key: str, answer: Any, start: int, stop: int) -> Any:
        """Cut a range from a whole body."""
        data = await self._body(key, answer, int(answer.meta["size"]))
        return memoryview(data)[start:stop]

    async def _suffix(self, key: str, count: int, if_match: str | None) -> list[Any]:
        answer = await self._ask_end(key, count, if_match)
        if answer is None:
            info = await self.head_object(key)
            _check(key, info, if_match)
            first, last = resolve(-count, None, info.size)
            return (await self._read(key, first, last, info.etag))[1] if first < last else []
        first, last = _same(key, answer, if_match).range
        if last - first != min(count, int(answer.meta["size"])):
            raise _short(key, last - first, count)
        return [await self._body(key, answer, last - first)]

    async def _ask_end(self, key: str, count: int, if_match: str | None) -> Any:
        """Ask for the last bytes; None of an empty object, and where a store cannot (Azure)."""
        store, path = self._object(key)
        options = conditions({"suffix": count}, if_match)
        try:
            return await obstore.get_async(store, path, options=options)
        except Exception as error:
            if not _answers_no_range(error):
                raise translate_obstore(error, "cat_file", key) from error
        return None

    async def _part(self, key: str, start: int, end: int, etag: str | None) -> Any:
        answer = await self._start(key, start, end, etag)
        if answer is None or answer.range != (start, end):
            raise replaced(key)
        return await self._body(key, answer, end - start)

    async def _body(self, key: str, answer: Any, count: int) -> Any:
        data = await self._ask("cat_file", key, answer.bytes_async)
        if len(data) != count:
            raise _short(key, len(data), count)
        return data

    async def get_start(self, key: str, count: int) -> tuple[ObjectInfo, bytes] | None:
        """Return what an object is and its first bytes, by one request."""
        answer = await self._start(key, 0, count, None)
        if answer is None or answer.range != (0, min(count, int(answer.meta["size"]))):
            return None
        info = describe(key, answer.meta)
        if info.etag is None:
            return None
        return info, bytes(await self._body(key, answer, min(count, info.size)))

    async def get_end(self, key: str, count: int) -> tuple[ObjectInfo, bytes] | None:
        """Return what an object is and its last bytes, by one request."""
        answer = await self._ask_end(key, count, None)
        if answer is None:
            return None
        info = describe(key, answer.meta)
        first = max(0, info.size - count)
        if info.etag is None or answer.range != (first, info.size):
            return None
        return info, bytes(await self._body(key, answer, info.size - first))

    async def get_path(self, key: str, local: str) -> ObjectInfo | None:
        """Write an object into a local file; memory is bounded by the parts in flight."""
        return await of_one_version(partial(self._download, key, local))

    async def _download(self, key: str, local: str) -> ObjectInfo | None:
        answer = await self._start(key, 0, PART_BYTES, None)
        if answer is None:
            return None
        info = describe(key, answer.meta)
        fd = os.open(local, os.O_WRONLY)
        try:

            async def fetch(low: int) -> None:
                high = min(low + PART_BYTES, info.size)
                if low or answer.range != (0, high):
                    data = await self._part(key, low, high, info.etag)
                else:
                    data = await self._body(key, answer, high)
                await run_in_thread(_write_at, fd, data, low)

            starts = range(0, info.size, PART_BYTES)
            await gather([lambda low=low: fetch(low) for low in starts], limit=_PARTS_AT_ONCE)  # type: ignore[misc]
            await run_in_thread(os.ftruncate, fd, info.size)
        finally:
            os.close(fd)
        return _told(info)


def _told(info: ObjectInfo) -> ObjectInfo | None:
    return info if info.etag is not None else None


def describe(key: str, meta: Mapping[str, Any]) -> ObjectInfo:
    """Turn what obstore tells of an object into ours."""
    extra = {"version_id": meta["version"]} if meta.get("version") else {}
    # Whole seconds: headers tell no more, listings of some servers do.
    mtime = float(int(meta["last_modified"].timestamp()))
    return ObjectInfo(key, meta["size"], mtime, plain(meta.get("e_tag")), extra=extra)


def describe_now(key: str, meta: Mapping[str, Any]) -> Info:
    """Return ``describe(...).to_info()`` in half the time, for listings of many."""
    info: Info = {
        "name": key,
        "size": meta["size"],
        "type": "file",
        "mtime": float(int(meta["last_modified"].timestamp())),
        "etag": plain(meta["e_tag"]),
    }
    if meta["version"]:
        info["version_id"] = meta["version"]
    return info


def plain(etag: str | None) -> str | None:
    """Return an etag without its quotes, as everywhere in this library."""
    if etag and etag.startswith("W/"):
        return etag
    return etag.strip('"') if etag else None


def quoted(etag: str) -> str:
    """Return an etag as headers spell it."""
    return f'"{etag}"'


def conditions(span: Any, if_match: str | None) -> Any:
    """Return the options of a GET."""
    options: dict[str, Any] = {} if span is None else {"range": span}
    if if_match is not None and not if_match.startswith("W/"):
        # A weak one never matches (RFC 9110, 13.1.1); it is compared in the answer alone.
        options["if_match"] = quoted(if_match)
    return options


def _same(key: str, answer: Any, if_match: str | None) -> Any:
    """Return the answer if it is of the version asked for.

    Some servers take ``If-Match`` and look at the object once more for the body; others ignore it.
    """
    if if_match is not None and plain(answer.meta.get("e_tag")) != if_match:
        raise replaced(key)
    return answer


def _answers_no_range(error: BaseException) -> bool:
    """Say whether an error means that the range is the trouble: what was asked is asked anew.

    The words are object_store's (``client/get.rs``): a body without a range, a range that begins
    beyond the end, an empty object's range that makes no sense, no suffixes at all (Azure).
    """
    if status_of(error) in {_UNSATISFIABLE, _NOT_IMPLEMENTED}:
        return True
    return any(word in str(error) for word in _NO_RANGE)


def _check(key: str, info: ObjectInfo, if_match: str | None) -> None:
    if if_match is not None and info.etag != if_match:
        raise replaced(key)


def _short(key: str, got: int, wanted: int) -> IntegrityError:
    return IntegrityError(f"{got} bytes came instead of {wanted}", key)


def _write_at(fd: int, data: Any, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
