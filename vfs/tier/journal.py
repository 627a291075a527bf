"""What cold does not have yet, in SQLite: the record that makes a write-back durable.

What lives here: rows, one a changed key, and their transactions. What must not: files other than
the database, the cold store, the order in which changes are sent (``schedule.py``).

Unlike the catalogue it cannot be rebuilt, so it is synced (``synchronous=FULL``) wherever a power
cut is to be survived, and a damaged one is an error. ``journal_mode=PERSIST`` rather than WAL, for
the reason given in ``catalog.py``; it also commits with one file fewer to create and remove.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from vfs.core.durable import Durability, fsync_directory
from vfs.errors import UnsupportedError, os_error
from vfs.tier.change import ABSENT, Change, Draft, Kind, State, Totals
from vfs.tier.journalrows import (
    COLUMNS,
    at_or_below,
    below,
    change_of,
    hold_metadata_above,
    mend,
    remove_row,
    row_of,
    store_row,
    unmark_folders,
)
from vfs.tier.overlay import Outline

__all__ = ["ABSENT", "Change", "Draft", "Journal", "Kind", "State", "Totals", "below"]

#: Number of the schema on disk. A newer one is refused, an older one is brought up to date.
SCHEMA_VERSION: Final = 2

#: How a file of version n becomes one of n + 1, inside one transaction.
MIGRATIONS: Final[Mapping[int, Callable[[sqlite3.Connection], object]]] = {
    # Of what waits already it is not known; 0 is to be the first of all.
    1: lambda db: db.execute("ALTER TABLE changes ADD COLUMN first INTEGER NOT NULL DEFAULT 0"),
}

_BUSY_S: Final = 60.0

#: Contents of earlier sends whose answer was lost; more of them than retries of one outage.
_SENT_KEPT: Final = 16

_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE changes (
    key TEXT PRIMARY KEY, gen INTEGER NOT NULL, kind INTEGER NOT NULL, rank INTEGER NOT NULL,
    node TEXT NOT NULL, staged TEXT NOT NULL, size INTEGER NOT NULL, hash TEXT NOT NULL,
    mtime REAL NOT NULL, since REAL NOT NULL, touched REAL NOT NULL, base TEXT,
    sent TEXT NOT NULL, state INTEGER NOT NULL, tries INTEGER NOT NULL,
    not_before REAL NOT NULL, error TEXT NOT NULL, first INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX by_turn ON changes (kind, rank, gen);
CREATE INDEX by_gen ON changes (gen);
CREATE INDEX by_age ON changes (since);
CREATE TABLE folders (key TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT INTO meta VALUES ('gen', 0), ('bytes', 0), ('count', 0), ('flush', 0)
"""

#: Made also in a journal of a version without them, which goes on to work with them. They hold
#: only what has failed: few rows of a million, which are asked for at each turn.
_INDEXES: Final = (
    "CREATE INDEX IF NOT EXISTS by_wait ON changes (not_before) WHERE not_before>0",
    "CREATE INDEX IF NOT EXISTS by_failure ON changes (gen) WHERE state>=2",
)

#: Changes of one page: some hundred kilobytes in memory.
_PAGE: Final = 1000

#: Counts who cannot go on before cold has something: the sender of the machine looks at it.
_ONE_MORE_WAITS: Final = (
    "INSERT INTO meta VALUES ('waits', 1) ON CONFLICT (name) DO UPDATE SET value=value+1"
)

#: Objects up to here are not to wait any longer to be left alone.
_ROOM_IS_WANTED: Final = (
    "INSERT OR REPLACE INTO meta SELECT 'room', value FROM meta WHERE name='gen'"
)

#: The columns of an :class:`Outline`.
_OUTLINE: Final = "key, kind, size, mtime, gen"


class Journal:
    """The journal of one hot directory, as one process sees it.

    Parameters
    ----------
    path : str
        Of the database; made if missing.
    durability : {'power', 'process'}
        What a commit survives.

    Raises
    ------
    OSError
        [EIO] it is damaged. Never rebuilt: it is the only record of what cold lacks.
    UnsupportedError
        [ENOTSUP] a newer version of the library wrote it.

    Notes
    -----
    Thread-safe; every method is one short transaction.
    """

    def __init__(self, path: str, durability: Durability) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._was_unsynced = False
        self._db = sqlite3.connect(
            path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            with self._reading() as db:
                db.execute("PRAGMA journal_mode=PERSIST")
                db.execute("PRAGMA synchronous=FULL")
            with self.transaction() as db:
                _prepare(db, path)
            self.set_durability(durability)
        except BaseException:
            self._db.close()
            raise
        # Whatever the durability: it says which copies a power cut has left in doubt.
        fsync_directory(os.path.dirname(path))

    def set_durability(self, durability: Durability) -> None:
        """Choose what commits survive from now on.

        INVARIANT: with "power" a commit is on the disk when it returns.
        (tests/tier/test_writeback_crash.py::test_put_is_durable_in_the_right_order)
        """
        with self._reading() as db:
            if durability == "process":
                db.execute("INSERT OR REPLACE INTO meta VALUES ('unsynced', 1)")
            db.execute(f"PRAGMA synchronous={'FULL' if durability == 'power' else 'OFF'}")

    def was_unsynced(self) -> bool:
        """Say whether commits were ever made that a power cut could undo."""
        if not self._was_unsynced:  # it never ends, so it is asked for until it has begun
            with self._reading() as db:
                found = db.execute("SELECT 1 FROM meta WHERE name='unsynced'").fetchone()
            self._was_unsynced = found is not None
        return self._was_unsynced

    def mend(self) -> None:
        """Make a journal whole again that was not synced before a power cut, or refuse it.

        INVARIANT: old and new pages side by side neither hide a change nor count one twice.
        (tests/tier/test_powercut.py::test_journal_of_old_and_new_pages_is_mended_or_refused)

        Raises
        ------
        OSError
            [EIO] its pages do not fit together.
        """
        with self.transaction() as db:
            wrong = mend(db)
            if wrong is not None:
                message = (
                    "the tier's journal was damaged by a power cut, which durability='process' "
                    f"does not survive ({wrong}); moved away, what it knew is given up"
                )
                raise os_error(errno.EIO, self.path, message)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Exclude every other process for the length of a block; roll back if it raises."""
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
                code = errno.ENOSPC if full else errno.EIO
                raise os_error(code, self.path, f"the tier's journal: {error}") from error

    def hold_still(self) -> None:
        """Keep every thread out of the database until :meth:`go_on`."""
        self._lock.acquire()

    def go_on(self) -> None:
        """End :meth:`hold_still`."""
        self._lock.release()

    def close(self) -> None:
        """Close the connection, once no other thread is inside a call."""
        with self._lock:
            self._db.close()

    # ---------------------------------------------------------------- record

    def record(self, drafts: Iterable[Draft]) -> list[tuple[Change, Change | None]]:
        """Record changes, all or none; return each with the one it replaces."""
        with self.transaction() as db:
            return [self._record(db, draft) for draft in drafts]

    def _record(self, db: sqlite3.Connection, draft: Draft) -> tuple[Change, Change | None]:
        old = row_of(db, draft.key)
        base, since = draft.base, draft.now
        sent: tuple[str, ...] = ()
        if old is not None:
            base, sent, since = old.base, old.sent, min(old.since, draft.now)
            if old.state is not State.WAITING:
                # What may have landed is not foreign when it is met there later.
                sent = (*sent, old.hash or "-")[-_SENT_KEPT:]
        gen = int(
            db.execute("UPDATE meta SET value=value+1 WHERE name='gen' RETURNING value").fetchone()[
                0
            ]
        )
        change = Change(
            draft.key,
            gen,
            draft.kind,
            draft.staged,
            draft.size,
            draft.hash,
            draft.now,
            since,
            draft.now,
            base,
            sent,
            first=gen if old is None else old.first,
        )
        store_row(db, change, old)
        if draft.kind is Kind.PUT:
            unmark_folders(db, draft.key)
            hold_metadata_above(db, draft.key, draft.now)
        return change, old

    def take_back(self, change: Change, old: Change | None) -> None:
        """Undo a record whose change could not be made; a newer one stays."""
        with self.transaction() as db:
            now = row_of(db, change.key)
            if now is None or now.gen != change.gen:
                return
            if old is None:
                remove_row(db, now)
            else:
                store_row(db, old, now)

    # ---------------------------------------------------------------- look up

    def get(self, key: str) -> Change | None:
        """Return what is pending for a key."""
        with self._reading() as db:
            return row_of(db, key)

    def get_below(self, prefix: str, *, itself: bool = False, limit: int = -1) -> list[Change]:
        """Return what is pending below a directory, and with ``itself`` at it; oldest first."""
        condition, arguments = at_or_below(prefix) if itself else below(prefix)
        return self.select(condition, arguments, limit)

    def select(
        self, condition: str, arguments: Iterable[object] = (), limit: int = -1
    ) -> list[Change]:
        """Return the changes a condition holds for, oldest first."""
        query = f"SELECT {COLUMNS} FROM changes WHERE {condition} ORDER BY gen LIMIT ?"  # noqa: S608 - conditions are ours
        with self._reading() as db:
            return [change_of(row) for row in db.execute(query, (*arguments, limit))]

    def each(self, condition: str = "1", arguments: Iterable[object] = ()) -> Iterator[Change]:
        """Yield the changes a condition holds for, in the order of their keys.

        However many they are, a page of them is in memory; what changes meanwhile may be seen
        before or after.
        """
        return map(change_of, self._paged(COLUMNS, condition, arguments, -1))

    def outlines(self, prefix: str, condition: str = "1", limit: int = -1) -> Iterator[Outline]:
        """Yield what a listing needs of the changes below a directory, like :meth:`each`."""
        where, arguments = below(prefix)
        found = self._paged(_OUTLINE, f"{where} AND {condition}", arguments, limit)
        return (Outline(row[0], Kind(row[1]), *row[2:]) for row in found)

    def _paged(
        self, columns: str, condition: str, arguments: Iterable[object], limit: int
    ) -> Iterator[tuple[Any, ...]]:
        """Yield rows by key, of which the first column is one; with a limit one page of them."""
        size = _PAGE if limit < 0 else limit
        after, bound = "1", tuple[object, ...]()
        while True:
            query = (
                f"SELECT {columns} FROM changes WHERE {condition} AND {after} "  # noqa: S608 - as above
                f"ORDER BY key LIMIT {size}"
            )
            with self._reading() as db:
                found = db.execute(query, (*arguments, *bound)).fetchall()
            yield from found
            if len(found) < size or limit >= 0:
                return
            after, bound = "key>?", (found[-1][0],)

    def soonest(self, now: float) -> float | None:
        """Return when the next change that failed may be tried again."""
        query = (
            "SELECT not_before FROM changes WHERE not_before>0 AND not_before>? AND state<=? "
            "ORDER BY not_before LIMIT 1"
        )
        with self._reading() as db:
            found = db.execute(query, (now, State.REFUSED)).fetchone()
        return None if found is None else float(found[0])

    def any(self, condition: str, arguments: Iterable[object] = ()) -> bool:
        """Say whether a condition holds for some change."""
        query = f"SELECT 1 FROM changes WHERE {condition} LIMIT 1"  # noqa: S608 - as above
        with self._reading() as db:
            return db.execute(query, tuple(arguments)).fetchone() is not None

    def how_many(self, condition: str, arguments: Iterable[object] = ()) -> int:
        """Return for how many changes a condition holds."""
        query = f"SELECT count(*) FROM changes WHERE {condition}"  # noqa: S608 - as above
        with self._reading() as db:
            return int(db.execute(query, tuple(arguments)).fetchone()[0])

    def totals(self) -> Totals:
        """Return how much waits."""
        with self._reading() as db:
            facts = dict(db.execute("SELECT name, value FROM meta").fetchall())
            since = None
            if facts["count"]:
                since = db.execute("SELECT min(since) FROM changes").fetchone()[0]
        return Totals(int(facts["count"]), int(facts["bytes"]), since)

    def count(self) -> int:
        """Return how many changes wait, folders to be removed included."""
        with self._reading() as db:
            waiting = db.execute("SELECT value FROM meta WHERE name='count'").fetchone()[0]
            return int(waiting) + int(db.execute("SELECT count(*) FROM folders").fetchone()[0])

    # ---------------------------------------------------------------- progress

    def mark_sent(self, changes: Iterable[Change]) -> None:
        """Record that attempts begin: from now on the cold store may have these contents.

        INVARIANT: a crash after an upload landed, followed by an overwrite, is no conflict.
        (tests/tier/test_writeback_crash.py::test_overwrite_after_an_upload_whose_process_died_is_no_conflict)
        """
        with self.transaction() as db:
            db.executemany(
                "UPDATE changes SET state=? WHERE key=? AND gen=? AND state=?",
                [(State.SENT, c.key, c.gen, State.WAITING) for c in changes],
            )

    def finish(self, done: Iterable[tuple[Change, str | None]]) -> None:
        """Forget changes the cold store has; each comes with its etag there.

        INVARIANT: only for the generation that was sent; a newer one stays, now based on it.
        (tests/tier/test_uploader.py::test_overwrite_while_uploading)
        INVARIANT: unless it came when cold had something newer, written there directly.
        (tests/tier/test_uploader.py::test_answer_recorded_late_is_no_base_of_a_later_change)
        """
        with self.transaction() as db:
            for change, etag in done:
                now = row_of(db, change.key)
                if now is None:
                    continue
                if now.gen == change.gen:
                    remove_row(db, now)
                elif now.first <= change.gen:
                    db.execute("UPDATE changes SET base=? WHERE key=?", (etag, change.key))

    def fail(self, failed: Iterable[tuple[Change, State, float, str]]) -> None:
        """Record failed attempts: the new state, when to try again, and why."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE changes SET state=?, tries=tries+1, not_before=?, error=? "
                "WHERE key=? AND gen=?",
                [(state, at, why, c.key, c.gen) for c, state, at, why in failed],
            )

    def resolve(self, key: str, base: str | None) -> None:
        """Let a change that was in conflict, or refused, have another turn on a new base."""
        with self.transaction() as db:
            db.execute(
                "UPDATE changes SET state=?, base=?, tries=0, not_before=0, error='' WHERE key=?",
                (State.WAITING, base, key),
            )

    def forget(self, change: Change) -> None:
        """Drop a change that its user gave up."""
        with self.transaction() as db:
            now = row_of(db, change.key)
            if now is not None and now.gen == change.gen:
                remove_row(db, now)

    def ask_for_flush(self) -> int:
        """Let whoever sends know that everything up to now is wanted; return how far that is."""
        with self.transaction() as db:
            gen = int(db.execute("SELECT value FROM meta WHERE name='gen'").fetchone()[0])
            db.execute("UPDATE meta SET value=? WHERE name='flush'", (gen,))
            db.execute(_ONE_MORE_WAITS)
            db.execute(
                "UPDATE changes SET not_before=0, state=min(state, ?) "
                "WHERE not_before>0 AND state<=?",
                (State.SENT, State.REFUSED),
            )
            return gen

    def note(self, name: str) -> Any:
        """Return a fact that was recorded for every process, None where there is none."""
        with self._reading() as db:
            found = db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return None if found is None else found[0]

    def set_note(self, name: str, value: str | None) -> None:
        """Record a fact for every process, or with None that there is none."""
        with self.transaction() as db:
            db.execute("DELETE FROM meta WHERE name=?", (name,))
            if value is not None:
                db.execute("INSERT INTO meta VALUES (?, ?)", (name, value))

    def hurry(self) -> None:
        """Let whoever sends know that somebody waits for it."""
        with self.transaction() as db:
            db.execute(_ONE_MORE_WAITS)
            db.execute(_ROOM_IS_WANTED)

    def ask_for_room(self) -> None:
        """Let whoever sends know that objects are not to wait any longer to be left alone."""
        with self.transaction() as db:
            db.execute(_ROOM_IS_WANTED)

    def room_wanted(self) -> int:
        """Return the generation up to which objects are to be sent at once."""
        with self._reading() as db:
            found = db.execute("SELECT max(value) FROM meta WHERE name IN ('flush', 'room')")
            return int(found.fetchone()[0])

    def flush_wanted(self) -> int:
        """Return the generation up to which everything was asked for."""
        return int(self.note("flush"))

    # ---------------------------------------------------------------- folders

    def mark_folder(self, key: str) -> None:
        """Record that a directory is to be removed from cold once it is empty there."""
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO folders VALUES (?)", (key,))

    def unmark_folder(self, key: str) -> None:
        """Forget that a directory, and those above it, are to be removed."""
        with self.transaction() as db:
            unmark_folders(db, f"{key}/")

    def forget_folder(self, key: str) -> None:
        """Forget one directory that was dealt with."""
        with self.transaction() as db:
            db.execute("DELETE FROM folders WHERE key=?", (key,))

    def folders(self, prefix: str = "") -> set[str]:
        """Return the directories that are to be removed, at a prefix and below it."""
        condition, arguments = at_or_below(prefix)
        query = f"SELECT key FROM folders WHERE {condition}"  # noqa: S608 - as above
        with self._reading() as db:
            return {row[0] for row in db.execute(query, arguments)}


def _prepare(db: sqlite3.Connection, path: str) -> None:
    """Make the schema, or bring an older one up to date."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        message = (
            f"the tier's journal has format {version}, this version of the library knows "
            f"{SCHEMA_VERSION}; upgrade it (nothing was changed)"
        )
        raise UnsupportedError(message, path)
    if version == 0:
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        version = SCHEMA_VERSION
    while version < SCHEMA_VERSION:
        MIGRATIONS[version](db)
        version += 1
    for statement in _INDEXES:
        db.execute(statement)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
