"""xarray over every place: datasets as zarr and as netCDF."""

from __future__ import annotations

from typing import Any

import pytest
import xarray as xr
from interop.conftest import Place
from interop.data import HYBRID, OSTIA, ostia


def keywords(place: Place) -> dict[str, Any]:
    return {"storage_options": place.options or None}


def read(place: Place) -> xr.Dataset:
    with xr.open_zarr(f"{place.url}/d.zarr", **keywords(place)) as dataset:
        return dataset.load()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr(place: Place, zarr_format: Any) -> None:
    ostia().to_zarr(f"{place.url}/d.zarr", zarr_format=zarr_format, **keywords(place))
    for found in place.read_twice(lambda: read(place)):
        xr.testing.assert_identical(found, ostia())


def test_append(place: Place) -> None:
    url = f"{place.url}/d.zarr"
    parts = [ostia().isel(time=slice(start, start + 18)) for start in (0, 18, 36)]
    parts[0].to_zarr(url, **keywords(place))
    for part in parts[1:]:
        part.to_zarr(url, append_dim="time", **keywords(place))
    for found in place.read_twice(lambda: read(place)):
        xr.testing.assert_identical(found, ostia())


def test_replace(place: Place) -> None:
    url = f"{place.url}/d.zarr"
    ostia().to_zarr(url, mode="w", **keywords(place))
    xr.testing.assert_identical(read(place), ostia())
    other = (ostia().isel(time=slice(7), latitude=slice(3)) * 2).rename(surface_temperature="t")
    other.to_zarr(url, mode="w", **keywords(place))
    xr.testing.assert_identical(read(place), other)


def test_region(place: Place) -> None:
    url = f"{place.url}/d.zarr"
    ostia().to_zarr(url, **keywords(place))
    part = ostia().isel(time=slice(10, 20)) * 3
    part.drop_vars(["latitude", "longitude"]).to_zarr(
        url, region={"time": slice(10, 20)}, **keywords(place)
    )
    expected = ostia()
    expected["surface_temperature"][10:20] *= 3
    xr.testing.assert_identical(read(place), expected)


def test_dask_chunks(place: Place) -> None:
    url = f"{place.url}/d.zarr"
    ostia().chunk(time=9, longitude=108).to_zarr(url, **keywords(place))
    with xr.open_dataset(url, engine="zarr", chunks={}, **keywords(place)) as dataset:
        assert dataset.chunks["time"] == (9,) * 6
        mean = dataset["surface_temperature"].mean("time").compute()
    xr.testing.assert_allclose(mean, ostia()["surface_temperature"].mean("time"))


def test_netcdf_from_a_url(place: Place) -> None:
    for source in (OSTIA, HYBRID):
        place.fs.put_file(str(source), place.path(source.name))

        def opened(name: str = source.name) -> xr.Dataset:
            url = f"{place.url}/{name}"
            how = keywords(place) if place.options else {}
            with xr.open_dataset(url, engine="h5netcdf", **how) as dataset:
                return dataset.load()

        with xr.open_dataset(source, engine="h5netcdf") as plain:
            for found in place.read_twice(opened):
                xr.testing.assert_identical(found, plain.load())


def test_netcdf_written_through_a_file(place: Place) -> None:
    with place.fs.open(place.path("d.nc"), "wb") as file:
        ostia().to_netcdf(file, engine="h5netcdf")
    with (
        place.fs.open(place.path("d.nc")) as file,
        xr.open_dataset(file, engine="h5netcdf") as dataset,
    ):
        xr.testing.assert_identical(dataset.load(), ostia())
