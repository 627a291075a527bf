"""Ends of blocks: what a long read wants of the first block it touches, and of the last.

What lives here: how much that is, and reading blocks of which only ends are kept. What must not:
requests (``fetch.py``), files (``block.py``).

A short read, of less than half a block, takes the whole block: its neighbours are likely to be
wanted, and a request for the rest would cost more than the rest. A longer one, a column of a
parquet file say, has told how much it wants. Of the blocks in which it begins and ends it takes
the pages that it touches: the *tail* of the first, the *head* of the last. Each is a file like that
of a block, whose length says how far it reaches. Who needs more of a block than one end of it
fetches all the rest as the other end, so that no byte is asked for twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from vfs.cache.block import Payload, Verify, block_path, pages_around, payload_of
from vfs.core.localread import WaitForDisk
from vfs.core.loop import run_in_thread

if TYPE_CHECKING:
    from vfs.cache.engine import CacheEngine
    from vfs.cache.fetch import Version

__all__ = [
    "HEAD",
    "TAIL",
    "WHOLE",
    "Piece",
    "Placed",
    "Span",
    "check_all",
    "completed",
    "contiguous",
    "piece_of",
    "read_any",
    "read_any_soon",
    "remove_all",
    "spans_of",
]

#: Bytes of a block, with where in it they begin.
Placed: TypeAlias = tuple[int, bytes | memoryview]

#: A read of less than this part of a block is a short one. Columns of a parquet file with groups of
#: a hundred thousand rows are 0.8 MB, of which blocks of 1 MiB would fetch two each.
_SHORT: Final = 2

#: What of a block a file holds.
WHOLE: Final = ""
HEAD: Final = "head"
TAIL: Final = "tail"


class Piece(NamedTuple):
    """Bytes of one block that are asked for together.

    Parameters
    ----------
    number : int
        Of the block.
    low, high : int
        Inside the block.
    length : int
        Of the block.
    """

    number: int
    low: int
    high: int
    length: int

    @property
    def kind(self) -> str:
        """What of the block it is."""
        if self.high < self.length:
            return HEAD
        return TAIL if self.low else WHOLE


class Span(NamedTuple):
    """What is wanted of a block, first byte to last, and whether long reads alone want it."""

    low: int
    high: int
    long: bool


def spans_of(version: Version, ranges: Iterable[tuple[int, int]]) -> dict[int, Span]:
    """Return what is wanted of each block that ranges touch, in the order of the blocks."""
    grain = version.grain_bytes
    spans: dict[int, Span] = {}
    for low, high in ranges:
        long = high - low >= grain // _SHORT
        for number in range(low // grain, -(-high // grain)) if high > low else ():
            start = max(low - number * grain, 0)
            end = min(high - number * grain, version.length(number))
            if number in spans:
                before = spans[number]
                start, end = min(start, before.low), max(end, before.high)
                spans[number] = Span(start, end, long and before.long)
            else:
                spans[number] = Span(start, end, long)
    return dict(sorted(spans.items()))


def piece_of(engine: CacheEngine, version: Version, number: int, span: Span) -> Piece:
    """Return what to ask for of a block that is not here as far as it is wanted.

    INVARIANT: what one end of a block holds is not asked for again with the rest.
    (tests/cache/test_ends.py::test_rest_of_a_block_is_asked_for_once)
    """
    length = version.length(number)
    head = _kept(engine, version.name(number, HEAD), length)
    tail = _kept(engine, version.name(number, TAIL), length)
    if head and tail:
        return Piece(number, 0, length, length)  # what lies between them cannot be kept alone
    if head or tail:
        return Piece(number, head, length - tail, length)
    low, high = pages_around(span.low, span.high, length)
    at_one_end = (low == 0) != (high == length)
    if at_one_end and span.long:
        return Piece(number, low, high, length)
    return Piece(number, 0, length, length)


def check_all(engine: CacheEngine, version: Version, number: int) -> None:
    """Verify all files that hold something of a block; the damaged ones are removed."""
    length = version.length(number)
    for kind in (WHOLE, HEAD, TAIL):
        name = version.name(number, kind)
        held = _kept(engine, name, length) if kind else length
        if held:
            engine.read(name, held, 0, held, "always", may_block=True, counts=False)


def remove_all(engine: CacheEngine, version: Version, number: int) -> bool:
    """Remove all files that hold something of a block; return whether there was one."""
    length = version.length(number)
    removed = [engine.remove(version.name(number, kind), length) for kind in (WHOLE, HEAD, TAIL)]
    return any(removed)


def read_any(
    engine: CacheEngine,
    version: Version,
    number: int,
    low: int,
    high: int,
    verify: Verify,
    *,
    may_block: bool,
    into: memoryview | None = None,
) -> Payload | WaitForDisk | None:
    """Return bytes of a block, whichever files hold them, or None if they have to be fetched.

    Notes
    -----
    Cost: that of :meth:`CacheEngine.read`; where the whole block is not here, one look for each
    of its two ends, and the reading of those that are there. The end that gave all that was
    wanted of a block is tried first the next time.
    """
    if version.found_as and (known := version.found_as.get(number)) is not None:
        data = _read_ends(
            engine, version, number, low, high, verify, (known,), may_block=may_block, into=into
        )
        if data is not None:
            return data
    length, name = version.length(number), version.name(number)
    data = engine.read(name, length, low, high, verify, may_block=may_block, into=into)
    if data is not None:
        return data
    return _read_ends(
        engine, version, number, low, high, verify, (HEAD, TAIL), may_block=may_block, into=into
    )


def _read_ends(
    engine: CacheEngine,
    version: Version,
    number: int,
    low: int,
    high: int,
    verify: Verify,
    kinds: tuple[str, ...],
    *,
    may_block: bool,
    into: memoryview | None,
) -> Payload | WaitForDisk | None:
    length, position = version.length(number), low
    found: list[Payload] = []
    for kind in kinds:
        name = version.name(number, kind)
        held = _kept(engine, name, length)
        first = 0 if kind == HEAD else length - held
        if not first <= position < first + held:
            continue
        stop = min(high, first + held)
        room = None if into is None else into[position - low : stop - low]
        data = engine.read(
            name, held, position - first, stop - first, verify, may_block=may_block, into=room
        )
        if data is None or isinstance(data, WaitForDisk):
            return data
        found.append(data)
        if stop == high:
            if len(found) == 1:
                version.remember_end(number, kind)
            if into is not None:
                return into
            return data if len(found) == 1 else b"".join(found)
        position = stop
    return None


async def read_any_soon(
    engine: CacheEngine, version: Version, number: int, low: int, high: int, verify: Verify
) -> bytes | None:
    """Do :func:`read_any` without holding the loop up."""
    data = read_any(engine, version, number, low, high, verify, may_block=False)
    if isinstance(data, WaitForDisk):
        data = await run_in_thread(
            read_any, engine, version, number, low, high, verify, may_block=True
        )
    return data if isinstance(data, bytes) else None


async def completed(
    engine: CacheEngine, version: Version, number: int, span: Span, got: Placed, verify: Verify
) -> Placed | None:
    """Return what covers a span of a block: bytes that came, with others that are kept.

    Returns
    -------
    (int, bytes-like) or None
        Where in the block it begins, and the bytes; None if some are not here any more.
    """
    low, data = got
    high = low + len(data)
    if low <= span.low and span.high <= high:
        return got

    async def kept(start: int, end: int) -> bytes | None:
        if start >= end:
            return b""
        return await read_any_soon(engine, version, number, start, end, verify)

    before = await kept(span.low, min(span.high, low))
    after = await kept(max(span.low, high), span.high)
    if before is None or after is None:
        return None
    own = data[max(span.low - low, 0) : max(span.high - low, 0)]
    return span.low, b"".join((before, own, after))


def _kept(engine: CacheEngine, name: str, most: int) -> int:
    """Return how many bytes an end of a block holds, 0 if there is none."""
    if not engine.ready:
        return 0
    try:
        length = os.stat(block_path(name), dir_fd=engine.blocks, follow_symlinks=False).st_size
    except OSError:
        return 0
    held = payload_of(length)
    if held is None or held >= most:
        engine.discard(name, most)
        return 0
    return held


def contiguous(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Return runs of pieces that follow each other without a gap."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        before = runs[-1][-1] if runs else None
        joins = before is not None and before.number + 1 == piece.number
        if joins and before.high == before.length and piece.low == 0:  # type: ignore[union-attr]
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs
