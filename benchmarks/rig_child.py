"""Servers of the rig, a process each: ``delay PORT UPSTREAM MS`` and ``listing PORT COUNT``.

What lives here: a proxy that adds latency, and answers to the listing of one bucket, made before
they are asked for. What must not: anything of vfs; that answers are right is seen at the clients.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from urllib.parse import parse_qs, urlsplit

_PAGE = 1000  # keys in an answer of S3
_NO_KEY = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Late(asyncio.Protocol):
    """Give on what comes, so many seconds after it came."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.other: Late | None = None
        self.transport: asyncio.Transport | None = None
        self.waiting: deque[bytes] = deque()
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(1 << 26)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.loop.call_later(self.delay_s, self.give, data)

    def give(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.waiting.append(data)
        elif not self.other.transport.is_closing():
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.loop.call_later(self.delay_s, self.end)

    def end(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def delay(port: int, upstream: int, delay_ms: float) -> None:
    loop = asyncio.get_running_loop()
    half_s = delay_ms / 2e3  # each way

    class Front(Late):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.task = loop.create_task(self.join())

        async def join(self) -> None:
            _, back = await loop.create_connection(lambda: Late(half_s), "127.0.0.1", upstream)
            back.other, self.other = self, back
            while self.waiting:
                self.give(self.waiting.popleft())

    server = await loop.create_server(lambda: Front(half_s), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def pages(count: int) -> list[bytes]:
    """Make the answers: keys ``list/D/N`` in their order, a thousand each."""
    keys = sorted(f"list/{n % 10}/{n}" for n in range(count))
    made = []
    for first in range(0, count, _PAGE):
        more = first + _PAGE < count
        entries = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{n:032x}&quot;</ETag><Size>1</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for n, key in enumerate(keys[first : first + _PAGE])
        )
        token = f"<NextContinuationToken>{first // _PAGE + 1}</NextContinuationToken>"
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bench</Name>'
            f"<KeyCount>{min(_PAGE, count - first)}</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
            f"{token if more else ''}{entries}</ListBucketResult>"
        ).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}"
        made.append(f"{head}\r\n\r\n".encode() + body)
    return made


async def listing(port: int, count: int) -> None:
    answers = pages(count)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            method, target = head.decode().split(" ", 2)[:2]
            asked = urlsplit(target)
            if method == "GET" and not asked.path.strip("/").count("/"):
                query = parse_qs(asked.query)
                writer.write(answers[int(query.get("continuation-token", ["0"])[0])])
            else:
                writer.write(_NO_KEY)
            await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    kind, *numbers = sys.argv[1:]
    asyncio.run({"delay": delay, "listing": listing}[kind](*map(int, numbers)))
