"""Write-back over a link of 20 ms: an array written, a hot object read while uploads run.

What lives here: the workloads. What must not: the servers (``rig.py``), how rounds are run.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fsspec

from benchmarks import rig
from benchmarks.chunks import chunks_of_values, write_array
from benchmarks.report import Row, rows_of, skipped
from benchmarks.rounds import Place, Samples, in_order

TOPIC = "uplink"
_LATENCY_MS = 20


def run(place: Place) -> Iterator[Row]:
    missing = [name for name in ("zarr", "obstore") if importlib.util.find_spec(name) is None]
    if missing:
        yield skipped(TOPIC, "zarr over a link", f"{missing[0]} is not installed")
        return
    from vfs.testing.stores import SeaweedServer

    if why := SeaweedServer.missing():
        yield skipped(TOPIC, "zarr over a link", why)
        return
    with ExitStack() as stack:
        weed = stack.enter_context(SeaweedServer())
        far = stack.enter_context(rig.delayed(weed.storage_options["endpoint_url"], _LATENCY_MS))
        options = {**weed.storage_options, "endpoint_url": far}
        bucket = weed.make_bucket("bench")
        yield from _arrays(place, options, bucket)
        yield from _hits(place, options, bucket)


def _tier(top: Path, options: dict[str, Any], cold: str, **more: Any) -> Any:
    return fsspec.filesystem(
        "tier",
        hot=str(top / "hot"),
        cold=f"s3://{cold}",
        cold_options=options,
        max_bytes="8 GiB",
        write="back",
        **more,
    )


def _object_store(options: dict[str, Any], cold: str) -> Any:
    """Return zarr's own store on the Rust client."""
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    bucket, _, prefix = cold.partition("/")
    return ObjectStore(
        S3Store(
            bucket,
            prefix=prefix,
            endpoint=options["endpoint_url"],
            access_key_id=options["key"],
            secret_access_key=options["secret"],
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
    )


def _arrays(place: Place, options: dict[str, Any], bucket: str) -> Iterator[Row]:
    import numpy as np
    import zarr
    from zarr.storage import FsspecStore, LocalStore

    count = 15 * place.size.cold_objects
    values = chunks_of_values(count)
    modes = {"tier, back, process": "process", "tier, back, power": "power"}
    names = ["ObjectStore on obstore", "LocalStore", *modes]
    samples: Samples = {}
    for turn in range(place.size.array_rounds):
        for name in in_order(names, turn):
            cold, tier = f"{bucket}/{name.replace(', ', '-')}-{turn}", None
            # Files stay until all is measured: ext4 is slow to make one where many were removed.
            top = place.folder(f"{name}-{turn}")
            if name in modes:
                tier = _tier(top, options, cold, durability=modes[name], asynchronous=True)
                store: Any = FsspecStore(tier, path="x")
            else:
                store = LocalStore(top) if name == "LocalStore" else _object_store(options, cold)
            began = time.perf_counter()
            write_array(store, values)
            samples.setdefault(name, []).append(time.perf_counter() - began)
            if tier is not None:
                tier.flush()
                samples.setdefault(f"{name}, and flush", []).append(time.perf_counter() - began)
                stored: Any = zarr.open_array(_object_store(options, f"{cold}/x"), mode="r")[:]
                if not np.array_equal(stored, values):
                    message = f"{name} has lost something"
                    raise AssertionError(message)
    workload = f"write {count} chunks, {_LATENCY_MS} ms"
    yield from rows_of(TOPIC, workload, samples, "ObjectStore on obstore")


def _hits(place: Place, options: dict[str, Any], bucket: str) -> Iterator[Row]:
    """Read a hot object while nothing and while many uploads are under way."""
    top = place.folder("hits")
    tier = _tier(top, options, f"{bucket}/hits", durability="process", delay_s=0)
    tier.pipe_file("hot", os.urandom(64 << 10))
    tier.flush()
    path = str(top / "hot/hot")

    def bare() -> bytes:
        fd = os.open(path, os.O_RDONLY)
        try:
            return os.pread(fd, 64 << 10, 0)
        finally:
            os.close(fd)

    def times(read: Callable[[], object], more: Callable[[int], bool]) -> list[float]:
        found: list[float] = []
        while more(len(found)):
            began = time.perf_counter()
            read()
            found.append(time.perf_counter() - began)
        return found

    reads = 300 * place.size.array_rounds
    waiting = {f"k{n}": bytes(64 << 10) for n in range(15 * place.size.cold_objects)}
    samples = {
        "open, pread, close": times(bare, lambda n: n < reads),
        "hit, nothing is sent": times(lambda: tier.cat_file("hot"), lambda n: n < reads),
    }
    for name, read in (("open, pread, close", bare), ("hit", lambda: tier.cat_file("hot"))):
        tier.pipe(waiting)
        flushing = threading.Thread(target=tier.flush)
        flushing.start()
        samples[f"{name}, uploads run"] = times(read, _while(flushing))
        flushing.join()
    base = _p99(samples["open, pread, close"])
    for name, found in samples.items():
        p99 = _p99(found)
        yield Row(
            TOPIC,
            "64 KiB, 99th percentile",
            name,
            p99 / base,
            baseline="open, pread, close",
            median_s=p99,
            best_s=statistics.median(found),
            note="best is the median",
        )


def _while(thread: threading.Thread) -> Callable[[int], bool]:
    return lambda _: thread.is_alive()


def _p99(found: list[float]) -> float:
    return sorted(found)[int(len(found) * 0.99)]
