"""The hot directory: where copies lie, how they are read, staged, published and dropped.

What lives here: file operations on one directory, blocking, and their accounting. What must not:
the cold store, decisions, waiting for other processes.

``<hot>/<key>`` is the object itself, readable without this library. ``<hot>/.vfs/`` holds what
the tier needs: ``tier.json`` (whose tier this is), ``catalog.sqlite``, ``pins.json``, ``locks``,
``generations``, ``heat`` and ``tmp/``, at times ``unsynced`` (directories whose names may not be on
the disk yet); under write-back also ``journal.sqlite`` and ``aside/``.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import struct
import time
from collections.abc import Container, Iterable, Iterator
from typing import IO, Final

import xxhash

from vfs.core.durable import (
    Durability,
    Staging,
    copy_all,
    fsync,
    fsync_directory,
    make_all_directories,
    make_directories,
    unlink_if_there,
    write_all,
)
from vfs.core.localread import WAIT_FOR_DISK, WaitForDisk, read_cached, read_range
from vfs.core.ranges import resolve
from vfs.policies.lru import Resident, choose_victims
from vfs.tier.catalog import Catalog, Reservation, Row, remove_row, replace_row
from vfs.tier.claim import STATE_DIRECTORY
from vfs.tier.heat import Heat
from vfs.tier.journal import Journal

__all__ = ["SLOTS", "Generations", "HotStore", "read_hot", "slot_of", "touch"]

#: Keys share this many locks and generation counters. Two keys that collide only wait for each
#: other; 65536 slots make that rare at a thousand writes in flight (1 % of them).
SLOTS: Final = 1 << 16

#: A copy's access time is renewed at most this often. Recency needs no more, and a hot loop over
#: one object then pays nothing (an update costs 0.4 µs).
_TOUCH_NS: Final = 1_000_000_000

#: An eviction frees this share of the limit beyond what is needed, so that a full tier does not
#: list its residents for every new object. 5 % costs 1 to 2 % more misses on recorded traces.
_BATCH_RATIO: Final = 0.05

#: Answers that mean: there is no copy of that name, and cannot be. It is a directory here, lies
#: below an object, or is longer than the disk allows.
_NO_SUCH_COPY: Final = frozenset({errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR})

#: Copies evicted in one transaction: each directory costs an fsync while others wait.
_EVICT_PAGE: Final = 64

_COUNTER: Final = struct.Struct("<Q")


def slot_of(key: str) -> int:
    """Return the lock and generation slot of a key."""
    return int(xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogateescape"))) % SLOTS


class Generations:
    """One counter a slot, shared by all processes: odd while a change is under way.

    A fetch remembers the number before it starts. It installs only if that was even and is still
    the same, so that bytes read before or during a change can never be installed after it; a
    change whose process died leaves an odd number behind until somebody finds its lock free.

    References
    ----------
    Sequence locks, as in the Linux kernel's ``seqlock``.
    """

    def __init__(self, path: str) -> None:
        with open(path, "ab") as file:
            if file.tell() < SLOTS * _COUNTER.size:
                file.truncate(SLOTS * _COUNTER.size)
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), SLOTS * _COUNTER.size)

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()

    def get(self, slot: int) -> int:
        """Return the number of a slot."""
        return int(_COUNTER.unpack_from(self._map, slot * _COUNTER.size)[0])

    def begin(self, slot: int) -> int:
        """Start a change and return its odd number; the caller holds the slot's writer lock."""
        number = self.get(slot) + 1
        number += number % 2 == 0  # the last change never ended: its process died
        _COUNTER.pack_into(self._map, slot * _COUNTER.size, number)
        return number

    def end(self, slot: int) -> None:
        """End a change, if one was begun; the caller holds the slot's writer lock."""
        number = self.get(slot)
        if number % 2:
            _COUNTER.pack_into(self._map, slot * _COUNTER.size, number + 1)


class HotStore:
    """The files of one hot directory.

    Parameters
    ----------
    root : str
        Absolute path of the directory.
    catalog : Catalog
        Its accounting.

    Attributes
    ----------
    owner : int
        This process's number in the catalogue, once it has one.
    heat : Heat
        Where reads are counted.
    """

    def __init__(self, root: str, catalog: Catalog, heat: Heat) -> None:
        self.root = root
        self.catalog = catalog
        self.owner = 0
        self.state = os.path.join(root, STATE_DIRECTORY)
        self.temporary = os.path.join(self.state, "tmp")
        self.heat = heat
        self._unsynced = os.path.join(self.state, "unsynced")
        make_directories(self.temporary, "process")

    # ---------------------------------------------------------------- stage and publish

    def stage(self, reservation: Reservation) -> Staging:
        """Open the file of a reservation."""
        name = f"{self.owner}-{reservation.id}"
        return Staging(self.temporary, "power", name)

    def install(
        self,
        staging: Staging,
        reservation: Reservation,
        base: str | None,
        digest: str,
    ) -> None:
        """Publish a complete staged file as the hot copy of its key.

        Parameters
        ----------
        staging, reservation
            The file and the bytes set aside for it.
        base : str or None
            Etag of the cold object, told by the answer to its read or write.
        digest : str
            The xxh3 of the bytes that the file was to hold.

        The caller holds the key's writer lock and has checked the generation.
        """
        # The directory is not synced: a copy lost in a power cut is fetched again. The file is,
        # or the name could survive without the bytes.
        fsync(staging.fd)
        path = self.path(reservation.key)
        found = os.fstat(staging.fd)
        row = Row(reservation.key, found.st_size, found.st_ino, base=base, hash=digest)
        self.heat.forget(found.st_ino)
        try:
            with self.catalog.transaction() as db:
                replace_row(db, row, reservation)
                # A write may come to rely on the directory: see DirtyStore.publish.
                self.place(staging.path, path, "power")
        except FileNotFoundError:
            raise
        except OSError:
            # The commit failed after the rename: a copy without a row would not be counted.
            if not os.path.exists(staging.path) and unlink_if_there(path):
                self.sync_removals({os.path.dirname(path)})
            raise
        staging.path = ""

    def place(self, staged: str, path: str, durability: Durability) -> None:
        """Rename a staged file to the name of its object, whose directory may have to be made.

        INVARIANT: called inside the catalogue's transaction, as :meth:`prune` is, so that no
        directory is removed between being made and being filled.
        (tests/tier/test_races.py::test_directory_is_not_pruned_under_a_publication)
        """
        self.make_places([path], durability)
        os.rename(staged, path)

    def make_places(self, paths: Iterable[str], durability: Durability) -> None:
        """Make the directories of several objects; to be called where :meth:`place` is.

        Those that are made are noted until they are synced: a process that dies before that leaves
        directories which the next one finds, and which a power cut would take with all in them.
        Nobody else is amid this, so what is noted was left by the dead, or by a process that
        promised less.

        INVARIANT: with "power" also a directory that was there is on the disk.
        (tests/tier/test_powercut.py::test_directory_left_by_a_killed_process_is_synced)
        """
        directories = list(dict.fromkeys(map(os.path.dirname, paths)))
        if durability == "power":
            self._sync_left_over()
        if all(map(os.path.isdir, directories)):
            return
        note = os.open(self._unsynced, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # Within the hot directory, which may be found under another name.
            names = (os.path.relpath(path, self.root) for path in directories)
            write_all(note, b"".join(os.fsencode(name) + b"\0" for name in names))
        finally:
            os.close(note)
        make_all_directories(directories, durability)
        if durability == "power":
            os.unlink(self._unsynced)

    def _sync_left_over(self) -> None:
        """Sync the names of directories that were made and never synced."""
        try:
            with open(self._unsynced, "rb") as file:
                left = file.read().split(b"\0")
        except FileNotFoundError:
            return
        parents = {self.root}
        for name in left:
            # Not as it is: of a note that a power cut has torn the name may begin anywhere.
            above = os.path.dirname(os.fsdecode(name).strip("/"))
            while above:
                parents.add(os.path.join(self.root, above))
                above = os.path.dirname(above)
        for parent in sorted(parents):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                fsync_directory(parent)
        os.unlink(self._unsynced)

    def fill(self, staging: Staging, source: str) -> None:
        """Copy a local file into a staged one."""
        file: IO[bytes]
        with open(source, "rb") as file:
            copy_all(file.fileno(), staging.fd)

    def copy_out(self, key: str, local: str) -> bool:
        """Copy a hot copy into an existing local file; return whether there was one."""
        try:
            source = os.open(self.path(key), os.O_RDONLY)
        except OSError:
            return False
        try:
            with open(local, "r+b") as target:
                copy_all(source, target.fileno())
        finally:
            os.close(source)
        return True

    # ---------------------------------------------------------------- drop

    def drop(self, keys_and_paths: list[tuple[str, str]]) -> int:
        """Remove hot copies so that not even a power cut brings them back; return their bytes.

        INVARIANT: when this returns, the copies are gone for every process and for every later
        boot. (tests/tier/test_crash.py::test_dropped_copy_is_synced_before_cold_changes)
        """
        freed = 0
        directories = set()
        with self.catalog.transaction() as db:
            for key, path in keys_and_paths:
                try:
                    if unlink_if_there(path):
                        directories.add(os.path.dirname(path))
                except OSError as error:
                    if error.errno not in _NO_SUCH_COPY:
                        raise
                freed += remove_row(db, key)
            self.sync_removals(directories)
            for directory in directories:
                self.prune(directory)
        return freed

    def sync_removals(self, directories: set[str]) -> None:
        """Make unlinks durable, also where the directory itself was pruned meanwhile.

        Called inside the transaction, so that nobody can find a copy gone whose removal a power
        cut could still undo: a write that finds none syncs nothing.
        """
        for directory in directories:
            gone = directory
            while True:
                try:
                    fsync_directory(gone)
                    break
                except FileNotFoundError:
                    if gone == self.root:
                        break
                    gone = os.path.dirname(gone)

    def evict(self, victims: list[tuple[str, str, int]]) -> int:
        """Remove clean copies that are still the ones chosen; return the bytes freed.

        INVARIANT: an eviction cannot be undone by a power cut after a later write.
        (tests/tier/test_crash.py::test_evicted_copy_is_synced_before_the_eviction_is_known)

        Open readers keep their bytes: the kernel frees them with the last descriptor.
        """
        pages = (victims[i : i + _EVICT_PAGE] for i in range(0, len(victims), _EVICT_PAGE))
        return sum(self._evict_page(page) for page in pages)

    def _evict_page(self, victims: list[tuple[str, str, int]]) -> int:
        freed = 0
        directories = set()
        with self.catalog.transaction() as db:
            for key, path, inode in victims:
                size = remove_row(db, key, inode)
                if not size and db.execute("SELECT 1 FROM objects WHERE key=?", (key,)).fetchone():
                    continue  # replaced since it was chosen
                try:
                    facts = os.stat(path)
                    if facts.st_ino == inode:
                        os.unlink(path)
                except (FileNotFoundError, NotADirectoryError):
                    pass
                freed += size
                directories.add(os.path.dirname(path))
            self.sync_removals(directories)
            for directory in directories:
                self.prune(directory)
        return freed

    def prune(self, directory: str) -> None:
        """Remove directories that became empty, up to the root; see :meth:`place`."""
        while directory.startswith(f"{self.root}/") and directory != self.state:
            try:
                os.rmdir(directory)
            except OSError:
                return
            directory = os.path.dirname(directory)

    def make_room(self, need_bytes: int, pins: Container[str]) -> tuple[int, int]:
        """Evict least recently used copies until ``need_bytes`` are free, and a batch more.

        Returns
        -------
        tuple of int
            Bytes freed and copies evicted; zeros when everything left is pinned.
        """
        limit = self.catalog.limit() or 0
        residents = []
        inodes = {}
        for key, size, inode in self.catalog.rows():
            try:
                used_at = os.stat(self.path(key)).st_atime
            except OSError:
                used_at = 0.0  # gone already: the first to leave
            residents.append(Resident(key, size, used_at, key in pins))
            inodes[key] = inode
        victims = choose_victims(residents, need_bytes, int(limit * _BATCH_RATIO))
        chosen = [(v.key, self.path(v.key), inodes[v.key]) for v in victims]
        return self.evict(chosen), len(chosen)

    # ---------------------------------------------------------------- names and listing

    def path(self, key: str) -> str:
        """Return the local path of a key's hot copy."""
        return f"{self.root}{key}" if key[:1] == "/" else f"{self.root}/{key}"

    def walk(self, absolute_keys: bool) -> Iterator[tuple[str, os.stat_result]]:
        """Yield every copy in the directory with its stat, without the tier's own files.

        What others remove meanwhile is left out, or not.
        """
        start = "/" if absolute_keys else ""
        pending = [(self.root, start)]
        while pending:
            directory, prefix = pending.pop()
            try:
                entries = os.scandir(directory)
            except (FileNotFoundError, NotADirectoryError):
                if directory == self.root:
                    raise
                continue
            with entries:
                for entry in entries:
                    if not prefix.strip("/") and entry.name == STATE_DIRECTORY:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((entry.path, f"{prefix}{entry.name}/"))
                    elif entry.is_file(follow_symlinks=False):
                        try:
                            facts = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        yield f"{prefix}{entry.name}", facts

    def owners_of_staged_files(self) -> set[int]:
        """Return the processes that are writing files here, or died doing it."""
        heads = (name.partition("-")[0] for name in os.listdir(self.temporary))
        return {int(head) for head in heads if head.isdigit()}

    def clean_up_after(self, owner: int, journal: Journal | None) -> None:
        """Remove what a dead process was writing, then give its reservations back.

        INVARIANT: a file that a row of the journal names is not rubbish.
        (tests/tier/test_writeback_crash.py::test_burial_leaves_what_the_journal_names)
        """
        for reservation in self.catalog.reservations_of(owner):
            if journal is not None and journal.get(reservation.key) is not None:
                continue  # recovery decides
            # Killed between rename and commit: the row is missing, so the copy is not counted.
            path = self.path(reservation.key)
            row = self.catalog.row(reservation.key)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                facts = os.stat(path)
                if stat.S_ISREG(facts.st_mode) and (row is None or row.inode != facts.st_ino):
                    os.unlink(path)
                    self.sync_removals({os.path.dirname(path)})
        with os.scandir(self.temporary) as entries:
            for entry in entries:
                if not entry.name.startswith(f"{owner}-"):
                    continue
                if journal is None or not journal.any("staged=?", (entry.name,)):
                    unlink_if_there(entry.path)
        self.catalog.bury(owner)


def read_hot(
    path: str, start: int | None, end: int | None, heat: Heat, *, may_block: bool
) -> bytes | WaitForDisk:
    """Read a range of a hot copy, renewing its access time.

    Raises
    ------
    OSError
        [ENOENT, ENOTDIR, EISDIR] no copy of that name.

    Notes
    -----
    The hot path: open, fstat, pread, close. No lock, no index, no database.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        facts = os.fstat(fd)
        low, high = resolve(start, end, facts.st_size)
        data = read_range(fd, low, high) if may_block else read_cached(fd, low, high)
        if data is WAIT_FOR_DISK:
            return data
        touch(fd, facts, heat)
        return data
    finally:
        os.close(fd)


def touch(fd: int, facts: os.stat_result, heat: Heat) -> None:
    """Note that an open copy was read, at most once a second."""
    now = time.time_ns()
    if now - facts.st_atime_ns > _TOUCH_NS:
        try:
            os.utime(fd, ns=(now, facts.st_mtime_ns))
        except PermissionError:
            pass  # another user's copy: its recency is then the kernel's own
        heat.note(facts.st_ino, now / 1e9)
