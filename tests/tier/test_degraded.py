"""A hot directory that is gone, full or of no use: reads answer from cold, nothing is wrong."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tier_tools import hot_files, open_tier, staged_files

from vfs.core.engine import close_engines
from vfs.errors import UnavailableError
from vfs.tier.filesystem import TierFileSystem


def fill_cold(top: Path) -> None:
    (top / "cold").mkdir()
    (top / "cold/k").write_bytes(b"x" * 5000)


def test_unusable_hot_directory_degrades_reads_and_refuses_writes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill_cold(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    tier = fsspec.filesystem("tier", hot=str(tmp_path / "file/hot"), cold=str(tmp_path / "cold"))
    with caplog.at_level(logging.WARNING, logger="vfs"):
        for _ in range(3):
            assert tier.cat_file("k", 0, 3) == b"xxx"
            with tier.open("k") as file:
                assert len(file.read()) == 5000
        assert tier.info("k")["size"] == 5000
        assert tier.find("") == ["k"]
    assert len(caplog.records) == 1
    calls: list[Callable[[], Any]] = [
        lambda: tier.pipe_file("k", b"new"),
        lambda: tier.rm_file("k"),
        lambda: tier.promote("k"),
    ]
    for call in calls:
        with pytest.raises(UnavailableError):
            call()
    assert (tmp_path / "cold/k").read_bytes() == b"x" * 5000
    assert tier.stats().hot_bytes == 0


@pytest.fixture
def small_files() -> Iterator[None]:
    """Make every write beyond 2000 bytes of a file fail with EFBIG, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_hot_disk_that_takes_no_more(
    tier: TierFileSystem, tmp_path: Path, small_files: None
) -> None:
    tier.pipe_file("other", b"o")
    fill = tmp_path / "cold/k"
    fill.write_bytes(b"x" * 5_000_000)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    assert tier.cat_file("k") == b"x" * 5_000_000
    assert tier.cat_file("k", 3, 5) == b"xx"
    assert hot_files(tmp_path) == {"other": b"o"}
    assert staged_files(tmp_path) == []
    assert tier.stats().hot_bytes == 1


def test_hot_directory_deleted_under_a_running_tier(tier: TierFileSystem, tmp_path: Path) -> None:
    tier.pipe_file("k", b"1")
    for path in (tmp_path / "hot").iterdir():
        if path.name != ".vfs":
            path.unlink()
    assert tier.cat_file("k") == b"1"
    assert hot_files(tmp_path) == {"k": b"1"}
    shutil.rmtree(tmp_path / "hot")
    assert tier.cat_file("k") == b"1"
    assert tier.info("k")["size"] == 1
    (tmp_path / "cold/k").write_bytes(b"never through the tier")
    assert tier.cat_file("k") == b"never through the tier"


def test_unmounted_hot_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(f"mounting needs root: {mounted.stderr.decode().strip()}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    kept = tmp_path / "kept"

    def tier() -> Any:
        TierFileSystem.clear_instance_cache()
        close_engines()
        return fsspec.filesystem("tier", hot=str(disk / "hot"), cold=str(tmp_path / "cold"))

    try:
        tier().pipe_file("k", b"old")
        close_engines()
        # Where the disk is while it is not mounted: the same files under another name.
        kept.mkdir()
        subprocess.run(["mount", "--move", str(disk), str(kept)], check=False, capture_output=True)
        if os.path.ismount(disk):
            subprocess.run(["mount", "--bind", str(disk), str(kept)], check=True)
            subprocess.run(["umount", str(disk)], check=True)
        without = tier()
        assert without.cat_file("k") == b"old", "cold answers"
        with pytest.raises(UnavailableError):
            without.pipe_file("k", b"new")
        assert list(disk.iterdir()) == []
        close_engines()
        subprocess.run(["mount", "--bind", str(kept), str(disk)], check=True)
        again = tier()
        assert again.cat_file("k") == b"old"
        again.pipe_file("k", b"new")
        assert again.cat_file("k") == b"new"
    finally:
        close_engines()
        for place in (disk, kept):
            subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def test_hot_copy_removed_by_hand_is_fetched_again(tier: TierFileSystem, tmp_path: Path) -> None:
    tier.pipe_file("d/k", b"1")
    os.unlink(tmp_path / "hot/d/k")
    assert tier.cat_file("d/k") == b"1"
    assert hot_files(tmp_path) == {"d/k": b"1"}
    assert tier.stats().hot_bytes == 1


def test_object_and_directory_of_one_name_on_a_flat_store(tmp_path: Path) -> None:
    fs, _ = fsspec.url_to_fs("tier::mem://x", tier={"hot": str(tmp_path / "hot")})
    fs.pipe_file("flat/a", b"object")
    fs.pipe_file("flat/a/b", b"below")
    for _ in range(2):
        assert fs.cat_file("flat/a") == b"object"
        assert fs.cat_file("flat/a/b") == b"below"
    assert fs.find("flat") == ["flat/a", "flat/a/b"]
    fs.rm("flat", recursive=True)
    assert fs.find("flat") == []


def test_open_tier_twice_is_one_state(tmp_path: Path) -> None:
    one, two = open_tier(tmp_path), open_tier(tmp_path, write="around")
    one.pipe_file("a", b"1")
    assert two.stats().hot_objects == 1
    assert one._engine is two._engine
