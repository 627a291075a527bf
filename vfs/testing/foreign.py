"""A server other people made, as a process on loopback; and what is common to those of S3.

Start, wait, end and requests past every client live here; the servers are in
``stores`` and ``ceph``, signatures in ``signing``.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote

from vfs.testing import guard
from vfs.testing.signing import aws_headers, quoted_path

__all__ = ["ForeignServer", "S3Store", "free_ports"]

_START_S = 90.0  # bound of the wait; SeaweedFS needs 1 s, Ceph 13 s, on an idle machine
_STOP_S = 30.0
_REQUEST_S = 60.0  # bound of the wait for an answer to a request of our own
_POLL_S = 0.02
_ATTEMPTS = 5  # at free ports: between the choice and the start another may take one
_PORTS = range(10_240, 32_000)  # below those the kernel gives to connections
_IN_USE = "address already in use"


def free_ports(count: int) -> list[int]:
    """Choose ports of 127.0.0.1 that nobody listens on."""
    with contextlib.ExitStack() as stack:
        chosen: list[int] = []
        while len(chosen) < count:
            probe = stack.enter_context(socket.socket())
            port = secrets.choice(_PORTS)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            chosen.append(port)
        return chosen


class ForeignServer(ABC):
    """A server's process on loopback that ends with the one that started it.

    Use as a context manager, or call ``stop``. Its data are in a temporary
    directory, removed at the end. ``bucket`` exists when it is ready; a test
    takes a prefix of its own in it from `fresh`.
    """

    n_ports: ClassVar[int] = 1
    bucket: ClassVar[str] = "tests"

    def __init__(self) -> None:
        reason = self.missing()
        if reason is not None:
            raise FileNotFoundError(errno.ENOENT, reason, type(self).__name__)
        self._owner = os.getpid()
        for attempt in range(1, _ATTEMPTS + 1):
            self.ports = free_ports(self.n_ports)
            self.directory = Path(tempfile.mkdtemp(prefix="vfs-testing-"))
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
            self._process = self._start()
            try:
                self._wait()
            except BaseException as error:
                said = self._said()
                self.stop()
                if attempt < _ATTEMPTS and isinstance(error, OSError) and _IN_USE in said:
                    continue
                raise
            return

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Say why it cannot be started here; None when it can."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return what starts it, from ``ports`` and ``directory``."""

    def environment(self) -> dict[str, str]:
        """Return what its environment has beyond ours."""
        return {}

    @abstractmethod
    def make_bucket(self, name: str) -> str:
        """Create a bucket, unless it exists, and return its name."""

    @property
    @abstractmethod
    def obstore_options(self) -> dict[str, Any]:
        """What obstore's store of this kind is to be given beside the bucket."""

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Write ``bucket/key`` past every client."""

    @abstractmethod
    def get(self, path: str) -> bytes:
        """Read ``bucket/key`` past every client."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete ``bucket/key`` past every client."""

    @property
    def port(self) -> int:
        """Where clients connect to."""
        return self.ports[0]

    @property
    def endpoint_url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process that guards the server; the server ends with it."""
        return self._process.pid

    def fresh(self) -> str:
        """Return an empty prefix ``bucket/...``, without a trailing slash."""
        return f"{self.bucket}/{uuid.uuid4().hex}"

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-ISs", guard.__file__, str(self.directory), *self.command()],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            # What it leaves in the temporary directory goes with its own.
            env={**os.environ, "TMPDIR": str(self.directory), **self.environment()},
        )

    def ready(self) -> None:
        """Do what a client will do first; an `OSError` means not yet."""
        self.make_bucket(self.bucket)

    def _wait(self) -> None:
        """Ask until it is ready."""
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                self.ready()
            except OSError as error:
                if self._process.poll() is not None:
                    message = f"the server ended:\n{self._said()}"
                    raise ConnectionAbortedError(errno.ECONNABORTED, message) from error
                if time.monotonic() > deadline_s:
                    message = f"it did not start within {_START_S} s:\n{self._said()}"
                    raise TimeoutError(errno.ETIMEDOUT, message) from error
                time.sleep(_POLL_S)
            else:
                return

    def _said(self) -> str:
        """Return the end of what it wrote."""
        size = os.fstat(self._log.fileno()).st_size
        said = os.pread(self._log.fileno(), 4000, max(0, size - 4000))
        return said.decode(errors="replace")

    def stop(self) -> None:
        """End the server; harmless when it is gone, or in a fork of its starter."""
        if os.getpid() != self._owner:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._log.close()

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End it."""
        self.stop()

    def ask(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send a request past every client; return status and body.

        Parameters
        ----------
        method : str
            Of HTTP.
        target : str
            Path and query as sent.
        body : bytes, default b""
            As sent.
        headers : dict[str, str], optional
            As sent.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_REQUEST_S)
        with contextlib.closing(connection):
            try:
                connection.request(method, target, body, headers or {})
                response = connection.getresponse()
                return response.status, response.read()
            except http.client.HTTPException as error:  # cut while it starts or ends
                raise ConnectionError(errno.ECONNRESET, repr(error), target) from error

    def must(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        """Send a request past every client that must succeed; return its body.

        Raises
        ------
        FileNotFoundError
            [ENOENT] it was answered 404.
        OSError
            [EIO] it was answered another error.
        """
        status, answer = self.ask(method, target, body, headers)
        if status == HTTPStatus.NOT_FOUND:
            raise FileNotFoundError(errno.ENOENT, "no such object", target)
        if status >= HTTPStatus.BAD_REQUEST:
            raise OSError(errno.EIO, f"{method} was answered {status}: {answer[:200]!r}", target)
        return answer


class S3Store(ForeignServer):
    """What is common to servers of S3 that check signatures."""

    key: ClassVar[str] = "testing"
    secret: ClassVar[str] = "testing-secret"  # noqa: S105 - of a server on loopback
    region: ClassVar[str] = "us-east-1"

    @property
    def storage_options(self) -> dict[str, Any]:
        """What s3fs is to be given."""
        return {
            "key": self.key,
            "secret": self.secret,
            "endpoint_url": self.endpoint_url,
            "client_kwargs": {"region_name": self.region},
        }

    @property
    def obstore_options(self) -> dict[str, Any]:
        """What ``obstore.store.S3Store`` is to be given beside the bucket."""
        return {
            "access_key_id": self.key,
            "secret_access_key": self.secret,
            "endpoint": self.endpoint_url,
            "region": self.region,
            "client_options": {"allow_http": True},
        }

    def signed(self, method: str, path: str, query: str = "", body: bytes = b"") -> bytes:
        """Send a signed request that must succeed; return its body."""
        target = quoted_path("/" + path.lstrip("/"))
        credentials = (self.key, self.secret, self.region)
        host = f"127.0.0.1:{self.port}"
        headers = aws_headers(method, host, target, query, body, credentials)
        return self.must(method, f"{target}?{query}" if query else target, body, headers)

    def make_bucket(self, name: str) -> str:
        """Create a bucket, unless it exists, and return its name.

        SeaweedFS takes 0.2 s and several volumes for each: prefer a prefix.
        """
        try:
            self.signed("HEAD", name)
        except FileNotFoundError:
            self.signed("PUT", name)
        return name

    def ready(self) -> None:
        """Write an object: in SeaweedFS that can be done later than making a bucket."""
        super().ready()
        self.put(f"{self.bucket}/ready", b"1")
        self.delete(f"{self.bucket}/ready")

    def put(self, path: str, data: bytes) -> None:
        """Write ``bucket/key`` past every client."""
        self.signed("PUT", path, body=data)

    def get(self, path: str) -> bytes:
        """Read ``bucket/key`` past every client."""
        return self.signed("GET", path)

    def delete(self, path: str) -> None:
        """Delete ``bucket/key`` past every client."""
        self.signed("DELETE", path)

    def uploads(self, bucket: str | None = None, prefix: str = "") -> list[str]:
        """List the keys of multipart uploads that are neither completed nor aborted."""
        query = f"prefix={quote(prefix, safe='')}&uploads="
        answer = self.signed("GET", bucket or self.bucket, query).decode()
        return [
            upload.partition("<Key>")[2].partition("</Key>")[0]
            for upload in answer.split("<Upload>")[1:]
        ]
