"""One call for thousands of objects, in a process that may open as many files as most may."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import fsspec
import pytest
from tier_tools import descriptors

pytestmark = pytest.mark.slow

#: More than the descriptors of a process, and nearly what fsspec starts together (1280).
DATA = {f"d/{n:05d}": b"%d" % n for n in range(1_200)}


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    with descriptors(lambda soft: min(soft, 1024)):
        yield


class Watch:
    """The most descriptors that were open at a time, more than at the beginning."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.before = self.most = len(os.listdir("/proc/self/fd"))

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            self.most = max(self.most, len(os.listdir("/proc/self/fd")))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def taken(self) -> int:
        return self.most - self.before


def open_place(top: Path, place: str) -> Any:
    if place == "cache":
        return fsspec.filesystem("cache", target_protocol="disk", directory=f"{top}/cache")
    consistency = "open" if place == "through" else "exclusive"
    options = {"hot": f"{top}/hot", "cold": f"disk://{top}/cold"}
    return fsspec.filesystem("tier", write=place, consistency=consistency, **options)


@pytest.mark.usefixtures("few_descriptors")
@pytest.mark.parametrize("place", ["through", "back", "around", "cache"])
def test_call_for_many_objects_takes_few_descriptors(tmp_path: Path, place: str) -> None:
    fs = open_place(tmp_path, place)
    start = f"{tmp_path}/cold/" if place == "cache" else ""
    data = {f"{start}{key}": value for key, value in DATA.items()}
    with Watch() as watch:
        fs.pipe(data)
        if place == "back":
            fs.flush()
        if place != "cache":
            fs.evict("", recursive=True)
        assert fs.cat(list(data)) == data
        if place != "cache":
            fs.evict("", recursive=True)
        found = fs.cat_ranges(list(data), [0] * len(data), [1] * len(data), on_error="raise")
        assert found == [value[:1] for value in data.values()]
        fs.get(list(data), [f"{tmp_path}/{key}" for key in DATA])
    assert (tmp_path / "d/01199").read_bytes() == b"1199"
    # Two lines of 128, with a file each, and what threads and the target open.
    assert watch.taken < 600
