"""Whether two things are the same, and if not, where they differ.

What lives here: comparisons of objects, datasets and tables with what they should be. What must
not: reading either side, or a tolerance where the same bits can be had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = [
    "compare_datasets",
    "compare_figures",
    "compare_objects",
    "compare_tables",
    "compare_values",
]

#: Sums of some 10^5 doubles, added in another order, agree to about 1e-14.
_MEAN_RATIO: Final = 1e-12


def compare_objects(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> list[str]:
    """Compare objects by name and byte.

    Parameters
    ----------
    expected, found : mapping of str to bytes
        Key to content.

    Returns
    -------
    list of str
        One line an object that is missing, too many, or different; empty if there is none.

    Examples
    --------
    >>> compare_objects({"a": b"abc", "b": b""}, {"a": b"abd"})
    ['a: differs from byte 2 on', 'b: missing']
    """
    lines = []
    for key in sorted(expected.keys() | found.keys()):
        if key not in found:
            lines.append(f"{key}: missing")
        elif key not in expected:
            lines.append(f"{key}: should not be there")
        elif expected[key] != found[key]:
            lines.append(f"{key}: {_first_difference(expected[key], found[key])}")
    return lines


def _first_difference(expected: bytes, found: bytes) -> str:
    if len(expected) != len(found):
        return f"has {len(found)} bytes, should have {len(expected)}"
    pairs = zip(expected, found, strict=True)
    return f"differs from byte {next(i for i, (a, b) in enumerate(pairs) if a != b)} on"


def compare_datasets(expected: xr.Dataset, found: xr.Dataset) -> list[str]:
    """Compare two datasets: names, dimensions, attributes, and every value bit by bit.

    Parameters
    ----------
    expected, found : xarray.Dataset
        The source; what was read.

    Returns
    -------
    list of str
        One line a difference; empty if there is none.

    Notes
    -----
    Attributes are compared as JSON can hold them, since zarr keeps them so: a netCDF ``int16`` 7
    equals 7, and an array equals the list of its values.
    """
    lines = _compare_attributes("dataset", expected.attrs, found.attrs)
    if (a := set(expected.coords)) != (b := set(found.coords)):
        lines.append(f"coordinates are {sorted(map(str, b))}, should be {sorted(map(str, a))}")
    for name in sorted(map(str, expected.variables.keys() | found.variables.keys())):
        if name not in found.variables:
            lines.append(f"{name}: missing")
        elif name not in expected.variables:
            lines.append(f"{name}: should not be there")
        else:
            lines += _compare_variables(name, expected.variables[name], found.variables[name])
    return lines


def _compare_variables(name: str, expected: xr.Variable, found: xr.Variable) -> list[str]:
    lines = _compare_attributes(name, expected.attrs, found.attrs)
    if expected.dims != found.dims:
        lines.append(f"{name}: dimensions are {found.dims}, should be {expected.dims}")
    else:
        lines += compare_values(name, expected.values, found.values)
    return lines


def compare_values(name: str, expected: np.ndarray, found: np.ndarray) -> list[str]:
    """Compare two arrays: dtype, shape, where NaN is, and every value bit by bit.

    Parameters
    ----------
    name : str
        Of the array, for the message.
    expected, found : numpy.ndarray
        Numbers, times, text or objects such as ``cftime`` times.

    Returns
    -------
    list of str
        At most one line.

    Examples
    --------
    >>> import numpy as np
    >>> compare_values("t", np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    ['t: 1 of 2 values differ, first at (1,): 2.0, should be nan']
    """
    import numpy as np

    if expected.dtype != found.dtype:
        return [f"{name}: dtype is {found.dtype}, should be {expected.dtype}"]
    if expected.shape != found.shape:
        return [f"{name}: shape is {found.shape}, should be {expected.shape}"]
    if expected.dtype.hasobject:
        wrong = np.asarray(expected != found, dtype=bool)
    else:
        # Bits, not values: NaN equals NaN, and -0.0 does not pass for 0.0.
        width = max(expected.dtype.itemsize, 1)
        bits = [np.ascontiguousarray(a).reshape(-1).view("u1") for a in (expected, found)]
        wrong = (bits[0] != bits[1]).reshape(-1, width).any(axis=1).reshape(expected.shape)
    if not wrong.any():
        return []
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    told = f"first at {first}: {found[first]}, should be {expected[first]}"
    return [f"{name}: {int(wrong.sum())} of {wrong.size} values differ, {told}"]


def _compare_attributes(
    where: str, expected: Mapping[Any, Any], found: Mapping[Any, Any]
) -> list[str]:
    lines = []
    for name in sorted(map(str, expected.keys() | found.keys())):
        a, b = (_plain(attributes.get(name)) for attributes in (expected, found))
        # NaN is the one value that does not equal itself.
        if a != b and not (a != a and b != b):  # noqa: PLR0124
            lines.append(f"{where}: attribute {name!r} is {b!r}, should be {a!r}")
    return lines


def _plain(value: Any) -> Any:
    """Return an attribute as JSON would give it back."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    return list(plain) if isinstance(plain, tuple) else plain


def compare_tables(expected: Any, found: Any) -> list[str]:
    """Compare two tables: columns, dtypes, index, and every cell exactly.

    Parameters
    ----------
    expected, found : pandas.DataFrame
        The source; what was read.

    Returns
    -------
    list of str
        At most one line, with what pandas says.
    """
    import pandas as pd

    try:
        pd.testing.assert_frame_equal(expected, found, check_exact=True)
    except AssertionError as error:
        return [f"table: {' '.join(str(error).split())}"]
    return []


def compare_figures(expected: Mapping[str, float], found: Mapping[str, float]) -> list[str]:
    """Compare reductions.

    Parameters
    ----------
    expected, found : mapping of str to float
        Name to figure. Names ending in ``mean`` may differ by 1e-12 of their value, since chunks
        are added in another order than a whole array; counts and extremes may not.

    Returns
    -------
    list of str
        One line a difference; empty if there is none.

    Examples
    --------
    >>> compare_figures({"t max": 3.0, "t mean": 2.0}, {"t max": 3.5, "t mean": 2.0000000000001})
    ['t max: 3.5, should be 3.0']
    """
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        a, b = expected.get(name, math.nan), found.get(name, math.nan)
        ratio = _MEAN_RATIO if name.endswith("mean") else 0.0
        if not math.isclose(a, b, rel_tol=ratio):
            lines.append(f"{name}: {b}, should be {a}")
    return lines
