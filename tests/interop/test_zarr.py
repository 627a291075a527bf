"""zarr over every place, by URL and by object."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from fsspec import AbstractFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from interop.conftest import Place
from interop.data import earthquakes, temperature
from numpy.testing import assert_array_equal
from packaging.version import Version
from zarr.storage import FsspecStore

CHUNKS = (9, 18, 108)


def by_url(place: Place) -> dict[str, Any]:
    return {"store": f"{place.url}/t.zarr", "storage_options": place.options or None}


def write(place: Place, **how: Any) -> zarr.Array[Any]:
    content = temperature()
    array = zarr.create_array(
        **by_url(place), shape=content.shape, dtype=content.dtype, chunks=CHUNKS, **how
    )
    array[:] = content
    return array


def read(place: Place, key: Any = Ellipsis) -> Any:
    return zarr.open_array(**by_url(place), mode="r")[key]


def test_pandas_then_zarr_then_pandas(place: Place) -> None:
    table = earthquakes()
    url = f"{place.url}/t.parquet"
    table.to_parquet(url, storage_options=place.options or None)
    write(place)
    again = pd.read_parquet(url, storage_options=place.options or None)
    pd.testing.assert_frame_equal(again, table)
    assert_array_equal(read(place), temperature())
    table.head(10).to_csv(f"{place.url}/t.csv", index=False, storage_options=place.options or None)
    csv = pd.read_csv(f"{place.url}/t.csv", storage_options=place.options or None)
    pd.testing.assert_frame_equal(csv, table.head(10))


def test_by_url(place: Place) -> None:
    write(place)
    for found in place.read_twice(lambda: read(place)):
        assert_array_equal(found, temperature())


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_formats(place: Place, zarr_format: int) -> None:
    write(place, zarr_format=zarr_format)
    assert_array_equal(read(place, (3, slice(2, 7))), temperature()[3, 2:7])


def test_sharded(place: Place) -> None:
    write(place, shards=(27, 18, 216))
    place.fs.find(place.path(""))
    for found in place.read_twice(lambda: read(place, (slice(5, 20), 3, slice(100, 120)))):
        assert_array_equal(found, temperature()[5:20, 3, 100:120])
    array = zarr.open_array(**by_url(place), mode="r+")
    array[30, 1, 1] = -1.0
    expected = temperature().copy()
    expected[30, 1, 1] = -1.0
    assert_array_equal(read(place), expected)


def test_overwrite(place: Place) -> None:
    write(place)
    assert_array_equal(read(place), temperature())
    zarr.open_array(**by_url(place), mode="r+")[:] = temperature() * 2
    assert_array_equal(read(place), temperature() * 2)
    smaller = temperature()[:5, :5, :5]
    zarr.create_array(**by_url(place), data=smaller, overwrite=True)
    assert_array_equal(read(place), smaller)
    assert len(place.fs.find(place.path("t.zarr"))) == 2  # nothing is left of the larger one


def test_delete_and_recreate(place: Place) -> None:
    for factor in (1, 2):
        write(place)[:] = temperature() * factor
        assert_array_equal(read(place), temperature() * factor)
        place.fs.rm(place.path("t.zarr"), recursive=True)
        assert not place.fs.exists(place.path("t.zarr/zarr.json"))
        with pytest.raises(FileNotFoundError):
            read(place)


def test_delete_inside_a_group(place: Place) -> None:
    group = zarr.open_group(**by_url(place), mode="w")
    for n in range(3):
        group.create_array(f"a{n}", data=temperature()[n])
    del group["a1"]
    again = zarr.open_group(**by_url(place), mode="r")
    assert sorted(again.array_keys()) == ["a0", "a2"]
    assert_array_equal(again["a2"][:], temperature()[2])  # type: ignore[index]


def test_resize_and_append(place: Place) -> None:
    array = zarr.create_array(**by_url(place), data=temperature()[:20], chunks=CHUNKS)
    array.append(temperature()[20:], axis=0)
    assert_array_equal(read(place), temperature())
    array.resize((9, 18, 432))
    assert_array_equal(read(place), temperature()[:9])


def test_missing_chunks_are_fill_values(place: Place) -> None:
    array = zarr.create_array(**by_url(place), shape=(40,), chunks=(10,), dtype="i4", fill_value=7)
    array[10:20] = 1
    for found in place.read_twice(lambda: read(place)):
        assert_array_equal(found, np.repeat([7, 1, 7, 7], 10))


def test_store_from_url(place: Place) -> None:
    store = FsspecStore.from_url(f"{place.url}/t.zarr", storage_options=place.options or None)
    zarr.create_array(store, data=temperature(), chunks=CHUNKS)
    assert_array_equal(read(place), temperature())
    read_only = FsspecStore.from_url(
        f"{place.url}/t.zarr", storage_options=place.options or None, read_only=True
    )
    assert_array_equal(zarr.open_array(read_only)[:], temperature())
    with pytest.raises(ValueError):
        zarr.open_array(read_only, mode="r+")[0] = 1


def asynchronous(fs: AbstractFileSystem) -> bool:
    return bool(fs.async_impl) and not isinstance(fs, AsyncFileSystemWrapper)


def test_store_from_mapper(place: Place) -> None:
    mapper = place.fs.get_mapper(place.path("t.zarr"))
    store = FsspecStore.from_mapper(mapper)
    assert asynchronous(store.fs)
    zarr.create_array(store, data=temperature(), chunks=CHUNKS)
    assert_array_equal(zarr.open_array(mapper, mode="r")[:], temperature())
    assert_array_equal(read(place), temperature())
    assert len(mapper) == 1 + 6 * 4
    assert mapper["zarr.json"].startswith(b"{")


def test_upath(place: Place) -> None:
    from upath import UPath

    with warnings.catch_warnings():
        # universal-pathlib says so of every protocol that is not its own
        warnings.filterwarnings("ignore", ".*not explicitly implemented", UserWarning)
        path: Any = UPath(f"{place.url}/t.zarr", **place.options)
        (path.parent / "note.txt").write_text("hello")
        assert place.fs.cat_file(place.path("note.txt")) == b"hello"
        if Version(zarr.__version__) < Version("3.2"):
            write(place)
            with pytest.raises(TypeError):  # zarr 3.1 knows no UPath
                zarr.open_array(path, mode="r")
        else:
            zarr.create_array(path, data=temperature(), chunks=CHUNKS)
            assert_array_equal(zarr.open_array(path, mode="r")[:], temperature())
    assert_array_equal(read(place), temperature())


def test_many_arrays_at_once(place: Place) -> None:
    group = zarr.open_group(**by_url(place), mode="w")
    arrays = [
        group.create_array(f"n{n}/t", data=temperature()[n], chunks=(9, 54)) for n in range(4)
    ]
    with zarr.config.set({"async.concurrency": 32}):
        for n, array in enumerate(arrays):
            assert_array_equal(array[:], temperature()[n])
    keys = {path.rpartition("/")[0][-2:] for path in place.fs.glob(place.path("t.zarr/n*/t"))}
    assert keys == {"n0", "n1", "n2", "n3"}


@pytest.mark.server
def test_key_beside_keys_below_it(s3_place: Place) -> None:
    """S3 has no directories: ``a`` and ``a/b`` may both be objects, neither hides the other."""
    assert s3_place.server is not None
    fs, path = s3_place.fs, s3_place.path("d")
    for order in (["a", "a/b"], ["x/y", "x"]):
        for key in order:
            fs.pipe_file(f"{path}/{key}", key.encode())
    keys = ["a", "a/b", "x", "x/y"]
    assert fs.find(path) == [f"{path}/{key}" for key in keys]
    for _ in range(2):
        assert [fs.cat_file(f"{path}/{key}") for key in keys] == [key.encode() for key in keys]
    fs.rm(path, recursive=True)
    for key in keys:
        with pytest.raises(FileNotFoundError):
            s3_place.server.get(f"{path}/{key}")
