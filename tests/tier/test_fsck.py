"""fsck and scrub: what they find, what they mend, and what they must never remove."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tier_tools import hot_files, open_tier

from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.engine import close_engines
from vfs.core.loop import wait
from vfs.errors import IntegrityError
from vfs.observe import Event, subscribe
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.fsck import FsckReport, Problem


def quiet(top: Path, **options: Any) -> TierFileSystem:
    tier = open_tier(top, **options)
    tier._mover.uploader.rest()
    return tier


def told(report: FsckReport) -> dict[str, str]:
    return {problem.path: problem.kind for problem in report.problems}


def rot(path: Path) -> None:
    """Change a byte in place, as a disk does: same inode, size and time."""
    facts = path.stat()
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_all_is_well(tmp_path: Path) -> None:
    tier = quiet(tmp_path, rules=[{"match": "back/**", "write": "back"}])
    tier.pipe({"a": b"123", "d/b": b"", "back/c": b"45"})
    tier.evict("a")
    tier.cat_file("a")
    seen: list[tuple[int, int]] = []
    report = tier.fsck(progress=lambda done, total: seen.append((done, total)))
    assert (report.problems, report.ok) == ((), True)
    assert (report.objects, report.bytes, report.hashed) == (3, 5, 0)
    assert "3 copies checked" in str(report)


@pytest.mark.parametrize("how", ["written", "promoted", "streamed", "from a file", "sent"])
def test_every_copy_is_hashed_when_it_is_written(tmp_path: Path, how: str) -> None:
    tier = open_tier(tmp_path, write="back" if how == "sent" else "through")
    data = bytes(range(256)) * (20 << 12 if how == "streamed" else 4)
    if how == "from a file":
        (tmp_path / "local").write_bytes(data)
        tier.put_file(str(tmp_path / "local"), "a")
    else:
        tier.pipe_file("a", data)
    if how in {"promoted", "streamed"}:
        tier.evict("a")
        tier.promote("a")
    tier.flush()
    assert tier.fsck() == FsckReport(1, len(data), 0, ())
    rot(tmp_path / "hot/a")
    assert told(tier.fsck()) == {"a": "corrupt"}
    assert tier.fsck(repair=True).ok
    assert tier.cat_file("a") == data


def test_corrupt_clean_copy_is_dropped_and_fetched_again(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, rules=[{"match": "**", "pin": True}])
    tier.pipe({"a": b"right", "b": b"other"})
    rot(tmp_path / "hot/a")
    report = tier.fsck()
    assert (told(report), report.ok) == ({"a": "corrupt"}, False)
    assert set(hot_files(tmp_path)) == {"a", "b"}, "only looked"
    seen: list[Event] = []
    with subscribe(seen.append):
        report = tier.fsck(repair=True)
    assert report.problems == (
        Problem("corrupt", "a", "its bytes are not those that were written", False, True),
    )
    assert [(e.kind, e.key) for e in seen if e.kind == "damaged"] == [("damaged", "a")]
    assert set(hot_files(tmp_path)) == {"b"}
    assert tier.cat_file("a") == b"right"
    assert tier.fsck().problems == ()
    assert tier.stats().hot_bytes == 10


def test_corrupt_dirty_copy_is_kept_aside(tmp_path: Path) -> None:
    tier = quiet(tmp_path, write="back")
    tier.pipe_file("a", b"only here")
    rot(tmp_path / "hot/a")
    assert told(tier.fsck()) == {"a": "corrupt"}
    assert set(hot_files(tmp_path)) == {"a"}
    report = tier.fsck(repair=True)
    assert [(p.kind, p.dirty, p.repaired) for p in report.problems] == [("corrupt", True, False)]
    assert not report.ok
    (kept,) = (tmp_path / "hot/.vfs/aside").iterdir()
    assert kept.read_bytes()[1:] == b"nly here"
    with pytest.raises(IntegrityError):
        tier.cat_file("a")
    assert told(tier.fsck(repair=True)) == {"a": "lost"}
    assert not (tmp_path / "cold/a").exists()
    assert list((tmp_path / "hot/.vfs/aside").iterdir()) == [kept]
    tier.pipe_file("a", b"again")
    assert tier.fsck().problems == ()


def cut(top: Path) -> None:
    os.truncate(top / "hot/a", 2)


def lose(top: Path) -> None:
    (top / "hot/a").unlink()


def swap(top: Path) -> None:
    (top / "hot/other").write_bytes(b"right")
    (top / "hot/other").rename(top / "hot/a")


@pytest.mark.parametrize("harm, kind", [(cut, "corrupt"), (lose, "missing"), (swap, "missing")])
def test_clean_copies_that_are_not_as_recorded(
    tmp_path: Path, harm: Callable[[Path], None], kind: str
) -> None:
    tier = open_tier(tmp_path)
    tier.pipe({"a": b"right", "b": b"1"})
    harm(tmp_path)
    assert told(tier.fsck()) == {"a": kind}
    assert tier.fsck(repair=True).ok
    assert tier.fsck(repair=True).problems == ()
    assert tier.cat_file("a") == b"right"
    assert tier.stats().hot_bytes == sum(map(len, hot_files(tmp_path).values()))


@pytest.mark.parametrize("harm, kind", [(cut, "corrupt"), (lose, "lost")])
def test_unsent_copies_that_are_not_as_recorded(
    tmp_path: Path, harm: Callable[[Path], None], kind: str
) -> None:
    tier = quiet(tmp_path, write="back")
    tier.pipe({"a": b"right", "b": b"1"})
    harm(tmp_path)
    assert told(tier.fsck()) == {"a": kind}
    report = tier.fsck(repair=True)
    assert (told(report), report.ok) == ({"a": kind}, False)
    with pytest.raises(IntegrityError):
        tier.cat_file("a")
    assert tier.cat_file("b") == b"1"
    assert tier.stats().hot_bytes == 1
    assert {c.path: c.state for c in tier.pending()} == {"a": "corrupt", "b": "waiting"}


def test_orphans_go_and_what_the_journal_names_stays(tmp_path: Path) -> None:
    tier = quiet(tmp_path, write="back")
    tier.pipe({"a": b"1", "lost": b"1"})
    (tmp_path / "hot/d").mkdir()
    (tmp_path / "hot/d/orphan").write_bytes(b"123")
    (tmp_path / "hot/lost").unlink()
    with sqlite3.connect(tmp_path / "hot/.vfs/catalog.sqlite") as db:
        db.execute("DELETE FROM objects")
    db.close()
    expected = {"d/orphan": "orphan", "a": "uncounted", "lost": "lost"}
    assert told(tier.fsck()) == expected
    assert (tmp_path / "hot/d/orphan").exists()
    assert told(tier.fsck(repair=True)) == expected
    assert hot_files(tmp_path) == {"a": b"1"}
    assert not (tmp_path / "hot/d").exists()
    assert told(tier.fsck()) == {"lost": "lost"}
    assert tier.stats().dirty_objects == 2


def test_cold_is_asked_and_never_mended(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    tier.pipe(dict.fromkeys(("a", "b", "c", "d"), b"right"))
    tier.info("c")
    (tmp_path / "cold/a").unlink()
    (tmp_path / "cold/b").write_bytes(b"longer than it was")
    (tmp_path / "cold/c").unlink()
    (tmp_path / "cold/c").write_bytes(b"wrong")
    expected = {"a": "cold_lacks", "b": "cold_differs", "c": "cold_differs"}
    assert told(tier.fsck()) == expected
    assert told(tier.fsck(repair=True)) == expected
    assert set(hot_files(tmp_path)) == {"a", "b", "c", "d"}
    before = tier.stats().cold_requests
    assert tier.fsck(cold=False).problems == ()
    assert tier.stats().cold_requests == before


def test_checking_does_not_make_a_copy_look_used(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, rules=[{"match": "**", "demote": {"age_s": 60}}])
    tier.pipe_file("a", b"1")
    # Old enough that the kernel itself would renew the time at a read.
    os.utime(tmp_path / "hot/a", (time.time() - 1e6,) * 2)
    before = (tmp_path / "hot/a").stat().st_atime
    assert tier.fsck().ok
    assert (tmp_path / "hot/a").stat().st_atime == before
    assert len(tier.plan()) == 1


def test_copy_that_another_process_is_evicting_is_not_missing(tmp_path: Path) -> None:
    tier = quiet(tmp_path)
    tier.pipe({"a": b"1", "b": b"2"})
    catalogue = tmp_path / "hot/.vfs/catalog.sqlite"
    with (
        ThreadPoolExecutor(1) as pool,
        contextlib.closing(sqlite3.connect(catalogue, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM objects WHERE key='a'")
        (tmp_path / "hot/a").unlink()
        checking = pool.submit(tier.fsck)
        assert not futures.wait([checking], timeout=0.5).done, "it has not waited for the other"
        other.execute("COMMIT")
        assert not checking.result(30).problems


@pytest.mark.parametrize("all_at_once", [True, False])
def test_copies_that_go_while_they_are_listed(tmp_path: Path, all_at_once: bool) -> None:
    tier = quiet(tmp_path)
    tier.pipe({f"{folder}/{n}": b"1" for folder in "abc" for n in range(9)})
    walk = tier._engine.hot.walk(tier._engine.absolute_keys)
    seen = {next(walk)[0]}
    if all_at_once:
        tier.evict("", recursive=True)
    else:
        (folder,) = {key.partition("/")[0] for key in seen}
        tier.evict(folder, recursive=True)
        for other in set("abc") - {folder}:
            tier.rm(other, recursive=True)
            tier.pipe_file(other, b"an object")
    assert {key.partition("/")[0] for key, _ in walk} <= {key.partition("/")[0] for key in seen}
    assert not tier.fsck().problems


def test_a_copy_that_is_being_changed_is_left_alone(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    tier.pipe({"a": b"1", "b": b"1"})
    rot(tmp_path / "hot/a")
    (tmp_path / "hot/orphan").write_bytes(b"1")
    held = [tier._engine.lock_for_change(name) for name in ("a", "orphan")]
    assert tier.fsck(repair=True, cold=False).problems == ()
    for fd in held:
        assert fd is not None
        tier._engine.locks.release(fd)
    assert told(tier.fsck(repair=True)) == {"a": "corrupt", "orphan": "orphan"}


def test_catalogue_of_the_version_before_is_brought_up_to_date(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    tier.pipe({"a": b"123", "cut": b"123"})
    etag = tier.info("a")["etag"]
    TierFileSystem.clear_instance_cache()
    close_engines()
    with sqlite3.connect(tmp_path / "hot/.vfs/catalog.sqlite") as db:
        db.execute("ALTER TABLE objects DROP COLUMN hash")
        db.execute("DROP TABLE moves")
        db.execute("DROP TABLE cold_reads")
        db.execute("PRAGMA user_version=2")
    db.close()
    tier = open_tier(tmp_path)
    row = tier._engine.catalog.row("a") if tier._engine.usable() else None
    assert row is not None
    assert (row.etag, row.hash) == (etag, None), "migrated, not rebuilt"
    os.truncate(tmp_path / "hot/cut", 2)
    report = tier.fsck(repair=True)
    assert (report.hashed, told(report)) == (1, {"cut": "corrupt"})
    assert tier.fsck() == FsckReport(1, 3, 0, ())
    rot(tmp_path / "hot/a")
    assert told(tier.fsck()) == {"a": "corrupt"}
    assert len(tier.plan()) == 0


def test_checksums_outlive_a_rebuild(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    tier.pipe_file("a", b"123")
    TierFileSystem.clear_instance_cache()
    close_engines()
    with sqlite3.connect(tmp_path / "hot/.vfs/catalog.sqlite") as db:
        db.execute("UPDATE meta SET value='another boot' WHERE name='boot'")
    db.close()
    rot(tmp_path / "hot/a")
    assert told(open_tier(tmp_path).fsck()) == {"a": "corrupt"}


def test_scrub_mends_and_keeps_its_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = open_tier(tmp_path)
    tier.pipe(dict.fromkeys("abcd", bytes(1000)))
    rot(tmp_path / "hot/b")
    slept: list[float] = []

    class Clock:
        wall_s = staticmethod(SYSTEM_CLOCK.wall_s)

        @staticmethod
        def monotonic_s() -> float:
            return sum(slept)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("vfs.tier.checkverbs.SYSTEM_CLOCK", Clock)
    monkeypatch.setattr("vfs.tier.checkverbs.asyncio.sleep", sleep)
    seen: list[Problem] = []
    report: FsckReport = wait(tier._scrub, 100.0, seen.append)
    assert [problem.path for problem in seen] == ["b"]
    assert (report.objects, report.bytes) == (3, 4000)
    assert sum(slept) == pytest.approx(40.0)
    assert max(slept) <= 10.0 + 1e-9
    assert set(hot_files(tmp_path)) == {"a", "c", "d"}
