"""The uploader against failing, lying and shared cold stores: nothing lost, nothing clobbered."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tier_tools import (
    BrokenCold,
    Gate,
    GatedFileSystem,
    cold_of,
    hot_files,
    open_broken,
    open_gated,
    open_tier,
    wait_until,
)

from vfs.core.engine import close_engines
from vfs.errors import ConflictError, IntegrityError, UnavailableError
from vfs.testing.servers import S3Server
from vfs.tier.catalog import Catalog
from vfs.tier.engine import UPLOAD_LOCKS
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.hot import slot_of
from vfs.tier.journal import Draft, Journal, Kind
from vfs.tier.schedule import Schedule
from vfs.tier.uploader import Uploader


@pytest.fixture
def back(tmp_path: Path) -> TierFileSystem:
    return open_gated(tmp_path)


def test_acknowledged_before_cold_has_it(back: TierFileSystem, tmp_path: Path) -> None:
    gate = Gate()
    GatedFileSystem.before_put = gate
    back.pipe_file("k", b"value")
    assert gate.reached.wait(30)
    assert not cold_of(tmp_path).exists("k")
    assert back.cat_file("k") == b"value"
    assert back.info("k")["size"] == 5
    assert back.status("k").state == "DIRTY"
    gate.go_on.set()
    assert back.flush() == 0
    assert cold_of(tmp_path).cat_file("k") == b"value"
    assert back.status("k").state == "HOT"


def test_overwrite_while_uploading(back: TierFileSystem, tmp_path: Path) -> None:
    gate = Gate()
    GatedFileSystem.before_put = gate
    back.pipe_file("k", b"first")
    assert gate.reached.wait(30)
    back.pipe_file("k", b"second")
    assert back.cat_file("k") == b"second"
    gate.go_on.set()
    assert back.flush() == 0
    assert cold_of(tmp_path).cat_file("k") == b"second"
    assert hot_files(tmp_path) == {"k": b"second"}


def test_later_copy_with_the_same_inode_is_not_taken_for_clean(
    back: TierFileSystem, tmp_path: Path
) -> None:
    """The kernel gives an inode again as soon as it is free: the first copy's to the third."""
    gate = Gate()
    GatedFileSystem.before_put = gate
    back.pipe_file("k", b"first")
    inode = os.stat(tmp_path / "hot/k").st_ino
    assert gate.reached.wait(30)
    back.pipe_file("k", b"second")
    catalog = back._engine.catalog
    with catalog.transaction() as db:  # whatever this disk does
        db.execute("UPDATE objects SET inode=? WHERE key='k'", (inode,))
    GatedFileSystem.before_put = refuse_second = Gate()
    gate.go_on.set()
    assert refuse_second.reached.wait(30)
    assert back.status("k").dirty
    row = catalog.row("k")
    assert row is not None
    assert row.dirty
    refuse_second.go_on.set()
    assert back.flush() == 0
    assert cold_of(tmp_path).cat_file("k") == b"second"


def stop_before_marks(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Let the uploader stop once cold has what was written, before the catalogue says so."""
    gate, real = Gate(), Catalog.note_clean

    def note_clean(self: Catalog, *args: Any) -> None:
        if not gate.calls:
            gate("")
        real(self, *args)

    monkeypatch.setattr(Catalog, "note_clean", note_clean)
    return gate


@pytest.mark.parametrize("verb", ["evict", "evict_all", "demote", "demote_all"])
def test_flushed_copy_can_be_evicted_at_once(
    back: TierFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Cold has it, and the journal says so, before the catalogue does: EBUSY, or nothing freed."""
    gate = stop_before_marks(monkeypatch)
    back.pipe_file("d/k", b"value")
    assert back.flush() == 0
    assert gate.reached.wait(30)
    path = "d" if verb.endswith("_all") else "d/k"
    call = back.evict if verb.startswith("evict") else back.demote
    assert call(path, recursive=verb.endswith("_all")) == 5
    assert hot_files(tmp_path) == {}
    gate.go_on.set()
    assert back.cat_file("d/k") == b"value"


def test_answer_of_cold_is_a_base_before_the_mark_is_off(
    back: TierFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The etag is the base of the next write, whose conflict would otherwise go unseen."""
    gate = stop_before_marks(monkeypatch)
    back.pipe_file("k", b"value")
    assert back.flush() == 0
    assert gate.reached.wait(30)  # as if the process had died here
    cold_of(tmp_path).pipe_file("k", b"foreign")
    back._mover.uploader.rest()
    back.pipe_file("k", b"ours")
    gate.go_on.set()
    back._mover.uploader.work()
    with pytest.raises(ConflictError):
        back.flush()
    assert cold_of(tmp_path).cat_file("k") == b"foreign"


def test_removal_while_uploading(back: TierFileSystem, tmp_path: Path) -> None:
    gate = Gate()
    GatedFileSystem.before_put = gate
    back.pipe_file("k", b"first")
    assert gate.reached.wait(30)
    back.rm_file("k")
    assert not back.exists("k")
    assert back.find("") == []
    gate.go_on.set()
    assert back.flush() == 0
    assert not cold_of(tmp_path).exists("k")
    assert hot_files(tmp_path) == {}


def test_one_upload_of_a_key_at_a_time(
    back: TierFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, most, now = threading.Lock(), [0], [0]
    real = GatedFileSystem.put_object

    def put_object(self: Any, *args: Any, **kwargs: Any) -> Any:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        try:
            return real(self, *args, **kwargs)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(GatedFileSystem, "put_object", put_object)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: back.pipe_file("k", b"%d" % n), range(100)))
    back.flush()
    assert most == [1]


def test_lost_answer_is_found_out(back: TierFileSystem, tmp_path: Path) -> None:
    """The store has the object, and the answer never came: no conflict with oneself."""
    left = [1]

    def lose(key: str) -> None:
        if left[0]:
            left[0] -= 1
            raise UnavailableError("connection lost", key)

    cold_of(tmp_path).pipe_file("k", b"old")
    back.cat_file("k")
    back.info("k")
    GatedFileSystem.after_put = lose
    back.pipe_file("k", b"new")
    assert back.flush() == 0
    assert left == [0]
    assert cold_of(tmp_path).cat_file("k") == b"new"


def test_overwrite_after_a_lost_answer_is_no_conflict(tmp_path: Path) -> None:
    """Cold has the first version, nobody here knows, and meanwhile there is a second one."""
    back = open_gated(tmp_path)
    cold_of(tmp_path).pipe_file("k", b"old")
    back.cat_file("k")
    back.info("k")
    landed = threading.Event()

    def lose(key: str) -> None:
        landed.set()
        raise UnavailableError("connection lost", key)

    GatedFileSystem.after_put = lose
    back.pipe_file("k", b"first")
    assert landed.wait(30)
    back.pipe_file("k", b"second")
    GatedFileSystem.open_gates()
    assert back.flush() == 0
    assert cold_of(tmp_path).cat_file("k") == b"second"


def test_foreign_write_is_a_conflict(back: TierFileSystem, tmp_path: Path) -> None:
    cold_of(tmp_path).pipe_file("k", b"base")
    assert back.cat_file("k") == b"base"
    assert back.info("k")["size"] == 4
    gate = Gate()
    GatedFileSystem.before_put = gate
    with back.open("k", "ab") as file:
        file.write(b" ours")
    assert gate.reached.wait(30)
    GatedFileSystem.before_put = None
    cold_of(tmp_path).pipe_file("k", b"foreign")
    gate.go_on.set()
    with pytest.raises(ConflictError) as caught:
        back.flush()
    assert caught.value.errno == errno.ESTALE
    assert caught.value.filename == "k"
    assert "resolve" in str(caught.value)
    assert cold_of(tmp_path).cat_file("k") == b"foreign"
    assert back.cat_file("k") == b"base ours"
    status = back.status("k")
    assert (status.state, status.dirty) == ("CONFLICT", True)
    with pytest.raises(OSError, match="flush"):
        back.evict("k")


@pytest.mark.parametrize("keep", ["hot", "cold"])
def test_conflict_is_resolved_by_choice(back: TierFileSystem, tmp_path: Path, keep: Any) -> None:
    test_foreign_write_is_a_conflict(back, tmp_path)
    back.resolve("k", keep)
    assert back.flush() == 0
    expected = b"base ours" if keep == "hot" else b"foreign"
    assert back.cat_file("k") == cold_of(tmp_path).cat_file("k") == expected


def test_exclusive_create_against_a_foreign_one(back: TierFileSystem, tmp_path: Path) -> None:
    gate = Gate()
    GatedFileSystem.before_put = gate
    back.pipe_file("k", b"ours", mode="create")
    assert gate.reached.wait(30)
    GatedFileSystem.before_put = None
    cold_of(tmp_path).pipe_file("k", b"foreign")
    gate.go_on.set()
    with pytest.raises(ConflictError):
        back.flush()
    assert cold_of(tmp_path).cat_file("k") == b"foreign"


@pytest.mark.parametrize("change", ["write", "remove"])
def test_what_waits_is_not_sent_again_over_a_write_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """It is sent before by the writer, while the uploader is about to send it, too."""
    back, through = open_gated(tmp_path), open_gated(tmp_path, write="through")
    back._mover.uploader.rest()
    back.pipe_file("k", b"waits")
    uploader = back._mover.uploader
    byte = UPLOAD_LOCKS + slot_of("k")
    first, second = Gate(), Gate()
    real, real_put = Uploader._record, GatedFileSystem.put_object

    def put(self: GatedFileSystem, key: str, value: bytes, **kwargs: Any) -> Any:
        if value == b"waits":
            (second if first.calls else first)(key)
        return real_put(self, key, value, **kwargs)

    async def record(self: Uploader, store: Any, outcomes: Any) -> None:
        """Let who waits for the lock have it, if it is free before this is recorded."""
        fd = self.engine.locks.acquire_now(byte)
        if fd is not None:
            self.engine.locks.release(fd)
            await asyncio.to_thread(second.reached.wait, 10)
        await real(self, store, outcomes)

    monkeypatch.setattr(GatedFileSystem, "put_object", put)
    with ThreadPoolExecutor(1) as pool:
        calls = {
            "write": lambda: through.pipe_file("k", b"through"),
            "remove": lambda: through.rm_file("k"),
        }
        done = pool.submit(calls[change])
        assert first.reached.wait(30)
        with monkeypatch.context() as patch:
            patch.setattr(Uploader, "_record", record)
            held = len(back._engine.locks._held)
            uploader.work()
            # The lease, and who waits.
            wait_until(lambda: len(back._engine.locks._held) >= held + 2, 30)
            first.go_on.set()
            done.result(30)
        second.go_on.set()
    assert back.flush() == 0
    if change == "remove":
        assert not cold_of(tmp_path).exists("k")
    else:
        assert cold_of(tmp_path).cat_file("k") == through.cat_file("k") == b"through"


@pytest.mark.parametrize("earlier", ["write", "remove"])
@pytest.mark.parametrize("later", ["write", "remove"])
def test_answer_recorded_late_is_no_base_of_a_later_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: str, later: str
) -> None:
    """What it answers was overtaken by a write-through; the later change is based on that."""
    back, through = open_gated(tmp_path), open_gated(tmp_path, write="through")
    calls: dict[str, Callable[[bytes], Any]] = {
        "write": lambda data: back.pipe_file("k", data),
        "remove": lambda _: back.rm_file("k"),
    }
    back.pipe_file("k", b"older")
    assert back.flush() == 0
    uploader, gate, real = back._mover.uploader, Gate(), Uploader._record_done
    uploader.stop()

    def record(self: Uploader, store: Any, done: Any) -> None:
        if not gate.calls:
            gate("k")
        real(self, store, done)

    monkeypatch.setattr(Uploader, "_record_done", record)
    calls[earlier](b"earlier")
    uploader.work()
    assert gate.reached.wait(30)
    through.pipe_file("k", b"through")
    calls[later](b"later")
    gate.go_on.set()
    assert back.flush() == 0
    assert hot_files(tmp_path) == ({"k": b"later"} if later == "write" else {})
    assert cold_of(tmp_path).exists("k") == (later == "write")
    assert later == "remove" or cold_of(tmp_path).cat_file("k") == b"later"


@pytest.mark.parametrize("how", ["tree", "file"])
def test_directories_of_what_was_sent_meanwhile_make_way(tmp_path: Path, how: str) -> None:
    """An upload under way makes them in cold, where nobody had seen them when they were removed."""
    tier = open_broken(tmp_path)
    BrokenCold.before_put = gate = Gate()
    tier.pipe_file("a/b/c", b"below")
    assert gate.reached.wait(30)
    if how == "tree":
        tier.rm("a", recursive=True)
    else:
        tier.rm_file("a/b/c")
    tier.pipe_file("a", b"an object")
    gate.go_on.set()
    assert tier.flush() == 0
    assert (tmp_path / "cold/a").read_bytes() == b"an object"


def test_directory_with_objects_of_somebody_else_does_not_make_way(tmp_path: Path) -> None:
    tier = open_broken(tmp_path)
    BrokenCold.before_put = gate = Gate()
    tier.pipe_file("other", b"keeps the uploader busy")
    assert gate.reached.wait(30)
    tier.pipe_file("a", b"an object")
    for name in ("empty", "b/c"):
        (tmp_path / "cold/a" / name).mkdir(parents=True)
    (tmp_path / "cold/a/b/c/d").write_bytes(b"foreign")
    gate.go_on.set()
    with pytest.raises(OSError, match="not in the cold store: IsADirectoryError"):
        tier.flush()
    assert (tmp_path / "cold/a/b/c/d").read_bytes() == b"foreign"
    assert (tmp_path / "cold/a/empty").is_dir()
    assert tier.cat_file("a") == b"an object"
    shutil.rmtree(tmp_path / "cold/a")
    assert tier.flush() == 0
    assert (tmp_path / "cold/a").read_bytes() == b"an object"


def test_exclusive_create_sees_both_tiers(back: TierFileSystem, tmp_path: Path) -> None:
    cold_of(tmp_path).pipe_file("there", b"1")
    with pytest.raises(FileExistsError):
        back.pipe_file("there", b"2", mode="create")
    back.rm_file("there")
    back.pipe_file("there", b"3", mode="create")
    with pytest.raises(FileExistsError):
        back.pipe_file("there", b"4", mode="create")
    back.flush()
    assert cold_of(tmp_path).cat_file("there") == b"3"


def assert_removal_spares_a_foreign_write(back: TierFileSystem, top: Path, gate: Gate) -> None:
    """Let somebody else write ``k`` while its removal waits at the gate."""
    cold_of(top).pipe_file("k", b"foreign")
    gate.go_on.set()
    with pytest.raises(ConflictError):
        back.flush()
    assert cold_of(top).cat_file("k") == b"foreign"
    back.resolve("k", "cold")
    assert back.flush() == 0
    assert back.cat_file("k") == b"foreign"


def test_foreign_change_of_what_was_removed(back: TierFileSystem, tmp_path: Path) -> None:
    cold_of(tmp_path).pipe_file("k", b"base")
    back.cat_file("k")
    back.info("k")
    gate = Gate()
    GatedFileSystem.before_put = gate
    back.pipe_file("z", b"keeps the uploader busy")
    assert gate.reached.wait(30)
    back.rm_file("k")
    assert_removal_spares_a_foreign_write(back, tmp_path, gate)


def test_removal_spares_what_somebody_else_wrote(back: TierFileSystem, tmp_path: Path) -> None:
    gate = Gate()
    GatedFileSystem.before_put = lambda key: gate(key) if key == "busy" else None
    back.pipe_file("busy", b"keeps the uploader busy")
    assert gate.reached.wait(30)
    back.pipe_file("k", b"ours", mode="create")  # so cold is known to have none
    back.rm_file("k")
    assert_removal_spares_a_foreign_write(back, tmp_path, gate)


def test_removal_of_what_cold_never_had_is_no_conflict(
    back: TierFileSystem, tmp_path: Path
) -> None:
    gate = Gate()
    GatedFileSystem.before_put = lambda key: gate(key) if key == "busy" else None
    back.pipe_file("busy", b"keeps the uploader busy")
    assert gate.reached.wait(30)
    back.pipe_file("k", b"ours", mode="create")
    back.rm_file("k")
    gate.go_on.set()
    assert back.flush() == 0
    assert not back.exists("k")
    assert not cold_of(tmp_path).exists("k")


def test_corrupt_dirty_object_is_kept_aside(back: TierFileSystem, tmp_path: Path) -> None:
    gate = Gate()
    GatedFileSystem.before_put = lambda key: gate(key) if key == "busy" else None
    back.pipe_file("busy", b"1")
    assert gate.reached.wait(30)
    back.pipe_file("k", b"original")
    with open(tmp_path / "hot/k", "r+b") as file:
        file.write(b"O")
    gate.go_on.set()
    with pytest.raises(IntegrityError) as caught:
        back.flush()
    assert caught.value.filename == "k"
    assert not cold_of(tmp_path).exists("k")
    with pytest.raises(IntegrityError):
        back.cat_file("k")
    assert back.status("k").state == "CORRUPT"
    assert [p.read_bytes() for p in (tmp_path / "hot/.vfs/aside").iterdir()] == [b"Original"]
    back.pipe_file("k", b"again")
    assert back.flush() == 0
    assert cold_of(tmp_path).cat_file("k") == b"again"


def test_cold_that_is_down_comes_back(back: TierFileSystem, tmp_path: Path) -> None:
    def refuse(key: str) -> None:
        raise UnavailableError("unplugged", key)

    GatedFileSystem.before_put = refuse
    for number in range(50):
        back.pipe_file(f"k{number}", b"%d" % number)
    assert back.flush(timeout_s=0.3) == 50
    assert back.stats().dirty_objects == 50
    assert any("unplugged" in change.error for change in back.pending())
    GatedFileSystem.before_put = None
    assert back.flush() == 0
    assert len(cold_of(tmp_path).find("")) == 50


def test_refusal_for_good_is_raised_by_flush_and_mended(
    back: TierFileSystem, tmp_path: Path
) -> None:
    def refuse(key: str) -> None:
        raise PermissionError(errno.EACCES, "not yours", key)

    GatedFileSystem.before_put = refuse
    back.pipe_file("k", b"1")
    with pytest.raises(OSError, match="not yours"):
        back.flush()
    assert back.pending()[0].state == "refused"
    GatedFileSystem.before_put = None
    assert back.flush() == 0
    assert cold_of(tmp_path).cat_file("k") == b"1"


def test_cold_full_then_not(tmp_path: Path) -> None:
    tier: Any = fsspec.filesystem(
        "tier", hot=str(tmp_path / "hot"), cold=f"broken://{tmp_path}/cold", write="back"
    )
    BrokenCold.arm(10**9, errno.ENOSPC)
    tier.pipe_file("k", b"1")
    with pytest.raises(OSError, match="No space left"):
        tier.flush()
    assert tier.cat_file("k") == b"1"
    BrokenCold.disarm()
    assert tier.flush() == 0
    assert (tmp_path / "cold/k").read_bytes() == b"1"


@pytest.mark.server
@pytest.mark.parametrize("engine", ["s3fs", "obstore"])
def test_s3_conflict_lost_answer_and_failures(s3: S3Server, tmp_path: Path, engine: str) -> None:
    bucket = s3.make_bucket(f"write-back-conflict-{engine}")
    tier: Any = fsspec.filesystem(
        "tier",
        target_protocol="s3",
        target_options=s3.storage_options,
        hot=str(tmp_path / "hot"),
        write="back",
        engine=engine,
    )
    tier.pipe_file(f"{bucket}/a", b"1")
    tier.flush()
    s3.lose_next(method="PUT", prefix=f"{bucket}/a")
    tier.pipe_file(f"{bucket}/a", b"22")
    tier.flush()
    assert s3.get(f"{bucket}/a") == b"22"
    for number in range(30):
        s3.fail_next(503, method="PUT", prefix=f"{bucket}/n{number}")
        tier.pipe_file(f"{bucket}/n{number}", b"%d" % number)
    tier.flush()
    assert all(s3.get(f"{bucket}/n{number}") == b"%d" % number for number in range(30))
    s3.put(f"{bucket}/a", b"foreign")
    tier.pipe_file(f"{bucket}/a", b"333")
    with pytest.raises(ConflictError):
        tier.flush()
    assert s3.get(f"{bucket}/a") == b"foreign"
    assert tier.cat_file(f"{bucket}/a") == b"333"
    tier.resolve(f"{bucket}/a", keep="hot")
    tier.flush()
    assert s3.get(f"{bucket}/a") == b"333"


def test_fresh_process_sends_what_the_last_one_left(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, write="back", quiet_s=1e9)
    for number in range(20):
        tier.pipe_file(f"n{number}/zarr.json", b"%d" % number)
    TierFileSystem.clear_instance_cache()
    close_engines()
    assert not list((tmp_path / "cold").rglob("*.json")) if (tmp_path / "cold").exists() else True
    again = open_tier(tmp_path, write="back", quiet_s=0.0)
    assert again.flush() == 0
    assert len(list((tmp_path / "cold").rglob("*.json"))) == 20


def test_metadata_younger_than_the_look_is_held(tmp_path: Path) -> None:
    """The uploader reads the clock, then the journal: a write may come in between."""
    tier = open_tier(tmp_path, write="back", quiet_s=5.0)
    before = time.time()
    tier._engine.uploader.stop()  # type: ignore[union-attr]
    tier.pipe_file("a/zarr.json", b"1")
    schedule = Schedule(tier._engine.owing().journal, 5.0, None)
    assert not schedule.next_turn(before).puts
    assert not schedule.next_turn(time.time()).puts
    assert schedule.next_turn(time.time() + 10).puts
    assert schedule.next_turn(before - 60).puts, "the clock was set back"


def test_object_is_sent_once_it_was_left_alone(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, write="back", delay_s=5.0, max_lag_s=60.0)
    tier._engine.uploader.stop()  # type: ignore[union-attr]
    tier.pipe_file("k", b"1")
    journal = tier._engine.owing().journal
    began = journal.select("1")[0].since

    def sent(after_s: float, max_lag_s: float | None = 60.0, delay_s: float = 5.0) -> list[str]:
        turn = Schedule(journal, 0.0, max_lag_s, delay_s).next_turn(began + after_s)
        assert turn.puts or turn.next_s is not None, "somebody has to look again"
        return [change.key for change in turn.puts]

    assert sent(1.0) == []
    assert sent(1.0, max_lag_s=2.0) == ["k"], "cold may not be so far behind"
    assert sent(1.0, delay_s=0.0) == ["k"]
    assert sent(6.0) == ["k"]
    assert sent(-60.0) == ["k"], "the clock was set back"
    journal.ask_for_flush()
    assert sent(0.0) == ["k"]


def test_object_that_is_never_left_alone_is_sent(tmp_path: Path) -> None:
    clock = 1_000_000.0
    with contextlib.closing(Journal(str(tmp_path / "journal.sqlite"), "process")) as journal:
        for number in range(60):
            draft = Draft("log", Kind.PUT, clock + number, None, f"staged-{number}", 1, "")
            journal.record([draft])
            turn = Schedule(journal, 0.0, None, 5.0).next_turn(clock + number + 0.1)
            assert [c.key for c in turn.puts] == (["log"] if number >= 25 else [])


def test_what_is_overwritten_soon_is_sent_once(tmp_path: Path) -> None:
    tier = open_gated(tmp_path, delay_s=1e6)
    puts: list[str] = []
    GatedFileSystem.before_put = puts.append
    for number in range(10):
        tier.pipe_file("k", bytes([number]))
    assert puts == []
    assert tier.flush() == 0
    assert puts == ["k"]
    assert cold_of(tmp_path).cat_file("k") == b"\x09"


def test_writer_that_needs_room_does_not_wait_for_the_delay(tmp_path: Path) -> None:
    tier = open_gated(tmp_path, delay_s=1e6, max_dirty_bytes=1000)
    for number in range(10):
        tier.pipe_file(f"k{number}", bytes(300))
    assert len(tier.pending()) < 10
    assert tier.flush() == 0
    assert sum(len(tier.cat_file(f"k{number}")) for number in range(10)) == 3000


@pytest.mark.parametrize("change", ["small", "large", "rm_file", "rm", "mv"])
def test_what_was_looked_at_is_the_base_of_a_change(tmp_path: Path, change: str) -> None:
    """What ``info`` said is what the writer knew: a foreign write since is a conflict."""
    tier = open_tier(tmp_path, write="back", promote="never")
    cold = tmp_path / "cold/d/k"
    cold.parent.mkdir(parents=True)
    cold.write_bytes(b"seen")
    assert tier.info("d/k")["size"] == 4
    tier._engine.uploader.stop()  # type: ignore[union-attr]
    if change == "rm":
        tier.rm("d", recursive=True)
    elif change == "rm_file":
        tier.rm_file("d/k")
    elif change == "mv":
        tier.mv("d/k", "other")
    else:
        tier.pipe_file("d/k", bytes(10 if change == "small" else 2 << 20))
    cold.unlink()
    cold.write_bytes(b"foreign")
    TierFileSystem.clear_instance_cache()
    close_engines()
    tier = open_tier(tmp_path, write="back", promote="never")
    with pytest.raises(ConflictError):
        tier.flush()
    assert cold.read_bytes() == b"foreign"
