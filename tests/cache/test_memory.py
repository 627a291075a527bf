"""Blocks in memory: as right as those on the disk, within their limit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cache_tools import open_cache

from vfs.cache.memory import MemoryLevel


def test_whole_blocks_are_read_from_memory(store: Path, tmp_path: Path) -> None:
    fs = open_cache(tmp_path, consistency="immutable", memory_bytes="1 MiB")
    path = store / "a"
    path.write_bytes(bytes(range(256)) * 1000)
    for _ in range(2):
        assert fs.cat_file(str(path)) == path.read_bytes()
    for block in (tmp_path / "cache/blocks").glob("*/*"):
        block.unlink()
    assert fs.cat_file(str(path)) == path.read_bytes()
    assert fs.cat_file(str(path), 5, 70_000) == path.read_bytes()[5:70_000]
    assert fs.stats().misses == 1


def test_own_changes_are_seen(store: Path, tmp_path: Path) -> None:
    fs = open_cache(tmp_path, consistency="immutable", memory_bytes="1 MiB")
    path = str(store / "a")
    for content in (b"one", b"two", b"three"):
        fs.pipe_file(path, content)
        for _ in range(3):
            assert fs.cat_file(path) == content


def test_limit_holds_and_the_oldest_leave() -> None:
    level = MemoryLevel(1000)
    for number in range(50):
        level.put(f"{number}", bytes(100))
        assert level.get("0") is not None
    assert [n for n in range(50) if level.get(f"{n}")] == [0, *range(41, 50)]
    level.put("large", bytes(1001))
    assert level.get("large") is None
    assert level.get("0") is not None


def test_many_threads() -> None:
    level = MemoryLevel(10_000)

    def work(worker: int) -> None:
        for number in range(2000):
            name = f"{(number * 7 + worker) % 300}"
            data = level.get(name)
            assert data in {None, name.encode() * 50}
            level.put(name, name.encode() * 50)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    kept = [data for n in range(300) if (data := level.get(f"{n}"))]
    assert 0 < sum(map(len, kept)) <= 10_000
