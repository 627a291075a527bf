"""Coroutines that are cancelled: nothing of theirs stays, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tier_tools import Gate, hot_files, open_files_below, open_tier, staged_files

from vfs.core.loop import hop, io_loop
from vfs.errors import TierFullError
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.hot import HotStore

SIZES = (0, 10, 70_000, 500_000)
KEYS = [f"d{n % 2}/k{n}" for n in range(2 * len(SIZES))]

#: Calls of the random test, of which about every third is cancelled.
CALLS = 600


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZES[number % len(SIZES)])


@pytest.mark.parametrize("write", ["through", "back"])
def test_cancelled_writer_keeps_its_lock_until_its_thread_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Else it would give its bytes a name after those of the next writer."""
    tier = open_tier(tmp_path, write=write)
    gate, real = Gate(), HotStore.make_places

    def make_places(self: HotStore, *args: Any) -> Any:
        if not gate.reached.is_set():
            gate("")
        return real(self, *args)

    monkeypatch.setattr(HotStore, "make_places", make_places)
    first = asyncio.run_coroutine_threadsafe(tier._pipe_file("k", b"older"), io_loop())
    assert gate.reached.wait(30)
    first.cancel()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(tier.pipe_file, "k", b"newer")
        assert not futures.wait([second], timeout=0.3).done
        gate.go_on.set()
        second.result(30)
    assert tier.cat_file("k") == b"newer"
    assert hot_files(tmp_path) == {"k": b"newer"}
    tier.flush()
    assert (tmp_path / "cold/k").read_bytes() == b"newer"


class Calls:
    """Coroutines at random; each has one right answer."""

    def __init__(self, fs: Any, start: str, top: Path) -> None:
        self.fs, self.start, self.top = fs, start, top
        self.rng = random.Random(str(fs.storage_options))
        self.number = 0
        self.made: Counter[str] = Counter()
        self.errors: list[BaseException] = []

    async def one(self) -> None:
        what = self.rng.choice([self.read, self.part, self.opened, self.fetched, self.written])
        what = self.rng.choice([what, self.evicted, self.kept, self.listed])
        number = self.rng.randrange(len(KEYS))
        try:
            await what(f"{self.start}{KEYS[number]}", content(number))
            self.made[what.__name__] += 1
        except asyncio.CancelledError:
            self.made["cancelled"] += 1
            raise
        except Exception as error:  # noqa: BLE001 - told by the test
            self.errors.append(error)

    async def read(self, key: str, data: bytes) -> None:
        assert await self.fs._cat_file(key) == data

    async def part(self, key: str, data: bytes) -> None:
        found = await self.fs._cat_ranges([key, key], [0, 5], [9, 70], on_error="raise")
        assert found == [data[:9], data[5:70]]

    async def opened(self, key: str, data: bytes) -> None:
        file = await self.fs.open_async(key, "rb")
        assert await file.read(1000) + await file.read(-1) == data
        await file.close()

    async def fetched(self, key: str, data: bytes) -> None:
        self.number += 1
        local = self.top / f"fetched-{self.number}"
        await self.fs._get_file(key, str(local))
        assert local.read_bytes() == data

    async def written(self, key: str, data: bytes) -> None:
        own = f"{self.start}own/{self.rng.randrange(3)}"
        if self.rng.random() < 0.7:
            await self.fs._pipe_file(own, data)
        else:
            with contextlib.suppress(FileNotFoundError):
                await self.fs._rm_file(own)

    async def evicted(self, key: str, data: bytes) -> None:
        await hop(self.fs._evict, key if "tier" in self.fs.protocol else [key])

    async def kept(self, key: str, data: bytes) -> None:
        if "tier" in self.fs.protocol:
            with contextlib.suppress(TierFullError):
                await hop(self.fs._promote, key)
        else:
            await hop(self.fs._warm, [key])

    async def listed(self, key: str, data: bytes) -> None:
        assert {f"{self.start}{other}" for other in KEYS} <= set(await self.fs._find(self.start))


async def call_and_cancel(calls: Calls) -> None:
    rng, tasks = random.Random(0), set[asyncio.Task[None]]()
    for _ in range(CALLS):
        while len(tasks) > 11:
            await asyncio.sleep(rng.choice([0, 0, 0.0005, 0.002]))
            if tasks and rng.random() < 0.3:
                rng.choice(list(tasks)).cancel()
        task = asyncio.ensure_future(calls.one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks, return_exceptions=True)
    for number, key in enumerate(KEYS):
        assert await calls.fs._cat_file(f"{calls.start}{key}") == content(number)


def assert_nothing_is_left(tier: TierFileSystem, top: Path) -> None:
    engine = tier._engine
    # A fetch that nobody waits for any more still ends.
    asyncio.run_coroutine_threadsafe(no_flights(engine), io_loop()).result(60)
    tier.flush()
    assert engine.catalog.reservations_of(engine.hot.owner) == []
    assert staged_files(top) == []
    assert tier.fsck().problems == ()
    assert engine.catalog.used() == sum(map(len, hot_files(top).values()))


async def no_flights(engine: Any) -> None:
    while engine.flights:
        await asyncio.wait(list(engine.flights._flights.values()))


@pytest.mark.parametrize("protocol", ["tier", "cache"])
@pytest.mark.parametrize("mode", [{}, {"consistency": "ttl", "ttl_s": 0.05}, {"write": "back"}])
def test_cancelled_calls_leave_nothing_behind(
    tmp_path: Path, protocol: str, mode: dict[str, Any]
) -> None:
    if protocol == "cache" and "write" in mode:
        mode = {"consistency": "strict"}
    for number, key in enumerate(KEYS):
        path = tmp_path / "cold" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
    options: dict[str, Any] = {"max_bytes": 1_200_000, **mode}
    if protocol == "tier":
        fs: Any = open_tier(tmp_path, asynchronous=True, **options)
        start = ""
    else:
        options |= {"directory": f"{tmp_path}/cache", "asynchronous": True}
        fs = fsspec.filesystem("cache", target_protocol="disk", **options)
        start = f"{tmp_path}/cold/"
    calls = Calls(fs, start, tmp_path)
    asyncio.run(call_and_cancel(calls))
    assert not calls.errors, calls.errors
    assert calls.made["cancelled"] > CALLS / 20
    assert len(calls.made) == 9
    if protocol == "tier":
        assert_nothing_is_left(open_tier(tmp_path, **options), tmp_path)
    left = [
        path for path in open_files_below(tmp_path) if "/tmp/" in path.removeprefix(f"{tmp_path}")
    ]
    assert left == []
    assert not list(tmp_path.glob(".*")), "temporary files of downloads"
    assert os.listdir(tmp_path / ("hot/.vfs/tmp" if protocol == "tier" else "cache/tmp")) == []
