"""What a program asked of a disk, call by call: the log that power cuts are simulated from.

What lives here: the recorder of ``os`` calls and SQLite commits below one directory, and the log it
writes. What must not: what a disk may make of the log (``crashmodels.py``).

SQLite calls the operating system from C, past this recorder. A database is therefore one file whose
whole content changes at a commit: synced if ``PRAGMA synchronous`` is FULL or more, else one that a
power cut may undo or damage. That SQLite keeps its side is SQLite's own, much larger, test.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = ["ROOT", "Commit", "Data", "Entries", "Log", "Mark", "Op", "Recorder", "Remote", "Sync"]

#: Number of the directory that is recorded. Numbers are the log's own: the kernel uses its again.
ROOT: Final = 0

_FULL: Final = 2  # of PRAGMA synchronous

#: SQLite writes these beside a database; between commits they mean nothing.
_OF_SQLITE: Final = ("-journal", "-wal", "-shm")


class Entries(NamedTuple):
    """Names changed in one atomic step: (directory, name, inode or None for no entry)."""

    changes: tuple[tuple[int, str, int | None], ...]


class Data(NamedTuple):
    """Bytes written to a file; with ``size`` it is cut or extended to that size instead."""

    inode: int
    offset: int
    data: bytes
    size: int | None = None


class Sync(NamedTuple):
    """A file or directory was forced to the disk."""

    inode: int


class Commit(NamedTuple):
    """A database has a new content: number ``version`` of ``Log.databases[inode]``."""

    inode: int
    version: int
    synced: bool


class Remote(NamedTuple):
    """Something beyond the disk, as a store on the network, is now in a state of that number."""

    state: int


class Mark(NamedTuple):
    """What the recorded program notes: a change begun, or acknowledged."""

    note: Any


Op: TypeAlias = Entries | Data | Sync | Commit | Remote | Mark


@dataclass(slots=True)
class Log:
    """A run: what the directory held at first, then every call in order.

    Attributes
    ----------
    ops : list of Op
        In the order the calls returned.
    entries : dict
        (directory, name) to inode, at the start.
    contents : dict[int, bytes]
        Of files, at the start.
    directories : set[int]
        Which inodes are directories, ever.
    databases : dict[int, list[bytes]]
        Contents of each database after each commit; number 0 is the one at the start.
    numbers : dict[int, int]
        The kernel's inode numbers.
    later_numbers : dict[int, int]
        Those of the files with which a run went on after a kill; see :meth:`Recorder.go_on`.
    remotes : list
        States of what is beyond the disk.
    """

    ops: list[Op] = field(default_factory=list)
    entries: dict[tuple[int, str], int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    directories: set[int] = field(default_factory=lambda: {ROOT})
    databases: dict[int, list[bytes]] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    later_numbers: dict[int, int] = field(default_factory=dict)
    remotes: list[Any] = field(default_factory=list)

    def cut(self, moment: int) -> Log:
        """Return a log of its own of the first so many calls."""
        ops = self.ops[:moment]
        versions = {op.inode: op.version for op in ops if isinstance(op, Commit)}
        databases = {
            inode: found[: versions.get(inode, 0) + 1] for inode, found in self.databases.items()
        }
        return Log(
            ops,
            dict(self.entries),
            dict(self.contents),
            set(self.directories),
            databases,
            dict(self.numbers),
            dict(self.later_numbers),
            list(self.remotes),
        )


class Recorder:
    """Records what this process does below a directory while :meth:`recording`.

    Parameters
    ----------
    root : str
        Absolute path; need not exist.
    is_database : callable, optional
        Which paths below it are SQLite databases; by default those ending in ``.sqlite``.

    Notes
    -----
    Thread-safe: calls are made one at a time, and the log is their order. Seen are calls through
    the module ``os`` and commits of connections opened while recording. Files opened by
    ``open()`` and changed through it, memory maps and times of access are not.

    Examples
    --------
    >>> import tempfile
    >>> top = tempfile.mkdtemp()
    >>> recorder = Recorder(top)
    >>> with recorder.recording():
    ...     os.mkdir(f"{top}/d")
    >>> recorder.log.ops
    [Entries(changes=((0, 'd', 1),))]
    """

    def __init__(
        self, root: str, is_database: Callable[[str], bool] = lambda path: path.endswith(".sqlite")
    ) -> None:
        self.root = os.path.abspath(root)
        self.log = Log()
        self._is_database = is_database
        self._lock = threading.RLock()
        self._now: dict[tuple[int, str], int] = {}
        self._files: dict[int, int] = {}  # inode by descriptor
        self._next = ROOT + 1
        self._on = self._goes_on = False
        self._real: dict[str, Any] = {}

    # ---------------------------------------------------------------- use

    @contextlib.contextmanager
    def recording(self) -> Iterator[Log]:
        """Record for the length of a block; what is there at its start is the log's start."""
        if os.path.isdir(self.root) and not self._goes_on:
            self._look(self.root, ROOT)
            self.log.entries = dict(self._now)
        fakes = {name[1:]: getattr(self, name) for name in _WRAPPED}
        self._real = {name: getattr(os, name) for name in fakes}
        connect = sqlite3.connect
        kind = _connection_class(self)

        def recorded_connect(database: Any, *args: Any, **kwargs: Any) -> sqlite3.Connection:
            kwargs.setdefault("factory", kind)
            db: sqlite3.Connection = connect(database, *args, **kwargs)
            return db

        for name, fake in fakes.items():
            setattr(os, name, fake)
        sqlite3.connect = recorded_connect  # type: ignore[assignment]
        self._on = True
        try:
            yield self.log
        finally:
            self._on = False
            sqlite3.connect = connect
            for name, real in self._real.items():
                setattr(os, name, real)

    def go_on(self, log: Log, moment: int, numbers: Mapping[int, int]) -> None:
        """Add to a log that a kill has cut after so many calls; to be called before recording.

        A kill leaves every call as it was made, and what was not synced then still is not: a
        power cut later, which this log can tell, may take it from the process that has come back.

        Parameters
        ----------
        log : Log
            Of the run that was killed.
        moment : int
            When.
        numbers : dict[int, int]
            What :func:`~vfs.testing.crash.lay_out` returned when it made the files in the root.
        """
        self.log = log.cut(moment)
        self.log.later_numbers = {
            inode: numbers[real] for inode, real in log.numbers.items() if real in numbers
        }
        self._now = dict(log.entries)
        for op in self.log.ops:
            if isinstance(op, Entries):
                self._apply(op.changes)
        self._next = max(log.numbers, default=ROOT) + 1
        self._goes_on = True

    def mark(self, note: Any) -> None:
        """Put a note of the program into the log."""
        with self._lock:
            self.log.ops.append(Mark(note))

    def remote(self, change: Callable[[], Any]) -> None:
        """Record a change beyond the disk; ``change`` makes it and returns the new state."""
        with self._lock:
            self.log.remotes.append(change())
            self.log.ops.append(Remote(len(self.log.remotes) - 1))

    def _look(self, path: str, inode: int) -> None:
        """Take over what lies in a directory."""
        seen: dict[int, int] = {}
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.name.endswith(_OF_SQLITE):
                continue
            facts = entry.stat(follow_symlinks=False)
            number = seen.get(facts.st_ino) or self._new(facts.st_ino)
            self._now[inode, entry.name] = number
            if entry.is_dir(follow_symlinks=False):
                self.log.directories.add(number)
                self._look(entry.path, number)
                continue
            seen[facts.st_ino] = number
            with open(entry.path, "rb") as file:
                data = file.read()
            if self._is_database(entry.path):
                self.log.databases[number] = [data]
            else:
                self.log.contents[number] = data

    def _new(self, real: int) -> int:
        number, self._next = self._next, self._next + 1
        self.log.numbers[number] = real
        return number

    # ---------------------------------------------------------------- names

    def _place(self, path: Any) -> tuple[int, str] | None:
        """Return directory and name of a path below the root; None for all others."""
        if not self._on or isinstance(path, int):
            return None
        path = os.path.abspath(os.fsdecode(path))
        if path == self.root or not path.startswith(f"{self.root}/"):
            return None
        inode = ROOT
        *parents, name = path[len(self.root) + 1 :].split("/")
        for parent in parents:
            found = self._now.get((inode, parent))
            if found is None:
                return None
            inode = found
        return inode, name

    def _inode(self, path: Any) -> int | None:
        if isinstance(path, str) and self._on and os.path.abspath(path) == self.root:
            return ROOT
        place = self._place(path)
        return None if place is None else self._now.get(place)

    def _change(self, *changes: tuple[int, str, int | None]) -> None:
        self._apply(changes)
        self.log.ops.append(Entries(changes))

    def _apply(self, changes: Iterable[tuple[int, str, int | None]]) -> None:
        for directory, name, inode in changes:
            if inode is None:
                self._now.pop((directory, name), None)
            else:
                self._now[directory, name] = inode

    def _appear(self, place: tuple[int, str], path: Any) -> int:
        inode = self._new(os.stat(path).st_ino)
        self._change((*place, inode))
        return inode

    # ---------------------------------------------------------------- calls

    def _open(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        with self._lock:
            fd: int = self._real["open"](path, flags, *args, **kwargs)
            self._files.pop(fd, None)  # closed by somebody else
            place = self._place(path)
            inode = self._inode(path)
            if inode is None and place is not None and flags & os.O_CREAT:
                inode = self._appear(place, path)
            if inode is not None:
                self._files[fd] = inode
                if flags & os.O_TRUNC:
                    self.log.ops.append(Data(inode, 0, b"", 0))
            return fd

    def _close(self, fd: int) -> None:
        with self._lock:
            self._files.pop(fd, None)
            self._real["close"](fd)

    def _write(self, fd: int, data: Any) -> int:
        with self._lock:
            done: int = self._real["write"](fd, data)
            if (inode := self._files.get(fd)) is not None:
                end = os.lseek(fd, 0, os.SEEK_CUR)
                self.log.ops.append(Data(inode, end - done, bytes(data[:done])))
            return done

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        with self._lock:
            done: int = self._real["pwrite"](fd, data, offset)
            if (inode := self._files.get(fd)) is not None:
                self.log.ops.append(Data(inode, offset, bytes(data[:done])))
            return done

    def _copy_file_range(
        self, source: int, target: int, count: int, start: int | None = None, to: int | None = None
    ) -> int:
        with self._lock:
            done: int = self._real["copy_file_range"](source, target, count, start, to)
            if done and (inode := self._files.get(target)) is not None:
                offset = to if to is not None else os.lseek(target, 0, os.SEEK_CUR) - done
                self.log.ops.append(Data(inode, offset, os.pread(target, done, offset)))
            return done

    def _ftruncate(self, fd: int, size: int) -> None:
        with self._lock:
            self._real["ftruncate"](fd, size)
            if (inode := self._files.get(fd)) is not None:
                self.log.ops.append(Data(inode, 0, b"", size))

    def _fsync(self, fd: int) -> None:
        with self._lock:
            self._real["fsync"](fd)
            if (inode := self._files.get(fd)) is not None:
                self.log.ops.append(Sync(inode))

    _fdatasync = _fsync

    def _rename(self, source: Any, target: Any, **kwargs: Any) -> None:
        with self._lock:
            inode, old, new = self._inode(source), self._place(source), self._place(target)
            self._real["rename"](source, target, **kwargs)
            if inode is not None and old is not None and new is not None:
                self._change((*old, None), (*new, inode))

    _replace = _rename

    def _link(self, source: Any, target: Any, **kwargs: Any) -> None:
        with self._lock:
            inode, new = self._inode(source), self._place(target)
            self._real["link"](source, target, **kwargs)
            if inode is not None and new is not None:
                self._change((*new, inode))

    def _unlink(self, path: Any, **kwargs: Any) -> None:
        self._remove("unlink", path, **kwargs)

    def _rmdir(self, path: Any, **kwargs: Any) -> None:
        self._remove("rmdir", path, **kwargs)

    def _remove(self, call: str, path: Any, **kwargs: Any) -> None:
        with self._lock:
            place, inode = self._place(path), self._inode(path)
            self._real[call](path, **kwargs)
            if place is not None and inode is not None:
                self._change((*place, None))

    def _mkdir(self, path: Any, *args: Any, **kwargs: Any) -> None:
        with self._lock:
            self._real["mkdir"](path, *args, **kwargs)
            if (place := self._place(path)) is not None:
                self.log.directories.add(self._appear(place, path))

    # ---------------------------------------------------------------- SQLite

    def commit(self, db: sqlite3.Connection, run: Callable[[], Any]) -> Any:
        """Run a statement that may commit, and record the commit if it did."""
        with self._lock:
            result = run()
            if not db.in_transaction:
                self._record_commit(db)
            return result

    def _record_commit(self, db: sqlite3.Connection) -> None:
        # Through a cursor: that is not recorded.
        path = db.cursor().execute("PRAGMA database_list").fetchone()[2]
        synced = int(db.cursor().execute("PRAGMA synchronous").fetchone()[0]) >= _FULL
        place = self._place(path)
        if place is None or not os.path.exists(path):
            return
        inode = self._now.get(place)
        if inode is None:
            inode = self._appear(place, path)
        versions = self.log.databases.setdefault(inode, [b""])
        with open(path, "rb") as file:
            data = file.read()
        if data != versions[-1]:
            versions.append(data)
            self.log.ops.append(Commit(inode, len(versions) - 1, synced))

    def sees(self) -> bool:
        """Say whether calls are recorded now."""
        return self._on


_WRAPPED: Final = (
    *("_open", "_close", "_write", "_pwrite", "_copy_file_range", "_ftruncate", "_fsync"),
    *("_fdatasync", "_rename", "_replace", "_link", "_unlink", "_rmdir", "_mkdir"),
)


def _connection_class(recorder: Recorder) -> type[sqlite3.Connection]:
    """Return a class of connections whose commits the recorder sees."""

    class Recorded(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            run = super().execute
            begins = sql.lstrip()[:8].upper().startswith(("BEGIN", "SELECT", "ROLLBACK"))
            if not recorder.sees() or begins or (self.in_transaction and "COMMIT" not in sql):
                return run(sql, *args)
            found: sqlite3.Cursor = recorder.commit(self, lambda: run(sql, *args))
            return found

    return Recorded
