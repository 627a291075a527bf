"""Many hot objects: a warm read and a new entry must not notice how many there are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import fsspec

from benchmarks.report import Row, rows_of
from benchmarks.rounds import Place, Size, time_calls

TOPIC = "entries"

_READ_BYTES = 64 << 10
_SAMPLED = 50  # objects that are read; the others only lie there
_NEW_BYTES = 4 << 10

_CLAIM = "import fsspec, sys; fsspec.filesystem('tier', hot=sys.argv[1], cold=sys.argv[2]).stats()"


def filled_tier(hot: Path, cold: Path, count: int) -> tuple[Any, list[str]]:
    """Return a tier with ``count`` hot objects, and the keys of those with bytes in them.

    Promoting each would take minutes. A tier whose catalogue is missing takes what lies in its
    hot directory for its copies, so they are laid there.
    """
    cold.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", _CLAIM, str(hot), f"disk://{cold}"], check=True)
    for name in (hot / ".vfs").glob("catalog.sqlite*"):
        name.unlink()
    step = max(1, count // _SAMPLED)
    sampled = []
    content = os.urandom(_READ_BYTES)
    for number in range(count):
        folder = hot / f"{number // 1000}"
        if number % 1000 == 0:
            folder.mkdir()
        with open(folder / str(number), "wb") as file:
            if number % step == 0:
                file.write(content)
                sampled.append(f"{number // 1000}/{number}")
    fs = fsspec.filesystem("tier", hot=str(hot), cold=f"disk://{cold}", max_bytes="8 GiB")
    found = fs.stats().hot_objects
    if found != count or fs.cat_file(sampled[-1]) != content:
        message = f"{found} hot objects instead of {count}"
        raise AssertionError(message)
    return fs, sampled[:_SAMPLED]


def run(place: Place) -> Iterator[Row]:
    yield from _warm(place)
    yield from _new(place)
    yield from _blocks(place)


def _blocks(place: Place) -> Iterator[Row]:
    """Read warm blocks of a cache that has few, and of one that has many."""
    cases: dict[str, Callable[[], object]] = {}
    cold = place.folder("objects")
    keys = [str(cold / f"{number}") for number in range(_SAMPLED)]
    for key in keys:
        Path(key).write_bytes(os.urandom(_READ_BYTES))
    caches = []
    for count in place.size.blocks:
        fs = fsspec.filesystem(
            "cache",
            target_protocol="disk",
            directory=str(place.root / f"cache{count}"),
            max_bytes="16 GiB",
            consistency="immutable",
        )
        for key in keys:
            fs.cat_file(key)
        _other_blocks(place.root / f"cache{count}", count - _SAMPLED)
        caches.append(fs)
        cases[f"{count} blocks"] = _reader(fs, keys)
    asked = [fs.target.requests.total() for fs in caches]
    samples = time_calls(cases, replace(place.size, rounds=4 * place.size.rounds))
    few, many = cases
    yield from rows_of(TOPIC, "64 KiB through cache, warm", samples, few, {many: 1.1})
    requests = sum(fs.target.requests.total() for fs in caches) - sum(asked)
    yield Row(TOPIC, "through cache, warm", "requests", requests, unit="requests", budget=0)


def _other_blocks(directory: Path, count: int) -> None:
    """Lay blocks nobody reads beside the others; only their number matters."""
    for _ in range(max(0, count)):
        name = os.urandom(16).hex()
        (directory / "blocks" / name[:2] / name).touch()


def _warm(place: Place) -> Iterator[Row]:
    cases: dict[str, Callable[[], object]] = {}
    tiers = []
    for count in place.size.entries:
        fs, keys = filled_tier(place.root / f"hot{count}", place.root / f"cold{count}", count)
        tiers.append(fs)
        cases[f"{count} hot objects"] = _reader(fs, keys)
    # Two cases that differ by less than the noise of a round: more rounds.
    samples = time_calls(cases, replace(place.size, rounds=4 * place.size.rounds))
    few, many = cases
    yield from rows_of(TOPIC, "64 KiB, warm", samples, few, {many: 1.1})
    requests = sum(sum(fs.stats().cold_requests.values()) for fs in tiers)
    yield Row(TOPIC, "64 KiB, warm", "requests to cold", requests, unit="requests", budget=0)


def _reader(fs: Any, keys: list[str]) -> Callable[[], object]:
    turn = cycle(keys)
    return lambda: fs.cat_file(next(turn))


def _new(place: Place) -> Iterator[Row]:
    cases: dict[str, Callable[[], object]] = {}
    batch = place.size.new_per_round
    rounds = place.size.rounds
    for count in place.size.new_at:
        cold = place.folder(f"newcold{count}")
        fs, _ = filled_tier(place.root / f"newhot{count}", cold, count)
        total = batch * rounds + 4  # 4 to warm up
        for number in range(total):
            (cold / f"new{number}").write_bytes(os.urandom(_NEW_BYTES))
        cases[f"promotion at {count} entries"] = _promoter(fs, total)
    # A batch of promotions is one call of the clock: a longer one would run out of new objects.
    size = Size(rounds=rounds * batch, batch_s=0.0)
    samples = time_calls(cases, size)
    few, many = cases
    yield from rows_of(TOPIC, "new entry of 4 KiB", samples, few, {many: 1.2})


def _promoter(fs: Any, total: int) -> Callable[[], object]:
    numbers = iter(range(total))
    return lambda: fs.cat_file(f"new{next(numbers)}")
