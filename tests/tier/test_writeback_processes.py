"""Several processes on one tier: every change is seen, one process sends, none is lost."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tier_tools import open_tier

from vfs.core.engine import close_engines
from vfs.tier.engine import LEASE_LOCK
from vfs.tier.filesystem import TierFileSystem

CONTEXT = multiprocessing.get_context("spawn")
PATIENCE_S = 60.0


def open_back(top: Path, **options: Any) -> TierFileSystem:
    return open_tier(top, **{"write": "back", "quiet_s": 0.05, **options})


def write_many(top: Path, worker: int, count: int, barrier: Any) -> None:
    tier = open_back(top)
    barrier.wait(PATIENCE_S)
    for number in range(count):
        tier.pipe_file(f"{worker}/{number}", b"%d/%d" % (worker, number))
        # One object that all of them fight for, and one that comes and goes.
        tier.pipe_file("shared", b"%d" % worker * 1000)
        tier.pipe_file(f"gone/{worker}/{number}", b"x")
        tier.rm(f"gone/{worker}", recursive=True)


def test_writers_of_four_processes(tmp_path: Path) -> None:
    barrier = CONTEXT.Barrier(4)
    children = [
        CONTEXT.Process(target=write_many, args=(tmp_path, worker, 15, barrier))
        for worker in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE_S)
        assert child.exitcode == 0
    tier = open_back(tmp_path)
    assert tier.flush(timeout_s=PATIENCE_S) == 0
    cold = {
        p.relative_to(tmp_path / "cold").as_posix(): p.read_bytes()
        for p in (tmp_path / "cold").rglob("*")
        if p.is_file()
    }
    shared = cold.pop("shared")
    assert not [name for name in cold if name.startswith("gone/")]
    assert tier.find("gone") == []
    assert shared == tier.cat_file("shared")
    assert set(shared) <= set(b"0123")
    assert len(set(shared)) == 1, "never a mixture"
    expected = {f"{w}/{n}": b"%d/%d" % (w, n) for w in range(4) for n in range(15)}
    assert cold == expected


def serve(top: Path, questions: Any, answers: Any) -> None:
    tier = open_back(top, quiet_s=1e9)
    while True:
        verb, key, value = questions.get()
        if verb == "end":
            return
        if verb == "put":
            tier.pipe_file(key, value)
            answers.put(None)
        elif verb == "rm":
            tier.rm_file(key)
            answers.put(None)
        elif verb == "get":
            answers.put(tier.cat_file(key) if tier.exists(key) else None)
        elif verb == "lease":
            fd = tier._engine.locks.acquire_now(LEASE_LOCK)
            if fd is not None:
                tier._engine.locks.release(fd)
            answers.put(fd is None)


def test_own_changes_are_seen_at_once_by_another_process(tmp_path: Path) -> None:
    questions, answers = CONTEXT.Queue(), CONTEXT.Queue()
    other = CONTEXT.Process(target=serve, args=(tmp_path, questions, answers))
    other.start()

    def ask(verb: str, key: str, value: bytes = b"") -> Any:
        questions.put((verb, key, value))
        return answers.get(timeout=PATIENCE_S)

    tier = open_back(tmp_path, quiet_s=1e9)
    for number in range(20):
        key = f"n/{number}/zarr.json"  # held, so that only the hot tier can answer
        tier.pipe_file(key, b"mine")
        assert ask("get", key) == b"mine"
        ask("put", key, b"theirs")
        assert tier.cat_file(key) == b"theirs"
        assert tier.info(key)["size"] == 6
        ask("rm", key)
        assert not tier.exists(key)
        with pytest.raises(FileNotFoundError):
            tier.cat_file(key)
        tier.pipe_file(key, b"again")
        assert ask("get", key) == b"again"
        tier.rm_file(key)
        assert ask("get", key) is None
    questions.put(("end", "", b""))
    other.join(PATIENCE_S)
    assert tier.flush(timeout_s=PATIENCE_S) == 0


def hold_lease(top: Path) -> None:
    """Become the uploader, and keep something back."""
    tier = open_back(top, quiet_s=1e9)
    tier.pipe_file("held/zarr.json", b"{}")
    deadline = time.monotonic() + PATIENCE_S
    while tier._engine.uploader is None or tier._engine.uploader._lease is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (top / "reached").touch()
    time.sleep(600)  # until it is killed


def test_uploads_are_taken_over(tmp_path: Path) -> None:
    child = CONTEXT.Process(target=hold_lease, args=(tmp_path,))
    child.start()
    deadline = time.monotonic() + PATIENCE_S
    while not (tmp_path / "reached").exists():
        assert time.monotonic() < deadline
        assert child.is_alive()
        time.sleep(0.01)
    tier = open_back(tmp_path, quiet_s=0.0)
    tier.pipe_file("mine", b"1")
    # The other process has the lease, and sends what is written here.
    while tier.status("mine").dirty:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    uploader = tier._engine.uploader
    assert uploader is not None
    assert uploader._lease is None
    child.kill()
    child.join()
    tier.pipe_file("after", b"2")
    assert tier.flush(timeout_s=PATIENCE_S) == 0
    assert (tmp_path / "cold/held/zarr.json").read_bytes() == b"{}"
    assert (tmp_path / "cold/after").read_bytes() == b"2"


def test_fork_leaves_the_uploads_to_the_parent(tmp_path: Path) -> None:
    tier = open_back(tmp_path, quiet_s=1e9)
    tier.pipe_file("g/zarr.json", b"{}")
    child = multiprocessing.get_context("fork").Process(
        target=lambda: tier.pipe_file("child", b"from the child")
    )
    child.start()
    child.join(PATIENCE_S)
    assert child.exitcode == 0
    assert tier.cat_file("child") == b"from the child"
    assert tier.flush(timeout_s=PATIENCE_S) == 0
    assert (tmp_path / "cold/child").read_bytes() == b"from the child"
    TierFileSystem.clear_instance_cache()
    close_engines()


ENDING = """
import sys
import fsspec

top = sys.argv[1]
fs = fsspec.filesystem("tier", hot=f"{top}/hot", cold=f"disk://{top}/cold", write="back",
    delay_s=60)
for number in range(200):
    fs.pipe_file(f"k{number}", b"%d" % number)
"""


def test_program_that_ends_says_what_waits_and_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    (line,) = done.stderr.splitlines()
    assert "keeps 200 changes that are not in the cold store yet; flush() sends them" in line
    tier = open_back(tmp_path)
    assert not [change for change in tier.pending() if change.error]
    assert len(tier.find("")) == 200
    assert tier.flush(timeout_s=PATIENCE_S) == 0
    assert all((tmp_path / f"cold/k{n}").read_bytes() == b"%d" % n for n in range(200))
