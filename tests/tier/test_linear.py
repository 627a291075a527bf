"""Histories of several processes on one tier: each object is one register, whatever moves it.

Processes store, read, remove and create the same few objects at the same time, while uploads run
and copies are evicted and fetched again. What they saw, by one clock, must be explained by some
order of the operations, each at a moment between its beginning and its end.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tier_tools import open_tier

from vfs.core.loop import wait
from vfs.errors import ConflictError
from vfs.testing.linear import Operation, is_linearizable
from vfs.tier.filesystem import TierFileSystem

#: Histories of the marked run; see docs/testing.md for the sizes of a run and of a release.
HISTORIES = int(os.environ.get("VFS_HISTORIES", "500"))

BATCHES = 10

CONTEXT = multiprocessing.get_context("spawn")
PATIENCE_S = 1200.0

KEYS = ("a", "d/b")
OPERATIONS = 12

#: What a process does next. The last four move copies and change nothing that can be seen.
STEPS = {
    "put": 5,
    "get": 7,
    "delete": 2,
    "create": 3,
    "replace": 2,
    "flush": 2,
    "evict": 2,
    "promote": 1,
    "look": 1,
}


#: Answers, not failures.
REFUSALS: dict[str, type[OSError]] = {
    "get": FileNotFoundError,
    "delete": FileNotFoundError,
    "create": FileExistsError,
}


def bytes_of(value: str) -> bytes:
    """Return bytes that tell of any other that were mixed into them; no two are of one length.

    A local cold store tells versions by size, time and inode, which may agree by chance for two
    objects of one size within the clock's resolution of some milliseconds.
    """
    who, _, turn = (int(part) for part in value.split("."))
    return f"{value}|".encode() + b"." * (who * OPERATIONS + turn + 1) * 23


def value_of(data: bytes) -> str:
    value = data.partition(b"|")[0].decode()
    assert data == bytes_of(value), f"torn: {data[:50]!r}"
    return value


def observe(tier: TierFileSystem, key: str) -> tuple[str | None, str | None]:
    """Return what is there and its version, if both are of one moment; for a conditional write."""
    before = tier.info(key)["etag"]
    value = value_of(tier.cat_file(key))
    return (value, before) if tier.info(key)["etag"] == before else (None, None)


def step(tier: TierFileSystem, kind: str, key: str, value: str) -> str | None:
    """Do one thing; return what was read or stored."""
    match kind:
        case "put":
            tier.pipe_file(key, bytes_of(value))
        case "create":
            tier.pipe_file(key, bytes_of(value), mode="create")
        case "get":
            return value_of(tier.cat_file(key))
        case "delete":
            tier.rm_file(key)
        case "flush":
            tier.flush(wait=False)
        case "evict":
            tier.evict("", recursive=True)
        case "promote":
            tier.promote(key)
        case "look":
            tier.find("")
    return value


def read(tier: TierFileSystem, key: str) -> str | None:
    try:
        return step(tier, "get", key, "")
    except FileNotFoundError:
        return None


def replace(tier: TierFileSystem, key: str, value: str, who: str) -> Operation | None:
    """Store on a condition. Refused says nothing: a version may change where the bytes do not."""
    try:
        expected, etag = observe(tier, key)
        if etag is None:
            return None
        began = time.monotonic()
        wait(tier._call, "put_object", key, bytes_of(value), if_match=etag)
    except (FileNotFoundError, ConflictError):
        return None
    return Operation("replace", began, time.monotonic(), value, "ok", expected, who)


def record(
    tier: TierFileSystem, kind: str, key: str, value: str | None, who: str
) -> Operation | None:
    """Do one thing; return it as an operation of the register, if it is one."""
    if kind == "replace":
        return replace(tier, key, str(value), who)
    began = time.monotonic()
    outcome = "ok"
    try:
        value = step(tier, kind, key, str(value))
    except OSError as error:
        if isinstance(error, REFUSALS.get(kind, ())):
            outcome, value = ("ok", None) if kind == "get" else ("refused", value)
        else:
            outcome, who = "unknown", f"{who}: {error!r}"
    ended = time.monotonic()
    if kind not in {"put", "get", "delete", "create"}:
        return None
    return Operation(kind, began, ended, value, outcome, None, who)  # type: ignore[arg-type]


def work(
    top: Path, seed: str, who: int, histories: int, options: dict[str, Any], barrier: Any
) -> None:
    tier = open_tier(top, **options)
    found: dict[str, list[Operation]] = {}
    for number in range(histories):
        choose = random.Random(f"{seed}/{who}/{number}")
        barrier.wait(PATIENCE_S)
        for turn in range(OPERATIONS):
            key = f"h{number}/{choose.choice(KEYS)}"
            kind = choose.choices(list(STEPS), list(STEPS.values()))[0]
            done = record(tier, kind, key, f"{who}.{number}.{turn}", f"process {who}")
            if done is not None:
                found.setdefault(key, []).append(done)
    (top / f"found-{who}").write_bytes(pickle.dumps(found))


def run_histories(
    top: Path,
    seed: str,
    processes: int,
    histories: int,
    modes: Sequence[str] = ("back",),
    **options: Any,
) -> None:
    """Let processes work on one tier; check what they saw, and what cold has in the end."""
    options = {"write": "back", "max_bytes": 100_000, **options}
    barrier = CONTEXT.Barrier(processes)
    children = []
    for who in range(processes):
        own = {**options, "write": modes[who % len(modes)]}
        args = (top, seed, who, histories, own, barrier)
        children.append(CONTEXT.Process(target=work, args=args))
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE_S)
        assert child.exitcode == 0
    found: dict[str, list[Operation]] = {}
    for who in range(processes):
        for key, operations in pickle.loads((top / f"found-{who}").read_bytes()).items():
            found.setdefault(key, []).extend(operations)
    tier = open_tier(top, **options)
    assert tier.flush(timeout_s=PATIENCE_S) == 0
    for key, history in found.items():
        path = top / "cold" / key
        last = value_of(path.read_bytes()) if path.is_file() else None
        end = max(op.ended for op in history)
        # What cold has when all is sent is one more read: nothing was lost, nothing came late.
        history.append(Operation("get", end + 1, end + 2, last, who="cold"))
        history.append(Operation("get", end + 3, end + 4, read(tier, key)))
        listing = "\n".join(str(op) for op in sorted(history, key=lambda op: op.began))
        assert is_linearizable(history), f"{key} is no register:\n{listing}"
    everything = [op for history in found.values() for op in history]
    unknown = [op for op in everything if op.outcome == "unknown"]
    assert len(unknown) <= len(everything) // 20, unknown[:5]
    assert len(found) == histories * len(KEYS)


@pytest.mark.timeout(300)
def test_few_histories_of_four_processes(tmp_path: Path) -> None:
    run_histories(tmp_path, "few", 4, 12, durability="process")


@pytest.mark.timeout(300)
def test_few_histories_of_writers_in_every_mode(tmp_path: Path) -> None:
    run_histories(tmp_path, "mixed", 4, 12, ("back", "through", "back", "around"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("batch", range(BATCHES // 5))
def test_histories_of_writers_in_every_mode(tmp_path: Path, batch: int) -> None:
    histories = -(-HISTORIES // BATCHES)
    modes = ("back", "through", "back", "through", "back", "around")
    run_histories(tmp_path, f"mixed/{batch}", 6, histories, modes)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("batch", range(BATCHES // 2))
@pytest.mark.parametrize("durability", ["process", "power"])
def test_histories_of_six_processes(tmp_path: Path, durability: str, batch: int) -> None:
    histories = -(-HISTORIES // BATCHES)
    run_histories(tmp_path, f"{durability}/{batch}", 6, histories, durability=durability)
