"""Write-back and power cuts: every crash of recorded runs is recovered from, and recovery crashed.

The simulator is ``vfs.testing.crash``; what it is told of the tier is in ``tier_power_tools.py``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tier_crash_tools import recorded
from tier_power_tools import (
    Reopened,
    booted,
    explore,
    record,
    scenario,
    simulate_after_kill,
)
from tier_tools import forget, open_tier, staged_files

import vfs.tier.claim as claim_module
import vfs.tier.dirty as dirty_module
import vfs.tier.engine as engine_module
import vfs.tier.hot as hot_module
import vfs.tier.journal as journal_module
import vfs.tier.recover as recover_module
from vfs.core.durable import make_all_directories, make_directories, unlink_if_there
from vfs.errors import IntegrityError
from vfs.testing.crash import Tally
from vfs.tier.catalog import replace_row
from vfs.tier.dirty import DirtyStore
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.group import Intent
from vfs.tier.hot import HotStore
from vfs.tier.journal import Change, Draft, Journal, Kind
from vfs.tier.journalrows import remove_row, row_of
from vfs.tier.remote import Remote

#: States of one run; see docs/testing.md for the sizes of a run and of a release.
STATES = int(os.environ.get("VFS_CRASH_STATES", "8000"))

#: Parts of the run, so that they can be spread over processes.
PARTS = 16

#: Runs in which a step that is left out must be found.
MUTANT_RUNS = 80


@pytest.mark.crash
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_crashes_lose_tear_and_clobber_nothing(
    part: int, fast_place: Path, record_property: Callable[[str, object], None]
) -> None:
    total = Tally()
    seed = part
    while total.states < STATES / PARTS:
        # Every fourth run is one that promises less.
        durability = "process" if seed // PARTS % 4 == 3 else "power"
        total.add(explore(fast_place, seed, durability))
        assert not total.failures, (seed, durability, total.described)
        seed += PARTS
    record_property("states", total.states)
    record_property("recovered", total.recovered)


def test_crashes_of_a_short_run(fast_place: Path) -> None:
    total = explore(fast_place, 1, "power", twice=1)
    assert not total.failures, total.described
    assert total.states > 500
    assert 100 < total.recovered < total.states


@pytest.mark.crash
def test_crashes_of_the_weaker_durability(fast_place: Path) -> None:
    total = explore(fast_place, 2, "process", twice=1)
    assert not total.failures, total.described
    assert total.states > 500


# -------------------------------------------------------------------- each step is needed


def nothing(*_: Any, **__: Any) -> None:
    """Stand in for a step that is left out."""


def never_synced(self: Journal, durability: str) -> None:
    self._db.execute("PRAGMA synchronous=OFF")


def visible_before_commit(self: DirtyStore, intents: list[Intent]) -> None:
    """Rename, then commit."""
    for intent in intents:
        for draft in intent.drafts:
            if draft.kind is Kind.PUT:
                path = self.hot.path(draft.key)
                make_directories(os.path.dirname(path), "power")
                os.rename(os.path.join(self.hot.temporary, draft.staged), path)
        recorded = self.journal.record(intent.drafts)
        for change, old in recorded:
            if change.kind is Kind.DELETE:
                self._drop([change.key], [intent], {change.key: (change, old)})
                continue
            row = dirty_module._row_of(change, os.stat(self.hot.path(change.key)))
            with self.hot.catalog.transaction() as db:
                replace_row(db, row, intent.reservations[change.key])


def dropped_before_tombstone(real: Any) -> Any:
    def record_(self: Journal, drafts: Iterable[Draft]) -> Any:
        drafts = list(drafts)
        for draft in drafts:
            if draft.kind is Kind.DELETE:
                unlink_if_there(os.path.join(os.path.dirname(self.path), "..", draft.key))
        return real(self, drafts)

    return record_


def finished_whatever_the_generation(self: Journal, done: Iterable[tuple[Change, Any]]) -> None:
    with self.transaction() as db:
        for change, _ in done:
            if (now := row_of(db, change.key)) is not None:
                remove_row(db, now)


def unconditional(real: Any) -> Any:
    async def put(self: Remote, key: str, source: Any, base: str | None) -> Any:
        return await real(self, key, source, None)

    return put


def finished_before_sent(real: Any) -> Any:
    async def put(self: Any, change: Change, source: Any) -> Any:
        store = self.engine.owing()
        store.sync_names([change])
        store.journal.finish([(change, None)])
        return await real(self, change, source)

    return put


def evicted_also_if_dirty(self: HotStore, victims: Any) -> int:
    """Evict as if everything were clean."""
    for key, _ in list(self.walk(absolute_keys=False)):
        self.drop([(key, self.path(key))])
    return 0


def plain_directories(paths: Iterable[str], durability: str) -> None:
    make_all_directories(paths, "process")


def unbased(self: Any, *_: object, **__: object) -> None:
    """Forget what a change is based on."""


Step = tuple[Any, str, Any]

_record, _put = Journal.record, Remote.put


def steps() -> dict[str, Step]:
    from vfs.tier.uploader import Uploader
    from vfs.tier.writeback import WriteBack

    return {
        "sync the staged file": (dirty_module, "fsync", nothing),
        "sync the directory of staged files": (dirty_module, "fsync_directory", nothing),
        "sync the journal": (Journal, "set_durability", never_synced),
        "sync the journal's name": (journal_module, "fsync_directory", nothing),
        "sync a new directory": (hot_module, "make_all_directories", plain_directories),
        "commit before the rename": (DirtyStore, "_commit", visible_before_commit),
        "tombstone before the copy goes": (Journal, "record", dropped_before_tombstone(_record)),
        "sync removals": (HotStore, "sync_removals", nothing),
        "sync names before rows go": (DirtyStore, "sync_names", nothing),
        "sync a promoted copy": (hot_module, "fsync", nothing),
        "finish one generation only": (Journal, "finish", finished_whatever_the_generation),
        "finish after the upload": (Uploader, "_put", finished_before_sent(Uploader._put)),
        "upload on a condition": (Remote, "put", unconditional(_put)),
        "know the base of a change": (WriteBack, "_base", unbased),
        "mark what is being sent": (Journal, "mark_sent", nothing),
        "redo at recovery": (DirtyStore, "redo", lambda *_: False),
        "rebuild on a new boot": (engine_module, "rebuild_catalog", nothing),
        "bury the dead": (engine_module.TierEngine, "bury_the_dead", nothing),
        "never evict what is dirty": (HotStore, "evict", evicted_also_if_dirty),
    }


@pytest.mark.crash
@pytest.mark.mutant
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", steps())
def test_without_any_step_a_crash_does_harm(
    step: str, fast_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*steps()[step])
    for seed in range(MUTANT_RUNS):
        try:
            if explore(fast_place, seed, "power", twice=0, enough=1).failures:
                return
        except IntegrityError:
            return  # bytes are lost without any crash
    pytest.fail(f"nobody would notice if nobody did: {step}")


@pytest.mark.crash
@pytest.mark.mutant
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "where,name", [(HotStore, "_sync_left_over"), (claim_module, "_sync_names")]
)
def test_without_a_step_for_the_dead_a_power_cut_does_harm(
    fast_place: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    monkeypatch.setattr(where, name, nothing)
    reopened = Reopened(fast_place / "again")
    try:
        for seed in range(MUTANT_RUNS):
            log = record(fast_place / f"run-{seed}", partial(scenario, seed=seed), seed)
            tallies = simulate_after_kill(log, reopened, 4, seed, enough=1)
            if any(tally.failures for tally in tallies.values()):
                return
    finally:
        reopened.close()
        forget()
    pytest.fail(f"nobody would notice without {name}")


@pytest.mark.crash
@pytest.mark.mutant
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["_is_intact", "_distrust"])
def test_without_comparing_bytes_the_weaker_durability_does_harm(
    name: str, fast_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"_is_intact": lambda *_: True, "_distrust": lambda *_: []}[name]
    monkeypatch.setattr(recover_module, name, found)
    assert any(
        explore(fast_place, n, "process", twice=0, enough=1).failures for n in range(MUTANT_RUNS)
    )


# -------------------------------------------------------------------- what the simulator has found


def test_directory_is_synced_before_a_file_moves_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = open_tier(tmp_path, write="back", max_bytes=60_000, quiet_s=0.0)
    tier.pipe_file("a", b"opened")
    with recorded(monkeypatch) as calls:
        tier.pipe_file("d/e/k", b"the only copy")
        tier.pipe({"f/1": b"two", "f/2": b"in one commit"})
    hot = str(tmp_path / "hot")
    for parents, name in (([hot, f"{hot}/d"], "d/e/k"), ([hot], "f/1")):
        named = calls.index(("rename", f"{hot}/{name}"))
        assert {("fsync", parent) for parent in parents} <= set(calls[:named])


def die_after_making(made: str, place: Path) -> None:
    """Write an object to a new tier, and be killed when a directory is there and not synced."""
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        return
    mkdir = os.mkdir

    def die_after(path: Any, *args: Any, **kwargs: Any) -> None:
        mkdir(path, *args, **kwargs)
        if path == made:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        os.mkdir = die_after
        open_tier(place, write="back", max_bytes=60_000, quiet_s=1e9).pipe_file("d/k", b"recorded")
    finally:
        os._exit(1)


@pytest.mark.parametrize("killed", [True, False])
def test_directory_left_by_a_killed_process_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, killed: bool
) -> None:
    hot = str(tmp_path / "hot")
    options = {"write": "back", "max_bytes": 60_000, "quiet_s": 1e9}
    if killed:
        die_after_making(f"{hot}/d", tmp_path)
    else:  # it has ended, and had promised less
        open_tier(tmp_path, durability="process", **options).pipe_file("d/k", b"recorded")
        forget()
    with recorded(monkeypatch) as calls:
        tier = open_tier(tmp_path, **options)
        assert tier.cat_file("d/k") == b"recorded"
        tier.pipe_file("d/j", b"relied on")
        first = len(calls)
        tier.pipe_file("d/i", b"relied on")
    renames = [n for n, (_, path) in enumerate(calls) if path in {f"{hot}/d/k", f"{hot}/d/j"}]
    assert ("fsync", hot) in calls[: renames[0]]
    assert ("fsync", hot) not in calls[first:], "once is enough"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("torn", [b"", bytes(9), b"\0\0/e\0", b"/", b"//x/y\0/\0", b"d/\xff/e"])
def test_torn_note_of_directories_does_no_harm(tmp_path: Path, torn: bytes) -> None:
    options = {"write": "back", "max_bytes": 60_000, "quiet_s": 1e9}
    open_tier(tmp_path, **options).pipe_file("d/e/k", b"new")
    (tmp_path / "hot/.vfs/unsynced").write_bytes(torn)
    forget()
    again = open_tier(tmp_path, **options)
    again.pipe_file("d/e/j", b"newer")
    assert (again.cat_file("d/e/k"), again.cat_file("d/e/j")) == (b"new", b"newer")
    assert not (tmp_path / "hot/.vfs/unsynced").exists()


def test_directory_made_by_recovery_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut that has spared the bytes, and not the directory they had moved into."""
    options = {"write": "back", "max_bytes": 60_000, "quiet_s": 1e9}
    hot = tmp_path / "hot"
    with booted("before"):
        tier = open_tier(tmp_path, durability="process", **options)
        tier._mover.uploader.rest()
        tier.pipe_file("d/k", b"spared")
        change = tier._engine.owing().journal.get("d/k")
        assert change is not None
        forget()
    os.rename(hot / "d/k", hot / ".vfs/tmp" / change.staged)
    (hot / "d").rmdir()
    (hot / ".vfs/unsynced").unlink()
    with booted("after"), recorded(monkeypatch) as calls:
        again = open_tier(tmp_path, **options)
        assert again.cat_file("d/k") == b"spared"
        again.pipe_file("d/j", b"relied on")
    assert ("fsync", str(hot)) in calls[: calls.index(("rename", f"{hot}/d/j"))]


@pytest.mark.parametrize("made", ["above", "above/hot", "above/hot/.vfs"])
def test_hot_directory_left_by_a_killed_process_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    place = tmp_path / "above"
    die_after_making(str(tmp_path / made), place)
    assert not (place / "hot/.vfs/tier.json").exists()
    with recorded(monkeypatch) as calls:
        open_tier(place, write="back", max_bytes=60_000, quiet_s=1e9).pipe_file("k", b"relied on")
    named = calls.index(("rename", str(place / "hot/k")))
    assert {("fsync", str(path)) for path in (tmp_path, place, place / "hot")} <= set(calls[:named])


def test_directories_of_a_group_share_the_sync_of_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zarr array of two dimensions has a directory for each row of chunks."""
    tier = open_tier(tmp_path, write="back", max_bytes=60_000, quiet_s=0.0)
    parent = str(tmp_path / "hot/c")
    with recorded(monkeypatch) as calls:
        tier.pipe({f"c/{number}/0": b"chunk" for number in range(100)})
    assert 1 <= calls.count(("fsync", parent)) <= 10
    assert not (tmp_path / "hot/.vfs/unsynced").exists()
    last = max(index for index, call in enumerate(calls) if call == ("rename", f"{parent}/99/0"))
    assert ("fsync", parent) in calls[:last]


def test_directory_of_a_promoted_copy_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = open_tier(tmp_path, write="back", max_bytes=60_000, quiet_s=0.0)
    (tmp_path / "cold/d").mkdir(parents=True)
    (tmp_path / "cold/d/k").write_bytes(b"cold")
    with recorded(monkeypatch) as calls:
        tier.cat_file("d/k")
    hot = str(tmp_path / "hot")
    assert ("fsync", hot) in calls[: calls.index(("rename", f"{hot}/d/k"))]


def test_files_staged_before_a_power_cut_are_cleaned_up(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, write="back", max_bytes=60_000, quiet_s=0.0)
    tier.pipe_file("k", b"flushed")
    tier.flush()
    number = tier._engine.hot.owner
    forget()
    for path in (tmp_path / "hot/.vfs").glob("catalog.sqlite*"):
        path.unlink()
    (tmp_path / f"hot/.vfs/tmp/{number}-1").write_bytes(b"half")
    again = open_tier(tmp_path, write="back", max_bytes=60_000, quiet_s=0.0)
    assert again.cat_file("k") == b"flushed"
    assert staged_files(tmp_path) == []


@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("found", [b"", b"\0\0\0", b"old"])
def test_bytes_torn_by_a_power_cut_are_not_served(
    tmp_path: Path, found: bytes, *, moved: bool
) -> None:
    options = {"write": "back", "max_bytes": 60_000, "quiet_s": 1e9, "durability": "process"}
    with booted("before"):
        tier = open_tier(tmp_path, **options)
        tier._mover.uploader.rest()
        tier.pipe_file("d/whole", b"1234")
        tier.pipe_file("d/k", b"new")
        staged = tier._engine.owing().journal.get("d/k")
        assert staged is not None
        forget()
    lost = tmp_path / "hot/d/k"
    if not moved:
        lost.unlink()
        lost = tmp_path / "hot/.vfs/tmp" / staged.staged
    lost.write_bytes(found)
    with booted("after"):
        again = open_tier(tmp_path, **options)
        again._mover.uploader.rest()
        assert again.cat_file("d/whole") == b"1234"
        with pytest.raises(OSError, match="damaged"):
            again.cat_file("d/k")
        forget()


def test_journal_that_is_not_synced_is_found_again_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorded(monkeypatch) as calls:
        tier = open_tier(tmp_path, write="back", max_bytes=60_000, durability="process")
        tier.pipe_file("k", b"new")
    named = calls.index(("rename", str(tmp_path / "hot/k")))
    assert ("fsync", str(tmp_path / "hot/.vfs")) in calls[:named]
    with contextlib.closing(sqlite3.connect(tmp_path / "hot/.vfs/journal.sqlite")) as db:
        assert db.execute("SELECT value FROM meta WHERE name='unsynced'").fetchone() == (1,)


def journals_of_a_run(top: Path, options: dict[str, Any]) -> tuple[bytes, bytes]:
    """Write and flush something, then write two objects; return the journal before and after."""
    path = top / "hot/.vfs/journal.sqlite"
    tier = open_tier(top, **options)
    tier._mover.uploader.rest()
    tier._engine.usable()
    before = path.read_bytes()
    tier.pipe_file("d/whole", b"1234")
    tier.pipe_file("d/torn", b"new")
    after = path.read_bytes()
    forget()
    return before, after


def pages(content: bytes) -> list[bytes]:
    size = int.from_bytes(content[16:18], "big")
    return [content[start : start + size] for start in range(0, len(content), size)]


def test_journal_of_old_and_new_pages_is_mended_or_refused(tmp_path: Path) -> None:
    options = {"write": "back", "max_bytes": 60_000, "quiet_s": 1e9, "durability": "process"}
    with booted("before"):
        before, after = journals_of_a_run(tmp_path, options)
    (tmp_path / "hot/d/torn").write_bytes(b"")
    shutil.copytree(tmp_path / "hot", tmp_path / "as it was")
    assert len(before) == len(after)
    changed = [n for n, page in enumerate(pages(before)) if page != pages(after)[n]]
    assert len(changed) > 4
    outcomes = set()
    for chosen in range(1 << len(changed)):
        mixed = pages(after)
        for bit, number in enumerate(changed):
            if chosen >> bit & 1:
                mixed[number] = pages(before)[number]
        shutil.rmtree(tmp_path / "hot")
        shutil.copytree(tmp_path / "as it was", tmp_path / "hot")
        (tmp_path / "hot/.vfs/journal.sqlite").write_bytes(b"".join(mixed))
        with booted("after"):
            again = open_tier(tmp_path, **options)
            again._mover.uploader.rest()
            outcomes.add(outcome(again))
            forget()
    # Nothing else: the torn one is never served, and what is served was written.
    assert outcomes <= {
        (b"1234", "IntegrityError", 2),
        (b"1234", "FileNotFoundError", 1),
        ("FileNotFoundError", "IntegrityError", 1),
        ("FileNotFoundError", "FileNotFoundError", 0),
        ("UnavailableError", "UnavailableError", None),
    }
    assert {
        (b"1234", "IntegrityError", 2),
        ("FileNotFoundError", "FileNotFoundError", 0),
    } <= outcomes


def outcome(tier: TierFileSystem) -> tuple[bytes | str, bytes | str, int | None]:
    """Return what reading both gives, and how many changes wait."""
    found: list[bytes | str] = []
    for key in ("d/whole", "d/torn"):
        try:
            found.append(tier.cat_file(key))
        except OSError as error:
            found.append(type(error).__name__)
    store = tier._engine.dirty_if_open()
    if store is None:
        return found[0], found[1], None
    assert store.journal.count() == len(store.journal.select("kind=0"))
    return found[0], found[1], store.journal.count()


def test_bytes_of_a_weaker_durability_are_synced_before_they_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"write": "back", "max_bytes": 60_000, "quiet_s": 1e9}
    weak = open_tier(tmp_path, durability="process", **options)
    weak._mover.uploader.rest()
    weak.pipe_file("k", b"not synced")
    forget()
    strong = open_tier(tmp_path, durability="power", **options)
    synced = []
    monkeypatch.setattr(dirty_module, "fsync", lambda fd: synced.append(os.pread(fd, 99, 0)))
    strong.flush()
    assert synced == [b"not synced"]
