"""What plans remember, in the catalogue: moves of the last day, and reads that cold answered.

What lives here: two tables. What must not: what follows from them (``policies/moves.py``). Both
may be lost with the catalogue: objects are then free to be moved again, and nothing is hot.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from vfs.policies.moves import DAY_S

if TYPE_CHECKING:
    from vfs.policies.moves import MoveKind
    from vfs.tier.catalog import Catalog

__all__ = ["ColdKey", "claim_moves", "cold_reads", "note_cold_reads", "recent_moves"]

#: Cold keys that are remembered; those that were read least go first.
_KEPT: Final = 10_000


class ColdKey(NamedTuple):
    """How often cold was read for a key on its last day and the one before."""

    key: str
    day: int
    reads: int
    before: int
    size: int | None


def recent_moves(catalog: Catalog, now: float) -> dict[str, tuple[float, str]]:
    """Return when and how objects were moved, within a day."""
    with catalog.reading() as db:
        query = "SELECT key, at, kind FROM moves WHERE at>?"
        return {key: (at, kind) for key, at, kind in db.execute(query, (now - DAY_S,))}


def claim_moves(catalog: Catalog, keys: Iterable[str], kind: MoveKind, now: float) -> set[str]:
    """Record moves that are about to be made; return those that nobody made within a day.

    INVARIANT: two processes that apply plans at the same time do not move an object twice.
    (tests/tier/test_plan.py::test_an_object_moved_within_a_day_is_left_alone)
    """
    claimed = set()
    with catalog.transaction() as db:
        db.execute("DELETE FROM moves WHERE at<=?", (now - DAY_S,))
        for key in keys:
            done = db.execute("INSERT OR IGNORE INTO moves VALUES (?, ?, ?)", (key, now, kind))
            if done.rowcount:
                claimed.add(key)
    return claimed


def note_cold_reads(
    catalog: Catalog, found: Iterable[tuple[str, int, int | None]], day: int
) -> None:
    """Add reads of a day: of which key, how many, and how large it is, if known."""
    with catalog.transaction() as db:
        db.executemany(
            "INSERT INTO cold_reads VALUES (?, ?, ?, 0, ?) ON CONFLICT (key) DO UPDATE SET"
            " before = CASE day WHEN excluded.day THEN before WHEN excluded.day - 1 THEN reads"
            " ELSE 0 END,"
            " reads = excluded.reads + CASE day WHEN excluded.day THEN reads ELSE 0 END,"
            " day = excluded.day, size = coalesce(excluded.size, size)",
            [(key, day, count, size) for key, count, size in found],
        )
        db.execute("DELETE FROM cold_reads WHERE day<?", (day - 1,))
        db.execute(
            "DELETE FROM cold_reads WHERE key IN (SELECT key FROM cold_reads"
            " ORDER BY day DESC, reads DESC LIMIT -1 OFFSET ?)",
            (_KEPT,),
        )


def cold_reads(catalog: Catalog) -> list[ColdKey]:
    """Return what is remembered of cold reads."""
    with catalog.reading() as db:
        return [ColdKey(*row) for row in db.execute("SELECT * FROM cold_reads")]
