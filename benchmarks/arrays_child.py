"""One process of ``arrays.py``: ``arrays_child.py STORE ROOT WINDOWS`` prints JSON.

Reads every array once and compares it with what was written, then times reading it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

_REPEATS = 3


def open_array(store: str, root: Path, name: str) -> Any:
    """Open one of the arrays through one of the stores."""
    path = root / "cold" / f"{name}.zarr"
    if store == "LocalStore":
        return zarr.open_array(zarr.storage.LocalStore(path, read_only=True), mode="r")
    if store == "zarr CacheStore":
        from zarr.experimental.cache_store import CacheStore

        source = zarr.storage.LocalStore(path, read_only=True)
        copies = zarr.storage.LocalStore(root / f"zarr-cache-{os.getpid()}" / name)
        return zarr.open_array(CacheStore(source, cache_store=copies), mode="r")
    if store == "MemoryStore":
        return zarr.open_array(asyncio.run(_in_memory(path)), mode="r")
    if store == "disk":
        return zarr.open_array(f"disk://{path}", mode="r")
    if store == "cache":
        given = {"directory": str(root / "cache"), "consistency": "immutable"}
        options = {"cache": {**given, "max_bytes": "8 GiB"}}
        return zarr.open_array(f"cache::disk://{path}", mode="r", storage_options=options)
    options = {"tier": {"hot": str(root / "hot"), "max_bytes": "8 GiB"}}
    return zarr.open_array(f"tier::disk://{path}", mode="r", storage_options=options)


async def _in_memory(path: Path) -> Any:
    from zarr.core.buffer import default_buffer_prototype

    store = zarr.storage.MemoryStore()
    make = default_buffer_prototype().buffer.from_bytes
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            await store.set(file.relative_to(path).as_posix(), make(file.read_bytes()))
    return store


def requests(array: Any) -> int:
    """Return how many requests the cold store has had, 0 where there is none."""
    target = getattr(getattr(array.store, "fs", None), "target", None)
    return target.requests.total() if target else 0


def timed(call: Callable[[], object]) -> float:
    """Return seconds, the median of a few times."""
    times = []
    for _ in range(_REPEATS):
        gc.collect()
        began = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - began)
        del result
    return statistics.median(times)


def check(array: Any, expected: Any, corners: list[tuple[int, int]]) -> None:
    """Compare everything, and some windows, with what was written."""
    if not np.array_equal(array[:], expected):
        message = f"{array.store} reads other values"
        raise AssertionError(message)
    for y, x in corners[:20]:
        here = slice(y, y + 100), slice(x, x + 100)
        if not np.array_equal(array[here], expected[here]):
            message = f"{array.store} reads another window"
            raise AssertionError(message)


def measure(array: Any, written: Any, windows: int) -> dict[str, float]:
    """Read an array as a whole and by windows of 100 x 100; return seconds and requests."""
    rows, columns = array.shape
    generator = np.random.default_rng(1)
    ys, xs = (generator.integers(0, end - 100, windows) for end in (rows, columns))
    corners = [(int(y), int(x)) for y, x in zip(ys, xs, strict=True)]
    check(array, written[:rows], corners)

    def read_windows() -> None:
        for y, x in corners:
            array[y : y + 100, x : x + 100]

    before = requests(array)
    whole = timed(lambda: array[:])
    some = timed(read_windows)
    return {"whole": whole, "windows": some, "cold_requests": requests(array) - before}


def main() -> None:
    store, root, windows = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    written = np.load(root / "expected.npy", mmap_mode="r")
    told = []
    for name in ("plain", "small", "sharded"):
        array = open_array(store, root, name)
        told.append({"array": name, **measure(array, written, windows)})
    print(json.dumps(told))


if __name__ == "__main__":
    main()
