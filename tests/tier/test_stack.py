"""Several directories over one cold store: where copies are, and what each verb does to them."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tier_tools import BrokenCold, hot_files, open_stack

from vfs.core.engine import close_engines
from vfs.core.loop import run_in_thread, wait
from vfs.errors import ConfigError, ConflictError
from vfs.observe import Event, subscribe
from vfs.tier import checkverbs
from vfs.tier.daemon import TierDaemon
from vfs.tier.filesystem import TierFileSystem


def cold_name(top: Path) -> str:
    return f"broken://{top}/cold"


def test_an_acknowledged_write_is_in_both_directories(tmp_path: Path) -> None:
    tier = open_stack(tmp_path, write="back", quiet_s=1e9)
    tier.pipe_file("zarr.json", b"12345")
    assert hot_files(tmp_path) == hot_files(tmp_path, "top") == {"zarr.json": b"12345"}
    assert not (tmp_path / "cold/zarr.json").exists()
    found = tier.status("zarr.json")
    assert (found.state, found.dirty, found.hot, found.cold) == ("DIRTY", True, True, False)
    assert found.copies == (str(tmp_path / "top"), str(tmp_path / "hot"))
    assert [change.path for change in tier.pending()] == ["zarr.json"]
    assert tier.stats().dirty_objects == 1
    assert tier.flush() == 0
    assert (tmp_path / "cold/zarr.json").read_bytes() == b"12345"
    assert tier.pending() == []
    assert tier.status("zarr.json").state == "HOT"


def test_status_says_where_the_copies_are(tmp_path: Path) -> None:
    tier = open_stack(tmp_path)
    tier.pipe_file("a", b"1")
    top, hot, cold = str(tmp_path / "top"), str(tmp_path / "hot"), cold_name(tmp_path)
    assert (tier.status("a").state, tier.status("a").copies) == ("HOT", (top, hot, cold))
    assert tier.evict("a", tier=top) == 1
    assert (tier.status("a").state, tier.status("a").copies) == ("WARM", (hot, cold))
    assert tier.evict("a") == 1
    assert (tier.status("a").state, tier.status("a").copies) == ("COLD", (cold,))
    tier.promote("a")
    assert tier.status("a").copies == (top, hot, cold)
    assert tier.evict("a", tier=f"{tmp_path}/hot/") == 1
    assert tier.status("a").copies == (top, cold)
    tier.evict("a", tier=top)
    with pytest.raises(ConfigError, match="none of"):
        tier.evict("a", tier=str(tmp_path / "cold"))
    with pytest.raises(FileNotFoundError):
        tier.status("b")


def test_what_cold_lacks_is_evicted_from_the_top_only(tmp_path: Path) -> None:
    tier = open_stack(tmp_path, write="back", quiet_s=1e9)
    tier.pipe_file("zarr.json", b"1")
    with pytest.raises(OSError) as caught:
        tier.evict("zarr.json")
    assert caught.value.errno == errno.EBUSY
    assert tier.status("zarr.json").hot, "nothing was dropped by what was refused"
    assert tier.evict("zarr.json", tier=str(tmp_path / "top")) == 1
    assert tier.status("zarr.json").state == "DIRTY"
    assert tier.cat_file("zarr.json") == b"1"


def test_a_hit_at_the_top_asks_nobody(tmp_path: Path) -> None:
    tier = open_stack(tmp_path)
    tier.pipe_file("a", b"12345")
    assert tier.info("a")["size"] == 5
    before = [dict(stats.cold_requests) for stats in (tier.stats(), *tier.stats().below)]
    asked = dict(tier.target.requests)
    assert tier.cat_file("a", 1, 3) == b"23"
    assert tier.cat_file("a") == b"12345"
    assert tier.info("a")["size"] == 5
    assert [dict(s.cold_requests) for s in (tier.stats(), *tier.stats().below)] == before
    assert dict(tier.target.requests) == asked
    assert tier.stats().hits == 2


def test_one_read_of_cold_fills_every_directory(tmp_path: Path) -> None:
    (tmp_path / "cold").mkdir()
    (tmp_path / "cold/a").write_bytes(b"12345")
    tier = open_stack(tmp_path)
    assert tier.cat_file("a") == b"12345"
    assert hot_files(tmp_path) == hot_files(tmp_path, "top") == {"a": b"12345"}
    assert tier.stats().cold_requests == {"cat_file": 1}


def test_each_directory_has_options_of_its_own(tmp_path: Path) -> None:
    first = {"max_bytes": 100, "promote_max_bytes": 50, "pin": ["keep"]}
    tier = open_stack(tmp_path, first=first, max_bytes=1000)
    tier.pipe_file("large", bytes(500))
    tier.pipe_file("keep", bytes(60))
    for number in range(5):
        tier.pipe_file(f"{number}", bytes(30))
    assert "large" not in hot_files(tmp_path, "top")
    assert "large" in hot_files(tmp_path)
    assert tier.status("large").state == "WARM"
    assert tier.status("keep").hot
    assert tier.status("keep").pinned
    stats = tier.stats()
    assert (stats.max_bytes, stats.below[0].max_bytes) == (100, 1000)
    assert stats.hot_bytes <= 100
    assert stats.directory == str(tmp_path / "top")


def test_progress_of_what_moves_many_objects(tmp_path: Path) -> None:
    """Each object counts in each directory where it moves."""
    tier = open_stack(tmp_path, max_bytes=100_000, write="back", delay_s=1e6)
    tier.pipe({f"d/{number}": b"value" for number in range(10)})
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    assert tier.flush(progress=tell) == 0
    assert told[0][1] == told[-1][0] == told[-1][1] == 10
    told.clear()
    assert tier.demote("d", recursive=True, progress=tell) == 100
    assert told == [*((n, 10) for n in range(1, 11)), *((n, 20) for n in range(11, 21))]
    told.clear()
    tier.promote("d", recursive=True, progress=tell)
    assert told == [(n, 10) for n in range(1, 11)]


def test_progress_of_a_flush_that_has_nothing_to_do(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    tier = open_stack(tmp_path, max_bytes=100_000, write="back")
    tier.pipe_file("k", b"value")
    assert tier.flush() == 0
    assert tier.flush(progress=lambda done, total: told.append((done, total))) == 0
    assert told == [(0, 0)]


def test_two_elements_are_hot_and_cold(tmp_path: Path) -> None:
    one = fsspec.filesystem("tier", tiers=[str(tmp_path / "hot"), f"disk://{tmp_path}/cold"])
    one.pipe_file("a", b"1")
    two = fsspec.filesystem("tier", hot=str(tmp_path / "hot"), cold=f"disk://{tmp_path}/cold")
    assert two.status("a").state == "HOT"
    assert one._engine is two._engine


def test_four_tiers(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a", "b", "c")]
    cold = f"disk://{tmp_path}/cold"
    tier = fsspec.filesystem("tier", tiers=[*names, cold], write="back")
    tier.pipe_file("x", b"1")
    assert tier.flush() == 0
    assert tier.status("x").copies == (*names, cold)
    assert [stats.directory for stats in tier.stats().below] == names[1:]
    assert tier.evict("x", tier=names[1]) == 1
    assert tier.evict("x", tier=names[0]) == 1
    assert tier.status("x").state == "WARM"
    assert tier.fsck().objects == 1
    assert tier.demote("x") == 1
    assert tier.status("x").copies == (cold,)
    assert tier.cat_file("x") == b"1"


# -------------------------------------------------------------------- listings


def test_listings_know_what_the_last_directory_has_not_sent(tmp_path: Path) -> None:
    (tmp_path / "cold/r").mkdir(parents=True)
    (tmp_path / "cold/r/old").write_bytes(b"1")
    (tmp_path / "cold/r/gone").write_bytes(b"1")
    tier = open_stack(tmp_path, write="back", quiet_s=1e9)
    BrokenCold.arm(1000, errno.ENOSPC)
    tier.pipe_file("r/n/new", b"12")
    tier.rm_file("r/gone")
    assert sorted(tier.find("r")) == ["r/n/new", "r/old"]
    assert sorted(tier.ls("r", detail=False)) == ["r/n", "r/old"]
    assert not tier.exists("r/gone")
    with pytest.raises(FileNotFoundError):
        tier.cat_file("r/gone")
    BrokenCold.disarm()
    assert tier.flush() == 0
    assert sorted(tier.find("r")) == ["r/n/new", "r/old"]
    assert not (tmp_path / "cold/r/gone").exists()


def test_a_version_stays_the_same_for_info_and_listings(tmp_path: Path) -> None:
    """The top knows an object by the version that the directory below gave it."""
    tier = open_stack(tmp_path, write="back")
    tier.pipe_file("a", b"1")
    etag = tier.info("a")["etag"]
    tier.flush()
    tier.evict("a", tier=str(tmp_path / "hot"))
    assert tier.info("a")["etag"] == etag
    assert [info["etag"] for info in tier.ls("", detail=True)] == [etag]
    assert tier.find("", detail=True)["a"]["etag"] == etag
    assert tier.fsck().ok


# -------------------------------------------------------------------- verbs


def test_pins_hold_in_every_directory(tmp_path: Path) -> None:
    tier = open_stack(tmp_path)
    tier.pipe_file("a", b"1")
    tier.pin("a")
    for name in (None, str(tmp_path / "top"), str(tmp_path / "hot")):
        with pytest.raises(PermissionError):
            tier.evict("a", tier=name)
    with pytest.raises(PermissionError):
        tier.demote("a")
    assert tier.status("a").pinned
    tier.unpin("a")
    assert not tier.status("a").pinned
    assert tier.demote("a") == 2


def test_demote_keeps_what_cold_has_lost(tmp_path: Path) -> None:
    tier = open_stack(tmp_path)
    tier.pipe_file("a", b"1")
    (tmp_path / "cold/a").unlink()
    with pytest.raises(ConflictError):
        tier.demote("a")
    assert tier.cat_file("a") == b"1"
    assert hot_files(tmp_path, "top") == {"a": b"1"}


def test_resolving_a_conflict_drops_the_copies_above(tmp_path: Path) -> None:
    tier = open_stack(tmp_path, write="back")
    tier.pipe_file("a", b"1")
    tier.flush()
    BrokenCold.arm(1, errno.ETIMEDOUT)
    tier.pipe_file("a", b"22")
    (tmp_path / "cold/a").write_bytes(b"333")
    BrokenCold.disarm()
    with pytest.raises(ConflictError):
        tier.flush()
    assert tier.status("a").state == "CONFLICT"
    assert tier.cat_file("a") == b"22"
    tier.resolve("a", keep="cold")
    assert tier.cat_file("a") == b"333"
    assert tier.pending() == []


def test_a_plan_is_made_and_carried_out_in_every_directory(tmp_path: Path) -> None:
    rules = [{"match": "**", "demote": {"age_s": 60}}]
    tier = open_stack(tmp_path, rules=rules, prices={"put_request": 1.0}, write="back", quiet_s=1e9)
    tier.pipe_file("old", b"1")
    tier.flush()
    tier.pipe_file("zarr.json", b"{}")
    plan = tier.plan()
    assert [(m.action, m.path, m.tier) for m in plan.moves] == [
        ("upload", "zarr.json", str(tmp_path / "hot"))
    ]
    assert plan.currency == "USD"
    assert str(tmp_path / "hot") in plan.explain()
    for name in ("top", "hot"):
        os.utime(tmp_path / name / "old", (1, 1))
    plan = tier.plan()
    assert {(m.action, m.path, m.tier) for m in plan.moves} == {
        ("upload", "zarr.json", str(tmp_path / "hot")),
        ("demote", "old", str(tmp_path / "hot")),
    }
    seen: list[tuple[int, int]] = []
    applied = tier.apply(plan, lambda done, total: seen.append((done, total)))
    assert applied.skipped == ()
    assert seen[-1] == (2, 2)
    assert tier.status("old").copies == (str(tmp_path / "top"), cold_name(tmp_path))
    assert (tmp_path / "cold/zarr.json").exists()


def test_moves_of_the_top_are_its_own(tmp_path: Path) -> None:
    tier = open_stack(tmp_path)
    for number in range(50):
        tier.pipe_file(f"{number}", b"1")
    for _ in range(2):
        tier.evict("", recursive=True, tier=str(tmp_path / "top"))
        for number in range(50):
            tier.cat_file(f"{number}")
    tier.evict("", recursive=True, tier=str(tmp_path / "top"))
    plan = tier.plan()
    assert {(m.action, m.tier) for m in plan.moves} == {("promote", str(tmp_path / "top"))}
    assert tier.apply(plan).skipped == ()
    assert tier.status(plan.moves[0].path).state == "HOT"


def test_fsck_checks_every_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkverbs, "_PIECE_BYTES", 1)
    tier = open_stack(tmp_path)
    tier.pipe_file("a", b"12345")
    tier.pipe_file("b", b"12345")
    (tmp_path / "top/a").write_bytes(b"1234X")
    (tmp_path / "hot/b").write_bytes(b"1234X")
    seen: list[tuple[int, int]] = []
    report = tier.fsck(progress=lambda done, total: seen.append((done, total)))
    assert {(p.kind, p.path, p.tier) for p in report.problems} == {
        ("corrupt", "a", str(tmp_path / "top")),
        ("corrupt", "b", str(tmp_path / "hot")),
    }
    assert (report.objects, report.bytes) == (2, 20)
    assert seen == sorted(seen)
    assert seen[-1][0] <= seen[-1][1] == 20
    assert tier.fsck(repair=True).ok
    assert tier.cat("", recursive=True) == {"a": b"12345", "b": b"12345"}
    assert tier.fsck().problems == ()


def test_the_service_looks_after_every_directory(tmp_path: Path) -> None:
    rules = [{"match": "old", "demote": {"age_s": 60}}]
    tier = open_stack(tmp_path, rules=rules, write="back", quiet_s=1e9)
    tier.pipe({"old": b"1", "damaged": b"12345"})
    tier.flush()
    (tmp_path / "top/damaged").write_bytes(b"1234X")
    os.utime(tmp_path / "hot/old", (1, 1))
    tier._last._mover.uploader.rest()
    tier.pipe_file("new", b"1")
    told: list[str] = []
    done = threading.Event()

    def tell(kind: str, line: str) -> None:
        told.append(kind)
        if {"plan", "scrub", "damaged"} <= set(told):
            done.set()

    daemon = TierDaemon(
        tier,
        plan_every_s=3600,
        scrub_every_s=3600,
        scrub_bytes_per_s=1e9,
        quiet_s=None,
        tell=tell,
    )

    async def run() -> int:
        stop = asyncio.Event()
        work = asyncio.ensure_future(daemon.run(stop))
        await run_in_thread(done.wait, 60)
        stop.set()
        await work
        return await daemon.finish(60)

    assert wait(run) == 0
    assert {"plan", "scrub", "damaged"} <= set(told)
    assert (tmp_path / "cold/new").exists()
    assert tier.status("old").copies == (str(tmp_path / "top"), cold_name(tmp_path))
    assert "damaged" not in hot_files(tmp_path, "top")
    assert tier.cat_file("damaged") == b"12345"


# -------------------------------------------------------------------- others


def other_process(options: dict[str, Any], data: bytes) -> bytes:
    fs = fsspec.filesystem("tier", **options)
    before: bytes = fs.cat_file("a")
    fs.pipe_file("a", data)
    return before


@pytest.mark.parametrize("write", ["through", "back", "around"])
def test_writes_are_seen_by_every_process_and_instance(tmp_path: Path, write: str) -> None:
    tier = open_stack(tmp_path, write=write)
    options = {
        "tiers": [str(tmp_path / "top"), str(tmp_path / "hot"), f"disk://{tmp_path}/cold"],
        "write": write,
    }
    tier = fsspec.filesystem("tier", **options)
    other = fsspec.filesystem("tier", **options, promote="second", skip_instance_cache=True)
    tier.pipe_file("a", b"first")
    assert other.cat_file("a") == b"first"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for number in range(5):
            before = tier.cat_file("a")
            assert pool.apply(other_process, (options, b"%d" % number)) == before
            assert tier.cat_file("a") == b"%d" % number
            assert other.cat_file("a") == b"%d" % number


def in_fork(work: Callable[[], object]) -> bool:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_children_go_on(tmp_path: Path) -> None:
    tier = open_stack(tmp_path, write="back")
    tier.pipe_file("a", b"1")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            tier.pipe_file("busy", b"%d" % number)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):

            def work(number: int = number) -> None:
                assert tier.cat_file("a") == b"1"
                tier.pipe_file(f"child-{number}", b"2")
                assert tier.cat_file(f"child-{number}") == b"2"

            assert in_fork(work)
            assert tier.cat_file(f"child-{number}") == b"2"
    finally:
        stop.set()
        writer.join()


def test_the_same_instance_from_pickle_and_json(tmp_path: Path) -> None:
    tier = open_stack(tmp_path, first={"max_bytes": "1 MiB"}, write="back")
    assert pickle.loads(pickle.dumps(tier)) is tier
    assert fsspec.AbstractFileSystem.from_json(tier.to_json()) is tier
    assert open_stack(tmp_path, first={"max_bytes": "1 MiB"}, write="back") is tier


def test_urls_have_no_second_protocol(tmp_path: Path) -> None:
    tier = open_stack(tmp_path)
    assert tier.unstrip_protocol("a/b") == "tier://a/b"
    assert tier._strip_protocol("tier://a/b/") == "a/b"
    assert tier._parent("a/b") == "a"
    tiers = [str(tmp_path / "top"), str(tmp_path / "hot"), cold_name(tmp_path)]
    with fsspec.open("tier://a/b", "wb", tiers=tiers) as file:
        file.write(b"1")
    assert tier.cat_file("a/b") == b"1"
    assert str(tier).count("over") == 2
    assert str(tmp_path / "hot") in tier._repr_html_()


def test_a_write_that_cold_refuses_is_in_no_directory(tmp_path: Path) -> None:
    tier = open_stack(tmp_path)
    tier.pipe_file("a", b"1")
    BrokenCold.arm(1, errno.ENOSPC)
    with pytest.raises(OSError) as caught:
        tier.pipe_file("a", b"22")
    assert caught.value.errno == errno.ENOSPC
    assert tier.cat_file("a") == b"1"
    tier.pipe_file("a", b"333")
    assert tier.cat_file("a") == b"333"


def test_conditional_writes(tmp_path: Path) -> None:
    tier = open_stack(tmp_path, write="back")
    tier.pipe_file("a", b"1", mode="create")
    with pytest.raises(FileExistsError):
        tier.pipe_file("a", b"2", mode="create")
    assert tier.cat_file("a") == b"1"


def test_copies_and_moves(tmp_path: Path) -> None:
    tier = open_stack(tmp_path, write="back", quiet_s=1e9)
    BrokenCold.arm(1000, errno.ETIMEDOUT)
    tier.pipe_file("a", b"1")
    tier.cp_file("a", "b")
    tier.mv("a", "c")
    assert sorted(tier.find("")) == ["b", "c"]
    assert tier.cat("", recursive=True) == {"b": b"1", "c": b"1"}
    BrokenCold.disarm()
    assert tier.flush() == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "cold").iterdir()} == {
        "b": b"1",
        "c": b"1",
    }


def test_events_name_promotions_of_both(tmp_path: Path) -> None:
    tier = open_stack(tmp_path)
    seen: list[Event] = []
    with subscribe(seen.append):
        tier.pipe_file("a", b"1")
    assert [event.kind for event in seen] == ["promoted", "promoted"]


def test_what_was_acknowledged_is_there_after_coming_back(tmp_path: Path) -> None:
    tier = open_stack(tmp_path, write="back", quiet_s=1e9)
    BrokenCold.arm(1000, errno.ETIMEDOUT)
    tier.pipe_file("a", b"1")
    TierFileSystem.clear_instance_cache()
    close_engines()
    again = open_stack(tmp_path, write="back", quiet_s=1e9)
    assert again.status("a").state == "DIRTY"
    assert again.cat_file("a") == b"1"
    assert hot_files(tmp_path, "top") == {"a": b"1"}
