"""Many ranges at once, and ranges of one version.

What lives here: planning and slicing of range reads over the single-object read. What must not:
the arithmetic (``ranges.py``), any backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from vfs.core.loop import gather
from vfs.core.ranges import merge, resolve
from vfs.core.tree import TreeOperations
from vfs.errors import IntegrityError, replaced
from vfs.types import Info

__all__ = ["RangeReads", "one_each"]


class RangeReads(TreeOperations, abstract=True):
    """``cat_ranges`` with coalescing, and reads that are pinned to a version."""

    #: Neighbouring ranges of ``cat_ranges`` nearer than this are one request; 0 where a read is
    #: cheaper than the bytes between.
    merge_gap_bytes: int = 0
    #: Ranges of one call in flight together; the bound of ``core/loop.py``.
    ranges_in_flight: int = 32

    async def _cat(self, path: Any, recursive: bool = False, **kwargs: Any) -> Any:
        """Read many objects; of a tree, its objects (fsspec would try its directories too)."""
        if recursive and isinstance(path, str) and await self._isdir(path):
            path, recursive = await self._find(path), False
            if not path:
                return {}
        return await super()._cat(path, recursive=recursive, **kwargs)

    async def _cat_ranges(
        self,
        paths: Any,
        starts: int | Sequence[int | None] | None,
        ends: int | Sequence[int | None] | None,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[bytes | BaseException]:
        """Read many ranges; neighbours within ``max_gap`` bytes of one object share a request."""
        if not isinstance(paths, list):  # a single path would be read letter by letter
            raise TypeError("paths must be a list")
        first, last = one_each(starts, len(paths)), one_each(ends, len(paths))
        gap = self.merge_gap_bytes if max_gap is None else max_gap
        results: list[Any] = [None] * len(paths)
        limit = batch_size if batch_size and batch_size > 0 else self.ranges_in_flight
        await gather(self._plan_ranges(paths, first, last, gap, results), limit=limit)
        if on_error == "raise":
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        return results

    def _plan_ranges(
        self,
        paths: list[str],
        starts: list[int | None],
        ends: list[int | None],
        gap_bytes: int,
        results: list[Any],
    ) -> list[Callable[[], Any]]:
        """Return calls that fill ``results``; mergeable ranges of one path become one call."""
        calls: list[Callable[[], Any]] = []

        async def read(path: str, low: int | None, high: int | None, members: list[int]) -> None:
            try:
                data = await self._cat_file(path, low, high)
            except Exception as error:  # noqa: BLE001 - handed to the caller, by contract
                data = error
            for index in members:
                if len(members) == 1 or isinstance(data, BaseException):
                    results[index] = data
                else:
                    offset = cast("int", low)
                    results[index] = data[starts[index] - offset : ends[index] - offset]  # type: ignore[operator]

        def later(path: str, low: int | None, high: int | None, members: list[int]) -> None:
            calls.append(lambda: read(path, low, high, members))

        by_path: dict[str, list[int]] = {}
        for index, (path, start, end) in enumerate(zip(paths, starts, ends, strict=True)):
            if gap_bytes > 0 and start is not None and end is not None and 0 <= start < end:
                by_path.setdefault(path, []).append(index)
            else:
                later(path, start, end, [index])
        for path, indexes in by_path.items():
            asked = [(cast("int", starts[i]), cast("int", ends[i])) for i in indexes]
            for low, high, members in merge(asked, gap_bytes=gap_bytes):
                later(path, low, high, [indexes[m] for m in members])
        return calls

    def read_pinned_now(self, key: str, start: int, end: int, info: Info) -> bytes | None:
        """Answer a pinned read on the caller's thread without a request, or return None."""
        del key, start, end, info
        return None

    def fill_pinned_now(self, key: str, start: int, into: memoryview, info: Info) -> bool:
        """Do the same into memory that is as long as what is read; say whether it could be done.

        What the memory holds is undefined if not.
        """
        del key, start, into, info
        return False

    async def _read_pinned(self, key: str, start: int, end: int, info: Info) -> bytes:
        """Read a range of exactly the version that ``info`` describes.

        Raises
        ------
        ConflictError
            [ESTALE] the object is another one now.
        IntegrityError
            [EBADMSG] fewer bytes came than the object has.
        """
        etag = info.get("etag")
        if self.reads_conditionally and etag is not None:
            data = await self._call("get_object", key, start, end, if_match=etag)
        else:
            data = await self._cat_file(key, start, end)
            if etag is not None and (await self._info(key)).get("etag") != etag:
                raise replaced(key)
        low, high = resolve(start, end, info["size"])
        if len(data) != high - low:
            message = f"{len(data)} bytes came instead of {high - low}"
            raise IntegrityError(message, key)
        return cast("bytes", data)

    async def _view_pinned(self, key: str, start: int, end: int, info: Info) -> bytes | memoryview:
        """Do :meth:`_read_pinned` without the copy to ``bytes``, where a backend can."""
        return await self._read_pinned(key, start, end, info)


def one_each(value: int | Sequence[int | None] | None, count: int) -> list[int | None]:
    """Return one bound for each path.

    Raises
    ------
    ValueError
        As many bounds as paths are needed, or one for all.
    """
    bounds = list(value) if isinstance(value, Sequence) else [value] * count
    if len(bounds) != count:
        raise ValueError(f"{len(bounds)} bounds for {count} paths")
    return bounds
