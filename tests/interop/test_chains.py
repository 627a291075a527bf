"""Chained URLs: over, under and between fsspec's own layers."""

from __future__ import annotations

import gc
import uuid
import weakref
from pathlib import Path
from typing import Any

import fsspec
import pytest
import zarr
from fsspec.core import url_to_fs
from interop.conftest import Place
from interop.data import temperature
from numpy.testing import assert_array_equal

from vfs import ReadOnlyError
from vfs.testing.servers import S3Server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.make_bucket(uuid.uuid4().hex)


def test_simplecache_over_mem(tmp_path: Path) -> None:
    store = uuid.uuid4().hex
    fsspec.filesystem("mem", store=store).pipe_file("a/b", b"hello")
    options = {"mem": {"store": store}, "simplecache": {"cache_storage": str(tmp_path)}}
    with fsspec.open("simplecache::mem://a/b", **options) as file:
        assert file.read() == b"hello"
    local = fsspec.open_local("simplecache::mem://a/b", **options)
    assert Path(local).read_bytes() == b"hello"


def test_simplecache_over_tier(tier_place: Place, tmp_path: Path) -> None:
    tier_place.fs.pipe_file(tier_place.path("a/b"), b"hello")
    options = {**tier_place.options, "simplecache": {"cache_storage": str(tmp_path / "simple")}}
    local = fsspec.open_local(f"simplecache::{tier_place.url}/a/b", **options)
    assert Path(local).read_bytes() == b"hello"


def test_readonly_over_disk(tmp_path: Path) -> None:
    url = f"readonly::disk://{tmp_path}/a.zarr"
    zarr.create_array(f"disk://{tmp_path}/a.zarr", data=temperature(), chunks=(9, 18, 108))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    array = zarr.open_array(url, mode="r")
    assert_array_equal(array[:], temperature())
    with pytest.raises(ReadOnlyError):
        zarr.open_array(url, mode="r+")[0] = 1
    with pytest.raises(ReadOnlyError):
        zarr.open_group(url, mode="w")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.server
def test_readonly_over_s3(s3: S3Server, bucket: str) -> None:
    plain: dict[str, Any] = {"storage_options": s3.storage_options}
    zarr.create_array(f"s3://{bucket}/a.zarr", data=temperature(), chunks=(9, 18, 108), **plain)
    url, options = f"readonly::s3://{bucket}/a.zarr", {"s3": s3.storage_options}
    array = zarr.open_array(url, mode="r", storage_options=options)
    assert_array_equal(array[:], temperature())
    s3.reset()
    modes: list[Any] = ["r+", "a"]
    for mode in modes:
        with pytest.raises(ReadOnlyError):
            zarr.open_array(url, mode=mode, storage_options=options)[0] = 1
    fs, path = url_to_fs(url, **options)
    with pytest.raises(ReadOnlyError):
        fs.rm(path, recursive=True)
    assert not [record for record in s3.requests() if record.method not in {"GET", "HEAD"}]


@pytest.mark.server
def test_tier_over_readonly_over_s3(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    plain: dict[str, Any] = {"storage_options": s3.storage_options}
    zarr.create_array(f"s3://{bucket}/a.zarr", data=temperature(), chunks=(9, 18, 108), **plain)
    options = {"tier": {"hot": str(tmp_path / "hot")}, "s3": s3.storage_options}
    place = Place(f"tier::readonly::s3://{bucket}", options, s3)
    url = f"{place.url}/a.zarr"
    for found in place.read_twice(
        lambda: zarr.open_array(url, storage_options=options, mode="r")[:]
    ):
        assert_array_equal(found, temperature())
    s3.reset()
    with pytest.raises(ReadOnlyError):
        zarr.open_array(url, mode="r+", storage_options=options)[0] = 1
    assert_array_equal(zarr.open_array(url, storage_options=options, mode="r")[0], temperature()[0])
    assert not [record for record in s3.requests() if record.method not in {"GET", "HEAD"}]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("chain", ["tier::readonly::disk", "readonly::tier::disk"])
def test_fifty_paths_are_one_instance(tmp_path: Path, chain: str, asynchronous: bool) -> None:
    options: dict[str, Any] = {"tier": {"hot": str(tmp_path / "hot")}, "asynchronous": asynchronous}
    found = {
        id(fs): fs
        for fs in (url_to_fs(f"{chain}://{tmp_path}/cold/{n}", **options)[0] for n in range(50))
    }
    assert len(found) == 1
    (fs,) = found.values()
    inner = {id(url_to_fs(f"{chain}://{tmp_path}/cold/{n}", **options)[0].fs) for n in range(50)}
    assert inner == {id(fs.fs)}


def test_fifty_files_are_one_instance(tier_place: Place) -> None:
    fs = tier_place.fs
    fs.pipe({tier_place.path(f"{n}"): b"%d" % n for n in range(50)})
    urls = [f"{tier_place.url}/{n}" for n in range(50)]
    files = fsspec.open_files(urls, **tier_place.options)
    assert {id(file.fs) for file in files} == {id(fs)}
    with files as opened:
        assert [file.read() for file in opened] == [b"%d" % n for n in range(50)]
    files = fsspec.open_files(f"{tier_place.url}/*", **tier_place.options)
    assert len(files) == 50


def test_instances_can_be_forgotten(tier_place: Place) -> None:
    fs = tier_place.fs
    fs.pipe_file(tier_place.path("o"), b"1")
    seen = weakref.ref(fs)
    type(fs).clear_instance_cache()
    del fs
    gc.collect()
    assert seen() is None
    assert tier_place.fs.cat_file(tier_place.path("o")) == b"1"
