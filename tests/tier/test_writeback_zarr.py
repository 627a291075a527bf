"""zarr under write-back: the order cold sees, and cold alone being complete after a flush."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from tier_tools import AT_ONCE, GatedFileSystem

from vfs.backends.mem import MemFileSystem
from vfs.policies.zarrorder import node_of, rank_of
from vfs.testing.servers import S3Server
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.schedule import waits_for


def options_of(top: Path, **options: Any) -> dict[str, Any]:
    return {
        "hot": str(top / "hot"),
        "target_protocol": "gated",
        "target_options": {"store": top.as_posix()},
        "write": "back",
        "quiet_s": 0.5,
        **AT_ONCE,
        **options,
    }


def open_gated(top: Path, **options: Any) -> TierFileSystem:
    found: TierFileSystem = fsspec.filesystem(
        "tier", asynchronous=True, **options_of(top, **options)
    )
    return found


def store_of(fs: Any, path: str) -> Any:
    return zarr.storage.FsspecStore(fs, path=path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_cold_never_shows_metadata_before_chunks(tmp_path: Path, zarr_format: Any) -> None:
    """Look at cold after each request that changed it."""
    tier = open_gated(tmp_path, quiet_s=1e9)  # a machine may pause for longer than a writer
    cold = MemFileSystem(store=tmp_path.as_posix(), asynchronous=True)
    wrong: list[str] = []
    order: list[str] = []
    chunks = {f"{i}/{j}" for i, j in itertools.product(range(8), range(8))}

    def look(key: str) -> None:
        order.append(key)
        if rank_of(key) == 0:
            return
        there = set(cold.find(node_of(key)))
        lead = "g/a/c/" if zarr_format == 3 else "g/a/"
        missing = {
            f"{lead}{c if zarr_format == 3 else c.replace('/', '.')}" for c in chunks
        } - there
        wrong.extend([f"{key} before {len(missing)} chunks"] if missing else [])

    GatedFileSystem.after_put = look
    group = zarr.open_group(store_of(tier, "g"), mode="w", zarr_format=zarr_format)
    array = group.create_array("a", shape=(64, 64), chunks=(8, 8), dtype="f8", fill_value=0)
    array[:] = np.arange(4096.0).reshape(64, 64) + 1
    zarr.consolidate_metadata(store_of(tier, "g"), zarr_format=zarr_format)
    tier.flush()
    assert wrong == []
    metadata = [key for key in order if rank_of(key)]
    depths = [key.count("/") for key in metadata]
    assert depths == sorted(depths, reverse=True), "arrays before groups"
    if zarr_format == 2:
        assert metadata[-1] == "g/.zmetadata"
    alone = zarr.open_array(store_of(cold, "g/a"), mode="r")
    assert np.array_equal(np.asarray(alone[:]), np.asarray(array[:]))


def test_metadata_waits_while_its_node_is_written(tmp_path: Path) -> None:
    tier = open_gated(tmp_path, quiet_s=1e9)
    cold = MemFileSystem(store=tmp_path.as_posix(), asynchronous=True)
    tier.pipe_file("a/zarr.json", b"{}")
    for number in range(10):
        tier.pipe_file(f"a/c/{number}", b"x")
    tier.flush("a/c")
    assert len(cold.find("a/c")) == 10
    tier.flush()
    assert cold.exists("a/zarr.json")


def test_chunk_that_fails_holds_its_metadata(tmp_path: Path) -> None:
    tier = open_gated(tmp_path, quiet_s=1e9)

    def refuse(key: str) -> None:
        if key == "a/c/1":
            raise PermissionError(13, "not this one", key)

    GatedFileSystem.before_put = refuse
    for key in ("a/zarr.json", "a/c/0", "a/c/1", "b/zarr.json"):
        tier.pipe_file(key, b"x")
    with pytest.raises(OSError, match="not this one"):
        tier.flush()
    cold = MemFileSystem(store=tmp_path.as_posix(), asynchronous=True)
    assert cold.find("") == ["a/c/0", "b/zarr.json"]


def test_removal_takes_metadata_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = open_gated(tmp_path)
    group = zarr.open_group(store_of(tier, "g"), mode="w")
    array = group.create_array("a", shape=(16,), chunks=(4,), dtype="i4", fill_value=0)
    array[:] = 7
    tier.flush()
    order: list[str] = []
    real = GatedFileSystem.delete_object

    def delete(self: Any, key: str) -> None:
        order.append(key)
        real(self, key)

    monkeypatch.setattr(GatedFileSystem, "delete_object", delete)
    tier.rm("g", recursive=True)
    tier.flush()
    assert [key for key in order if rank_of(key)] == ["g/zarr.json", "g/a/zarr.json"]
    assert all(rank_of(key) == 0 for key in order[2:])
    assert len(order) == 6


@pytest.mark.parametrize(
    "change, other, expected",
    [
        (("put", "g/a/zarr.json"), ("put", "g/a/c/0"), True),
        (("put", "g/zarr.json"), ("put", "g/a/zarr.json"), True),
        (("put", "g/a/zarr.json"), ("put", "g/b/c/0"), False),
        (("put", "g/a/c/0"), ("put", "g/a/zarr.json"), False),
        (("delete", "g/a/c/0"), ("delete", "g/a/zarr.json"), True),
        (("delete", "g/a/c/0"), ("put", "g/zarr.json"), True),
        (("put", "x/y"), ("delete", "x"), True),
        (("put", "x"), ("delete", "x/y"), True),
        (("put", "x"), ("put", "x/y"), False),
    ],
)
def test_what_waits_for_what(change: Any, other: Any, expected: bool) -> None:
    assert waits_for(change_of(*change), change_of(*other)) == expected


def change_of(kind: str, key: str) -> Any:
    from vfs.tier.change import Change, Kind, State

    made = Kind.PUT if kind == "put" else Kind.DELETE
    return Change(key, 1, made, "", 0, "", 0.0, 0.0, 0.0, None, (), State.WAITING, 0, 0.0, "")


@pytest.mark.server
@pytest.mark.timeout(300)
def test_zarr_over_a_store_that_fails_every_tenth_request(s3: S3Server, tmp_path: Path) -> None:
    """After a flush, cold alone, read without this library, is what was written."""
    bucket = s3.make_bucket("write-back-zarr")
    tier: Any = fsspec.filesystem(
        "tier",
        asynchronous=True,
        target_protocol="s3",
        target_options=s3.storage_options,
        hot=str(tmp_path / "hot"),
        write="back",
        quiet_s=0.2,
    )
    for number in range(300):
        s3.fail_next(503, skip=9 * number, times=1, prefix=bucket)
    values = np.random.default_rng(1).random((64, 64))
    group = zarr.open_group(store_of(tier, f"{bucket}/g"), mode="w")
    arrays = [
        group.create_array(f"a{n}", shape=(64, 64), chunks=(16, 16), dtype="f8") for n in range(4)
    ]

    def write(n: int) -> None:
        arrays[n][:] = values * n

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tier.flush() == 0
    s3.reset()
    plain = fsspec.filesystem("s3", **s3.storage_options, asynchronous=True)
    alone: Any = zarr.open_group(store_of(plain, f"{bucket}/g"), mode="r")
    for n in range(4):
        assert (alone[f"a{n}"][:] == values * n).all()
