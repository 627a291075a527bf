"""The places each consumer is tried on: a URL, its storage_options and what the server saw."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from vfs.testing.servers import S3Server

T = TypeVar("T")


@dataclass
class Place:
    """An empty directory at a URL."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)
    server: S3Server | None = None

    @property
    def fs(self) -> AbstractFileSystem:
        return url_to_fs(self.url, **self.options)[0]

    def path(self, name: str) -> str:
        path: str = url_to_fs(f"{self.url}/{name}", **self.options)[1]
        return path

    def read_twice(self, read: Callable[[], T]) -> tuple[T, T]:
        """Read what is cold, then again, which must ask the server for no object."""
        if self.server is None:
            return read(), read()
        fs, path = url_to_fs(self.url, **self.options)
        fs.evict(path) if fs.protocol == "cache" else fs.evict(path, recursive=True)
        self.server.reset()
        first = read()
        assert self.server.gets() > 0
        self.server.reset()
        second = read()
        # A tier remembers no absence: obstore asks by GET, s3fs by HEAD, and both hear 404.
        answered = [r for r in self.server.requests("GET", kind="object") if r.status != 404]
        assert answered == []
        return first, second


PLACES = [
    "mem",
    "disk",
    "tier disk",
    "tier options",
    pytest.param("tier file", marks=pytest.mark.slow),
    pytest.param("tier memory", marks=pytest.mark.slow),
    pytest.param("tier s3", marks=pytest.mark.server),
    "cache disk",
    pytest.param("cache s3", marks=pytest.mark.server),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    hot = str(tmp_path / "hot")
    unique = uuid.uuid4().hex
    tier = {"tier": {"hot": hot}}
    match request.param:
        case "mem":
            yield Place("mem://data/set", {"store": unique})
        case "disk":
            yield Place(f"disk://{tmp_path}/data")
        case "tier disk":
            yield Place(f"tier::disk://{tmp_path}/data", tier)
        case "tier options":
            yield Place("tier://data", {"hot": hot, "cold": f"disk://{tmp_path}/cold"})
        case "tier file":
            yield Place(f"tier::file://{tmp_path}/data", tier)
        case "tier memory":
            yield Place(f"tier::memory://{unique}", tier)
        case "tier s3":
            server: S3Server = request.getfixturevalue("s3")
            options = {**tier, "s3": server.storage_options}
            yield Place(f"tier::s3://{server.make_bucket(unique)}/data", options, server)
        case "cache disk":
            # The mode in which nothing is asked again: whatever is stale shows.
            cache: dict[str, Any] = {"directory": str(tmp_path / "cache")}
            cache["consistency"] = "immutable"
            yield Place(f"cache::disk://{tmp_path}/data", {"cache": cache})
        case "cache s3":
            s3: S3Server = request.getfixturevalue("s3")
            cache = {"directory": str(tmp_path / "cache"), "consistency": "ttl"}
            cache |= {"negative_ttl_s": 60}
            given = {"cache": cache, "s3": s3.storage_options}
            yield Place(f"cache::s3://{s3.make_bucket(unique)}/data", given, s3)


@pytest.fixture
def tier_place(tmp_path: Path) -> Place:
    return Place(f"tier::disk://{tmp_path}/data", {"tier": {"hot": str(tmp_path / "hot")}})


@pytest.fixture
def s3_place(tmp_path: Path, s3: S3Server) -> Place:
    options = {"tier": {"hot": str(tmp_path / "hot")}, "s3": s3.storage_options}
    return Place(f"tier::s3://{s3.make_bucket(uuid.uuid4().hex)}/data", options, s3)
