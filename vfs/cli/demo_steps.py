"""The steps of the demonstration: write, read cold, read hot, and compare every byte.

What lives here: what is done, in which order, and how each result is checked. What must not:
clocks and counters (``demo_run.py``), and making or removing the places it happens in.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from vfs.cli.demo_compare import (
    compare_datasets,
    compare_figures,
    compare_objects,
    compare_tables,
)
from vfs.cli.demo_data import Sample, climate_table, window
from vfs.cli.demo_place import Place

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PLAN", "Demo", "Outcome", "Requests"]

_TABLE: Final = "climate.parquet"


class Requests(enum.Enum):
    """How many requests a step is to make to the cold store."""

    NONE = "a hot step"
    SOME = "a cold step"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step read or wrote, and how to check it once the clock has stopped."""

    n_bytes: int
    check: Callable[[], list[str]]


class Demo:
    """The tier, the samples, and what is known of the objects written so far.

    Parameters
    ----------
    samples : sequence of Sample
        The source; the first is climate output.
    place : Place
        Empty.
    """

    def __init__(self, samples: Sequence[Sample], place: Place) -> None:
        import fsspec

        self.samples = samples
        self.place = place
        self.options = place.tier_options
        self.fs = fsspec.filesystem("tier", **self.options)
        self.written: dict[str, bytes] = {}

    @cached_property
    def table(self) -> Any:
        """The climate samples as one table."""
        return climate_table(self.samples)

    def requests(self) -> int:
        """Count what reached the cold store so far."""
        if self.place.server_requests is not None:
            return self.place.server_requests()
        return sum(self.fs.stats().cold_requests.values())

    def states(self) -> dict[str, int]:
        """Count the objects by state; no request is made."""
        hot = self.fs.stats().hot_objects
        return {"HOT": hot, "COLD": len(self.written) - hot}

    def look_past_the_tier(self) -> None:
        """Read what is in the cold store now, without the tier."""
        self.written = self.place.read_plain()

    def open(self, sample: Sample, chunks: dict[str, int] | None = None) -> xr.Dataset:
        """Open a sample's zarr group by URL, as any user would."""
        import xarray as xr

        # Told the format, zarr asks for no metadata of the other one; that it is absent would
        # have to be asked of the cold store each time.
        opened: xr.Dataset = xr.open_zarr(
            f"tier://{sample.key}", storage_options=self.options, chunks=chunks, zarr_format=3
        )
        return opened


def _write_zarr(demo: Demo) -> Outcome:
    for sample in demo.samples:
        sample.dataset.to_zarr(
            f"tier://{sample.key}", storage_options=demo.options, mode="w", zarr_format=3
        )
    n_bytes = sum(sample.dataset.nbytes for sample in demo.samples)
    return Outcome(n_bytes, partial(_check_written, demo))


def _check_written(demo: Demo) -> list[str]:
    """See with a plain filesystem that each group is there."""
    demo.look_past_the_tier()
    names = {f"{sample.key}/zarr.json" for sample in demo.samples}
    return [f"{name}: not in the cold store" for name in sorted(names - demo.written.keys())]


def _compare_objects(demo: Demo) -> Outcome:
    found = demo.fs.cat(list(demo.written))
    return Outcome(sum(map(len, found.values())), partial(_check_objects, demo, found))


def _check_objects(demo: Demo, found: dict[str, bytes]) -> list[str]:
    """Compare every object with the cold store's, read past the tier, and the listings too."""
    demo.look_past_the_tier()
    listed = set(demo.fs.find(""))
    missing = [f"{key}: not listed" for key in sorted(demo.written.keys() - listed)]
    extra = [f"{key}: listed, but not there" for key in sorted(listed - demo.written.keys())]
    return compare_objects(demo.written, found) + missing + extra


def _evict(demo: Demo) -> Outcome:
    freed = demo.fs.evict("", recursive=True)
    return Outcome(freed, partial(_check_evicted, demo))


def _check_evicted(demo: Demo) -> list[str]:
    left = demo.states()["HOT"]
    return [*_check_states(demo, "COLD"), *([f"{left} objects are still hot"] if left else [])]


def _check_states(demo: Demo, state: str) -> list[str]:
    """Ask the tier where the chunks of the first group are."""
    first = demo.samples[0].key
    # Metadata of single arrays is not read: the group's own has a copy of it.
    keys = [key for key in demo.written if key.startswith(first) and not key.endswith(".json")]
    states = {key: demo.fs.status(key).state for key in keys}
    return [f"{key}: is {now}, should be {state}" for key, now in states.items() if now != state]


def _read_window(demo: Demo) -> Outcome:
    found = [window(demo.open(sample)).load() for sample in demo.samples]
    expected = [window(sample.dataset) for sample in demo.samples]
    return _datasets(demo, expected, found)


def _read_everything(demo: Demo) -> Outcome:
    found = [demo.open(sample).load() for sample in demo.samples]
    outcome = _datasets(demo, [sample.dataset for sample in demo.samples], found)
    return Outcome(outcome.n_bytes, lambda: outcome.check() + _check_states(demo, "HOT"))


def _datasets(demo: Demo, expected: list[xr.Dataset], found: list[xr.Dataset]) -> Outcome:
    def check() -> list[str]:
        return [
            f"{sample.key}: {line}"
            for sample, a, b in zip(demo.samples, expected, found, strict=True)
            for line in compare_datasets(a, b)
        ]

    return Outcome(sum(dataset.nbytes for dataset in found), check)


def _write_parquet(demo: Demo) -> Outcome:
    demo.table.to_parquet(f"tier://{_TABLE}", storage_options=demo.options, index=False)
    return Outcome(_table_bytes(demo.table), partial(_check_parquet, demo))


def _check_parquet(demo: Demo) -> list[str]:
    demo.look_past_the_tier()
    return [] if _TABLE in demo.written else [f"{_TABLE}: not in the cold store"]


def _read_parquet(demo: Demo) -> Outcome:
    import pandas as pd

    found = pd.read_parquet(f"tier://{_TABLE}", storage_options=demo.options)
    return Outcome(_table_bytes(found), lambda: compare_tables(demo.table, found))


def _table_bytes(table: Any) -> int:
    return int(table.memory_usage(index=False, deep=True).sum())


def _reduce(demo: Demo) -> Outcome:
    from dask.base import compute

    opened = [demo.open(sample, chunks={}) for sample in demo.samples]
    figures = [_figures(dataset) for dataset in opened]
    (found,) = compute(figures)  # type: ignore[no-untyped-call]

    def check() -> list[str]:
        return [
            f"{sample.key}: {line}"
            for sample, reduced in zip(demo.samples, found, strict=True)
            for line in compare_figures(_figures(sample.dataset), reduced)
        ]

    return Outcome(sum(dataset.nbytes for dataset in opened), check)


def _figures(dataset: xr.Dataset) -> dict[str, Any]:
    """Return extremes, count and mean of every array of real numbers."""
    arrays = {name: v.astype("f8") for name, v in dataset.data_vars.items() if v.dtype.kind == "f"}
    return {
        f"{name} {how}": getattr(array, how)().data
        for name, array in arrays.items()
        for how in ("min", "max", "count", "mean")
    }


#: Name, what is done, and how many requests it is to make.
PLAN: Final = (
    ("write zarr", _write_zarr, Requests.SOME),
    ("compare objects, hot", _compare_objects, Requests.NONE),
    ("evict", _evict, Requests.NONE),
    ("read a window, cold", _read_window, Requests.SOME),
    ("read everything, cold", _read_everything, Requests.SOME),
    ("read a window, hot", _read_window, Requests.NONE),
    ("read everything, hot", _read_everything, Requests.NONE),
    ("evict", _evict, Requests.NONE),
    ("compare objects, cold", _compare_objects, Requests.SOME),
    ("write parquet", _write_parquet, Requests.SOME),
    ("evict", _evict, Requests.NONE),
    ("read parquet, cold", _read_parquet, Requests.SOME),
    ("read parquet, hot", _read_parquet, Requests.NONE),
    ("reduce with dask, cold", _reduce, Requests.SOME),
    ("reduce with dask, hot", _reduce, Requests.NONE),
)
