"""Histories of readers beside a writer, and how stale the stalest answer was."""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from vfs.errors import ConflictError

#: How long the writer goes on. Long enough for some hundred versions and thousands of reads.
SPAN_S = 1.0
#: How long at most, on a machine so busy that a second holds less than this.
PATIENCE_S = 60.0
ENOUGH_VERSIONS, ENOUGH_READS = 10, 20
TTL_S = 0.2
LENGTH = 20_000


class Read(NamedTuple):
    began_s: float
    ended_s: float
    version: int


def content(version: int) -> bytes:
    """Bytes that tell their version, and whether they are whole."""
    return version.to_bytes(4, "big") * (LENGTH // 4)


def version_of(data: bytes) -> int:
    assert data == data[:4] * (LENGTH // 4), "bytes of two versions"
    return int.from_bytes(data[:4], "big")


def worst_staleness_s(written_s: list[float], reads: list[Read]) -> float:
    """Return how long the most outdated answer had been outdated when its read began.

    ``written_s[n]`` is when version ``n`` was acknowledged.
    """
    worst = 0.0
    for read in reads:
        newest = bisect.bisect_left(written_s, read.began_s) - 1
        if read.version < newest:
            worst = max(worst, read.began_s - written_s[read.version + 1])
    return worst


def run_history(
    fs: Any, write: Any, path: str, kinds: Iterable[int] = range(4)
) -> tuple[list[float], list[Read]]:
    """Let one thread write versions while four, or those of some kinds, read in four ways."""
    written_s: list[float] = []
    reads: list[Read] = []
    done = threading.Event()

    def follow(kind: int) -> None:
        while not done.is_set():
            began_s = time.monotonic()
            if kind == 0:
                data = fs.cat_file(path)
            elif kind == 1:
                try:
                    with fs.open(path) as file:
                        data = file.read()
                except ConflictError:
                    continue  # replaced between opening and reading: refused, not mixed
            elif kind == 2:
                # One call, one version: its ranges are planned together.
                data = b"".join(fs.cat_ranges([path] * 2, [0, 8000], [8000, None]))
            else:
                data = fs.cat_file(path, 0, LENGTH)
            reads.append(Read(began_s, time.monotonic(), version_of(data)))

    write(path, content(0))
    written_s.append(time.monotonic())
    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(follow, kind) for kind in kinds]
        for version in itertools.count(1):
            span_s = time.monotonic() - written_s[0]
            enough = version > ENOUGH_VERSIONS and len(reads) > ENOUGH_READS
            if span_s > (SPAN_S if enough else PATIENCE_S):
                break
            write(path, content(version))
            written_s.append(time.monotonic())
            time.sleep(0.003)  # the pace of the history, not synchronisation
        done.set()
        for reader in readers:
            reader.result(60)
    return written_s, reads
