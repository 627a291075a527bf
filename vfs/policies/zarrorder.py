"""In which order changes may reach a store, so that no reader meets metadata before its chunks.

What lives here: what a key is in a zarr hierarchy, by its name. What must not: queues, stores.

A reader that finds ``zarr.json`` and misses a chunk gets fill values, silently. So chunks are
sent before the metadata above them, and removed after it. Nodes are told by names only, so the
order costs nothing for keys that are not zarr.
"""

from __future__ import annotations

from typing import Final

__all__ = ["METADATA_NAMES", "ancestors_of", "node_of", "rank_of"]

#: Consolidated metadata of zarr 2 describes the other files of its own directory, too.
_RANKS: Final = {"zarr.json": 1, ".zarray": 1, ".zgroup": 1, ".zattrs": 1, ".zmetadata": 2}

METADATA_NAMES: Final = tuple(_RANKS)


def rank_of(key: str) -> int:
    """Return 0 for data, 1 for the metadata of a node, 2 for what summarizes it.

    Examples
    --------
    >>> rank_of("g/a/c/0/0"), rank_of("g/a/zarr.json"), rank_of("g/.zmetadata")
    (0, 1, 2)
    """
    return _RANKS.get(key.rpartition("/")[2], 0)


def node_of(key: str) -> str:
    """Return the directory a key is in, which for metadata is the node it describes.

    Examples
    --------
    >>> node_of("g/a/zarr.json"), node_of("zarr.json")
    ('g/a', '')
    """
    return key.rpartition("/")[0]


def ancestors_of(key: str) -> list[str]:
    """Return every directory above a key, the nearest first, the root as ``""``.

    Examples
    --------
    >>> ancestors_of("g/a/c/0"), ancestors_of("/g/a")
    (['g/a/c', 'g/a', 'g', ''], ['/g', ''])
    """
    found = []
    while key:
        key = key.rpartition("/")[0]
        found.append(key)
    return found
