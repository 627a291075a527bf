"""Tables: pandas, pyarrow, dask and SQLite over every place."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from interop.conftest import Place
from interop.data import MOVIES, earthquakes, temperature
from numpy.testing import assert_array_equal


def keywords(place: Place) -> dict[str, Any]:
    return {"storage_options": place.options or None}


def same(found: pd.DataFrame, table: pd.DataFrame) -> None:
    columns = list(table.columns)
    found = found[columns].sort_values(columns, ignore_index=True)
    table = table.sort_values(columns, ignore_index=True)
    pd.testing.assert_frame_equal(found, table, check_dtype=False, check_categorical=False)


@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "pickle"])
def test_pandas_single_file(place: Place, kind: str) -> None:
    table = earthquakes()
    url = f"{place.url}/t.{kind}"
    index = {"index": False} if kind in {"parquet", "csv"} else {}
    getattr(table, f"to_{kind}")(url, **index, **keywords(place))
    for found in place.read_twice(lambda: getattr(pd, f"read_{kind}")(url, **keywords(place))):
        same(found, table) if kind == "json" else pd.testing.assert_frame_equal(found, table)


def test_pandas_compressed(place: Place) -> None:
    url = f"{place.url}/t.csv.gz"
    # Of a chained URL pandas looks only at the name before the first ::, so it infers nothing.
    gzip: dict[str, Any] = {"compression": "gzip", **keywords(place)}
    earthquakes().to_csv(url, index=False, **gzip)
    assert place.fs.cat_file(place.path("t.csv.gz"), end=2) == b"\x1f\x8b"
    for found in place.read_twice(lambda: pd.read_csv(url, **gzip)):
        pd.testing.assert_frame_equal(found, earthquakes())


def test_pandas_partitioned(place: Place) -> None:
    table = earthquakes().assign(strong=lambda t: (t["mag"] > 5).map({True: "yes", False: "no"}))
    url = f"{place.url}/t"
    table.to_parquet(url, partition_cols=["strong"], index=False, **keywords(place))
    assert len(place.fs.glob(place.path("t/strong=*/*.parquet"))) == 2
    for found in place.read_twice(lambda: pd.read_parquet(url, **keywords(place))):
        same(found.astype({"strong": "str"}), table)
    some = pd.read_parquet(url, columns=["mag"], **keywords(place))
    assert sorted(some["mag"]) == sorted(table["mag"])


def test_pandas_missing_and_denied(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        pd.read_csv(f"{place.url}/no.csv", **keywords(place))


def test_pyarrow_dataset(place: Place) -> None:
    table = pa.Table.from_pandas(earthquakes(), preserve_index=False)
    fs, path = place.fs, place.path("ds")
    ds.write_dataset(
        table, path, filesystem=fs, format="parquet", max_rows_per_file=100, max_rows_per_group=100
    )
    assert len(fs.find(path)) == -(-table.num_rows // 100)

    def read() -> pa.Table:
        found = ds.dataset(path, filesystem=fs, format="parquet")
        return found.to_table(filter=ds.field("mag") > 5)

    expected = earthquakes().query("mag > 5")
    for found in place.read_twice(read):
        same(found.to_pandas(), expected)
    one = fs.find(path)[0]
    assert pq.read_metadata(one, filesystem=fs).num_rows == 100
    pq.write_table(table, place.path("one.parquet"), filesystem=fs)
    assert pq.read_table(place.path("one.parquet"), filesystem=fs).equals(table)


def test_dask_array(place: Place) -> None:
    url = f"{place.url}/a.zarr"
    array = da.from_array(temperature(), chunks=(9, 18, 108))
    array.to_zarr(url, **keywords(place))
    for found in place.read_twice(lambda: da.from_zarr(url, **keywords(place)).compute()):
        assert_array_equal(found, temperature())


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # dask calls pandas so
def test_dask_dataframe(place: Place) -> None:
    table = earthquakes()
    url = f"{place.url}/t"
    dd.from_pandas(table, npartitions=4).to_parquet(url, **keywords(place))
    assert len(place.fs.glob(place.path("t/*.parquet"))) == 4
    for found in place.read_twice(lambda: dd.read_parquet(url, **keywords(place)).compute()):
        same(found, table)
    dd.from_pandas(table, npartitions=3).to_csv(
        f"{place.url}/c/*.csv", index=False, **keywords(place)
    )
    same(dd.read_csv(f"{place.url}/c/*.csv", **keywords(place)).compute(), table)


def count_of(database: sqlite3.Connection) -> int:
    (count,) = database.execute("SELECT count(*) FROM omdb").fetchone()
    return int(count)


def rows(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT * FROM omdb ORDER BY 1 LIMIT 100").fetchall()


def test_sqlite(place: Place, tmp_path: Path) -> None:
    fs, path = place.fs, place.path("movies.db")
    fs.put_file(str(MOVIES), path)
    assert fs.size(path) == MOVIES.stat().st_size

    def read() -> bytes:
        fs.get_file(path, str(tmp_path / "got.db"))
        return (tmp_path / "got.db").read_bytes()

    for found in place.read_twice(read):
        assert found == MOVIES.read_bytes()
    assert rows(tmp_path / "got.db") == rows(MOVIES)
    with fs.open(path) as source, closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(source.read())
        with closing(sqlite3.connect(MOVIES)) as original:
            assert count_of(database) == count_of(original) > 10_000
