"""Real servers on loopback, each in a process of its own, as context managers.

The kinds of server and their start live here; what all share is in
``process``, what happens inside the server's process in ``serve`` and
``traffic``.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vfs.testing.process import RequestKind, ServerProcess

__all__ = ["HTTPServer", "RequestKind", "S3Server", "http_server", "s3_server"]


class S3Server(ServerProcess):
    """S3 (moto) on loopback; requests need no valid signature.

    Parameters
    ----------
    latency_s : float, default 0
        Wait before the first byte of each answer.
    bytes_per_s : float, optional
        Throttle of each body.
    """

    def __init__(self, latency_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        super().__init__(["s3", *_pace(latency_s, bytes_per_s)])

    @property
    def storage_options(self) -> dict[str, Any]:
        """What s3fs is to be given."""
        return {
            "key": "testing",
            "secret": "testing",
            "client_kwargs": {"endpoint_url": self.endpoint_url, "region_name": "us-east-1"},
        }

    @property
    def obstore_options(self) -> dict[str, Any]:
        """What ``obstore.store.S3Store`` is to be given beside the bucket."""
        return {
            "access_key_id": "testing",
            "secret_access_key": "testing",
            "endpoint": self.endpoint_url,
            "region": "us-east-1",
            "client_options": {"allow_http": True},
        }

    def make_bucket(self, name: str) -> str:
        """Create a bucket, unless it exists, and return its name."""
        self._must("PUT", f"/{name}")
        return name

    def put(self, path: str, data: bytes) -> None:
        """Write ``bucket/key`` past every client, uncounted."""
        self._must("PUT", "/" + path.lstrip("/"), data)

    def get(self, path: str) -> bytes:
        """Read ``bucket/key`` past every client, uncounted.

        Raises
        ------
        FileNotFoundError
            [ENOENT] no such object.
        """
        return self._must("GET", "/" + path.lstrip("/"))

    def delete(self, path: str) -> None:
        """Delete ``bucket/key`` past every client, uncounted."""
        self._must("DELETE", "/" + path.lstrip("/"))

    def _must(self, method: str, path: str, body: bytes = b"") -> bytes:
        status, answer = self.request_raw(method, path, body)
        if status == HTTPStatus.NOT_FOUND:
            raise FileNotFoundError(errno.ENOENT, "no such object", path)
        if status >= HTTPStatus.BAD_REQUEST:
            raise OSError(errno.EIO, f"{method} was answered {status}: {answer[:200]!r}", path)
        return answer


class HTTPServer(ServerProcess):
    """Files of a folder over HTTP, with ranges, conditions and listings.

    Parameters
    ----------
    root : Path
        The folder.
    latency_s, bytes_per_s
        As for `S3Server`.
    """

    def __init__(
        self, root: Path, latency_s: float = 0.0, bytes_per_s: float | None = None
    ) -> None:
        self.root = root
        super().__init__(["http", f"--root={root}", *_pace(latency_s, bytes_per_s)])

    def url(self, path: str = "") -> str:
        """Return the URL of a file."""
        return f"{self.endpoint_url}/{quote(path.lstrip('/'))}"

    def put(self, path: str, data: bytes) -> None:
        """Replace a file as a whole."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name}.{time.monotonic_ns()}")
        staged.write_bytes(data)
        staged.replace(target)

    def get(self, path: str) -> bytes:
        """Read a file past every client."""
        return (self.root / path.lstrip("/")).read_bytes()

    def delete(self, path: str) -> None:
        """Remove a file."""
        (self.root / path.lstrip("/")).unlink()


def _pace(latency_s: float, bytes_per_s: float | None) -> list[str]:
    throttle = [] if bytes_per_s is None else [f"--bytes-per-s={bytes_per_s}"]
    return [f"--latency-s={latency_s}", *throttle]


def s3_server(latency_s: float = 0.0, bytes_per_s: float | None = None) -> S3Server:
    """Start an S3 server; use as a context manager, or call ``stop``.

    Parameters
    ----------
    latency_s : float, default 0
        Wait before the first byte of each answer.
    bytes_per_s : float, optional
        Throttle of each body, per response.

    Returns
    -------
    S3Server
        Ready to answer.

    Raises
    ------
    TimeoutError
        It did not start; the message says what it wrote.

    Notes
    -----
    Needs ``moto[server]``. Cost: about one second to start.

    Examples
    --------
    >>> with s3_server() as server:  # doctest: +SKIP
    ...     bucket = server.make_bucket("data")
    ...     fs = fsspec.filesystem("s3", **server.storage_options)
    ...     fs.pipe_file("data/a", b"hello")
    ...     server.fail_next(503, method="GET", prefix="data/a")
    """
    return S3Server(latency_s, bytes_per_s)


@contextlib.contextmanager
def http_server(
    files: Path | str | Mapping[str, bytes],
    latency_s: float = 0.0,
    bytes_per_s: float | None = None,
) -> Iterator[HTTPServer]:
    """Serve a folder, or objects given by name, over HTTP.

    Parameters
    ----------
    files : Path, str or Mapping[str, bytes]
        A folder, or path to content (kept in a temporary folder).
    latency_s, bytes_per_s
        As for `s3_server`.

    Yields
    ------
    HTTPServer
        Ready to answer.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(files, Mapping):
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            root = Path(files)
        server = stack.enter_context(HTTPServer(root, latency_s, bytes_per_s))
        if isinstance(files, Mapping):
            for path, data in files.items():
                server.put(path, data)
        yield server
