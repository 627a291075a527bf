"""``obs3://`` at a real S3 server: requests, conditions, faults, names, forks and secrets."""

from __future__ import annotations

import asyncio
import errno
import json
import multiprocessing
import os
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import fsspec
import numpy as np
import pandas as pd
import pytest

from vfs.backends.obstore.base import UPLOAD_PART_BYTES
from vfs.backends.obstore.filesystem import S3FileSystem
from vfs.backends.obstore.reads import PART_BYTES
from vfs.errors import (
    ConfigError,
    ConflictError,
    ThrottledError,
    UnavailableError,
    UnsupportedError,
)
from vfs.testing.servers import S3Server

DATA = bytes(range(256)) * 16
#: Retries at once, so that a test of a dead server takes no seconds.
QUICK: dict[str, Any] = {
    "max_retries": 2,
    "backoff": {"init_backoff": 0.001, "max_backoff": 0.005, "base": 2},
}


def big(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.make_bucket(f"obs-{uuid.uuid4().hex}")


@pytest.fixture
def fs(s3: S3Server) -> S3FileSystem:
    return S3FileSystem(**s3.storage_options, retry_config=QUICK)


def asked(s3: S3Server) -> list[str]:
    return [record.method for record in s3.requests()]


# -------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    "start,end,requests",
    [
        (None, None, ["GET"]),
        (10, 20, ["GET"]),
        (10, None, ["GET"]),
        (None, 20, ["GET"]),
        (-20, None, ["GET"]),
        (4000, 99_999, ["GET"]),
        (20, 20, []),
        (10, -10, ["HEAD", "GET"]),
        (-20, -10, ["HEAD", "GET"]),
    ],
)
def test_a_range_is_one_request(
    fs: S3FileSystem, s3: S3Server, bucket: str, start: Any, end: Any, requests: list[str]
) -> None:
    s3.put(f"{bucket}/k", DATA)
    s3.reset()
    assert fs.cat_file(f"{bucket}/k", start, end) == DATA[start:end]
    assert asked(s3) == requests


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 300_000])
def test_opening_a_table_brings_its_end(
    fs: S3FileSystem, s3: S3Server, bucket: str, size: int
) -> None:
    data = big(size)
    s3.put(f"{bucket}/t.parquet", data)
    s3.reset()
    with fs.open(f"{bucket}/t.parquet") as file:
        assert file.size == size
        assert file.details == fs.info(f"{bucket}/t.parquet")
        assert asked(s3) == ["GET", "HEAD"], "the second is of the info for comparison"
        file.seek(-min(size, 65_536), 2)
        assert file.read(70_000) == data[-65_536:]
        file.seek(max(0, size - 100))
        assert file.read(50) == data[-100:][:50]
        assert len(asked(s3)) == 2
        file.seek(0)
        assert file.read() == data
        assert len(asked(s3)) == 2 + (size > 65_536)


def test_table_replaced_after_opening_is_a_conflict(
    fs: S3FileSystem, s3: S3Server, bucket: str
) -> None:
    data = big(200_000)
    s3.put(f"{bucket}/t.parquet", data)
    with fs.open(f"{bucket}/t.parquet") as file:
        s3.put(f"{bucket}/t.parquet", big(200_000, seed=1))
        file.seek(-1000, 2)
        assert file.read() == data[-1000:], "what came when it was opened"
        file.seek(0)
        with pytest.raises(ConflictError):
            file.read(1000)


def test_buffers_are_those_that_the_client_got(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    """25 MB of columns took half as long again while they were copied on the I/O loop."""
    data = big(20 << 20)
    s3.put(f"{bucket}/o", data)
    with fs.open(f"{bucket}/o") as file:
        file.seek(100)
        found = file.read_buffer(1 << 20)
        assert isinstance(found, memoryview)
        assert type(found.obj).__module__.startswith("obstore")
        assert found == data[100 : 100 + (1 << 20)]
        file.seek(5)
        assert file.read_buffer(len(data)) == data[5:], "in parts, which have to be joined"
        assert file.tell() == len(data)
        s3.put(f"{bucket}/o", big(20 << 20, seed=1))
        file.seek(0)  # of what is held already, the version that was opened is given
        with pytest.raises(ConflictError):
            file.read_buffer(1 << 20)


@pytest.mark.parametrize("name", ["t.parquet", "none.parquet", "dir.parquet", "empty.parquet"])
def test_opening_what_is_no_table(fs: S3FileSystem, s3: S3Server, bucket: str, name: str) -> None:
    s3.put(f"{bucket}/t.parquet/below", b"1")
    s3.put(f"{bucket}/dir.parquet/below", b"1")
    s3.put(f"{bucket}/t.parquet", b"an object, too")
    s3.put(f"{bucket}/empty.parquet", b"")
    try:
        found = fs.open(f"{bucket}/{name}").read()
    except OSError as error:
        found = (type(error), error.errno)
    expected: dict[str, Any] = {
        "t.parquet": b"an object, too",
        "none.parquet": (FileNotFoundError, errno.ENOENT),
        "dir.parquet": (IsADirectoryError, errno.EISDIR),
        "empty.parquet": b"",
    }
    assert found == expected[name]


def test_read_parquet_asks_no_more_than_this(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    table = pd.DataFrame({"a": range(1000), "b": 0.5})
    fs.pipe_file(f"{bucket}/t.parquet", table.to_parquet())
    s3.reset()
    assert pd.read_parquet(f"{bucket}/t.parquet", filesystem=fs).equals(table)
    # pyarrow asks three times whether it is a file (4 in version 22), and opens it twice.
    assert asked(s3).count("HEAD") <= 4
    assert asked(s3).count("GET") == 2, "a small table comes with its end"


def test_absence_is_one_request(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        fs.cat_file(f"{bucket}/none")
    assert caught.value.errno == errno.ENOENT
    assert asked(s3) == ["GET"]


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1])
def test_sizes_around_a_part(fs: S3FileSystem, s3: S3Server, bucket: str, size: int) -> None:
    data = big(size)
    s3.put(f"{bucket}/k", data)
    s3.reset()
    assert fs.cat_file(f"{bucket}/k") == data
    assert len(s3.requests()) == (2 if size in {0, PART_BYTES + 1} else 1)
    assert fs.cat_file(f"{bucket}/k", size - 1) == data[size - 1 :]
    assert fs.cat_file(f"{bucket}/k", size) == b""
    assert fs.cat_file(f"{bucket}/k", -size - 1) == data
    with fs.open(f"{bucket}/k") as file:
        assert file.read() == data


def test_large_object_in_parallel_parts(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    data = big(5 * PART_BYTES + 17)
    s3.put(f"{bucket}/k", data)
    s3.reset()
    s3.set_latency(0.2)
    try:
        assert fs.cat_file(f"{bucket}/k") == data
    finally:
        s3.set_latency(0)
    assert s3.gets() == 6
    assert s3.most_in_flight() >= 5, "all but the first, which tells how many there are"
    assert s3.sent_bytes() == len(data)


def test_many_ranges_share_requests(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    data = big(1 << 20)
    s3.put(f"{bucket}/k", data)
    s3.reset()
    starts = [0, 5_000, 500_000, 510_000]
    ends = [start + 1000 for start in starts]
    found = fs.cat_ranges([f"{bucket}/k"] * 4, starts, ends)
    assert found == [data[low:high] for low, high in zip(starts, ends, strict=True)]
    assert s3.gets() == 2
    s3.reset()
    found = fs.cat_ranges([f"{bucket}/k"] * 3, [-16, 0, 100], [None, 16, 116], max_gap=0)
    assert found == [data[-16:], data[:16], data[100:116]]
    assert s3.gets() == 3


def test_listings_take_a_request_a_thousand_keys(
    fs: S3FileSystem, s3: S3Server, bucket: str
) -> None:
    names = [f"{bucket}/d/{n:04}" for n in range(1200)]
    fs.pipe(dict.fromkeys(names, b"1"))
    s3.put(f"{bucket}/e/x", b"2")
    s3.reset()
    assert fs.find(f"{bucket}/d") == names
    assert fs.find(bucket, withdirs=True, maxdepth=1) == [*(bucket, f"{bucket}/d", f"{bucket}/e")]
    assert asked(s3) == ["GET"] * 4
    s3.reset()
    assert fs.ls(bucket, detail=False) == [f"{bucket}/d", f"{bucket}/e"]
    assert asked(s3) == ["GET"]
    s3.reset()
    fs.rm(f"{bucket}/d", recursive=True)
    assert asked(s3).count("POST") == 2
    assert len(asked(s3)) < 12
    assert fs.find(bucket) == [f"{bucket}/e/x"]


def test_calls_for_many_objects_are_bounded(
    fs: S3FileSystem, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    # The bound is 64; a busy server may count one as under way whose answer has arrived and whose
    # successor is on its way. Without a bound there would be 300.
    most = 2 * 64
    values = {f"{bucket}/{n:03}": b"%d" % n for n in range(300)}
    fs.pipe(values)
    assert s3.most_in_flight() <= most
    assert fs.cat(list(values)) == values
    fs.get(list(values), [str(tmp_path / f"{n:03}") for n in range(300)])
    fs.put([str(tmp_path / f"{n:03}") for n in range(300)], [f"{path}.copy" for path in values])
    assert s3.most_in_flight() <= most
    assert fs.find(bucket) == sorted([*values, *(f"{path}.copy" for path in values)])


# -------------------------------------------------------------------- conditions


def test_one_of_many_creators_wins(fs: S3FileSystem, bucket: str) -> None:
    barrier = threading.Barrier(64)

    def create(number: int) -> int | None:
        barrier.wait()
        try:
            fs.pipe_file(f"{bucket}/lock", str(number).encode(), mode="create")
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(64) as pool:
        winners = [number for number in pool.map(create, range(64)) if number is not None]
    assert len(winners) == 1
    assert fs.cat_file(f"{bucket}/lock") == str(winners[0]).encode()


def test_write_based_on_an_old_version(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    s3.put(f"{bucket}/k", b"one")
    with fs.open(f"{bucket}/k", "ab") as file:
        file.write(b" and")
        s3.put(f"{bucket}/k", b"two")
        with pytest.raises(ConflictError):
            file.commit()
        file.discard()
    assert s3.get(f"{bucket}/k") == b"two"


def test_lost_answer_of_a_create_is_no_success(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    s3.lose_next(method="PUT", times=3)
    with pytest.raises((UnavailableError, FileExistsError)):
        fs.pipe_file(f"{bucket}/k", DATA, mode="create")
    assert s3.get(f"{bucket}/k") == DATA


@pytest.mark.parametrize("if_match", [None, "0" * 32])
def test_conditional_write_is_one_request(
    fs: S3FileSystem, s3: S3Server, bucket: str, tmp_path: Path, if_match: str | None
) -> None:
    """Only the last request of several could carry the condition, and the client sends none."""
    data = big(UPLOAD_PART_BYTES + 1)
    (tmp_path / "k").write_bytes(data)
    condition: dict[str, Any] = {"if_none_match": if_match is None, "if_match": if_match}
    if if_match:
        s3.put(f"{bucket}/k", b"other")
        calls: list[Callable[[], Any]] = [
            lambda: asyncio.run(fs.put_object(f"{bucket}/k", data, **condition)),
            lambda: asyncio.run(fs.put_path(f"{bucket}/k", str(tmp_path / "k"), **condition)),
        ]
        for call in calls:
            with pytest.raises(ConflictError):
                call()
        assert s3.get(f"{bucket}/k") == b"other"
    else:
        asyncio.run(fs.put_path(f"{bucket}/k", str(tmp_path / "k"), **condition))
        assert s3.get(f"{bucket}/k") == data
        with pytest.raises(FileExistsError):
            asyncio.run(fs.put_object(f"{bucket}/k", data, **condition))
    assert asked(s3) == ["PUT", "PUT"]


def test_conditional_write_that_is_too_large_is_refused_at_once(
    fs: S3FileSystem, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    with (tmp_path / "k").open("wb") as file:
        file.truncate((5 << 30) + 1)
    with pytest.raises(OSError, match="without a condition") as caught:
        fs.put_file(tmp_path / "k", f"{bucket}/k", mode="create")
    assert caught.value.errno == errno.EFBIG
    assert asked(s3) == []


def test_condition_that_the_server_does_not_know(
    fs: S3FileSystem, s3: S3Server, bucket: str
) -> None:
    s3.fail_next(501, method="PUT", times=20)
    with pytest.raises(UnsupportedError) as caught:
        fs.pipe_file(f"{bucket}/k", DATA, mode="create")
    assert caught.value.errno == errno.ENOTSUP


class _Replacing(threading.Thread):
    """Replace an object again and again."""

    def __init__(self, s3: S3Server, path: str, versions: list[bytes]) -> None:
        super().__init__()
        self._s3, self._path, self._versions = s3, path, versions
        self.stop = threading.Event()
        self.count = 0

    def run(self) -> None:
        while not self.stop.is_set():
            self.count += 1
            self._s3.put(self._path, self._versions[self.count % len(self._versions)])


def test_parts_are_of_one_version(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    versions = [bytes([n]) * (3 * PART_BYTES) for n in range(3)]
    s3.put(f"{bucket}/k", versions[0])
    writer = _Replacing(s3, f"{bucket}/k", versions)
    writer.start()
    whole = refused = 0
    try:
        deadline = time.monotonic() + 20
        while writer.count < 30 and time.monotonic() < deadline:
            try:
                assert fs.cat_file(f"{bucket}/k") in versions
                whole += 1
            except ConflictError:
                refused += 1
    finally:
        writer.stop.set()
        writer.join()
    assert whole + refused > 0
    assert fs.cat_file(f"{bucket}/k") in versions


def test_reader_of_a_replaced_object(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    data = big(1 << 20)
    s3.put(f"{bucket}/k", data)
    with fs.open(f"{bucket}/k") as file:
        assert file.read(10) == data[:10]
        s3.put(f"{bucket}/k", data[::-1])
        file.seek(1 << 19)
        with pytest.raises(ConflictError):
            file.read(1 << 18)


# -------------------------------------------------------------------- faults


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_passing_failures_are_retried(
    fs: S3FileSystem, s3: S3Server, bucket: str, status: int
) -> None:
    path = f"{bucket}/k"
    for method, call in (
        ("PUT", lambda: fs.pipe_file(path, DATA)),
        ("GET", lambda: fs.cat_file(path)),
        ("HEAD", lambda: fs.info(path)),
    ):
        s3.reset()
        s3.fail_next(status, method=method, times=2)
        call()
        assert asked(s3).count(method) == 3
    assert s3.get(path) == DATA


@pytest.mark.parametrize(
    "status,error,code",
    [
        (403, PermissionError, errno.EACCES),
        (500, UnavailableError, errno.EHOSTUNREACH),
        (503, ThrottledError, errno.EBUSY),
    ],
)
def test_lasting_failures_have_an_errno(
    fs: S3FileSystem, s3: S3Server, bucket: str, status: int, error: type[OSError], code: int
) -> None:
    s3.put(f"{bucket}/k", DATA)
    for call in (
        lambda: fs.cat_file(f"{bucket}/k"),
        lambda: fs.cat_file(f"{bucket}/k", -5),
        lambda: fs.info(f"{bucket}/k"),
        lambda: fs.exists(f"{bucket}/k"),
        lambda: fs.ls(bucket),
        lambda: fs.find(bucket),
        lambda: fs.pipe_file(f"{bucket}/k", b"x"),
        lambda: fs.rm_file(f"{bucket}/k"),
    ):
        s3.fail_next(status, times=20)
        with pytest.raises(error) as caught:
            call()
        assert caught.value.errno == code
        s3.reset()
    assert s3.get(f"{bucket}/k") == DATA


def test_unreachable_server_is_no_absence(s3: S3Server, bucket: str) -> None:
    options = {**s3.storage_options, "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}
    fs = S3FileSystem(**options, retry_config=QUICK)
    for call in (fs.cat_file, fs.info, fs.exists, fs.ls, fs.find, fs.rm_file):
        with pytest.raises(UnavailableError) as caught:
            call(f"{bucket}/k")
        assert caught.value.errno == errno.EHOSTUNREACH


@pytest.mark.parametrize("after", [0, 1, 1000, PART_BYTES // 2])
def test_cut_body_is_read_again(s3: S3Server, bucket: str, after: int, tmp_path: Path) -> None:
    fs = S3FileSystem(**s3.storage_options, retry_config={**QUICK, "max_retries": 6})
    data = big(2 * PART_BYTES + 5)
    s3.put(f"{bucket}/k", data)
    s3.cut_next(after, method="GET", times=2)
    assert fs.cat_file(f"{bucket}/k") == data
    s3.cut_next(after, method="GET", times=2)
    fs.get_file(f"{bucket}/k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == data


def test_bodies_that_always_break_raise(
    fs: S3FileSystem, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    data = big(2 * PART_BYTES)
    s3.put(f"{bucket}/k", data)
    s3.cut_next(1000, method="GET", times=100)
    with pytest.raises(OSError, match="did not answer") as caught:
        fs.cat_file(f"{bucket}/k")
    assert caught.value.errno == errno.EHOSTUNREACH
    with pytest.raises(UnavailableError):
        fs.get_file(f"{bucket}/k", tmp_path / "k")
    assert list(tmp_path.iterdir()) == [], "no part of a file is left"


def uploads(s3: S3Server, bucket: str) -> bytes:
    """Return the server's list of unfinished uploads."""
    url = f"{s3.endpoint_url}/{bucket}?uploads"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return cast("bytes", answer.read())


@pytest.mark.parametrize("way", ["pipe_file", "put_file", "open"])
def test_failed_upload_in_parts_leaves_nothing(
    fs: S3FileSystem, s3: S3Server, bucket: str, way: str, tmp_path: Path
) -> None:
    data = big(2 * UPLOAD_PART_BYTES + 5)
    (tmp_path / "k").write_bytes(data)

    def write() -> None:
        if way == "pipe_file":
            fs.pipe_file(f"{bucket}/k", data)
        elif way == "put_file":
            fs.put_file(tmp_path / "k", f"{bucket}/k")
        else:
            with fs.open(f"{bucket}/k", "wb") as file:
                file.write(data)

    s3.fail_next(500, method="PUT", skip=1, times=100)
    with pytest.raises(UnavailableError):
        write()
    s3.reset()
    assert not fs.exists(f"{bucket}/k")
    assert b"<UploadId>" not in uploads(s3, bucket)
    write()
    assert s3.get(f"{bucket}/k") == data
    assert b"<UploadId>" not in uploads(s3, bucket)


# -------------------------------------------------------------------- names


LONG = "k" * 200 + "/" + "k" * 800


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a+b",
        "a%20b",
        "a%2Fb",
        "ü/é",
        "a#b?c=d&e",
        "a=b;c",
        "~a'(b)*!",
        "a\\b",
        "\u4e2d",
        "k" * 900,
    ],
)
def test_names(fs: S3FileSystem, s3: S3Server, bucket: str, name: str) -> None:
    path = f"{bucket}/x/{name}"
    fs.pipe_file(path, DATA)
    assert fs.cat_file(path) == DATA
    assert fs.find(f"{bucket}/x") == [path]
    assert fs.info(path)["size"] == len(DATA)
    assert s3.get(path) == DATA, "another client finds it under the same name"
    fs.cp_file(path, f"{path}.copy")
    assert fs.cat_file(f"{path}.copy") == DATA
    fs.rm(f"{bucket}/x", recursive=True)
    assert fs.find(bucket) == []


def test_key_that_the_client_cannot_name_is_an_error(
    fs: S3FileSystem, s3: S3Server, bucket: str
) -> None:
    s3.put(f"{bucket}/a//b", DATA)
    with pytest.raises(OSError, match="cannot name") as caught:
        fs.find(bucket)
    assert caught.value.errno == errno.EINVAL


def test_markers_of_directories_are_directories(
    fs: S3FileSystem, s3: S3Server, bucket: str
) -> None:
    for key in ("d/", "e/", "d/x", "zero"):
        s3.put(f"{bucket}/{key}", DATA if key == "d/x" else b"")
    assert fs.find(bucket) == [f"{bucket}/d/x", f"{bucket}/zero"]
    assert fs.ls(f"{bucket}/d", detail=False) == [f"{bucket}/d/x"]
    assert fs.ls(f"{bucket}/e") == []
    assert fs.isdir(f"{bucket}/e")
    assert [info["type"] for info in fs.ls(bucket)] == ["directory", "directory", "file"]


def test_a_key_beside_keys_below_it(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    s3.put(f"{bucket}/a", b"")
    s3.put(f"{bucket}/a/b", DATA)
    assert fs.find(bucket) == [f"{bucket}/a", f"{bucket}/a/b"]
    assert fs.cat_file(f"{bucket}/a") == b""


def test_buckets_cannot_be_listed(fs: S3FileSystem) -> None:
    with pytest.raises(OSError, match="name one: obs3://bucket") as caught:
        fs.ls("obs3://")
    assert caught.value.errno == errno.ENOTSUP


def test_no_such_bucket(fs: S3FileSystem) -> None:
    nowhere = f"none-{uuid.uuid4().hex}"
    for call in (
        lambda: fs.ls(nowhere),
        lambda: fs.find(nowhere),
        lambda: fs.cat_file(f"{nowhere}/k"),
        lambda: fs.pipe_file(f"{nowhere}/k", b"1"),
    ):
        with pytest.raises(FileNotFoundError, match="no such bucket"):
            call()


# -------------------------------------------------------------------- files, copies, signed URLs


def test_files_by_path(fs: S3FileSystem, s3: S3Server, bucket: str, tmp_path: Path) -> None:
    for size in (0, 10, 3 * UPLOAD_PART_BYTES + 7):
        data = big(size, seed=size)
        (tmp_path / "up").write_bytes(data)
        fs.put_file(tmp_path / "up", f"{bucket}/k")
        assert s3.get(f"{bucket}/k") == data
        fs.get_file(f"{bucket}/k", tmp_path / "down")
        assert (tmp_path / "down").read_bytes() == data


def test_copies(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    other = s3.make_bucket(f"other-{uuid.uuid4().hex}")
    data = big(UPLOAD_PART_BYTES + 5)
    s3.put(f"{bucket}/k", data)
    s3.put(f"{bucket}/small", DATA)
    s3.reset()
    fs.cp_file(f"{bucket}/k", f"{bucket}/copy")
    assert s3.gets() == 0, "copied by the server"
    fs.cp_file(f"{bucket}/k", f"{other}/k")
    fs.cp_file(f"{bucket}/small", f"{other}/small")
    assert (s3.get(f"{bucket}/copy"), s3.get(f"{other}/k")) == (data, data)
    assert s3.get(f"{other}/small") == DATA
    with pytest.raises(FileNotFoundError):
        fs.cp_file(f"{bucket}/none", f"{bucket}/copy")
    with pytest.raises(FileNotFoundError):
        fs.cp_file(f"{bucket}/none", f"{other}/copy")
    fs.mv(f"{bucket}/k", f"{bucket}/moved")
    assert fs.find(bucket) == [f"{bucket}/copy", f"{bucket}/moved", f"{bucket}/small"]


def test_signed_url(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    s3.put(f"{bucket}/k", DATA)
    url = fs.sign(f"obs3://{bucket}/k", expiration=60)
    assert f"/{bucket}/k?" in url
    assert fsspec.filesystem("http").cat_file(url) == DATA


# -------------------------------------------------------------------- loops, forks, secrets


def test_one_instance_for_every_loop(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    s3.put(f"{bucket}/k", DATA)

    async def read() -> list[bytes]:
        return await asyncio.gather(*(fs._cat_file(f"{bucket}/k") for _ in range(8)))

    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(asyncio.run, read()) for _ in range(4)]
        assert all(data == DATA for done in found for data in done.result())
    assert fs.cat_file(f"{bucket}/k") == DATA


def _read_in_child(fs: S3FileSystem, path: str, answer: Any) -> None:
    try:
        answer.send((fs.cat_file(path), None))
    except OSError as error:
        answer.send((error.errno, str(error)))


def test_forked_process_is_told(fs: S3FileSystem, s3: S3Server, bucket: str) -> None:
    """It must not wait for the threads of the Rust client, which only the parent has."""
    s3.put(f"{bucket}/k", DATA)
    assert fs.cat_file(f"{bucket}/k") == DATA
    context: Any = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_read_in_child, args=(fs, f"{bucket}/k", theirs))
    child.start()
    try:
        assert ours.poll(60)
        code, said = ours.recv()
    finally:
        child.kill()
        child.join()
        ours.close()
        theirs.close()
    assert code == errno.ENOTSUP
    assert "spawn" in said


def test_no_secret_is_shown(s3: S3Server, bucket: str) -> None:
    options = {**s3.storage_options, "key": "AKIAVISIBLE", "secret": "verysecretword"}
    fs = S3FileSystem(**options, retry_config=QUICK)
    s3.fail_next(403, times=5)
    with pytest.raises(PermissionError) as caught:
        fs.cat_file(f"{bucket}/k")
    shown = [repr(fs), str(caught.value), json.dumps(fs.to_dict(include_password=False))]
    assert not [text for text in shown if "verysecretword" in text or "AKIAVISIBLE" in text]


@pytest.mark.parametrize(
    "options,named",
    [
        ({"sekret": "x"}, "sekret"),
        ({"client_kwargs": {"verify": False}}, "verify"),
        ({"config_kwargs": {"signature_version": "s3"}}, "signature_version"),
        ({"s3_additional_kwargs": {"ACL": "public-read"}}, "ACL"),
        ({"preset": "minioo"}, "preset"),
        ({"profile": "no-such-profile-here"}, "no-such-profile-here"),
    ],
)
def test_options_without_meaning_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        S3FileSystem(**options).info("bucket/key")


def test_credentials_of_a_profile(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(
        "[lab]\naws_access_key_id = from-the-profile\naws_secret_access_key = s\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    s3.put(f"{bucket}/k", DATA)
    fs = S3FileSystem(profile="lab", client_kwargs=s3.storage_options["client_kwargs"])
    assert fs.cat_file(f"{bucket}/k") == DATA
    assert "from-the-profile" in fs.sign(f"{bucket}/k")


def test_no_credentials_is_said(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fs = S3FileSystem(client_kwargs=s3.storage_options["client_kwargs"], retry_config=QUICK)
    with pytest.raises(PermissionError, match="anon=True"):
        fs.cat_file(f"{bucket}/k")
    assert asked(s3) == []
    s3.put(f"{bucket}/k", DATA)
    anonymous = S3FileSystem(anon=True, client_kwargs=s3.storage_options["client_kwargs"])
    with pytest.raises(PermissionError, match="403"):  # asked without a signature, and refused
        anonymous.cat_file(f"{bucket}/k")


@pytest.mark.parametrize("scheme", ["s3", "s3a", "obs3"])
def test_paths_keep_the_scheme_that_was_asked_for(
    s3: S3Server, bucket: str, tmp_path: Path, scheme: str
) -> None:
    """A wrapper told ``s3://`` stands on obs3; its users still write ``s3://``."""
    s3.put(f"{bucket}/d/o", b"1")
    cache = fsspec.filesystem(
        "cache",
        directory=str(tmp_path / "cache"),
        target_protocol=scheme,
        target_options=s3.storage_options,
    )
    tier = fsspec.filesystem(
        "tier",
        hot=str(tmp_path / "hot"),
        cold=f"{scheme}://{bucket}/d",
        cold_options=s3.storage_options,
    )
    assert isinstance(cache.fs, S3FileSystem)
    assert isinstance(tier.fs, S3FileSystem)
    for url in (f"{scheme}://{bucket}/d", f"cache::{scheme}://{bucket}/d"):
        assert cache.find(url) == [f"{bucket}/d/o"]
        assert cache.cat_file(f"{url}/o") == b"1"
        assert cache.info(f"{url}/o")["name"] == f"{bucket}/d/o"
    assert tier.find("") == ["o"]
    assert tier.cat_file("o") == b"1"
