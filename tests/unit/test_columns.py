"""Readahead by a parquet footer: what it asks for, in flight together, never wrong, never much."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vfs.cache.filesystem import CacheFileSystem
from vfs.core import columns
from vfs.core.columns import ColumnsAhead, Run, footer_bytes, read_plan
from vfs.core.keyvalue import KeyValueFileSystem
from vfs.core.loop import wait
from vfs.core.readonly import ReadOnly
from vfs.errors import ConflictError, not_found
from vfs.types import ObjectInfo

N_GROUPS, N_COLUMNS, ROWS = 12, 6, 4000
WANTED = ["c1", "c4"]


def table_of(seed: int = 0, groups: int = N_GROUPS) -> Any:
    chance = np.random.default_rng(seed)
    return pa.table({f"c{n}": chance.random(groups * ROWS) for n in range(N_COLUMNS)})


def packed(table: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=ROWS, compression="none", **options)
    return file.getvalue()


def chunks_of(data: bytes) -> list[list[tuple[int, int]]]:
    """Where each chunk lies, by the fields of the footer that say it."""
    metadata = pq.read_metadata(io.BytesIO(data))
    groups = []
    for n_group, n_column in itertools.product(
        range(metadata.num_row_groups), range(metadata.num_columns)
    ):
        chunk = metadata.row_group(n_group).column(n_column)
        pages = [chunk.data_page_offset, chunk.dictionary_page_offset]
        start = min(page for page in pages if page)
        groups.append((start, start + chunk.total_compressed_size))
    return [groups[n : n + metadata.num_columns] for n in range(0, len(groups), N_COLUMNS)]


class Far(ReadOnly, KeyValueFileSystem):
    """Objects behind requests that are counted, held back, or refused."""

    protocol = "farcolumns"
    cachable = False
    reads_conditionally = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.values: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}
        self.asked: list[tuple[int, int]] = []
        self.in_flight = self.most_in_flight = self.at_once = 0
        self.together = asyncio.Event()
        self.broken: set[tuple[int, int]] = set()
        self.cancelled = 0
        self.held: set[tuple[int, int]] = set()

    def set(self, key: str, value: bytes) -> None:
        self.values[key] = value
        self.versions[key] = self.versions.get(key, 0) + 1

    async def head_object(self, key: str) -> ObjectInfo:
        if key not in self.values:
            raise not_found(key)
        return ObjectInfo(key, len(self.values[key]), etag=f"v{self.versions[key]}")

    async def get_object(
        self, key: str, start: int | None, end: int | None, *, if_match: str | None = None
    ) -> bytes:
        found = await self.head_object(key)
        low, high, _ = slice(start, end).indices(found.size)
        self.asked.append((low, high))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.in_flight >= self.at_once:
                self.together.set()
            elif high <= found.size - (footer_bytes(self.values[key][-8:]) or 0):
                # For columns: no answer until that many are under way.
                await asyncio.wait_for(self.together.wait(), 30)
            if (low, high) in self.held:
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        if if_match not in {None, found.etag}:
            message = "the object was replaced"
            raise ConflictError(message, key)
        if (low, high) in self.broken:
            self.broken.remove((low, high))
            message = "refused"
            raise OSError(5, message, key)
        return self.values[key][low:high]

    async def list_objects(self, prefix: str, start_after: str) -> Any:
        for key in sorted(self.values):
            if key.startswith(prefix) and key > start_after:
                yield await self.head_object(key)


@pytest.fixture
def far() -> Iterator[Far]:
    columns._kept.clear()
    fs = Far()
    fs.set("d/t", packed(table_of()))
    yield fs
    columns._kept.clear()


def read(fs: Any, path: str = "d/t", wanted: list[str] | None = None, **options: Any) -> Any:
    return pq.read_table(path, filesystem=fs, columns=wanted or WANTED, **options)


def chunk_reads(fs: Far, path: str = "d/t") -> list[tuple[int, int]]:
    """The requests that are for columns, not for the footer."""
    return [(low, high) for low, high in fs.asked if high != len(fs.values[path])]


def take_column(fs: Far, groups: list[list[tuple[int, int]]], n_column: int = 1) -> None:
    """Read the end of the object, then one column of some groups, as pyarrow would."""
    with fs.open("d/t", "rb") as file:
        file.seek(-100_000, 2)
        file.read()
        for chunks in groups:
            start, end = chunks[n_column]
            file.seek(start)
            assert file.read(end - start) == fs.values["d/t"][start:end]


# -- the plan ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"write_page_index": True}])
def test_every_run_of_chunks_is_found_and_nothing_else(options: dict[str, bool]) -> None:
    data = packed(table_of(groups=3), **options)
    plan = read_plan(data[-(footer_bytes(data) or 0) :])
    assert plan is not None
    groups = chunks_of(data)
    assert len(groups) == 3
    for n_group, chunks in enumerate(groups):
        for first, last in itertools.combinations_with_replacement(range(N_COLUMNS), 2):
            start, end = chunks[first][0], chunks[last][1]
            run = Run(n_group, first, last)
            assert plan.find(start, end) == run
            assert plan.range_of(run) == (start, end)
            for low, high in ((start - 1, end), (start + 1, end), (start, end - 1)):
                assert plan.find(low, high) is None
            assert plan.find(start, end + 1) is None
    assert plan.find(groups[0][5][0], groups[1][0][1]) is None, "across two groups"
    assert plan.find(0, 4) is None
    assert plan.range_of(Run(3, 0, 0)) is None


@pytest.mark.parametrize(
    "tail",
    [b"", b"PAR1", b"1234567", bytes(8), b"\xff\xff\xff\xffPAR1", b"abc\x03\0\0\0PAR1", bytes(100)],
)
def test_what_is_no_footer_gives_no_plan(tail: bytes) -> None:
    length = footer_bytes(tail)
    assert length is None or read_plan(tail[-length:]) is None


def test_file_in_another_order_gives_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(table_of(groups=2))
    footer = data[-(footer_bytes(data) or 0) :]
    assert read_plan(footer) is not None
    metadata = pq.read_metadata(io.BytesIO(data))

    class Backwards:
        num_columns, num_row_groups = metadata.num_columns, metadata.num_row_groups

        def row_group(self, n_group: int) -> Any:
            return metadata.row_group(1 - n_group)

    monkeypatch.setattr(pq, "read_metadata", lambda _: Backwards())
    assert read_plan(footer) is None


def test_nothing_is_read_ahead_where_pyarrow_is_not_in_use(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = chunks_of(far.values["d/t"])
    monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    take_column(far, groups)
    assert chunk_reads(far) == [chunks[1] for chunks in groups]
    assert far.most_in_flight == 1


# -- reading ----------------------------------------------------------------------------


def test_columns_come_together_and_none_twice(far: Far) -> None:
    expected = table_of().select(WANTED)
    far.at_once = 4
    assert read(far) == expected
    wanted = {chunks[n] for chunks in chunks_of(far.values["d/t"]) for n in (1, 4)}
    assert sorted(chunk_reads(far)) == sorted(wanted), "each once, and nothing else"
    assert far.most_in_flight >= 4


@pytest.mark.parametrize("wanted", [[f"c{n}" for n in range(N_COLUMNS)], ["c0"], ["c2", "c3"]])
def test_any_columns_are_right(far: Far, wanted: list[str]) -> None:
    assert read(far, wanted=wanted) == table_of().select(wanted)
    assert read(far, wanted=wanted, pre_buffer=False) == table_of().select(wanted)


def test_footer_that_is_longer_than_a_first_look(far: Far) -> None:
    # pyarrow looks at the last 64 KiB, and then asks for the rest of such a footer.
    table = table_of().replace_schema_metadata({"note": "x" * 200_000})
    far.set("d/t", packed(table))
    assert (footer_bytes(far.values["d/t"][-8:]) or 0) > 200_000
    far.at_once = 4
    assert read(far) == table.select(WANTED)
    wanted = [chunks[n] for chunks in chunks_of(far.values["d/t"]) for n in (1, 4)]
    assert sorted(set(chunk_reads(far)) & set(wanted)) == sorted(wanted)
    assert len(chunk_reads(far)) <= len(wanted) + 4, "two footers, in two pieces each"
    assert far.most_in_flight >= 4


def test_request_ahead_that_fails_is_asked_again_by_the_reader(far: Far) -> None:
    groups = chunks_of(far.values["d/t"])
    far.broken = {groups[2][1], groups[3][4], groups[7][1]}
    with far.open("d/t", "rb") as file:
        file.seek(-100_000, 2)
        file.read()
        for chunks in groups:
            for n in (1, 4):
                file.seek(chunks[n][0])
                data = far.values["d/t"][slice(*chunks[n])]
                assert file.read(len(data)) == data
    assert not far.broken
    assert len(chunk_reads(far)) == 2 * N_GROUPS + 3


def test_object_replaced_under_a_reader_is_one_version_or_an_error(far: Far) -> None:
    old, groups = far.values["d/t"], chunks_of(far.values["d/t"])
    conflicts = 0
    with far.open("d/t", "rb") as file:
        file.seek(-100_000, 2)
        file.read()
        for n_group, chunks in enumerate(groups):
            if n_group == 1:
                far.set("d/t", packed(table_of(seed=1)))
            file.seek(chunks[1][0])
            expected = old[slice(*chunks[1])]
            try:
                assert file.read(len(expected)) == expected
            except ConflictError:
                conflicts += 1
    assert conflicts
    assert read(far) == table_of(seed=1).select(WANTED), "the next reader has the new footer"


def test_reader_that_skips_groups_wastes_little(far: Far) -> None:
    far.set("d/t", packed(table_of(groups=60)))
    take_column(far, chunks_of(far.values["d/t"])[::20])
    assert len(chunk_reads(far)) <= 5 * 3, "four bytes for each that was read"


def test_reader_that_goes_on_skipping_groups_is_left_alone(far: Far) -> None:
    far.readahead_bytes = 2 * 8 * ROWS  # eight chunks in all
    far.set("d/t", packed(table_of(groups=200)))
    chosen = chunks_of(far.values["d/t"])[::10]
    take_column(far, chosen)
    assert len(chunk_reads(far)) <= len(chosen) + 8


def test_giving_up_beside_a_read_of_what_came_ahead_is_no_error(far: Far) -> None:
    far.set("d/t", packed(table_of(groups=60)))
    groups = chunks_of(far.values["d/t"])
    far.readahead_bytes = 2 * (groups[0][1][1] - groups[0][1][0]) + 1000  # eight chunks in all
    # Four ahead of the first, four ahead of the second; the third is one of those, and finds that
    # nobody came for the others.
    take_column(far, [groups[0], groups[20], groups[21]])
    assert chunk_reads(far).count(groups[21][1]) == 1


def test_room_of_what_was_taken_is_used_again(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    far.readahead_bytes = 20_000  # two chunks of 32 KB in all
    taken = []
    take = ColumnsAhead.take

    def spied(self: ColumnsAhead, start: int, end: int) -> bytes | memoryview | None:
        data = take(self, start, end)
        taken.append(data is not None)
        return data

    monkeypatch.setattr(ColumnsAhead, "take", spied)
    take_column(far, chunks_of(far.values["d/t"]))
    assert taken[-N_GROUPS + 1 :] == [True] * (N_GROUPS - 1)


def test_columns_come_together_after_a_footer_that_was_cached(far: Far, tmp_path: Path) -> None:
    """By another process, say, which wanted other columns."""
    far.set("d/t", packed(table_of(groups=60)))
    cached = CacheFileSystem(fs=far, directory=str(tmp_path), small_bytes=0, grain_bytes=1 << 16)
    assert cached.tail("d/t", 1 << 16) == far.values["d/t"][-(1 << 16) :]
    columns._kept.clear()
    far.together.clear()
    far.at_once = 4
    assert read(cached) == table_of(groups=60).select(WANTED)
    assert far.most_in_flight >= 4


def test_footer_of_another_version_is_not_believed(far: Far) -> None:
    first = chunks_of(far.values["d/t"])[0][1]
    read(far)
    far.set("d/t", far.values["d/t"])
    far.asked.clear()
    with far.open("d/t", "rb") as file:
        file.seek(first[0])
        file.read(first[1] - first[0])
    assert far.asked == [first]


def test_limit_of_what_is_held_is_kept(far: Far) -> None:
    far.readahead_bytes = 10_000  # less than a chunk has for each of the four
    groups = chunks_of(far.values["d/t"])
    with far.open("d/t", "rb") as file:
        file.seek(-100_000, 2)
        file.read()
        for n_group, chunks in enumerate(groups):
            file.seek(chunks[1][0])
            file.read(chunks[1][1] - chunks[1][0])
            assert len(chunk_reads(far)) <= n_group + 2, "one chunk of 32 KB fits"
    far.readahead_bytes = 0
    far.asked.clear()
    read(far)
    assert far.most_in_flight <= 2


def test_closing_ends_what_is_under_way(far: Far) -> None:
    groups = chunks_of(far.values["d/t"])
    file = far.open("d/t", "rb")
    file.seek(-100_000, 2)
    file.read()
    far.held = {chunks[1] for chunks in groups[1:]}
    file.seek(groups[0][1][0])
    file.read(groups[0][1][1] - groups[0][1][0])

    async def settle() -> int:
        for _ in range(1000):
            await asyncio.sleep(0)
        return far.cancelled

    assert wait(settle) == 0
    under_way = len(chunk_reads(far)) - 1
    assert under_way >= 4
    file.close()
    assert wait(settle) == under_way


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_child_does_not_wait_for_what_its_parent_asked(far: Far) -> None:
    groups = chunks_of(far.values["d/t"])
    file = far.open("d/t", "rb")
    file.seek(-100_000, 2)
    file.read()
    file.seek(groups[0][1][0])
    far.held = {chunks[1] for chunks in groups[1:]}
    file.read(groups[0][1][1] - groups[0][1][0])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(20)  # ends it where it waits
            far.held = set()
            file.seek(groups[1][1][0])
            data = far.values["d/t"][slice(*groups[1][1])]
            status = 0 if file.read(len(data)) == data else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    file.close()


def test_local_files_are_not_read_ahead(tmp_path: Any) -> None:
    columns._kept.clear()
    (tmp_path / "t").write_bytes(packed(table_of()))
    for fs in (fsspec.filesystem("disk"), fsspec.filesystem("mem", store="columns")):
        path = str(tmp_path / "t") if fs.protocol == "disk" else "t"
        fs.pipe_file(path, (tmp_path / "t").read_bytes())
        assert read(fs, path) == table_of().select(WANTED)
    assert not columns._kept


def test_footers_kept_are_bounded(far: Far) -> None:
    for n in range(3 * columns._KEPT_FOOTERS):
        far.set(f"d/{n}", packed(table_of(groups=1).slice(0, 10)))
        with far.open(f"d/{n}", "rb") as file:
            file.seek(-100, 2)
            file.read()
            file.seek(-1500, 2)
            file.read()
    assert len(columns._kept) == columns._KEPT_FOOTERS
    note = {"note": "x" * 1_000_000}
    for n in range(10):
        far.set(f"d/{n}", packed(table_of(groups=1).slice(0, 10).replace_schema_metadata(note)))
        read(far, f"d/{n}")
    assert 2_000_000 < sum(map(len, columns._kept.values())) <= columns._KEPT_BYTES
