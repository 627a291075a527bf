"""Directories of a stack know each other: no copy outlives what made it right."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tier_tools import forget, hot_files, open_stack

from vfs.errors import ConfigError
from vfs.tier import engine as engine_module
from vfs.tier.filesystem import TierFileSystem


@pytest.fixture(autouse=True)
def cold_is_broken_free() -> Iterator[None]:
    yield
    forget()


def open_alone(top: Path, name: str, **options: Any) -> TierFileSystem:
    found: TierFileSystem = fsspec.filesystem(
        "tier", hot=str(top / name), cold=f"broken://{top}/cold", **options
    )
    return found


def test_a_directory_below_another_is_not_opened_alone(tmp_path: Path) -> None:
    open_stack(tmp_path).pipe_file("a", b"1")
    with pytest.raises(ConfigError, match="lies under"):
        open_alone(tmp_path, "hot").pipe_file("a", b"2")
    forget()
    with pytest.raises(ConfigError, match="lies under"):
        open_alone(tmp_path, "hot").cat_file("a")
    with pytest.raises(ConfigError, match="belongs to"):
        open_alone(tmp_path, "top").cat_file("a")
    tiers = [str(tmp_path / "another"), str(tmp_path / "hot"), f"broken://{tmp_path}/cold"]
    with pytest.raises(ConfigError, match="lies under"):
        fsspec.filesystem("tier", tiers=tiers).pipe_file("a", b"2")
    assert open_stack(tmp_path).cat_file("a") == b"1"


def test_a_hot_directory_may_get_one_above(tmp_path: Path) -> None:
    open_alone(tmp_path, "hot", write="back", quiet_s=1e9).pipe_file("zarr.json", b"1")
    forget()
    tier = open_stack(tmp_path, write="back")
    assert tier.status("zarr.json").state == "DIRTY"
    assert tier.cat_file("zarr.json") == b"1"
    assert tier.flush() == 0


def test_copies_of_another_time_are_dropped(tmp_path: Path, caplog: Any) -> None:
    """The lower directory was used without the upper one, by those who removed the record."""
    open_stack(tmp_path).pipe({"a": b"1", "d/b": b"1"})
    forget()
    (tmp_path / "hot/.vfs/above.json").unlink()
    open_alone(tmp_path, "hot").pipe_file("a", b"22")
    forget()
    assert hot_files(tmp_path, "top")["a"] == b"1"
    with caplog.at_level(logging.WARNING):
        tier = open_stack(tmp_path)
        assert tier.cat_file("a") == b"22"
    assert "2 copies are fetched again" in caplog.text
    assert hot_files(tmp_path, "top") == {"a": b"22"}
    assert tier.fsck().problems == ()
    assert tier.stats().hot_bytes == 2


def test_copies_do_not_outlive_a_directory_that_was_lost(tmp_path: Path) -> None:
    tier = open_stack(tmp_path, write="back", quiet_s=1e9)
    tier.pipe_file("zarr.json", b"lost with its disk")
    forget()
    shutil.rmtree(tmp_path / "hot")
    tier = open_stack(tmp_path, write="back")
    assert not tier.exists("zarr.json")
    with pytest.raises(FileNotFoundError):
        tier.cat_file("zarr.json")


@pytest.mark.parametrize("durability", ["power", "process"])
def test_copies_do_not_outlive_what_a_power_cut_took_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """Under "process" the lower disk may come back with an older object than the upper one."""
    options: dict[str, Any] = {"write": "back", "durability": durability}
    tier = open_stack(tmp_path, **options)
    tier.pipe_file("a", b"1")
    tier.flush()
    forget()
    if durability == "process":
        # What the lower disk may look like: the object as it was, while the top has a newer one.
        (tmp_path / "top/a").write_bytes(b"2")
    monkeypatch.setattr(engine_module, "boot_id", lambda: "another boot")
    tier = open_stack(tmp_path, **options)
    if durability == "power":
        assert tier.status("a").hot, "what is durable below needs not be fetched again"
    assert tier.cat_file("a") == b"1"
    forget()
    assert open_stack(tmp_path, **options).cat_file("a") == b"1"


def test_less_durability_below_is_recorded_when_it_begins(tmp_path: Path) -> None:
    open_stack(tmp_path).pipe_file("a", b"1")
    record = tmp_path / "top/.vfs/below.json"
    assert json.loads(record.read_bytes())["forgets"] is False
    tier = open_stack(tmp_path, write="back", durability="process")
    assert json.loads(record.read_bytes())["forgets"] is True
    assert tier.status("a").hot


def test_a_top_directory_on_a_memory_disk_may_vanish(tmp_path: Path) -> None:
    tier = open_stack(tmp_path, write="back", quiet_s=1e9)
    tier.pipe_file("zarr.json", b"1")
    forget()
    shutil.rmtree(tmp_path / "top")
    tier = open_stack(tmp_path, write="back")
    assert tier.cat_file("zarr.json") == b"1"
    assert tier.status("zarr.json").state == "DIRTY"
    assert tier.flush() == 0


def test_reads_go_past_a_top_directory_that_cannot_be_used(tmp_path: Path) -> None:
    open_stack(tmp_path).pipe_file("a", b"1")
    forget()
    shutil.rmtree(tmp_path / "top")
    (tmp_path / "top").write_bytes(b"a file is no directory")
    tier = open_stack(tmp_path)
    assert tier.cat_file("a") == b"1"
    with pytest.raises(ConnectionError):
        tier.pipe_file("a", b"2")
    assert tier.status("a").state == "WARM"


def test_the_record_holds_no_more_than_is_needed(tmp_path: Path) -> None:
    open_stack(tmp_path).pipe_file("a", b"1")
    above = json.loads((tmp_path / "hot/.vfs/above.json").read_bytes())
    below = json.loads((tmp_path / "top/.vfs/below.json").read_bytes())
    assert above == {"above": str(tmp_path / "top"), "token": below["token"]}
