"""Caches whose readers come together: what they ask the server for, and what they answer.

Sixteen threads, 20 ms apart, read each of some cold objects behind a slow S3 server. fsspec's own
caches stand beside ours. Then four processes read warm blocks, and pandas some columns of a table.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import fsspec

from benchmarks import peers
from benchmarks.report import Row, rows_of, skipped
from benchmarks.rounds import Place, Samples, in_order, time_calls

TOPIC = "shared"
_NEEDED = ("s3fs", "moto", "pandas", "pyarrow")
_THREADS = 16
_STAGGER_S = 0.02
_OBJECT_BYTES = 1 << 20
_PROTOCOLS = ("cache", "simplecache", "filecache", "blockcache")


def run(place: Place) -> Iterator[Row]:
    yield from _processes(place)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        yield skipped(TOPIC, "loopback S3", f"{missing[0]} is not installed")
        return
    from vfs.testing.servers import s3_server

    with s3_server() as server:
        bucket = server.make_bucket("benchmark")
        yield from _together(place, server, bucket)
        server.set_throttle(None)
        yield from _columns(place, server, bucket)


def _open(protocol: str, place: Place, server: Any, name: str) -> Any:
    options = {"target_protocol": "s3", "target_options": server.storage_options}
    folder = str(place.root / f"{protocol}-{name}")
    if protocol == "cache":
        return fsspec.filesystem("cache", directory=folder, consistency="immutable", **options)
    return fsspec.filesystem(protocol, cache_storage=folder, **options)


def _together(place: Place, server: Any, bucket: str) -> Iterator[Row]:
    count = place.size.cold_rounds * 2
    values = {f"{bucket}/{n:04}": os.urandom(_OBJECT_BYTES) for n in range(count)}
    for path, value in values.items():
        server.put(path, value)
    for protocol in _PROTOCOLS:
        fs = _open(protocol, place, server, "together")
        server.reset()
        server.set_throttle(2_000_000)  # half a second an object: longer than all take to come
        wrong = failed = 0
        with ThreadPoolExecutor(_THREADS) as pool:
            for path, value in values.items():
                for answer in pool.map(partial(_read, fs, path), range(_THREADS)):
                    failed += answer is None
                    wrong += answer is not None and answer != value
        workload = f"{_THREADS} threads, {count} cold objects"
        gets = server.gets(f"{bucket}/") / count
        ours = protocol == "cache"
        yield Row(
            TOPIC, workload, f"{protocol}: GETs an object", gets, "GETs", budget=1 if ours else None
        )
        yield Row(
            TOPIC,
            workload,
            f"{protocol}: wrong answers",
            wrong,
            "reads",
            budget=0 if ours else None,
        )
        yield Row(
            TOPIC, workload, f"{protocol}: errors", failed, "reads", budget=0 if ours else None
        )


def _read(fs: Any, path: str, number: int) -> bytes | None:
    time.sleep(number * _STAGGER_S)
    try:
        with fs.open(path, "rb") as file:
            return bytes(file.read())
    except Exception:  # noqa: BLE001 - whatever a peer raises is counted
        return None


def _bytes_of(path: Path, columns: list[str]) -> int:
    """Return how long the chunks of some columns are in a parquet file."""
    import pyarrow.parquet as pq

    file = pq.read_metadata(path)
    groups = [file.row_group(n) for n in range(file.num_row_groups)]
    chunks = [group.column(n) for group in groups for n in range(file.num_columns)]
    return sum(c.total_compressed_size for c in chunks if c.path_in_schema in columns)


def _columns(place: Place, server: Any, bucket: str) -> Iterator[Row]:
    """Read 3 of 20 columns, cold and warm, against a local file."""
    import numpy as np
    import pandas as pd

    rows = place.size.large_bytes // (20 * 8 * 4)
    values = np.random.default_rng(0).random((rows, 20))
    frame = pd.DataFrame(values, columns=[f"c{n}" for n in range(20)])
    local = place.root / "table.parquet"
    frame.to_parquet(local, row_group_size=max(1, rows // 4), compression=None)
    server.put(f"{bucket}/table.parquet", local.read_bytes())
    columns = ["c3", "c9", "c15"]
    needed = _bytes_of(local, columns)
    expected = frame[columns]
    fs = _open("cache", place, server, "columns")

    def read(url: Any, **options: Any) -> Any:
        found = pd.read_parquet(url, columns=columns, **options)
        if not found.equals(expected):
            message = f"{url} gives other values"
            raise AssertionError(message)

    server.reset()
    read(f"{bucket}/table.parquet", filesystem=fs)
    fetched = fs.stats().bytes_fetched
    workload = "3 of 20 columns, parquet"
    yield Row(TOPIC, workload, "bytes fetched / needed", fetched / needed)
    yield Row(TOPIC, workload, "GETs", server.gets(f"{bucket}/table"), "GETs")
    server.reset()
    samples: Samples = {"local file": [], "cache, warm": []}
    for turn in range(place.size.cold_rounds):
        for name in in_order(list(samples), turn):
            began = time.perf_counter()
            if name == "local file":
                read(local)
            else:
                read(f"{bucket}/table.parquet", filesystem=fs)
            samples[name].append(time.perf_counter() - began)
    yield from rows_of(TOPIC, workload, samples, "local file", {"cache, warm": 1.3})
    yield Row(TOPIC, workload, "requests, warm", len(server.requests()), "requests", budget=0)


def _processes(place: Place) -> Iterator[Row]:
    """Let one process read warm blocks, then two and four at once: there is no lock to wait for.

    Four share two cores, so what they take is told beside what open, pread, close take in them.
    """
    objects = place.folder("objects")
    paths = [str(objects / f"{number}") for number in range(50)]
    for path in paths:
        with open(path, "wb") as file:
            file.write(os.urandom(64 << 10))
    directory = str(place.root / "cache-processes")
    context = multiprocessing.get_context("spawn")
    alone: list[float] = []
    for count in (1, 2, 4):
        barrier, results = context.Barrier(count), context.Queue()
        readers = [
            context.Process(target=_hit, args=(directory, paths, place.size, barrier, results))
            for _ in range(count)
        ]
        for reader in readers:
            reader.start()
        found = [results.get(timeout=120) for _ in readers]
        for reader in readers:
            reader.join()
        slowest = max(hit_s for hit_s, _ in found)
        alone.append(slowest)
        case = f"{count} process{'es' if count > 1 else ''}"
        yield Row(TOPIC, "64 KiB, warm, each", case, slowest / alone[0], median_s=slowest)
        ratio = max(hit_s / bare_s for hit_s, bare_s in found)
        yield Row(TOPIC, "64 KiB, warm, each", f"{case}, against open+pread+close", ratio)


def _hit(directory: str, paths: list[str], size: Any, barrier: Any, results: Any) -> None:
    fs = fsspec.filesystem(
        "cache",
        target_protocol="disk",
        directory=directory,
        max_bytes="1 GiB",
        consistency="immutable",
    )
    for path in paths:
        fs.cat_file(path)
    barrier.wait(60)
    bare = [peers.operating_system(path) for path in paths]
    cases = {
        "hit": lambda: [fs.cat_file(path) for path in paths],
        "bare": lambda: [read(None, None) for read in bare],
    }
    times = time_calls(cases, size)
    results.put(tuple(median(times[name]) / len(paths) for name in cases))
