"""What every test may ask for: one S3 server a session, and instances of its own."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import fsspec
import pytest

from vfs.core.engine import close_engines
from vfs.testing.ceph import CephServer
from vfs.testing.foreign import ForeignServer
from vfs.testing.servers import S3Server, s3_server
from vfs.testing.stores import AzuriteServer, FakeGCSServer, SeaweedServer

#: Kills of several processes and their maps; containers often have 64 MB of shared memory in all.
_ENOUGH_MEMORY_BYTES = 1 << 30

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what it runs in the background, and all that are started from there: a
    # program that a test interrupts would not notice.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Let a failure be told at once.

    Where these are set pytest draws a whole diff of whatever was compared, in a time that grows
    with the cube of its length: torn objects of some kilobytes would take it hours.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CI", "BUILD_NUMBER"):
            patch.delenv(name, raising=False)
        return (yield)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder that no other test has had or will have, and remove it.

    Engines, and stores in memory, are found by their path: what an earlier test has left under
    way must not meet it again. And a cache directory has tables of tens of megabytes, of which
    thousands of tests make one each.
    """
    path = tmp_path_factory.mktemp(uuid.uuid4().hex[:12], numbered=False)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def fast_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder in memory where there is one: kills and simulated crashes need no disk."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    if base is not None and shutil.disk_usage(base).free < _ENOUGH_MEMORY_BYTES:
        base = None
    top = Path(tempfile.mkdtemp(dir=base))
    # Below the temporary directory nothing is remembered of where a hot tier was mounted.
    monkeypatch.setattr(tempfile, "tempdir", str(top))
    yield top
    close_engines()
    shutil.rmtree(top, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_process: S3Server) -> Iterator[S3Server]:
    """Give the server with an empty count and no faults; tests take buckets of their own."""
    s3_process.reset()
    yield s3_process
    s3_process.reset()


ServerT = TypeVar("ServerT", bound=ForeignServer)


def started(kind: type[ServerT]) -> Iterator[ServerT]:
    """Give a server for the session, or skip with the reason why there is none."""
    if reason := kind.missing():
        pytest.skip(reason)
    with kind() as server:
        yield server


# Tests that ask for one of these are marked `server`, and take a prefix of their own: `fresh()`.


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedServer]:
    yield from started(SeaweedServer)


@pytest.fixture(scope="session")
def ceph() -> Iterator[CephServer]:
    yield from started(CephServer)


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzuriteServer]:
    yield from started(AzuriteServer)


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[FakeGCSServer]:
    yield from started(FakeGCSServer)


@pytest.fixture(autouse=True)
def _fresh_instances() -> Iterator[None]:
    yield
    for protocol in ("mem", "disk", "obaz", "obgs", "obs3", "readonly", "cache", "tier"):
        if protocol in fsspec.registry:  # else none was used yet, or its package is not here
            fsspec.registry[protocol].clear_instance_cache()
    close_engines()
