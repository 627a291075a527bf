"""Rows of results: one a figure, as a table for people and as JSON for programs.

What lives here: rows and how they print. What must not: measuring.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from benchmarks.rounds import Samples, ratio

_PACKAGES = (
    "fsspec-vfs",
    "fsspec",
    "zarr",
    "numpy",
    "obstore",
    "diskcache",
    "multi-storage-client",
    "s3fs",
)


@dataclass(frozen=True)
class Row:
    """One figure.

    ``value`` is what the budget limits: a ratio to ``baseline``, or an amount in ``unit``.
    ``median_s`` and ``best_s`` are seconds of the case itself, None where no time was taken.
    """

    topic: str
    workload: str
    case: str
    value: float
    unit: str = "x"
    baseline: str = ""
    budget: float | None = None
    median_s: float | None = None
    best_s: float | None = None
    note: str = ""

    @property
    def kept(self) -> bool | None:
        """Whether the budget is kept; None where there is none."""
        return None if self.budget is None else self.value <= self.budget


def rows_of(
    topic: str,
    workload: str,
    samples: Samples,
    baseline: str,
    budgets: Mapping[str, float] | None = None,
) -> list[Row]:
    """Make a row of every case against the baseline."""
    return [
        Row(
            topic,
            workload,
            name,
            ratio(samples, name, baseline),
            baseline=baseline,
            budget=(budgets or {}).get(name),
            median_s=statistics.median(times),
            best_s=min(times),
        )
        for name, times in samples.items()
    ]


def ahead_of(topic: str, workload: str, samples: Samples, case: str, peer: str) -> Row:
    """Make the row that says whether a case is ahead of a peer."""
    value = ratio(samples, case, peer)
    return Row(topic, workload, f"{case} / {peer}", value, baseline=peer, budget=1.0)


def skipped(topic: str, workload: str, why: str) -> Row:
    """Make the row of something that could not be measured here."""
    return Row(topic, workload, "skipped", float("nan"), unit="", note=why)


def machine() -> dict[str, str]:
    """Say what the figures depend on."""
    found = {"python": platform.python_version(), "cores": str(os.cpu_count())}
    found["load"] = " ".join(f"{value:.1f}" for value in os.getloadavg())
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def as_json(rows: Iterable[Row]) -> str:
    """Return machine and rows as JSON; what has no value has null."""
    told = []
    for row in rows:
        fields = asdict(row) | {"kept": row.kept}
        if row.value != row.value:
            fields["value"] = None
        told.append(fields)
    return json.dumps({"machine": machine(), "rows": told}, indent=1)


def as_lines(row: Row) -> str:
    """Return one row for people."""
    if row.note and not row.unit:
        return f"{row.workload:36} skipped: {row.note}"
    digits = 2 if row.unit in {"x", "of reads"} else 1
    value = f"{row.value:.{digits}f} {row.unit}"
    budget = "" if row.budget is None else f"budget {row.budget:g}"
    verdict = {True: "kept", False: "MISSED", None: ""}[row.kept]
    taken = "" if row.median_s is None else _time(row.median_s)
    best = "" if row.best_s is None else f"best {_time(row.best_s)}"
    line = f"{row.workload:36} {row.case:42} {value:>11}  {taken:>9} {best:>14}"
    return f"{line}  {budget:12} {verdict:6} {row.note}".rstrip()


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
