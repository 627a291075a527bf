"""What is on the hot tier, in SQLite: sizes, reservations, owners; never read on a hit.

What lives here: the accounting that keeps the limit, over all processes. What must not: files
other than the database; deciding what to evict.

It can be rebuilt by listing the hot directory, so it is not synced (``synchronous=OFF``): a kill
cannot harm it, and after a power cut it is rebuilt. ``journal_mode=PERSIST`` rather than WAL
because SQLite before 3.51.3 can corrupt a WAL database that several processes write.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from vfs.errors import os_error
from vfs.tier.journalrows import at_or_below

__all__ = ["Catalog", "Reservation", "Row", "is_local_etag"]

#: Number of the schema; one that no migration leads from means: rebuild it by listing.
SCHEMA_VERSION: Final = 3

#: From version 2 to 3: checksums, and what plans remember.
_PLANS: Final = """
CREATE TABLE moves (key TEXT PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cold_reads (
    key TEXT PRIMARY KEY, day INTEGER NOT NULL, reads INTEGER NOT NULL, before INTEGER NOT NULL,
    size INTEGER
) WITHOUT ROWID;
"""
_MIGRATIONS: Final = {2: f"ALTER TABLE objects ADD COLUMN hash TEXT;{_PLANS}"}

#: How long a transaction waits for one of another process. Transactions take well under a
#: millisecond; this outlasts the rebuild of a million rows.
_BUSY_S: Final = 60.0

_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE objects (
    key TEXT PRIMARY KEY, size INTEGER NOT NULL, inode INTEGER NOT NULL,
    etag TEXT, mtime REAL, dirty INTEGER NOT NULL DEFAULT 0, base TEXT,
    hash TEXT
) WITHOUT ROWID;
CREATE TABLE reservations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner INTEGER NOT NULL, key TEXT NOT NULL, size INTEGER NOT NULL
);
CREATE TABLE owners (id INTEGER PRIMARY KEY AUTOINCREMENT);
INSERT INTO meta VALUES ('used', 0), ('limit', NULL), ('boot', '');
"""

#: Rows of one page: some hundred kilobytes in memory.
_PAGE: Final = 1000

_RESERVE: Final = "INSERT INTO reservations (owner, key, size) VALUES (?, ?, ?)"
_COLUMNS: Final = "key, size, inode, etag, mtime, dirty, base, hash"


@dataclass(frozen=True, slots=True)
class Row:
    """One hot copy.

    ``etag`` and ``mtime`` are those of the cold object it equals; None while nobody asked. A copy
    that was written here keeps the ones it had before cold had it. ``base`` is the etag that cold
    gave these very bytes, told by the answer to their upload or read; None where it was not.
    ``dirty``: the journal says that cold lacks it. ``hash`` is the xxh3 of the bytes that were
    written; None where an older version of the library wrote them.
    """

    key: str
    size: int
    inode: int
    etag: str | None = None
    mtime: float | None = None
    dirty: bool = False
    base: str | None = None
    hash: str | None = None

    @property
    def cold_etag(self) -> str | None:
        """Version of the cold object this copy equals, as far as is known."""
        return self.base if is_local_etag(self.etag) else self.etag

    def equals(self, size: int, etag: str | None) -> bool:
        """Say whether an object of cold is, as far as is known, the one this copy became."""
        return size == self.size and self.base in {None, etag}


def is_local_etag(etag: str | None) -> bool:
    """Say whether a version was given by the tier, before the cold store gave one."""
    return etag is None or etag.startswith("hot-")


@dataclass(frozen=True, slots=True)
class Reservation:
    """Bytes set aside for a file that is being written.

    Numbers are never used again: a reservation is released a second time after its file was
    installed, which must not hit another process's.
    """

    id: int
    key: str
    size: int


class Catalog:
    """The database of one hot directory, as one process sees it.

    Parameters
    ----------
    path : str
        Of the database.
    boot : str
        Identifies the running kernel. A database of another boot may lack its last
        transactions; :attr:`needs_rebuild` says so.

    Notes
    -----
    Thread-safe; every method is one short transaction.
    """

    def __init__(self, path: str, boot: str) -> None:
        self.path = path
        self._lock = threading.RLock()
        self.needs_rebuild = False
        try:
            self._db = self._open(boot)
        except sqlite3.DatabaseError:
            for name in (path, f"{path}-journal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
            self._db = self._open(boot)

    def _open(self, boot: str) -> sqlite3.Connection:
        db = sqlite3.connect(
            self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute("PRAGMA journal_mode=PERSIST")
            db.execute("PRAGMA synchronous=OFF")
            db.execute("BEGIN IMMEDIATE")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in f"{_SCHEMA}{_PLANS}".split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                self.needs_rebuild = True
            else:
                _migrate(db, version)
                recorded = db.execute("SELECT value FROM meta WHERE name='boot'").fetchone()[0]
                self.needs_rebuild = recorded != boot
                if self.needs_rebuild and db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                    message = "damaged"
                    raise sqlite3.DatabaseError(message)
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Exclude every other process for the length of a block; roll back if it raises.

        Raises
        ------
        OSError
            [ENOSPC] the disk is full; [EIO] the database cannot be read or written.
        """
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                # SQLite rolls back by itself after some failures, a commit's among them.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Keep other threads off the connection; SQLite's errors become OSError."""
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
                code = errno.ENOSPC if full else errno.EIO
                raise os_error(code, self.path, f"the tier's catalogue: {error}") from error

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

    # ---------------------------------------------------------------- limit

    def limit(self) -> int | None:
        """Return the limit in bytes that all processes keep."""
        with self.reading() as db:
            row = db.execute("SELECT value FROM meta WHERE name='limit'").fetchone()
        return None if row[0] is None else int(row[0])

    def set_limit(self, limit: int) -> None:
        """Set the limit for all processes; the last one to configure it wins."""
        with self.transaction() as db:
            db.execute("UPDATE meta SET value=? WHERE name='limit'", (limit,))

    def used(self) -> int:
        """Return bytes of all hot copies and reservations."""
        with self.reading() as db:
            return _used(db)

    def count(self) -> int:
        """Return the number of hot copies."""
        with self.reading() as db:
            found = db.execute("SELECT count(*) FROM objects").fetchone()
        return int(found[0])

    def reserve(self, owner: int, key: str, size: int) -> Reservation | int:
        """Set bytes aside if the limit allows; else return how many have to be freed.

        INVARIANT: no byte is written to the hot directory before it was reserved here, so
        the sum never passes the limit. (tests/tier/test_limit.py::test_limit_holds_at_every_write)
        """
        with self.transaction() as db:
            limit = int(db.execute("SELECT value FROM meta WHERE name='limit'").fetchone()[0])
            missing = _used(db) + size - limit
            if missing > 0:
                return missing
            cursor = db.execute(_RESERVE, (owner, key, size))
            _add_used(db, size)
            return Reservation(int(cursor.lastrowid or 0), key, size)

    def reserve_all(self, owner: int, wanted: list[tuple[str, int]]) -> list[Reservation | None]:
        """Set bytes aside for several files in one transaction; None for each that finds no room.

        The same promise as :meth:`reserve`.
        """
        with self.transaction() as db:
            limit = int(db.execute("SELECT value FROM meta WHERE name='limit'").fetchone()[0])
            room, found = limit - _used(db), list[Reservation | None]()
            for key, size in wanted:
                if size > room:
                    found.append(None)
                    continue
                room -= size
                cursor = db.execute(_RESERVE, (owner, key, size))
                found.append(Reservation(int(cursor.lastrowid or 0), key, size))
            _add_used(db, sum(r.size for r in found if r is not None))
        return found

    def release(self, reservation: Reservation) -> None:
        """Give reserved bytes back, after their file is gone."""
        with self.transaction() as db:
            _release(db, reservation)

    # ---------------------------------------------------------------- rows

    def row(self, key: str) -> Row | None:
        """Return the row of a key."""
        with self.reading() as db:
            query = f"SELECT {_COLUMNS} FROM objects WHERE key=?"  # noqa: S608 - a constant
            found = db.execute(query, (key,)).fetchone()
        return None if found is None else _row(found)

    def page(self, after: str, count: int) -> list[Row]:
        """Return the next rows in the order of their keys, whatever their state."""
        with self.reading() as db:
            query = f"SELECT {_COLUMNS} FROM objects WHERE key>? ORDER BY key LIMIT ?"  # noqa: S608 - a constant
            return [_row(found) for found in db.execute(query, (after, count))]

    def rows(self, prefix: str = "") -> list[tuple[str, int, int]]:
        """Return (key, size, inode) of every clean hot copy at or below a key.

        INVARIANT: what is not in cold is never among those that may be evicted.
        (tests/tier/test_writeback.py::test_dirty_is_never_evicted)
        """
        condition, arguments = at_or_below(prefix)
        query = f"SELECT key, size, inode FROM objects WHERE dirty=0 AND {condition}"  # noqa: S608 - a constant
        with self.reading() as db:
            return db.execute(query, arguments).fetchall()

    def given_here(self, keys: Iterable[str]) -> list[Row]:
        """Return those of the keys' rows whose version the tier gave, before cold had one.

        Cost: one query for all; about 2 µs a key.
        """
        query = (
            "SELECT o.key, size, inode, etag, mtime, dirty, base, hash"
            " FROM json_each(?) AS asked JOIN objects AS o ON o.key = asked.value"
            " WHERE etag GLOB 'hot-*'"
        )
        with self.reading() as db:
            found = db.execute(query, (json.dumps(list(keys)),)).fetchall()
        return [_row(facts) for facts in found]

    def note_base(self, sent: Iterable[tuple[str, str | None, str | None]]) -> None:
        """Record for (key, version here, etag in cold) what cold calls these very copies."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE objects SET base=? WHERE key=? AND etag IS ?",
                [(base, key, etag) for key, etag, base in sent],
            )

    def note_clean(self, sent: Iterable[tuple[str, str | None]]) -> None:
        """Record for (key, version here) that the journal no longer has these very copies.

        INVARIANT: a copy is known by its version, not by its inode: a later one may have the same.
        (tests/tier/test_uploader.py::test_later_copy_with_the_same_inode_is_not_taken_for_clean)
        """
        with self.transaction() as db:
            db.executemany("UPDATE objects SET dirty=0 WHERE key=? AND etag IS ?", list(sent))

    def note_hash(self, key: str, inode: int, digest: str) -> None:
        """Record the checksum of a copy that has none."""
        with self.transaction() as db:
            db.execute(
                "UPDATE objects SET hash=? WHERE key=? AND inode=? AND hash IS NULL",
                (digest, key, inode),
            )

    def dirty_inodes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield keys and inodes of copies marked as missing in cold, at or below a key, by key.

        A page of them is in memory, however many they are.
        """
        condition, arguments = at_or_below(prefix)
        query = (
            f"SELECT key, inode FROM objects WHERE dirty=1 AND {condition} AND key>? "  # noqa: S608 - a constant
            "ORDER BY key LIMIT ?"
        )
        after = ""
        while True:
            with self.reading() as db:
                found = db.execute(query, (*arguments, after, _PAGE)).fetchall()
            yield from found
            if len(found) < _PAGE:
                return
            after = found[-1][0]

    # ---------------------------------------------------------------- owners

    def new_owner(self, prove_alive: Callable[[int], bool]) -> int:
        """Return a number that no living process has.

        ``prove_alive`` takes the number's lock before any other process can see the number; it
        fails where a process still lives that had its number from a catalogue since lost.
        """
        with self.transaction() as db:
            while True:
                owner = int(db.execute("INSERT INTO owners DEFAULT VALUES").lastrowid or 0)
                if prove_alive(owner):
                    return owner

    def owners(self) -> list[int]:
        """Return the processes that have not been buried."""
        with self.reading() as db:
            return [row[0] for row in db.execute("SELECT id FROM owners")]

    def reservations_of(self, owner: int) -> list[Reservation]:
        """Return what a process has set aside."""
        with self.reading() as db:
            found = db.execute("SELECT id, key, size FROM reservations WHERE owner=?", (owner,))
            return [Reservation(*row) for row in found]

    def bury(self, owner: int) -> None:
        """Forget a dead process; its reservations are given back."""
        with self.transaction() as db:
            for reservation in self.reservations_of(owner):
                _release(db, reservation)
            db.execute("DELETE FROM owners WHERE id=?", (owner,))

    def boot(self) -> str:
        """Return during which boot the catalogue was last made from a listing."""
        with self.reading() as db:
            return str(db.execute("SELECT value FROM meta WHERE name='boot'").fetchone()[0])

    def rebuild(
        self,
        found: Iterable[tuple[str, os.stat_result]],
        boot: str,
        dirty: Callable[[str], Row | None],
    ) -> None:
        """Replace all rows by what lies in the hot directory, and the journal says of it."""
        with self.transaction() as db:
            if self.boot() == boot:
                return  # another process was faster
            # In a table, not in memory: there may be millions.
            columns = "key, size, inode, etag, mtime, base, hash"
            db.execute(f"CREATE TEMP TABLE known ({columns}, PRIMARY KEY (key))")
            db.execute(f"INSERT INTO known SELECT {columns} FROM objects")  # noqa: S608 - a constant
            db.execute("DELETE FROM objects")
            db.execute("DELETE FROM reservations")
            used = 0
            for key, facts in found:
                row = Row(key, facts.st_size, facts.st_ino)
                old = db.execute(
                    "SELECT etag, mtime, base, hash FROM known WHERE key=? AND size=? AND inode=?",
                    (key, row.size, row.inode),
                ).fetchone()
                if old is not None:
                    row = replace(row, etag=old[0], mtime=old[1], base=old[2], hash=old[3])
                if (owed := dirty(key)) is not None:
                    row = replace(owed, size=facts.st_size, inode=facts.st_ino)
                _insert(db, row)
                used += facts.st_size
            db.execute("DROP TABLE known")
            db.execute("UPDATE meta SET value=? WHERE name='used'", (used,))
            db.execute("UPDATE meta SET value=? WHERE name='boot'", (boot,))


def _migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring an older schema up to date, inside the transaction that opens the database."""
    while version != SCHEMA_VERSION:
        if version not in _MIGRATIONS:
            message = f"schema {version}"
            raise sqlite3.DatabaseError(message)
        for statement in _MIGRATIONS[version].split(";"):
            db.execute(statement)
        version += 1
        db.execute(f"PRAGMA user_version={version}")


def _row(found: tuple[Any, ...]) -> Row:
    key, size, inode, etag, mtime, dirty, base, digest = found
    return Row(key, size, inode, etag, mtime, bool(dirty), base, digest)


def _used(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT value FROM meta WHERE name='used'").fetchone()[0])


def _add_used(db: sqlite3.Connection, size: int) -> None:
    db.execute("UPDATE meta SET value=value+? WHERE name='used'", (size,))


def _release(db: sqlite3.Connection, reservation: Reservation) -> None:
    gone = db.execute("DELETE FROM reservations WHERE id=?", (reservation.id,)).rowcount
    if gone:
        _add_used(db, -reservation.size)


def replace_row(db: sqlite3.Connection, row: Row, reservation: Reservation | None) -> None:
    """Inside a transaction: turn a reservation into a hot copy, in place of an older one."""
    if reservation is not None:
        _release(db, reservation)
    remove_row(db, row.key)
    _insert(db, row)
    _add_used(db, row.size)


def _insert(db: sqlite3.Connection, row: Row) -> None:
    facts = (row.key, row.size, row.inode, row.etag, row.mtime, row.dirty, row.base, row.hash)
    db.execute(f"INSERT INTO objects ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", facts)  # noqa: S608 - a constant


def remove_row(db: sqlite3.Connection, key: str, inode: int | None = None) -> int:
    """Inside a transaction: forget a hot copy; return the bytes it had.

    With an inode only if it is still that one, and clean.
    """
    query = "DELETE FROM objects WHERE key=?"
    arguments: list[object] = [key]
    if inode is not None:
        query += " AND inode=? AND dirty=0"
        arguments.append(inode)
    found = db.execute(f"{query} RETURNING size", arguments).fetchall()
    size = sum(int(row[0]) for row in found)
    if size:
        _add_used(db, -size)
    return size
