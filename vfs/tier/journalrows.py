"""The rows of the journal: how a change is kept in SQL, and its statements inside a transaction.

What lives here: single rows and what goes with them (sums, folders, the rest of zarr's nodes).
What must not: transactions, the schema (``journal.py``).
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from vfs.policies.zarrorder import METADATA_NAMES, ancestors_of, node_of, rank_of
from vfs.tier.change import Change, Kind, State

__all__ = [
    "COLUMNS",
    "at_or_below",
    "below",
    "change_of",
    "hold_metadata_above",
    "mend",
    "remove_row",
    "row_of",
    "store_row",
    "unmark_folders",
]

COLUMNS: Final = (
    "key, gen, kind, staged, size, hash, mtime, since, touched, base, sent, state, tries, "
    "not_before, error, first"
)


def below(prefix: str, column: str = "key") -> tuple[str, tuple[str, ...]]:
    """Return the SQL condition for keys strictly below a directory, and its arguments."""
    if not prefix:
        return "1", ()
    # '0' is the character after '/'.
    return f"({column}>? AND {column}<?)", (f"{prefix}/", f"{prefix}0")


def at_or_below(prefix: str) -> tuple[str, tuple[str, ...]]:
    """Return the SQL condition for an object's key and those below a directory of that name.

    One range, so that SQLite finds them in the order of their keys: of two, joined by OR, each page
    of a million would be sorted anew.
    """
    if not prefix:
        return "1", ()
    condition = "(key>=? AND key<? AND (key=? OR key>?))"
    return condition, (prefix, f"{prefix}0", prefix, f"{prefix}/")


def change_of(row: tuple[Any, ...]) -> Change:
    """Return a change from the columns of :data:`COLUMNS`."""
    values = list(row)
    values[2] = Kind(values[2])
    values[10] = tuple(values[10].split())
    values[11] = State(values[11])
    return Change(*values)


def row_of(db: sqlite3.Connection, key: str) -> Change | None:
    """Return what is pending for a key."""
    query = f"SELECT {COLUMNS} FROM changes WHERE key=?"  # noqa: S608 - a constant
    row = db.execute(query, (key,)).fetchone()
    return None if row is None else change_of(row)


def store_row(db: sqlite3.Connection, change: Change, old: Change | None) -> None:
    """Put a change in place of an older one."""
    if old is not None:
        remove_row(db, old)
    c = change
    db.execute(
        "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            c.key,
            c.gen,
            c.kind,
            rank_of(c.key),
            node_of(c.key),
            c.staged,
            c.size,
            c.hash,
            c.mtime,
            c.since,
            c.touched,
            c.base,
            " ".join(c.sent),
            c.state,
            c.tries,
            c.not_before,
            c.error,
            c.first,
        ),
    )
    _count(db, 1, c.size)


def remove_row(db: sqlite3.Connection, change: Change) -> None:
    """Forget a change, which must be there."""
    db.execute("DELETE FROM changes WHERE key=?", (change.key,))
    _count(db, -1, -change.size)


def _count(db: sqlite3.Connection, objects: int, size: int) -> None:
    db.execute("UPDATE meta SET value=value+? WHERE name='count'", (objects,))
    db.execute("UPDATE meta SET value=value+? WHERE name='bytes'", (size,))


def unmark_folders(db: sqlite3.Connection, key: str) -> None:
    """Forget that the directories above a key are to be removed."""
    db.executemany("DELETE FROM folders WHERE key=?", [(a,) for a in ancestors_of(key)])


def hold_metadata_above(db: sqlite3.Connection, key: str, now: float) -> None:
    """Note at the metadata above a key that its node is being written."""
    names = [
        f"{node}/{name}" if node else name for node in ancestors_of(key) for name in METADATA_NAMES
    ]
    marks = ",".join("?" * len(names))
    db.execute(f"UPDATE changes SET touched=? WHERE key IN ({marks})", (now, *names))  # noqa: S608 - marks only


def mend(db: sqlite3.Connection) -> str | None:
    """Make indexes and sums anew from the rows; return what cannot be mended."""
    db.execute("REINDEX")
    wrong = str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])
    if wrong != "ok":
        return wrong
    db.execute(
        "UPDATE meta SET value=max(value, (SELECT coalesce(max(gen), 0) FROM changes)) "
        "WHERE name='gen'"
    )
    db.execute("UPDATE meta SET value=(SELECT count(*) FROM changes) WHERE name='count'")
    db.execute(
        "UPDATE meta SET value=(SELECT coalesce(sum(size), 0) FROM changes) WHERE name='bytes'"
    )
    return None
