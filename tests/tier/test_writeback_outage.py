"""zarr written by several processes while the cold store fails, stalls and loses answers.

What counts is cold alone, read by others: nothing of this library is asked in the end.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import fsspec
import numpy as np
import pytest
import zarr

from vfs.testing.faultproxy import FaultProxy
from vfs.testing.servers import S3Server
from vfs.testing.stores import SeaweedServer

CONTEXT = multiprocessing.get_context("spawn")
PATIENCE_S = 400.0

PROCESSES = 4
SHARED, OWN = 3, 2  # arrays that all of them write, and arrays of each alone
SIDE, CHUNK = 64, 8

#: Faults are told to the proxy beforehand: for so many requests, more than there will be.
REQUESTS = 6000


def values_of(name: str) -> np.ndarray[Any, Any]:
    seed = sum(map(ord, name))
    return np.random.default_rng(seed).integers(1, 1 << 30, (SIDE, SIDE), dtype="i4")


def chunk_keys(array: str) -> set[str]:
    per_side = range(SIDE // CHUNK)
    return {f"{array}/c/{i}/{j}" for i, j in itertools.product(per_side, per_side)}


def shared_names() -> list[str]:
    return [f"shared{n}" for n in range(SHARED)]


def own_names(who: int) -> list[str]:
    return [f"own{who}-{n}" for n in range(OWN)]


def open_tier(top: Path, target_options: dict[str, Any], durability: str) -> Any:
    return fsspec.filesystem(
        "tier",
        asynchronous=True,
        target_protocol="s3",
        target_options=target_options,
        hot=str(top / "hot"),
        write="back",
        durability=durability,
        quiet_s=1e9,  # metadata goes when it is asked for, however slow this machine is
    )


def make_array(group: Any, name: str) -> Any:
    return group.create_array(
        name, shape=(SIDE, SIDE), chunks=(CHUNK, CHUNK), dtype="i4", compressors=None, fill_value=0
    )


def write(
    top: Path, root: str, options: dict[str, Any], durability: str, who: int, barrier: Any
) -> None:
    """Write the stripe of this process of the shared arrays, and whole arrays of its own."""
    tier = open_tier(top, options, durability)
    group: Any = zarr.open_group(zarr.storage.FsspecStore(tier, path=root), mode="r+")
    rows = slice(who * SIDE // PROCESSES, (who + 1) * SIDE // PROCESSES)
    barrier.wait(PATIENCE_S)
    for name in shared_names():
        group[name][rows] = values_of(name)[rows]
    for name in own_names(who):
        array = make_array(group, name)
        array[:] = values_of("never seen")
        array[:] = values_of(name)


class Watcher:
    """Lists cold again and again: no node's metadata may be there before all of its chunks."""

    def __init__(self, options: dict[str, Any], root: str) -> None:
        self.fs = fsspec.filesystem("s3", **options, use_listings_cache=False)
        self.root, self.wrong, self.looks = root, list[str](), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _keys(self) -> set[str]:
        try:
            found = self.fs.find(self.root, refresh=True)
        except FileNotFoundError:
            return set()
        return {key.removeprefix(f"{self.root}/") for key in found}

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            nodes = {key.rpartition("/")[0] for key in self._keys() if key.endswith("zarr.json")}
            there = self._keys()  # asked after the metadata was seen
            self.looks += 1
            for node in nodes - {""}:
                if missing := chunk_keys(node) - there:
                    self.wrong.append(f"{node} before {len(missing)} of its chunks")
            if "" in nodes and (late := wanted_keys() - there):
                self.wrong.append(f"the group before {len(late)} of its objects")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


def names_of_all() -> list[str]:
    return [*shared_names(), *(name for who in range(PROCESSES) for name in own_names(who))]


def wanted_keys() -> set[str]:
    """Return every object that cold is to have, and no other."""
    keys = {"zarr.json"}
    for name in names_of_all():
        keys |= {f"{name}/zarr.json", *chunk_keys(name)}
    return keys


def spoil(proxy: FaultProxy) -> None:
    """Let a tenth of the requests fail, in four ways, and one in a hundred stall."""
    for number in range(REQUESTS // 10):
        kind, skip = number % 10, 9 * number + 5
        if kind < 6:
            proxy.fail_next(503 if kind % 2 else 500, skip=skip)
        elif kind < 8:
            proxy.lose_next(skip=skip)
        elif kind == 8:
            proxy.cut_request_next(after_bytes=100, skip=skip)
        else:
            proxy.stall_next(1.0, skip=skip)


@contextmanager
def spoilt(endpoint_url: str) -> Iterator[FaultProxy]:
    with FaultProxy(endpoint_url) as proxy:
        spoil(proxy)
        yield proxy


def run(top: Path, server: Any, root: str, durability: str) -> None:
    plain = server.storage_options
    with spoilt(server.endpoint_url) as proxy:
        options = json.loads(json.dumps(plain))
        options.setdefault("client_kwargs", {})["endpoint_url"] = proxy.endpoint_url
        options.pop("endpoint_url", None)
        tier = open_tier(top, options, durability)
        group: Any = zarr.open_group(zarr.storage.FsspecStore(tier, path=root), mode="w")
        for name in shared_names():
            make_array(group, name)
        barrier = CONTEXT.Barrier(PROCESSES)
        children = [
            CONTEXT.Process(target=write, args=(top, root, options, durability, who, barrier))
            for who in range(PROCESSES)
        ]
        with Watcher(plain, root) as watcher:
            for child in children:
                child.start()
            for child in children:
                child.join(PATIENCE_S)
                assert child.exitcode == 0
            assert tier.flush(timeout_s=PATIENCE_S) == 0
        spoilt_requests = [r for r in proxy.requests() if r.fault]
        assert len(spoilt_requests) >= len(proxy.requests()) // 12
        assert {r.fault for r in spoilt_requests} == {"status", "lose", "cut_request", "stall"}
    assert watcher.wrong == []
    assert watcher.looks > 3
    check_alone(plain, root)


def check_alone(options: dict[str, Any], root: str) -> None:
    """Read cold without this library: each key once, each value the one written."""
    fs = fsspec.filesystem("s3", **options)
    found = [key.removeprefix(f"{root}/") for key in fs.find(root)]
    assert len(found) == len(set(found))
    assert set(found) == wanted_keys()
    for name in names_of_all():
        values = values_of(name)
        for i, j in itertools.product(range(SIDE // CHUNK), repeat=2):
            expected = values[i * CHUNK : (i + 1) * CHUNK, j * CHUNK : (j + 1) * CHUNK]
            data = fs.cat_file(f"{root}/{name}/c/{i}/{j}")
            assert np.array_equal(np.frombuffer(data, "<i4").reshape(CHUNK, CHUNK), expected)
    alone = fsspec.filesystem("s3", **options, asynchronous=True)
    group: Any = zarr.open_group(zarr.storage.FsspecStore(alone, path=root), mode="r")
    assert set(group.array_keys()) == set(names_of_all())
    for name in names_of_all():
        assert np.array_equal(group[name][:], values_of(name))


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(900)
@pytest.mark.parametrize("durability", ["process", "power"])
def test_zarr_of_four_processes_over_moto(s3: S3Server, tmp_path: Path, durability: str) -> None:
    run(tmp_path, s3, f"{s3.make_bucket(f'outage-{durability}')}/g", durability)


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(900)
@pytest.mark.parametrize("durability", ["process", "power"])
def test_zarr_of_four_processes_over_seaweed(
    seaweed: SeaweedServer, tmp_path: Path, durability: str
) -> None:
    run(tmp_path, seaweed, f"{seaweed.fresh()}/g", durability)
