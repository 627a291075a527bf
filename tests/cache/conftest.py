"""A store on a local disk for caches to stand on, and engines that are fresh for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tier_tools import GatedFileSystem

from vfs.cache.filesystem import CacheFileSystem
from vfs.core.engine import close_engines


@pytest.fixture(autouse=True)
def clean_engines() -> Iterator[None]:
    yield
    GatedFileSystem.open_gates()
    CacheFileSystem.clear_instance_cache()
    close_engines()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return the directory that the target serves; tests write into it past every cache."""
    made = tmp_path / "store"
    made.mkdir()
    return made
