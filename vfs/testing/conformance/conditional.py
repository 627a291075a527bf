"""What versions mean: etags, times, exclusive creation, readers of replaced objects.

Tests that tell one version of an object from another live here; races
between writers that carry no condition are in ``concurrency``.
"""

from __future__ import annotations

import datetime as dt
import errno
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fsspec import AbstractFileSystem

from vfs.testing.conformance.base import Conformance, assert_os_error, assert_same, needs
from vfs.testing.conformance.read import LARGE_BYTES

__all__ = ["ConditionalConformance"]

CLOCK_SLACK = dt.timedelta(seconds=5)  # between the store's clock and ours


class ConditionalConformance(Conformance):
    """Versions of an object, and writes that depend on them."""

    @needs("write", "etag")
    def test_etag(self, fs: AbstractFileSystem, root: str) -> None:
        """The etag changes with the content, of equal length too, and only then."""
        path, seen = f"{root}/o", []
        for data in (b"one", b"two", b"", b"three"):
            fs.pipe_file(path, data)
            etag = fs.info(path)["etag"]
            assert etag
            assert [fs.info(path)["etag"] for _ in range(3)] == [etag] * 3
            fs.cat_file(path)
            fs.pipe_file(f"{root}/other", data)
            assert fs.info(path)["etag"] == etag
            seen.append(etag)
        assert len(set(seen)) == len(seen)

    @needs("write", "etag", "list")
    def test_etag_in_listings(self, fs: AbstractFileSystem, root: str) -> None:
        """``ls`` and ``find`` tell the same etag as ``info``."""
        fs.pipe_file(f"{root}/d/o", b"1")
        etag = fs.info(f"{root}/d/o")["etag"]
        assert fs.ls(f"{root}/d", detail=True)[0]["etag"] == etag
        assert [info["etag"] for info in fs.find(root, detail=True).values()] == [etag]

    @needs("write", "mtime")
    def test_times(self, fs: AbstractFileSystem, root: str) -> None:
        """``modified`` is an aware time close to now and never runs back."""
        path = f"{root}/o"
        last = dt.datetime.min.replace(tzinfo=dt.UTC)
        for data in (b"1", b"22", b"333"):
            before = dt.datetime.now(dt.UTC)
            fs.pipe_file(path, data)
            modified = fs.modified(path)
            assert modified.tzinfo is not None
            assert before - CLOCK_SLACK <= modified
            assert modified <= dt.datetime.now(dt.UTC) + CLOCK_SLACK
            assert modified >= last
            assert fs.info(path)["mtime"] is not None
            last = modified
        try:
            created = fs.created(path)
        except NotImplementedError:
            return
        assert created.tzinfo is not None
        assert created <= last + CLOCK_SLACK

    @needs("write")
    @pytest.mark.parametrize("verb", ["ukey", "checksum"])
    def test_version_keys(self, fs: AbstractFileSystem, root: str, verb: str) -> None:
        """``ukey`` and ``checksum`` tell versions apart and stay while nothing changes."""
        path = f"{root}/o"
        fs.pipe_file(path, b"one")
        try:
            first = getattr(fs, verb)(path)
        except NotImplementedError:
            pytest.skip(f"{verb} is not implemented, which fsspec allows")
        assert getattr(fs, verb)(path) == first
        fs.pipe_file(path, b"other")
        assert getattr(fs, verb)(path) != first

    def test_sign(self, fs: AbstractFileSystem, root: str) -> None:
        """``sign`` gives a URL, or says that it cannot."""
        self.put_raw(fs, f"{root}/o", b"1")
        try:
            url = fs.sign(f"{root}/o", expiration=60)
        except NotImplementedError:
            pytest.skip("sign is not implemented, which fsspec allows")
        assert "://" in url

    @needs("write", "exclusive_create")
    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    def test_create_mode(self, fs: AbstractFileSystem, root: str, how: str) -> None:
        """``mode="create"`` creates what is missing, and only that."""
        path = f"{root}/d/o"
        self.call(fs, how, "pipe_file", path, b"first", mode="create")
        with pytest.raises(FileExistsError) as caught:
            self.call(fs, how, "pipe_file", path, b"second", mode="create")
        known = "errno" in self.capabilities
        assert_os_error(caught.value, errno.EEXIST, "o", errno_known=known)
        assert self.get_raw(fs, path) == b"first"
        self.call(fs, how, "pipe_file", path, b"third", mode="overwrite")
        assert self.get_raw(fs, path) == b"third"
        fs.rm_file(path)
        self.call(fs, how, "pipe_file", path, b"fourth", mode="create")
        assert self.get_raw(fs, path) == b"fourth"

    @needs("write", "exclusive_create")
    @pytest.mark.parametrize("how", ["sync", "foreign loop", "xb"])
    def test_one_creator_wins(self, fs: AbstractFileSystem, root: str, how: str) -> None:
        """Of many creators at one time one wins, and its bytes are the object."""

        def create(path: str, data: bytes) -> None:
            if how == "xb":
                with fs.open(path, "xb") as f:
                    f.write(data)
            else:
                self.call(fs, how, "pipe_file", path, data, mode="create")

        for n_round in range(5):
            path = f"{root}/{n_round}/o"
            winners = self._race(functools.partial(create, path))
            assert len(winners) == 1
            assert_same(self.get_raw(fs, path), winners[0])

    def _race(self, create: Callable[[bytes], None]) -> list[bytes]:
        """Let all workers create at one moment; return the data of those that could."""
        barrier = threading.Barrier(self.n_workers)

        def work(worker: int) -> bytes | None:
            data = bytes([worker]) * (1000 + worker)
            barrier.wait(timeout=60)
            try:
                create(data)
            except FileExistsError:
                return None
            return data

        with ThreadPoolExecutor(self.n_workers) as pool:
            return [data for data in pool.map(work, range(self.n_workers)) if data is not None]

    @needs("write", "conditional")
    @pytest.mark.parametrize("read_before", [False, True])
    def test_reader_of_a_replaced_object(
        self, fs: AbstractFileSystem, root: str, *, read_before: bool
    ) -> None:
        """A reader opened before the replacement reads one version, or raises."""
        path = f"{root}/o"
        for n_bytes in (10, 100_000, LARGE_BYTES):
            for new in (b"n" * n_bytes, b"n" * (n_bytes // 2), b"n" * (2 * n_bytes)):
                fs.pipe_file(path, b"o" * n_bytes)
                with fs.open(path, "rb") as f:
                    got = f.read(n_bytes // 3) if read_before else b""
                    fs.pipe_file(path, new)
                    try:
                        got += f.read()
                    except FileNotFoundError:
                        raise
                    except OSError:
                        continue
                    assert_same(got, new if got == new else b"o" * n_bytes)

    @needs("write", "conditional", "delete")
    def test_reader_of_a_removed_object(self, fs: AbstractFileSystem, root: str) -> None:
        """A reader opened before the removal reads the object, or raises."""
        path = f"{root}/o"
        fs.pipe_file(path, b"o" * 100_000)
        with fs.open(path, "rb") as f:
            got = f.read(10)
            fs.rm_file(path)
            try:
                got += f.read()
            except OSError:
                return
        assert_same(got, b"o" * 100_000)
