"""Real files from packages of sample data, and the table and arrays that are in them."""

from __future__ import annotations

import functools
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import xarray as xr


def sample(package: str, name: str) -> Path:
    """Return the path of an installed sample file."""
    return Path(str(files(package))) / name


OSTIA = sample("iris_sample_data", "sample_data/ostia_monthly.nc")
HYBRID = sample("iris_sample_data", "sample_data/hybrid_height.nc")
BRIGHTNESS = sample("iris_sample_data", "sample_data/toa_brightness_stereographic.nc")
MOVIES = sample("bokeh_sampledata", "_data/movies.db")
LANDSAT = sample("hvsampledata", "_data/landsat_rgb.tif")
EARTHQUAKES = sample("hvsampledata", "_data/earthquakes.csv")


@functools.cache
def temperature() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Sea surface temperature: 54 months, 18 latitudes, 432 longitudes."""
    with xr.open_dataset(OSTIA, engine="netcdf4") as dataset:
        return np.nan_to_num(dataset["surface_temperature"].to_numpy())


@functools.cache
def _ostia() -> xr.Dataset:
    with xr.open_dataset(OSTIA, engine="netcdf4") as dataset:
        found = dataset[["surface_temperature"]].drop_encoding().load()
    return found.drop_vars(["forecast_period", "forecast_reference_time"], errors="ignore")


def ostia() -> xr.Dataset:
    """Return the same with its coordinates, without the encoding of its file."""
    return _ostia().copy(deep=True)


@functools.cache
def _earthquakes() -> pd.DataFrame:
    return pd.read_csv(EARTHQUAKES)


def earthquakes() -> pd.DataFrame:
    """Return a table of numbers, times and names."""
    return _earthquakes().copy()


@functools.cache
def landsat() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return an image."""
    return np.asarray(tifffile.imread(LANDSAT))
