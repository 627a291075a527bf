"""Ranges, paths, loops, durable writes, single-flight, locks and registration."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs.core import durable, localread
from vfs.core.base import VirtualFileSystem
from vfs.core.durable import (
    Staging,
    is_temporary,
    make_all_directories,
    make_directories,
    temporary_name,
)
from vfs.core.filelock import LockFile
from vfs.core.keyvalue import KeyValueFileSystem
from vfs.core.loop import drive, gather, hop, io_loop, run_in_thread, wait
from vfs.core.path import clean_key
from vfs.core.ranges import merge, resolve
from vfs.core.readonly import ReadOnly
from vfs.core.single_flight import SingleFlight
from vfs.errors import ConfigError, ReadOnlyError, not_found
from vfs.policies.lru import Resident, choose_victims
from vfs.policies.pin import PinSet
from vfs.types import ObjectInfo

BOUNDS = st.one_of(st.none(), st.integers(-50, 50))


@given(BOUNDS, BOUNDS, st.integers(0, 40))
def test_resolve_is_python_slicing(start: int | None, end: int | None, size: int) -> None:
    data = bytes(range(size))
    low, high = resolve(start, end, size)
    assert data[low:high] == data[start:end]
    assert 0 <= low <= high <= size


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 40)).map(lambda p: (p[0], sum(p)))),
    st.integers(0, 30),
    st.integers(1, 100),
)
def test_merge_serves_every_range_once(
    ranges: list[tuple[int, int]], gap: int, request: int
) -> None:
    merged = merge(ranges, gap_bytes=gap, request_bytes=request)
    served = [index for one in merged for index in one.members]
    assert sorted(served) == [i for i, (a, b) in enumerate(ranges) if b > a]
    for one in merged:
        longest = max(ranges[i][1] - ranges[i][0] for i in one.members)
        assert one.end - one.start <= max(request, longest)
        for index in one.members:
            assert one.start <= ranges[index][0]
            assert ranges[index][1] <= one.end
    starts = [one.start for one in merged]
    assert starts == sorted(starts)


@pytest.mark.parametrize(
    "given_, key", [("a", "a"), ("/a//b/", "a/b"), ("", ""), ("/", ""), ("a/.b", "a/.b")]
)
def test_clean_key(given_: str, key: str) -> None:
    assert clean_key(given_) == key


def test_drive_needs_no_loop_and_refuses_to_wait() -> None:
    async def local() -> int:
        return await run_in_thread(threading.get_ident)

    assert drive(local()) == threading.get_ident()

    async def remote() -> None:
        future: asyncio.Future[None] = io_loop().create_future()
        await future

    with pytest.raises(RuntimeError, match="loop_bound"):
        drive(remote())


def test_hop_runs_on_the_io_loop_from_any_loop() -> None:
    async def where() -> Any:
        return asyncio.get_running_loop()

    async def elsewhere() -> Any:
        return await hop(where), asyncio.get_running_loop()

    there, here = asyncio.run(elsewhere())
    assert there is io_loop()
    assert here is not there
    assert wait(where) is there


def test_gather_bounds_orders_and_cancels() -> None:
    running = 0
    most = 0

    async def one(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        if number == 50:
            raise ValueError(number)
        return number

    async def all_of(count: int, *, return_exceptions: bool = False) -> Any:
        calls = [lambda n=n: one(n) for n in range(count)]
        return await gather(calls, limit=4, return_exceptions=return_exceptions)

    assert asyncio.run(all_of(40)) == list(range(40))
    assert most == 4
    with pytest.raises(ValueError, match="50"):
        asyncio.run(all_of(100))
    kept = asyncio.run(all_of(60, return_exceptions=True))
    assert isinstance(kept[50], ValueError)
    assert kept[59] == 59


def test_single_flight_forgets_what_landed() -> None:
    calls = []

    async def fetch() -> int:
        calls.append(1)
        await asyncio.sleep(0)
        return len(calls)

    async def run() -> list[int]:
        flights: SingleFlight[int] = SingleFlight()
        first = await asyncio.gather(*[flights.run("k", fetch) for _ in range(5)])
        second = await flights.run("k", fetch)
        assert len(flights) == 0
        return [*first, second]

    assert asyncio.run(run()) == [1, 1, 1, 1, 1, 2]


def test_staging_publishes_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with Staging(str(tmp_path), "process") as staging:
        staging.write(b"abc")
        assert not target.exists()
    assert list(tmp_path.iterdir()) == []
    with Staging(str(tmp_path / "made" / "deep"), "power") as staging:
        staging.write(memoryview(b"abc"))
        staging.publish(str(target))
    assert target.read_bytes() == b"abc"
    with Staging(str(tmp_path), "process") as staging, pytest.raises(FileExistsError):
        staging.publish(str(target), exclusive=True)
    assert target.read_bytes() == b"abc"
    assert is_temporary(temporary_name())
    assert not is_temporary(".vfs-tmp-notes")


def test_locks_exclude_threads_and_survive_nobody(tmp_path: Path) -> None:
    locks = LockFile(str(tmp_path / "locks"))
    one = locks.acquire_now(5)
    assert one is not None
    assert locks.acquire_now(5) is None
    other = locks.acquire_now(6)
    assert other is not None
    locks.release(one)
    again = locks.acquire_now(5)
    assert again is not None
    locks.release(again)
    locks.release(other)
    held = os.fork()
    if held == 0:
        locks.acquire_now(7)
        os._exit(0)
    os.waitpid(held, 0)
    after = locks.acquire_now(7)
    assert after is not None, "the kernel frees a dead process's locks"
    locks.release(after)


def test_a_forked_child_does_not_prolong_its_parents_lock(tmp_path: Path) -> None:
    locks = LockFile(str(tmp_path / "locks"))
    fd = locks.acquire_now(1)
    assert fd is not None
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # lives until the parent closes its end
        os._exit(0)
    locks.release(fd)
    again = locks.acquire_now(1)
    assert again is not None
    locks.release(again)
    os.close(writer)
    os.waitpid(child, 0)
    os.close(reader)


def test_policies() -> None:
    residents = [Resident("old", 10, 1), Resident("pin", 10, 0, pinned=True), Resident("new", 5, 2)]
    assert [r.key for r in choose_victims(residents, 1)] == ["old"]
    assert [r.key for r in choose_victims(residents, 11)] == ["old", "new"]
    assert [r.key for r in choose_victims(residents, 1, spare_bytes=20)] == ["old", "new"]
    assert choose_victims(residents, 0, spare_bytes=100) == []
    pins = PinSet(["**/zarr.json", "raw/**", "a?c", "x[0-9]", "[!n]o"])
    for key in ("zarr.json", "a/b/zarr.json", "raw/a/b", "abc", "x7", "po"):
        assert key in pins
    for key in ("zarr.jsonx", "rawa", "a/c", "xx", "no", "raw"):
        assert key not in pins


# -------------------------------------------------------------------- authors' contract


def test_a_missing_primitive_is_an_error_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="delete_object, list_objects"):

        class Incomplete(KeyValueFileSystem):
            def head_object(self, key: str) -> ObjectInfo:
                raise not_found(key)

            def get_object(self, key: str, start: int | None, end: int | None) -> bytes:
                raise not_found(key)

            def put_object(self, key: str, value: bytes, **_: Any) -> Any:
                raise not_found(key)

    with pytest.raises(TypeError, match="list_directory"):

        class NoListing(ReadOnly, VirtualFileSystem):
            def head_object(self, key: str) -> ObjectInfo:
                raise not_found(key)

            def get_object(self, key: str, start: int | None, end: int | None) -> bytes:
                raise not_found(key)


class Digits(ReadOnly, KeyValueFileSystem):
    """Ten objects that exist by arithmetic; asynchronous primitives, read-only."""

    protocol = "digits"

    async def head_object(self, key: str) -> ObjectInfo:
        assert asyncio.get_running_loop() is io_loop()
        if key not in {f"d/{n}" for n in range(10)}:
            raise not_found(key)
        return ObjectInfo(key, 1, etag=key)

    async def get_object(self, key: str, start: int | None, end: int | None) -> bytes:
        await self.head_object(key)
        return key[-1].encode()[start:end]

    async def list_objects(self, prefix: str, start_after: str) -> Any:
        assert asyncio.get_running_loop() is io_loop()
        for key in (f"d/{n}" for n in range(10)):
            if key.startswith(prefix) and key > start_after:
                yield ObjectInfo(key, 1, etag=key)


def test_setting_protocol_registers_the_class_for_urls_and_chains() -> None:
    with fsspec.open("digits://d/7") as file:
        assert file.read() == b"7"
    fs, path = fsspec.url_to_fs("readonly::digits://d/3")
    assert fs.cat_file(path) == b"3"
    assert fs.find("d") == [f"d/{n}" for n in range(10)]
    with pytest.raises(ReadOnlyError):
        fs.fs.pipe_file("d/3", b"")


def test_asynchronous_primitives_run_on_the_io_loop_from_every_caller() -> None:
    fs = fsspec.filesystem("digits")

    async def read() -> Any:
        return await fs._cat_file("d/1"), await fs._ls("d", detail=False), await fs._exists("e")

    expected = (b"1", [f"d/{n}" for n in range(10)], False)
    assert asyncio.run(read()) == expected
    assert (fs.cat_file("d/1"), fs.ls("d", detail=False), fs.exists("e")) == expected
    assert fs.walk("") is not None
    assert fs.isdir("d")


def test_names_that_mean_something_else_are_refused() -> None:
    for protocol in ("memory", "s3", "my_store", "Store", "1a"):
        with pytest.raises(ConfigError, match=protocol):
            type("Taken", (Digits,), {"protocol": protocol})


@pytest.fixture
def pages() -> Iterator[Any]:
    fs = fsspec.filesystem("mem", store="pages")
    yield fs
    fs.rm("", recursive=True)


def test_listing_a_directory_steps_over_what_lies_deeper(pages: Any) -> None:
    for number in range(2500):
        pages.pipe_file(f"d/deep/{number:05}", b"")
    for name in ("a", "deep!", "deeq", "z"):
        pages.pipe_file(f"d/{name}", b"1")
    names = pages.ls("d", detail=False)
    assert names == ["d/a", "d/deep", "d/deep!", "d/deeq", "d/z"]
    assert len(pages.find("d")) == 2504
    assert pages.find("d", maxdepth=1) == ["d/a", "d/deep!", "d/deeq", "d/z"]


def test_directories_are_made_while_others_remove_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may remove a parent in the moment it is empty."""
    inner = tmp_path / "a/b/c"
    lost: list[str] = []
    mkdir = os.mkdir

    def snatched(path: str) -> None:
        if path.endswith("/c") and len(lost) < 3:
            lost.append(path)
            (tmp_path / "a/b").rmdir()
            (tmp_path / "a").rmdir()
        mkdir(path)

    monkeypatch.setattr(os, "mkdir", snatched)
    make_directories(str(inner), "process")
    assert inner.is_dir()
    assert len(lost) == 3


def test_directories_are_synced_once_a_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(durable, "fsync_directory", synced.append)
    top = str(tmp_path)
    make_all_directories([f"{top}/c/{n}/0" for n in range(50)], "power")
    assert synced == [top, f"{top}/c", *(f"{top}/c/{n}" for n in range(50))]
    make_all_directories([f"{top}/c/{n}/0" for n in range(50)], "power")
    assert len(synced) == 52, "they were all there"


@pytest.mark.parametrize("failing", ["", "c", "c/1"])
def test_directory_that_cannot_be_synced_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Who finds it believes that it survives a power cut."""
    broken = str(tmp_path / failing)
    (tmp_path / "there").mkdir()
    real = durable.fsync_directory

    def fsync_directory(path: str) -> None:
        if path == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        real(path)

    wanted = [f"{tmp_path}/{name}" for name in ("there", "c/0/0", "c/1/0")]
    with monkeypatch.context() as patch:
        patch.setattr(durable, "fsync_directory", fsync_directory)
        with pytest.raises(OSError, match="Input/output"):
            make_all_directories(wanted, "power")
    assert os.listdir(tmp_path) == ["there"]
    make_all_directories(wanted, "power")
    assert all(map(os.path.isdir, wanted))


def test_directories_where_there_can_be_none() -> None:
    with pytest.raises(OSError):
        make_directories("/proc/none/of/these", "process")


@pytest.mark.parametrize("how", [localread.read_range, localread.read_cached])
def test_the_allocator_is_taught_before_a_large_read_and_not_before(
    how: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(localread, "_taught", False)
    content = os.urandom(128 << 10)
    (tmp_path / "o").write_bytes(content)
    with (tmp_path / "o").open("rb") as file:
        assert how(file.fileno(), 0, 1000) in {content[:1000], localread.WAIT_FOR_DISK}
        assert not localread._taught
        assert how(file.fileno(), 0, len(content)) in {content, localread.WAIT_FOR_DISK}
        assert localread._taught


def test_blocking_forms_return_nothing_where_those_of_fsspec_do(tmp_path: Path) -> None:
    """Code like ``fs.get_file(path, local) or read(local)`` is common; coroutines tell more."""
    fs = fsspec.filesystem("mem", store="returns nothing")
    assert fs.pipe_file("a", b"1") is None
    assert fs.get_file("a", str(tmp_path / "a")) is None
    assert fs.put_file(str(tmp_path / "a"), "b") is None
