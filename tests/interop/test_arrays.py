"""zarr, xarray, h5py, tifffile and netCDF through a tier, on real files."""

from __future__ import annotations

import asyncio
import io
import pickle
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray as xr
import zarr
from packaging.version import Version
from upath import UPath
from zarr.storage import FsspecStore

DATA = np.arange(64 * 48, dtype="f4").reshape(64, 48)
NEW_ZARR = Version(zarr.__version__) >= Version("3.2")


@pytest.fixture(params=["tier", "disk", "mem"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """A URL to write below, and its options."""
    if request.param == "tier":
        return "tier://", {"hot": str(tmp_path / "hot"), "cold": str(tmp_path / "cold")}
    if request.param == "disk":
        return f"disk://{tmp_path}/", {}
    return "mem://interop/", {"store": tmp_path.as_posix()}


def create(url: str, options: dict[str, Any], **kwargs: Any) -> Any:
    kwargs = {"chunks": (16, 16), "shape": DATA.shape, "dtype": DATA.dtype, **kwargs}
    array = zarr.create_array(url, storage_options=options, overwrite=True, **kwargs)
    array[:] = DATA
    return array


@pytest.mark.parametrize("layout", [{}, {"shards": (32, 32)}, {"compressors": None}])
def test_zarr_by_url(place: tuple[str, dict[str, Any]], layout: dict[str, Any]) -> None:
    url, options = place[0] + "a.zarr", place[1]
    create(url, options, **layout)
    again = zarr.open_array(url, mode="r", storage_options=options)
    np.testing.assert_array_equal(again[:], DATA)
    np.testing.assert_array_equal(again[5:40:3, 7:9], DATA[5:40:3, 7:9])
    writable = zarr.open_array(url, mode="r+", storage_options=options)
    writable[3:20, 5] = -1
    expected = DATA.copy()
    expected[3:20, 5] = -1
    np.testing.assert_array_equal(again[:], expected)


def test_zarr_overwritten_and_recreated(place: tuple[str, dict[str, Any]]) -> None:
    url, options = place[0] + "a.zarr", place[1]
    create(url, options)
    fs, path = fsspec.url_to_fs(url, **options)
    zarr.create_array(
        url, storage_options=options, overwrite=True, shape=(5,), chunks=(2,), dtype="i8"
    )
    empty = zarr.open_array(url, mode="r", storage_options=options)[:]
    np.testing.assert_array_equal(empty, np.zeros(5, "i8"))
    fs.rm(path, recursive=True)
    assert not fs.exists(path)
    with pytest.raises(FileNotFoundError):
        zarr.open_array(url, mode="r", storage_options=options)
    create(url, options)
    np.testing.assert_array_equal(zarr.open_array(url, mode="r", storage_options=options)[:], DATA)


@pytest.mark.parametrize("way", ["from_url", "from_mapper", "fs", "upath"])
def test_zarr_stores(place: tuple[str, dict[str, Any]], way: str) -> None:
    url, options = place[0] + "a.zarr", place[1]
    create(url, options)
    fs, path = fsspec.url_to_fs(url, **options)
    if way == "from_url":
        store: Any = FsspecStore.from_url(url, storage_options=options, read_only=True)
    elif way == "from_mapper":
        store = FsspecStore.from_mapper(fs.get_mapper(path), read_only=True)
    elif way == "fs":
        asynchronous = type(fs)(**{**fs.storage_options, "asynchronous": True})
        store = FsspecStore(asynchronous, path=path, read_only=True)
    else:
        if not NEW_ZARR:
            pytest.skip("zarr 3.1 hands a synchronous UPath on as it is and warns")
        store = FsspecStore.from_upath(UPath(url, **options), read_only=True)
    array = zarr.open_array(store, mode="r")
    np.testing.assert_array_equal(array[:], DATA)
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(zarr.open_array(copy, mode="r")[:], DATA)


def test_pandas_then_zarr_then_pandas_on_one_url(place: tuple[str, dict[str, Any]]) -> None:
    url, options = place
    frame = pd.DataFrame({"x": range(1000), "y": np.linspace(0, 1, 1000)})
    frame.to_parquet(url + "t.parquet", storage_options=options)
    create(url + "a.zarr", options)
    pd.testing.assert_frame_equal(
        pd.read_parquet(url + "t.parquet", storage_options=options), frame
    )
    np.testing.assert_array_equal(
        zarr.open_array(url + "a.zarr", mode="r", storage_options=options)[:], DATA
    )
    frame.to_csv(url + "t.csv", storage_options=options, index=False)
    back = pd.read_csv(url + "t.csv", storage_options=options)
    pd.testing.assert_frame_equal(back, frame)


def netcdf_files() -> list[Path]:
    import iris_sample_data

    files = sorted(Path(iris_sample_data.path).rglob("*.nc"))
    wanted = [path for path in files if path.name.startswith(("A1B", "E1", "nemo_1m_20150101"))]
    assert wanted
    return wanted[:3]


def test_xarray_round_trip_of_real_files(place: tuple[str, dict[str, Any]]) -> None:
    url, options = place
    for number, path in enumerate(netcdf_files()):
        with xr.open_dataset(path, decode_timedelta=False) as opened:
            source = opened.load()
            for name in source.variables:
                source[name].encoding.clear()
            source.to_zarr(f"{url}{number}.zarr", mode="w", storage_options=options)
            with xr.open_zarr(
                f"{url}{number}.zarr", storage_options=options, decode_timedelta=False
            ) as back:
                xr.testing.assert_identical(back.load(), source)


def test_xarray_append_and_replace(place: tuple[str, dict[str, Any]]) -> None:
    url, options = place[0] + "x.zarr", place[1]
    first = xr.Dataset({"v": ("t", np.arange(5.0))}, {"t": np.arange(5)})
    second = xr.Dataset({"v": ("t", np.arange(5.0, 8))}, {"t": np.arange(5, 8)})
    first.to_zarr(url, mode="w", storage_options=options)
    second.to_zarr(url, append_dim="t", storage_options=options)
    with xr.open_zarr(url, storage_options=options) as back:
        np.testing.assert_array_equal(back["v"], np.arange(8.0))
    smaller = xr.Dataset({"w": ("t", np.ones(2))})
    smaller.to_zarr(url, mode="w", storage_options=options)
    with xr.open_zarr(url, storage_options=options) as back:
        xr.testing.assert_identical(back.load(), smaller)


def test_h5py_tifffile_and_netcdf_written_and_read(place: tuple[str, dict[str, Any]]) -> None:
    url, options = place
    fs, root = fsspec.url_to_fs(url, **options)
    root = f"{root}/" if root else ""
    with fs.open(f"{root}a.h5", "wb") as file, h5py.File(file, "w") as h5:
        h5.create_dataset("d", data=DATA, chunks=(16, 16), compression="gzip")
    with fs.open(f"{root}a.h5") as file, h5py.File(file, "r") as h5:
        np.testing.assert_array_equal(h5["d"][:], DATA)
    with fs.open(f"{root}a.tif", "wb") as file:
        tifffile.imwrite(file, DATA, tile=(16, 16))
    with fs.open(f"{root}a.tif") as file:
        np.testing.assert_array_equal(tifffile.imread(file), DATA)
    dataset = xr.Dataset({"v": (("y", "x"), DATA)})
    with fs.open(f"{root}a.nc", "wb") as file:
        dataset.to_netcdf(file, engine="h5netcdf")
    with fs.open(f"{root}a.nc") as file, xr.open_dataset(file, engine="h5netcdf") as back:
        xr.testing.assert_identical(back.load(), dataset)


def test_one_instance_serves_zarr_loops_and_threads(tmp_path: Path) -> None:
    options = {"hot": str(tmp_path / "hot"), "cold": "memory://interop-loops"}
    create("tier://a.zarr", options)
    fs = fsspec.filesystem("tier", **options)
    fs.evict("", recursive=True)

    async def read() -> Any:
        return await fs._cat_file("a.zarr/zarr.json")

    assert fs.cat_file("a.zarr/zarr.json") == asyncio.run(read())
    np.testing.assert_array_equal(
        zarr.open_array("tier://a.zarr", mode="r", storage_options=options)[:], DATA
    )
    assert fs.stats().hot_objects > 1
    fsspec.filesystem("memory").rm("/interop-loops", recursive=True)


def test_lost_chunk_is_never_fill_values(tmp_path: Path) -> None:
    """A cold store that fails must not look like chunks that were never written."""
    options = {"hot": str(tmp_path / "hot"), "cold": str(tmp_path / "cold")}
    create("tier://a.zarr", options, compressors=None)
    fs = fsspec.filesystem("tier", **options)
    fs.evict("", recursive=True)
    chunk = tmp_path / "cold/a.zarr/c/0/0"
    chunk.unlink()
    chunk.symlink_to(chunk)  # every read of it now fails with ELOOP
    with pytest.raises(OSError, match="symbolic"):
        zarr.open_array("tier://a.zarr", mode="r", storage_options=options)[:16, :16]


def test_text_and_partial_reads_of_a_real_csv(tmp_path: Path) -> None:
    import bokeh_sampledata

    source = next(Path(bokeh_sampledata.__file__).parent.rglob("*.csv"))
    options = {"hot": str(tmp_path / "hot"), "cold": str(tmp_path / "cold"), "promote": "never"}
    fs = fsspec.filesystem("tier", write="around", **options)
    fs.put_file(str(source), "t.csv")
    with fs.open("t.csv", "rt", encoding="utf-8") as file, source.open(encoding="utf-8") as plain:
        assert list(file) == list(plain)
    buffer = io.BytesIO()
    fs.get_file("t.csv", buffer)
    assert buffer.getvalue() == source.read_bytes()
