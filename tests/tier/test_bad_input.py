"""Wrong options and odd names: a clear error, nothing lost, nothing touched outside the roots."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tier_tools import hot_files, open_tier

from vfs.core.engine import close_engines
from vfs.errors import ConfigError
from vfs.tier.filesystem import TierFileSystem


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hot": ""},
        {"hot": 5},
        {"hot": "s3://bucket/hot"},
        {"hot": "memory://hot"},
        {"hot": "readonly::file:///x"},
        {"hot": "HOT"},
        {"hot": "HOT", "cold": "nosuchprotocol://x"},
        {"hot": "HOT", "cold": "COLD", "max_byte": 3},
        {"hot": "HOT", "cold": "COLD", "write": "back", "durability": "eternal"},
        {"hot": "HOT", "cold": "COLD", "write": "back", "max_dirty_bytes": 0},
        {"hot": "HOT", "cold": "COLD", "write": "back", "max_lag_s": -1},
        {"hot": "HOT", "cold": "COLD", "write": "back", "quiet_s": "long"},
        {"hot": "HOT", "cold": "COLD", "durability": "process"},
        {"hot": "HOT", "cold": "COLD", "write": "sideways"},
        {"hot": "HOT", "cold": "COLD", "promote": "sometimes"},
        {"hot": "HOT", "cold": "COLD", "promote_max_bytes": "many"},
        {"hot": "HOT", "cold": "COLD", "pin": 7},
        {"hot": "HOT", "cold": "COLD", "pin": [""]},
        {"hot": "HOT", "cold": "COLD", "target_protocol": "mem"},
        {"hot": "HOT", "cold": "HOT"},
        {"hot": "HOT", "cold": "HOT/inside"},
        {"hot": "COLD/inside", "cold": "COLD"},
        {"hot": "HOT", "cold": "file://HOT"},
        {"hot": "HOT", "cold": "disk:///"},
        {"hot": "HOT", "cold": "COLD", "cold_options": {"durabilty": "power"}},
    ],
)
def test_bad_options_are_refused_before_any_io(tmp_path: Path, options: dict[str, Any]) -> None:
    for key, value in options.items():
        if isinstance(value, str):
            options[key] = value.replace("HOT", f"{tmp_path}/hot").replace(
                "COLD", f"{tmp_path}/cold"
            )
    with pytest.raises(ConfigError) as caught:
        fsspec.filesystem("tier", skip_instance_cache=True, **options)
    assert str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_unknown_option_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_bytes"):
        open_tier(tmp_path, max_bites=3)


def test_hot_through_a_link_into_cold_is_seen(tmp_path: Path) -> None:
    (tmp_path / "cold").mkdir()
    (tmp_path / "hot").symlink_to(tmp_path / "cold")
    with pytest.raises(ConfigError):
        open_tier(tmp_path)


def test_hot_directory_of_another_cold_store_is_refused(tmp_path: Path) -> None:
    open_tier(tmp_path).pipe_file("a", b"1")
    TierFileSystem.clear_instance_cache()
    close_engines()
    other = fsspec.filesystem("tier", hot=str(tmp_path / "hot"), cold=str(tmp_path / "cold2"))
    calls: list[Callable[[], Any]] = [
        lambda: other.cat_file("a"),
        lambda: other.pipe_file("a", b"2"),
        other.stats,
    ]
    for call in calls:
        with pytest.raises(ConfigError):
            call()
    assert hot_files(tmp_path) == {"a": b"1"}


def test_layers_over_different_stores_are_different_cold_stores(tmp_path: Path) -> None:
    hot = str(tmp_path / "hot")
    for store in ("p", "q"):
        fsspec.filesystem("mem", store=f"identity-{store}").pipe_file("k", store.encode())

    def over(store: str) -> Any:
        inner = {"target_protocol": "mem", "target_options": {"store": f"identity-{store}"}}
        return fsspec.filesystem("tier", hot=hot, target_protocol="readonly", target_options=inner)

    assert over("p").cat_file("k") == b"p"
    with pytest.raises(ConfigError):
        over("q").cat_file("k")


def test_hot_directory_with_foreign_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hot").mkdir()
    (tmp_path / "hot/thesis.tex").write_text("irreplaceable")
    tier = open_tier(tmp_path)
    with pytest.raises(ConfigError):
        tier.exists("x")
    assert [path.name for path in (tmp_path / "hot").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", "..", "./x", "a/./b", "nul\0x"])
def test_names_that_could_reach_outside_are_refused(
    tier: TierFileSystem, tmp_path: Path, name: str
) -> None:
    (tmp_path / "x").write_bytes(b"outside")
    calls: list[Callable[[], Any]] = [
        lambda: tier.cat_file(name),
        lambda: tier.info(name),
        lambda: tier.pipe_file(name, b"1"),
        lambda: tier.rm_file(name),
        lambda: tier.rm(name, recursive=True),
        lambda: tier.open(name, "wb"),
        lambda: tier.evict(name),
        lambda: tier.promote(name),
        lambda: tier.status(name),
        lambda: tier.pin(name),
    ]
    for call in calls:
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EINVAL
    assert (tmp_path / "x").read_bytes() == b"outside"


@pytest.mark.parametrize(
    "name", ["a b", "%41", "100%", "a*b", "a[0]", "a?b", "naïve", "日本/語", "#", "a\nb", "~", "-"]
)
def test_odd_names_are_ordinary(tier: TierFileSystem, name: str) -> None:
    tier.pipe_file(name, name.encode())
    tier.evict(name)
    assert tier.cat_file(name) == name.encode()
    assert tier.find("") == [name]
    assert tier.status(name).state == "HOT"
    tier.rm_file(name)
    assert tier.find("") == []


def test_name_too_long_for_the_disk_stays_cold(tmp_path: Path) -> None:
    fs, path = fsspec.url_to_fs(f"tier::mem://{'n' * 300}", tier={"hot": str(tmp_path / "hot")})
    fs.pipe_file(path, b"1")
    assert fs.cat_file(path) == b"1"
    assert fs.cat_file(path) == b"1"
    assert fs.status(path).state == "COLD"
    assert fs.stats().hot_bytes == 0
    fs.rm_file(path)


def test_name_too_long_for_cold_is_an_error(tier: TierFileSystem) -> None:
    with pytest.raises(OSError) as caught:
        tier.pipe_file("n" * 300, b"1")
    assert caught.value.errno == errno.ENAMETOOLONG


def test_the_state_directory_is_out_of_reach(tier: TierFileSystem, tmp_path: Path) -> None:
    tier.pipe_file("a", b"1")
    assert not tier.exists(".vfs/tier.json")
    tier.pipe_file(".vfs/tier.json", b"mine")
    assert tier.cat_file(".vfs/tier.json") == b"mine"
    assert b"cold" in (tmp_path / "hot/.vfs/tier.json").read_bytes()
    tier.rm_file(".vfs/tier.json")
    assert (tmp_path / "hot/.vfs/tier.json").exists()


def test_doubled_slashes_are_another_object_on_flat_stores(tmp_path: Path) -> None:
    fs, _ = fsspec.url_to_fs("tier::memory://x", tier={"hot": str(tmp_path / "hot")})
    fs.fs.store.clear()
    fs.pipe_file("/d/k", b"one")
    fs.fs.store["/d//k"] = fs.fs.store["/d/k"].__class__(fs.fs, "/d//k", b"other")
    assert fs.cat_file("/d//k") == b"other"
    assert fs.cat_file("/d/k") == b"one"
    fs.fs.store.clear()


def test_objects_where_directories_are(tier: TierFileSystem) -> None:
    tier.pipe_file("d/x", b"1")
    calls: list[Callable[[], Any]] = [
        lambda: tier.cat_file("d"),
        lambda: tier.open("d"),
        lambda: tier.pipe_file("d/", b""),
        lambda: tier.open("d/", "wb"),
        lambda: tier.status("d"),
        lambda: tier.evict("d"),
        lambda: tier.promote("d"),
        lambda: tier.rm("d"),
    ]
    for call in calls:
        with pytest.raises(IsADirectoryError) as caught:
            call()
        assert caught.value.errno == errno.EISDIR
    assert tier.cat_file("d/x") == b"1"
    with pytest.raises(NotADirectoryError):
        tier.pipe_file("d/x/y", b"")
    assert tier.cat_file("d/x") == b"1"


def test_paths_in_the_hot_directory_are_refused_through_a_chain(tmp_path: Path) -> None:
    fs, path = fsspec.url_to_fs(
        f"tier::disk://{tmp_path}/cold/a", tier={"hot": str(tmp_path / "hot")}
    )
    fs.pipe_file(path, b"1")
    with pytest.raises(OSError) as caught:
        fs.cat_file(f"{tmp_path}/hot/{path.lstrip('/')}")
    assert caught.value.errno == errno.EINVAL
    assert fs.ls(str(tmp_path), detail=False) == [f"{tmp_path}/cold"]
    assert os.path.exists(f"{tmp_path}/hot/{path}")
