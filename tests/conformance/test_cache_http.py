"""A cache over HTTP reads as the kit demands; what it reads is written past it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec import AbstractFileSystem

from vfs.testing.conformance import ReadConformance
from vfs.testing.servers import HTTPServer, http_server

pytestmark = pytest.mark.server

_READS_ONLY = dict.fromkeys(
    ("write", "list", "delete", "mtime", "is_a_directory", "odd_names"),
    "fsspec's HTTP filesystem reads; it neither writes nor lists",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HTTPServer]:
    with http_server(tmp_path_factory.mktemp("served")) as running:
        yield running


class TestReads(ReadConformance):
    capabilities: ClassVar[frozenset[str]] = ReadConformance.capabilities - _READS_ONLY.keys()
    reasons: ClassVar[Mapping[str, str]] = _READS_ONLY

    @pytest.fixture(params=["open", "immutable"])
    def fs(self, request: pytest.FixtureRequest, tmp_path: Path) -> AbstractFileSystem:
        return fsspec.filesystem(
            "cache",
            target_protocol="http",
            directory=str(tmp_path / "cache"),
            consistency=request.param,
        )

    @pytest.fixture
    def root(self, server: HTTPServer, tmp_path: Path) -> str:
        type(self).server = server
        return server.url(tmp_path.name)

    server: ClassVar[HTTPServer]

    def put_raw(self, fs: AbstractFileSystem, path: str, data: bytes) -> None:
        self.server.put(path.removeprefix(self.server.url()), data)

    def get_raw(self, fs: AbstractFileSystem, path: str) -> bytes:
        return self.server.get(path.removeprefix(self.server.url()))
