"""Readers that arrive together at one cold object: right bytes, and one request for each block."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from pyarrow.fs import FSSpecHandler, PyFileSystem

from vfs.errors import ConflictError
from vfs.testing.servers import S3Server, s3_server

pytestmark = pytest.mark.server

#: The arrival pattern in which other caches were seen to give truncated data and zeros: readers
#: this far apart, on a body that takes longer than all of them together need to arrive.
STAGGER_S = 0.02
SMALL = random.Random(1).randbytes(1 << 20)
LARGE = random.Random(2).randbytes((6 << 20) + 12_345)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        running.make_bucket("data")
        yield running


@pytest.fixture
def small(server: S3Server) -> Iterator[str]:
    yield from _cold(server, SMALL, 2_000_000)


@pytest.fixture
def large(server: S3Server) -> Iterator[str]:
    """An object of seven blocks."""
    yield from _cold(server, LARGE, 12_000_000)


def _cold(server: S3Server, data: bytes, bytes_a_second: int) -> Iterator[str]:
    path = f"data/{random.randrange(1 << 40):x}"
    server.put(path, data)
    server.reset()
    server.set_throttle(bytes_a_second)  # half a second for the object
    yield path
    server.set_throttle(None)


def open_s3(options: dict[str, Any], top: Path, **more: Any) -> Any:
    return fsspec.filesystem(
        "cache",
        directory=str(top / "cache"),
        target_protocol="s3",
        target_options=options,
        **{"consistency": "immutable", **more},
    )


def read_somehow(fs: Any, path: str, data: bytes, kind: int) -> bool:
    """Read the object, or much of it, in one of six ways; say whether it was right."""
    half = len(data) // 2
    if kind == 0:
        return bool(fs.cat_file(path) == data)
    if kind == 1:
        with fs.open(path) as file:
            return bool(file.read() == data)
    if kind == 2:
        parts = fs.cat_ranges([path] * 3, [0, 1000, half], [1000, half, None])
        return b"".join(parts) == data
    if kind == 3:
        return bool(fs.cat_file(path, 0, half) + fs.cat_file(path, half) == data)
    if kind == 4:
        with PyFileSystem(FSSpecHandler(fs)).open_input_file(path) as file:
            return bool(file.read() == data)
    with fs.open(path) as file:
        pieces = iter(lambda: file.read(100_000), b"")
        return b"".join(pieces) == data


def test_sixteen_threads_ask_once(server: S3Server, small: str, tmp_path: Path) -> None:
    fs = open_s3(server.storage_options, tmp_path)

    def read(number: int) -> bool:
        time.sleep(number * STAGGER_S)  # the arrival pattern under test, not synchronisation
        return read_somehow(fs, small, SMALL, number % 6)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(16)))
    assert server.gets(small) == 1


def test_sixteen_threads_ask_once_for_each_block(
    server: S3Server, large: str, tmp_path: Path
) -> None:
    fs = open_s3(server.storage_options, tmp_path, request_bytes="2 MiB")

    def read(number: int) -> bool:
        time.sleep(number * STAGGER_S)
        return read_somehow(fs, large, LARGE, number % 6)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(16)))
    # Seven blocks; a reader that begins in the middle may cut the runs of another one.
    assert 4 <= server.gets(large) <= 7
    assert fs.stats().bytes_fetched == len(LARGE)


def test_zarr_readers_ask_once_for_each_chunk(server: S3Server, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((256, 512))
    url = f"s3://data/{random.randrange(1 << 40):x}.zarr"
    plain = zarr.create_array(
        url,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(64, 512),
        compressors=None,
        storage_options=server.storage_options,
    )
    plain[:] = values
    cache = {"directory": str(tmp_path / "cache"), "consistency": "immutable"}
    options = {"cache": cache, "s3": server.storage_options}
    server.reset()
    server.set_throttle(2_000_000)

    def read(number: int) -> bool:
        time.sleep(number * STAGGER_S)
        array: Any = zarr.open_array(f"cache::{url}", mode="r", storage_options=options)
        return bool(np.array_equal(array[:], values))

    try:
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(read, range(16)))
    finally:
        server.set_throttle(None)
    chunks = [request for request in server.requests() if "/c/" in request.path]
    assert len(chunks) == 4
    assert {request.method for request in chunks} == {"GET"}


def test_sixteen_coroutines_ask_once(server: S3Server, small: str, tmp_path: Path) -> None:
    fs = open_s3(server.storage_options, tmp_path)

    async def read(number: int) -> Any:
        await asyncio.sleep(number * STAGGER_S)
        if number % 2:
            return b"".join(await fs._cat_ranges([small] * 2, [0, 5000], [5000, None]))
        return await fs._cat_file(small)

    async def read_all() -> Any:
        return await asyncio.gather(*[read(number) for number in range(16)])

    assert asyncio.run(read_all()) == [SMALL] * 16
    assert server.gets(small) == 1


def test_loops_and_instances_ask_once(server: S3Server, small: str, tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def read_in_own_loop(number: int) -> Any:
        fs = open_s3(server.storage_options, tmp_path, asynchronous=bool(number % 2))
        barrier.wait()
        return asyncio.run(fs._cat_file(small))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_in_own_loop, range(8))) == [SMALL] * 8
    assert server.gets(small) == 1


def _read_in_process(
    options: dict[str, Any], top: Path, path: str, number: int, start: Any, results: Any
) -> None:
    fs = open_s3(options, top)
    fs.stats()  # imports and opening are not what is raced
    fs.fs.exists("data")
    results.put("ready")
    start.wait(60)
    time.sleep(number * STAGGER_S)
    if number % 2:
        with ThreadPoolExecutor(4) as pool:
            right = all(pool.map(lambda n: read_somehow(fs, path, SMALL, n), range(4)))
    else:
        right = read_somehow(fs, path, SMALL, number % 6)
    results.put(right)


def test_processes_ask_once(server: S3Server, small: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    readers = [
        context.Process(
            target=_read_in_process,
            args=(server.storage_options, tmp_path, small, n, start, results),
        )
        for n in range(8)
    ]
    for reader in readers:
        reader.start()
    assert [results.get(timeout=120) for _ in readers] == ["ready"] * 8
    start.set()
    assert [results.get(timeout=120) for _ in readers] == [True] * 8
    for reader in readers:
        reader.join(30)
        assert reader.exitcode == 0
    assert server.gets(small) == 1


def _fetch_and_wait(options: dict[str, Any], top: Path, path: str, ready: Any) -> None:
    fs = open_s3(options, top)
    fs.fs.exists("data")
    fs.info(path)
    ready.set()
    fs.cat_file(path)


def test_killed_fetcher_blocks_nobody(server: S3Server, small: str, tmp_path: Path) -> None:
    """The kernel frees the lock of a fetcher that dies; the next reader asks itself."""
    server.set_throttle(100_000)  # ten seconds: it dies in the middle
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    fetcher = context.Process(
        target=_fetch_and_wait, args=(server.storage_options, tmp_path, small, ready)
    )
    fetcher.start()
    assert ready.wait(60)
    deadline = time.monotonic() + 30
    while not server.gets(small):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # polls the server: the request has to be under way
    assert fetcher.pid is not None
    os.kill(fetcher.pid, signal.SIGKILL)
    fetcher.join()
    server.set_throttle(None)
    fs = open_s3(server.storage_options, tmp_path)
    assert fs.cat_file(small) == SMALL
    assert server.gets(small) == 2
    assert not list((tmp_path / "cache/tmp").iterdir())


@pytest.mark.parametrize("fault", ["cut", "refuse", "forbid"])
def test_failed_fetch_is_an_error_and_leaves_nothing(
    server: S3Server, small: str, tmp_path: Path, fault: str
) -> None:
    fs = open_s3(server.storage_options, tmp_path)
    fs.info(small)
    if fault == "cut":
        server.cut_next(after_bytes=100_000, method="GET", prefix=small, times=20)
    elif fault == "refuse":
        server.fail_next(500, method="GET", prefix=small, times=20)
    else:
        server.fail_next(403, method="GET", prefix=small, times=20)
    with pytest.raises(OSError) as caught:
        fs.cat_file(small)
    assert not isinstance(caught.value, FileNotFoundError)
    assert caught.value.errno
    assert fs.fsck().blocks == 0
    server.reset()
    server.set_throttle(None)
    assert fs.cat_file(small) == SMALL


@pytest.mark.parametrize(
    "mode,requests",
    [("immutable", 0), ("ttl", 0), ("open", 1), ("strict", 1)],
)
def test_requests_of_a_warm_read(
    server: S3Server, small: str, tmp_path: Path, mode: str, requests: int
) -> None:
    server.set_throttle(None)
    fs = open_s3(server.storage_options, tmp_path, consistency=mode)
    assert fs.cat_file(small) == SMALL
    server.reset()
    for _ in range(3):
        assert fs.cat_file(small) == SMALL
    assert len(server.requests()) == 3 * requests
    server.reset()
    with fs.open(small) as file:
        assert len(server.requests()) == (mode in {"open", "strict"})
        server.reset()
        for at in (900_000, 5, 500_000):
            file.seek(at)
            assert file.read(70_000) == SMALL[at : at + 70_000]
        assert len(server.requests()) == (3 if mode == "strict" else 0)


def test_large_object_is_split_without_being_asked(
    server: S3Server, large: str, tmp_path: Path
) -> None:
    server.set_throttle(None)
    fs = open_s3(server.storage_options, tmp_path, request_bytes="2 MiB")
    assert fs.cat_file(large) == LARGE
    # The first 4 MiB come with the answer what it is, the rest in aligned parts of 1 MiB.
    assert [request.method for request in server.requests()] == ["GET"] * 4
    server.reset()
    assert fs.cat_file(large, -100) == LARGE[-100:]
    assert fs.cat_file(large, 1_000_000, 3_000_000) == LARGE[1_000_000:3_000_000]
    assert server.requests() == []


def test_cold_read_of_a_large_object_asks_for_no_byte_twice(
    server: S3Server, large: str, tmp_path: Path
) -> None:
    """The request that tells what it is ends inside a block."""
    server.set_throttle(None)
    fs = open_s3(server.storage_options, tmp_path, consistency="immutable")
    assert fs.cat_file(large) == LARGE
    assert fs.stats().bytes_fetched == len(LARGE)
    gets = server.gets(large)
    assert fs.cat_file(large) == LARGE
    assert (
        fs.cat_file(large, (4 << 20) + 100, (5 << 20) - 5) == LARGE[(4 << 20) + 100 : (5 << 20) - 5]
    )
    assert server.gets(large) == gets


@pytest.mark.parametrize("mode", ["immutable", "open"])
def test_cold_read_of_a_small_object_is_one_request(
    server: S3Server, small: str, tmp_path: Path, mode: str
) -> None:
    server.set_throttle(None)
    fs = open_s3(server.storage_options, tmp_path, consistency=mode)
    assert fs.cat_file(small) == SMALL
    assert [request.method for request in server.requests()] == ["GET"]
    info = fs.info(small)
    assert info["size"] == len(SMALL)
    assert info["etag"] == fs.fs.info(small)["etag"]


@pytest.mark.parametrize("mode,requests", [("immutable", 1), ("open", 3)])
def test_reads_of_what_is_absent(
    server: S3Server, small: str, tmp_path: Path, mode: str, requests: int
) -> None:
    """As zarr does for every chunk that was never written."""
    server.set_throttle(None)
    fs = open_s3(server.storage_options, tmp_path, consistency=mode)
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            fs.cat_file(f"{small}/absent")
    assert len(server.requests()) == requests
    fs.pipe_file(f"{small}/absent", b"here")
    assert fs.cat_file(f"{small}/absent") == b"here"
    assert fs.isfile(small)
    assert fs.isdir(small) or fs.isfile(small)


def test_empty_object(server: S3Server, small: str, tmp_path: Path) -> None:
    server.put(small, b"")
    fs = open_s3(server.storage_options, tmp_path)
    assert fs.cat_file(small) == b""
    assert fs.cat_file(small) == b""
    assert fs.info(small)["size"] == 0


def test_suffix_of_a_large_object_fetches_one_block(
    server: S3Server, large: str, tmp_path: Path
) -> None:
    server.set_throttle(None)
    fs = open_s3(server.storage_options, tmp_path)
    assert fs.cat_file(large, -100) == LARGE[-100:]
    assert server.gets(large) == 1
    assert fs.stats().bytes_fetched == len(LARGE) % (1 << 20)


def test_ranges_of_one_object_are_planned_together(
    server: S3Server, large: str, tmp_path: Path
) -> None:
    server.set_throttle(None)
    fs = open_s3(server.storage_options, tmp_path)
    starts = [0, 2_200_000, 2_300_000, 6_200_000]
    ends = [10, 2_200_010, 2_300_010, 6_200_010]
    expected = [LARGE[low:high] for low, high in zip(starts, ends, strict=True)]
    assert fs.cat_ranges([large] * 4, starts, ends) == expected
    # Blocks 0 and 2 lie within the gap, 5 does not.
    assert server.gets(large) == 2
    assert fs.stats().bytes_fetched == (3 << 20) + (1 << 20)


def test_a_change_under_an_open_file_is_an_error(
    server: S3Server, large: str, tmp_path: Path
) -> None:
    server.set_throttle(None)
    fs = open_s3(server.storage_options, tmp_path, consistency="open")
    with fs.open(large) as file:
        assert file.read(1000) == LARGE[:1000]
        server.put(large, LARGE[::-1])
        file.seek(5_000_000)
        with pytest.raises(ConflictError):
            file.read(1000)
    assert fs.cat_file(large) == LARGE[::-1]


def test_unreachable_target_is_never_absence(tmp_path: Path) -> None:
    with s3_server() as gone:
        gone.make_bucket("data")
        gone.put("data/k", b"1")
        gone.put("data/other", b"2")
        options = {
            **gone.storage_options,
            "config_kwargs": {"retries": {"max_attempts": 0}},
        }
        kept = open_s3(options, tmp_path)
        assert kept.cat_file("data/k") == b"1"
    assert kept.cat_file("data/k") == b"1"  # immutable: nothing is asked
    asking = open_s3(options, tmp_path, consistency="open")
    for fs, path in ((kept, "data/other"), (asking, "data/k")):
        for call in (fs.cat_file, fs.info, fs.exists):
            with pytest.raises(OSError) as caught:
                call(path)
            assert not isinstance(caught.value, FileNotFoundError)
            assert caught.value.errno
