"""S3 clients at a real server that fails: right bytes or an error with an errno, nothing left over.

``obs3`` and s3fs, the latter as wrappers use it. A proxy in front of SeaweedFS spoils requests.
"""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from vfs.backends.obstore.base import UPLOAD_PART_BYTES
from vfs.backends.obstore.filesystem import S3FileSystem
from vfs.backends.obstore.reads import PART_BYTES
from vfs.core.chained import WrapperFileSystem
from vfs.errors import ConflictError, ThrottledError, UnavailableError
from vfs.testing.faultproxy import FaultProxy
from vfs.testing.stores import SeaweedServer

pytestmark = pytest.mark.server

DATA = bytes(range(256)) * 4096  # 1 MiB
#: More than one part of an upload for either client.
LARGE_BYTES = 2 * UPLOAD_PART_BYTES + 5
#: More than either client tries.
ALWAYS = 1000


class Through(WrapperFileSystem):
    """A layer that adds nothing: what tiers and caches make of a filesystem."""

    protocol = "through"


def obs3(url: str, seaweed: SeaweedServer, **options: Any) -> Any:
    retry = {
        "max_retries": 3,
        "backoff": {"init_backoff": 0.001, "max_backoff": 0.01, "base": 2},
    }
    given = {**seaweed.storage_options, "endpoint_url": url, "retry_config": retry}
    return S3FileSystem(**given, **options, skip_instance_cache=True)


def s3fs(url: str, seaweed: SeaweedServer, **options: Any) -> Any:
    pytest.importorskip("s3fs", reason="s3fs is the client of this test")
    given = {
        **seaweed.storage_options,
        "endpoint_url": url,
        "use_listings_cache": False,
        "skip_instance_cache": True,
        # Both s3fs and botocore repeat requests, not the same ones; as often as they do by
        # themselves, a dead server takes minutes.
        "config_kwargs": {"retries": {"total_max_attempts": 2}},
    }
    fs = fsspec.filesystem("s3", **{**given, **options})
    fs.retries = 2
    fs.default_block_size = PART_BYTES
    fs._pipe_file = functools.partial(fs._pipe_file, chunksize=UPLOAD_PART_BYTES // 2)
    fs._put_file = functools.partial(fs._put_file, chunksize=UPLOAD_PART_BYTES // 2)
    return Through(fs=fs)


ENGINES: dict[str, Callable[..., Any]] = {"obs3": obs3, "s3fs": s3fs}
#: A second in which nothing comes is the end of a request.
TIMEOUTS: dict[str, dict[str, Any]] = {
    "obs3": {"client_options": {"read_timeout": "1s"}},
    "s3fs": {"config_kwargs": {"read_timeout": 1, "retries": {"total_max_attempts": 2}}},
}


@pytest.fixture
def proxy(seaweed: SeaweedServer) -> Iterator[FaultProxy]:
    with FaultProxy(seaweed.endpoint_url) as proxy:
        yield proxy


@pytest.fixture(params=list(ENGINES))
def fs(request: pytest.FixtureRequest, proxy: FaultProxy, seaweed: SeaweedServer) -> Any:
    return ENGINES[request.param](proxy.endpoint_url, seaweed)


@pytest.fixture
def path(seaweed: SeaweedServer) -> str:
    return f"{seaweed.fresh()}/k"


def each(*calls: Callable[[], Any]) -> tuple[Callable[[], Any], ...]:
    return calls


def left_of(seaweed: SeaweedServer, path: str) -> list[str]:
    """Return the keys of uploads that were begun at a path and neither completed nor aborted."""
    return seaweed.uploads(prefix=path.partition("/")[2])


def present(seaweed: SeaweedServer, path: str) -> bool:
    try:
        seaweed.get(path)
    except FileNotFoundError:
        return False
    return True


# -------------------------------------------------------------------- connections that break


@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_cut_read_is_read_again(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str, after: int, tmp_path: Path
) -> None:
    seaweed.put(path, DATA)
    reads: list[Callable[[], bytes]] = [
        lambda: fs.cat_file(path),
        lambda: fs.cat_file(path, 1000, 900_000),
        lambda: fs.cat_file(path, -900_000),
        lambda: fs.open(path).read(),
        lambda: fs.get_file(path, tmp_path / "k") or (tmp_path / "k").read_bytes(),
    ]
    wanted = [DATA, DATA[1000:900_000], DATA[-900_000:], DATA, DATA]
    for read, expected in zip(reads, wanted, strict=True):
        proxy.cut_next(after, method="GET")
        assert read() == expected
        assert proxy.faults_left() == 0


def test_reads_that_always_break_raise(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str, tmp_path: Path
) -> None:
    seaweed.put(path, DATA)
    proxy.cut_next(1000, method="GET", times=ALWAYS)
    for read in each(
        lambda: fs.cat_file(path),
        lambda: fs.cat_file(path, 0, 500_000),
        lambda: fs.cat_file(path, -500_000),
        lambda: fs.get_file(path, tmp_path / "k"),
    ):
        with pytest.raises(UnavailableError) as caught:
            read()
        assert caught.value.errno == errno.EHOSTUNREACH
    assert list(tmp_path.iterdir()) == [], "no part of a file is left"


def test_cut_listing_is_whole_or_an_error(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str
) -> None:
    names = [f"{path}/{n:04}" for n in range(1100)]
    obs3(seaweed.endpoint_url, seaweed).pipe(dict.fromkeys(names, b"1"))
    for skip in (0, 1):
        proxy.cut_next(500, kind="list", skip=skip)
        try:
            found = fs.find(path)
        except UnavailableError:
            found = names
        assert found == names
        assert proxy.faults_left() == 0
        proxy.reset()
    proxy.cut_next(500, kind="list", times=ALWAYS)
    for listing in (fs.find, fs.ls):
        with pytest.raises(UnavailableError) as caught:
            listing(path)
        assert caught.value.errno == errno.EHOSTUNREACH


@pytest.mark.parametrize("old", [None, b"old"])
def test_cut_write_is_written_again_or_nothing_changes(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str, old: bytes | None
) -> None:
    if old is not None:
        seaweed.put(path, old)
    proxy.cut_request_next(100_000, method="PUT", times=ALWAYS)
    with pytest.raises(UnavailableError) as caught:
        fs.pipe_file(path, DATA)
    assert caught.value.errno == errno.EHOSTUNREACH
    assert present(seaweed, path) == (old is not None)
    assert old is None or seaweed.get(path) == old
    proxy.reset()
    proxy.cut_request_next(100_000, method="PUT")
    fs.pipe_file(path, DATA)
    assert proxy.faults_left() == 0
    assert seaweed.get(path) == DATA


def test_write_whose_answer_is_lost(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str
) -> None:
    proxy.lose_next(method="PUT")
    fs.pipe_file(path, DATA)
    assert proxy.faults_left() == 0
    assert seaweed.get(path) == DATA


def writes(fs: Any, path: str, data: bytes, folder: Path) -> Iterator[Callable[[], None]]:
    """Yield the ways to write a large object."""
    (folder / "local").write_bytes(data)

    def write() -> None:
        with fs.open(path, "wb") as file:
            file.write(data)

    yield lambda: fs.pipe_file(path, data)
    yield lambda: fs.put_file(folder / "local", path)
    yield write


def test_cut_upload_in_parts_is_gone_on_with(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str, tmp_path: Path
) -> None:
    data = os.urandom(LARGE_BYTES)
    for write in writes(fs, path, data, tmp_path):
        proxy.cut_request_next(1 << 20, method="PUT")
        write()
        assert proxy.faults_left() == 0
        assert seaweed.get(path) == data
        assert left_of(seaweed, path) == []
        seaweed.delete(path)


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_upload_in_parts_that_always_breaks_leaves_nothing(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str, tmp_path: Path, skip: int
) -> None:
    data = os.urandom(LARGE_BYTES)
    for write in writes(fs, path, data, tmp_path):
        proxy.reset()
        proxy.cut_request_next(1 << 20, method="PUT", skip=skip, times=ALWAYS)
        try:
            write()
        except UnavailableError:
            assert not present(seaweed, path)
        else:
            assert seaweed.get(path) == data  # it was one request, and that passed
            seaweed.delete(path)
        assert left_of(seaweed, path) == []


@pytest.mark.parametrize("method,skip", [("POST", 0), ("PUT", 0), ("PUT", 1), ("POST", 1)])
def test_upload_in_parts_whose_answer_is_lost(
    fs: Any,
    proxy: FaultProxy,
    seaweed: SeaweedServer,
    path: str,
    method: str,
    skip: int,
    tmp_path: Path,
) -> None:
    data = os.urandom(LARGE_BYTES)
    for write in writes(fs, path, data, tmp_path):
        proxy.reset()
        proxy.lose_next(method=method, kind="multipart", skip=skip)
        write()
        assert seaweed.get(path) == data
        seaweed.delete(path)
        if (method, skip) != ("POST", 0):  # its name was in that answer: nobody can abort it
            assert left_of(seaweed, path) == []


# -------------------------------------------------------------------- answers that are errors


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_failures_are_retried(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str, status: int
) -> None:
    for call in each(
        lambda: fs.pipe_file(path, DATA),
        lambda: fs.cat_file(path),
        lambda: fs.info(path),
        lambda: fs.find(path.rpartition("/")[0]),
    ):
        proxy.fail_next(status, retry_after_s=0)
        call()
        assert proxy.faults_left() == 0
    assert seaweed.get(path) == DATA


@pytest.mark.parametrize(
    "status,error,code",
    [
        (403, PermissionError, errno.EACCES),
        (429, ThrottledError, errno.EBUSY),
        (500, UnavailableError, errno.EHOSTUNREACH),
        (503, ThrottledError, errno.EBUSY),
    ],
)
def test_lasting_failures_have_an_errno(
    fs: Any,
    proxy: FaultProxy,
    seaweed: SeaweedServer,
    path: str,
    status: int,
    error: type[OSError],
    code: int,
) -> None:
    seaweed.put(path, DATA)
    for call in each(
        lambda: fs.cat_file(path),
        lambda: fs.cat_file(path, -5),
        lambda: fs.info(path),
        lambda: fs.exists(path),
        lambda: fs.find(path.rpartition("/")[0]),
        lambda: fs.pipe_file(path, b"x"),
        lambda: fs.rm_file(path),
        lambda: fs.cp_file(path, f"{path}.copy"),
    ):
        proxy.fail_next(status, retry_after_s=0, times=ALWAYS)
        with pytest.raises(error) as caught:
            call()
        proxy.reset()
        assert caught.value.errno == code
    assert seaweed.get(path) == DATA


def test_failing_request_is_repeated_by_one_layer_only(
    proxy: FaultProxy, seaweed: SeaweedServer, path: str
) -> None:
    """s3fs tries again itself: whoever stands on it must not multiply that."""
    fs = s3fs(proxy.endpoint_url, seaweed)
    tries = 2 * fs.fs.retries  # botocore's, of each of s3fs's
    proxy.fail_next(500, times=ALWAYS)
    with pytest.raises(UnavailableError):
        fs.cat_file(path)
    assert len(proxy.requests("GET")) <= tries


def test_absence_is_what_the_server_says(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str
) -> None:
    seaweed.put(path, DATA)
    for call in each(
        lambda: fs.cat_file(path),
        lambda: fs.info(path),
        lambda: fs.rm_file(path),
        lambda: fs.cp_file(path, f"{path}.copy"),
    ):
        proxy.fail_next(404, times=ALWAYS)
        with pytest.raises(FileNotFoundError) as caught:
            call()
        proxy.reset()
        assert caught.value.errno == errno.ENOENT
    assert seaweed.get(path) == DATA


# -------------------------------------------------------------------- slow answers


@pytest.mark.parametrize("engine", list(ENGINES))
def test_slow_answers(
    engine: str, proxy: FaultProxy, seaweed: SeaweedServer, path: str, tmp_path: Path
) -> None:
    fs = ENGINES[engine](proxy.endpoint_url, seaweed, **TIMEOUTS[engine])
    seaweed.put(path, DATA)
    calls: list[Callable[[], bytes]] = [
        lambda: fs.cat_file(path),
        lambda: fs.get_file(path, tmp_path / "k") or (tmp_path / "k").read_bytes(),
    ]
    if engine == "obs3":  # aiohttp knows no bound for the wait for leave to send a body
        calls.append(lambda: fs.pipe_file(path, DATA) or seaweed.get(path))
    for call in calls:
        proxy.stall_next(30)
        assert call() == DATA
        assert proxy.faults_left() == 0
        proxy.reset()
        proxy.stall_next(30, times=ALWAYS)
        with pytest.raises(OSError) as caught:
            call()
        proxy.reset()
        assert caught.value.errno in {errno.EHOSTUNREACH, errno.ETIMEDOUT}, caught.value
    assert seaweed.get(path) == DATA


# -------------------------------------------------------------------- one version


def versions(seaweed: SeaweedServer, path: str) -> tuple[bytes, bytes]:
    """Store a first version of an object of several parts; return it and another."""
    size = 3 * PART_BYTES
    old, new = b"o" * size, b"n" * size
    seaweed.put(path, old)
    return old, new


@pytest.mark.parametrize("way", ["cat_file", "get_file"])
def test_object_replaced_between_two_parts_of_a_read(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str, way: str, tmp_path: Path
) -> None:
    old, new = versions(seaweed, path)
    with proxy.hold_next(method="GET", skip=1) as hold, ThreadPoolExecutor(1) as pool:
        if way == "cat_file":
            done = pool.submit(fs.cat_file, path)
        else:
            done = pool.submit(fs.get_file, path, tmp_path / "k")
        hold.wait_arrived()
        seaweed.put(path, new)
        hold.release()
        found = done.result()
    found = found if way == "cat_file" else (tmp_path / "k").read_bytes()
    assert found in {old, new}, "a mixture of two versions"


def test_object_deleted_between_two_parts_of_a_read(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str
) -> None:
    versions(seaweed, path)
    with proxy.hold_next(method="GET", skip=1) as hold, ThreadPoolExecutor(1) as pool:
        done = pool.submit(fs.cat_file, path)
        hold.wait_arrived()
        seaweed.delete(path)
        hold.release()
        with pytest.raises(FileNotFoundError):
            done.result()


def test_file_whose_object_is_replaced(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str
) -> None:
    _, new = versions(seaweed, path)
    with fs.open(path) as file:
        assert file.read(10) == b"o" * 10
        seaweed.put(path, new)
        file.seek(2 * PART_BYTES)
        with pytest.raises(ConflictError) as caught:
            file.read(PART_BYTES)
    assert caught.value.errno == errno.ESTALE


def test_ranges_of_a_server_that_tells_another_version(
    proxy: FaultProxy, seaweed: SeaweedServer, path: str
) -> None:
    """A server, or a cache before it, may ignore If-Match: the answer's own tag is compared."""
    fs = obs3(proxy.endpoint_url, seaweed)
    old, _ = versions(seaweed, path)
    proxy.change_etag_next('"other"', method="GET", skip=1)
    assert fs.cat_file(path) == old
    proxy.reset()
    proxy.change_etag_next('"other"', method="GET", skip=1, times=ALWAYS)
    with fs.open(path) as file:
        assert file.read(10) == old[:10]
        file.seek(2 * PART_BYTES)
        with pytest.raises(ConflictError):
            file.read(PART_BYTES)


# -------------------------------------------------------------------- conditional writes


def test_one_of_64_creators_wins(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str
) -> None:
    start = threading.Barrier(64)

    def create(number: int) -> bool:
        start.wait()
        try:
            fs.pipe_file(path, b"%d" % number, mode="create")
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(64) as pool:
        won = list(pool.map(create, range(64)))
    assert won.count(True) == 1
    assert seaweed.get(path) == b"%d" % won.index(True)


@pytest.mark.parametrize("large", [False, True])
def test_create_of_what_is_there(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str, large: bool, tmp_path: Path
) -> None:
    data = os.urandom(LARGE_BYTES if large else 1000)
    (tmp_path / "local").write_bytes(data)
    fs.pipe_file(path, data, mode="create")
    assert seaweed.get(path) == data
    for call in each(
        lambda: fs.pipe_file(path, data[::-1], mode="create"),
        lambda: fs.put_file(tmp_path / "local", path, mode="create"),
    ):
        with pytest.raises(FileExistsError) as caught:
            call()
        assert caught.value.errno == errno.EEXIST
    assert seaweed.get(path) == data
    assert left_of(seaweed, path) == []


@pytest.mark.parametrize("status", [409, 412, 500])
def test_create_that_the_server_refuses(
    fs: Any, proxy: FaultProxy, seaweed: SeaweedServer, path: str, status: int
) -> None:
    proxy.fail_next(status, method="PUT", times=ALWAYS)
    with pytest.raises(OSError) as caught:
        fs.pipe_file(path, DATA, mode="create")
    assert caught.value.errno
    assert isinstance(caught.value, FileExistsError) or status != 412
    assert not present(seaweed, path)


@pytest.mark.parametrize("size", [10, LARGE_BYTES])
def test_replace_if_unchanged(
    proxy: FaultProxy, seaweed: SeaweedServer, path: str, size: int
) -> None:
    fs = obs3(proxy.endpoint_url, seaweed)
    first, second = os.urandom(size), os.urandom(size)
    fs.pipe_file(path, first)
    etag = fs.info(path)["etag"]
    with fs.open(path, "r+b") as file:
        file.write(second)
        seaweed.put(path, b"others")
        with pytest.raises(ConflictError) as caught:
            file.commit()
        assert caught.value.errno == errno.ESTALE
        file.discard()
    assert seaweed.get(path) == b"others"
    with fs.open(path, "r+b") as file:
        file.write(second)
    assert seaweed.get(path) == second
    assert fs.info(path)["etag"] != etag
    assert left_of(seaweed, path) == []
