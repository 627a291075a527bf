"""A proxy in front of any HTTP server that records requests and spoils those it is told to.

It runs in threads of the test's own process, so a test can hold a request and
release it. It passes heads on byte by byte, the ``Host`` included: signatures
stay valid. How HTTP is read is in ``wire``, the verbs are in ``observed``.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

from vfs.testing.observed import Observed, RequestKind
from vfs.testing.traffic import NOTED_HEADERS, Fault, Record, refusal, s3_kind, take_fault
from vfs.testing.wire import Head, Wire, body_of, body_whole, has_body

__all__ = ["FaultProxy", "Hold", "RequestKind"]

_WAIT_S = 60.0  # bound of the wait for a request to arrive, or for its release


class Hold:
    """A request that waits in the proxy; as a context manager it is released at the end."""

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._released = threading.Event()

    def wait_arrived(self, timeout_s: float = _WAIT_S) -> None:
        """Wait until the request is there.

        Raises
        ------
        TimeoutError
            [ETIMEDOUT] it did not come.
        """
        if not self._arrived.wait(timeout_s):
            raise TimeoutError(errno.ETIMEDOUT, "the request to hold did not come")

    def release(self) -> None:
        """Let the request go on, or not wait if it is still to come."""
        self._released.set()

    def stand(self) -> None:
        """Wait for the release; called by the proxy."""
        self._arrived.set()
        self._released.wait(_WAIT_S)

    def __enter__(self) -> Self:
        """Return the hold."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Let the request go on."""
        self.release()


@dataclass(slots=True)
class _Rule(Fault):
    """A fault, with what only the proxy can do."""

    hold: Hold | None = None
    before: Literal["request", "answer"] = "request"
    etag: str = ""


class _CutError(ConnectionError):
    """Both connections are to be closed."""


class FaultProxy(Observed):
    """An HTTP proxy on loopback; use as a context manager, or call ``stop``.

    Parameters
    ----------
    upstream : str
        URL of the server, without TLS. Its path is kept in ``endpoint_url``.
    classify : Callable[[str, str, str], str], optional
        ``kind`` of a request from method, path and query; S3's by default.

    Notes
    -----
    An answer is recorded before its last byte is sent: a client that has all
    of it finds it in `requests`. Each connection of a client has one of its own
    to the server. The proxy shares the interpreter with the test, so it is no
    place to measure speed.
    """

    def __init__(self, upstream: str, classify: Callable[[str, str, str], str] = s3_kind) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._path = parts.path.rstrip("/")
        self._classify = classify
        self._lock = threading.Lock()
        self._records: list[Record] = []
        self._rules: list[_Rule] = []
        self._holds: list[Hold] = []
        self._wires: set[Wire] = set()
        self._in_flight = 0
        self._most_in_flight = 0
        self._connections = 0
        self._stopping = threading.Event()
        self._broken: list[BaseException] = []
        self._listener = _Listener(self)
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(0.01,), name="faultproxy", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.server_address[1]
        return port

    @property
    def endpoint_url(self) -> str:
        """What to give a client instead of the server's, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}{self._path}"

    def stop(self) -> None:
        """Release what is held, close every connection, end.

        Raises
        ------
        ExceptionGroup
            Errors of the proxy itself; those of connections are none.
        """
        self._stopping.set()
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()
        with self._lock:
            for hold in self._holds:
                hold.release()
            for wire in self._wires:
                wire.hang_up()
        if self._broken:
            raise BaseExceptionGroup("the proxy failed", self._broken)

    def __enter__(self) -> Self:
        """Return the running proxy."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End it."""
        self.stop()

    # -- what it saw ---------------------------------------------------------

    def _seen(self) -> list[Record]:
        with self._lock:
            return [replace(record) for record in self._records]

    def most_in_flight(self) -> int:
        """Return the largest number of requests that were under way at one time."""
        with self._lock:
            return self._most_in_flight

    def faults_left(self) -> int:
        """Count the faults that still wait for a request."""
        with self._lock:
            return len(self._rules)

    def connections(self) -> int:
        """Count the connections that clients opened since the last `reset`."""
        with self._lock:
            return self._connections

    def reset(self) -> None:
        """Forget the requests and the faults, and release what is held."""
        with self._lock:
            self._records, self._rules = [], []
            self._most_in_flight, self._connections = self._in_flight, 0
            holds, self._holds = self._holds, []
        for hold in holds:
            hold.release()

    # -- how it misbehaves -----------------------------------------------------

    def cut_request_next(self, after_bytes: int = 0, **which: Any) -> None:
        """Close both connections after so many bytes of the next matching request's body.

        A shorter body, or none, reaches the server whole; its answer is not awaited.
        """
        self._fail("cut_request", which, n_bytes=after_bytes)

    def change_etag_next(self, etag: str, **which: Any) -> None:
        """Answer the next matching request with another ``ETag``, quotes included."""
        self._fail("etag", which, etag=etag)

    def hold_next(self, before: Literal["request", "answer"] = "request", **which: Any) -> Hold:
        """Let the next matching request wait until it is released.

        Parameters
        ----------
        before : {"request", "answer"}, default "request"
            Whether it waits before the server hears of it, or after the server
            has done it and before the client is told.
        **which
            As for `fail_next`.

        Returns
        -------
        Hold
            Released by itself after a minute, by `reset` and by `stop`.
        """
        hold = Hold()
        with self._lock:
            self._holds.append(hold)
        self._fail("hold", which, hold=hold, before=before)
        return hold

    def _add_fault(self, action: Any, which: dict[str, Any]) -> None:
        with self._lock:
            self._rules.append(_Rule(action, **which))

    # -- one exchange ------------------------------------------------------------

    def _admit(self, request: Head) -> tuple[Record, _Rule | None]:
        """Note a request and choose its fault."""
        method, target = request.first.split(" ")[:2]
        raw_path, _, query = target.partition("?")
        path = unquote(raw_path, errors="replace")
        named = {name: request.get(name) for name in NOTED_HEADERS}
        record = Record(
            method=method,
            path=path,
            query=query,
            kind=self._classify(method, path, query),
            headers={name: value for name, value in named.items() if value is not None},
            received_bytes=0,
            started_s=time.monotonic(),
        )
        with self._lock:
            self._records.append(record)
            self._in_flight += 1
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
            return record, take_fault(self._rules, record)

    def _finish(self, record: Record) -> None:
        """Note that a request is done with; the second time does nothing."""
        with self._lock:
            if not record.ended_s:
                record.ended_s = time.monotonic()
                self._in_flight -= 1

    def _serve(self, client: Wire) -> None:
        """Answer the requests of one connection."""
        with self._lock:
            self._connections += 1
        with contextlib.ExitStack() as stack:
            self._watch(client, stack)
            server: Wire | None = None
            while (request := client.head()) is not None:
                record, rule = self._admit(request)
                try:
                    self._stand(rule, "request")
                    if rule is not None and rule.action == "status":
                        client_goes_on = self._refuse(client, request, record, rule)
                    else:
                        # Servers close connections that are idle for long.
                        if server is None or not server.idle():
                            server = self._connect(stack)
                        exchange = _Exchange(self, client, server, record, rule)
                        client_goes_on, server_goes_on = exchange.run(request)
                        server = server if server_goes_on else None
                finally:
                    self._finish(record)
                if not client_goes_on:
                    return

    def _stand(self, rule: _Rule | None, before: str) -> None:
        """Wait as the rule says."""
        if rule is None or rule.before != before:
            return
        if rule.hold is not None:
            rule.hold.stand()
        self._stopping.wait(rule.seconds)

    def _connect(self, stack: contextlib.ExitStack) -> Wire:
        return self._watch(Wire(socket.create_connection(self.upstream)), stack)

    def _watch(self, wire: Wire, stack: contextlib.ExitStack) -> Wire:
        """Let the wire be hung up by `stop`, closed at the end of the client's connection."""
        stack.callback(wire.close)
        stack.callback(self._forget, wire)
        with self._lock:
            self._wires.add(wire)
        if self._stopping.is_set():
            raise _CutError
        return wire

    def _forget(self, wire: Wire) -> None:
        with self._lock:
            self._wires.discard(wire)

    def _refuse(self, client: Wire, request: Head, record: Record, rule: _Rule) -> bool:
        """Answer an error; tell whether the client's connection goes on."""
        waits = request.has("expect", "100-continue")
        if not waits and has_body(request):
            for piece in body_of(client, request):
                record.received_bytes += len(piece.data) * piece.is_payload
        status, headers, body = refusal(rule)
        if waits:  # whether its body follows is not known
            headers.append(("Connection", "close"))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        body = b"" if record.method == "HEAD" else body
        record.status, record.sent_bytes = rule.status, len(body)
        self._finish(record)
        client.send(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body)
        return not (waits or request.closes)


@dataclass(slots=True)
class _Exchange:
    """One request passed to the server, and its answer to the client."""

    proxy: FaultProxy
    client: Wire
    server: Wire
    record: Record
    rule: _Rule | None
    server_hears: bool = True

    def run(self, request: Head) -> tuple[bool, bool]:
        """Do it; tell whether the client's and the server's connection go on."""
        self.server.send(request.raw)
        answer = self._pass_body(request)
        early = answer is not None
        while answer is None or answer.status < HTTPStatus.OK:
            if answer is not None:
                self.client.send(answer.raw)
            answer = self.server.head()
            if answer is None:
                raise _CutError
        bounded = self._pass_answer(answer)
        client_goes_on = bounded and not (request.closes or answer.closes)
        return client_goes_on, client_goes_on and not early

    def _action(self) -> str:
        return "" if self.rule is None else self.rule.action

    def _pass_body(self, request: Head) -> Head | None:
        """Pass the request's body on; return an answer that came before its end."""
        if has_body(request):
            early = self._agree(request)
            if early is not None:
                return early
            for data in self._request_data(request):
                self._tell(data)
        if self._action() == "cut_request":
            raise _CutError
        return None if self.server_hears else self.server.head()

    def _agree(self, request: Head) -> Head | None:
        """Pass on that the server wants the body, or return what it answers instead."""
        if not request.has("expect", "100-continue"):
            return None
        if self.server.first_of(self.client) is self.client:
            return None  # it sends the body without waiting, as it may
        answer = self.server.head()
        if answer is None:
            raise _CutError
        if answer.status == HTTPStatus.CONTINUE:
            self.client.send(answer.raw)
            return None
        answer.put("connection", "close")  # the body may follow all the same, or not
        return answer

    def _tell(self, data: bytes) -> None:
        """Send to the server, unless it closed early; the client has to be heard out."""
        if self.server_hears:
            try:
                self.server.send(data)
            except OSError:
                self.server_hears = False

    def _request_data(self, request: Head) -> Iterator[bytes]:
        """Yield the request's body with its framing, up to where it is cut."""
        cut_at = self.rule.n_bytes if self.rule and self._action() == "cut_request" else None
        for piece in body_of(self.client, request):
            data = piece.data
            if piece.is_payload:
                if cut_at is not None:
                    data = data[: cut_at - self.record.received_bytes]
                self.record.received_bytes += len(data)
            yield data
            if cut_at is not None and self.record.received_bytes >= cut_at:
                return

    def _pass_answer(self, answer: Head) -> bool:
        """Pass the answer on, spoilt as told; tell whether its end was marked."""
        action, rule = self._action(), self.rule
        follows = has_body(answer, self.record.method)
        if action == "lose":
            if follows:
                body_whole(self.server, answer)
            raise _CutError
        self.proxy._stand(rule, "answer")
        self._turn_location(answer)
        if rule is not None and rule.etag:
            answer.put("etag", rule.etag)
        self.record.status = answer.status
        if action == "short" and rule is not None and follows:
            data = body_whole(self.server, answer)[: rule.n_bytes]
            answer.put("transfer-encoding", None)
            answer.put("content-length", str(len(data)))
            self.record.sent_bytes = len(data)
            self.proxy._finish(self.record)
            self.client.send(answer.raw + data)
            return True
        if not follows:
            if action == "cut":
                raise _CutError
            self.proxy._finish(self.record)
        self.client.send(answer.raw)
        return self._pass_answer_body(answer) if follows else True

    def _pass_answer_body(self, answer: Head) -> bool:
        """Pass the body on up to where it is cut; tell whether its end was marked."""
        cut_at: int | None = None
        if self.rule is not None and self._action() == "cut":
            # Whatever is asked for, the last byte is not sent.
            length = answer.get("content-length")
            cut_at = min(self.rule.n_bytes, int(length) - 1) if length else self.rule.n_bytes
        for data, is_payload, is_last in body_of(self.server, answer):
            whole = data
            if cut_at is not None and is_payload:
                whole = data[: cut_at - self.record.sent_bytes]
            if cut_at is not None and is_last and not is_payload:
                raise _CutError
            self.record.sent_bytes += len(whole) * is_payload
            if is_last:
                self.proxy._finish(self.record)
            if whole:
                self.client.send(whole)
            if cut_at is not None and self.record.sent_bytes >= cut_at:
                raise _CutError
        return answer.get("content-length") is not None or answer.has(
            "transfer-encoding", "chunked"
        )

    def _turn_location(self, answer: Head) -> None:
        """Let an address of the server lead through the proxy, as reverse proxies do."""
        host, port = self.proxy.upstream
        server = f"http://{host}:{port}/"
        location = answer.get("location")
        if location is not None and location.startswith(server):
            inside = location.removeprefix(server)
            answer.put("location", f"http://127.0.0.1:{self.proxy.port}/{inside}")


class _Listener(socketserver.ThreadingTCPServer):
    """Accepts connections; a thread for each."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep an error of the proxy itself for the test that stops it."""
        error = sys.exception()
        if error is not None:
            self.proxy._broken.append(error)


class _Connection(socketserver.BaseRequestHandler):
    """A client's connection."""

    server: _Listener

    def handle(self) -> None:
        """Serve it until one side ends it or it is cut."""
        with contextlib.suppress(OSError):
            self.server.proxy._serve(Wire(self.request))
