"""A limit is a limit: at every instant, over threads, processes, kills and restarts."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cache_tools import (
    block_files,
    disk_bytes,
    earlier_boot,
    open_cache,
    reopen_cache,
    staged_files,
)

from vfs.cache.engine import _EVICT_LOCK
from vfs.cache.evict import evict_batch
from vfs.cache.filesystem import CacheFileSystem
from vfs.cache.ledger import Ledger
from vfs.core import durable
from vfs.core.engine import close_engines

LIMIT = 2 << 20
GRAIN = 65_536
TINY_BLOCKS: dict[str, Any] = {"grain_bytes": GRAIN, "small_bytes": 0, "gap_bytes": 0}


def expected(name: str) -> bytes:
    """Return the content of an object: some of one block, some of several, one of many."""
    choose = random.Random(name)
    sizes = [0, 1, 4000, 4096, 60_000, GRAIN - 1, GRAIN, GRAIN + 1, 5 * GRAIN, 300_000]
    return choose.randbytes(choose.choice(sizes))


def fill_store(store: Path, count: int) -> list[str]:
    names = [f"k{number}" for number in range(count)]
    for name in names:
        (store / name).write_bytes(expected(name))
    return names


class Watch:
    """Looks at the disk after every piece of a file that any thread of this process writes."""

    def __init__(self, fs: CacheFileSystem, top: Path) -> None:
        assert fs.stats().max_bytes  # opened
        self.fs = fs
        self.top = top
        self.looks = self.peak = 0
        self.wrong: list[str] = []

    def look(self) -> None:
        """Compare the disk with limit and ledger, while nobody evicts."""
        engine = self.fs._engine
        with engine.locks.hold_briefly(_EVICT_LOCK):
            there = disk_bytes(self.top)
            charged, limit = engine.ledger.used_bytes, engine.ledger.limit_bytes
        self.looks += 1
        self.peak = max(self.peak, there)
        if not there <= charged <= limit:
            self.wrong.append(f"{there} on disk, {charged} charged, limit {limit}")

    @contextmanager
    def over_writes(self) -> Iterator[None]:
        original = durable.write_all

        def write_all(fd: int, data: Any) -> None:
            original(fd, data)
            self.look()

        durable.write_all = write_all
        try:
            yield
        finally:
            durable.write_all = original


def read_at_random(fs: CacheFileSystem, store: Path, names: list[str], seed: int) -> None:
    """Read an object, or a range of one, and compare."""
    choose = random.Random(seed)
    name = choose.choice(names)
    data = expected(name)
    low = choose.randrange(len(data) + 1)
    high = choose.randrange(low, len(data) + 1)
    if choose.random() < 0.5:
        low, high = 0, len(data)
    assert fs.cat_file(str(store / name), low, high) == data[low:high], (name, low, high)


# -------------------------------------------------------------------- one process


def test_limit_holds_at_every_instant(store: Path, tmp_path: Path) -> None:
    names = fill_store(store, 60)
    fs = open_cache(tmp_path, max_bytes=LIMIT, **TINY_BLOCKS)
    watch = Watch(fs, tmp_path)
    with watch.over_writes():
        for seed in range(300):
            read_at_random(fs, store, names, seed)
    assert not watch.wrong
    assert watch.looks > 300
    assert watch.peak > LIMIT // 2
    stats = fs.stats()
    assert stats.evictions > 50
    assert disk_bytes(tmp_path) <= stats.used_bytes <= stats.max_bytes <= LIMIT


@pytest.mark.parametrize("same", [True, False], ids=["same objects", "objects of their own"])
def test_limit_holds_over_threads(store: Path, tmp_path: Path, *, same: bool) -> None:
    names = fill_store(store, 60)
    fs = open_cache(tmp_path, max_bytes=LIMIT, **TINY_BLOCKS)
    watch = Watch(fs, tmp_path)
    start = threading.Barrier(5)

    def reader(number: int) -> None:
        mine = names if same else names[number::5]
        start.wait(30)
        for step in range(50):
            read_at_random(fs, store, mine, step if same else 1000 * number + step)

    with watch.over_writes(), ThreadPoolExecutor(5) as pool:
        list(pool.map(reader, range(5)))
    assert not watch.wrong
    assert watch.looks > 50
    assert disk_bytes(tmp_path) <= fs.stats().used_bytes <= LIMIT


def test_tables_are_part_of_the_limit(store: Path, tmp_path: Path) -> None:
    limit = open_cache(tmp_path, max_bytes=LIMIT).stats().max_bytes
    tables = sum((tmp_path / "cache" / name).stat().st_size for name in ("facts", "ghosts"))
    assert limit == LIMIT - tables > 0
    assert tables < LIMIT // 16


def test_object_larger_than_the_limit_streams_past(store: Path, tmp_path: Path) -> None:
    data = random.Random(9).randbytes(3 * LIMIT + 17)
    (store / "large").write_bytes(data)
    (store / "small").write_bytes(b"s")
    fs = open_cache(tmp_path, max_bytes=LIMIT, small_bytes=10 * LIMIT)
    assert fs.cat_file(str(store / "small")) == b"s"
    before = block_files(tmp_path)
    watch = Watch(fs, tmp_path)
    with watch.over_writes():
        assert fs.cat_file(str(store / "large")) == data
        assert fs.cat_file(str(store / "large"), 5, LIMIT) == data[5:LIMIT]
    assert not watch.wrong
    assert block_files(tmp_path) == before, "one block that never fits evicts nothing"
    assert fs.stats().not_kept == 2


def test_blocks_of_an_object_larger_than_the_limit(store: Path, tmp_path: Path) -> None:
    data = random.Random(9).randbytes(3 * LIMIT + 17)
    (store / "large").write_bytes(data)
    fs = open_cache(tmp_path, max_bytes=LIMIT, **TINY_BLOCKS)
    watch = Watch(fs, tmp_path)
    local = tmp_path / "copy"
    with watch.over_writes():
        assert fs.cat_file(str(store / "large")) == data
        fs.get_file(str(store / "large"), str(local))
        with fs.open(str(store / "large")) as file:
            assert file.read() == data
    assert local.read_bytes() == data
    assert not watch.wrong
    assert watch.peak > LIMIT // 2


def test_epoch_evicts_nothing(store: Path, tmp_path: Path) -> None:
    names = fill_store(store, 80)
    fs = open_cache(tmp_path, max_bytes=LIMIT, access="epoch", **TINY_BLOCKS)
    watch = Watch(fs, tmp_path)
    seen: set[str] = set()
    with watch.over_writes():
        for name in names:
            assert fs.cat_file(str(store / name)) == expected(name)
            there = set(block_files(tmp_path))
            assert seen <= there, "what is here stays"
            seen = there
    assert not watch.wrong
    assert fs.stats().evictions == 0
    assert fs.stats().not_kept > 0
    hits = fs.stats().hits
    for name in names:
        assert fs.cat_file(str(store / name)) == expected(name)
    assert set(block_files(tmp_path)) == seen
    assert fs.stats().hits - hits == len(seen), "the second round reads all of them"


def test_lowered_limit_is_obeyed_at_once(store: Path, tmp_path: Path) -> None:
    names = fill_store(store, 60)
    fs = open_cache(tmp_path, max_bytes=2 * LIMIT, **TINY_BLOCKS)
    for name in names:
        fs.cat_file(str(store / name))
    assert disk_bytes(tmp_path) > LIMIT
    lowered = open_cache(tmp_path, max_bytes=LIMIT, **TINY_BLOCKS)
    assert disk_bytes(tmp_path) <= LIMIT
    assert lowered.stats().max_bytes == fs.stats().max_bytes <= LIMIT
    # In another process: the limit is obeyed when the directory is opened.
    again = reopen_cache(tmp_path, max_bytes=LIMIT // 2, **TINY_BLOCKS)
    assert again.stats().used_bytes <= LIMIT // 2
    assert disk_bytes(tmp_path) <= LIMIT // 2


def test_limit_is_remembered(store: Path, tmp_path: Path) -> None:
    limit = open_cache(tmp_path, max_bytes=LIMIT).stats().max_bytes
    assert reopen_cache(tmp_path).stats().max_bytes == limit


def test_limit_below_the_tables_is_remembered(store: Path, tmp_path: Path) -> None:
    """The tables of a large cache take more than a small one may have: then nothing is kept."""
    (store / "k").write_bytes(b"x" * 5000)
    assert open_cache(tmp_path, max_bytes="8 GiB").stats().max_bytes > 1 << 30
    tables = sum((tmp_path / "cache" / name).stat().st_size for name in ("facts", "ghosts"))
    assert tables > LIMIT
    small = reopen_cache(tmp_path, max_bytes=LIMIT)
    assert small.cat_file(str(store / "k")) == b"x" * 5000
    assert disk_bytes(tmp_path) == 0
    again = reopen_cache(tmp_path)
    assert again.cat_file(str(store / "k")) == b"x" * 5000
    assert again.stats().max_bytes <= LIMIT
    assert disk_bytes(tmp_path) <= LIMIT


def test_last_limit_given_wins_in_a_process_that_gave_it_before(
    store: Path, tmp_path: Path
) -> None:
    first = open_cache(tmp_path, max_bytes=LIMIT).stats().max_bytes
    other = multiprocessing.get_context("spawn").Process(
        target=_give_limit, args=(tmp_path, 2 * LIMIT)
    )
    other.start()
    other.join(60)
    assert other.exitcode == 0
    assert open_cache(tmp_path).stats().max_bytes > first
    CacheFileSystem.clear_instance_cache()
    assert open_cache(tmp_path, max_bytes=LIMIT).stats().max_bytes == first


def _give_limit(top: Path, limit: int) -> None:
    open_cache(top, max_bytes=limit).stats()


# -------------------------------------------------------------------- the ledger and the truth


def test_ledger_is_right_after_a_scan(store: Path, tmp_path: Path) -> None:
    names = fill_store(store, 40)
    fs = open_cache(tmp_path, max_bytes=4 * LIMIT, **TINY_BLOCKS)
    for name in names:
        fs.cat_file(str(store / name))
    ledger = fs._engine.ledger
    assert ledger.reserve(fs._engine.owner, 500_000), "charged by somebody who dies"
    ledger.bury(fs._engine.owner)
    for path in list(block_files(tmp_path).values())[:5]:
        path.unlink()  # by hand: nobody gives their bytes back
    assert ledger.used_bytes > disk_bytes(tmp_path)
    blocks = str(tmp_path / "cache/blocks")
    assert evict_batch(blocks, ledger, fs._engine.ghosts, 0) == (0, 0)
    assert ledger.used_bytes == disk_bytes(tmp_path)


def test_directory_of_before_names_were_charged(store: Path, tmp_path: Path) -> None:
    """Its blocks give back 80 bytes more than they took, until a scan puts it right."""
    path = store / "a"
    path.write_bytes(b"x" * 1000)
    fs = open_cache(tmp_path)
    fs.cat_file(str(path))
    ledger = fs._engine.ledger
    ledger.give_back(80, ledger.epoch)
    fs.evict(str(path))
    assert ledger.used_bytes == 0
    fs.cat_file(str(path))
    assert ledger.used_bytes == disk_bytes(tmp_path)


def test_ledger_is_right_after_an_eviction(store: Path, tmp_path: Path) -> None:
    names = fill_store(store, 60)
    fs = open_cache(tmp_path, max_bytes=LIMIT, **TINY_BLOCKS)
    for name in names:
        fs.cat_file(str(store / name))
    assert fs.stats().evictions > 0
    assert fs.stats().used_bytes == disk_bytes(tmp_path)
    freed, count = evict_batch(
        str(tmp_path / "cache/blocks"), fs._engine.ledger, fs._engine.ghosts, LIMIT // 2
    )
    assert count > 0
    assert freed > 0
    assert fs.stats().used_bytes == disk_bytes(tmp_path) <= LIMIT // 2


@pytest.mark.parametrize("length", [0, 5000, 2_000_000])
def test_block_whose_length_changed_before_a_scan_is_given_back_as_counted(
    store: Path, tmp_path: Path, length: int
) -> None:
    """The counter may be above the truth, never below."""
    for name in "ab":
        (store / name).write_bytes(name.encode() * 500_000)
    fs = open_cache(tmp_path, max_bytes=8 * LIMIT)
    fs.cat_file(str(store / "a"))
    (file,) = block_files(tmp_path).values()
    fs.cat_file(str(store / "b"))
    os.truncate(file, length)
    engine = fs._engine
    evict_batch(str(tmp_path / "cache/blocks"), engine.ledger, engine.ghosts, 0)
    assert fs.stats().used_bytes >= disk_bytes(tmp_path)
    fs.evict(str(store / "a"))
    assert not file.exists()
    assert fs.stats().used_bytes >= disk_bytes(tmp_path) > 0


def test_scan_between_a_removal_and_its_entry(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may scan after a block is gone and before its bytes are given back."""
    for name in "ab":
        (store / name).write_bytes(name.encode() * 500_000)
        open_cache(tmp_path, max_bytes=8 * LIMIT).cat_file(str(store / name))
    fs = open_cache(tmp_path, max_bytes=8 * LIMIT)
    give_back = Ledger.give_back

    def scan_first(*args: Any) -> None:
        monkeypatch.setattr(Ledger, "give_back", give_back)
        fs.fsck()
        give_back(*args)

    monkeypatch.setattr(Ledger, "give_back", scan_first)
    assert fs.evict(str(store / "a")) == 1
    assert Ledger.give_back is give_back, "the scan was not made"
    assert fs.stats().used_bytes >= disk_bytes(tmp_path) > 0


def test_scan_during_an_eviction(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone runs fsck while another process evicts: no byte is given back twice."""
    names = fill_store(store, 60)
    fs = open_cache(tmp_path, max_bytes=4 * LIMIT, **TINY_BLOCKS)
    for name in names:
        fs.cat_file(str(store / name))
    give_back = Ledger.give_back

    def scan_first(*args: Any) -> None:
        monkeypatch.setattr(Ledger, "give_back", give_back)
        fs.fsck()
        give_back(*args)

    monkeypatch.setattr(Ledger, "give_back", scan_first)
    assert disk_bytes(tmp_path) > LIMIT
    open_cache(tmp_path, max_bytes=LIMIT)
    assert Ledger.give_back is give_back, "the scan was not made"
    assert fs.stats().evictions > 0
    assert fs.stats().used_bytes >= disk_bytes(tmp_path) > 0


def test_clear_gives_everything_back(store: Path, tmp_path: Path) -> None:
    names = fill_store(store, 20)
    fs = open_cache(tmp_path, max_bytes=8 * LIMIT, **TINY_BLOCKS)
    for name in names:
        fs.cat_file(str(store / name))
    count = len(block_files(tmp_path))
    assert fs.clear() == count > 20
    assert block_files(tmp_path) == {}
    assert fs.stats().used_bytes == disk_bytes(tmp_path) == 0


# -------------------------------------------------------------------- what is lost


def test_ledger_of_before_a_power_cut(store: Path, tmp_path: Path) -> None:
    """A mapped page that was never written back says what was true half a minute ago."""
    names = fill_store(store, 120)
    with earlier_boot():
        fs = open_cache(tmp_path, max_bytes=LIMIT, **TINY_BLOCKS)
        assert fs.stats().used_bytes == 0
        shutil.copyfile(tmp_path / "cache/ledger", tmp_path / "ledger of then")
        for name in names[:60]:
            fs.cat_file(str(store / name))
        assert disk_bytes(tmp_path) > LIMIT // 2
        CacheFileSystem.clear_instance_cache()
        close_engines()
    shutil.copyfile(tmp_path / "ledger of then", tmp_path / "cache/ledger")
    again = reopen_cache(tmp_path, **TINY_BLOCKS)
    assert again.stats().used_bytes >= disk_bytes(tmp_path)
    for name in names[60:]:
        assert again.cat_file(str(store / name)) == expected(name)
        assert disk_bytes(tmp_path) <= again.stats().used_bytes <= LIMIT


def test_ledger_that_was_removed(store: Path, tmp_path: Path) -> None:
    names = fill_store(store, 120)
    fs = open_cache(tmp_path, max_bytes=LIMIT, **TINY_BLOCKS)
    for name in names[:60]:
        fs.cat_file(str(store / name))
    CacheFileSystem.clear_instance_cache()
    (tmp_path / "cache/ledger").unlink()
    again = reopen_cache(tmp_path, max_bytes=LIMIT, **TINY_BLOCKS)
    for name in names[60:]:
        assert again.cat_file(str(store / name)) == expected(name)
        assert disk_bytes(tmp_path) <= LIMIT


def test_temporary_file_that_no_ledger_knows(store: Path, tmp_path: Path) -> None:
    """Left by a machine that went down: the file is on the disk, its reservation is not."""
    (store / "k").write_bytes(b"x")
    with earlier_boot():
        open_cache(tmp_path, max_bytes=LIMIT).stats()
    (tmp_path / "cache/tmp" / ("7-1-" + "a" * 32)).write_bytes(bytes(100_000))
    again = reopen_cache(tmp_path)
    assert again.cat_file(str(store / "k")) == b"x"
    assert staged_files(tmp_path) == []


# -------------------------------------------------------------------- processes


def _die_writing(top: Path, name: str) -> None:
    """Read an object and be killed when half of its block is written."""
    fs = open_cache(top, max_bytes=LIMIT)
    fs.stats()
    write = os.write

    def die(fd: int, data: Any) -> int:
        write(fd, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    os.write = die
    fs.cat_file(str(top / "store" / name))


def kill_while_writing(top: Path, name: str) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_die_writing, args=(top, name))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


def test_killed_writer_leaves_no_overrun_and_no_file(store: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (store / name).write_bytes(random.Random(name).randbytes(LIMIT * 2 // 5))
    fs = open_cache(tmp_path, max_bytes=LIMIT)
    assert fs.cat_file(str(store / "a")) == (store / "a").read_bytes()
    kill_while_writing(tmp_path, "b")
    assert len(staged_files(tmp_path)) == 1
    assert disk_bytes(tmp_path) <= fs.stats().used_bytes <= LIMIT
    # A process that was there all the time finds out when it needs the room.
    watch = Watch(fs, tmp_path)
    with watch.over_writes():
        for name in ("c", "b", "a", "c"):
            assert fs.cat_file(str(store / name)) == (store / name).read_bytes()
    assert not watch.wrong
    assert staged_files(tmp_path) == []
    assert fs.stats().used_bytes == disk_bytes(tmp_path)


def test_next_process_removes_the_file_of_a_killed_one(store: Path, tmp_path: Path) -> None:
    (store / "a").write_bytes(random.Random("a").randbytes(500_000))
    holder = open_cache(tmp_path, max_bytes=LIMIT)
    holder.stats()  # so that the killed process and the next one are not of one number
    kill_while_writing(tmp_path, "a")
    assert len(staged_files(tmp_path)) == 1
    child = multiprocessing.get_context("spawn").Process(target=_give_limit, args=(tmp_path, LIMIT))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert staged_files(tmp_path) == []
    assert holder._engine.ledger.owners_in_flight() == []


def _hammer(top: Path, seed: int, count: int, results: Any) -> None:
    """One of several processes that fill one cache, looking at the disk at each write."""
    store = top / "store"
    names = sorted(path.name for path in store.iterdir())
    mine = names if seed % 2 else names[seed // 2 :: 4]
    fs = open_cache(top, max_bytes=LIMIT, **TINY_BLOCKS)
    watch = Watch(fs, top)
    try:
        with watch.over_writes():
            for step in range(count):
                read_at_random(fs, store, mine, 10_000 * seed + step)
    except AssertionError as error:
        watch.wrong.append(repr(error))
    results.put((watch.wrong[:3], watch.looks, watch.peak))


def run_hammers(top: Path, seeds: range, count: int) -> None:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    workers = [context.Process(target=_hammer, args=(top, seed, count, results)) for seed in seeds]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=200) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert [wrong for wrong, _, _ in outcomes] == [[]] * len(workers)
    assert all(looks > 0 for _, looks, _ in outcomes)
    assert max(peak for _, _, peak in outcomes) > LIMIT // 2


def test_limit_holds_over_two_processes(store: Path, tmp_path: Path) -> None:
    fill_store(store, 60)
    run_hammers(tmp_path, range(2), 60)
    final = reopen_cache(tmp_path)
    assert disk_bytes(tmp_path) <= final.stats().used_bytes <= LIMIT
    assert staged_files(tmp_path) == []


@pytest.mark.slow
def test_limit_holds_over_eight_processes_and_restarts(store: Path, tmp_path: Path) -> None:
    fill_store(store, 100)
    for round_ in range(2):
        run_hammers(tmp_path, range(8 * round_, 8 * round_ + 8), 100)
        assert disk_bytes(tmp_path) <= LIMIT
    final = reopen_cache(tmp_path)
    assert final.fsck().damaged == 0
    assert final.stats().used_bytes == disk_bytes(tmp_path) <= LIMIT
    assert staged_files(tmp_path) == []


def _hammer_until_killed(top: Path, seed: int, started: Any) -> None:
    store = top / "store"
    names = sorted(path.name for path in store.iterdir())
    fs = open_cache(top, **TINY_BLOCKS)
    for step in range(1_000_000):
        read_at_random(fs, store, names, 10_000 * seed + step)
        if step == 5:
            started.set()


@pytest.mark.slow
def test_limit_holds_while_processes_are_killed(store: Path, tmp_path: Path) -> None:
    names = fill_store(store, 100)
    fs = open_cache(tmp_path, max_bytes=LIMIT, **TINY_BLOCKS)
    watch = Watch(fs, tmp_path)
    context = multiprocessing.get_context("spawn")
    for round_ in range(4):
        started = [context.Event() for _ in range(2)]
        victims = [
            context.Process(target=_hammer_until_killed, args=(tmp_path, 2 * round_ + n, event))
            for n, event in enumerate(started)
        ]
        for victim in victims:
            victim.start()
        assert all(event.wait(60) for event in started)
        with watch.over_writes():
            for step in range(40):
                read_at_random(fs, store, names, 77_000 + 1000 * round_ + step)
                if step in {10, 25}:
                    victim = victims.pop()
                    victim.kill()
                    victim.join(60)
                    assert victim.exitcode == -signal.SIGKILL
    assert not watch.wrong
    fs.fsck()
    assert fs.stats().used_bytes == disk_bytes(tmp_path)
    assert reopen_cache(tmp_path).stats().used_bytes <= LIMIT
    assert staged_files(tmp_path) == []
