"""What many threads and coroutines may do at one time.

Races inside one process live here; other processes are in ``pickling``.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fsspec import AbstractFileSystem

from vfs.testing.conformance.base import Conformance, assert_same, needs, relative
from vfs.testing.conformance.read import pattern

__all__ = ["ConcurrencyConformance"]

N_ROUNDS = 10


def version(worker: int, n_round: int) -> bytes:
    """Content that tells who wrote it, and whether it is whole."""
    mark = bytes([worker, n_round])
    return mark * (3000 + 700 * worker + n_round)


def assert_whole(data: bytes) -> None:
    """Check that the bytes are one version from begin to end."""
    assert_same(data, version(data[0], data[1]))


class ConcurrencyConformance(Conformance):
    """The bytes read are always those of one version that was written."""

    def _all(self, work: Callable[[int], None]) -> None:
        """Run ``work`` in every thread at one moment, and raise what was raised."""
        barrier = threading.Barrier(self.n_workers)

        def start(worker: int) -> None:
            barrier.wait(timeout=60)
            work(worker)

        with ThreadPoolExecutor(self.n_workers) as pool:
            for done in [pool.submit(start, worker) for worker in range(self.n_workers)]:
                done.result(timeout=120)

    @needs("write")
    def test_threads_with_keys_of_their_own(self, fs: AbstractFileSystem, root: str) -> None:
        """Every thread reads back what it wrote, each time."""

        def work(worker: int) -> None:
            path = f"{root}/{worker % 4}/{worker}"
            for n_round in range(N_ROUNDS):
                fs.pipe_file(path, version(worker, n_round))
                assert_same(fs.cat_file(path), version(worker, n_round))
                assert fs.cat_file(path, start=2, end=4) == bytes([worker, n_round])
                assert fs.size(path) == len(version(worker, n_round))

        self._all(work)

    @needs("write")
    def test_threads_with_one_key(self, fs: AbstractFileSystem, root: str) -> None:
        """Whoever reads, by whatever way, reads one whole version."""
        path = f"{root}/o"
        fs.pipe_file(path, version(0, 0))

        def work(worker: int) -> None:
            for n_round in range(N_ROUNDS):
                if worker % 2:
                    fs.pipe_file(path, version(worker, n_round))
                assert_whole(fs.cat_file(path))
                head = fs.cat_file(path, start=0, end=2)
                assert len(head) == 2
                assert head[0] < self.n_workers

        self._all(work)
        assert_whole(self.get_raw(fs, path))

    @needs("write", "conditional")
    def test_readers_of_one_key_being_written(self, fs: AbstractFileSystem, root: str) -> None:
        """A file object read in pieces gives one version, or raises."""
        path = f"{root}/o"
        fs.pipe_file(path, version(1, 0))

        def work(worker: int) -> None:
            for n_round in range(N_ROUNDS):
                if worker % 4 == 0:
                    with fs.open(path, "wb") as f:
                        f.write(version(worker, n_round))
                    continue
                try:
                    with fs.open(path, "rb") as f:
                        data = b"".join(iter(functools.partial(f.read, 1000), b""))
                except FileNotFoundError:
                    raise
                except OSError:
                    continue
                assert_whole(data)

        self._all(work)

    @needs("write")
    def test_threads_with_many_readers(self, fs: AbstractFileSystem, root: str) -> None:
        """One object read by all threads, whole and in ranges."""
        content = pattern(1 << 20)
        self.put_raw(fs, f"{root}/o", content)

        def work(worker: int) -> None:
            with fs.open(f"{root}/o", "rb") as f:
                for n_round in range(N_ROUNDS):
                    start = (worker * 65_537 + n_round * 9_973) % len(content)
                    got = fs.cat_file(f"{root}/o", start=start, end=start + 5000)
                    assert_same(got, content[start : start + 5000])
                    f.seek(start)
                    assert_same(f.read(100), content[start : start + 100])

        self._all(work)

    @needs("write", "foreign_loop")
    @pytest.mark.parametrize("same_key", [False, True])
    def test_coroutines(self, fs: AbstractFileSystem, root: str, *, same_key: bool) -> None:
        """Coroutines of one foreign loop, with a key each or one for all."""
        if not fs.async_impl:
            pytest.skip("the filesystem has no coroutines")

        async def work(worker: int) -> None:
            path = f"{root}/{0 if same_key else worker}"
            for n_round in range(N_ROUNDS):
                await fs._pipe_file(path, version(worker, n_round))
                data = await fs._cat_file(path)
                assert_whole(data)
                if not same_key:
                    assert_same(data, version(worker, n_round))

        async def main() -> None:
            await asyncio.gather(*(work(worker) for worker in range(self.n_workers)))

        self.await_here(main)
        assert_whole(self.get_raw(fs, f"{root}/0"))

    @needs("write", "foreign_loop")
    def test_many_loops(self, fs: AbstractFileSystem, root: str) -> None:
        """Each thread with a loop of its own, all on one filesystem and one key."""
        if not fs.async_impl:
            pytest.skip("the filesystem has no coroutines")

        def work(worker: int) -> None:
            async def main() -> None:
                for n_round in range(N_ROUNDS):
                    await fs._pipe_file(f"{root}/o", version(worker, n_round))
                    assert_whole(await fs._cat_file(f"{root}/o"))
                    assert_whole(fs.cat_file(f"{root}/o"))  # as a notebook's cell would

            asyncio.run(main())

        self._all(work)

    @needs("write", "list", "delete")
    def test_listing_beside_changes(self, fs: AbstractFileSystem, root: str) -> None:
        """Names that stay are in every listing while others come and go."""
        staying = [f"d/stay{i}" for i in range(20)]
        self.fill(fs, root, dict.fromkeys(staying, b"1"))

        def work(worker: int) -> None:
            for n_round in range(N_ROUNDS):
                path = f"{root}/d/{worker}-{n_round}"
                if worker % 2:
                    fs.pipe_file(path, b"1")
                    fs.rm_file(path)
                else:
                    seen = relative(fs, root, fs.find(root))
                    assert len(seen) == len(set(seen))
                    assert set(staying) <= set(seen)
                    assert set(staying) <= set(relative(fs, root, fs.ls(f"{root}/d", detail=False)))

        self._all(work)
        assert relative(fs, root, fs.find(root)) == sorted(staying)

    @needs("write", "delete")
    def test_writers_beside_removers(self, fs: AbstractFileSystem, root: str) -> None:
        """A reader finds one whole version or nothing; nothing else is raised."""
        path = f"{root}/d/o"

        def work(worker: int) -> None:
            for n_round in range(N_ROUNDS):
                try:
                    if worker % 3 == 0:
                        fs.pipe_file(path, version(worker, n_round))
                    elif worker % 3 == 1:
                        assert_whole(fs.cat_file(path))
                    else:
                        fs.rm_file(path)
                except FileNotFoundError:
                    assert worker % 3 != 0
                    continue

        self._all(work)
