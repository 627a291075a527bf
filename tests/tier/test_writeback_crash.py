"""Write-back and death: a process killed at every step, and what must be synced before what."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from small_process import in_a_small_process
from tier_crash_tools import REAL, die_at, recorded, remove_tree
from tier_tools import (
    BrokenCold,
    forget,
    hot_files,
    open_broken,
    open_files_below,
    open_tier,
    staged_files,
)

from vfs.core.engine import close_engines
from vfs.tier import engine as engine_module
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.journal import Journal

#: Kills of one run; see docs/testing.md for the sizes of a run and of a release.
CYCLES = int(os.environ.get("VFS_CRASH_CYCLES", "8000"))

#: Parts of the run, so that they can be spread over processes.
PARTS = 16

OPTIONS: dict[str, Any] = {"write": "back", "max_bytes": 60_000, "quiet_s": 0.0}
KEYS = ("a", "d/b", "d/e/c")


#: In a place of this name there is a directory above the hot one, too small for everything.
STACKED = "stacked"


def open_back(top: Path, **options: Any) -> TierFileSystem:
    if STACKED not in top.name:
        return open_tier(top, **{**OPTIONS, **options})
    first = {"hot": str(top / "top"), "max_bytes": 20_000}
    tiers = [first, str(top / "hot"), f"disk://{top}/cold"]
    found: TierFileSystem = fsspec.filesystem("tier", tiers=tiers, **{**OPTIONS, **options})
    return found


def payload(key: str, version: int) -> bytes:
    return random.Random(f"{key}/{version}").randbytes(200 + 4000 * version)


@contextlib.contextmanager
def commits_recorded(monkeypatch: pytest.MonkeyPatch, calls: list[Any]) -> Iterator[None]:
    real = Journal.record

    def record(self: Journal, drafts: Any) -> Any:
        found = real(self, drafts)
        calls.append(("commit", ""))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record", record)
        yield


def test_put_is_durable_in_the_right_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = open_back(tmp_path)
    tier.pipe_file("d/k", b"old")
    tier.flush()
    with recorded(monkeypatch) as calls, commits_recorded(monkeypatch, calls):
        tier.pipe_file("d/k", b"new")
    temporary = str(tmp_path / "hot/.vfs/tmp")
    named = calls.index(("rename", str(tmp_path / "hot/d/k")))
    staged = calls[named + 1][1]
    assert os.path.dirname(staged) == temporary
    order = [
        calls.index(("fsync", staged)),
        calls.index(("fsync", temporary)),
        calls.index(("commit", "")),
        named,
    ]
    assert order == sorted(order)
    assert ("unlink", str(tmp_path / "hot/d/k")) not in calls, "the old one may be the only one"
    level = tier._engine.owing().journal._db.execute("PRAGMA synchronous").fetchone()[0]
    assert level == 2, "FULL"


def test_tombstone_is_committed_before_the_copy_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = open_back(tmp_path)
    tier.pipe_file("d/k", b"old")
    tier.flush()
    with recorded(monkeypatch) as calls, commits_recorded(monkeypatch, calls):
        tier.rm_file("d/k")
    gone = calls.index(("unlink", str(tmp_path / "hot/d/k")))
    assert calls.index(("commit", "")) < gone
    assert ("fsync", str(tmp_path / "hot/d")) in calls[gone:]


def test_name_is_synced_before_the_row_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = open_back(tmp_path)
    real = Journal.finish
    with recorded(monkeypatch) as calls:

        def finish(self: Journal, done: Any) -> None:
            calls.append(("finish", ""))
            real(self, done)

        monkeypatch.setattr(Journal, "finish", finish)
        tier.pipe_file("d/k", b"new")
        tier.flush()
    named = calls.index(("rename", str(tmp_path / "hot/d/k")))
    synced = calls.index(("fsync", str(tmp_path / "hot/d")), named)
    assert synced < calls.index(("finish", ""))


def test_process_durability_syncs_the_bytes_before_they_count_as_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = open_back(tmp_path, durability="process")
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    tier.pipe_file("k", b"new")
    inode = os.stat(tmp_path / "hot/k").st_ino
    tier.flush()
    assert inode in synced


# -------------------------------------------------------------------- kill -9


def scenario(top: Path, seed: int) -> None:
    """Do a few things to a tier and acknowledge each in a log that outlives the process."""
    choose = random.Random(seed)
    tier = open_back(top, durability=choose.choice(["power", "process"]))
    log = os.open(top / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def logged(call: Callable[..., Any], *args: Any, sets: dict[str, int], **kwargs: Any) -> None:
        for mark in "?=":
            for key, version in sets.items():
                REAL["write"](log, f"{mark} {key} {version}\n".encode())
            if mark == "?":
                with contextlib.suppress(FileNotFoundError):
                    call(*args, **kwargs)

    for _ in range(4):
        key, version = choose.choice(KEYS), choose.randrange(1, 4)
        value = payload(key, version)
        steps: dict[str, Callable[[], None]] = {
            "put": partial(logged, tier.pipe_file, key, value, sets={key: version}),
            "read": partial(logged, tier.cat_file, key, sets={}),
            "rm": partial(logged, tier.rm_file, key, sets={key: 0}),
            "mv": partial(logged, tier.mv, key, "moved", sets={key: 0}),
            "rmtree": partial(logged, tier.rm, "d", recursive=True, sets={"d/b": 0, "d/e/c": 0}),
            "flush": partial(logged, tier.flush, sets={}),
        }
        steps[choose.choice(["put", "put", "put", "read", "rm", "mv", "rmtree", "flush"])]()


def run_killed(top: Path, seed: int, count: int, act: Callable[[Path, int], None]) -> bool:
    """Run something in a forked process that dies at a call; say whether it got that far."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            die_at(count)
            act(top, seed)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "it failed by itself"
    return os.WIFSIGNALED(status)


def come_back(top: Path, seed: int) -> None:
    """Recover, and send what is left."""
    open_back(top).flush()


def allowed(top: Path) -> dict[str, set[int]]:
    versions: dict[str, set[int]] = {}
    for line in (top / "log").read_text().splitlines():
        kind, key, version = line.split()
        if kind == "=":
            versions[key] = {int(version)}
        else:
            versions.setdefault(key, {0}).add(int(version))
    return versions


def check(top: Path) -> None:
    """Come back as another process; compare everything, before and after the rest is sent."""
    tier = open_back(top)
    versions = allowed(top)
    for when in ("recovered", "again", "flushed"):
        if when == "flushed":
            assert tier.flush() == 0
        for key, possible in versions.items():
            data = tier.cat_file(key) if tier.exists(key) else None
            found = {v for v in possible if data == (payload(key, v) if v else None)}
            assert found, (key, possible, data and len(data), when)
            possible.intersection_update(found)  # whatever it is, it stays
    for key, possible in versions.items():
        path = top / "cold" / key
        cold = path.read_bytes() if path.is_file() else None
        assert any(cold == (payload(key, v) if v else None) for v in possible), (key, possible)
    for stats in (tier.stats(), *tier.stats().below):
        name = Path(stats.directory).name
        copies = hot_files(top, name)
        for key, copy in copies.items():
            assert (top / "cold" / key).read_bytes() == copy, f"{name}: {key} is stale or torn"
        assert stats.dirty_objects == stats.dirty_bytes == 0
        assert sum(map(len, copies.values())) == stats.hot_bytes <= stats.max_bytes
        assert len(copies) == stats.hot_objects
        assert staged_files(top, name) == []
    TierFileSystem.clear_instance_cache()
    close_engines()


def prepare(place: Path) -> None:
    place.mkdir()
    for key in ("a", "d/b"):
        (place / "cold" / key).parent.mkdir(parents=True, exist_ok=True)
        (place / "cold" / key).write_bytes(payload(key, 1))
    (place / "log").write_text("= a 1\n= d/b 1\n")


def kill_everywhere(top: Path, cycles: int, first_seed: int, prefix: str = "s") -> int:
    """Kill at every call of one scenario after another, and now and then recovery as well."""
    done, seed = 0, first_seed
    while done < cycles:
        count = 1
        place = top / f"{prefix}{seed}"
        while True:
            prepare(place)
            killed = run_killed(place, seed, count, scenario)
            done += killed
            again = random.Random(f"{seed}/{count}").randrange(1, 40)
            done += run_killed(place, seed, again, come_back)
            check(place)
            remove_tree(place)
            count += 1
            if not killed or done >= cycles:
                break
        seed += 1
    return done


def test_killed_at_a_hundred_calls(tmp_path: Path) -> None:
    assert kill_everywhere(tmp_path, 100, first_seed=0) >= 100


def test_killed_at_sixty_calls_with_a_directory_above(tmp_path: Path) -> None:
    assert kill_everywhere(tmp_path, 60, first_seed=7, prefix=STACKED) >= 60


@pytest.mark.crash
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_every_call(fast_place: Path, part: int) -> None:
    cycles = CYCLES // PARTS
    seed = 1000 * (part + 1)
    assert in_a_small_process(kill_everywhere, fast_place, cycles, seed) >= cycles


@pytest.mark.crash
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS // 2))
def test_killed_at_every_call_with_a_directory_above(fast_place: Path, part: int) -> None:
    cycles, seed = CYCLES // PARTS, 1_000_000 * (part + 1)
    done = in_a_small_process(kill_everywhere, fast_place, cycles, seed, prefix=STACKED)
    assert done >= cycles


# -------------------------------------------------------------------- what else can be lost


def commit_and_die(top: Path, seed: int) -> None:
    """Die between the commit and the rename."""
    from vfs.tier.dirty import DirtyStore

    tier = open_back(top)
    tier.exists("k")
    DirtyStore.publish = lambda *_: os._exit(0)  # type: ignore[method-assign]
    tier.pipe_file("k", b"committed")


def test_burial_leaves_what_the_journal_names(tmp_path: Path) -> None:
    (tmp_path / "cold").mkdir()
    assert not run_killed(tmp_path, 0, 10**9, commit_and_die)
    assert len(staged_files(tmp_path)) == 1
    through = open_tier(tmp_path, max_bytes=60_000)
    assert through.cat_file("k") == b"committed", "a tier of another mode recovers it, too"
    assert through.flush() == 0
    assert (tmp_path / "cold/k").read_bytes() == b"committed"


def remove_and_die(top: Path, seed: int) -> None:
    """Die between the commit of a tombstone and the removal of the hot copy."""
    from vfs.tier.dirty import DirtyStore

    tier = open_back(top)
    tier.pipe_file("k", b"removed")
    tier.flush()
    DirtyStore._drop = lambda *_: os._exit(0)  # type: ignore[method-assign]
    tier.rm_file("k")


def test_removal_that_was_committed_is_finished(tmp_path: Path) -> None:
    assert not run_killed(tmp_path, 0, 10**9, remove_and_die)
    assert hot_files(tmp_path) == {"k": b"removed"}
    through = open_tier(tmp_path, max_bytes=60_000)
    assert not through.exists("k")
    with pytest.raises(FileNotFoundError):
        through.cat_file("k")
    assert through.flush() == 0
    assert not (tmp_path / "cold/k").exists()


def upload_and_die(top: Path, seed: int) -> None:
    """Die when cold has an object, and nothing here says so yet."""
    tier = open_broken(top)
    tier.pipe_file("k", b"old")
    tier.flush()
    BrokenCold.after_put = lambda _: os._exit(0)
    tier.pipe_file("k", b"first")
    tier.flush()


def test_overwrite_after_an_upload_whose_process_died_is_no_conflict(tmp_path: Path) -> None:
    assert not run_killed(tmp_path, 0, 10**9, upload_and_die)
    assert (tmp_path / "cold/k").read_bytes() == b"first"
    tier = open_broken(tmp_path)
    tier._mover.uploader.rest()
    tier.pipe_file("k", b"second")
    tier._mover.uploader.forget_after_fork()
    assert tier.flush() == 0
    assert (tmp_path / "cold/k").read_bytes() == b"second"


def test_power_cut_keeps_what_is_dirty(tmp_path: Path) -> None:
    """Come back on another boot's catalogue: the journal says what may not be evicted."""
    tier = open_back(tmp_path, quiet_s=1e9)
    tier.pipe_file("g/zarr.json", b"{}" * 10)  # held, so that it stays dirty
    TierFileSystem.clear_instance_cache()
    close_engines()
    for path in (tmp_path / "hot/.vfs").glob("catalog.sqlite*"):
        path.unlink()
    again = open_back(tmp_path, quiet_s=1e9)
    assert again.cat_file("g/zarr.json") == b"{}" * 10
    assert again.evict("", recursive=True) == 0
    assert again.status("g/zarr.json").dirty


def test_power_cut_after_process_durability_trusts_no_copy_without_a_row(tmp_path: Path) -> None:
    tier = open_back(tmp_path, durability="process")
    tier.pipe_file("k", b"new")
    tier.flush()
    TierFileSystem.clear_instance_cache()
    close_engines()
    (tmp_path / "hot/k").write_bytes(b"\0\0\0")  # what a journalling disk may leave
    with contextlib.closing(sqlite3.connect(tmp_path / "hot/.vfs/catalog.sqlite")) as db:
        db.execute("UPDATE meta SET value='another boot' WHERE name='boot'")
        db.commit()
    assert open_back(tmp_path, durability="process").cat_file("k") == b"new"


def test_damaged_journal_is_an_error_not_a_new_journal(tmp_path: Path) -> None:
    tier = open_back(tmp_path, quiet_s=1e9)
    tier.pipe_file("g/zarr.json", b"{}")
    TierFileSystem.clear_instance_cache()
    close_engines()
    journal = tmp_path / "hot/.vfs/journal.sqlite"
    journal.write_bytes(b"not a database" * 1000)
    for options in ({}, {"write": "through"}):
        again = open_tier(tmp_path, **options)
        with pytest.raises(OSError, match="journal"):
            again.cat_file("g/zarr.json")
        TierFileSystem.clear_instance_cache()
        close_engines()
    assert journal.read_bytes() == b"not a database" * 1000


@pytest.mark.parametrize("broken", ["journal.sqlite", "heat", "generations", "tmp", "pins.json"])
def test_directory_that_cannot_be_opened_costs_no_descriptors(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_back(tmp_path, quiet_s=1e9).pipe_file("k", b"value")
    TierFileSystem.clear_instance_cache()
    close_engines()
    path = tmp_path / "hot/.vfs" / broken
    remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if broken in ("heat", "generations"):
        path.mkdir()
    else:
        path.write_bytes(b"neither a database nor a directory")
    monkeypatch.setattr(engine_module, "_RETRY_S", 0.0)
    again = open_back(tmp_path)
    state = f"{tmp_path}/hot/.vfs"
    tries = 10
    for _ in range(tries):  # every 10 s, for as long as the process lives
        with pytest.raises(OSError, match="hot tier"):
            again.cat_file("k")
    # The two tables stay for those who look into them without a lock, as threads may still.
    left = open_files_below(tmp_path)
    assert set(left) <= {f"{state}/generations", f"{state}/heat"}
    assert len(left) < tries


def test_directory_that_was_lost_is_let_go_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_RETRY_S", 0.0)
    tier = open_back(tmp_path)
    tier.pipe_file("k", b"value")
    tier.flush()
    for _ in range(3):
        os.rename(tmp_path / "hot", tmp_path / "away")
        with pytest.raises(OSError, match="hot tier"):
            tier.cat_file("k")
        os.rename(tmp_path / "away", tmp_path / "hot")
        assert tier.cat_file("k") == b"value"
    close_engines()
    assert not [path for path in open_files_below(tmp_path) if path.endswith("locks")]


def test_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    open_back(tmp_path).pipe_file("k", b"1")
    TierFileSystem.clear_instance_cache()
    close_engines()
    with contextlib.closing(sqlite3.connect(tmp_path / "hot/.vfs/journal.sqlite")) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(OSError, match="99"):
        open_back(tmp_path).cat_file("k")


def test_older_journal_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vfs.tier.journal as module

    path = str(tmp_path / "journal.sqlite")
    Journal(path, "power").close()
    newer = module.SCHEMA_VERSION + 1
    more = {newer - 1: lambda db: db.execute("ALTER TABLE changes ADD COLUMN more TEXT")}
    monkeypatch.setattr(module, "SCHEMA_VERSION", newer)
    monkeypatch.setattr(module, "MIGRATIONS", more)
    Journal(path, "power").close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (newer,)
        assert "more" in {row[1] for row in db.execute("PRAGMA table_info(changes)")}


def test_journal_of_the_first_format_keeps_what_waits(tmp_path: Path) -> None:
    """As the version before wrote it: one change waits, and is sent."""
    back = open_back(tmp_path, delay_s=3600.0)
    back.pipe_file("k", b"waits")
    forget()
    path = tmp_path / "hot/.vfs/journal.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE changes DROP COLUMN first")
        db.execute("PRAGMA user_version=1")
    again = open_back(tmp_path, delay_s=3600.0)
    assert [change.path for change in again.pending()] == ["k"]
    again.pipe_file("k", b"newer")
    assert again.flush() == 0
    assert (tmp_path / "cold/k").read_bytes() == b"newer"
