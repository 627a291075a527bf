"""zarr arrays read warm through ``tier::``, ``cache::`` and ``disk://``, against ``LocalStore``.

Each reading process opens one store only (``arrays_child.py``), because the state in which one
store leaves the C library's allocator decides how fast the next one reads large chunks.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import Row, rows_of, skipped
from benchmarks.rounds import Place, Samples, in_order

TOPIC = "arrays"

STORES = ("LocalStore", "disk", "tier, hot", "cache", "zarr CacheStore", "MemoryStore")

#: One row of chunks is 512 columns of float32: 512 rows are a chunk of 1 MiB.
_COLUMNS = 512
_WORKLOADS = {
    ("plain", "whole"): ("1 MiB chunks, whole", 0.67),
    ("plain", "windows"): ("1 MiB chunks, windows", 0.67),
    ("small", "whole"): ("64 KiB chunks, whole", None),
    ("small", "windows"): ("64 KiB chunks, windows", None),
    ("sharded", "whole"): ("4 MiB shards, whole", 1.1),
    ("sharded", "windows"): ("4 MiB shards, windows", 1.1),
}


def make_arrays(root: Path, mebibytes: int) -> None:
    """Write the same values three times, with zarr's own store."""
    import numpy as np
    import zarr

    every = np.random.default_rng(0).random((mebibytes * 512, _COLUMNS), dtype=np.float32)
    np.save(root / "expected.npy", every)
    layouts: dict[str, dict[str, Any]] = {
        "plain": {"chunks": (512, _COLUMNS)},
        "small": {"chunks": (128, 128)},
        "sharded": {"chunks": (64, _COLUMNS), "shards": (2048, _COLUMNS)},
    }
    for name, layout in layouts.items():
        # 16 chunks to the MiB take 16 times as long: a quarter of the rows will do.
        data = every[: len(every) // 4] if name == "small" else every
        store = zarr.storage.LocalStore(root / "cold" / f"{name}.zarr")
        array = zarr.create_array(
            store, shape=data.shape, dtype=data.dtype, compressors=None, filters=None, **layout
        )
        array[:] = data


def run(place: Place) -> Iterator[Row]:
    if importlib.util.find_spec("zarr") is None:
        yield skipped(TOPIC, "zarr arrays", "zarr is not installed")
        return
    make_arrays(place.root, place.size.array_mib)
    samples: dict[tuple[str, str], Samples] = {key: {} for key in _WORKLOADS}
    requests: dict[str, int] = dict.fromkeys(("plain", "small", "sharded"), 0)
    for store in ("tier, hot", "cache"):
        _read(store, place)  # fills it
    for turn in range(place.size.array_rounds):
        for store in in_order(STORES, turn):
            for told in _read(store, place):
                name = told["array"]
                requests[name] += told["cold_requests"]
                for what in ("whole", "windows"):
                    samples[name, what].setdefault(store, []).append(told[what])
    for key, (workload, budget) in _WORKLOADS.items():
        budgets = {} if budget is None else dict.fromkeys(("disk", "tier, hot", "cache"), budget)
        yield from rows_of(TOPIC, workload, samples[key], "LocalStore", budgets)
    for name, count in requests.items():
        yield Row(TOPIC, f"{name}, warm", "requests to cold", count, unit="requests", budget=0)


def _read(store: str, place: Place) -> list[dict[str, Any]]:
    child = Path(__file__).with_name("arrays_child.py")
    command = [sys.executable, str(child), store, str(place.root), str(place.size.windows)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=place.root)
    told: list[dict[str, Any]] = json.loads(run.stdout)
    return told
