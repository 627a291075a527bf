"""The array that the benchmarks of write-back write: uncompressed chunks of 64 KiB.

What lives here: the values and one write of them. What must not: stores, how rounds are run.
"""

from __future__ import annotations

from typing import Any

_CHUNK = 128  # of float32 in each direction: 64 KiB


def chunks_of_values(count: int) -> Any:
    """Return what fills ``count`` chunks, float32, the same at each call."""
    import numpy as np

    return np.random.default_rng(1).random((count * _CHUNK, _CHUNK), dtype="f4")


def write_array(store: Any, values: Any) -> None:
    """Write ``values`` into ``store`` as a new zarr array."""
    import zarr

    array = zarr.create_array(
        store, shape=values.shape, chunks=(_CHUNK, _CHUNK), dtype="f4", compressors=None
    )
    array[:] = values
