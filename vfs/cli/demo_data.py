"""What the demonstration reads: real netCDF files, and the table made of them.

What lives here: finding the files, opening them, cutting them. What must not: a filesystem of
ours, or numbers that no instrument or model produced.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vfs.errors import ConfigError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["NEEDED", "Sample", "climate_table", "need", "open_sample", "sample_files", "window"]

#: Packages of the extra ``demo``, without those that only ``--s3`` needs.
NEEDED: Final = (
    "dask",
    "iris_sample_data",
    "netCDF4",
    "pandas",
    "pyarrow",
    "xarray",
    "zarr",
)

_PARTS: Final = 3  # chunks along each long dimension, so that a window is less than the whole
_LONG: Final = 8  # shorter dimensions (corners of a cell, bounds of a month) stay in one chunk


@dataclass(frozen=True, slots=True)
class Sample:
    """One real file.

    Attributes
    ----------
    path : Path
        Where it is.
    dataset : xarray.Dataset
        All of it, in memory, decoded.
    """

    path: Path
    dataset: xr.Dataset

    @property
    def key(self) -> str:
        """Name of its zarr group in the tier."""
        return f"{self.path.stem}.zarr"


def need(packages: Iterable[str]) -> None:
    """Refuse to start without the packages of the extra.

    Raises
    ------
    ConfigError
        Some are missing; the message names them and the extra.
    """
    missing = [name for name in packages if not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"vfs demo needs packages that are not installed ({', '.join(missing)}): "
            f'install "fsspec-vfs[demo]"'
        )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def sample_files(limit: int | None = None) -> list[Path]:
    """Find the ocean and climate model output of the package ``iris-sample-data``.

    Parameters
    ----------
    limit : int, optional
        So many files at most; climate and ocean take turns, climate first.

    Returns
    -------
    list of Path
        Two scenarios of a climate model (A1B, E1), three months of an ocean model (NEMO).

    Raises
    ------
    ConfigError
        The package is there, its files are not.
    """
    import iris_sample_data

    root = Path(iris_sample_data.path)
    climate = sorted(root.glob("*_north_america.nc"))
    ocean = sorted((root / "NEMO").glob("nemo_1m_*.nc"))
    if not climate or not ocean:
        raise ConfigError(
            f"iris-sample-data holds no climate or no ocean files below {root}: "
            f'install "fsspec-vfs[demo]" again'
        )
    turns = max(len(climate), len(ocean))
    mixed = [path for turn in range(turns) for path in (*climate[turn:][:1], *ocean[turn:][:1])]
    return mixed[:limit]


def open_sample(path: Path) -> Sample:
    """Read a netCDF file with xarray alone, and say how zarr is to cut it.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Sample
        In memory; the file is closed.
    """
    import xarray as xr

    with xr.open_dataset(path) as opened:
        dataset = opened.load()
    for variable in dataset.variables.values():
        if variable.ndim:
            variable.encoding["chunks"] = tuple(_chunk(n) for n in variable.shape)
    return Sample(path, dataset)


def _chunk(length: int) -> int:
    return length if length <= _LONG else -(-length // _PARTS)


def window(dataset: xr.Dataset) -> xr.Dataset:
    """Cut a window out of a dataset, across the border of two chunks.

    Parameters
    ----------
    dataset : xarray.Dataset
        From the source or from zarr.

    Returns
    -------
    xarray.Dataset
        About a quarter of each long dimension.
    """
    lengths = {str(name): length for name, length in dataset.sizes.items() if length > _LONG}
    cuts = {name: slice(n // 4, n // 2) for name, n in lengths.items()}
    return dataset.isel(cuts)


def climate_table(samples: Iterable[Sample]) -> Any:
    """Return the climate scenarios as one long table.

    Parameters
    ----------
    samples : iterable of Sample
        Those without air temperature are left out.

    Returns
    -------
    pandas.DataFrame
        Columns ``year`` (int64), ``latitude``, ``longitude``, ``air_temperature`` (float32) and
        ``scenario`` (text): one row a cell and year, about 435 000 a scenario.
    """
    import pandas as pd

    frames = []
    for sample in samples:
        if "air_temperature" not in sample.dataset:
            continue
        field = sample.dataset["air_temperature"]
        field = field.assign_coords(time=field["time"].dt.year).rename(time="year")
        frame = field.drop_vars([n for n in field.coords if n not in field.dims]).to_dataframe()
        frames.append(frame.reset_index().assign(scenario=sample.path.stem.partition("_")[0]))
    return pd.concat(frames, ignore_index=True)
