"""Reads of several blocks, and into the reader's memory: the right bytes, or none."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cache_tools import block_files, open_cache

from vfs.backends.mem import MemFileSystem
from vfs.cache import hits
from vfs.cache.filesystem import CacheFileSystem
from vfs.core.localread import WAIT_FOR_DISK

PAGE = 64 << 10
GRAIN = 4 * PAGE
DATA = random.Random(7).randbytes(11 * GRAIN + 4_321)


class RemoteFileSystem(MemFileSystem):
    """``mem`` that answers on the I/O loop only."""

    protocol = "remotehits"
    blocking = True

    def get_now(self, *args: Any, **kwargs: Any) -> bytes | None:
        return None


def open_at(top: Path, **options: Any) -> CacheFileSystem:
    target = RemoteFileSystem(store=top.as_posix())
    target.pipe_file("k", DATA)
    sizes = {"grain_bytes": GRAIN, "small_bytes": 0}
    return open_cache(top, fs=target, consistency="immutable", **{**sizes, **options})


def some_ranges(seed: int, count: int = 150) -> list[tuple[int, int]]:
    chance = random.Random(seed)
    ranges = [(0, len(DATA)), (0, GRAIN), (GRAIN, 3 * GRAIN), (5, 6), (len(DATA) - 1, len(DATA))]
    for _ in range(count):
        low = chance.randrange(len(DATA))
        # Often at the edge of a page or of a block, where mistakes are made.
        low = chance.choice([low, low // PAGE * PAGE, low // GRAIN * GRAIN])
        high = min(low + chance.choice([1, 100, PAGE, 3 * PAGE + 7, GRAIN, 6 * GRAIN]), len(DATA))
        ranges.append((low, max(high, low + 1)))
    return ranges


@pytest.mark.parametrize("memory_bytes", [0, "1 MiB"])
@pytest.mark.parametrize("verify", ["always", "once", "never"])
def test_warm_ranges_in_every_way(tmp_path: Path, verify: str, memory_bytes: Any) -> None:
    fs = open_at(tmp_path, verify=verify, memory_bytes=memory_bytes)
    assert fs.cat_file("k") == DATA
    misses = fs.stats().misses
    with fs.open("k") as file:
        for low, high in some_ranges(1):
            wanted = DATA[low:high]
            assert fs.cat_file("k", low, high) == wanted
            file.seek(low)
            assert file.read(high - low) == wanted
            assert file.tell() == high
            room = bytearray(high - low)
            file.seek(low)
            assert file.readinto(room) == high - low
            assert room == wanted
            assert file.tell() == high
            file.seek(low)
            assert bytes(file.read_buffer(high - low)) == wanted
            assert file.tell() == high
    assert fs.stats().misses == misses


def test_columns_left_in_ends_of_blocks_in_every_way(tmp_path: Path) -> None:
    fs = open_at(tmp_path)
    long = [(low, high) for low, high in some_ranges(2) if high - low >= 3 * PAGE]
    for _ in range(2):
        for low, high in long:
            with fs.open("k") as file:
                file.seek(low)
                assert bytes(file.read_buffer(high - low)) == DATA[low:high]
            assert fs.cat_file("k", low, high) == DATA[low:high]
    misses = fs.stats().misses
    for low, high in long:
        assert fs.cat_file("k", low, high) == DATA[low:high]
    assert fs.stats().misses == misses


@pytest.mark.parametrize("way", ["cat_file", "read", "readinto", "read_buffer"])
def test_damage_and_holes_in_the_middle(tmp_path: Path, way: str) -> None:
    fs = open_at(tmp_path)
    assert fs.cat_file("k") == DATA
    chance = random.Random(3)
    for n_time in range(40):
        path = chance.choice(sorted(block_files(tmp_path).values()))
        if n_time % 2:
            data = bytearray(path.read_bytes())
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(data)
        else:
            path.unlink()
        low, high = chance.randrange(GRAIN), len(DATA) - chance.randrange(GRAIN)
        with fs.open("k") as file:
            file.seek(low)
            found: Any
            if way == "cat_file":
                found = fs.cat_file("k", low, high)
            elif way == "readinto":
                found = bytearray(high - low)
                assert file.readinto(found) == high - low
            else:
                found = getattr(file, way)(high - low)
        assert bytes(found) == DATA[low:high]
        assert fs.cat_file("k") == DATA  # all blocks are here again


def test_long_read_that_has_to_be_fetched_takes_no_memory_first(tmp_path: Path) -> None:
    fs = open_at(tmp_path)
    fs.info("k")
    version = fs._versions.believed("k")
    assert version is not None
    few = hits._FEW_BLOCKS
    tracemalloc.start()
    try:
        assert fs._hits.read(version, 0, (few + 1) * GRAIN, may_block=True) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < GRAIN


def test_long_read_does_not_hold_a_loop_up(tmp_path: Path) -> None:
    fs = open_at(tmp_path)
    fs.cat_file("k")
    version = fs._versions.believed("k")
    assert version is not None
    longest = hits._LONGEST_INLINE_BYTES
    version.facts = version.facts._replace(size=4 * longest)
    assert fs._hits.read(version, 0, longest + 1, may_block=False) is WAIT_FOR_DISK


def test_pyarrow_reads_into_its_own_memory(tmp_path: Path) -> None:
    """No request and no copy: the buffer is of pyarrow's pool."""
    fs = open_at(tmp_path)
    fs.cat_file("k")
    before = pa.total_allocated_bytes()
    with fs.open("k") as file:
        file.seek(100)
        buffer = file.read_buffer(3 * GRAIN)
        assert isinstance(buffer, pa.Buffer)
        assert pa.total_allocated_bytes() - before >= 3 * GRAIN
        assert buffer.to_pybytes() == DATA[100 : 100 + 3 * GRAIN]
        file.seek(-GRAIN, 2)
        assert len(file.read_buffer(10 * GRAIN)) == GRAIN
        assert bytes(file.read_buffer(10 * GRAIN)) == b""
        file.seek(2 * len(DATA))
        assert bytes(file.read_buffer(GRAIN)) == b""
        file.seek(5)
        assert bytes(file.read_buffer()) == DATA[5:]
        reader = pa.PythonFile(file, mode="r")
        assert reader.read_at(2 * GRAIN, 77) == DATA[77 : 77 + 2 * GRAIN]
        assert reader.size() == len(DATA)
