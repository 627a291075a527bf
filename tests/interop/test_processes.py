"""Filesystems, files and stores in other processes: forked, spawned, fresh, and a dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from fsspec import AbstractFileSystem
from interop.conftest import Place
from interop.data import earthquakes, ostia, temperature
from numpy.testing import assert_array_equal
from zarr.storage import FsspecStore

_CHILD_S = 60


@pytest.fixture(params=["disk", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A tier that other processes can open."""
    if request.param == "disk":
        place: Place = request.getfixturevalue("tier_place")
        return place
    place = request.getfixturevalue("s3_place")
    # Not by the environment: that of a forkserver is of the first test that needed one.
    secret = tmp_path / "secret"
    secret.write_text("testing")
    secret.chmod(0o600)
    place.options["s3"] |= {name: {"file": str(secret)} for name in ("key", "secret")}
    return place


def over(*places: str) -> pytest.MarkDecorator:
    marks = {"s3": pytest.mark.server}
    params = [pytest.param(place, marks=marks.get(place, ())) for place in places]
    return pytest.mark.parametrize("shared", params, indirect=True)


def in_child(work: Callable[[], object]) -> None:
    """Run in a forked child, without multiprocessing's help."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:  # noqa: BLE001 - reported to the parent by the exit code
            sys.stderr.write(f"{error!r}\n")
        finally:
            sys.stderr.flush()
            os._exit(code)
    killer = threading.Timer(_CHILD_S, os.kill, (pid, signal.SIGKILL))
    killer.start()
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        killer.cancel()
        killer.join()


def exercise(fs: AbstractFileSystem, path: str, name: str) -> None:
    """Read what the parent wrote, hot and cold; write, list, and remove."""
    assert fs.cat_file(f"{path}/o") == b"parent"
    fs.evict(f"{path}/o")
    assert fs.cat_file(f"{path}/o") == b"parent"
    with fs.open(f"{path}/o") as file:
        assert file.read() == b"parent"
    fs.pipe_file(f"{path}/{name}", name.encode())
    assert fs.cat_file(f"{path}/{name}") == name.encode()
    fs.pipe_file(f"{path}/{name}-gone", b"1")
    fs.rm_file(f"{path}/{name}-gone")
    assert f"{path}/{name}" in fs.find(path)


@over("disk", "s3")
def test_fork_after_use(shared: Place) -> None:
    fs, path = shared.fs, shared.path("d")
    fs.pipe_file(f"{path}/o", b"parent")
    exercise(fs, path, "before")
    for n in range(3):
        in_child(lambda n=n: exercise(fs, path, f"child{n}"))  # type: ignore[misc]
        exercise(fs, path, f"parent{n}")
    found = [f"{path}/{who}{n}" for who in ("child", "parent") for n in range(3)]
    assert fs.find(path) == sorted([*found, f"{path}/before", f"{path}/o"])
    assert fs.cat_file(f"{path}/child1") == b"child1"


@over("disk", "s3")
def test_fork_while_the_loop_runs(shared: Place) -> None:
    """The child must not inherit a lock, a connection or a loop that the parent is using."""
    fs, path = shared.fs, shared.path("d")
    fs.pipe_file(f"{path}/o", b"parent")
    stop = threading.Event()
    failed: list[BaseException] = []

    def busy(n: int) -> None:
        try:
            while not stop.is_set():
                exercise(fs, path, f"busy{n}")
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            failed.append(error)

    threads = [threading.Thread(target=busy, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        for n in range(5):
            in_child(lambda n=n: exercise(fs, path, f"child{n}"))  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join(_CHILD_S)
    assert not any(thread.is_alive() for thread in threads)
    assert not failed
    assert all(fs.cat_file(f"{path}/child{n}") == f"child{n}".encode() for n in range(5))


@over("disk", "s3")
def test_zarr_in_a_forked_child(shared: Place) -> None:
    url, options = f"{shared.url}/a.zarr", shared.options
    zarr.create_array(url, data=temperature(), chunks=(9, 18, 108), storage_options=options)
    assert_array_equal(zarr.open_array(url, mode="r", storage_options=options)[0], temperature()[0])

    def work() -> None:
        shared.fs.evict(shared.path("a.zarr"), recursive=True)
        table = earthquakes()
        table.to_parquet(f"{shared.url}/t.parquet", storage_options=options)
        read = zarr.open_array(url, mode="r", storage_options=options)
        assert_array_equal(read[:], temperature())

    # zarr has a loop and threads of its own, which it makes again in a child since 3.0.
    in_child(work)
    assert_array_equal(zarr.open_array(url, mode="r", storage_options=options)[:], temperature())
    again = pd.read_parquet(f"{shared.url}/t.parquet", storage_options=options)
    pd.testing.assert_frame_equal(again, earthquakes())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@over("disk", "s3")
def test_multiprocessing_pool(shared: Place, method: str) -> None:
    fs, path = shared.fs, shared.path("d")
    keys = [f"{path}/{n}" for n in range(8)]
    fs.pipe({key: key.encode() for key in keys})
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(fs.cat_file, keys, chunksize=1) == [key.encode() for key in keys]
        pool.starmap(fs.pipe_file, [(key, b"new") for key in keys], chunksize=1)
    assert fs.cat(keys) == dict.fromkeys(keys, b"new")


def fresh(code: str, *pickled: object) -> str:
    """Run code in a process that knows nothing; ``load()`` gives it the next object."""
    head = (
        "import pickle, sys\n"
        "assert not any(name.split('.')[0] in ('vfs', 'fsspec', 'zarr') for name in sys.modules)\n"
        "load = lambda: pickle.load(sys.stdin.buffer)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", head + code],
        input=b"".join(pickled),  # type: ignore[arg-type]
        capture_output=True,
        timeout=_CHILD_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout.decode().strip()


DUMPS = pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps], ids=["std", "cloud"])


@DUMPS
@over("disk", "s3")
def test_pickled_filesystem(shared: Place, dumps: Callable[[object], bytes]) -> None:
    fs, path = shared.fs, shared.path("d/o")
    fs.pipe_file(path, b"hello")
    assert pickle.loads(dumps(fs)) is fs
    code = "fs, path = load(); print(fs.cat_file(path).decode(), fs.fsid)"
    assert fresh(code, dumps((fs, path))) == f"hello {fs.fsid}"


@DUMPS
@over("disk", "s3")
def test_pickled_reader(shared: Place, dumps: Callable[[object], bytes]) -> None:
    fs, path = shared.fs, shared.path("o")
    fs.pipe_file(path, bytes(range(100)))
    with fs.open(path) as file:
        assert file.read(10) == bytes(range(10))
        sent = dumps(file)
        with pickle.loads(sent) as again:
            assert again.tell() == 10
            assert again.read() == bytes(range(10, 100))
        assert file.read(1) == b"\n"
    assert (
        fresh("f = load(); print(f.tell(), list(f.read(3))); f.close()", sent) == "10 [10, 11, 12]"
    )


@pytest.mark.slow
@DUMPS
@over("disk", "s3")
def test_pickled_zarr_and_xarray(shared: Place, dumps: Callable[[object], bytes]) -> None:
    url, options = f"{shared.url}/d.zarr", shared.options
    ostia().to_zarr(url, storage_options=options)
    store = FsspecStore.from_url(url, storage_options=options)
    array: Any = zarr.open_array(store, path="surface_temperature", mode="r")
    assert_array_equal(pickle.loads(dumps(array))[3], array[3])
    assert pickle.loads(dumps(store)) == store
    code = "import numpy; print(float(numpy.nansum(load()[3])))"
    assert float(fresh(code, dumps(array))) == float(np.nansum(array[3]))
    with xr.open_zarr(url, storage_options=options) as dataset:
        sent = dumps(dataset)
        xr.testing.assert_identical(pickle.loads(sent).load(), ostia())
        mean = float(dataset["surface_temperature"].mean())
    assert float(fresh("print(float(load()['surface_temperature'].mean()))", sent)) == mean


@pytest.mark.slow
@pytest.mark.parametrize(
    "shared", ["disk", pytest.param("s3", marks=pytest.mark.server)], indirect=True
)
def test_dask_cluster(shared: Place, tmp_path: Path) -> None:
    """Workers find the protocols by entry points: nobody tells them to import vfs."""
    distributed: Any = pytest.importorskip("distributed")
    url, options = f"{shared.url}/a.zarr", shared.options
    array = da.from_array(temperature(), chunks=(9, 18, 108))
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            processes=True,
            dashboard_address="127.0.0.1:0",  # None takes 8787, which another may have
            local_directory=str(tmp_path / "dask"),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        loaded = client.run(lambda: "vfs" in __import__("sys").modules)
        assert list(loaded.values()) == [False, False]
        array.to_zarr(url, storage_options=options)
        assert_array_equal(
            zarr.open_array(url, mode="r", storage_options=options)[:], temperature()
        )
        for _ in range(2):
            read = da.from_zarr(url, storage_options=options)
            assert_array_equal(read.compute(), temperature())
        shared.fs.evict(shared.path("a.zarr"), recursive=True)
        mean = da.from_zarr(url, storage_options=options).mean(axis=0).compute()
        assert_array_equal(mean, array.mean(axis=0).compute())
        fs, path = shared.fs, shared.path("o")
        fs.pipe_file(path, b"1")
        futures = client.map(fs.cat_file, [path] * 4, pure=False)
        assert client.gather(futures) == [b"1"] * 4
        loaded = client.run(lambda: "vfs" in __import__("sys").modules)
        assert list(loaded.values()) == [True, True]
