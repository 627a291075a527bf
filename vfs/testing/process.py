"""A test server's process: its start and end, what it saw, how it is to misbehave.

What every kind of server shares lives here; the kinds are in ``servers``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from vfs.testing.observed import Observed, RequestKind
from vfs.testing.traffic import CONTROL, RAW_HEADER, Fault, Record

__all__ = ["RequestKind", "ServerProcess"]

_START_S = 60.0  # bound of the wait for a server; moto needs about one second
_UNCHECKED_SIGNATURE = (  # moto refuses anonymous reads, and looks no further
    "AWS4-HMAC-SHA256 Credential=testing/20200101/us-east-1/s3/aws4_request,"
    " SignedHeaders=host, Signature=0"
)
_REQUEST_S = 60.0  # bound of the wait for an answer to a request of our own


class ServerProcess(Observed):
    """A server's process, and what can be asked of it while it runs.

    Parameters
    ----------
    arguments : list[str]
        Of ``python -m vfs.testing.serve``.
    """

    def __init__(self, arguments: list[str]) -> None:
        self._owner = os.getpid()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        package_root = str(Path(__file__).parents[2])
        search = [package_root, os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vfs.testing.serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))},
        )
        try:
            self.port = self._wait_for_port()
        except BaseException:
            self.stop()
            raise

    @property
    def endpoint_url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process, to be stopped or killed by a test."""
        return self._process.pid

    def _wait_for_port(self) -> int:
        """Read the port the server chose, then wait until it answers."""
        deadline = time.monotonic() + _START_S
        assert self._process.stdout is not None
        # Not select(), which takes no descriptor above 1023.
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            ready = selector.select(_START_S)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self._process.kill()
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read()[-2000:].decode(errors="replace")
            message = f"the server did not start within {_START_S} s:\n{said}"
            raise TimeoutError(message)
        self.port = int(line)
        while True:
            try:
                self._control("requests")
            except OSError:
                if time.monotonic() > deadline:
                    raise
            else:
                return self.port

    def stop(self) -> None:
        """Kill the server; harmless when it is gone, or in a fork of its starter."""
        if os.getpid() != self._owner:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._errors.close()

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Kill it."""
        self.stop()

    # -- what it saw and how it misbehaves -------------------------------------

    def _seen(self) -> list[Record]:
        return [Record(**given) for given in self._control("requests")["requests"]]

    def most_in_flight(self) -> int:
        """Return the largest number of requests that were under way at one time."""
        most: int = self._control("requests")["most_in_flight"]
        return most

    def faults_left(self) -> int:
        """Count the faults that still wait for a request."""
        left: int = self._control("requests")["faults"]
        return left

    def reset(self) -> None:
        """Forget the requests and the faults; latency and throttle stay."""
        self._control("reset", {})

    def set_latency(self, latency_s: float) -> None:
        """Wait so long before each answer, from now on."""
        self._control("set", {"latency_s": latency_s})

    def set_throttle(self, bytes_per_s: float | None) -> None:
        """Send each body at most so fast, from now on; None for full speed."""
        self._control("set", {"bytes_per_s": bytes_per_s})

    def _add_fault(self, action: Any, which: dict[str, Any]) -> None:
        self._control("fail", asdict(Fault(action, **which)))

    # -- requests of our own, neither counted nor failed -----------------------

    def _control(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        method = "GET" if body is None else "POST"
        _, answer = self.request_raw(method, CONTROL + verb, json.dumps(body or {}).encode())
        told: dict[str, Any] = json.loads(answer)
        return told

    def request_raw(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request that is neither counted nor failed; return status and body."""
        headers = {RAW_HEADER: "1", "Authorization": _UNCHECKED_SIGNATURE}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_REQUEST_S)
        with contextlib.closing(connection):
            connection.request(method, quote(path), body, headers)
            response = connection.getresponse()
            return response.status, response.read()
