"""What the policies of the cache miss, on the traces their tests use: shares of reads, no times."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from benchmarks.report import Row
from benchmarks.rounds import Place
from vfs.policies.fifo import plan_fifo
from vfs.policies.lru import plan_lru
from vfs.policies.s3fifo import plan_s3fifo

TOPIC = "policies"

#: Passes over the second of two datasets, of which the last three must be as good as the first
#: dataset's.
_PASSES = 6


def run(place: Place) -> Iterator[Row]:
    del place
    traces = importlib.import_module("tests.policy_traces")
    zipf, size = traces.zipf()
    scans, scans_size = traces.zipf(scanned=0.35)
    browsing, browsing_size = traces.browse()
    workloads = {
        "zipf 0.9, 5 % cached": (zipf, size // 20),
        "zipf 0.9, 20 % cached": (zipf, size // 5),
        "zipf and 35 % scans, 5 %": (scans, scans_size // 20),
        "browsing zarr, 2 % cached": (browsing, browsing_size // 50),
        "loop of 2 x the cache, 12 epochs": (traces.loop("a", 2, 12), traces.CACHE),
        "shuffled 2 x, 12 epochs": (traces.shuffled("a", 2, 12), traces.CACHE),
    }
    for workload, (trace, limit) in workloads.items():
        for name, cache in _caches(traces, limit).items():
            yield Row(TOPIC, workload, name, cache.run(trace), "of reads")
        for name in ("lru", "s3fifo + duel"):
            cache = _caches(traces, limit)[name]
            cache.run(trace)
            if cache.small_misses:
                yield Row(TOPIC, workload, f"{name}: metadata", cache.small_misses, "misses")
    cache = traces.with_duel()
    cache.run(traces.loop("a", 2, _PASSES))
    for number in range(_PASSES):
        missed = cache.run(traces.loop("b", 2))
        yield Row(TOPIC, "another dataset, 2 x the cache", f"pass {number + 1}", missed, "of reads")


def _caches(traces: Any, limit: int) -> dict[str, Any]:
    return {
        "fifo": traces.Cache(limit, plan_fifo),
        "lru": traces.Cache(limit, plan_lru),
        "s3fifo": traces.Cache(limit, plan_s3fifo),
        "s3fifo + duel": traces.with_duel(limit),
    }
