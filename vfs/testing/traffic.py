"""What a test server saw and how it misbehaves: records, faults, delays.

A WSGI middleware lives here, run inside the server's own process and steered
by its reserved URLs; what the server serves and who starts it does not.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = [
    "CONTROL",
    "NOTED_HEADERS",
    "RAW_HEADER",
    "SOCKET_KEY",
    "Fault",
    "Record",
    "Traffic",
    "azure_kind",
    "refusal",
    "s3_kind",
    "take_fault",
]

CONTROL = "/__control__/"
"""Prefix of the reserved URLs."""
RAW_HEADER = "X-Vfs-Testing-Raw"
"""A request with this header is neither counted, delayed nor failed."""
SOCKET_KEY = "vfs.testing.socket"
"""Where the server puts the connection, so that it can be cut."""

_SLICE_BYTES = 1 << 14  # a throttled body goes out in slices of this size
_S3_CODES = {
    400: "InvalidRequest",
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    416: "InvalidRange",
    429: "TooManyRequests",
    500: "InternalError",
    503: "SlowDown",
}
NOTED_HEADERS = (
    *("range", "if-match", "if-none-match", "if-range"),
    *("if-modified-since", "if-unmodified-since"),
    *("x-amz-copy-source-if-match", "x-goog-if-generation-match"),
)
"""Headers that a record keeps: ranges and conditions."""


@dataclass(slots=True)
class Record:
    """One request as the server saw it.

    Attributes
    ----------
    method, path, query : str
        As sent, percent-decoded.
    kind : str
        What the request is about: ``object``, ``list``, ``multipart`` ...
    headers : dict[str, str]
        Those that matter here: ranges and conditions, lower case.
    status : int
        What was answered; 0 while under way or when no answer was sent.
    sent_bytes, received_bytes : int
        Body bytes out and in.
    started_s, ended_s : float
        Server's monotonic clock.
    fault : str
        The action of the fault that hit it, if any.
    """

    method: str
    path: str
    query: str
    kind: str
    headers: dict[str, str]
    received_bytes: int
    status: int = 0
    sent_bytes: int = 0
    started_s: float = 0.0
    ended_s: float = 0.0
    fault: str = ""

    @property
    def ranged(self) -> bool:
        """Whether a ``Range`` header was sent."""
        return "range" in self.headers


@dataclass(slots=True)
class Fault:
    """What to do to which of the next requests.

    Attributes
    ----------
    action : {"status", "cut", "short", "lose", "stall", ...}
        Answer ``status`` without doing anything; close the connection after
        ``n_bytes`` of the body; send a well-formed answer of only ``n_bytes``;
        do the work and close the connection without an answer; wait
        ``seconds`` before answering. The rest are for the proxy alone.
    method, prefix, pattern, kind : str
        Which requests; empty matches all. ``pattern`` is one of `fnmatch` for
        the whole path.
    ranged : bool, optional
        Only requests with (or without) a ``Range`` header.
    skip, times : int
        Let so many matching requests pass, then hit so many.
    headers : dict[str, str]
        Sent beside ``status``.
    """

    action: Literal["status", "cut", "short", "lose", "stall", "cut_request", "hold", "etag"]
    method: str = ""
    prefix: str = ""
    pattern: str = ""
    kind: str = ""
    ranged: bool | None = None
    skip: int = 0
    times: int = 1
    status: int = 500
    n_bytes: int = 0
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    def matches(self, record: Record) -> bool:
        """Whether the request is one of those meant."""
        return (
            self.method in ("", record.method)
            and record.path.startswith(self.prefix)
            and (not self.pattern or fnmatchcase(record.path, self.pattern))
            and self.kind in ("", record.kind)
            and self.ranged in (None, record.ranged)
        )


FaultT = TypeVar("FaultT", bound=Fault)


def take_fault(faults: list[FaultT], record: Record) -> FaultT | None:
    """Choose the fault of a request, note it in the record, drop it when it is used up."""
    for fault in faults:
        if not fault.matches(record):
            continue
        if fault.skip > 0:
            fault.skip -= 1
            continue
        fault.times -= 1
        if fault.times <= 0:
            faults.remove(fault)
        record.fault = fault.action
        return fault
    return None


@dataclass
class _Answer:
    """What the application answered, before anything is sent."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        """Stand in for WSGI's ``start_response``."""
        self.status, self.headers = status, list(headers)
        return _no_write

    def set_length(self, n_bytes: int) -> None:
        """Claim a body of ``n_bytes``."""
        kept = [(k, v) for k, v in self.headers if k.lower() != "content-length"]
        self.headers = [*kept, ("Content-Length", str(n_bytes))]


def _no_write(data: bytes) -> object:
    raise NotImplementedError("the write() of WSGI is not supported")


class Traffic:
    """Middleware that counts requests and spoils those it was told to.

    Parameters
    ----------
    app : WSGIApplication
        What really answers.
    classify : Callable[[str, str, str], str]
        ``kind`` of a request from method, path and query.
    latency_s : float, default 0
        Wait before the first byte of each answer.
    bytes_per_s : float, optional
        Throttle of each body, per response.
    """

    def __init__(
        self,
        app: WSGIApplication,
        classify: Callable[[str, str, str], str],
        latency_s: float = 0.0,
        bytes_per_s: float | None = None,
    ) -> None:
        self._app = app
        self._classify = classify
        self._latency_s = latency_s
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._records: list[Record] = []
        self._faults: list[Fault] = []
        self._in_flight = 0
        self._most_in_flight = 0

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        if path.startswith(CONTROL):
            return self._control(path.removeprefix(CONTROL), environ, start)
        if "HTTP_" + RAW_HEADER.upper().replace("-", "_") in environ:
            return self._app(environ, start)
        record, fault = self._admit(environ, path)
        return self._answer(record, fault, environ, start)

    def _admit(self, environ: WSGIEnvironment, path: str) -> tuple[Record, Fault | None]:
        """Note the request and choose its fault."""
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        named = {h: environ.get("HTTP_" + h.upper().replace("-", "_")) for h in NOTED_HEADERS}
        record = Record(
            method=method,
            path=path,
            query=query,
            kind=self._classify(method, path, query),
            headers={name: value for name, value in named.items() if value is not None},
            received_bytes=int(environ.get("CONTENT_LENGTH") or 0),
            started_s=time.monotonic(),
        )
        with self._lock:
            self._records.append(record)
            self._in_flight += 1
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
            chosen = take_fault(self._faults, record)
        return record, chosen

    def _answer(
        self, record: Record, fault: Fault | None, environ: WSGIEnvironment, start: StartResponse
    ) -> Iterator[bytes]:
        """Do the work, spoil it as told, send it at the pace asked for."""
        try:
            stall_s = fault.seconds if fault is not None and fault.action == "stall" else 0.0
            time.sleep(self._latency_s + stall_s)
            answer = _Answer()
            body: Iterable[bytes]
            if fault is not None and fault.action == "status":
                body = _refusal(answer, fault)
            else:
                body = self._app(environ, answer.start)
            cut_at: int | None = None
            if fault is not None and fault.action == "lose":
                for _ in body:
                    pass
                _close(body)
                raise _cut(environ)
            if fault is not None and fault.action in ("cut", "short"):
                whole = b"".join(body)
                _close(body)
                if fault.action == "short":
                    whole = whole[: fault.n_bytes]
                    answer.set_length(len(whole))
                else:
                    cut_at = max(0, min(fault.n_bytes, len(whole) - 1))
                body = [whole]
            record.status = int(answer.status.split()[0])
            start(answer.status, answer.headers)
            yield from self._send(record, body, cut_at)
            if cut_at is not None:
                raise _cut(environ)
        finally:
            record.ended_s = time.monotonic()
            with self._lock:
                self._in_flight -= 1

    def _send(self, record: Record, body: Iterable[bytes], cut_at: int | None) -> Iterator[bytes]:
        """Yield the body, throttled, up to where it is cut."""
        begun_s = time.monotonic()
        try:
            for whole in body:
                data = whole if cut_at is None else whole[: max(0, cut_at - record.sent_bytes)]
                step = len(data) if self._bytes_per_s is None else _SLICE_BYTES
                for offset in range(0, len(data), max(step, 1)):
                    piece = data[offset : offset + step]
                    due_bytes = record.sent_bytes + len(piece)
                    if self._bytes_per_s is not None:
                        due_s = begun_s + due_bytes / self._bytes_per_s
                        time.sleep(max(0.0, due_s - time.monotonic()))
                    record.sent_bytes = due_bytes
                    yield piece
        finally:
            _close(body)

    def _control(
        self, verb: str, environ: WSGIEnvironment, start: StartResponse
    ) -> Iterable[bytes]:
        """Answer a reserved URL: ``requests``, ``reset``, ``set`` or ``fail``."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        given: dict[str, Any] = json.loads(body) if body else {}
        told: dict[str, Any] = {}
        with self._lock:
            if verb == "reset":
                self._records, self._faults = [], []
                self._most_in_flight = self._in_flight
            elif verb == "set":
                self._latency_s = given.get("latency_s", self._latency_s)
                self._bytes_per_s = given.get("bytes_per_s", self._bytes_per_s)
            elif verb == "fail":
                self._faults.append(Fault(**given))
            else:
                told["most_in_flight"] = self._most_in_flight
                told["in_flight"] = self._in_flight
                told["faults"] = len(self._faults)
                told["requests"] = [asdict(record) for record in self._records]
        answer = json.dumps(told).encode()
        start(
            "200 OK",
            [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))],
        )
        return [answer]


def refusal(fault: Fault) -> tuple[str, list[tuple[str, str]], bytes]:
    """Word an error the way S3 does: status, headers and body."""
    code = _S3_CODES.get(fault.status, "InternalError")
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>as told</Message></Error>"
    ).encode()
    headers = {"Content-Type": "application/xml", "Content-Length": str(len(body))}
    return f"{fault.status} {code}", list({**headers, **fault.headers}.items()), body


def _refusal(answer: _Answer, fault: Fault) -> list[bytes]:
    """Answer an error."""
    status, headers, body = refusal(fault)
    answer.start(status, headers)
    return [body]


def s3_kind(method: str, path: str, query: str) -> str:
    """Tell what an S3 request is about: ``object``, ``list``, ``multipart`` ..."""
    names = {part.partition("=")[0] for part in query.split("&")}
    if names & {"uploads", "uploadId"}:
        return "multipart"
    if "delete" in names:
        return "delete"
    if "/" in path.strip("/"):
        return "object"
    return "list" if method == "GET" else "bucket"


def azure_kind(_method: str, path: str, query: str) -> str:
    """Tell the same of a request for Azure blobs, the account being in the path."""
    asked = dict(part.partition("=")[::2] for part in query.split("&")).get("comp", "")
    kinds = {"list": "list", "block": "multipart", "blocklist": "multipart", "batch": "delete"}
    inside = path.strip("/").count("/") > 1
    return kinds.get(asked, "object" if inside else "bucket")


def _cut(environ: WSGIEnvironment) -> ConnectionResetError:
    """Close the client's connection; the error ends the handler too."""
    connection: socket.socket = environ[SOCKET_KEY]
    connection.shutdown(socket.SHUT_RDWR)
    return ConnectionResetError("cut as told")


def _close(body: Iterable[bytes]) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()
