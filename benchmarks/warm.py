"""Warm reads by the synchronous ``cat_file``: what the hot path costs over the system calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import fsspec

from benchmarks import peers
from benchmarks.report import Row, ahead_of, rows_of, skipped
from benchmarks.rounds import Place, time_calls

TOPIC = "warm"
LIMIT = "open+pread+close"

#: What must be behind us at 64 KiB.
RIVALS = ("LocalFileSystem", "multi-storage-client", "diskcache")


def run(place: Place) -> Iterator[Row]:
    cold = place.folder("cold")
    span = min(64 << 10, place.size.large_bytes // 4)
    middle = place.size.large_bytes // 2
    for name, size, start, end, budgets in (
        ("64 KiB", 64 << 10, None, None, (2.9, 3.5, 2.9)),
        ("1 MiB", 1 << 20, None, None, (1.3, 2.1, 1.3)),
        ("64 KiB out of 256 MiB", place.size.large_bytes, middle, middle + span, (2.9, 4.5, 3.5)),
    ):
        path = str(cold / f"{size}.bin")
        with open(path, "wb") as file:
            while file.tell() < size:
                file.write(os.urandom(min(size - file.tell(), 16 << 20)))
        yield from _one(place, name, path, (start, end), budgets)


def _one(
    place: Place,
    workload: str,
    path: str,
    span: tuple[int | None, int | None],
    budgets: tuple[float, float, float],
) -> Iterator[Row]:
    hot = str(place.root / "hot")
    tier = fsspec.filesystem("tier", target_protocol="disk", hot=hot, max_bytes="8 GiB")
    tier.promote(path)
    disk = fsspec.filesystem("disk")
    readonly = fsspec.filesystem("readonly", target_protocol="disk")
    caches = {
        verify: fsspec.filesystem(
            "cache",
            target_protocol="disk",
            directory=str(place.root / "cache"),
            max_bytes="8 GiB",
            consistency="immutable",
            verify=verify,
        )
        for verify in ("always", "once")
    }
    readers: dict[str, peers.Reader] = {
        LIMIT: peers.operating_system(path),
        "tier, hot": peers.through(tier, path),
        **{f"cache, verify={verify}": peers.through(fs, path) for verify, fs in caches.items()},
        "disk": peers.through(disk, path),
        "readonly::disk": peers.through(readonly, path),
        "LocalFileSystem": peers.through(fsspec.filesystem("file"), path),
        **peers.simplecache(path, place.root),
        **peers.file_and_block_cache(path, place.root),
        **peers.diskcache(path, place.root),
        **peers.multi_storage_client(path),
    }
    expected = readers[LIMIT](*span)
    for name, read in readers.items():
        if read(*span) != expected:
            message = f"{name} gives other bytes"
            raise AssertionError(message)
    asked = dict(tier.stats().cold_requests)
    asked_by_cache = _asked(caches)
    samples = time_calls({name: _bind(read, span) for name, read in readers.items()}, place.size)
    after = tier.stats().cold_requests
    tiered, always, once = budgets
    allowed = {
        **dict.fromkeys(("tier, hot", "disk", "readonly::disk"), tiered),
        "cache, verify=always": always,
        "cache, verify=once": once,
    }
    yield from rows_of(TOPIC, workload, samples, LIMIT, allowed)
    for rival in RIVALS:
        if rival not in samples:
            yield skipped(TOPIC, workload, f"{rival} is not installed")
        elif workload == "64 KiB":
            for ours in ("tier, hot", "cache, verify=always"):
                yield ahead_of(TOPIC, workload, samples, ours, rival)
    requests = sum(after.values()) - sum(asked.values())
    yield Row(TOPIC, workload, "requests to cold", requests, unit="requests", budget=0)
    again = _asked(caches) - asked_by_cache
    yield Row(TOPIC, workload, "requests of the cache", again, unit="requests", budget=0)


def _asked(caches: dict[str, Any]) -> int:
    return sum(fs.target.requests.total() for fs in caches.values())


def _bind(read: peers.Reader, span: tuple[int | None, int | None]) -> Callable[[], bytes]:
    start, end = span
    return lambda: read(start, end)
