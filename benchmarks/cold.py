"""Cold reads and writes over a real S3 server on loopback: what filling the hot tier costs.

For information, without a budget: server and client share the machine, and a network of the real
world would hide most of the difference.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import fsspec

from benchmarks.report import Row, rows_of, skipped
from benchmarks.rounds import Place, Samples, in_order

TOPIC = "cold"
_NEEDED = ("s3fs", "moto")
_OBJECT_BYTES = 1 << 20


def run(place: Place) -> Iterator[Row]:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        yield skipped(TOPIC, "loopback S3", f"{missing[0]} is not installed")
        return
    from vfs.testing.servers import s3_server

    with s3_server() as server:
        bucket = server.make_bucket("benchmark")
        values = {
            f"{bucket}/{number}": os.urandom(_OBJECT_BYTES)
            for number in range(place.size.cold_objects)
        }
        for path, value in values.items():
            server.put(path, value)
        options = dict(server.storage_options)
        bare = fsspec.filesystem("s3", **options)
        bare.cat(list(values)[:2])  # warm: connections and imports
        yield from _reads(place, bare, options, values)
        yield from _writes(place, bare, options, values)


def _tier(place: Place, options: dict[str, Any], turn: int) -> Any:
    hot = place.root / f"hot{turn}"
    shutil.rmtree(hot, ignore_errors=True)
    return fsspec.filesystem(
        "tier", target_protocol="s3", target_options=options, hot=str(hot), max_bytes="8 GiB"
    )


def _cache(place: Place, options: dict[str, Any], turn: int) -> Any:
    return fsspec.filesystem(
        "cache",
        target_protocol="s3",
        target_options=options,
        directory=str(place.root / f"cache{turn}"),
        max_bytes="8 GiB",
    )


def _reads(
    place: Place, bare: Any, options: dict[str, Any], values: dict[str, bytes]
) -> Iterator[Row]:
    workload = f"read {len(values)} x 1 MiB together"
    samples: Samples = {}
    for turn in range(place.size.cold_rounds):
        cases = {
            "s3fs": bare,
            "tier, filling": _tier(place, options, 2 * turn),
            "tier, promote=never": fsspec.filesystem(
                "tier",
                target_protocol="s3",
                target_options=options,
                hot=str(place.root / f"hot{2 * turn + 1}"),
                promote="never",
            ),
            "cache, filling": _cache(place, options, turn),
        }
        for name in in_order(list(cases), turn):
            began = time.perf_counter()
            found = cases[name].cat(list(values))
            samples.setdefault(name, []).append(time.perf_counter() - began)
            if found != values:
                message = f"{name} reads other bytes"
                raise AssertionError(message)
    yield from rows_of(TOPIC, workload, samples, "s3fs")


def _writes(
    place: Place, bare: Any, options: dict[str, Any], values: dict[str, bytes]
) -> Iterator[Row]:
    workload = f"write {len(values)} x 1 MiB together"
    samples: Samples = {}
    for turn in range(place.size.cold_rounds):
        cases = {"s3fs": bare, "tier, write=through": _tier(place, options, 1000 + turn)}
        for name in in_order(list(cases), turn):
            renamed = {f"{path}-{name[:4]}-{turn}": value for path, value in values.items()}
            began = time.perf_counter()
            cases[name].pipe(renamed)
            samples.setdefault(name, []).append(time.perf_counter() - began)
            if bare.cat(list(renamed)) != renamed:
                message = f"{name} wrote other bytes"
                raise AssertionError(message)
    yield from rows_of(TOPIC, workload, samples, "s3fs")
