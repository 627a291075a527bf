"""A queue of very many small objects: killed, reopened, looked at, and sent, in bounded memory.

``VFS_WAITING=1000000`` makes it a million; see docs/testing.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tier_tools import open_tier

from vfs.core.engine import close_engines
from vfs.tier.catalog import Row, replace_row
from vfs.tier.change import Change, Draft, Kind
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.overlay import Outline, Overlay
from vfs.types import ObjectInfo

WAITING = int(os.environ.get("VFS_WAITING", "20000"))

#: What a process may need beyond what it has when it begins, however much waits. A list of
#: changes takes some 700 bytes each: 700 MB for a million.
GROWTH_BYTES = 150 << 20

#: Opening 10^5 took 0.9 to 1.4 s on two busy cores; a list in memory would show, a slow disk not.
SECONDS_PER_100_000 = 10.0

FILL = """
import os, signal, sys
import fsspec

top, count = sys.argv[1], int(sys.argv[2])
fs = fsspec.filesystem(
    "tier", hot=f"{top}/hot", cold=f"disk://{top}/cold", write="back", durability="process",
    max_bytes="8 GiB", max_dirty_bytes="8 GiB",
)
fs._mover.uploader.rest()
for first in range(0, count, 5000):
    numbers = range(first, min(count, first + 5000))
    fs.pipe({f"d{n // 1000:04d}/k{n % 1000:04d}": b"%d" % n for n in numbers})
os.kill(os.getpid(), signal.SIGKILL)
"""

DRAIN = """
import json, resource, sys, time
import fsspec

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

top, count = sys.argv[1], int(sys.argv[2])
fs = fsspec.filesystem(
    "tier", hot=f"{top}/hot", cold=f"disk://{top}/cold", write="back", durability="process",
    max_bytes="8 GiB", max_dirty_bytes="8 GiB",
)
fs._mover.uploader.rest()
found, first = {}, peak()

def measure(name, call):
    began = time.monotonic()
    found[name] = [call(), time.monotonic() - began, peak() - first]

measure("open", lambda: fs.stats().dirty_objects)
measure("missing", lambda: fs.exists("d0000/none"))
measure("directory", lambda: fs.isdir("d0000"))
measure("list", lambda: len(fs.ls("", detail=False)))
measure("pending", lambda: [change.path for change in fs.pending(limit=3)])
measure("no wait", lambda: fs.flush(wait=False))
fs._mover.uploader.work()
measure("drain", fs.flush)
measure("left", lambda: fs.stats().dirty_objects)
print(json.dumps(found))
"""


def run_program(program: str, top: Path, count: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, str(top), str(count)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_many_are_found_again_and_sent(tmp_path: Path, record_property: Any) -> None:
    killed = run_program(FILL, tmp_path, WAITING)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run_program(DRAIN, tmp_path, WAITING)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    record_property("figures", found)
    answers = {name: answer for name, (answer, _, _) in found.items()}
    assert answers["open"] == answers["no wait"] == WAITING
    assert (answers["missing"], answers["directory"]) == (False, True)
    assert answers["list"] == -(-WAITING // 1000)
    assert answers["pending"] == ["d0000/k0000", "d0000/k0001", "d0000/k0002"]
    assert answers["drain"] == answers["left"] == 0
    assert max(growth for _, _, growth in found.values()) < GROWTH_BYTES, found
    assert found["open"][1] < max(5.0, SECONDS_PER_100_000 * WAITING / 100_000)
    for number in range(WAITING):
        path = tmp_path / f"cold/d{number // 1000:04d}/k{number % 1000:04d}"
        assert path.read_bytes() == b"%d" % number


def test_recovery_compares_two_long_lists_by_key(tmp_path: Path) -> None:
    """Rows of the journal and marks of the catalogue, more than a page, with gaps in both."""
    tier = open_tier(tmp_path, write="back", durability="process")
    tier._mover.uploader.rest()
    count = 2500
    for first in range(0, count, 500):
        tier.pipe({f"k{n:05d}": b"%d" % n for n in range(first, first + 500)})
    catalog, journal = tier._engine.catalog, tier._engine.owing().journal
    with catalog.transaction() as db:
        db.execute("UPDATE objects SET dirty=0 WHERE key GLOB '*3'")  # killed before the mark
        clean = tmp_path / "hot/k00001x"
        clean.write_bytes(b"sent")
        row = Row("k00001x", 4, clean.stat().st_ino, "hot-1", 0.0, dirty=True)
        replace_row(db, row, None)  # killed after the journal had forgotten it
    assert [c.key for c in journal.each()] == [f"k{n:05d}" for n in range(count)]
    assert [c.key for c in journal.each("kind=1")] == []
    TierFileSystem.clear_instance_cache()
    close_engines()
    again = open_tier(tmp_path, write="back", durability="process")
    again._mover.uploader.rest()
    assert again.stats().dirty_objects == count
    rows = [key for key, _ in again._engine.catalog.dirty_inodes()]
    assert rows == [f"k{n:05d}" for n in range(count)]
    again._mover.uploader.work()
    assert again.flush(timeout_s=120) == 0
    assert len(list((tmp_path / "cold").iterdir())) == count


def test_turns_and_flushes_do_not_scan_what_waits(tmp_path: Path) -> None:
    """What is asked at each turn is answered from an index, whatever the number of rows."""
    tier = open_tier(tmp_path, write="back", durability="process", quiet_s=1e9)
    tier.pipe_file("g/zarr.json", b"{}")
    journal = tier._engine.owing().journal
    asked: list[str] = []
    journal._db.set_trace_callback(asked.append)
    tier._mover.uploader._schedule(tier._engine.owing()).next_turn(1e12)
    journal.soonest(0.0)
    journal.ask_for_flush()
    journal.totals()
    journal._db.set_trace_callback(None)
    plans = []
    for query in asked:
        if "changes" in query and query.startswith(("SELECT", "UPDATE")):
            plan = journal._db.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            plans += [(query, row[3]) for row in plan]
    assert plans
    slow = [
        (query, step)
        for query, step in plans
        if step.startswith("SCAN changes") and "USING" not in step
    ]
    assert slow == []
    tier.flush()


def test_overlay_of_outlines() -> None:
    def put(key: str) -> Outline:
        return Outline(key, Kind.PUT, 1, 0.0, 7)

    def removed(key: str) -> Outline:
        return Outline(key, Kind.DELETE, 0, 0.0, 8)

    near = Overlay("d", [put("d/a"), put("d/e/f/g"), removed("d/h/i"), removed("d/j")], set())
    assert near
    assert not Overlay("d", [], set())
    assert near.has_put_below("d")
    assert near.has_put_below("d/e")
    assert not near.has_put_below("d/h")
    assert near.doubts("d/h")
    assert not near.doubts("d/e")
    assert near.removed == ["d/h/i", "d/j"]
    cold = [ObjectInfo("d/j", 3), ObjectInfo("d/k", 4), ObjectInfo("d/h", 0, kind="directory")]
    children = {(info.key, info.kind, info.size) for info in near.children(cold)}
    assert children == {
        ("d/a", "file", 1),
        ("d/e", "directory", 0),
        ("d/h", "directory", 0),
        ("d/k", "file", 4),
    }
    root = Overlay("", [put("x/y")], set())
    assert root.has_put_below("")
    assert [info.key for info in root.children([])] == ["x"]
    assert Overlay("/", [put("/x/y")], set()).has_put_below("/")


def test_change_and_draft_fit_the_columns(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, write="back")
    journal = tier._engine.owing().journal
    tier._mover.uploader.rest()
    ((change, old),) = journal.record([Draft("k", Kind.DELETE, 5.0)])
    assert old is None
    assert isinstance(change, Change)
    assert list(journal.each()) == [change] == journal.select("1")
    assert list(journal.outlines("")) == [Outline("k", Kind.DELETE, 0, 5.0, change.gen)]
    assert list(journal.outlines("k")) == []
    journal.forget(change)
