"""Google's XML API in front of fake-gcs-server, which has only its JSON API in full.

obstore writes by the XML API. Here an object written, copied or put together
from parts in XML becomes one upload in JSON, with its precondition: whether
that holds is decided by the server behind. Everything else is passed on.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
import uuid
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["XmlFront"]

_BOUNDARY = "vfs-testing-boundary"
_TIMEOUT_S = 60.0
_PASSED_ON = ("HTTP_RANGE", "CONTENT_TYPE")


class _Asked(NamedTuple):
    """A request for ``bucket/key``."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    environ: WSGIEnvironment

    def body(self) -> bytes:
        data: bytes = self.environ["wsgi.input"].read()
        return data

    def header(self, name: str) -> str | None:
        value: str | None = self.environ.get("HTTP_" + name.upper().replace("-", "_"))
        return value


class _Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""


class XmlFront:
    """The application in front; one for each server.

    Parameters
    ----------
    port : int
        Of fake-gcs-server on loopback, told that this is its public host.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._uploads: dict[str, tuple[str, dict[int, bytes]]] = {}

    def uploads(self) -> list[str]:
        """List ``bucket/key`` of the uploads that are neither completed nor aborted."""
        with self._lock:
            return [path for path, _ in self._uploads.values()]

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        raw_path, _, query = environ["RAW_URI"].partition("?")
        bucket, _, key = raw_path.lstrip("/").partition("/")
        asked = _Asked(
            environ["REQUEST_METHOD"],
            bucket,
            unquote(key),
            dict(parse_qsl(query, keep_blank_values=True)),
            environ,
        )
        answer = self._answer(asked)
        status = HTTPStatus(answer.status)
        start(f"{status.value} {status.phrase}", answer.headers)
        return [answer.body]

    def _answer(self, asked: _Asked) -> _Answer:
        upload = asked.query.get("uploadId")
        if upload is not None:
            return self._of_upload(asked, upload)
        if asked.method == "POST" and "uploads" in asked.query:
            return self._begin(asked)
        source = asked.header("x-goog-copy-source")
        if asked.method == "PUT" and source is not None:
            return self._copy(asked, source)
        if asked.method == "PUT" and asked.key:
            return self._write(asked, asked.body(), asked.environ.get("CONTENT_TYPE", ""))
        return self._pass(asked)

    # -- what is passed on -------------------------------------------------------

    def _request(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> _Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            told, whole = response.getheaders(), response.read()
        if response.headers.get("Transfer-Encoding"):  # the body is whole now
            told = [(k, v) for k, v in told if k.lower() != "transfer-encoding"]
            told.append(("Content-Length", str(len(whole))))
        return _Answer(response.status, told, whole)

    def _pass(self, asked: _Asked) -> _Answer:
        """Pass a request on; do what the server leaves out."""
        names = {name: asked.environ.get(name) for name in _PASSED_ON}
        headers = {
            name.removeprefix("HTTP_").replace("_", "-"): value
            for name, value in names.items()
            if value
        }
        answer = self._request(asked.method, asked.environ["RAW_URI"], asked.body(), headers)
        if not asked.key:  # entity tags stand in quotes in a listing too
            body = re.sub(rb"<ETag>([^<\"&]*)</ETag>", rb'<ETag>"\1"</ETag>', answer.body)
            kept = [(k, v) for k, v in answer.headers if k.lower() != "content-length"]
            return _Answer(answer.status, [*kept, ("Content-Length", str(len(body)))], body)
        etag = dict(answer.headers).get("Etag")
        if etag is None or asked.method not in ("GET", "HEAD"):
            return answer
        if asked.header("if-match") not in (None, etag, "*"):
            return _error(HTTPStatus.PRECONDITION_FAILED, "PreconditionFailed")
        if asked.header("if-none-match") in (etag, "*"):
            return _Answer(HTTPStatus.NOT_MODIFIED, [("ETag", etag)])
        return answer

    # -- what is written -----------------------------------------------------------

    def _write(self, asked: _Asked, data: bytes, content_type: str) -> _Answer:
        """Write an object under the condition that the request has."""
        condition = asked.header("x-goog-if-generation-match")
        match = f"&ifGenerationMatch={condition}" if condition is not None else ""
        told = json.dumps({"name": asked.key, "contentType": content_type})
        body = b"".join(
            [
                f"--{_BOUNDARY}\r\nContent-Type: application/json\r\n\r\n{told}\r\n".encode(),
                f"--{_BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(),
                data,
                f"\r\n--{_BOUNDARY}--\r\n".encode(),
            ]
        )
        # `media` uploads ignore the condition; `multipart` ones heed it.
        target = f"/upload/storage/v1/b/{asked.bucket}/o?uploadType=multipart{match}"
        kind = f"multipart/related; boundary={_BOUNDARY}"
        answer = self._request("POST", target, body, {"Content-Type": kind})
        if answer.status != HTTPStatus.OK:
            code = {404: "NoSuchBucket", 412: "PreconditionFailed"}.get(answer.status, "Other")
            return _error(HTTPStatus(answer.status), code)
        made = json.loads(answer.body)
        etag = f'"{made["etag"]}"'
        headers = [("ETag", etag), ("x-goog-generation", made["generation"])]
        return _Answer(HTTPStatus.OK, [*headers, ("Content-Length", "0")])

    def _copy(self, asked: _Asked, source: str) -> _Answer:
        bucket, _, key = unquote(source.lstrip("/")).partition("/")
        target = f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}?alt=media"
        found = self._request("GET", target)
        if found.status != HTTPStatus.OK:
            return _error(HTTPStatus(found.status), "NoSuchKey")
        kind = dict(found.headers).get("Content-Type", "")
        return _as_xml(self._write(asked, found.body, kind), "CopyObjectResult")

    # -- uploads by parts ------------------------------------------------------------

    def _begin(self, asked: _Asked) -> _Answer:
        name = uuid.uuid4().hex
        with self._lock:
            self._uploads[name] = (f"{asked.bucket}/{asked.key}", {})
        inside = f"<Key>{escape(asked.key)}</Key><UploadId>{name}</UploadId>"
        return _xml(HTTPStatus.OK, "InitiateMultipartUploadResult", inside)

    def _of_upload(self, asked: _Asked, name: str) -> _Answer:
        with self._lock:
            _, parts = self._uploads.get(name, ("", None))
        if parts is None:
            return _error(HTTPStatus.NOT_FOUND, "NoSuchUpload")
        if asked.method == "PUT":
            number = int(asked.query["partNumber"])
            parts[number] = asked.body()
            return _Answer(HTTPStatus.OK, [("ETag", f'"part-{number}"'), ("Content-Length", "0")])
        if asked.method == "DELETE":
            with self._lock:
                self._uploads.pop(name, None)
            return _Answer(HTTPStatus.NO_CONTENT, [("Content-Length", "0")])
        wanted = [
            int(element.text or 0)
            for element in ET.fromstring(asked.body()).iter()  # noqa: S314 - from a test
            if element.tag.rpartition("}")[2] == "PartNumber"
        ]
        if wanted != sorted(set(wanted)) or not set(wanted) <= parts.keys():
            return _error(HTTPStatus.BAD_REQUEST, "InvalidPart")
        answer = self._write(asked, b"".join(parts[number] for number in wanted), "")
        if answer.status == HTTPStatus.OK:
            with self._lock:
                self._uploads.pop(name, None)
        return _as_xml(answer, "CompleteMultipartUploadResult")


def _xml(status: HTTPStatus, root: str, inside: str) -> _Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{inside}</{root}>'.encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    return _Answer(status, headers, body)


def _error(status: HTTPStatus, code: str) -> _Answer:
    return _xml(status, "Error", f"<Code>{code}</Code>")


def _as_xml(answer: _Answer, root: str) -> _Answer:
    """Tell the entity tag of what was written in a body, as copies and uploads do."""
    if answer.status != HTTPStatus.OK:
        return answer
    etag = dict(answer.headers)["ETag"]
    told = _xml(HTTPStatus.OK, root, f"<ETag>{escape(etag)}</ETag>")
    return told._replace(headers=[*told.headers, *answer.headers[:-1]])
