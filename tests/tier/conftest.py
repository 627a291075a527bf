"""A tier over a local cold store, fresh for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from tier_tools import BrokenCold, GatedFileSystem, open_tier

from vfs.core.engine import close_engines
from vfs.tier.filesystem import TierFileSystem


@pytest.fixture(autouse=True)
def clean_engines() -> Iterator[None]:
    yield
    GatedFileSystem.open_gates()
    BrokenCold.disarm()
    TierFileSystem.clear_instance_cache()
    close_engines()


@pytest.fixture
def tier(tmp_path: Path) -> TierFileSystem:
    return open_tier(tmp_path)


@pytest.fixture
def gated(tmp_path: Path) -> TierFileSystem:
    store = tmp_path.as_posix()
    opened: TierFileSystem = fsspec.filesystem(
        "tier", hot=str(tmp_path / "hot"), target_protocol="gated", target_options={"store": store}
    )
    return opened
