"""What one layer adds to a call: ``readonly::`` over the filesystem it wraps."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import fsspec

from benchmarks.report import Row
from benchmarks.rounds import Place, time_calls

TOPIC = "layers"

_BUDGET_US = 5.0


def run(place: Place) -> Iterator[Row]:
    path = str(place.folder("files") / "a")
    fsspec.filesystem("disk").pipe_file(path, b"hello")
    fsspec.filesystem("mem").pipe_file(path, b"hello")
    for protocol in ("mem", "disk"):
        bare = fsspec.filesystem(protocol)
        layered = fsspec.filesystem("readonly", target_protocol=protocol)
        for operation in ("cat_file", "info", "exists"):
            one: Callable[[str], object] = getattr(bare, operation)
            two: Callable[[str], object] = getattr(layered, operation)
            if one(path) != two(path):
                message = f"readonly::{protocol} answers {operation} otherwise"
                raise AssertionError(message)
            cases: dict[str, Callable[[], object]] = {
                "bare": _bind(one, path),
                "layered": _bind(two, path),
            }
            samples = time_calls(cases, place.size)
            pairs = zip(samples["layered"], samples["bare"], strict=True)
            added = statistics.median(a - b for a, b in pairs)
            yield Row(
                TOPIC,
                operation,
                f"readonly::{protocol} over {protocol}",
                added * 1e6,
                unit="µs",
                budget=_BUDGET_US,
                median_s=statistics.median(samples["layered"]),
                best_s=min(samples["layered"]),
            )


def _bind(call: Callable[[str], object], path: str) -> Callable[[], object]:
    return lambda: call(path)
