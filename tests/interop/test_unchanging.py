"""Objects that nobody changes: whatever else goes on, no call fails and every byte is right.

Evictions, promotions, checks and writes of other objects go on in each thread of two processes,
within a limit that holds about the largest object and one more.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem

from vfs.errors import TierFullError

pytestmark = pytest.mark.slow

SIZES = (0, 10, 3_000, 70_000, 300_000, 2_000_000)
KEYS = [f"d{n % 3}/k{n}" for n in range(2 * len(SIZES))]
THREADS = 4
#: Calls of each thread; see docs/testing.md for the sizes of a run and of a release.
CALLS = int(os.environ.get("VFS_CALLS", "150"))

TIER = {"protocol": "tier", "max_bytes": 3_000_000}
CACHE = {"protocol": "cache", "max_bytes": 4_000_000}
PLACES: dict[str, dict[str, Any]] = {
    "through": {**TIER, "write": "through"},
    "through, shared": {**TIER, "write": "through", "consistency": "open"},
    "back": {**TIER, "write": "back", "promote": "second"},
    "back, shared": {**TIER, "write": "back", "consistency": "ttl", "ttl_s": 0.1},
    "never promoted": {**TIER, "write": "back", "promote": "never"},
    "two directories": {**TIER, "write": "back", "above": 500_000},
    "cache, open": {**CACHE, "consistency": "open"},
    "cache, once": {**CACHE, "consistency": "ttl", "verify": "once", "memory_bytes": 100_000},
    "cache, strict": {**CACHE, "consistency": "strict"},
}


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZES[number % len(SIZES)])


def open_place(top: Path, place: str) -> tuple[AbstractFileSystem, str]:
    """Return a filesystem, and what its keys begin with."""
    options = dict(PLACES[place])
    protocol, cold = options.pop("protocol"), f"disk://{top}/cold"
    if protocol == "cache":
        return fsspec.filesystem(
            "cache", target_protocol="disk", directory=f"{top}/cache", **options
        ), f"{top}/cold/"
    if above := options.pop("above", None):
        first = {"hot": f"{top}/above", "max_bytes": above}
        last = {"hot": f"{top}/hot", "max_bytes": options.pop("max_bytes")}
        return fsspec.filesystem("tier", tiers=[first, last, cold], **options), ""
    return fsspec.filesystem("tier", hot=f"{top}/hot", cold=cold, **options), ""


class User:
    """Makes calls at random; each of them has one right answer."""

    def __init__(self, top: Path, place: str, seed: str) -> None:
        self.fs, self.start = open_place(top, place)
        self.local = f"{top}/{seed.replace('/', '-')}"
        self.own = f"{self.start}own/{seed}"
        self.rng = random.Random(f"{place}/{seed}")
        self.calls: list[Callable[[str, bytes, int, int], object]] = [
            *(self.whole, self.part, self.ranges, self.opened, self.opened_async, self.fetched),
            *(self.facts, self.listed, self.many, self.evicted, self.kept, self.checked),
            self.written,
        ]

    def call(self) -> str:
        number = self.rng.randrange(len(KEYS))
        data = content(number)
        low, high = sorted(self.rng.randrange(len(data) + 1) for _ in range(2))
        call = self.rng.choice(self.calls)
        call(f"{self.start}{KEYS[number]}", data, low, high)
        return call.__name__

    def whole(self, key: str, data: bytes, low: int, high: int) -> None:
        assert self.fs.cat_file(key) == data

    def part(self, key: str, data: bytes, low: int, high: int) -> None:
        assert self.fs.cat_file(key, low, high) == data[low:high]

    def ranges(self, key: str, data: bytes, low: int, high: int) -> None:
        found = self.fs.cat_ranges([key, key], [low, 0], [high, high], on_error="raise")
        assert found == [data[low:high], data[:high]]

    def opened(self, key: str, data: bytes, low: int, high: int) -> None:
        with self.fs.open(key, block_size=50_000) as file:
            for start, end in ((low, high), (0, low), (high, len(data))):
                file.seek(start)
                assert file.read(end - start) == data[start:end]

    def opened_async(self, key: str, data: bytes, low: int, high: int) -> None:
        async def read() -> bytes:
            options = {**self.fs.storage_options, "asynchronous": True}
            again = type(self.fs)(*self.fs.storage_args, **options)
            file = await again.open_async(key, "rb")
            found: bytes = await file.read(low) + await file.read(high - low)
            await file.close()
            return found + await again._cat_file(key, high, None)

        assert asyncio.run(read()) == data

    def fetched(self, key: str, data: bytes, low: int, high: int) -> None:
        self.fs.get_file(key, self.local)
        assert Path(self.local).read_bytes() == data

    def facts(self, key: str, data: bytes, low: int, high: int) -> None:
        assert self.fs.info(key)["size"] == len(data)
        assert self.fs.exists(key)
        assert not self.fs.exists(f"{key}-not")

    def listed(self, key: str, data: bytes, low: int, high: int) -> None:
        folder = key.rpartition("/")[0]
        assert key in self.fs.ls(folder, detail=False)
        assert {f"{self.start}{other}" for other in KEYS} <= set(self.fs.find(self.start))

    def many(self, key: str, data: bytes, low: int, high: int) -> None:
        wanted = {f"{self.start}{KEYS[n]}": content(n) for n in range(0, len(KEYS), 2)}
        assert self.fs.cat(list(wanted)) == wanted

    def evicted(self, key: str, data: bytes, low: int, high: int) -> None:
        if "cache" in type(self.fs).protocol:
            self.fs.evict([key])
        elif self.rng.random() < 0.5:
            self.fs.evict(key)
        else:
            self.fs.evict(key.rpartition("/")[0], recursive=True)

    def kept(self, key: str, data: bytes, low: int, high: int) -> None:
        if "cache" in type(self.fs).protocol:
            self.fs.warm([key])
        else:
            with contextlib.suppress(TierFullError):  # others are making copies, too
                self.fs.promote(key)

    def checked(self, key: str, data: bytes, low: int, high: int) -> None:
        if "cache" in type(self.fs).protocol:
            assert self.fs.check([key]) == {}
        else:
            assert self.fs.status(key).size == len(data)
            if self.rng.random() < 0.2:
                problems = self.fs.fsck().problems
                assert not problems, problems

    def written(self, key: str, data: bytes, low: int, high: int) -> None:
        own = f"{self.own}-{self.rng.randrange(3)}"
        self.fs.pipe_file(own, data)
        assert self.fs.cat_file(own) == data
        assert self.fs.info(own)["size"] == len(data)
        with self.fs.open(own) as file:
            assert file.read() == data
        if self.rng.random() < 0.5:
            self.fs.rm_file(own)
            assert not self.fs.exists(own)


def use(top: Path, place: str, process: int) -> tuple[Counter[str], list[str]]:
    """Be one of the processes; return which calls were made, and what failed."""
    made: Counter[str] = Counter()
    failed: list[str] = []
    started = threading.Barrier(THREADS)

    def work(thread: int) -> None:
        user = User(top, place, f"{process}/{thread}")
        started.wait(60)
        for _ in range(CALLS):
            try:
                made[user.call()] += 1
            except Exception:  # noqa: BLE001 - told by the parent
                failed.append(traceback.format_exc())

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    fs, _ = open_place(top, place)
    if "tier" in type(fs).protocol:
        fs.flush()
    return made, failed


@pytest.mark.parametrize("place", PLACES)
def test_nothing_fails_while_nothing_changes(tmp_path: Path, place: str) -> None:
    for number, key in enumerate(KEYS):
        path = tmp_path / "cold" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
        os.utime(path, (1e9, 1e9))  # long ago, so that its time tells its version
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        found = list(pool.map(use, [tmp_path] * 2, [place] * 2, range(2)))
    made: Counter[str] = sum((calls for calls, _ in found), Counter())
    failed = [trace for _, traces in found for trace in traces]
    assert not failed, f"{len(failed)} calls failed, the first of them:\n{failed[0]}"
    assert made.total() == 2 * THREADS * CALLS
    assert len(made) == len(User(tmp_path, place, "0/0").calls)
