"""A limit is a limit: over writes, promotions, oversized objects, pins, processes and restarts."""

from __future__ import annotations

import multiprocessing
import os
import random
from pathlib import Path
from typing import Any

import pytest
from tier_tools import hot_files, open_tier, staged_files

from vfs.core import durable
from vfs.core.engine import close_engines
from vfs.errors import ConfigError, TierFullError
from vfs.tier.filesystem import TierFileSystem

LIMIT = 300_000


def bytes_on_disk(top: Path) -> int:
    """Sum of everything the tier keeps: copies and files being written."""
    total = 0
    for directory, folders, names in os.walk(top / "hot"):
        if Path(directory).name == ".vfs":
            folders[:] = ["tmp"]
            continue
        for name in names:
            try:
                total += os.stat(os.path.join(directory, name)).st_size
            except FileNotFoundError:
                continue
    return total


def watch_writes(tier: TierFileSystem, top: Path, seen: list[int]) -> Any:
    """Look at the disk after every write that reaches it.

    Under the catalogue's lock: a copy that is evicted between two steps of the listing, and the
    file written in its place, would else both be counted.
    """
    original = durable.write_all

    def write_all(fd: int, data: Any) -> None:
        original(fd, data)
        with tier._engine.catalog.transaction():
            seen.append(bytes_on_disk(top))

    return write_all


def test_limit_holds_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = open_tier(tmp_path, max_bytes=LIMIT)
    tier.pipe_file("warm-up", b"")
    seen: list[int] = []
    monkeypatch.setattr(durable, "write_all", watch_writes(tier, tmp_path, seen))
    choose = random.Random(7)
    for _ in range(400):
        key = f"k{choose.randrange(60)}"
        if choose.random() < 0.6 or not tier.exists(key):
            tier.pipe_file(key, choose.randbytes(choose.choice([0, 1, 5_000, 50_000, 290_000])))
        else:
            tier.cat_file(key)
    hot = [size for size in seen if size]
    assert len(hot) > 300
    assert max(hot) <= LIMIT
    assert tier.stats().hot_bytes == bytes_on_disk(tmp_path) <= LIMIT
    assert tier.stats().evictions > 50
    for key, data in hot_files(tmp_path).items():
        assert (tmp_path / "cold" / key).read_bytes() == data


def test_object_larger_than_the_limit_is_written_and_read(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, max_bytes=1000, promote_max_bytes="1 MiB")
    tier.pipe_file("small", b"s" * 900)
    tier.pipe_file("large", b"l" * 5000)
    assert hot_files(tmp_path) == {"small": b"s" * 900}, "an oversized object evicts nothing"
    assert tier.cat_file("large") == b"l" * 5000
    assert tier.cat_file("large", 10, 20) == b"l" * 10
    assert hot_files(tmp_path) == {"small": b"s" * 900}
    with pytest.raises(TierFullError):
        tier.promote("large")


def test_least_recently_used_leaves_first(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, max_bytes=3000)
    now = 1_700_000_000
    for age, key in enumerate(["c", "b", "a"]):
        tier.pipe_file(key, key.encode() * 1000)
        os.utime(tmp_path / "hot" / key, (now - age * 60, now))
    tier.cat_file("a")  # the oldest, until now
    tier.pipe_file("d", b"d" * 1000)
    assert sorted(hot_files(tmp_path)) == ["a", "c", "d"]


def test_pinned_copies_stay_and_room_is_refused(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, max_bytes=2500, pin=["**/zarr.json"])
    tier.pipe_file("x/zarr.json", b"z" * 1000)
    tier.pipe_file("pinned by name", b"p" * 1000)
    tier.pin("pinned by name")
    tier.pipe_file("loose", b"l" * 400)
    tier.pipe_file("more", b"m" * 450)
    assert sorted(hot_files(tmp_path)) == ["more", "pinned by name", "x/zarr.json"]
    tier.pipe_file("too much", b"t" * 600)
    assert "too much" not in hot_files(tmp_path)
    assert tier.cat_file("too much") == b"t" * 600
    with pytest.raises(TierFullError):
        tier.promote("too much")
    tier.unpin("pinned by name")
    tier.promote("too much")
    assert "too much" in hot_files(tmp_path)


def test_lowered_limit_is_obeyed_at_once(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, max_bytes=10_000)
    for number in range(9):
        tier.pipe_file(f"k{number}", b"x" * 1000)
    lowered = open_tier(tmp_path, max_bytes=3000)
    assert bytes_on_disk(tmp_path) <= 3000
    assert lowered.stats().max_bytes == tier.stats().max_bytes == 3000


def test_limit_is_remembered(tmp_path: Path) -> None:
    open_tier(tmp_path, max_bytes=12_345).pipe_file("a", b"1")
    TierFileSystem.clear_instance_cache()
    close_engines()
    assert open_tier(tmp_path).stats().max_bytes == 12_345


def _hammer(top: Path, seed: int, results: Any) -> None:
    """One of several processes that fill the same tier, looking at the disk at each write."""
    seen: list[int] = []
    choose = random.Random(seed)
    tier = open_tier(top, max_bytes=LIMIT)
    tier.stats()  # opens the hot directory
    durable.write_all = watch_writes(tier, top, seen)
    for _ in range(60):
        key = f"k{choose.randrange(40)}"
        data = tier.cat_file(key)
        if data != expected(key):
            results.put(("wrong bytes", key))
            return
        if choose.random() < 0.2:
            tier.pipe_file(key, expected(key))
    results.put(("peak", max(seen, default=0)))


def expected(key: str) -> bytes:
    return random.Random(key).randbytes(20_000 + 1000 * int(key[1:]))


def test_limit_holds_over_processes_and_restarts(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, max_bytes=LIMIT, write="around")
    for number in range(40):
        tier.pipe_file(f"k{number}", expected(f"k{number}"))
    TierFileSystem.clear_instance_cache()
    close_engines()
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    for round_ in range(2):
        workers = [
            context.Process(target=_hammer, args=(tmp_path, 10 * round_ + n, results))
            for n in range(4)
        ]
        for worker in workers:
            worker.start()
        outcomes = [results.get(timeout=120) for _ in workers]
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0
        assert [kind for kind, _ in outcomes] == ["peak"] * 4, outcomes
        assert 0 < max(peak for _, peak in outcomes) <= LIMIT
    final = open_tier(tmp_path)
    assert final.stats().hot_bytes == bytes_on_disk(tmp_path) <= LIMIT
    assert staged_files(tmp_path) == []


@pytest.mark.parametrize("bad", ["much", -1, 0, "5 parsecs", 1.5, True, ""])
def test_bad_limits_are_refused(tmp_path: Path, bad: object) -> None:
    with pytest.raises(ConfigError):
        open_tier(tmp_path, max_bytes=bad)
    assert not (tmp_path / "hot").exists()
