"""A hot disk that fails: EIO and ENOSPC at each call of each operation, and at each statement.

One call fails, the operation raises or succeeds, and then the disk is well again. Whatever the
moment was, what was acknowledged is read, the rest is old or new, and nothing is left over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tier_crash_tools import DURABLE_CALLS, REAL
from tier_tools import hot_files, open_tier, staged_files

from vfs.core.engine import close_engines
from vfs.tier.filesystem import TierFileSystem

CODES = [errno.EIO, errno.ENOSPC]
PATIENCE_S = 60.0

OLD, NEW = b"old" * 3000, b"newer" * 3000


class FaultyCalls:
    """Let the ``count``-th call that changes the disk fail; only those of one directory count.

    A sync that failed must not be asked of the same file again: the kernel has dropped the pages,
    and would say that all is well.
    """

    def __init__(self, top: Path, count: int, code: int) -> None:
        self.top, self.left, self.code = str(top), count, code
        self.failed = ""
        self.repeated: list[str] = []
        self._bad_inodes: set[int] = set()
        self._names: dict[int, str] = {}

    def _call(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            path = self._path_of(args[0])
            if name == "fsync":
                self._note_sync(args[0])
            if path.startswith(self.top) and self._is_due(name, path, args):
                if name == "fsync" and not os.path.isdir(path):
                    self._bad_inodes.add(os.fstat(args[0]).st_ino)
                raise OSError(self.code, os.strerror(self.code), path)
            return REAL[name](*args, **kwargs)

        return call

    def _path_of(self, what: Any) -> str:
        if isinstance(what, int):
            with contextlib.suppress(OSError):
                return str(os.readlink(f"/proc/self/fd/{what}"))
            return ""
        return str(os.fspath(what))

    def _is_due(self, name: str, path: str, args: tuple[Any, ...]) -> bool:
        if name == "open" and not args[1] & os.O_CREAT:
            return False  # reading is another matter
        if path.endswith("locks"):
            return False  # made and empty since the tier was opened
        self.left -= 1
        if self.left == 0:
            self.failed = f"{name} {path.removeprefix(self.top)}"
        return self.left == 0

    def _note_sync(self, fd: int) -> None:
        if os.fstat(fd).st_ino in self._bad_inodes:
            self.repeated.append(self._path_of(fd))

    @contextlib.contextmanager
    def armed(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for name in DURABLE_CALLS:
                patch.setattr(os, name, self._call(name))
            yield


class FaultyDatabase:
    """A connection whose ``count``-th statement fails, before or after it was done."""

    def __init__(self, real: Any, count: int, code: int, *, after: bool) -> None:
        self.real, self.left, self.code, self.after = real, count, code, after
        self.failed = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def _run(self, method: str, query: str, *args: Any) -> Any:
        self.left -= 1
        # What fails after it was done is a commit whose answer is lost; any other is undone.
        if self.left == 0 and query != "ROLLBACK":
            self.failed = query
            if self.after and query == "COMMIT":
                getattr(self.real, method)(query, *args)
            error = sqlite3.OperationalError("database or disk is full")
            full = self.code == errno.ENOSPC
            error.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
            raise error
        return getattr(self.real, method)(query, *args)

    def execute(self, query: str, *args: Any) -> Any:
        return self._run("execute", query, *args)

    def executemany(self, query: str, *args: Any) -> Any:
        return self._run("executemany", query, *args)


def open_back(top: Path, durability: str) -> TierFileSystem:
    return open_tier(top, write="back", durability=durability, max_bytes=1 << 20, quiet_s=0.0)


def reopened(top: Path, durability: str) -> TierFileSystem:
    TierFileSystem.clear_instance_cache()
    close_engines()
    return open_back(top, durability)


#: What may be read of "d/k" after each operation failed; the last is what it has once it succeeded.
OPERATIONS: dict[str, tuple[Callable[[TierFileSystem], Any], tuple[bytes | None, bytes | None]]] = {
    "put": (lambda tier: tier.pipe_file("d/k", NEW), (None, NEW)),
    "put_large": (lambda tier: tier.pipe_file("d/k", NEW * 30), (None, NEW * 30)),
    "create": (lambda tier: tier.pipe_file("d/k", NEW, mode="create"), (None, NEW)),
    "overwrite": (lambda tier: tier.pipe_file("d/k", NEW), (OLD, NEW)),
    "overwrite_clean": (lambda tier: tier.pipe_file("d/k", NEW), (OLD, NEW)),
    "delete": (lambda tier: tier.rm_file("d/k"), (OLD, None)),
    "delete_clean": (lambda tier: tier.rm_file("d/k"), (OLD, None)),
    "move": (lambda tier: tier.mv("d/other", "d/k"), (None, b"other")),
    "upload": (lambda tier: tier.flush(timeout_s=PATIENCE_S), (OLD, OLD)),
    "evict": (lambda tier: tier.evict("d/k"), (OLD, OLD)),
    "promote": (lambda tier: tier.promote("d/k"), (OLD, OLD)),
}

#: In these the tier has sent what it had before.
CLEAN = {"overwrite_clean", "delete_clean", "evict", "promote"}


def prepare(tier: TierFileSystem, operation: str) -> None:
    tier._mover.uploader.rest()
    tier.pipe_file("d/other", b"other")
    tier.pipe_file("bystander", b"acknowledged")
    if OPERATIONS[operation][1][0] is not None:
        tier.pipe_file("d/k", OLD)
    if operation in CLEAN:
        tier._mover.uploader.work()
        assert tier.flush(timeout_s=PATIENCE_S) == 0
        tier._mover.uploader.rest()
    if operation == "promote":
        tier.evict("d/k")
    if operation == "upload":
        tier._mover.uploader.work()


def read(tier: TierFileSystem, key: str) -> bytes | None:
    try:
        return bytes(tier.cat_file(key))
    except FileNotFoundError:
        return None


def act(tier: TierFileSystem, operation: str) -> bool:
    """Do it; say whether it succeeded. Nothing but an OSError may come out of it."""
    try:
        OPERATIONS[operation][0](tier)
    except OSError:
        return False
    return True


def check(top: Path, tier: TierFileSystem, operation: str, done: bool, durability: str) -> None:
    """Look at it with the disk well again: as it is, by another process, and in cold."""
    before, after = OPERATIONS[operation][1]
    allowed = [after] if done else [before, after]
    for when in ("here", "reopened", "flushed"):
        if when == "reopened":
            tier = reopened(top, durability)
        if when == "flushed":
            assert tier.flush(timeout_s=PATIENCE_S) == 0
        found = read(tier, "d/k")
        assert found in allowed, (when, found and len(found))
        allowed = [found]  # whatever it is, it stays
        assert read(tier, "bystander") == b"acknowledged", when
        # A move that failed in the middle is finished later.
        moved = operation == "move" and found is not None and (done or when == "flushed")
        assert read(tier, "d/other") in ([None] if moved else [None, b"other"]), when
        assert moved or operation == "move" or read(tier, "d/other") == b"other", when
    cold = top / "cold/d/k"
    assert (cold.read_bytes() if cold.is_file() else None) == allowed[0]
    assert (top / "cold/bystander").read_bytes() == b"acknowledged"
    stats, copies = tier.stats(), hot_files(top)
    assert staged_files(top) == []
    assert stats.hot_bytes == sum(map(len, copies.values())), "nothing leaks from the budget"
    assert (stats.hot_objects, stats.dirty_objects, stats.dirty_bytes) == (len(copies), 0, 0)
    assert all((top / "cold" / key).read_bytes() == data for key, data in copies.items())


def fail_everywhere(
    top: Path, monkeypatch: pytest.MonkeyPatch, operation: str, code: int, durability: str
) -> list[str]:
    """Let each call of an operation fail in turn; return those that did."""
    failed: list[str] = []
    while True:
        place = top / f"{len(failed)}"
        tier = open_back(place, durability)
        prepare(tier, operation)
        faults = FaultyCalls(place / "hot", len(failed) + 1, code)
        with faults.armed(monkeypatch):
            done = act(tier, operation)
        tier._mover.uploader.work()
        try:
            check(place, tier, operation, done, durability)
        except BaseException as error:
            error.add_note(f"{operation}: {os.strerror(code)} at {faults.failed or 'nothing'}")
            raise
        assert faults.repeated == [], f"synced again after {faults.failed}"
        TierFileSystem.clear_instance_cache()
        close_engines()
        if not faults.failed:
            assert done, "without a fault it succeeds"
            return failed
        failed.append(faults.failed)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", CODES)
def test_each_call_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, code: int
) -> None:
    failed = fail_everywhere(tmp_path, monkeypatch, operation, code, "power")
    assert len(failed) >= (1 if operation == "promote" else 2), failed


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", CODES)
def test_each_call_that_fails_without_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, code: int
) -> None:
    assert fail_everywhere(tmp_path, monkeypatch, operation, code, "process")


def fail_each_statement(
    top: Path, operation: str, code: int, *, after: bool, which: str
) -> list[str]:
    failed: list[str] = []
    while True:
        place = top / f"{len(failed)}"
        tier = open_back(place, "power")
        prepare(tier, operation)
        database: Any = tier._engine.owing().journal if which == "journal" else tier._engine.catalog
        real = database._db
        faults = FaultyDatabase(real, len(failed) + 1, code, after=after)
        database._db = faults
        done = act(tier, operation)
        with database._lock:
            database._db = real
        tier._mover.uploader.work()
        try:
            check(place, tier, operation, done, "power")
        except BaseException as error:
            error.add_note(f"{operation}: {which} fails at {faults.failed or 'nothing'}")
            raise
        TierFileSystem.clear_instance_cache()
        close_engines()
        if not faults.failed:
            return failed
        failed.append(faults.failed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("which", ["journal", "catalogue"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_statement_that_fails(tmp_path: Path, operation: str, after: bool, which: str) -> None:
    failed = fail_each_statement(tmp_path, operation, errno.ENOSPC, after=after, which=which)
    assert failed or (operation, which) == ("evict", "journal")


def test_copy_that_cannot_be_synced_is_sent_and_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written without syncs, it is synced before it counts as clean; or it never counts."""
    tier = open_back(tmp_path, "process")
    tier._mover.uploader.rest()
    tier.pipe_file("d/k", NEW)
    inode = os.stat(tmp_path / "hot/d/k").st_ino
    asked: list[int] = []

    def fsync(fd: int) -> None:
        asked.append(os.fstat(fd).st_ino)
        if asked[-1] == inode and asked.count(inode) == 1:
            raise OSError(errno.EIO, "lost")
        REAL["fsync"](fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        tier._mover.uploader.work()
        assert tier.flush(timeout_s=PATIENCE_S) == 0
    assert asked.count(inode) == 1
    assert (tmp_path / "cold/d/k").read_bytes() == NEW
    assert hot_files(tmp_path) == {}
    assert tier.stats().hot_bytes == 0
    assert tier.cat_file("d/k") == NEW
