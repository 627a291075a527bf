"""What was true before a change is never told after it, by whatever way it was learnt."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem
from interop.conftest import Place
from tier_tools import Gate, GatedFileSystem

from vfs.tier.filesystem import TierFileSystem


class SlowToRemove(GatedFileSystem):
    protocol = "slowtoremove"
    gate = Gate()

    def delete_object(self, key: str) -> None:
        self.gate(key)
        super().delete_object(key)


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[TierFileSystem]:
    SlowToRemove.gate = Gate()
    yield fsspec.filesystem(
        "tier",
        hot=str(tmp_path / "hot"),
        target_protocol="slowtoremove",
        target_options={"store": tmp_path.as_posix()},
    )
    GatedFileSystem.open_gates()


CHANGES: dict[str, Callable[[TierFileSystem], Any]] = {
    "write": lambda tier: tier.pipe_file("o", b"new"),
    "rm_file": lambda tier: tier.rm_file("o"),
    "rm": lambda tier: tier.rm("d", recursive=True),
    "mv": lambda tier: tier.mv("o", "p"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_fetch_begun_during_a_change_is_not_installed(tier: TierFileSystem, change: str) -> None:
    """The change has fenced the key and dropped the copy, but cold still has the old bytes."""
    key = "d/o" if change == "rm" else "o"
    tier.pipe_file(key, b"old")
    tier.evict(key)
    changing, fetching = Gate(), Gate()
    if change == "write":
        GatedFileSystem.before_put = changing
    else:
        SlowToRemove.gate = changing
    writer = threading.Thread(target=CHANGES[change], args=(tier,))
    writer.start()
    assert changing.reached.wait(30)
    GatedFileSystem.before_get = fetching
    reader = threading.Thread(target=tier.cat_file, args=(key,))
    reader.start()
    assert fetching.reached.wait(30)
    changing.go_on.set()
    writer.join(30)
    fetching.go_on.set()
    reader.join(30)
    GatedFileSystem.before_get = None
    if change == "write":
        assert tier.cat_file(key) == b"new"
        return
    assert not tier.exists(key)
    with pytest.raises(FileNotFoundError):
        tier.cat_file(key)


def test_version_asked_during_a_write_is_not_recorded(tier: TierFileSystem) -> None:
    tier.pipe_file("o", b"old")
    tier.evict("o")
    changing = GatedFileSystem.before_put = Gate()
    writer = threading.Thread(target=tier.pipe_file, args=("o", b"longer"))
    writer.start()
    assert changing.reached.wait(30)
    old = tier.info("o")
    changing.go_on.set()
    writer.join(30)
    new = tier.info("o")
    assert new["size"] == 6
    assert new["etag"] != old["etag"]
    assert new["etag"] == tier.fs.info("o")["etag"]


def change_there(fs: AbstractFileSystem, path: str) -> None:
    """In another process: replace, remove and create."""
    fs.pipe_file(f"{path}/kept", b"longer")
    fs.rm_file(f"{path}/gone")
    fs.pipe_file(f"{path}/new", b"1")


@pytest.mark.server
def test_listings_show_changes_of_other_processes(
    s3_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s3fs remembers listings; those are not to be believed."""
    monkeypatch.setenv("SECRET_HERE", "testing")
    s3_place.options["s3"] |= {name: {"env": "SECRET_HERE"} for name in ("key", "secret")}
    fs, path = s3_place.fs, s3_place.path("d")
    fs.pipe_file(f"{path}/kept", b"1")
    fs.pipe_file(f"{path}/gone", b"1")
    assert len(fs.ls(path)) == len(fs.find(path)) == 2
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=change_there, args=(fs, path))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    names = [f"{path}/kept", f"{path}/new"]
    assert fs.info(f"{path}/kept")["size"] == 6
    assert fs.exists(f"{path}/new")
    assert not fs.exists(f"{path}/gone")
    assert sorted(fs.ls(path, detail=False)) == fs.find(path) == names
    assert [info["size"] for info in fs.ls(path)] == [6, 1]
