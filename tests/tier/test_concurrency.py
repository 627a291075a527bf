"""Readers that arrive together at one cold object: right bytes, and one request at the server."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tier_tools import hot_files

from vfs.testing.servers import S3Server, s3_server

pytestmark = pytest.mark.server

#: Readers come this far apart, as fsspec's caches were seen to fail; the body takes longer than
#: all of them together need to arrive.
STAGGER_S = 0.02
PAYLOAD = random.Random(1).randbytes(1 << 20)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        running.make_bucket("data")
        yield running


@pytest.fixture
def cold(server: S3Server) -> Iterator[str]:
    """Put a cold object behind a slow server; return its path."""
    path = f"data/{random.randrange(1 << 40):x}"
    server.put(path, PAYLOAD)
    server.reset()
    server.set_throttle(2_000_000)  # half a second for the object
    yield path
    server.set_throttle(None)


def open_s3(server: S3Server, top: Path) -> Any:
    return fsspec.filesystem(
        "tier",
        hot=str(top / "hot"),
        target_protocol="s3",
        target_options=server.storage_options,
    )


def test_sixteen_threads_ask_once(server: S3Server, cold: str, tmp_path: Path) -> None:
    tier = open_s3(server, tmp_path)

    def read(number: int) -> Any:
        time.sleep(number * STAGGER_S)  # the arrival pattern under test, not synchronisation
        kinds = number % 4
        if kinds == 0:
            return tier.cat_file(cold)
        if kinds == 1:
            with tier.open(cold) as file:
                return file.read()
        if kinds == 2:
            return b"".join(tier.cat_ranges([cold] * 2, [0, 1000], [1000, None]))
        return tier.cat_file(cold, 0, 700_000) + tier.cat_file(cold, 700_000)

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(read, range(16)))
    assert all(data == PAYLOAD for data in results)
    assert server.gets(cold) == 1


def test_sixteen_coroutines_ask_once(server: S3Server, cold: str, tmp_path: Path) -> None:
    tier = open_s3(server, tmp_path)

    async def read(number: int) -> Any:
        await asyncio.sleep(number * STAGGER_S)
        return await tier._cat_file(cold)

    async def read_all() -> Any:
        return await asyncio.gather(*[read(number) for number in range(16)])

    assert asyncio.run(read_all()) == [PAYLOAD] * 16
    assert server.gets(cold) == 1


def test_threads_loops_and_instances_ask_once(server: S3Server, cold: str, tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def read_in_own_loop(number: int) -> Any:
        tier = open_s3(server, tmp_path) if number % 2 else fresh(server, tmp_path)
        barrier.wait()
        return asyncio.run(tier._cat_file(cold))

    def fresh(server: S3Server, top: Path) -> Any:
        return fsspec.filesystem(
            "tier",
            hot=str(top / "hot"),
            target_protocol="s3",
            target_options=server.storage_options,
            asynchronous=True,
        )

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_in_own_loop, range(8))) == [PAYLOAD] * 8
    assert server.gets(cold) == 1


def _read_in_process(
    options: dict[str, Any], top: Path, path: str, delay_s: float, start: Any, results: Any
) -> None:
    tier = fsspec.filesystem(
        "tier", hot=str(top / "hot"), target_protocol="s3", target_options=options
    )
    tier.stats()  # imports and opening are not what is raced
    tier.fs.exists("data")
    results.put("ready")
    start.wait(60)
    time.sleep(delay_s)
    results.put(tier.cat_file(path) == PAYLOAD)


def test_four_processes_ask_once(server: S3Server, cold: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    readers = [
        context.Process(
            target=_read_in_process,
            args=(server.storage_options, tmp_path, cold, n * STAGGER_S, start, results),
        )
        for n in range(4)
    ]
    for reader in readers:
        reader.start()
    assert [results.get(timeout=60) for _ in readers] == ["ready"] * 4
    start.set()
    assert [results.get(timeout=60) for _ in readers] == [True] * 4
    for reader in readers:
        reader.join(30)
        assert reader.exitcode == 0
    assert server.gets(cold) == 1
    assert list(hot_files(tmp_path).values()) == [PAYLOAD]


def test_warm_reads_ask_nothing(server: S3Server, cold: str, tmp_path: Path) -> None:
    tier = open_s3(server, tmp_path)
    assert tier.cat_file(cold) == PAYLOAD
    tier.info(cold)
    server.reset()
    assert tier.cat_file(cold, -100) == PAYLOAD[-100:]
    assert tier.info(cold)["size"] == len(PAYLOAD)
    assert tier.exists(cold)
    with tier.open(cold) as file:
        assert file.read() == PAYLOAD
    assert server.requests() == []


@pytest.mark.parametrize("fault", ["cut", "refuse", "forbid"])
def test_failed_fetch_is_an_error_and_leaves_nothing(
    server: S3Server, cold: str, tmp_path: Path, fault: str
) -> None:
    tier = open_s3(server, tmp_path)
    if fault == "cut":
        server.cut_next(after_bytes=100_000, method="GET", prefix=cold, times=20)
    elif fault == "refuse":
        server.fail_next(500, method="GET", prefix=cold, times=20)
    else:
        server.fail_next(403, method="GET", prefix=cold, times=20)
    with pytest.raises(OSError) as caught:
        tier.cat_file(cold)
    assert not isinstance(caught.value, FileNotFoundError)
    assert caught.value.errno
    assert hot_files(tmp_path) == {}
    server.reset()
    server.set_throttle(None)
    assert tier.cat_file(cold) == PAYLOAD


def test_unreachable_cold_store_is_never_absence(tmp_path: Path) -> None:
    with s3_server() as gone:
        gone.make_bucket("data")
        gone.put("data/k", b"1")
        options = gone.storage_options
    options["client_kwargs"] |= {"region_name": "us-east-1"}
    tier = fsspec.filesystem(
        "tier",
        hot=str(tmp_path / "hot"),
        target_protocol="s3",
        target_options={**options, "config_kwargs": {"retries": {"max_attempts": 0}}},
    )
    for call in (tier.cat_file, tier.info, tier.exists, tier.ls):
        with pytest.raises(OSError) as caught:
            call("data/k")
        assert not isinstance(caught.value, FileNotFoundError)
        assert caught.value.errno
