"""What a disk may hold after a kill or a power cut: three models, from mild to harsh.

What lives here: from the calls of a log (``crashlog.py``) to the images that a crash after them may
leave. What must not: files, the program under test.

In every model a change of names is atomic (a rename is never half done), which Pillai et al. found
of every journalling file system they looked at; and what was synced stays.

References
----------
Pillai et al., "All File Systems Are Not Created Equal: On the Complexity of Crafting
Crash-Consistent Applications", OSDI 2014: persistence properties of file systems, table 1, and
their abstract model.
"""

from __future__ import annotations

import itertools
import marshal
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final, NamedTuple

import xxhash

from vfs.testing.crashlog import ROOT, Commit, Data, Entries, Log, Op, Remote, Sync

__all__ = ["MODELS", "Blobs", "DiskModel", "Ext4", "Image", "Kill", "Weak"]

#: Combinations of damaged contents tried for one choice of names; more only repeat themselves.
_CONTENTS: Final = 8

#: What is found in a database no sync of which had happened: anything.
_GARBAGE: Final = b"\xa5 not a database \x00" * 512

_PAGE: Final = 4096  # of SQLite

#: Of the old versions of a database that is not synced, every so many-th is tried.
_STEP: Final = 16


class Image(NamedTuple):
    """A directory as a crash leaves it.

    ``files`` are (path, inode, number of the content); two with one inode are hard links.
    """

    directories: tuple[str, ...]
    files: tuple[tuple[str, int, int], ...]
    remote: int


class Blobs:
    """Contents by number, each kept once."""

    def __init__(self) -> None:
        self._number: dict[bytes, int] = {}
        self._blob: list[bytes] = []

    def number(self, data: bytes) -> int:
        """Return the number of a content."""
        found = self._number.get(data)
        if found is None:
            found = self._number[data] = len(self._blob)
            self._blob.append(data)
        return found

    def __getitem__(self, number: int) -> bytes:
        return self._blob[number]


class DiskModel(ABC):
    """A disk to which the calls of a log are made one by one.

    Parameters
    ----------
    log : Log
        Whose start the disk has at first.
    blobs : Blobs
        Where contents go.
    seed : int
        Of the choice where there are too many images.

    Attributes
    ----------
    new_boot : bool
        Whether the machine starts anew: nothing in memory, locks and boot id included, survives.
    """

    name: ClassVar[str]
    new_boot: ClassVar[bool]

    def __init__(self, log: Log, blobs: Blobs, seed: int = 0) -> None:
        self.log = log
        self.blobs = blobs
        self.random = random.Random(f"{self.name}/{seed}")
        self.names: dict[int, dict[str, int]] = {ROOT: {}}
        for (directory, name), inode in log.entries.items():
            self.names.setdefault(directory, {})[name] = inode
        self.contents = dict(log.contents)
        self.version = dict.fromkeys(log.databases, 0)
        self.remote = 0

    @abstractmethod
    def advance(self, op: Op) -> None:
        """Let one more call happen."""

    @abstractmethod
    def images(self, coming: Op | None, limit: int) -> Iterator[Image]:
        """Yield what a crash now may leave, at most ``limit``; during ``coming`` included."""

    def _write(self, op: Data) -> bytes:
        """Apply a write to the content a program sees; return that."""
        old = self.contents.get(op.inode, b"")
        if op.size is not None:
            new = old[: op.size] + bytes(max(0, op.size - len(old)))
        else:
            old += bytes(max(0, op.offset - len(old)))
            new = old[: op.offset] + op.data + old[op.offset + len(op.data) :]
        self.contents[op.inode] = new
        return new

    def _paths(self, names: dict[int, dict[str, int]]) -> tuple[list[str], list[tuple[str, int]]]:
        """Return the directories and files that can be reached."""
        directories: list[str] = []
        files: list[tuple[str, int]] = []
        pending = [("", ROOT)]
        known = self.log.directories
        while pending:
            prefix, directory = pending.pop()
            for name, inode in names.get(directory, {}).items():
                if inode in known:
                    directories.append(prefix + name)
                    pending.append((f"{prefix}{name}/", inode))
                else:
                    files.append((prefix + name, inode))
        directories.sort()
        files.sort()
        return directories, files

    def _image(
        self, directories: Sequence[str], files: Sequence[tuple[str, int]], chosen: dict[int, bytes]
    ) -> Image:
        number = self.blobs.number
        full = self._content
        return Image(
            tuple(directories),
            tuple(
                (path, inode, number(chosen[inode] if inode in chosen else full(inode)))
                for path, inode in files
            ),
            self.remote,
        )

    def _content(self, inode: int) -> bytes:
        if inode in self.version:
            return self.log.databases[inode][self.version[inode]]
        return self.contents.get(inode, b"")


def _change(names: dict[int, dict[str, int]], op: Entries) -> None:
    for directory, name, inode in op.changes:
        if inode is None:
            names.setdefault(directory, {}).pop(name, None)
        else:
            names.setdefault(directory, {})[name] = inode


class Kill(DiskModel):
    """The process dies, the machine does not: every call that was made is there.

    A write may have got half way.
    """

    name = "kill"
    new_boot = False

    def advance(self, op: Op) -> None:
        """Let one more call happen."""
        match op:
            case Entries():
                _change(self.names, op)
            case Data():
                self._write(op)
            case Commit():
                self.version[op.inode] = op.version
            case Remote():
                self.remote = op.state
            case _:
                pass

    def images(self, coming: Op | None, limit: int) -> Iterator[Image]:
        """Yield the one image, and one with half of the coming write."""
        directories, files = self._paths(self.names)
        yield self._image(directories, files, {})
        if isinstance(coming, Data) and len(coming.data) > 1:
            before = self.contents.get(coming.inode)
            half = self._write(coming._replace(data=coming.data[: len(coming.data) // 2]))
            yield self._image(directories, files, {coming.inode: half})
            if before is None:
                del self.contents[coming.inode]
            else:
                self.contents[coming.inode] = before


class _PowerCut(DiskModel):
    """What the models of a power cut have in common: what is synced, and what waits to be."""

    new_boot = True

    def __init__(self, log: Log, blobs: Blobs, seed: int = 0) -> None:
        super().__init__(log, blobs, seed)
        self.tail: list[tuple[Entries, bool]] = []  # since the first that is not on the disk
        self.synced = dict(log.contents)
        self.unsynced: set[int] = set()
        self.low = dict(self.version)  # the versions of databases that are on the disk for sure

    @abstractmethod
    def settles(self, op: Entries, inode: int) -> bool:
        """Say whether a sync of a file or directory makes a change of names durable, too."""

    @abstractmethod
    def choices(self, count: int, limit: int) -> Iterator[int]:
        """Yield which of so many waiting changes are on the disk, as bits."""

    @abstractmethod
    def damaged(self, old: bytes, new: bytes) -> list[bytes]:
        """Return what else may be found in a file whose last writes were not synced."""

    def advance(self, op: Op) -> None:
        """Let one more call happen."""
        match op:
            case Entries():
                self.tail.append((op, False))
            case Data():
                self._write(op)
                self.unsynced.add(op.inode)
            case Sync():
                if op.inode in self.unsynced:
                    self.unsynced.discard(op.inode)
                    self.synced[op.inode] = self.contents[op.inode]
                self._settle(op.inode)
            case Commit():
                self.version[op.inode] = op.version
                self.low.setdefault(op.inode, 0)
                if op.synced:
                    self.low[op.inode] = op.version
                    self._settle(op.inode)
            case Remote():
                self.remote = op.state
            case _:
                pass

    def _settle(self, inode: int) -> None:
        covered: set[tuple[int, str]] = set()
        tail: list[tuple[Entries, bool]] = []
        for op, done in reversed(self.tail):
            on_disk = done or self.settles(op, inode)
            slots = {(directory, name) for directory, name, _ in op.changes}
            if on_disk:
                covered |= slots
            elif slots <= covered:
                continue  # whether it was there does not matter any more
            tail.append((op, on_disk))
        tail.reverse()
        first = next((i for i, (_, done) in enumerate(tail) if not done), len(tail))
        for op, _ in tail[:first]:
            _change(self.names, op)
        self.tail = tail[first:]

    def images(self, coming: Op | None, limit: int) -> Iterator[Image]:
        """Yield images, all there are or a choice of them."""
        waiting = sum(not done for _, done in self.tail)
        left = limit
        for choice in self.choices(waiting, limit):
            bits = choice
            names = {directory: dict(found) for directory, found in self.names.items()}
            for op, done in self.tail:
                if not done:
                    kept = bits & 1
                    bits >>= 1
                    if not kept:
                        continue
                _change(names, op)
            directories, files = self._paths(names)
            for chosen in self._contents(files):
                yield self._image(directories, files, chosen)
                left -= 1
                if left <= 0:
                    return

    def _contents(self, files: list[tuple[str, int]]) -> Iterator[dict[int, bytes]]:
        """Yield what may be in the files whose bytes were not synced."""
        found = {inode for _, inode in files}
        torn = sorted(found & self.unsynced)
        variants = [self._variants(inode) for inode in torn]
        count = 1
        for each in variants:
            count *= len(each)
        if count <= _CONTENTS:
            combinations: Iterator[tuple[bytes, ...]] = itertools.product(*variants)
        else:
            pick = self.random.choice
            combinations = (tuple(pick(v) for v in variants) for _ in range(_CONTENTS))
        unsynced = [i for i in found & self.version.keys() if self.low[i] != self.version[i]]
        # Told by the names, not at random: another moment, or model, that leaves the same names
        # leaves the same image then, which need not be recovered again.
        choice = xxhash.xxh3_64_intdigest(marshal.dumps(files, 2)) if unsynced else 0
        for combination in combinations:
            chosen = dict(zip(torn, combination, strict=True))
            for inode in unsynced:
                chosen[inode] = self._some_version(inode, choice)
            yield chosen

    def _variants(self, inode: int) -> list[bytes]:
        old, new = self.synced.get(inode, b""), self.contents[inode]
        return list(dict.fromkeys([new, old, *self.damaged(old, new)]))

    def _some_version(self, inode: int, choice: int) -> bytes:
        """Return what a database may hold whose last commits were not synced."""
        low, high = self.low[inode], self.version[inode]
        versions = self.log.databases[inode]
        middle = low + (high - low) // _STEP * _STEP
        match choice % 5:
            case 0:
                return versions[low]
            case 1:
                return versions[middle]
            case 2:
                return _mixed(versions[low], versions[middle])
            case 3:
                return _GARBAGE
            case _:
                return versions[high]


def _mixed(old: bytes, new: bytes) -> bytes:
    """Return a file every other page of which is old."""
    pages = [
        (old if number % 2 and start < len(old) else new)[start : start + _PAGE]
        for number, start in enumerate(range(0, len(new), _PAGE))
    ]
    return b"".join(pages)


class Ext4(_PowerCut):
    """A power cut on ext4: one journal, so names change on the disk in the order of the calls.

    Any sync, of whatever file, commits the journal and with it every earlier change of names. The
    bytes of a file that was not synced may be missing (delayed allocation), cut short or zero.

    References
    ----------
    ``Documentation/filesystems/ext4`` of the Linux kernel: ``data=ordered``, delayed allocation.
    Its ``auto_da_alloc``, which syncs what is renamed over an old file, is a mount option and not
    relied on here.
    """

    name = "ext4"

    def settles(self, op: Entries, inode: int) -> bool:
        """Say yes: there is one journal."""
        return True

    def choices(self, count: int, limit: int) -> Iterator[int]:
        """Yield the first so many of the changes."""
        for first in range(count, -1, -1):
            yield (1 << first) - 1

    def damaged(self, old: bytes, new: bytes) -> list[bytes]:
        """Return it cut short, and full of zeros."""
        return [new[: len(new) // 2], bytes(len(new))]


class Weak(_PowerCut):
    """A power cut on the weakest disk POSIX allows: what was not synced survives in any subset.

    Each change of names by itself, in any order, also without the bytes; bytes in any part. The
    sync of a file saves its bytes, not its name; that of a directory the names in it, not its own.
    """

    name = "weak"

    def settles(self, op: Entries, inode: int) -> bool:
        """Say whether the directory that was synced is one whose names changed."""
        return any(directory == inode for directory, _, _ in op.changes)

    def choices(self, count: int, limit: int) -> Iterator[int]:
        """Yield every subset, or where these are too many: extremes, then any at random."""
        everything = (1 << count) - 1
        if everything < limit:
            yield from range(everything + 1)
            return
        extremes = [0, everything]
        extremes += [1 << i for i in range(count)]
        extremes += [everything ^ (1 << i) for i in range(count)]
        extremes += [(1 << i) - 1 for i in range(2, count - 1)]
        self.random.shuffle(extremes)
        seen = set(extremes)
        yield from extremes[:limit]
        for _ in range(limit - len(extremes)):
            bits = self.random.getrandbits(count)
            if bits not in seen:
                seen.add(bits)
                yield bits

    def damaged(self, old: bytes, new: bytes) -> list[bytes]:
        """Return it cut short, full of zeros, and with either half of the blocks."""
        half, size = len(new) // 2, len(new)
        zeros = bytes(size)
        return [new[:half], zeros, new[:half] + zeros[half:], zeros[:half] + new[half:]]


#: From mild to harsh.
MODELS: Final[tuple[type[DiskModel], ...]] = (Kill, Ext4, Weak)
