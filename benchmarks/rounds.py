"""Fair rounds: every case in every round, forwards then backwards, so that load hits all alike.

What lives here: timing and the statistics over rounds. What must not: what is measured.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Size:
    """How much work a run does; ``--quick`` only shows that everything runs."""

    rounds: int = 15
    batch_s: float = 0.05
    large_bytes: int = 256 << 20
    entries: tuple[int, int] = (100, 100_000)
    blocks: tuple[int, int] = (100, 1_000_000)
    new_at: tuple[int, int] = (10, 20_000)
    new_per_round: int = 20
    array_mib: int = 256
    windows: int = 500
    array_rounds: int = 5
    import_rounds: int = 9
    cold_objects: int = 64
    cold_rounds: int = 5
    waiting: int = 100_000


QUICK = Size(
    rounds=2,
    batch_s=0.001,
    large_bytes=2 << 20,
    entries=(10, 100),
    blocks=(50, 100),
    new_at=(2, 20),
    new_per_round=2,
    array_mib=8,
    windows=5,
    array_rounds=1,
    import_rounds=1,
    cold_objects=3,
    cold_rounds=1,
    waiting=100,
)


@dataclass(frozen=True)
class Place:
    """Where a run puts its files, and how much it does."""

    root: Path
    size: Size

    def folder(self, name: str) -> Path:
        """Make and return a folder of this run."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def in_order(names: Sequence[str], turn: int) -> list[str]:
    """Return the names as they stand, and backwards every second time."""
    return list(names) if turn % 2 == 0 else list(reversed(names))


def time_calls(cases: Mapping[str, Callable[[], object]], size: Size) -> Samples:
    """Return seconds a call, one value a round; each value is the mean of a batch.

    The garbage collector runs between batches and never in one.
    """
    counts = {name: _batch_length(case, size.batch_s) for name, case in cases.items()}
    samples: Samples = {name: [] for name in cases}
    for turn in range(size.rounds):
        for name in in_order(list(cases), turn):
            case, count = cases[name], range(counts[name])
            gc.collect()
            gc.disable()
            try:
                began = time.perf_counter()
                for _ in count:
                    case()
                samples[name].append((time.perf_counter() - began) / len(count))
            finally:
                gc.enable()
    return samples


def _batch_length(case: Callable[[], object], batch_s: float) -> int:
    for _ in range(3):  # warm: page cache, imports, first-use costs
        case()
    began = time.perf_counter()
    case()
    once = max(time.perf_counter() - began, 1e-7)
    return max(1, min(20_000, int(batch_s / once)))


def ratio(samples: Samples, name: str, baseline: str) -> float:
    """Return the median over rounds of case against baseline in the same round."""
    pairs = zip(samples[name], samples[baseline], strict=True)
    return statistics.median(one / other for one, other in pairs)
