"""The process behind ``vfs.testing.servers``: ``python -m vfs.testing.serve s3|http``.

A threaded HTTP server, the S3 and the static application and their start live
here; starting and steering the process from a test does not.

It binds a free port of 127.0.0.1, prints it, and ends when its standard input
is closed, so that it never outlives the process that started it.
"""

from __future__ import annotations

import argparse
import html
import io
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, unquote_to_bytes

from vfs.testing.traffic import SOCKET_KEY, Traffic, s3_kind

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["OneAtATime", "Server", "StaticFiles", "main"]

_PIECE_BYTES = 1 << 18  # of a file, read at a time


class Server(ThreadingHTTPServer):
    """A thread a connection, kept alive between requests.

    Parameters
    ----------
    app : WSGIApplication
        What answers.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, app: WSGIApplication) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.app = app

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that were closed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection; bodies are read whole, so that it can be kept alive."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _environ(self) -> WSGIEnvironment:
        raw_path, _, query = self.path.partition("?")
        body = self._body()
        environ: WSGIEnvironment = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(raw_path).decode("latin-1"),
            "QUERY_STRING": query,
            "RAW_URI": self.path,
            "REQUEST_URI": self.path,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self.server.server_port),
            "SERVER_PROTOCOL": self.request_version,
            "REMOTE_ADDR": self.client_address[0],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.input_terminated": True,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            SOCKET_KEY: self.connection,
        }
        for name, value in self.headers.items():
            key = name.upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = "HTTP_" + key
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        environ["CONTENT_LENGTH"] = str(len(body))
        return environ

    def _run(self) -> None:
        begun = False

        def start(status: str, headers: list[tuple[str, str]], _exc_info: object = None, /) -> Any:
            nonlocal begun
            code, _, phrase = status.partition(" ")
            self.send_response(int(code), phrase)
            for name, value in headers:
                self.send_header(name, value)
            if "content-length" not in {name.lower() for name, _ in headers}:
                self.close_connection = True
                self.send_header("Connection", "close")
            begun = True

        try:
            first = True
            body = self.server.app(self._environ(), start)
            for piece in body:
                if first:
                    self.end_headers()
                    first = False
                if self.command != "HEAD":
                    self.wfile.write(piece)
            if begun and first:
                self.end_headers()
        except OSError:  # the client went away, or the connection was cut as told
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = _run

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class StaticFiles:
    """A folder over HTTP: GET and HEAD with ranges, conditions and listings.

    Parameters
    ----------
    root : Path
        The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        name = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "surrogateescape")
        path = self._root / name.strip("/")
        if ".." in path.parts:
            return _plain(start, HTTPStatus.BAD_REQUEST)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _plain(start, HTTPStatus.METHOD_NOT_ALLOWED)
        if path.is_dir():
            return self._listing(path, start)
        try:
            file = path.open("rb")
        except OSError:
            return _plain(start, HTTPStatus.NOT_FOUND)
        return self._file(file, environ, start)

    def _listing(self, path: Path, start: StartResponse) -> Iterable[bytes]:
        links = [
            f'<a href="{quote(entry.name)}{"/" * entry.is_dir()}">{html.escape(entry.name)}</a><br>'
            for entry in sorted(path.iterdir())
        ]
        body = f"<html><body>{''.join(links)}</body></html>".encode()
        start("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(body)))])
        return [body]

    def _file(
        self, file: BinaryIO, environ: WSGIEnvironment, start: StartResponse
    ) -> Iterable[bytes]:
        facts = os.fstat(file.fileno())
        etag = f'"{facts.st_mtime_ns:x}-{facts.st_ino:x}-{facts.st_size:x}"'
        headers = [
            ("ETag", etag),
            ("Last-Modified", formatdate(facts.st_mtime, usegmt=True)),
            ("Accept-Ranges", "bytes"),
            ("Content-Type", "application/octet-stream"),
        ]
        refused = _refused(environ, etag)
        if refused is not None:
            file.close()
            return _plain(start, refused, headers[:1])
        size = facts.st_size
        asked = environ.get("HTTP_RANGE", "")
        if environ.get("HTTP_IF_RANGE", etag) != etag:
            asked = ""
        wanted = _range(asked, size)
        if wanted is None:
            status, (begin, end) = HTTPStatus.OK, (0, size)
        elif wanted[0] >= wanted[1]:
            file.close()
            gone = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            return _plain(start, gone, [("Content-Range", f"bytes */{size}")])
        else:
            status, (begin, end) = HTTPStatus.PARTIAL_CONTENT, wanted
            headers.append(("Content-Range", f"bytes {begin}-{end - 1}/{size}"))
        headers.append(("Content-Length", str(end - begin)))
        start(f"{status.value} {status.phrase}", headers)
        if environ["REQUEST_METHOD"] == "HEAD":
            file.close()
            return []
        return _pieces(file, begin, end)


def _refused(environ: WSGIEnvironment, etag: str) -> HTTPStatus | None:
    """The status of a condition that does not hold."""
    if environ.get("HTTP_IF_MATCH", etag) not in (etag, "*"):
        return HTTPStatus.PRECONDITION_FAILED
    if environ.get("HTTP_IF_NONE_MATCH") in (etag, "*"):
        return HTTPStatus.NOT_MODIFIED
    return None


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Begin and end of the bytes asked for; None for all of them."""
    unit, _, spec = header.partition("=")
    first, dash, last = spec.partition("-")
    if unit != "bytes" or not dash or "," in spec or not (first or last):
        return None
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _pieces(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(begin)
        while begin < end and (piece := file.read(min(_PIECE_BYTES, end - begin))):
            begin += len(piece)
            yield piece


def _plain(
    start: StartResponse, status: HTTPStatus, headers: list[tuple[str, str]] | None = None
) -> list[bytes]:
    """Answer with a status and its phrase."""
    empty = status is HTTPStatus.NOT_MODIFIED
    body = b"" if empty else status.phrase.encode()
    length = [] if empty else [("Content-Length", str(len(body)))]
    start(f"{status.value} {status.phrase}", [*(headers or []), *length])
    return [body]


def _http_kind(_method: str, path: str, _query: str) -> str:
    """What a request for a file is about."""
    return "list" if path.endswith("/") else "object"


class OneAtATime:
    """An application whose requests each happen in one moment, as those of S3 do.

    moto looks whether a condition holds, and stores the object some steps later: of sixteen that
    created one key together two won in one round of fifteen.

    Parameters
    ----------
    app : WSGIApplication
        What answers, with bodies that wait for nothing.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer one request when those before it are answered."""
        # INVARIANT: of many conditional creations one wins.
        # (tests/kit/test_servers.py::test_requests_are_answered_one_at_a_time)
        with self._lock:
            return self._app(environ, start)


def _s3_application() -> WSGIApplication:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    return OneAtATime(DomainDispatcherApplication(create_backend_app))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


def main(arguments: list[str] | None = None) -> None:
    """Serve until standard input is closed.

    Parameters
    ----------
    arguments : list[str], optional
        Of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m vfs.testing.serve")
    parser.add_argument("what", choices=("s3", "http"))
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--bytes-per-s", type=float, default=None)
    given = parser.parse_args(arguments)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    app = _s3_application() if given.what == "s3" else StaticFiles(given.root)
    classify = s3_kind if given.what == "s3" else _http_kind
    server = Server(Traffic(app, classify, given.latency_s, given.bytes_per_s))
    sys.stdout.write(f"{server.server_port}\n")  # the one line the starter reads
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
