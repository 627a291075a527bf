"""A process killed at every step that changes the disk: the next one reads right bytes."""

from __future__ import annotations

import builtins
import os
import random
import re
import shutil
import signal
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cache_tools import block_files, disk_bytes, open_cache, reopen_cache, staged_files
from small_process import in_a_small_process

from vfs.cache.evict import Ghosts, evict_batch
from vfs.cache.facts import FactsTable
from vfs.cache.filesystem import CacheFileSystem
from vfs.cache.ledger import Ledger
from vfs.core.engine import close_engines

#: The calls that change a disk, or a table that processes share: a process is killed before each
#: of them, in turn.
DURABLE_CALLS: list[tuple[Any, str]] = [
    *((os, name) for name in ("open", "write", "rename", "replace", "unlink", "mkdir", "rmdir")),
    *((os, name) for name in ("link", "utime", "truncate", "ftruncate", "pwrite")),
    (os, "posix_fallocate"),
    (builtins, "open"),
    (Ledger, "_set"),
    (Ghosts, "add"),
    (FactsTable, "remember"),
    (FactsTable, "restamp"),
]

#: Kills of one run; see docs/testing.md for the sizes of a run and of a release.
CYCLES = int(os.environ.get("VFS_CRASH_CYCLES", "1000"))

LIMIT = 1 << 20
OPTIONS: dict[str, Any] = {
    "max_bytes": LIMIT,
    "consistency": "immutable",
    "grain_bytes": 65_536,
    "small_bytes": 100_000,
    "target_options": {"durability": "process"},
}
KEYS = ("a", "b", "d/c", "d/e", "f")

#: Emptied by a process that has outlived its dangerous part.
ARMED = [True]

#: The 256 directories of blocks are alike: it is enough to die before some of them.
_SHELF = re.compile(r"/blocks/(?!00|7f|ff)[0-9a-f]{2}$")


def payload(key: str, version: int) -> bytes:
    choose = random.Random(f"{key}/{version}")
    return choose.randbytes(choose.choice([1, 70_000, 130_000, 300_000, 400_000]))


# -------------------------------------------------------------------- killing


def counts(name: str, args: tuple[Any, ...]) -> bool:
    """Say whether a call changes anything, and is worth a death."""
    if name == "mkdir":
        return not os.path.isdir(args[0]) and _SHELF.search(os.fspath(args[0])) is None
    if name == "open" and len(args) > 1 and isinstance(args[1], int):
        return bool(args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if name == "open":
        return len(args) > 1 and not set("wax+").isdisjoint(args[1])
    return True


def die_at(count: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Kill this process, or stop it, before its ``count``-th durable call."""
    left = [count]

    def deadly(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if ARMED and counts(name, args):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), by)
            return real(*args, **kwargs)

        return call

    for place, name in DURABLE_CALLS:
        setattr(place, name, deadly(name, getattr(place, name)))


def fork_to(scenario: Callable[[], None], count: int, by: signal.Signals) -> int:
    """Run a scenario in a forked process that dies or stops at a call."""
    ARMED[:] = [True]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            die_at(count, by)
            scenario()
            status = 0
        except BaseException:  # noqa: BLE001 - the parent sees the status
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def run_killed(scenario: Callable[[], None], count: int) -> bool:
    """Run a scenario in a process that dies at a call; say whether it got that far."""
    pid = fork_to(scenario, count, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the scenario failed by itself"
    return os.WIFSIGNALED(status)


def run_stopped(scenario: Callable[[], None], count: int, meanwhile: Callable[[], None]) -> bool:
    """Do something while a process stands still before a call; say whether it got that far."""
    pid = fork_to(scenario, count, signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    stopped = os.WIFSTOPPED(status)
    if stopped:
        try:
            meanwhile()
        finally:
            os.kill(pid, signal.SIGCONT)
            _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0, "the one that stood still failed"
    return stopped


# -------------------------------------------------------------------- what is done and checked


def fill(top: Path) -> None:
    for key in KEYS:
        (top / "store" / key).parent.mkdir(parents=True, exist_ok=True)
        (top / "store" / key).write_bytes(payload(key, 0))


def read_right(fs: CacheFileSystem, top: Path, key: str) -> None:
    path = top / "store" / key
    data = path.read_bytes()
    assert fs.cat_file(str(path)) == data, key
    assert (
        fs.cat_file(str(path), len(data) // 3, len(data) // 2)
        == (data[len(data) // 3 : len(data) // 2])
    ), key


def scenario(top: Path, seed: int) -> None:
    """Do a few things to a cache."""
    choose = random.Random(seed)
    fs = open_cache(top, **OPTIONS)
    for step in range(6):
        key = choose.choice(KEYS)
        path = str(top / "store" / key)
        steps: dict[str, Callable[[], Any]] = {
            "read": partial(read_right, fs, top, key),
            "change": partial(fs.pipe_file, path, payload(key, seed + step)),
            "evict": partial(fs.evict, path),
            "clear": fs.clear,
            "fsck": fs.fsck,
            "shrink": partial(shrink, fs, top, choose.randrange(LIMIT)),
        }
        verbs = ["read", "read", "read", "read", "change", "evict", "clear", "fsck", "shrink"]
        steps[choose.choice(verbs)]()
        read_right(fs, top, key)


def shrink(fs: CacheFileSystem, top: Path, need: int) -> None:
    """Evict as a process does that needs so much room."""
    fs.stats()  # opens the cache, if this is the first thing done with it
    evict_batch(str(top / "cache/blocks"), fs._engine.ledger, fs._engine.ghosts, need)


def assert_within_the_limit(fs: CacheFileSystem, top: Path) -> None:
    assert disk_bytes(top) <= fs.stats().used_bytes <= fs.stats().max_bytes <= LIMIT


def check(top: Path) -> None:
    """Come back as another process and compare everything."""
    fs = reopen_cache(top, **OPTIONS)
    assert_within_the_limit(fs, top)
    assert staged_files(top) == []
    assert fs._engine.ledger.owners_in_flight() == []
    for _ in range(2):
        for key in KEYS:
            read_right(fs, top, key)
            assert_within_the_limit(fs, top)
    report = fs.fsck()
    assert (report.damaged, report.blocks) == (0, len(block_files(top)))
    assert fs.stats().used_bytes == disk_bytes(top) > 0
    CacheFileSystem.clear_instance_cache()
    close_engines()


def files_below(top: Path) -> dict[str, Path]:
    """Return every file by its relative name, whatever the directories."""
    return {str(p.relative_to(top)): p for p in top.rglob("*") if not p.is_dir()}


def restore(template: Path, place: Path) -> None:
    """Make the files of a directory those of another; its 256 directories of blocks stay."""
    for part in ("store", "cache"):
        wanted, there = files_below(template / part), files_below(place / part)
        for name in there.keys() - wanted.keys():
            there[name].unlink()
        for name, path in wanted.items():
            (place / part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / part / name)
            facts = path.stat()
            os.utime(place / part / name, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def kill_everywhere(top: Path, cycles: int, first_seed: int, *, survivor: bool = False) -> int:
    """Kill at every durable call of one scenario after another, until enough were killed."""
    template, place = top / "template", top / "place"
    fill(place)
    fs = open_cache(place, **OPTIONS)
    for key in KEYS[:3]:
        read_right(fs, place, key)
    CacheFileSystem.clear_instance_cache()
    close_engines()
    shutil.copytree(place, template)
    done, seed, count = 0, first_seed, 0
    while done < cycles:
        count += 1
        restore(template, place)
        other = open_cache(place, **OPTIONS) if survivor else None
        if other is not None:
            read_right(other, place, KEYS[4])
        killed = run_killed(partial(scenario, place, seed), count)
        if other is not None:
            assert other._engine.owner == 0, "the child has another number"
            for key in KEYS:
                read_right(other, place, key)
                assert_within_the_limit(other, place)
        check(place)
        done += killed
        if not killed:
            seed, count = seed + 1, 0
    return done


# -------------------------------------------------------------------- tests


def open_first(place: Path) -> None:
    assert open_cache(place, **OPTIONS).stats().max_bytes


def test_killed_at_every_call_of_the_first_opening(tmp_path: Path) -> None:
    count = 0
    killed = True
    while killed:
        count += 1
        place = tmp_path / f"c{count}"
        fill(place)
        killed = run_killed(partial(open_first, place), count)
        check(place)
        left = [path.name for path in (place / "cache").iterdir() if path.name[0] == "."]
        assert left == [], f"killed at call {count}"
    assert count > 10


def open_and_read(place: Path) -> None:
    open_first(place)
    ARMED.clear()
    fs = open_cache(place, **OPTIONS)
    for key in KEYS[:2]:
        read_right(fs, place, key)
        assert_within_the_limit(fs, place)
    asked = fs.target.requests["cat_file"]
    read_right(fs, place, KEYS[1])
    assert fs.target.requests["cat_file"] == asked, "it is kept"


def test_two_processes_open_a_new_directory_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stands still before each call of its opening in turn, while the other does it all."""
    # Whoever stands still with the ledger locked is waited for, rightly.
    calls = [call for call in DURABLE_CALLS if call != (Ledger, "_set")]
    monkeypatch.setitem(globals(), "DURABLE_CALLS", calls)
    count = 0
    stopped = True
    while stopped:
        count += 1
        place = tmp_path / f"c{count}"
        fill(place)
        stopped = run_stopped(partial(open_and_read, place), count, partial(open_and_read, place))
        check(place)
    assert count > 12


def test_killed_at_thirty_calls(tmp_path: Path) -> None:
    assert kill_everywhere(tmp_path, 30, first_seed=0) == 30


def test_killed_beside_a_survivor(tmp_path: Path) -> None:
    assert kill_everywhere(tmp_path, 20, first_seed=100, survivor=True) == 20


@pytest.mark.crash
@pytest.mark.once
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("survivor", [False, True], ids=["alone", "beside a survivor"])
def test_killed_at_every_call(fast_place: Path, *, survivor: bool) -> None:
    done = in_a_small_process(kill_everywhere, fast_place, CYCLES, 1000, survivor=survivor)
    assert done >= CYCLES


def test_killed_holder_of_every_lock_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Locks are the kernel's: they are free when their holder is dead."""
    from vfs.cache.engine import _EVICT_LOCK, _LEDGER_LOCK, _LIFE_LOCKS

    fill(tmp_path)
    fs = open_cache(tmp_path, **OPTIONS)
    read_right(fs, tmp_path, "a")

    def hold_and_die() -> None:
        other = open_cache(tmp_path, **OPTIONS)
        other.stats()
        locks = other._engine.locks
        for byte in (*range(0, 1 << 20, 4099), _EVICT_LOCK, _LEDGER_LOCK, _LIFE_LOCKS + 7):
            locks.acquire_now(byte)
        os.kill(os.getpid(), signal.SIGKILL)

    assert run_killed(hold_and_die, 1_000_000)
    for key in KEYS:
        read_right(fs, tmp_path, key)
    assert fs.clear() > 0
