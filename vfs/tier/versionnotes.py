"""Of which cold version a hot copy is, as the catalogue records it.

What lives here: the two statements that decide what is believed. What must not: asking cold
(``freshness.py``, ``filesystem.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vfs.tier.catalog import Catalog

__all__ = ["note_version", "share"]

_IS_SHARED: Final = "SELECT 1 FROM meta WHERE name='shared'"


def note_version(
    catalog: Catalog,
    key: str,
    etag: str | None,
    mtime: float | None,
    unchanged: Callable[[], bool],
    *,
    compared: bool = False,
) -> None:
    """Record of which cold version a hot copy is, unless a change has begun meanwhile.

    Where others write to cold (:func:`share`), only if it was ``compared`` before and after the
    copy was fetched: what cold has now may be newer than the copy. Never another one than the
    answer with its bytes told.

    INVARIANT: what cold has now is not taken for what was read from it.
    (tests/tier/test_promoted_versions.py::test_foreign_write_since_it_was_read_is_a_conflict)
    """
    with catalog.transaction() as db:
        if unchanged() and (compared or not db.execute(_IS_SHARED).fetchone()):
            db.execute(
                "UPDATE objects SET etag=?, mtime=? WHERE key=? AND (base IS NULL OR base=?)",
                (etag, mtime, key, etag),
            )


def share(catalog: Catalog) -> None:
    """Note for every process that others write to cold; versions noted before are forgotten.

    INVARIANT: a process that knows of no other writer names no version of a copy to those that do.
    (tests/tier/test_freshness.py::test_exclusive_process_beside_an_open_one)
    """
    with catalog.transaction() as db:
        if not db.execute(_IS_SHARED).fetchone():
            db.execute("INSERT INTO meta VALUES ('shared', 1)")
            db.execute(
                "UPDATE objects SET etag=NULL, mtime=NULL "
                "WHERE dirty=0 AND (etag IS NULL OR etag NOT LIKE 'hot-%')"
            )
