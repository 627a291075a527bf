"""A process killed at every step, and what must be synced before what."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from small_process import in_a_small_process
from tier_crash_tools import REAL, die_at, recorded, remove_tree
from tier_tools import GatedFileSystem, hot_files, open_tier, staged_files

from vfs.core.engine import close_engines
from vfs.tier.filesystem import TierFileSystem

#: Kills of one run; see docs/testing.md for the sizes of a run and of a release.
CYCLES = int(os.environ.get("VFS_CRASH_CYCLES", "5000"))

#: Parts of the run, so that they can be spread over processes.
PARTS = 4


@pytest.mark.parametrize("change", ["write", "remove", "remove tree", "move"])
def test_dropped_copy_is_synced_before_cold_changes(
    gated: TierFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    gated.pipe_file("d/k", b"old")
    copy, folder = str(tmp_path / "hot/d/k"), str(tmp_path / "hot/d")
    changes: dict[str, Callable[[], Any]] = {
        "write": lambda: gated.pipe_file("d/k", b"new"),
        "remove": lambda: gated.rm_file("d/k"),
        "remove tree": lambda: gated.rm("d", recursive=True),
        "move": lambda: gated.mv("d/k", "e"),
    }
    with recorded(monkeypatch) as calls:
        for name in ("put_object", "delete_object", "_mv_file"):
            note_before(monkeypatch, name, partial(calls.append, ("cold", name)))
        changes[change]()
    steps = [call for call in calls if call[0] == "cold" or call[1] in {copy, folder}]
    first_cold = next(i for i, call in enumerate(steps) if call[0] == "cold")
    assert ("unlink", copy) in steps[:first_cold]
    assert ("fsync", folder) in steps[steps.index(("unlink", copy)) : first_cold]


def test_evicted_copy_is_synced_before_the_eviction_is_known(
    tier: TierFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier.pipe_file("d/k", b"old")
    copy, folder = str(tmp_path / "hot/d/k"), str(tmp_path / "hot/d")
    with recorded(monkeypatch) as calls:
        catalog = tier._engine.catalog
        original = catalog.transaction

        @contextlib.contextmanager
        def noted() -> Iterator[sqlite3.Connection]:
            with original() as db:
                yield db
                calls.append(("commit", ""))

        monkeypatch.setattr(catalog, "transaction", noted)
        tier.evict("d/k")
    gone = calls.index(("unlink", copy))
    synced = calls.index(("fsync", folder), gone)
    assert synced < calls.index(("commit", ""), gone)


def note_before(patch: pytest.MonkeyPatch, name: str, note: Callable[[], None]) -> None:
    original = getattr(GatedFileSystem, name)

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        note()
        return original(self, *args, **kwargs)

    patch.setattr(GatedFileSystem, name, noted)


def test_hot_copy_is_synced_before_it_gets_its_name(
    tier: TierFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cold").mkdir()
    (tmp_path / "cold/k").write_bytes(b"x" * 10)
    with recorded(monkeypatch) as calls:
        assert tier.cat_file("k") == b"x" * 10
    named = calls.index(("rename", str(tmp_path / "hot/k")))
    staged = calls[named + 1][1]
    assert ("fsync", staged) in calls[:named]


# -------------------------------------------------------------------- kill -9


def payload(key: str, version: int) -> bytes:
    return random.Random(f"{key}/{version}").randbytes(200 + 4000 * version)


def scenario(top: Path, seed: int) -> None:
    """Do a few things to a tier and acknowledge each in a log that outlives the process."""
    choose = random.Random(seed)
    tier = open_tier(top, max_bytes=20_000)
    log = os.open(top / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def logged(call: Callable[..., Any], *args: Any, sets: dict[str, int], **kwargs: Any) -> None:
        for mark in "?=":
            for key, version in sets.items():
                REAL["write"](log, f"{mark} {key} {version}\n".encode())
            if mark == "?":
                with contextlib.suppress(FileNotFoundError):
                    call(*args, **kwargs)

    for _ in range(4):
        key = choose.choice(["a", "d/b", "d/e/c"])
        version = choose.randrange(1, 4)
        steps: dict[str, Callable[[], None]] = {
            "put": partial(logged, tier.pipe_file, key, payload(key, version), sets={key: version}),
            "read": partial(logged, tier.cat_file, key, sets={}),
            "rm": partial(logged, tier.rm_file, key, sets={key: 0}),
            "evict": partial(logged, tier.evict, key, sets={}),
            # The name goes to an object of its own, whose content nobody asks for.
            "mv": partial(logged, tier.mv, key, "moved", sets={key: 0}),
            "rmtree": partial(logged, tier.rm, "d", recursive=True, sets={"d/b": 0, "d/e/c": 0}),
        }
        steps[choose.choice(["put", "put", "read", "read", "rm", "evict", "mv", "rmtree"])]()


def run_killed(top: Path, seed: int, count: int) -> bool:
    """Run the scenario in a forked process that dies at a call; say whether it got that far."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            die_at(count)
            scenario(top, seed)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the scenario failed by itself"
    return os.WIFSIGNALED(status)


def allowed(top: Path) -> dict[str, set[int]]:
    """Return the versions each key may have: the last acknowledged, and those begun since."""
    versions: dict[str, set[int]] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (top / "log").read_text().splitlines():
            kind, key, version = line.split()
            if kind == "=":
                versions[key] = {int(version)}
            else:
                versions.setdefault(key, {0}).add(int(version))
    return versions


def check(top: Path) -> None:
    """Come back as another process and compare everything."""
    tier = open_tier(top)
    for key, versions in allowed(top).items():
        for attempt in ("first", "again"):
            data = tier.cat_file(key) if tier.exists(key) else None
            found = {v for v in versions if data == (payload(key, v) if v else None)}
            assert found, (key, versions, data and len(data), attempt)
            versions.intersection_update(found)  # whatever it is, it stays
    copies = hot_files(top)
    for key, data in copies.items():
        assert (top / "cold" / key).read_bytes() == data, f"hot copy of {key} is stale or torn"
    stats = tier.stats()
    assert sum(map(len, copies.values())) == stats.hot_bytes <= stats.max_bytes
    assert len(copies) == stats.hot_objects
    assert staged_files(top) == []
    TierFileSystem.clear_instance_cache()
    close_engines()


def kill_everywhere(top: Path, cycles: int, first_seed: int) -> int:
    """Kill at every durable call of one scenario after another, until enough were killed."""
    done, seed = 0, first_seed
    while done < cycles:
        count = 1
        place = top / f"s{seed}"
        while True:
            place.mkdir()
            # Something is there already, so that the first steps are not all creations.
            for key in ("a", "d/b"):
                (place / "cold" / key).parent.mkdir(parents=True, exist_ok=True)
                (place / "cold" / key).write_bytes(payload(key, 1))
            (place / "log").write_text("= a 1\n= d/b 1\n")
            killed = run_killed(place, seed, count)
            check(place)
            remove_tree(place)
            done += killed
            count += 1
            if not killed or done >= cycles:
                break
        seed += 1
    return done


def test_killed_at_a_hundred_calls(tmp_path: Path) -> None:
    assert kill_everywhere(tmp_path, 100, first_seed=0) == 100


@pytest.mark.crash
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_every_call(fast_place: Path, part: int) -> None:
    cycles = CYCLES // PARTS
    seed = 1000 * (part + 1)
    assert in_a_small_process(kill_everywhere, fast_place, cycles, seed) >= cycles


def _promote_slowly(top: Path) -> None:
    def hang(key: str) -> None:
        (top / "reached").touch()
        time.sleep(600)  # until it is killed

    GatedFileSystem.before_get = hang
    tier = open_gated(top)
    tier.pipe_file("k", b"value of the child's own memory")
    tier.evict("k")
    tier.cat_file("k")


def open_gated(top: Path) -> Any:
    import fsspec

    return fsspec.filesystem(
        "tier", hot=str(top / "hot"), target_protocol="gated", target_options={"store": str(top)}
    )


def test_killed_fetcher_does_not_block_the_others(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_promote_slowly, args=(tmp_path,))
    child.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "reached").exists():
        assert time.monotonic() < deadline
        assert child.is_alive()
        time.sleep(0.01)
    child.kill()
    child.join()
    tier = open_gated(tmp_path)
    assert hot_files(tmp_path) == {}
    tier.pipe_file("k", b"mine")
    tier.evict("k")
    assert tier.cat_file("k") == b"mine"
    assert staged_files(tmp_path) == []


# -------------------------------------------------------------------- what else can be lost


def test_catalogue_that_is_garbage_is_rebuilt(tier: TierFileSystem, tmp_path: Path) -> None:
    tier.pipe_file("a", b"1")
    tier.pipe_file("d/b", b"22")
    TierFileSystem.clear_instance_cache()
    close_engines()
    (tmp_path / "hot/.vfs/catalog.sqlite").write_bytes(b"not a database" * 1000)
    again = open_tier(tmp_path)
    assert again.stats().hot_bytes == 3
    assert again.stats().hot_objects == 2
    assert again.cat_file("d/b") == b"22"


def test_catalogue_of_another_boot_is_checked_against_the_files(
    tier: TierFileSystem, tmp_path: Path
) -> None:
    tier.pipe_file("kept", b"1")
    tier.pipe_file("lost in the cut", b"22")
    TierFileSystem.clear_instance_cache()
    close_engines()
    (tmp_path / "hot/lost in the cut").unlink()
    (tmp_path / "hot/.vfs/tmp/7-7").write_bytes(b"half")
    with contextlib.closing(sqlite3.connect(tmp_path / "hot/.vfs/catalog.sqlite")) as db:
        db.execute("UPDATE meta SET value='another boot' WHERE name='boot'")
        db.execute("INSERT INTO reservations (owner, key, size) VALUES (7, 'x', 1000)")
        db.commit()
    again = open_tier(tmp_path)
    assert again.stats().hot_bytes == 1
    assert again.cat_file("lost in the cut") == b"22"
    assert staged_files(tmp_path) == []


def test_release_never_hits_the_reservation_of_another(tmp_path: Path) -> None:
    from vfs.tier.catalog import Catalog, Reservation

    catalog = Catalog(str(tmp_path / "c.sqlite"), "boot")
    catalog.set_limit(1000)
    mine = catalog.reserve(1, "a", 100)
    assert isinstance(mine, Reservation)
    catalog.release(mine)
    other = catalog.reserve(2, "b", 50)
    assert isinstance(other, Reservation)
    catalog.release(mine)
    assert catalog.used() == 50
    catalog.close()
