"""Whole objects of S3 through s3fs: in parallel parts, all of one version.

What lives here: reads that s3fs would put together from parts of whatever version is there when it
asks for each. What must not: the requests themselves (``target.py``).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from vfs.core.loop import gather, run_in_thread
from vfs.errors import ConflictError
from vfs.types import ObjectInfo

if TYPE_CHECKING:
    from vfs.core.target import Target

__all__ = ["download_whole", "of_one_version", "read_whole"]

T = TypeVar("T")

#: What one request asks for; the reasons are those of ``backends/obstore/reads.py``.
_PART_BYTES: Final = 8 << 20
#: Parts in flight together; s3fs opens no more connections.
_PARTS_AT_ONCE: Final = 10
#: How often a read begins again because the object was replaced before its last byte came.
_TRIES: Final = 5


async def read_whole(target: Target, path: str) -> tuple[ObjectInfo, bytes] | None:
    """Return an object and what it is; None where it takes another way, as for an empty one.

    Raises
    ------
    ConflictError
        [ESTALE] it was replaced again and again.

    Notes
    -----
    Cost: one request up to 8 MiB (s3fs asks for the size before), then one more for each 8 MiB.
    """

    async def attempt() -> tuple[ObjectInfo, bytes] | None:
        began = await target.cat_start(path, _PART_BYTES)
        if began is None:
            return None
        info, first = began
        parts = _parts_after(len(first), info.size)
        if not parts:
            return info, first
        calls = [partial(target.cat_version, path, low, high, info) for low, high in parts]
        rest: list[Any] = await gather(calls, limit=_PARTS_AT_ONCE)
        return info, b"".join([first, *rest])

    return await of_one_version(attempt)


async def download_whole(target: Target, path: str, local: str) -> ObjectInfo | None:
    """Write an object into a local file; return what it is, None where it takes another way.

    Raises
    ------
    ConflictError
        [ESTALE] it was replaced again and again.

    Notes
    -----
    Memory is bounded by the parts in flight.
    """

    async def attempt() -> ObjectInfo | None:
        began = await target.cat_start(path, _PART_BYTES)
        if began is None:
            return None
        await _write_parts(target, path, local, *began)
        return began[0]

    return await of_one_version(attempt)


async def _write_parts(
    target: Target, path: str, local: str, info: ObjectInfo, first: bytes
) -> None:
    fd = os.open(local, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:

        async def fetch(low: int, high: int) -> None:
            data = await target.cat_version(path, low, high, info)
            await run_in_thread(_write_at, fd, data, low)

        await run_in_thread(_write_at, fd, first, 0)
        parts = _parts_after(len(first), info.size)
        await gather([partial(fetch, *part) for part in parts], limit=_PARTS_AT_ONCE)
    finally:
        os.close(fd)


def _parts_after(done: int, size: int) -> list[tuple[int, int]]:
    return [(low, min(low + _PART_BYTES, size)) for low in range(done, size, _PART_BYTES)]


async def of_one_version(attempt: Callable[[], Awaitable[T]]) -> T:
    """Begin a read again where the object was replaced before its last byte came."""
    for turn in range(_TRIES):
        try:
            return await attempt()
        except ConflictError:
            if turn + 1 == _TRIES:
                raise
    raise AssertionError


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
