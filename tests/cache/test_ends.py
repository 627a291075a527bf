"""Long reads that begin and end inside blocks: only the pages they touch, each asked for once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cache_tools import block_files, disk_bytes, open_cache, reopen_cache
from tier_tools import Gate, wait_until

from vfs.backends.mem import MemFileSystem
from vfs.cache.filesystem import CacheFileSystem

MIB = 1 << 20
PAGE = 64 << 10
DATA = random.Random(5).randbytes(9 * MIB + 12_345)


class AskedFileSystem(MemFileSystem):
    """``mem`` that notes which bytes it was asked for."""

    protocol = "asked"
    blocking = True
    asked: ClassVar[list[tuple[int, int]]] = []
    #: Stops a request in its middle, where a test wants to.
    gate: ClassVar[Any] = None

    def get_object(self, key: str, start: int | None, end: int | None, **kwargs: Any) -> bytes:
        if start is not None and end is not None:
            self.asked.append((start, end))
        gate, type(self).gate = type(self).gate, None
        if gate is not None:
            gate(key)
        return super().get_object(key, start, end, **kwargs)

    def get_now(self, *args: Any, **kwargs: Any) -> bytes | None:
        return None


@pytest.fixture
def fs(tmp_path: Path) -> CacheFileSystem:
    AskedFileSystem.asked = []
    AskedFileSystem.gate = None
    return open_asked(tmp_path)


def open_asked(top: Path, **options: Any) -> CacheFileSystem:
    target = AskedFileSystem(store=top.as_posix())
    target.pipe_file("k", DATA)
    options = {"consistency": "immutable", "small_bytes": 0, **options}
    return open_cache(top, fs=target, **options)


def asked() -> list[tuple[int, int]]:
    found, AskedFileSystem.asked = sorted(AskedFileSystem.asked), []
    return found


def test_long_read_takes_the_pages_it_touches(fs: CacheFileSystem) -> None:
    low, high = MIB + 5 * PAGE + 100, 4 * MIB + 3 * PAGE + 7
    assert fs.cat_file("k", low, high) == DATA[low:high]
    assert asked() == [(MIB + 5 * PAGE, 4 * MIB + 4 * PAGE)]
    assert fs.cat_file("k", low, high) == DATA[low:high]
    for start, end in ((low - 50, low + 10), (4 * MIB, high), (2 * MIB + 5, 3 * MIB)):
        assert fs.cat_file("k", start, end) == DATA[start:end]
    assert asked() == []
    assert fs.stats().bytes_fetched == 3 * MIB - PAGE


def test_short_read_takes_its_block(fs: CacheFileSystem) -> None:
    low, high = 3 * MIB - PAGE, 3 * MIB + PAGE
    assert fs.cat_file("k", low, high) == DATA[low:high]
    assert asked() == [(2 * MIB, 4 * MIB)]


def test_short_read_beside_a_long_one_takes_its_block(fs: CacheFileSystem) -> None:
    starts, stops = [0, 2 * MIB + 3 * PAGE], [2 * MIB + PAGE, 2 * MIB + 4 * PAGE]
    assert fs.cat_ranges(["k", "k"], starts, stops) == [
        DATA[low:high] for low, high in zip(starts, stops, strict=True)
    ]
    assert asked() == [(0, 3 * MIB)]


def test_gap_beside_the_end_of_a_long_read_is_not_fetched(fs: CacheFileSystem) -> None:
    for gap in (0, MIB):
        starts, stops = [0, 3 * MIB - PAGE + gap], [2 * MIB - PAGE, 6 * MIB]
        assert fs.cat_ranges(["k", "k"], starts, stops) == [
            DATA[low:high] for low, high in zip(starts, stops, strict=True)
        ]
        assert asked() == [(0, 2 * MIB - PAGE), (3 * MIB - PAGE + gap, 6 * MIB)]
        fs.evict("k")


@pytest.mark.parametrize("again", ["whole", "rest", "reopened"])
@pytest.mark.parametrize("first", [(0, 3 * MIB + 9), (2 * MIB - 9, 5 * MIB)], ids=["head", "tail"])
def test_rest_of_a_block_is_asked_for_once(
    fs: CacheFileSystem, tmp_path: Path, first: tuple[int, int], again: str
) -> None:
    assert fs.cat_file("k", *first) == DATA[slice(*first)]
    (begin, end) = asked()[0]
    if again == "reopened":
        fs = reopen_cache(tmp_path, fs=fs.fs, consistency="immutable", small_bytes=0)
    rest = [(0, begin), (end, len(DATA))]
    for low, high in rest if again == "rest" else [(0, len(DATA))]:
        assert fs.cat_file("k", low, high) == DATA[low:high]
    assert asked() == [(low, high) for low, high in rest if low < high]
    assert fs.cat_file("k") == DATA
    assert asked() == []


def test_second_end_is_all_the_rest(fs: CacheFileSystem) -> None:
    fs.cat_file("k", 0, MIB + PAGE)
    fs.cat_file("k", 2 * MIB - PAGE, 4 * MIB)
    assert asked() == [(0, MIB + PAGE), (MIB + PAGE, 4 * MIB)]
    assert fs.cat_file("k") == DATA
    assert asked() == [(4 * MIB, len(DATA))]


def test_what_lies_between_two_ends_takes_the_block(fs: CacheFileSystem, tmp_path: Path) -> None:
    """One of them was gone, and its successor reaches less far."""
    fs.cat_file("k", 0, MIB + PAGE)
    head = min(block_files(tmp_path).values(), key=lambda path: path.stat().st_size)
    kept = head.read_bytes()
    fs.evict("k")
    fs.cat_file("k", 2 * MIB - PAGE, 4 * MIB)
    head.write_bytes(kept)
    asked()
    low, high = MIB + 5, MIB + 6 * PAGE
    assert fs.cat_file("k", low, high) == DATA[low:high]
    assert asked() == [(MIB, 2 * MIB)]


@pytest.mark.parametrize("who", ["thread", "process"])
def test_reader_that_wants_more_waits_for_what_is_under_way(
    fs: CacheFileSystem, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Then it asks for the rest; another process is one that knows of the locks only."""
    gate, engine = Gate(), fs._engine
    fs.stats()
    AskedFileSystem.gate = gate
    with ThreadPoolExecutor(2) as pool:
        less = pool.submit(fs.cat_file, "k", 0, 2 * MIB + 10)
        assert gate.reached.wait(30)
        held = len(engine.locks._held)
        if who == "process":
            monkeypatch.setattr(engine, "flights", {})
        more = pool.submit(fs.cat_file, "k", MIB, 3 * MIB)
        wait_until(lambda: engine.counts["waits"] == 2 or len(engine.locks._held) > held, 30)
        gate.go_on.set()
        assert less.result(30) == DATA[: 2 * MIB + 10]
        assert more.result(30) == DATA[MIB : 3 * MIB]
    assert asked() == [(0, 2 * MIB + PAGE), (2 * MIB + PAGE, 3 * MIB)]


def test_nothing_kept_nothing_lost(fs: CacheFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that wants more than is under way, of what cannot be kept, asks itself."""

    async def refuse(*_: Any, **__: Any) -> bool:
        return False

    monkeypatch.setattr(fs._engine, "install", refuse)
    gate = Gate()
    fs.stats()
    AskedFileSystem.gate = gate
    with ThreadPoolExecutor(2) as pool:
        less = pool.submit(fs.cat_file, "k", 0, 2 * MIB + 10)
        assert gate.reached.wait(30)
        more = pool.submit(fs.cat_file, "k", 0, 3 * MIB)
        wait_until(lambda: fs._engine.counts["waits"] == 3, 30)
        gate.go_on.set()
        assert less.result(30) == DATA[: 2 * MIB + 10]
        assert more.result(30) == DATA[: 3 * MIB]
    assert asked() == [(0, 2 * MIB + PAGE), (2 * MIB, 3 * MIB)]


def test_rest_that_cannot_be_kept_is_asked_for_once(
    fs: CacheFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> bool:
        return False

    fs.cat_file("k", 0, 2 * MIB + 10)
    asked()
    monkeypatch.setattr(fs._engine, "install", refuse)
    assert fs.cat_file("k", 0, 3 * MIB) == DATA[: 3 * MIB]
    assert asked() == [(2 * MIB + PAGE, 3 * MIB)]


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "longer", "other"])
def test_damaged_end_is_fetched_again(fs: CacheFileSystem, tmp_path: Path, how: str) -> None:
    low, high = MIB + 5, 3 * MIB + 100_000
    fs.cat_file("k", low - 2 * PAGE, high)
    ends = [path for path in block_files(tmp_path).values() if path.stat().st_size < MIB]
    assert len(ends) == 2
    chance = random.Random(how)
    for path in ends:
        for _ in range(20):
            data = bytearray(path.read_bytes()) if path.exists() else bytearray()
            if not data:  # the other end of its block has grown over it
                fs.evict("k")
                assert fs.cat_file("k", low - 2 * PAGE, high) == DATA[low - 2 * PAGE : high]
                data = bytearray(path.read_bytes())
            if how == "flip":
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            elif how == "cut":
                del data[chance.randrange(len(data)) :]
            elif how == "longer":
                data += bytes(chance.randrange(1, 3 * PAGE))
            elif how == "other":
                data = (
                    bytearray(chance.choice(ends[::-1]).read_bytes()) if path != ends[0] else data
                )
            else:
                data.clear()
            path.write_bytes(data)
            assert fs.cat_file("k", low - 2 * PAGE, high) == DATA[low - 2 * PAGE : high]
            asked()
            assert fs.cat_file("k", low - 2 * PAGE, high) == DATA[low - 2 * PAGE : high]
            assert asked() == []
    fs.check("k")
    assert fs.check("k") == {}
    assert fs.cat_file("k") == DATA


def test_verbs_know_of_ends(fs: CacheFileSystem, tmp_path: Path) -> None:
    fs.cat_file("k", MIB + 5 * PAGE, 4 * MIB + PAGE)
    assert len(block_files(tmp_path)) == 4
    small = min(block_files(tmp_path).values(), key=lambda path: path.stat().st_size)
    data = bytearray(small.read_bytes())
    data[100] ^= 1
    small.write_bytes(data)
    assert fs.check("k") == {"k": 1}
    assert len(block_files(tmp_path)) == 3
    assert fs.fsck().damaged == 0
    assert fs.evict("k") == 3
    assert block_files(tmp_path) == {}
    assert fs.stats().used_bytes == disk_bytes(tmp_path) == 0


@pytest.mark.parametrize("max_bytes", [64 * MIB, 5 * MIB], ids=["room", "little room"])
def test_random_ranges_by_threads(tmp_path: Path, max_bytes: int) -> None:
    AskedFileSystem.asked = []
    fs = open_asked(tmp_path, max_bytes=max_bytes + (4 << 20), grain_bytes="256 KiB")

    def read(seed: int) -> bool:
        chance = random.Random(seed)
        for _ in range(60):
            low, high = sorted(chance.choices(range(len(DATA) + 1), k=2))
            if chance.random() < 0.3:
                high = min(high, low + chance.randrange(300_000))
            if chance.random() < 0.1:
                fs.evict("k")
            if fs.cat_file("k", low, high) != DATA[low:high]:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert disk_bytes(tmp_path) <= fs.stats().max_bytes
    assert fs.fsck().damaged == 0
