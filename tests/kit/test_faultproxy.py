"""The proxy passes everything on unchanged, records it, and spoils what it is told to."""

import fcntl
import http.client
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from tier_tools import descriptors

from vfs.testing.faultproxy import FaultProxy, RequestKind
from vfs.testing.servers import S3Server
from vfs.testing.traffic import azure_kind, s3_kind
from vfs.testing.wire import Wire

CONTENT = bytes(range(256)) * 1000


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was sent, in the manner the path asks for."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        self._answer(body)

    def do_GET(self) -> None:
        self._answer(CONTENT)

    def do_HEAD(self) -> None:
        self._answer(CONTENT)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", '"true"')
        self.send_header("Host-Was", self.headers["Host"])
        self.send_header("Target-Was", self.requestline.split(" ")[1])
        if self.path.startswith("/chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            pieces = [body[begin : begin + 1000] for begin in range(0, len(body), 1000)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            body += b"0\r\n\r\n"
        elif self.path.startswith("/closed"):
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/next?x")  # type: ignore[attr-defined]
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_expect_100(self) -> bool:
        if self.path.startswith("/refused"):
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        return super().handle_expect_100()

    def log_message(self, format: str, *args: object) -> None:
        pass


class EchoServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.bodies: list[bytes] = []
        self.errors = 0

    def handle_error(self, request: object, client_address: object) -> None:
        self.errors += 1


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[FaultProxy]:
    with FaultProxy(f"http://127.0.0.1:{echo.server_port}/") as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    yield connection
    connection.close()


def ask(
    client: http.client.HTTPConnection,
    method: str,
    target: str,
    body: bytes | Iterator[bytes] | None = None,
    **headers: str,
) -> tuple[http.client.HTTPResponse, bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request(method, target, body, names, encode_chunked=isinstance(body, Iterator))
    response = client.getresponse()
    return response, response.read()


@pytest.mark.parametrize("path", ["/plain", "/chunked"])
def test_bodies_pass_over_one_connection(
    proxy: FaultProxy, client: http.client.HTTPConnection, echo: EchoServer, path: str
) -> None:
    chunks = iter([CONTENT[:5], CONTENT[5:]])
    assert ask(client, "GET", path)[1] == CONTENT
    assert ask(client, "HEAD", path)[1] == b""
    assert ask(client, "PUT", path, CONTENT)[1] == CONTENT
    assert ask(client, "PUT", path, chunks, Transfer_Encoding="chunked")[1] == CONTENT
    assert ask(client, "PUT", path, b"")[1] == b""
    assert echo.bodies == [CONTENT, CONTENT, b""]
    size = len(CONTENT)
    seen = [(r.method, r.status, r.received_bytes, r.sent_bytes) for r in proxy.requests()]
    assert seen == [
        ("GET", 200, 0, size),
        ("HEAD", 200, 0, 0),
        ("PUT", 200, size, size),
        ("PUT", 200, size, size),
        ("PUT", 200, 0, 0),
    ]
    assert proxy.connections() == proxy.most_in_flight() == 1
    assert all(record.ended_s >= record.started_s > 0 for record in proxy.requests())


def test_body_up_to_the_end_of_the_connection(client: http.client.HTTPConnection) -> None:
    assert ask(client, "GET", "/closed")[1] == CONTENT
    assert ask(client, "GET", "/closed")[1] == CONTENT


def test_heads_pass_unchanged(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    target = "/b/%C3%BC%20a//..//+%2F?list-type=2&prefix=%2B"
    response, _ = ask(client, "GET", target, Range="bytes=0-1", If_Match='"a"', Other="x")
    assert response.headers["Target-Was"] == target
    assert response.headers["Host-Was"] == f"127.0.0.1:{proxy.port}"
    (record,) = proxy.requests()
    assert (record.path, record.query) == ("/b/ü a//..//+/", "list-type=2&prefix=%2B")
    assert record.headers == {"range": "bytes=0-1", "if-match": '"a"'}
    assert record.ranged
    assert proxy.counts() == {RequestKind("GET", record.path, ranged=True, kind="object"): 1}
    # What the server calls its own address is the proxy's, as with any reverse proxy.
    assert response.headers["Location"] == f"{proxy.endpoint_url}/next?x"


def raw(proxy: FaultProxy, *pieces: bytes) -> bytes:
    """Send, each piece after something came in answer to the one before; read to the end."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as connection:
        answer = b""
        for piece in pieces:
            connection.sendall(piece)
            answer += connection.recv(1 << 16)
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(1 << 16):
            answer += data
        return answer


def test_expect_continue(proxy: FaultProxy, echo: EchoServer) -> None:
    head = b"PUT /%b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    answer = raw(proxy, head % b"a", b"body")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nbody")
    assert raw(proxy, head % b"a" + b"body").endswith(b"\r\n\r\nbody")  # it did not wait
    refused = raw(proxy, head % b"refused")
    assert refused.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"Connection: close\r\n" in refused
    proxy.fail_next(429)
    assert raw(proxy, head % b"a").startswith(b"HTTP/1.1 429 TooManyRequests\r\n")
    assert echo.bodies == [b"body", b"body"]
    assert [record.received_bytes for record in proxy.requests()] == [4, 4, 0, 0]


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_status(
    proxy: FaultProxy, client: http.client.HTTPConnection, echo: EchoServer, status: int
) -> None:
    proxy.fail_next(status, retry_after_s=7, method="PUT", pattern="/b/*.zarr/c", skip=1, times=2)
    answers = [
        ask(client, method, path, CONTENT if method == "PUT" else None)[0]
        for method, path in [
            ("PUT", "/b/a.zarr/c"),
            ("GET", "/b/a.zarr/c"),
            ("PUT", "/b/a.zarr/d"),
            ("PUT", "/b/a.zarr/c"),
            ("PUT", "/b/b.zarr/c"),
            ("PUT", "/b/b.zarr/c"),
        ]
    ]
    assert [answer.status for answer in answers] == [200, 200, 200, status, status, 200]
    assert answers[3].headers["Retry-After"] == "7"
    assert len(echo.bodies) == 3
    assert [record.fault for record in proxy.requests()] == ["", "", "", "status", "status", ""]
    assert proxy.faults_left() == 0
    assert proxy.connections() == 1


def test_status_of_head_has_no_body(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    proxy.fail_next(503)
    response, body = ask(client, "HEAD", "/plain")
    assert (response.status, body) == (503, b"")
    assert ask(client, "GET", "/plain")[1] == CONTENT


@pytest.mark.parametrize("path", ["/plain", "/chunked", "/closed"])
@pytest.mark.parametrize("after", [0, 1, 999, 1000, 5000])
def test_cut_of_an_answer(
    proxy: FaultProxy, client: http.client.HTTPConnection, path: str, after: int
) -> None:
    proxy.cut_next(after)
    client.request("GET", path)
    response = client.getresponse()
    received = b""
    try:
        while piece := response.read1(1 << 16):
            received += piece
    except http.client.IncompleteRead as error:
        received += error.partial
    assert received == CONTENT[:after]
    (record,) = proxy.requests()
    assert (record.status, record.sent_bytes, record.fault) == (200, after, "cut")
    client.close()
    assert ask(client, "GET", path)[1] == CONTENT


def test_cut_never_sends_the_last_byte(
    proxy: FaultProxy, client: http.client.HTTPConnection
) -> None:
    proxy.cut_next(len(CONTENT) + 10, method="GET")
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(client, "GET", "/plain")
    assert caught.value.partial == CONTENT[:-1]


@pytest.mark.parametrize("after", [0, 100_000])
def test_cut_of_a_request(
    proxy: FaultProxy, client: http.client.HTTPConnection, echo: EchoServer, after: int
) -> None:
    proxy.cut_request_next(after, method="PUT")
    with pytest.raises(ConnectionError):
        ask(client, "PUT", "/plain", CONTENT)
    (record,) = proxy.requests()
    assert (record.status, record.received_bytes) == (0, after)
    client.close()
    assert ask(client, "PUT", "/plain", b"again")[1] == b"again"
    # What the server read of the first was short of its Content-Length.
    assert CONTENT not in echo.bodies


def test_lost_answer(
    proxy: FaultProxy, client: http.client.HTTPConnection, echo: EchoServer
) -> None:
    proxy.lose_next()
    with pytest.raises(ConnectionError):
        ask(client, "PUT", "/plain", b"done")
    assert echo.bodies == [b"done"]
    assert proxy.requests()[0].status == 0


@pytest.mark.parametrize("path", ["/plain", "/chunked"])
def test_short_answer(proxy: FaultProxy, client: http.client.HTTPConnection, path: str) -> None:
    proxy.shorten_next(10)
    assert ask(client, "GET", path)[1] == CONTENT[:10]
    assert ask(client, "GET", path)[1] == CONTENT


def test_other_etag(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    proxy.change_etag_next('"other"', times=2)
    assert ask(client, "HEAD", "/plain")[0].headers["ETag"] == '"other"'
    response, body = ask(client, "GET", "/plain")
    assert response.headers.get_all("ETag") == ['"other"']
    assert body == CONTENT
    assert ask(client, "GET", "/plain")[0].headers["ETag"] == '"true"'


@pytest.mark.parametrize("before,done", [("request", []), ("answer", [b"held"])])
def test_hold(
    proxy: FaultProxy,
    client: http.client.HTTPConnection,
    echo: EchoServer,
    before: str,
    done: list[bytes],
) -> None:
    hold = proxy.hold_next(before)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as pool:
        with hold:
            answer = pool.submit(ask, client, "PUT", "/plain", b"held")
            hold.wait_arrived()
            assert echo.bodies == done
            assert not answer.done()
            assert proxy.requests()[0].ended_s == 0
        assert answer.result()[1] == b"held"
    assert echo.bodies == [b"held"]


def test_most_in_flight(proxy: FaultProxy) -> None:
    def get() -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
        try:
            return ask(connection, "GET", "/plain")[1]
        finally:
            connection.close()

    holds = [proxy.hold_next() for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(get) for _ in holds]
        for hold in holds:
            hold.wait_arrived()
        for hold in holds:
            hold.release()
        assert [answer.result() for answer in answers] == [CONTENT] * 5
    assert proxy.most_in_flight() == proxy.connections() == 5
    proxy.reset()
    assert (proxy.requests(), proxy.most_in_flight(), proxy.connections()) == ([], 0, 0)


def test_stop_releases_what_is_held(echo: EchoServer) -> None:
    with FaultProxy(f"http://127.0.0.1:{echo.server_port}") as proxy:
        hold = proxy.hold_next()
        client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
        client.request("GET", "/plain")
        hold.wait_arrived()
    with pytest.raises(OSError):
        client.getresponse()
    client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))


def test_server_that_is_gone() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with FaultProxy(f"http://127.0.0.1:{unused.getsockname()[1]}") as proxy:
            assert raw(proxy, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") == b""
            assert [record.status for record in proxy.requests()] == [0]


@pytest.mark.parametrize(
    "method,path,query,kind",
    [
        ("PUT", "/b/k", "", "object"),
        ("PUT", "/b/k", "partNumber=1&uploadId=x", "multipart"),
        ("POST", "/b/k", "uploads", "multipart"),
        ("POST", "/b", "delete", "delete"),
        ("GET", "/b", "list-type=2&prefix=k", "list"),
        ("PUT", "/b", "", "bucket"),
    ],
)
def test_kinds_of_s3(method: str, path: str, query: str, kind: str) -> None:
    assert s3_kind(method, path, query) == kind


@pytest.mark.parametrize(
    "method,path,query,kind",
    [
        ("PUT", "/acc/c/k", "", "object"),
        ("PUT", "/acc/c/k", "comp=block&blockid=x", "multipart"),
        ("GET", "/acc/c", "restype=container&comp=list", "list"),
        ("PUT", "/acc/c", "restype=container", "bucket"),
    ],
)
def test_kinds_of_azure(method: str, path: str, query: str, kind: str) -> None:
    assert azure_kind(method, path, query) == kind


def test_s3fs_through_the_proxy(s3: S3Server) -> None:
    pytest.importorskip("s3fs", reason="s3fs is the client of this test")
    s3.put(s3.make_bucket("proxied") + "/a b", CONTENT)
    with FaultProxy(s3.endpoint_url) as proxy:
        options = {**s3.storage_options, "client_kwargs": {"endpoint_url": proxy.endpoint_url}}
        fs = fsspec.filesystem("s3", **options, skip_instance_cache=True)
        proxy.cut_next(1000, method="GET", prefix="proxied/a b")
        assert fs.cat_file("proxied/a b", start=0, end=5000) == CONTENT[:5000]
        fs.pipe_file("proxied/new", CONTENT)
        seen = [(r.method, r.status, r.sent_bytes) for r in proxy.requests(path="proxied/a b")]
        assert seen == [("GET", 206, 1000), ("GET", 206, 5000)]
        (put,) = proxy.requests("PUT")
        assert (put.status, put.received_bytes) == (200, len(CONTENT))
    assert s3.get("proxied/new") == CONTENT


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    with descriptors(lambda soft: max(soft, 2048)):
        yield


@pytest.mark.usefixtures("many_descriptors")
def test_connections_beyond_the_limit_of_select() -> None:
    """A client may hold more than the 1024 descriptors that select knows."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as other,
        listener.accept()[0] as low,
        socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD, 1500)) as high,
    ):
        wire = Wire(high)
        assert wire.idle()
        other.sendall(b"x")
        assert wire.first_of(Wire(other)) is wire
        assert not wire.idle()
