"""HTTP/1.1 as bytes: heads and bodies read from a socket and passed on unchanged.

Only what a proxy needs lives here. A head keeps its bytes, so that whatever
was signed stays signed; a body is told as payload and framing.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Iterator
from http import HTTPStatus
from typing import NamedTuple

__all__ = ["Head", "Piece", "Wire", "body_of", "body_whole", "has_body"]

_PIECE_BYTES = 1 << 16
_HEAD_BYTES = 1 << 20  # of a head; what is longer is no HTTP


class Head:
    """First line and headers of a request or an answer.

    Parameters
    ----------
    raw : bytes
        As received, with the empty line.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.first = first
        self._fields = [line.partition(":") for line in lines]

    def get(self, name: str) -> str | None:
        """Return a header's value; None without one."""
        for field, _, value in self._fields:
            if field.strip().lower() == name:
                return value.strip()
        return None

    def has(self, name: str, word: str) -> bool:
        """Tell whether a header has a word, in whatever case."""
        return word in (self.get(name) or "").lower()

    def put(self, name: str, value: str | None) -> None:
        """Replace a header, given in lower case; remove it with None."""
        kept = [field for field in self._fields if field[0].strip().lower() != name]
        if value is not None:
            kept.append((name.title(), ":", f" {value}"))
        self._fields = kept
        lines = "".join(f"{field}{colon}{text}\r\n" for field, colon, text in kept)
        self.raw = f"{self.first}\r\n{lines}\r\n".encode("latin-1")

    @property
    def closes(self) -> bool:
        """Whether the connection ends after this message."""
        return self.has("connection", "close") or "HTTP/1.0" in self.first

    @property
    def status(self) -> int:
        """The status of an answer."""
        return int(self.first.split(" ", 2)[1])


class Wire:
    """A socket read through a buffer, so that one knows what is already here.

    Parameters
    ----------
    connection : socket.socket
        Closed by `close`.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._here = bytearray()

    def head(self) -> Head | None:
        """Read a head; None when the other side ended before it."""
        while (end := self._here.find(b"\r\n\r\n")) < 0:
            if len(self._here) > _HEAD_BYTES:
                raise ConnectionError(errno.EPROTO, "no end of the headers")
            data = self._socket.recv(_PIECE_BYTES)
            if not data:
                if self._here:
                    raise _ended()
                return None
            self._here += data
        return Head(self._take(end + 4))

    def line(self) -> bytes:
        """Read up to the end of a line, which is included."""
        while (end := self._here.find(b"\n")) < 0:
            self._fill()
        return self._take(end + 1)

    def some(self, most: int) -> bytes:
        """Read at least one byte and at most ``most``."""
        if not self._here:
            self._fill()
        return self._take(min(most, len(self._here)))

    def rest(self) -> Iterator[bytes]:
        """Read until the other side ends."""
        while self._here or self._more():
            yield self._take(len(self._here))

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._socket.sendall(data)

    def idle(self) -> bool:
        """Tell whether the other side is open and has said nothing."""
        return not self._here and not _readable([self._socket], 0)

    def first_of(self, other: Wire) -> Wire:
        """Wait until this or the other one has something to read, and return it."""
        if self._here or other._here:
            return self if self._here else other
        ready = _readable([self._socket, other._socket], None)
        return self if self._socket.fileno() in ready else other

    def hang_up(self) -> None:
        """End the connection, for a thread that waits for it too; the descriptor stays."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection; only for the thread that uses it."""
        self.hang_up()
        self._socket.close()

    def _take(self, size: int) -> bytes:
        taken = bytes(self._here[:size])
        del self._here[:size]
        return taken

    def _more(self) -> bool:
        data = self._socket.recv(_PIECE_BYTES)
        self._here += data
        return bool(data)

    def _fill(self) -> None:
        if not self._more():
            raise _ended()


def _readable(sockets: list[socket.socket], timeout_s: float | None) -> set[int]:
    """Wait until one has something to read or has ended; return the descriptors of those.

    Not ``select``: it takes no descriptor above 1023, and a busy client opens more connections.
    """
    asked = select.poll()
    for one in sockets:
        asked.register(one, select.POLLIN)
    return {number for number, _ in asked.poll(None if timeout_s is None else timeout_s * 1000)}


class Piece(NamedTuple):
    """Some of a body: payload or the framing of chunks; whether it is the last."""

    data: bytes
    is_payload: bool
    is_last: bool


def has_body(head: Head, method: str = "") -> bool:
    """Tell whether a body follows; ``method`` is that of the request of an answer."""
    if not method:
        return head.has("transfer-encoding", "chunked") or bool(
            int(head.get("content-length") or 0)
        )
    bare = head.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
    return not bare and method != "HEAD" and head.get("content-length") != "0"


def body_of(wire: Wire, head: Head) -> Iterator[Piece]:
    """Read the body that follows a head, piece by piece."""
    length = head.get("content-length")
    if head.has("transfer-encoding", "chunked"):
        while size := int((line := wire.line()).split(b";")[0], 16):
            yield Piece(line, is_payload=False, is_last=False)
            yield from _payload(wire, size, ends=False)
            yield Piece(wire.line(), is_payload=False, is_last=False)
        while (trailer := wire.line()).strip():
            line += trailer
        yield Piece(line + trailer, is_payload=False, is_last=True)
    elif length is not None:
        yield from _payload(wire, int(length), ends=True)
    else:
        for data in wire.rest():
            yield Piece(data, is_payload=True, is_last=False)


def body_whole(wire: Wire, head: Head) -> bytes:
    """Read the payload of the body that follows a head."""
    return b"".join(piece.data for piece in body_of(wire, head) if piece.is_payload)


def _payload(wire: Wire, size: int, *, ends: bool) -> Iterator[Piece]:
    while size:
        data = wire.some(min(size, _PIECE_BYTES))
        size -= len(data)
        yield Piece(data, is_payload=True, is_last=ends and not size)


def _ended() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "the other side ended within a message")
