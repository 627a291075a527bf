"""Histories of readers beside a writer, and how stale the stalest answer of each mode was."""

from __future__ import annotations

import multiprocessing
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from history_tools import (
    ENOUGH_READS,
    ENOUGH_VERSIONS,
    TTL_S,
    Read,
    run_history,
    worst_staleness_s,
)

from vfs.testing.servers import S3Server, s3_server


@pytest.mark.parametrize(
    "mode,options,allowed_s",
    [("open", {}, 0.0), ("strict", {}, 0.0), ("ttl", {"ttl_s": TTL_S}, TTL_S)],
)
def test_foreign_writer(tmp_path: Path, mode: str, options: Any, allowed_s: float) -> None:
    """No answer is older than its mode allows, and none mixes two versions."""
    fs = fsspec.filesystem(
        "cache",
        target_protocol="mem",
        target_options={"store": tmp_path.as_posix()},
        directory=str(tmp_path / "cache"),
        consistency=mode,
        **options,
    )
    written_s, reads = run_history(fs, fs.fs.pipe_file, "a")
    assert len(written_s) > ENOUGH_VERSIONS
    assert len(reads) > ENOUGH_READS
    assert worst_staleness_s(written_s, reads) <= allowed_s


@pytest.mark.parametrize("mode", ["immutable", "ttl", "open", "strict"])
def test_own_writer(tmp_path: Path, mode: str) -> None:
    """What one instance has acknowledged, every later read of another one sees."""

    def open_it(verify: str) -> Any:
        return fsspec.filesystem(
            "cache",
            target_protocol="mem",
            target_options={"store": tmp_path.as_posix()},
            directory=str(tmp_path / "cache"),
            consistency=mode,
            verify=verify,
        )

    written_s, reads = run_history(open_it("once"), open_it("always").pipe_file, "a")
    assert len(written_s) > ENOUGH_VERSIONS
    assert worst_staleness_s(written_s, reads) == 0


def test_the_checker_finds_what_is_stale() -> None:
    written_s = [0.0, 1.0, 2.0]
    assert worst_staleness_s(written_s, [Read(0.5, 0.6, 0), Read(1.5, 1.6, 2)]) == 0
    assert worst_staleness_s(written_s, [Read(1.25, 1.3, 0)]) == 0.25
    assert worst_staleness_s(written_s, [Read(2.5, 2.6, 0), Read(2.5, 2.6, 1)]) == 1.5


# ------------------------------------------------------------------ ten thousand reads

N_OBJECTS = 160
N_PROCESSES = 8
N_THREADS = 8
STAGGER_S = 0.02
SIZE = 200_000


def _payload(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


def _read_all(options: dict[str, Any], top: Path, rank: int, barrier: Any, results: Any) -> None:
    fs = fsspec.filesystem(
        "cache",
        directory=str(top / "cache"),
        target_protocol="s3",
        target_options=options,
        consistency="immutable",
    )
    fs.fs.exists("data")
    wrong = 0
    with ThreadPoolExecutor(N_THREADS) as pool:
        for number in range(N_OBJECTS):
            path, expected = f"data/{number:04}", _payload(number)

            def read(thread: int, path: str = path, expected: bytes = expected) -> bool:
                time.sleep(STAGGER_S * thread + STAGGER_S * rank / N_PROCESSES)
                if thread % 3 == 0:
                    return bool(fs.cat_file(path) == expected)
                if thread % 3 == 1:
                    with fs.open(path) as file:
                        return bool(file.read() == expected)
                half = SIZE // 2
                parts = fs.cat_ranges([path] * 2, [0, half], [half, None])
                return b"".join(parts) == expected

            barrier.wait(120)
            wrong += list(pool.map(read, range(N_THREADS))).count(False)
    results.put(wrong)


@pytest.fixture
def slow_server() -> Any:
    with s3_server() as server:
        server.make_bucket("data")
        for number in range(N_OBJECTS):
            server.put(f"data/{number:04}", _payload(number))
        server.reset()
        server.set_throttle(2_000_000)  # a tenth of a second an object: half the readers' span
        yield server


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.once
def test_ten_thousand_staggered_reads(slow_server: S3Server, tmp_path: Path) -> None:
    """Readers that arrive while an object is being fetched, as other caches were seen to fail."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(N_PROCESSES), context.Queue()
    readers = [
        context.Process(
            target=_read_all,
            args=(slow_server.storage_options, tmp_path, rank, barrier, results),
        )
        for rank in range(N_PROCESSES)
    ]
    for reader in readers:
        reader.start()
    assert [results.get(timeout=300) for _ in readers] == [0] * N_PROCESSES
    for reader in readers:
        reader.join(60)
        assert reader.exitcode == 0
    assert N_OBJECTS * N_PROCESSES * N_THREADS > 10_000
    gets = {number: slow_server.gets(f"data/{number:04}") for number in range(N_OBJECTS)}
    assert {number: count for number, count in gets.items() if count != 1} == {}
