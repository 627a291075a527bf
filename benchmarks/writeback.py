"""Write-back: what an array costs to write at the speed of the hot disk, and how it drains.

What lives here: the workloads. What must not: how rounds are run.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import fsspec

from benchmarks.chunks import chunks_of_values, write_array
from benchmarks.report import Row, rows_of, skipped
from benchmarks.rounds import Place, Samples, in_order
from vfs.core.engine import close_engines

TOPIC = "writeback"


def run(place: Place) -> Iterator[Row]:
    if importlib.util.find_spec("zarr") is None:
        yield skipped(TOPIC, "zarr", "zarr is not installed")
        return
    yield from _arrays(place)
    yield from _drain(place)
    yield from _recovery(place)


def _tier(top: Path, **options: Any) -> Any:
    return fsspec.filesystem(
        "tier", hot=str(top / "hot"), cold=f"disk://{top}/cold", max_bytes="8 GiB", **options
    )


def _arrays(place: Place) -> Iterator[Row]:
    import numpy as np
    import zarr
    from zarr.storage import FsspecStore, LocalStore

    count = 15 * place.size.cold_objects
    values = chunks_of_values(count)
    modes: dict[str, dict[str, Any]] = {
        "tier, back, process": {"write": "back", "durability": "process"},
        "tier, back, power": {"write": "back", "durability": "power"},
        "tier, through": {"write": "through"},
    }
    samples: Samples = {}
    for turn in range(place.size.array_rounds):
        for name in in_order(["LocalStore", *modes], turn):
            # Files stay until all is measured: ext4 is slow to make one where many were removed.
            top = place.folder(f"{name}-{turn}")
            tier = _tier(top, asynchronous=True, **modes[name]) if name in modes else None
            store = LocalStore(top / "x") if tier is None else FsspecStore(tier, path="x")
            began = time.perf_counter()
            write_array(store, values)
            samples.setdefault(name, []).append(time.perf_counter() - began)
            if tier is not None:
                tier.flush()
                stored: Any = zarr.open_array(LocalStore(top / "cold/x"), mode="r")[:]
                if not np.array_equal(stored, values):
                    message = f"{name} has lost something"
                    raise AssertionError(message)
    workload = f"write {count} chunks of 64 KiB"
    yield from rows_of(TOPIC, workload, samples, "LocalStore", {"tier, back, process": 1.3})


def _drain(place: Place) -> Iterator[Row]:
    count = 15 * place.size.cold_objects
    values = {f"k{n}": bytes([n % 256]) * (64 << 10) for n in range(count)}
    samples: Samples = {}
    for turn in range(place.size.array_rounds):
        for name in in_order(["disk", "flush"], turn):
            top = place.folder(f"drain-{name}-{turn}")
            call: Callable[[], Any]
            if name == "disk":
                bare = fsspec.filesystem("disk")
                call = _call(bare.pipe, {f"{top}/{key}": value for key, value in values.items()})
            else:
                tier = _tier(top, write="back", durability="process")
                tier.pipe(values)
                call = tier.flush
            began = time.perf_counter()
            call()
            samples.setdefault(name, []).append(time.perf_counter() - began)
    yield from rows_of(TOPIC, f"send {count} x 64 KiB that wait", samples, "disk")


def _recovery(place: Place) -> Iterator[Row]:
    """Queue small objects, leave, and come back."""
    count, page, top = place.size.waiting, 5000, place.folder("waiting")
    tier = _tier(top, write="back", durability="process", max_dirty_bytes="8 GiB")
    tier._mover.uploader.rest()
    for first in range(0, count, page):
        numbers = range(first, min(count, first + page))
        tier.pipe({f"d{n // 1000}/k{n % 1000}": b"%d" % n for n in numbers})
    samples: Samples = {}
    for _ in range(place.size.array_rounds):
        fsspec.registry["tier"].clear_instance_cache()
        close_engines()
        tier = _tier(top, write="back", durability="process", max_dirty_bytes="8 GiB")
        tier._mover.uploader.rest()
        began = time.perf_counter()
        waiting = tier.stats().dirty_objects
        samples.setdefault("open", []).append(time.perf_counter() - began)
        if waiting != count:
            message = f"{count - waiting} of {count} are lost"
            raise AssertionError(message)
    times = samples["open"]
    workload = f"come back to {count} that wait"
    worst = max(times)
    yield Row(TOPIC, workload, "open", worst, unit="s", budget=10.0, median_s=median(times))
    for name in ("catalog", "journal"):
        size = (top / f"hot/.vfs/{name}.sqlite").stat().st_size
        yield Row(TOPIC, workload, f"{name}, on disk", size / count, unit="B/object")
    fsspec.registry["tier"].clear_instance_cache()
    close_engines()


def _call(function: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
    return lambda: function(argument)
