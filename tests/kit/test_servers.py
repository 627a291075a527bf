"""The servers count, fail, cut and end as they are told."""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem

from vfs.testing.process import RequestKind
from vfs.testing.serve import OneAtATime
from vfs.testing.servers import HTTPServer, S3Server, http_server, s3_server

pytestmark = pytest.mark.server

CONTENT = bytes(range(256)) * 100


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        server.make_bucket("data")
        yield server


@pytest.fixture(scope="module")
def web() -> Iterator[HTTPServer]:
    with http_server({"d/o": CONTENT, "a b": b"1"}) as server:
        yield server


@pytest.fixture
def fs(s3: S3Server) -> Iterator[AbstractFileSystem]:
    pytest.importorskip("s3fs", reason="s3fs is the client of these tests")
    s3.put("data/o", CONTENT)
    s3.reset()
    yield fsspec.filesystem("s3", **s3.storage_options)
    s3.reset()
    s3.set_latency(0)
    s3.set_throttle(None)


def test_requests_are_counted(s3: S3Server, fs: AbstractFileSystem) -> None:
    assert fs.cat_file("data/o", start=1, end=5) == CONTENT[1:5]
    fs.ls("data", refresh=True)
    fs.pipe_file("data/new", b"1")
    assert s3.counts() == {
        RequestKind("GET", "/data/o", ranged=True, kind="object"): 1,
        RequestKind("GET", "/data", ranged=False, kind="list"): 1,
        RequestKind("PUT", "/data/new", ranged=False, kind="object"): 1,
    }
    assert s3.gets() == s3.gets("data/o") == 1
    assert s3.sent_bytes("data/o") == 4
    assert s3.requests("GET", "data/o")[0].headers == {"range": "bytes=1-4"}
    assert s3.most_in_flight() == 1
    s3.reset()
    assert s3.requests() == []


def test_own_requests_are_not_counted(s3: S3Server) -> None:
    s3.reset()
    s3.fail_next(503, times=100)
    s3.put("data/ü %?#+", b"odd")
    assert s3.get("data/ü %?#+") == b"odd"
    s3.delete("data/ü %?#+")
    with pytest.raises(FileNotFoundError):
        s3.get("data/ü %?#+")
    assert s3.requests() == []
    s3.reset()


def test_faults_hit_what_they_are_meant_for(s3: S3Server, fs: AbstractFileSystem) -> None:
    s3.fail_next(403, method="GET", prefix="data/o", skip=1)
    assert fs.cat_file("data/o", start=0, end=1) == b"\0"
    with pytest.raises(PermissionError):
        fs.cat_file("data/o", start=0, end=1)
    assert fs.cat_file("data/o", start=0, end=1) == b"\0"
    assert [record.status for record in s3.requests()] == [206, 403, 206]


def test_lost_answer(s3: S3Server, fs: AbstractFileSystem) -> None:
    s3.lose_next(method="PUT")
    fs.pipe_file("data/lost", b"1")
    assert [record.fault for record in s3.requests("PUT")] == ["lose", ""]  # s3fs tried again
    assert s3.get("data/lost") == b"1"


def test_pace(s3: S3Server, fs: AbstractFileSystem) -> None:
    s3.set_latency(0.05)
    s3.set_throttle(len(CONTENT) / 0.1)
    begun_s = time.monotonic()
    fs.cat_file("data/o", start=0, end=len(CONTENT))
    assert time.monotonic() - begun_s >= 0.14


def test_http_reads(web: HTTPServer) -> None:
    pytest.importorskip("aiohttp", reason="fsspec's http needs it")
    fs = fsspec.filesystem("http", skip_instance_cache=True)
    url = web.url("d/o")
    assert fs.cat_file(url) == CONTENT
    assert fs.cat_file(url, start=5, end=9) == CONTENT[5:9]
    assert fs.cat_file(url, start=-3) == CONTENT[-3:]
    assert fs.info(url)["size"] == len(CONTENT)
    assert fs.ls(web.url("d/"), detail=False) == [url]
    assert fs.cat_file(web.url("a b")) == b"1"
    with pytest.raises(FileNotFoundError):
        fs.cat_file(web.url("no"))


@pytest.mark.parametrize(
    "headers,status",
    [
        ({}, 200),
        ({"Range": "bytes=0-0"}, 206),
        ({"Range": "bytes=-1"}, 206),
        ({"Range": "bytes=25599-"}, 206),
        ({"Range": "bytes=25600-"}, 416),
        ({"If-Match": '"other"'}, 412),
        ({"If-None-Match": "*"}, 304),
        ({"Range": "bytes=0-0", "If-Range": '"other"'}, 200),
    ],
)
def test_http_conditions(web: HTTPServer, headers: dict[str, str], status: int) -> None:
    assert raw(web, "GET", headers)[0] == status


def raw(server: HTTPServer, method: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Ask as a client would, so that faults hit."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, "/d/o", headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_short_and_cut_bodies(web: HTTPServer) -> None:
    web.reset()
    web.shorten_next(10, prefix="d/o")
    assert raw(web, "GET", {}) == (200, CONTENT[:10])
    web.cut_next(10, prefix="d/o")
    with pytest.raises(http.client.IncompleteRead) as caught:
        raw(web, "GET", {})
    assert caught.value.partial == CONTENT[:10]
    web.lose_next()
    with pytest.raises(http.client.RemoteDisconnected):
        raw(web, "GET", {})
    assert raw(web, "GET", {}) == (200, CONTENT)
    assert [record.sent_bytes for record in web.requests()] == [10, 10, 0, len(CONTENT)]


def test_server_ends_with_its_starter() -> None:
    code = (
        "import os, signal\n"
        "from vfs.testing.servers import HTTPServer\n"
        "from pathlib import Path\n"
        "print(HTTPServer(Path('.')).pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert run.returncode == -signal.SIGKILL
    pid = int(run.stdout)
    deadline_s = time.monotonic() + 30
    while alive(pid):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not os.path.isdir("/proc/self")


def test_requests_are_answered_one_at_a_time() -> None:
    begun, may_end = threading.Semaphore(0), threading.Event()

    def app(environ: Any, start: Any) -> list[bytes]:
        begun.release()
        assert may_end.wait(30)
        return [b""]

    together = OneAtATime(app)
    callers = [threading.Thread(target=together, args=({}, None), daemon=True) for _ in range(2)]
    for caller in callers:
        caller.start()
    assert begun.acquire(timeout=30)
    assert not begun.acquire(timeout=0.3), "the second is answered amid the first"
    may_end.set()
    assert begun.acquire(timeout=30)
    for caller in callers:
        caller.join(30)
