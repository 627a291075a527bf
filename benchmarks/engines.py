"""S3 clients beside each other: ours, obstore bare and wrapped, opendalfs, s3fs, pyarrow.

Reads go to nginx where it is installed, which is no bottleneck for any of them, and once more with
latency; writes, and reads elsewhere, to SeaweedFS; listings to answers made before. What lives
here: the workloads. What must not: the servers (``rig.py``), how rounds are run.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import os
import shutil
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import fsspec
import fsspec.asyn

from benchmarks import rig
from benchmarks.report import Row, rows_of, skipped
from benchmarks.rounds import Place, Samples, in_order

TOPIC = "engines"
_NEEDED = ("s3fs", "obstore")
_MIB = 1 << 20
_IN_FLIGHT = 64

#: What a request to the next region takes, about.
_LATENCY_MS = 20


class Clients:
    """The same store by four names; every call runs on fsspec's loop, as users' calls do."""

    def __init__(self, options: dict[str, Any], bucket: str) -> None:
        import obstore
        from obstore.fsspec import FsspecStore
        from obstore.store import S3Store

        self.bucket = bucket
        self.ours = fsspec.filesystem("obs3", **options)
        self.s3fs = fsspec.filesystem("s3", **options)
        native: dict[str, Any] = {
            "endpoint": options["endpoint_url"],
            "region": "us-east-1",
            "client_options": {"allow_http": True},
        }
        if options.get("anon"):
            native["skip_signature"] = True
        else:
            native |= {"access_key_id": options["key"], "secret_access_key": options["secret"]}
        self.store = S3Store(bucket, **native)
        self.wrapped = FsspecStore("s3", **native)
        self.obstore = obstore
        self.opendalfs = _opendalfs(options, bucket)
        self.options = options

    def native(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return fsspec.asyn.sync(fsspec.asyn.get_loop(), make)

    async def _get(self, key: str, span: tuple[int, int] | None) -> bytes:
        if span is not None:
            found = await self.obstore.get_range_async(self.store, key, start=span[0], end=span[1])
            return bytes(found)
        answer = await self.obstore.get_async(self.store, key)
        return bytes(await answer.bytes_async())

    def many(self, keys: list[str], span: tuple[int, int] | None = None) -> list[bytes]:
        """Read objects, or one range of each, with obstore alone."""

        async def read() -> list[bytes]:
            limit = asyncio.Semaphore(_IN_FLIGHT)

            async def one(key: str) -> bytes:
                async with limit:
                    return await self._get(key, span)

            return await asyncio.gather(*(one(key) for key in keys))

        found: list[bytes] = self.native(read)
        return found

    def one_large(self, key: str, size: int) -> bytes:
        """Read one object in 16 ranges, as whoever knows its size would."""

        async def read() -> bytes:
            step = -(-size // 16)
            spans = [(low, min(low + step, size)) for low in range(0, size, step)]
            return b"".join(await asyncio.gather(*(self._get(key, span) for span in spans)))

        found: bytes = self.native(read)
        return found

    def put(self, values: dict[str, bytes]) -> None:
        async def write() -> None:
            limit = asyncio.Semaphore(_IN_FLIGHT)

            async def one(key: str, value: bytes) -> None:
                async with limit:
                    await self.obstore.put_async(self.store, key, value, chunk_size=16 * _MIB)

            await asyncio.gather(*(one(key, value) for key, value in values.items()))

        self.native(write)

    def names(self, keys: list[str]) -> list[str]:
        return [f"{self.bucket}/{key}" for key in keys]


def _opendalfs(options: dict[str, Any], bucket: str) -> Any:
    """Open the wrapper of OpenDAL, whose paths begin below the bucket; None if it is not here."""
    if importlib.util.find_spec("opendalfs") is None:
        return None
    from opendalfs import OpendalFileSystem

    given = {"endpoint": options["endpoint_url"], "region": "us-east-1", "bucket": bucket}
    if options.get("anon"):
        given |= {"allow_anonymous": "true", "disable_config_load": "true"}
    else:
        given |= {"access_key_id": options["key"], "secret_access_key": options["secret"]}
    return OpendalFileSystem("s3", use_listings_cache=False, **given)


def _arrow(options: dict[str, Any]) -> Any:
    """Open pyarrow's own client."""
    from pyarrow.fs import S3FileSystem

    host = options["endpoint_url"].partition("://")[2]
    where = {"scheme": "http", "region": "us-east-1", "endpoint_override": host}
    if options.get("anon"):
        return S3FileSystem(anonymous=True, **where)
    return S3FileSystem(access_key=options["key"], secret_key=options["secret"], **where)


def run(place: Place) -> Iterator[Row]:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        yield skipped(TOPIC, "S3 on loopback", f"{missing[0]} is not installed")
        return
    from vfs.testing.stores import SeaweedServer

    if why := SeaweedServer.missing():
        yield skipped(TOPIC, "S3 on loopback", why)
        return
    if importlib.util.find_spec("opendalfs") is None:
        yield skipped(TOPIC, "all, by opendalfs", "opendalfs is not installed")
    yield from _listing(place)
    with SeaweedServer() as weed:
        bucket = weed.make_bucket("bench")
        clients = Clients(weed.storage_options, bucket)
        yield from _writes(place, clients)
        if shutil.which("nginx") is None:
            yield from _reads(place, clients, clients.put)
            yield skipped(TOPIC, f"reads at {_LATENCY_MS} ms", "nginx is not installed")
            return
    with rig.nginx(place.folder("nginx")) as url, rig.delayed(url, _LATENCY_MS) as far:
        tree = place.root / "nginx/tree/bucket"

        def store(values: dict[str, bytes]) -> None:
            for key, value in values.items():
                (tree / key).write_bytes(value)

        for where, door in (("", url), (f", {_LATENCY_MS} ms", far)):
            clients = Clients({"endpoint_url": door, "anon": True}, "bucket")
            yield from _reads(place, clients, store, where)


def _compare(
    place: Place,
    workload: str,
    cases: dict[str, Callable[[], Any]],
    expected: Any = None,
    baseline: str = "obstore",
    budgets: dict[str, float] | None = None,
    requests: int = 0,
) -> list[Row]:
    """Time the cases; with the number of ``requests`` of each, tell what one costs, too."""
    samples: Samples = {}
    cpu: Samples = {}
    for turn in range(place.size.cold_rounds + 1):
        for name in in_order(list(cases), turn):
            began, began_cpu = time.perf_counter(), time.process_time()
            found = cases[name]()
            took, took_cpu = time.perf_counter() - began, time.process_time() - began_cpu
            if expected is not None and found != expected:
                message = f"{name} gives something else"
                raise AssertionError(message)
            if turn:  # the first warms connections
                samples.setdefault(name, []).append(took)
                cpu.setdefault(name, []).append(took_cpu)
    rows = rows_of(TOPIC, workload, samples, baseline, budgets)
    for name in cases if requests else ():
        spent_us = statistics.median(cpu[name]) / requests * 1e6
        per_s = requests / statistics.median(samples[name])
        rows.append(Row(TOPIC, workload, f"{name}: CPU a request", spent_us, unit="us"))
        rows.append(Row(TOPIC, workload, f"{name}: a second", per_s, unit="requests"))
    return rows


def _reads(
    place: Place,
    clients: Clients,
    store: Callable[[dict[str, bytes]], None],
    where: str = "",
) -> Iterator[Row]:
    count = 4 * place.size.cold_objects
    values = {f"k{n}": os.urandom(_MIB) for n in range(count)}
    store(values)
    keys, names = list(values), clients.names(list(values))
    spans = keys * 8
    low, high = 100_000, 100_000 + (64 << 10)
    wanted = [values[key][low:high] for key in spans]
    paths, lows, highs = clients.names(spans), [low] * len(spans), [high] * len(spans)
    yield from _compare(
        place,
        f"{len(spans)} ranges of 64 KiB{where}",
        {
            "obstore": lambda: clients.many(spans, (low, high)),
            "obs3": lambda: clients.ours.cat_ranges(paths, lows, highs, max_gap=0),
            "s3fs": lambda: clients.s3fs.cat_ranges(paths, lows, highs),
            **_if_here(clients.opendalfs, lambda fs: fs.cat_ranges(spans, lows, highs)),
        },
        wanted,
        requests=len(spans),
    )

    def in_turn(found: dict[str, bytes]) -> list[bytes]:
        return [found[name] for name in names]

    def in_turn_below(found: dict[str, bytes]) -> list[bytes]:
        return [found[key] for key in keys]

    yield from _compare(
        place,
        f"{count} x 1 MiB{where}",
        {
            "obstore": lambda: clients.many(keys),
            "obs3": lambda: in_turn(clients.ours.cat(names)),
            "obstore.fsspec": lambda: in_turn(clients.wrapped.cat(names)),
            "s3fs": lambda: in_turn(clients.s3fs.cat(names)),
            **_if_here(clients.opendalfs, lambda fs: in_turn_below(fs.cat(keys))),
        },
        list(values.values()),
    )
    size = place.size.large_bytes
    large = os.urandom(size)
    store({"large": large})
    yield from _compare(
        place,
        f"one object of {size // _MIB} MiB{where}",
        {
            "obstore": lambda: clients.one_large("large", size),
            "obs3": lambda: clients.ours.cat_file(f"{clients.bucket}/large"),
            "obstore.fsspec": lambda: clients.wrapped.cat_file(f"{clients.bucket}/large"),
            "s3fs": lambda: clients.s3fs.cat_file(f"{clients.bucket}/large"),
            **_if_here(clients.opendalfs, lambda fs: fs.cat_file("large")),
        },
        large,
    )
    yield from _parquet(place, clients, store, where)


def _if_here(fs: Any, case: Callable[[Any], Any]) -> dict[str, Callable[[], Any]]:
    return {} if fs is None else {"opendalfs": lambda: case(fs)}


def _parquet(
    place: Place, clients: Clients, store: Callable[[dict[str, bytes]], None], where: str
) -> Iterator[Row]:
    """Read 3 of 20 columns, of a table of half the size of the large object."""
    if any(importlib.util.find_spec(name) is None for name in ("pandas", "pyarrow")):
        yield skipped(TOPIC, "3 of 20 columns, parquet", "pandas or pyarrow is not installed")
        return
    import numpy as np
    import pandas as pd
    from fsspec.parquet import open_parquet_file

    rows = place.size.large_bytes // 2 // (20 * 8)
    chance = np.random.default_rng(0)
    table = pd.DataFrame({f"c{n}": chance.random(rows) for n in range(20)})
    packed = io.BytesIO()
    table.to_parquet(packed, row_group_size=max(1, rows // 10))
    store({"table.parquet": packed.getvalue()})
    wanted = ["c3", "c9", "c15"]
    path = f"{clients.bucket}/table.parquet"

    def reading(fs: Any, name: str = path) -> Callable[[], float]:
        return lambda: float(
            pd.read_parquet(name, filesystem=fs, columns=wanted).sum(axis=None)  # type: ignore[arg-type]
        )

    def planned(fs: Any) -> Callable[[], float]:
        """Read what fsspec's reader of footers has fetched, all ranges together."""

        def read() -> float:
            with open_parquet_file(path, fs=fs, columns=wanted, engine="pyarrow") as file:
                return float(pd.read_parquet(file, columns=wanted).sum(axis=None))

        return read

    yield from _compare(
        place,
        f"3 of 20 columns, parquet{where}",
        {
            "pyarrow": reading(_arrow(clients.options)),
            "obs3": reading(clients.ours),
            "obs3, open_parquet_file": planned(clients.ours),
            "s3fs": reading(clients.s3fs),
            "s3fs, open_parquet_file": planned(clients.s3fs),
            **_if_here(clients.opendalfs, lambda fs: reading(fs, "table.parquet")()),
        },
        baseline="pyarrow",
        budgets={"obs3": 1.3, "obs3, open_parquet_file": 1.3},
    )


def _writes(place: Place, clients: Clients) -> Iterator[Row]:
    count = 15 * place.size.cold_objects
    value = os.urandom(64 << 10)
    small = {f"w{n}": value for n in range(count)}
    named = dict(zip(clients.names(list(small)), small.values(), strict=True))
    yield from _compare(
        place,
        f"write {count} x 64 KiB",
        {
            "obstore": lambda: clients.put(small),
            "obs3": lambda: clients.ours.pipe(named),
            "s3fs": lambda: clients.s3fs.pipe(named),
            **_if_here(clients.opendalfs, lambda fs: fs.pipe(dict(small))),
        },
    )
    large = os.urandom(place.size.large_bytes)
    path = f"{clients.bucket}/large"
    yield from _compare(
        place,
        f"write one of {len(large) // _MIB} MiB",
        {
            "obstore": lambda: clients.put({"large": large}),
            "obs3": lambda: clients.ours.pipe_file(path, large),
            "s3fs": lambda: clients.s3fs.pipe_file(path, large),
            **_if_here(clients.opendalfs, lambda fs: fs.pipe_file("large", large)),
        },
    )


def _listing(place: Place) -> Iterator[Row]:
    count = place.size.entries[1]
    with rig.listing(count) as url:
        clients = Clients({"endpoint_url": url, "key": "k", "secret": "s"}, "bench")

        async def found() -> int:
            pages = clients.obstore.list(clients.store, "list", chunk_size=1000)
            return sum([len(page) async for page in pages])

        top = f"{clients.bucket}/list"
        yield from _compare(
            place,
            f"find {count} keys",
            {
                "obstore": lambda: clients.native(found),
                "obs3": lambda: len(clients.ours.find(top)),
                "s3fs": lambda: len(clients.s3fs.find(top, refresh=True)),
                **_if_here(clients.opendalfs, lambda fs: len(fs.find("list/"))),
            },
            count,
        )
