"""Reads, writes and evictions that overtake each other; gates make each order happen."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tier_tools import Gate, GatedFileSystem, hot_files, open_gated, open_tier, staged_files

from vfs.backends.mem import MemFileSystem
from vfs.errors import ConflictError
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.hot import HotStore, slot_of
from vfs.types import ObjectInfo


def test_fetch_overtaken_by_a_write_is_not_installed(gated: TierFileSystem, tmp_path: Path) -> None:
    gated.pipe_file("k", b"old")
    gated.evict("k")
    gate = Gate()
    GatedFileSystem.before_get = gate
    with ThreadPoolExecutor() as pool:
        slow_read = pool.submit(gated.cat_file, "k")
        assert gate.reached.wait(30)
        gated.pipe_file("k", b"new")
        assert hot_files(tmp_path) == {"k": b"new"}
        gate.go_on.set()
        assert slow_read.result(30) in {b"old", b"new"}
    assert hot_files(tmp_path) == {"k": b"new"}
    assert gated.cat_file("k") == b"new"
    assert staged_files(tmp_path) == []


def test_fetch_overtaken_by_a_removal_is_not_installed(
    gated: TierFileSystem, tmp_path: Path
) -> None:
    gated.pipe_file("k", b"old")
    gated.evict("k")
    gate = Gate()
    GatedFileSystem.before_get = gate
    with ThreadPoolExecutor() as pool:
        slow_read = pool.submit(gated.cat_file, "k")
        assert gate.reached.wait(30)
        gated.rm_file("k")
        gate.go_on.set()
        slow_read.result(30)
    assert hot_files(tmp_path) == {}
    assert not gated.exists("k")
    assert gated.stats().hot_bytes == 0


@pytest.mark.parametrize("operation", ["rm_tree", "mv_away", "mv_onto", "cp_onto"])
def test_fetch_overtaken_by_other_changes_is_not_installed(
    gated: TierFileSystem, tmp_path: Path, operation: str
) -> None:
    gated.pipe_file("d/k", b"old")
    gated.pipe_file("other", b"new")
    gated.evict("", recursive=True)
    gate = Gate()
    GatedFileSystem.before_get = lambda key: gate(key) if key == "d/k" else None
    changes: dict[str, Callable[[], Any]] = {
        "rm_tree": lambda: gated.rm("d", recursive=True),
        "mv_away": lambda: gated.mv("d/k", "elsewhere"),
        "mv_onto": lambda: gated.mv("other", "d/k"),
        "cp_onto": lambda: gated.cp_file("other", "d/k"),
    }
    with ThreadPoolExecutor() as pool:
        slow_read = pool.submit(gated.cat_file, "d/k")
        assert gate.reached.wait(30)
        GatedFileSystem.before_get = None
        changes[operation]()
        gate.go_on.set()
        slow_read.result(30)
    assert "d/k" not in hot_files(tmp_path)


def test_write_does_not_wait_for_a_stuck_fetch(gated: TierFileSystem) -> None:
    gated.pipe_file("k", b"old")
    gated.evict("k")
    gate = Gate()
    GatedFileSystem.before_get = gate
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(gated.cat_file, "k")
        assert gate.reached.wait(30)
        pool.submit(gated.pipe_file, "k", b"new").result(10)
        assert not stuck.done()
        gate.go_on.set()
        stuck.result(30)


def test_version_asked_before_a_write_is_not_recorded(gated: TierFileSystem) -> None:
    gated.pipe_file("k", b"old")
    gate = Gate()
    GatedFileSystem.before_head = gate
    with ThreadPoolExecutor() as pool:
        slow_info = pool.submit(gated.info, "k")
        assert gate.reached.wait(30)
        GatedFileSystem.before_head = None
        gated.pipe_file("k", b"newer")
        gate.go_on.set()
        slow_info.result(30)
    fresh = gated.fs.info("k")
    info = gated.info("k")
    assert (info["size"], info["etag"]) == (5, fresh["etag"])
    assert gated.info("k") == info


def test_version_asked_during_a_change_is_not_kept(tmp_path: Path) -> None:
    """A reader opened while a write is under way must not take the new bytes for the old."""
    gated = open_gated(tmp_path, promote="never", write="around")
    old, new = b"old " * 5000, b"new " * 5000
    gated.pipe_file("k", old)
    gate, landed = Gate(), Gate()
    GatedFileSystem.before_put, GatedFileSystem.after_put = gate, landed
    with ThreadPoolExecutor() as pool:
        writing = pool.submit(gated.pipe_file, "k", new)
        assert gate.reached.wait(30)
        with gated.open("k") as reader:
            assert reader.read(10_000) == old[:10_000]
            gate.go_on.set()
            assert landed.reached.wait(30)
            with pytest.raises(ConflictError):
                reader.read(10_000)
        landed.go_on.set()
        writing.result(30)
    assert gated.cat_file("k") == new


@pytest.mark.parametrize("meanwhile", ["asked", "forgotten", "neighbour", "tried", "removed"])
@pytest.mark.parametrize("etags", [True, False])
def test_open_reader_conflicts_with_a_change_of_its_object_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str, etags: bool
) -> None:
    gated = open_gated(tmp_path, promote="never", write="around")
    if not etags:
        monkeypatch.setattr(GatedFileSystem, "head_object", without_etag)
    content = b"data" * 5000
    gated.pipe({"k": content, "other": b"1"})
    neighbour = next(f"k{n}" for n in range(10**7) if slot_of(f"k{n}") == slot_of("k"))

    def answer(_: str) -> None:
        GatedFileSystem.before_get = None
        if meanwhile == "asked":  # and the same is remembered again
            gated._engine.versions.clear()
            gated.info("k")
        elif meanwhile == "forgotten":
            gated._engine.versions.clear()
        elif meanwhile == "neighbour":  # their generation is one
            gated.pipe_file(neighbour, b"2")
        elif meanwhile == "tried":
            GatedFileSystem.before_put = refuse
            with pytest.raises(PermissionError):
                gated.pipe_file("k", b"3")
        else:
            gated.rm_file("k")

    with gated.open("k") as reader:
        assert reader.read(10) == content[:10]
        GatedFileSystem.before_get = answer
        if meanwhile == "removed":
            with pytest.raises(ConflictError):
                reader.seek(15_000) and reader.read()
        else:
            reader.seek(15_000)
            assert reader.read() == content[15_000:]


def refuse(key: str) -> None:
    raise PermissionError(errno.EACCES, "no", key)


def without_etag(self: GatedFileSystem, key: str) -> ObjectInfo:
    found = MemFileSystem.head_object(self, key)
    return replace(found, etag=None)


def test_concurrent_readers_of_one_loop_share_one_fetch(gated: TierFileSystem) -> None:
    payload = bytes(range(256)) * 512
    gated.pipe_file("k", payload)
    gated.evict("k")
    gate = Gate()
    GatedFileSystem.before_get = gate
    before = gated.stats().cold_requests.get("cat_file", 0)

    async def read_all() -> Any:
        reads = [asyncio.ensure_future(gated._cat_file("k")) for _ in range(16)]
        await asyncio.to_thread(gate.reached.wait, 30)
        gate.go_on.set()
        return await asyncio.gather(*reads)

    assert asyncio.run(read_all()) == [payload] * 16
    assert gated.stats().cold_requests["cat_file"] - before == 1


def test_cancelled_reader_leaves_the_flight_to_the_others(gated: TierFileSystem) -> None:
    gated.pipe_file("k", b"payload")
    gated.evict("k")
    gate = Gate()
    GatedFileSystem.before_get = gate

    async def read_all() -> Any:
        first = asyncio.ensure_future(gated._cat_file("k"))
        await asyncio.to_thread(gate.reached.wait, 30)
        second = asyncio.ensure_future(gated._cat_file("k"))
        await asyncio.sleep(0)
        first.cancel()
        gate.go_on.set()
        return await second

    assert asyncio.run(read_all()) == b"payload"
    assert gate.calls == 1


def test_error_of_a_fetch_reaches_every_reader_and_is_forgotten(gated: TierFileSystem) -> None:
    gated.pipe_file("k", b"payload")
    gated.evict("k")

    def broken(key: str) -> None:
        raise ConnectionResetError(104, "reset", key)

    GatedFileSystem.before_get = broken
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(gated.cat_file, "k") for _ in range(8)]
        errors = [read.exception(30) for read in reads]
    assert {type(error) for error in errors} == {ConnectionResetError}
    GatedFileSystem.before_get = None
    assert gated.cat_file("k") == b"payload"


def test_eviction_under_an_open_reader_changes_nothing_for_it(tier: TierFileSystem) -> None:
    payload = bytes(range(256)) * 4096
    tier.pipe_file("k", payload)
    with tier.open("k") as file:
        head = file.read(1000)
        tier.evict("k")
        tier.pipe_file("k", b"replaced")
        assert head + file.read() == payload
    assert tier.cat_file("k") == b"replaced"


def test_writers_of_one_key_leave_both_tiers_equal(tmp_path: Path) -> None:
    tiers = [open_tier(tmp_path), open_tier(tmp_path, promote="second")]
    values = [bytes([n]) * (n * 1000 + 1) for n in range(16)]
    barrier = threading.Barrier(16)

    def write(number: int) -> None:
        barrier.wait()
        for _ in range(5):
            tiers[number % 2].pipe_file("k", values[number])
            assert tiers[(number + 1) % 2].cat_file("k") in values

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(16)))
    assert hot_files(tmp_path)["k"] == (tmp_path / "cold/k").read_bytes()
    assert tiers[0].stats().hot_bytes == len(hot_files(tmp_path)["k"])


@pytest.mark.parametrize("write", ["through", "back"])
def test_directory_is_not_pruned_under_a_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Both happen inside transactions, of which there is one at a time for all processes."""
    seen = []

    def watch(name: str) -> None:
        inner = getattr(HotStore, name)

        def watched(self: HotStore, *args: str) -> None:
            seen.append((name, self.catalog._db.in_transaction))
            inner(self, *args)

        monkeypatch.setattr(HotStore, name, watched)

    watch("place")
    watch("prune")
    tier = open_tier(tmp_path, write=write)
    tier.pipe({f"d{n}/o": b"1" for n in range(5)})
    tier.pipe_file("d/e/o", b"1")
    tier.flush()
    tier.evict("d0/o")
    tier.cat_file("d0/o")
    tier.rm("d", recursive=True)
    tier.flush()
    assert {name for name, _ in seen} == {"place", "prune"}
    assert all(inside for _, inside in seen)
    assert sorted(hot_files(tmp_path)) == [f"d{n}/o" for n in range(5)]
