"""The crash simulator on protocols whose faults are known."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from vfs.testing.crash import Crash, Simulation, empty
from vfs.testing.crashlog import ROOT, Commit, Data, Entries, Log, Recorder, Sync
from vfs.testing.crashmodels import MODELS, Kill

OLD, NEW = b"old" * 10, b"better" * 10


def write(path: str, data: bytes, *, sync: bool = False, flags: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags)
    os.write(fd, data)
    if sync:
        os.fsync(fd)
    os.close(fd)


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def in_place(top: str) -> None:
    write(f"{top}/f", NEW, sync=True, flags=os.O_TRUNC)
    sync_directory(top)


def renamed(top: str) -> None:
    write(f"{top}/t", NEW)
    os.rename(f"{top}/t", f"{top}/f")


def file_synced(top: str) -> None:
    write(f"{top}/t", NEW, sync=True)
    os.rename(f"{top}/t", f"{top}/f")


def all_synced(top: str) -> None:
    file_synced(top)
    sync_directory(top)


def removed_first(top: str) -> None:
    write(f"{top}/t", NEW, sync=True)
    os.unlink(f"{top}/f")
    os.link(f"{top}/t", f"{top}/f")
    sync_directory(top)


class Truth:
    """Old or new, and once that was acknowledged, new."""

    def __init__(self) -> None:
        self.allowed = {OLD, NEW}

    def note(self, note: object) -> None:
        self.allowed = {NEW}

    def faults(self, seen: bytes, model: str) -> list[str]:
        if seen in self.allowed:
            return []
        return ["lost"] if seen == OLD else ["torn"]


def reader(place: Path) -> Callable[[Crash], bytes]:
    place.mkdir()

    def read(crash: Crash) -> bytes:
        empty(str(place))
        crash.lay_out(str(place))
        path = place / "f"
        return path.read_bytes() if path.exists() else b"gone"

    return read


def log_of(tmp_path: Path, act: Callable[[str], None]) -> Log:
    top = tmp_path / "top"
    top.mkdir()
    (top / "f").write_bytes(OLD)
    recorder = Recorder(str(top))
    with recorder.recording():
        act(str(top))
        recorder.mark("done")
    return recorder.log


@pytest.mark.parametrize(
    "act,faults",
    [
        (in_place, {"kill": {"torn"}, "ext4": {"torn"}, "weak": {"torn"}}),
        (renamed, {"kill": set(), "ext4": {"lost", "torn"}, "weak": {"lost", "torn"}}),
        (file_synced, {"kill": set(), "ext4": {"lost"}, "weak": {"lost"}}),
        (all_synced, {"kill": set(), "ext4": set(), "weak": set()}),
        (removed_first, {"kill": {"torn"}, "ext4": {"torn"}, "weak": {"torn"}}),
    ],
)
def test_faults_of_known_protocols(
    tmp_path: Path, act: Callable[[str], None], faults: dict[str, set[str]]
) -> None:
    log = log_of(tmp_path, act)
    found = Simulation(log, MODELS, reader(tmp_path / "place")).run(Truth)
    assert {
        name: {text.rpartition(" ")[2] for text in tally.described} for name, tally in found.items()
    } == faults
    for tally in found.values():
        assert tally.states > 0
        assert tally.recovered <= tally.states


def test_unsynced_names_survive_in_any_subset(tmp_path: Path) -> None:
    def act(top: str) -> None:
        for name in "abc":
            write(f"{top}/{name}", b"", sync=True)

    place = tmp_path / "place"
    place.mkdir()
    log = log_of(tmp_path, act)
    found: dict[str, set[tuple[str, ...]]] = {}
    for model in MODELS:
        disk = Simulation(log, [model], lambda _: b"").crashes(model, Truth())
        last = [crash.image for crash in disk if crash.moment == len(log.ops)]
        found[model.name] = {tuple(path for path, *_ in image.files) for image in last}
    assert found["kill"] == {("a", "b", "c", "f")}
    # Each sync commits the journal of ext4, and with it every name made before.
    assert found["ext4"] == {("a", "b", "c", "f")}
    assert len(found["weak"]) == 8


def test_commits_are_recorded_with_what_they_survive(tmp_path: Path) -> None:
    def act(top: str) -> None:
        db = sqlite3.connect(f"{top}/x.sqlite", isolation_level=None)
        db.execute("PRAGMA journal_mode=PERSIST")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE t (v)")
        db.execute("PRAGMA synchronous=OFF")
        db.execute("BEGIN")
        db.execute("INSERT INTO t VALUES (1)")
        db.execute("ROLLBACK")
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO t VALUES (2)")
        db.execute("COMMIT")
        db.close()

    log = log_of(tmp_path, act)
    commits = [op for op in log.ops if isinstance(op, Commit)]
    assert [(op.version, op.synced) for op in commits] == [(1, True), (2, False)]


def test_what_is_recorded(tmp_path: Path) -> None:
    def act(top: str) -> None:
        os.mkdir(f"{top}/d")
        write(f"{top}/d/t", b"abc", sync=True)
        os.link(f"{top}/d/t", f"{top}/d/u")
        os.replace(f"{top}/d/t", f"{top}/f")
        os.unlink(f"{top}/d/u")
        os.rmdir(f"{top}/d")
        write(str(tmp_path / "outside"), b"not below the directory")

    log = log_of(tmp_path, act)
    assert log.ops[:-1] == [
        Entries(((ROOT, "d", 2),)),
        Entries(((2, "t", 3),)),
        Data(3, 0, b"abc"),
        Sync(3),
        Entries(((2, "u", 3),)),
        Entries(((2, "t", None), (ROOT, "f", 3))),
        Entries(((2, "u", None),)),
        Entries(((ROOT, "d", None),)),
    ]


def test_images_are_laid_out_with_their_links(tmp_path: Path) -> None:
    def act(top: str) -> None:
        os.link(f"{top}/f", f"{top}/g")

    log = log_of(tmp_path, act)
    crash = list(Simulation(log, [Kill], lambda _: b"").crashes(Kill, Truth()))[-1]
    place = tmp_path / "place"
    place.mkdir()
    numbers = crash.lay_out(str(place))
    facts = (place / "f").stat()
    assert facts.st_ino == (place / "g").stat().st_ino
    assert numbers == {(tmp_path / "top/f").stat().st_ino: facts.st_ino}


@pytest.mark.parametrize("careful", [False, True])
def test_power_cut_takes_what_a_killed_process_had_not_synced(
    tmp_path: Path, *, careful: bool
) -> None:
    """A directory that the dead had made, and that who comes back relies on."""
    log = log_of(tmp_path, lambda top: os.mkdir(f"{top}/d"))
    killed = len(log.ops) - 1  # before it could say that it was done
    kill = Simulation(log, [Kill], lambda _: b"", start=killed).crashes(Kill, Truth())
    again = tmp_path / "again"
    again.mkdir()
    numbers = next(kill).lay_out(str(again))
    recorder = Recorder(str(again))
    recorder.go_on(log, killed, numbers)
    with recorder.recording():
        if careful:
            sync_directory(str(again))
        write(f"{again}/t", NEW, sync=True)
        os.rename(f"{again}/t", f"{again}/d/f")
        sync_directory(f"{again}/d")
        recorder.mark("done")
    longer = recorder.log
    assert longer.ops[:killed] == log.ops[:killed]
    assert longer.later_numbers == {1: (again / "f").stat().st_ino}
    place = tmp_path / "place"
    place.mkdir()

    def read(crash: Crash) -> bytes:
        empty(str(place))
        crash.lay_out(str(place))
        path = place / "d/f"
        return (path if path.exists() else place / "f").read_bytes()

    found = Simulation(longer, MODELS, read, start=killed).run(Truth)
    faults = {name: {text[-4:] for text in tally.described} for name, tally in found.items()}
    assert faults == {"kill": set(), "ext4": set(), "weak": set() if careful else {"lost"}}
    assert min(tally.states for tally in found.values()) > 0
