"""Writes, removals, copies and moves: both tiers agree, and failures leave nothing stale."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tier_tools import GatedFileSystem, hot_files, open_tier

from vfs.errors import ConflictError, ReadOnlyError, UnavailableError
from vfs.tier.filesystem import TierFileSystem


def cold(top: Path, key: str) -> Path:
    return top / "cold" / key


def test_write_through_puts_the_same_bytes_in_both_tiers(
    tier: TierFileSystem, tmp_path: Path
) -> None:
    tier.pipe_file("a/b", b"one")
    assert cold(tmp_path, "a/b").read_bytes() == b"one"
    assert hot_files(tmp_path) == {"a/b": b"one"}
    tier.pipe_file("a/b", b"two!")
    assert cold(tmp_path, "a/b").read_bytes() == b"two!"
    assert hot_files(tmp_path) == {"a/b": b"two!"}
    assert tier.stats().hot_bytes == 4


def test_write_around_leaves_no_hot_copy(tmp_path: Path) -> None:
    open_tier(tmp_path).pipe_file("a", b"old")
    around = open_tier(tmp_path, write="around")
    around.pipe_file("a", b"new")
    assert hot_files(tmp_path) == {}
    assert cold(tmp_path, "a").read_bytes() == b"new"
    assert around.cat_file("a") == b"new"
    assert hot_files(tmp_path) == {"a": b"new"}, "reading promotes"


def test_exclusive_create_keeps_hot_copy(tier: TierFileSystem, tmp_path: Path) -> None:
    tier.pipe_file("a", b"first")
    before = tier.stats().cold_requests
    with pytest.raises(FileExistsError):
        tier.pipe_file("a", b"second", mode="create")
    assert hot_files(tmp_path) == {"a": b"first"}
    assert tier.stats().cold_requests == before, "a hot copy answers without a request"
    tier.evict("a")
    with pytest.raises(FileExistsError):
        tier.pipe_file("a", b"second", mode="create")
    assert tier.cat_file("a") == b"first"


def test_failed_cold_write_leaves_the_old_object_and_no_hot_copy(
    gated: TierFileSystem, tmp_path: Path
) -> None:
    gated.pipe_file("k", b"old")

    def refuse(key: str) -> None:
        raise UnavailableError("unplugged", key)

    GatedFileSystem.before_put = refuse
    with pytest.raises(UnavailableError):
        gated.pipe_file("k", b"new")
    assert hot_files(tmp_path) == {}
    GatedFileSystem.before_put = None
    assert gated.cat_file("k") == b"old"


def test_removal_leaves_nothing(tier: TierFileSystem, tmp_path: Path) -> None:
    tier.pipe_file("a/b", b"x")
    tier.rm_file("a/b")
    assert hot_files(tmp_path) == {}
    assert not tier.exists("a/b")
    with pytest.raises(FileNotFoundError) as caught:
        tier.rm_file("a/b")
    assert caught.value.errno == errno.ENOENT
    assert tier.stats().hot_bytes == 0


def test_recursive_removal_of_a_tree(tier: TierFileSystem, tmp_path: Path) -> None:
    for number in range(1500):
        tier.pipe_file(f"t/{number % 7}/{number}", b"x")
    tier.pipe_file("t2", b"stays")
    tier.rm("t", recursive=True)
    assert tier.find("") == ["t2"]
    assert hot_files(tmp_path) == {"t2": b"stays"}
    assert (tier.stats().hot_objects, tier.stats().hot_bytes) == (1, 5)
    tier.rm("t", recursive=True)


@pytest.mark.parametrize("hot_source", [True, False])
def test_copy_and_move(tier: TierFileSystem, hot_source: bool) -> None:
    tier.pipe_file("a", b"source")
    tier.pipe_file("b", b"overwritten")
    tier.pipe_file("c", b"overwritten too")
    if not hot_source:
        tier.evict("a")
    tier.cp_file("a", "b")
    assert tier.cat_file("b") == b"source"
    tier.mv("a", "c")
    assert tier.cat_file("c") == b"source"
    assert not tier.exists("a")
    with pytest.raises(FileNotFoundError):
        tier.cat_file("a")


def test_writes_of_one_instance_are_seen_by_another(tmp_path: Path) -> None:
    one = open_tier(tmp_path)
    other = open_tier(tmp_path, promote="never")
    assert one is not other
    one.pipe_file("a", b"1")
    assert other.cat_file("a") == b"1"
    assert other.info("a")["size"] == 1
    other.pipe_file("a", b"22")
    assert one.cat_file("a") == b"22"
    assert one.info("a")["size"] == 2
    one.rm_file("a")
    assert not other.exists("a")


def test_append_based_on_an_older_version_is_refused(tier: TierFileSystem) -> None:
    tier.pipe_file("log", b"1")
    slow = tier.open("log", "ab")
    slow.write(b"2")
    with tier.open("log", "ab") as fast:
        fast.write(b"3")
    with pytest.raises(ConflictError) as caught:
        slow.close()
    assert caught.value.errno == errno.ESTALE
    slow.discard()
    slow.close()
    assert tier.cat_file("log") == b"13"


def test_a_file_larger_than_memory_staging(tier: TierFileSystem, tmp_path: Path) -> None:
    block = bytes(range(256)) * 4096
    with tier.open("big", "wb") as file:
        for _ in range(20):
            file.write(block)
        file.seek(0)
        file.write(b"patched")
    expected = b"patched" + (block * 20)[7:]
    assert cold(tmp_path, "big").read_bytes() == expected
    assert tier.cat_file("big") == expected
    tier.evict("big")
    with tier.open("big") as file:
        assert file.read() == expected


def test_transaction_publishes_all_or_nothing(tier: TierFileSystem) -> None:
    with tier.transaction:
        tier.pipe_file("a", b"1")
        with tier.open("b", "wb") as file:
            file.write(b"2")
        assert tier.find("") == []
    assert tier.cat_file("a") == b"1"
    assert tier.cat_file("b") == b"2"
    with contextlib.suppress(RuntimeError), tier.transaction:
        tier.pipe_file("c", b"3")
        raise RuntimeError
    assert tier.find("") == ["a", "b"]


def test_read_only_cold_refuses_before_anything_is_touched(tmp_path: Path) -> None:
    plain = open_tier(tmp_path)
    plain.pipe_file("a", b"1")
    chain, path = fsspec.url_to_fs(
        f"tier::readonly::disk://{tmp_path}/cold/a", tier={"hot": str(tmp_path / "hot2")}
    )
    assert chain.cat_file(path) == b"1"
    calls: list[Callable[[], Any]] = [
        lambda: chain.pipe_file(path, b"2"),
        lambda: chain.rm(path),
        lambda: chain.open(path, "wb"),
        lambda: chain.mv(path, f"{path}2"),
        lambda: chain.cp_file(path, f"{path}2"),
        lambda: chain.rm(path, recursive=True),
    ]
    for call in calls:
        with pytest.raises(ReadOnlyError) as caught:
            call()
        assert caught.value.errno == errno.EROFS
    assert chain.status(path).state == "HOT"
    assert plain.cat_file("a") == b"1"
