"""Object stores of other people start, answer the clients people use, and end."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from vfs.testing import stores
from vfs.testing.ceph import CephServer
from vfs.testing.faultproxy import FaultProxy
from vfs.testing.foreign import ForeignServer, S3Store
from vfs.testing.stores import AzuriteServer, FakeGCSServer, SeaweedServer

pytestmark = pytest.mark.server

ODD = "ü %2F+#?&='\"/x"
PART_BYTES = 5 << 20


SERVERS = ["seaweed", "azurite", "fake_gcs", "ceph"]


@pytest.fixture(params=SERVERS)
def foreign(request: pytest.FixtureRequest) -> ForeignServer:
    server: ForeignServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture(params=["seaweed", "ceph"])
def s3_store(request: pytest.FixtureRequest) -> S3Store:
    server: S3Store = request.getfixturevalue(request.param)
    return server


def obstore_of(server: ForeignServer, **changed: Any) -> tuple[Any, str]:
    """Give obstore's own client of a server, and an empty prefix in its bucket."""
    from obstore.store import AzureStore, GCSStore
    from obstore.store import S3Store as Store

    kinds: dict[type[ForeignServer], Any] = {AzuriteServer: AzureStore, FakeGCSServer: GCSStore}
    kind = kinds.get(type(server), Store)
    store = kind(server.bucket, **{**server.obstore_options, **changed})
    return store, server.fresh().partition("/")[2]


def test_raw_requests(foreign: ForeignServer) -> None:
    path = f"{foreign.fresh()}/{ODD}"
    with pytest.raises(FileNotFoundError):
        foreign.get(path)
    foreign.put(path, b"1")
    foreign.put(path, b"2")
    assert foreign.get(path) == b"2"
    foreign.delete(path)
    with pytest.raises(FileNotFoundError):
        foreign.get(path)
    assert foreign.make_bucket(foreign.bucket) == foreign.bucket


def test_obstore(foreign: ForeignServer) -> None:
    pytest.importorskip("obstore", reason="obstore is the client of this test")
    store, root = obstore_of(foreign)
    assert store.put(f"{root}/{ODD}", b"hello", use_multipart=False)["e_tag"]
    assert foreign.get(f"{foreign.bucket}/{root}/{ODD}") == b"hello"
    assert store.get_range(f"{root}/{ODD}", start=1, end=3).to_bytes() == b"el"
    assert [found["path"] for found in store.list(root).collect()] == [f"{root}/{ODD}"]
    assert store.head(f"{root}/{ODD}")["size"] == 5
    store.copy(f"{root}/{ODD}", f"{root}/copy")
    big = bytes(PART_BYTES + 1)
    store.put(f"{root}/big", big, chunk_size=PART_BYTES)
    assert store.get(f"{root}/big").bytes().to_bytes() == big
    store.delete([f"{root}/{ODD}", f"{root}/big", f"{root}/copy"])
    assert store.list(root).collect() == []


def test_one_of_many_creates(foreign: ForeignServer) -> None:
    """Conditions are what tells a server from a mock."""
    pytest.importorskip("obstore", reason="obstore is the client of this test")
    from obstore.exceptions import AlreadyExistsError

    store, root = obstore_of(foreign)

    def create(number: int) -> bool:
        try:
            store.put(f"{root}/one", b"%d" % number, mode="create")
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(create, range(16)))
    assert won.count(True) == 1
    assert store.get(f"{root}/one").bytes().to_bytes() == b"%d" % won.index(True)


def test_update_of_one_version(foreign: ForeignServer) -> None:
    pytest.importorskip("obstore", reason="obstore is the client of this test")
    if isinstance(foreign, CephServer):
        pytest.skip("Ceph 16 knows no If-Match on a PUT")
    from obstore.exceptions import PreconditionError

    store, root = obstore_of(foreign)

    def put(data: bytes, known: Any = None) -> Any:
        # obstore takes what it gave, but not a version of None.
        mode = known and {name: value for name, value in known.items() if value is not None}
        return store.put(f"{root}/a", data, mode=mode)

    first = put(b"1")
    second = put(b"2", first)
    with pytest.raises(PreconditionError):
        put(b"3", first)
    put(b"3", second)
    assert store.get(f"{root}/a").bytes().to_bytes() == b"3"


def test_read_of_one_version(foreign: ForeignServer) -> None:
    pytest.importorskip("obstore", reason="obstore is the client of this test")
    from obstore.exceptions import NotModifiedError, PreconditionError

    store, root = obstore_of(foreign)
    tag = store.put(f"{root}/a", b"12345")["e_tag"]
    assert store.head(f"{root}/a")["e_tag"] == tag
    # Azure lists them without quotes.
    assert store.list(root).collect()[0]["e_tag"].strip('"') == tag.strip('"')
    ranged = store.get(f"{root}/a", options={"if_match": tag, "range": (1, 3)})
    assert ranged.bytes().to_bytes() == b"23"
    with pytest.raises(NotModifiedError):
        store.get(f"{root}/a", options={"if_none_match": tag})
    store.put(f"{root}/a", b"other")
    with pytest.raises(PreconditionError):
        store.get(f"{root}/a", options={"if_match": tag})


def test_uploads_by_parts_to_google(fake_gcs: FakeGCSServer) -> None:
    pytest.importorskip("obstore", reason="obstore is the client of this test")
    with FaultProxy(fake_gcs.xml_url) as proxy:
        store, root = obstore_of(fake_gcs, base_url=proxy.endpoint_url)
        hold = proxy.hold_next(method="POST", kind="multipart", skip=1)
        data = os.urandom(PART_BYTES + 1)
        with ThreadPoolExecutor(1) as pool, hold:
            done = pool.submit(store.put, f"{root}/a", data, chunk_size=PART_BYTES)
            hold.wait_arrived()
            assert fake_gcs.front.uploads() == [f"{fake_gcs.bucket}/{root}/a"]
            with pytest.raises(FileNotFoundError):
                fake_gcs.get(f"{fake_gcs.bucket}/{root}/a")
            hold.release()
            assert done.result()["e_tag"]
        assert [record.kind for record in proxy.requests()] == ["multipart"] * 4
    assert fake_gcs.front.uploads() == []
    assert fake_gcs.get(f"{fake_gcs.bucket}/{root}/a") == data


def test_wrong_secret_is_refused(s3_store: S3Store) -> None:
    pytest.importorskip("obstore", reason="obstore is the client of this test")
    from obstore.exceptions import PermissionDeniedError

    store, root = obstore_of(s3_store, secret_access_key="wrong")
    with pytest.raises(PermissionDeniedError):
        store.get(f"{root}/a")


def test_s3fs(s3_store: S3Store) -> None:
    pytest.importorskip("s3fs", reason="s3fs is the client of this test")
    root = s3_store.fresh()
    fs = fsspec.filesystem("s3", **s3_store.storage_options, skip_instance_cache=True)
    fs.pipe_file(f"{root}/{ODD}", b"hello")
    assert s3_store.get(f"{root}/{ODD}") == b"hello"
    assert fs.cat_file(f"{root}/{ODD}", start=-2) == b"lo"
    assert fs.find(root) == [f"{root}/{ODD}"]
    fs.pipe_file(f"{root}/big", bytes(PART_BYTES + 1), chunksize=PART_BYTES)
    assert fs.info(f"{root}/big")["size"] == PART_BYTES + 1
    fs.rm(root, recursive=True)
    # SeaweedFS keeps the directory, and lists it with a delimiter: only keys are compared.
    bucket, _, key = root.partition("/")
    assert b"<Key>" not in s3_store.signed("GET", bucket, f"list-type=2&prefix={key}")


def test_signed_requests_through_the_proxy(s3_store: S3Store) -> None:
    """The host is part of what is signed, and the proxy keeps it."""
    pytest.importorskip("obstore", reason="obstore is the client of this test")
    from obstore.exceptions import BaseError

    with FaultProxy(s3_store.endpoint_url) as proxy:
        store, root = obstore_of(s3_store, endpoint=proxy.endpoint_url)
        path = f"{s3_store.bucket}/{root}"
        proxy.fail_next(503, retry_after_s=0, method="PUT")
        proxy.cut_request_next(1000, method="PUT")
        data = os.urandom(300_000)
        store.put(f"{root}/{ODD}", data, use_multipart=False)
        puts = proxy.requests("PUT", path)
        assert [(record.status, record.received_bytes) for record in puts] == [
            (503, len(data)),
            (0, 1000),
            (200, len(data)),
        ]
        proxy.cut_next(100_000, method="GET", kind="object")
        assert store.get(f"{root}/{ODD}").bytes().to_bytes() == data
        # The Rust client asks for what is missing, and looks at the version it is given.
        first, second = proxy.requests("GET", path)
        assert (first.headers, first.sent_bytes) == ({}, 100_000)
        assert second.headers["range"].startswith("bytes=")
        proxy.cut_next(100_000, method="GET")
        proxy.change_etag_next('"other"', method="GET", ranged=True)
        with pytest.raises(BaseError):
            store.get(f"{root}/{ODD}").bytes()
        assert len(store.list(root).collect()) == 1
        assert [record.kind for record in proxy.requests("GET")] == ["object"] * 4 + ["list"]


def test_uploads_under_way_are_listed(s3_store: S3Store) -> None:
    root = s3_store.fresh()
    bucket, _, key = root.partition("/")
    s3_store.signed("POST", f"{root}/a", "uploads=")
    assert s3_store.uploads(prefix=key) == [f"{key}/a"]
    assert s3_store.uploads(bucket, prefix="other") == []


def test_end(tmp_path: Path) -> None:
    cls = FakeGCSServer
    if reason := cls.missing():
        pytest.skip(reason)
    with cls() as server:
        directory, port = server.directory, server.port
        assert directory.exists()
        (directory / "left").touch()
    assert not directory.exists()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port).connect()


def test_server_ends_with_its_starter() -> None:
    if reason := FakeGCSServer.missing():
        pytest.skip(reason)
    code = (
        "import os, signal\n"
        "from vfs.testing.stores import FakeGCSServer\n"
        "server = FakeGCSServer()\n"
        "print(server.port, server.directory, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    assert run.returncode == -signal.SIGKILL
    port, directory = run.stdout.decode().split()
    deadline_s = time.monotonic() + 30
    while answers(int(port)) or Path(directory).exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def answers(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection,
    ):
        connection.connect()
        return True
    return False


def test_server_that_cannot_start_says_why() -> None:
    class Broken(FakeGCSServer):
        def command(self) -> list[str]:
            return [sys.executable, "-c", "raise SystemExit('no such luck')"]

    if reason := FakeGCSServer.missing():
        pytest.skip(reason)
    with pytest.raises(ConnectionAbortedError, match="no such luck"):
        Broken()


def test_server_tries_other_ports_when_one_is_taken() -> None:
    """Between the choice of a port and the start somebody else may take it."""
    if reason := FakeGCSServer.missing():
        pytest.skip(reason)

    class Unlucky(FakeGCSServer):
        starts = 0

        def command(self) -> list[str]:
            Unlucky.starts += 1
            if Unlucky.starts == 1:
                return [sys.executable, "-c", "raise SystemExit('bind: address already in use')"]
            return super().command()

    with Unlucky() as server:
        assert server.make_bucket("other") == "other"
    assert Unlucky.starts == 2


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(SeaweedServer):
        @classmethod
        def missing(cls) -> str | None:
            return "not here"

    with pytest.raises(FileNotFoundError, match="not here"):
        Missing()


@pytest.mark.parametrize("script", ["echo no certificate >&2; exit 1", "exit 3", "sleep 60"])
def test_npm_that_fails_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/log\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VFS_AZURITE", raising=False)
    monkeypatch.setattr(stores, "_NPM_S", 5)  # enough for a shell to begin, on a busy machine
    for _ in range(2):
        program, why = stores._azurite.__wrapped__()
        assert not program
        assert why.startswith("npm could not install Azurite: ")
        assert any(part in why for part in ("no certificate", "ended with 3", "after 5 s"))
    assert (tmp_path / "log").read_text() == "asked\n"
