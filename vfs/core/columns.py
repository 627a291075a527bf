"""Readahead for parquet files: the same columns of the row groups that follow.

What lives here: what a footer tells of a reader that takes some of the columns, and the requests
made ahead of it. What must not: decoding of values, knowledge of any backend.

A reader of parquet takes the wanted columns group after group; pyarrow takes those of an fsspec
file one range after the other. Nothing but the footer, which it reads first, tells where the next
ones lie: chunks differ in length, so no stride does.
"""

from __future__ import annotations

import asyncio
import bisect
import io
import operator
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Hashable
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

from vfs.core.loop import io_loop, wait

__all__ = ["TRAILER_BYTES", "ColumnPlan", "ColumnsAhead", "Run", "footer_bytes", "read_plan"]

_MAGIC: Final = b"PAR1"
TRAILER_BYTES: Final = 8  # length of the footer, and the magic

#: Of a longer footer a second parsing costs more than some requests: 20 ms for each MiB, which is
#: what tells of 9000 chunks.
_MOST_FOOTER_BYTES: Final = 4 << 20

#: Groups that a reader may be behind the last one it asked of: pyarrow's eight threads take turns.
_SLACK_GROUPS: Final = 8

#: For each byte a reader has read so many may be under way: a table of ten groups is there after
#: the round trips of one and a half groups, and a reader that stops has wasted no more than this.
_AHEAD_RATIO: Final = 4

#: Looked at for each read, in columns times groups; a table of many columns has large groups.
_MOST_RUNS: Final = 192

#: pyarrow reads the footer by one file object and the columns by the next. Most footers are of some
#: kilobytes: these are those of the files that some threads are about to read.
_KEPT_FOOTERS: Final = 64
_KEPT_BYTES: Final = 8 << 20
_kept: dict[Hashable, bytes] = {}
_keeping = threading.Lock()


class Run(NamedTuple):
    """Chunks of neighbouring columns in one row group, which a reader takes by one read."""

    group: int
    first: int
    last: int


class ColumnPlan:
    """Where the column chunks of one parquet file lie.

    Parameters
    ----------
    groups : list of list of (int, int)
        For each row group the offsets at which each of its chunks begins and ends.
    """

    def __init__(self, groups: list[list[tuple[int, int]]]) -> None:
        self._groups = groups
        self._starts = [chunks[0][0] for chunks in groups]

    def find(self, start: int, end: int) -> Run | None:
        """Return the run of whole chunks that a range is, or None if it is none."""
        group = bisect.bisect_right(self._starts, start) - 1
        if group < 0:
            return None
        chunks = self._groups[group]
        first = bisect.bisect_left(chunks, (start, start))
        last = bisect.bisect_left(chunks, end, key=operator.itemgetter(1))
        if first > last or last == len(chunks):
            return None
        return Run(group, first, last) if self._range(group, first, last) == (start, end) else None

    def range_of(self, run: Run) -> tuple[int, int] | None:
        """Return where a run lies; None after the last group."""
        if run.group >= len(self._groups):
            return None
        return self._range(*run)

    def _range(self, group: int, first: int, last: int) -> tuple[int, int]:
        chunks = self._groups[group]
        return chunks[first][0], chunks[last][1]


def footer_bytes(tail: bytes | memoryview) -> int | None:
    """Return how long the footer is, from the end of an object; None if it is no parquet file."""
    if len(tail) < TRAILER_BYTES or tail[-4:] != _MAGIC:
        return None
    length = int.from_bytes(tail[-TRAILER_BYTES:-4], "little")
    return length + TRAILER_BYTES if length <= _MOST_FOOTER_BYTES else None


def read_plan(footer: bytes) -> ColumnPlan | None:
    """Read a footer by pyarrow, if this process uses it already.

    Returns
    -------
    ColumnPlan or None
        None where pyarrow is not in use, or the file is not laid out group after group.
    """
    parquet = sys.modules.get("pyarrow.parquet")
    if parquet is None:
        return None
    try:
        metadata = parquet.read_metadata(io.BytesIO(_MAGIC + footer))
        groups = [
            [_chunk(group.column(n)) for n in range(metadata.num_columns)]
            for group in map(metadata.row_group, range(metadata.num_row_groups))
        ]
    except (OSError, ValueError, TypeError):  # pyarrow's errors are of these; the reader will say
        return None
    flat = [offset for chunks in groups for chunk in chunks for offset in chunk]
    if not flat or flat != sorted(flat):
        return None
    return ColumnPlan(groups)


def _chunk(column: Any) -> tuple[int, int]:
    """Return where a chunk lies, as pyarrow's reader computes it."""
    start = int(column.data_page_offset)
    dictionary = column.dictionary_page_offset
    if column.has_dictionary_page and dictionary and 0 < dictionary < start:
        start = int(dictionary)
    return start, start + int(column.total_compressed_size)


def _keep(version: Hashable, footer: bytes) -> None:
    """Keep a footer for the next reader of this version, and of all the newest."""
    with _keeping:
        _kept.pop(version, None)
        count = len(footer) + sum(map(len, _kept.values()))
        while _kept and (len(_kept) >= _KEPT_FOOTERS or count > _KEPT_BYTES):
            count -= len(_kept.pop(next(iter(_kept))))
        _kept[version] = footer


class ColumnsAhead:
    """The requests ahead of one reader of one object.

    Parameters
    ----------
    fetch : callable
        A coroutine function of ``(start, end)``, for the I/O loop.
    version : hashable
        Tells this version of the object from all others, for the reader that follows.
    size : int
        Length of the object in bytes.
    limit_bytes : int
        What may be held or under way for the reader.

    Notes
    -----
    Beside a run that the target is asked for, those of all columns that were read before are
    fetched, in the groups that were read and in those that follow: four bytes for each that the
    reader has read, up to the limit. When more was passed over than was taken this ends.
    Not thread-safe, as the reader.
    """

    def __init__(
        self,
        fetch: Callable[[int, int], Coroutine[Any, Any, bytes | memoryview]],
        version: Hashable,
        size: int,
        limit_bytes: int,
    ) -> None:
        self._fetch = fetch
        self._version = version
        self._size = size
        self._limit = limit_bytes
        self._footer = _kept.get(version, b"")
        self._footer_start = size - len(self._footer)
        self._plan: ColumnPlan | None = None
        self._coming: dict[Run, tuple[Future[bytes | memoryview], int]] = {}
        self._columns: set[tuple[int, int]] = set()
        self._groups: set[int] = set()
        self._asked: set[Run] = set()
        self._read = self._held = self._taken = self._wasted = 0
        self._pid = os.getpid()

    def saw(self, start: int, data: bytes | memoryview) -> None:
        """Look at bytes that were read: they may be the footer, which is parsed when needed."""
        end = start + len(data)
        if end == self._size and (length := footer_bytes(data)):
            self._footer_start = self._size - length
            self._footer = bytes(data[-length:])
        elif start <= self._footer_start and end == self._size - TRAILER_BYTES:
            # pyarrow reads the last 64 KiB, and then the whole of a footer that is longer.
            before = bytes(data[self._footer_start - start :])
            self._footer = before + self._footer[-TRAILER_BYTES:]
        else:
            return
        if self._is_whole():
            _keep(self._version, self._footer)

    def _is_whole(self) -> bool:
        return len(self._footer) >= max(self._size - self._footer_start, TRAILER_BYTES)

    def find(self, start: int, end: int) -> Run | None:
        """Return the run of chunks that a range is; None if it is none, or this has ended."""
        if not self._limit:
            return None
        if self._plan is None:
            if not self._is_whole():
                return None
            self._plan = read_plan(self._footer)
            if self._plan is None:
                self._limit = 0
                return None
        return self._plan.find(start, end)

    def take(self, start: int, end: int) -> bytes | memoryview | None:
        """Return a range that was fetched ahead, waiting for it; None if it was not, or failed."""
        if self._coming and os.getpid() != self._pid:
            self.close()  # nobody will ever fill what the parent was waiting for
        if not self._coming:
            return None
        run = self.find(start, end)
        if run not in self._coming:
            return None
        future, count = self._coming.pop(run)
        self._taken += count
        self.ask(start, end)  # which may find that all others were of no use, and drop them
        self._held -= count
        try:
            return future.result() if future.done() else wait(_result, future)
        except Exception:  # noqa: BLE001 - the reader asks for itself, and meets what is wrong
            return None

    def expects(self, start: int, end: int) -> bool:
        """Say whether a range was fetched ahead, or is under way."""
        return bool(self._coming) and self.find(start, end) in self._coming

    def ask(self, start: int, end: int) -> None:
        """Fetch ahead of a range that is about to be read."""
        run = self.find(start, end)
        if run is None:
            return
        self._asked.add(run)
        self._pass_over(run.group)
        self._read += end - start
        self._columns.add((run.first, run.last))
        self._groups.add(run.group)
        columns = sorted(self._columns)
        count = max(2, _MOST_RUNS // len(columns))
        groups = set(range(run.group, run.group + count))
        if count > _SLACK_GROUPS:
            groups |= {group for group in self._groups if group + _SLACK_GROUPS >= run.group}
        for group in sorted(groups):
            for first, last in columns:
                if not self._begin(Run(group, first, last)):
                    return

    def _begin(self, run: Run) -> bool:
        """Fetch a run that is not under way; return whether there may be more."""
        where = self._plan.range_of(run) if self._plan is not None else None
        if where is None:
            return False
        if run in self._asked:
            return True
        count = where[1] - where[0]
        if self._held + count > min(self._limit, _AHEAD_RATIO * self._read):
            return False
        self._asked.add(run)
        self._held += count
        coming = asyncio.run_coroutine_threadsafe(self._fetch(*where), io_loop())
        self._coming[run] = coming, count
        return True

    def _pass_over(self, group: int) -> None:
        """Drop what nobody came for; give up when that is more than what was of use."""
        if 2 * self._held <= self._limit:
            return  # there is room: one of pyarrow's threads may be that late
        for run in [run for run in self._coming if run.group + _SLACK_GROUPS < group]:
            future, count = self._coming.pop(run)
            future.cancel()
            self._held -= count
            self._wasted += count
        if self._wasted > self._taken:
            self.close()

    def close(self) -> None:
        """Fetch nothing more, and drop what is there."""
        if os.getpid() == self._pid:
            for future, _ in self._coming.values():
                future.cancel()
        self._coming.clear()
        self._limit = 0


async def _result(future: Future[bytes | memoryview]) -> bytes | memoryview:
    return await asyncio.wrap_future(future)
