from collections.abc import Callable
from typing import Any

import pytest

from vfs.cli.demo_compare import (
    compare_datasets,
    compare_figures,
    compare_objects,
    compare_tables,
    compare_values,
)

np = pytest.importorskip("numpy", reason="numpy comes with the extra 'demo'")
pd = pytest.importorskip("pandas", reason="pandas comes with the extra 'demo'")
xr = pytest.importorskip("xarray", reason="xarray comes with the extra 'demo'")


def dataset() -> Any:
    return xr.Dataset(
        {"t": (("y", "x"), np.array([[1.0, np.nan], [0.0, 4.0]], "f4"), {"units": "K"})},
        coords={"x": [10, 20], "height": 1.5},
        attrs={"history": "made", "valid": np.array([1, 2], "i2"), "missing": np.nan},
    )


def test_same_objects() -> None:
    assert compare_objects({"a": b"1", "b": b""}, {"b": b"", "a": b"1"}) == []


@pytest.mark.parametrize(
    "found,line",
    [
        ({}, "a: missing"),
        ({"a": b"ab", "b": b""}, "b: should not be there"),
        ({"a": b"aB"}, "a: differs from byte 1 on"),
        ({"a": b"a"}, "a: has 1 bytes, should have 2"),
    ],
)
def test_different_objects_are_named(found: dict[str, bytes], line: str) -> None:
    assert compare_objects({"a": b"ab"}, found) == [line]


def test_same_dataset() -> None:
    assert compare_datasets(dataset(), dataset().copy(deep=True)) == []


def test_attributes_are_compared_as_json_keeps_them() -> None:
    found = dataset()
    found.attrs["valid"] = [1, 2]
    assert compare_datasets(dataset(), found) == []


def set_value(ds: Any, where: tuple[int, int], value: float) -> Any:
    ds["t"].values[where] = value
    return ds


@pytest.mark.parametrize(
    "change,part",
    [
        (lambda ds: set_value(ds, (0, 0), 1.0000001), "t: 1 of 4 values differ, first at (0, 0)"),
        (lambda ds: set_value(ds, (0, 1), 0.0), "t: 1 of 4 values differ, first at (0, 1): 0.0"),
        (lambda ds: set_value(ds, (1, 1), np.nan), "t: 1 of 4 values differ, first at (1, 1): nan"),
        (lambda ds: set_value(ds, (1, 0), -0.0), "first at (1, 0): -0.0, should be 0.0"),
        (lambda ds: ds.assign(t=ds["t"].astype("f8")), "t: dtype is float64, should be float32"),
        (lambda ds: ds.isel(y=slice(1)), "t: shape is (1, 2), should be (2, 2)"),
        (lambda ds: ds.transpose(), "t: dimensions are ('x', 'y')"),
        (lambda ds: ds.drop_vars("t"), "t: missing"),
        (lambda ds: ds.assign(u=1), "u: should not be there"),
        (lambda ds: ds.reset_coords("height"), "coordinates are ['x'], should be ['height', 'x']"),
        (lambda ds: ds.assign_coords(x=[10, 21]), "x: 1 of 2 values differ"),
        (lambda ds: ds.assign_attrs(history="other"), "dataset: attribute 'history' is 'other'"),
        (lambda ds: ds.assign_attrs(missing=0), "dataset: attribute 'missing' is 0"),
        (lambda ds: ds.drop_attrs(), "t: attribute 'units' is None, should be 'K'"),
    ],
)
def test_a_different_dataset_is_noticed(change: Callable[[Any], Any], part: str) -> None:
    lines = compare_datasets(dataset(), change(dataset()))
    assert any(part in line for line in lines), lines


def test_values_of_every_kind() -> None:
    import datetime as dt

    for values in (
        np.array(3, "i4"),
        np.array([], "f8"),
        np.array(["a", "é"]),
        np.array([dt.date(2000, 1, 1), None], dtype=object),
        np.array(["2000-01-01", "NaT"], "M8[ns]"),
        np.arange(12, dtype=">i2").reshape(3, 4)[:, ::2],
    ):
        assert compare_values("v", values, values.copy()) == []
    one = np.array([dt.date(2000, 1, 1)], dtype=object)
    other = np.array([dt.date(2000, 1, 2)], dtype=object)
    assert len(compare_values("v", one, other)) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda df: df.assign(a=[1, 3]),
        lambda df: df.astype({"a": "int32"}),
        lambda df: df.assign(b=[1.5, 2.5 + 1e-12]),
        lambda df: df.assign(b=[None, 2.5]),
        lambda df: df[["b", "a"]],
        lambda df: df.iloc[::-1],
        lambda df: df.set_index("a"),
    ],
)
def test_a_different_table_is_noticed(change: Callable[[Any], Any]) -> None:
    table = pd.DataFrame({"a": [1, 2], "b": [1.5, 2.5]})
    assert compare_tables(table, table.copy()) == []
    lines = compare_tables(table, change(table))
    assert len(lines) == 1
    assert "\n" not in lines[0]


def test_only_a_mean_may_differ_by_its_rounding() -> None:
    expected = {"t max": 1.0, "t mean": 1.0}
    assert compare_figures(expected, {"t max": 1.0, "t mean": 1.0 + 1e-14}) == []
    assert len(compare_figures(expected, {"t max": 1.0 + 1e-14, "t mean": 1.0 + 1e-9})) == 2
    assert len(compare_figures(expected, {"t max": 1.0})) == 1
