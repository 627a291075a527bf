"""Power cuts by the hundred thousand: every crash of a recorded run, recovered and judged.

What lives here: the walk over the moments of a log and the images of each, their files, and the
count. What must not: what a disk may do (``crashmodels.py``), what the program should.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

import xxhash

from vfs.testing.crashlog import Log, Mark
from vfs.testing.crashmodels import Blobs, DiskModel, Image

__all__ = ["Crash", "Oracle", "Simulation", "Tally", "empty", "lay_out"]

#: Failures described; the rest are counted.
_DESCRIBED: Final = 20

T = TypeVar("T", bound=Hashable)
T_contra = TypeVar("T_contra", contravariant=True)


class Oracle(Protocol[T_contra]):
    """What may be found after a crash, kept up to date by the notes of the recorded program."""

    def note(self, note: object) -> None:
        """Take notice of a change that was begun, or acknowledged."""

    def faults(self, seen: T_contra, model: str) -> list[str]:
        """Return what is wrong with what was seen after a crash now."""


@dataclass(frozen=True, slots=True)
class Crash:
    """One crash to recover from.

    Attributes
    ----------
    image : Image
        What is on the disk.
    log : Log
        Of the run that was cut.
    moment : int
        After so many of its calls.
    new_boot : bool
        Whether the machine starts anew.
    digest : bytes
        Of the image: equal ones are recovered once.
    """

    image: Image
    blobs: Blobs
    log: Log
    moment: int
    new_boot: bool
    digest: bytes

    def lay_out(self, place: str) -> dict[int, int]:
        """Make the image in an empty directory; see :func:`lay_out`."""
        return lay_out(self.image, self.blobs, self.log, place)


@dataclass(slots=True)
class Tally:
    """How much was simulated.

    Attributes
    ----------
    states : int
        Pairs of a moment and an image that a crash at it may leave, no pair counted twice.
    recovered : int
        Different images: for each one recovery was run. What it came to is judged for every
        state with that image.
    failures : int
        States that were found wrong.
    described : list of str
        The first of them.
    """

    states: int = 0
    recovered: int = 0
    failures: int = 0
    described: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another count."""
        self.states += other.states
        self.recovered += other.recovered
        self.failures += other.failures
        self.described = (self.described + other.described)[:_DESCRIBED]

    def fail(self, text: str) -> None:
        """Count a failure."""
        self.failures += 1
        if len(self.described) < _DESCRIBED:
            self.described.append(text)


def lay_out(image: Image, blobs: Blobs, log: Log, place: str) -> dict[int, int]:
    """Make the files of an image in an empty directory.

    Returns
    -------
    dict[int, int]
        The kernel's inode numbers of now, by those of the recorded run: a program that remembers
        them has to be told, since no file can be given a number.
    """
    for directory in image.directories:  # sorted, so parents come first
        os.mkdir(f"{place}/{directory}")
    first: dict[int, str] = {}
    numbers: dict[int, int] = {}
    for path, inode, blob in image.files:
        there = f"{place}/{path}"
        if inode in first:
            os.link(first[inode], there)
            continue
        first[inode] = there
        fd = os.open(there, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.write(fd, blobs[blob])
            now = os.fstat(fd).st_ino
            for known in (log.numbers, log.later_numbers):
                if inode in known:
                    numbers[known[inode]] = now
        finally:
            os.close(fd)
    return numbers


def empty(place: str) -> None:
    """Remove everything in a directory."""
    with os.scandir(place) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            empty(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


class Simulation(Generic[T]):
    """Crashes of one recorded run under one model of a disk.

    Parameters
    ----------
    log : Log
        The run.
    models : sequence of type of DiskModel
        The disks, one after the other. Images they have in common are recovered once.
    recover : callable
        Lays a :class:`Crash` out, lets the program come back, and returns what was seen: hashable,
        as it is judged once for each state of the oracle.
    limit : int
        Images of one moment at most.
    seed : int
        Of the choice where there are more.
    enough : int, optional
        Failures after which a model is left.
    start : int
        No crash is made before so many calls.
    """

    def __init__(
        self,
        log: Log,
        models: Sequence[type[DiskModel]],
        recover: Callable[[Crash], T],
        *,
        limit: int = 64,
        seed: int = 0,
        enough: int | None = None,
        start: int = 0,
    ) -> None:
        self.log = log
        self.start = start
        self.models = models
        self.limit = limit
        self.enough = enough
        self._seed = seed
        self._recover = recover
        self._blobs = Blobs()
        self._seen: dict[tuple[bool, bytes], T] = {}

    def crashes(self, model: type[DiskModel], oracle: Oracle[T]) -> Iterator[Crash]:
        """Yield every crash under a model, with the oracle told what had happened before it."""
        disk = model(self.log, self._blobs, self._seed)
        ops = self.log.ops
        for moment in range(len(ops) + 1):
            here: set[bytes] = set()
            coming = ops[moment] if moment < len(ops) else None
            images = disk.images(coming, self.limit) if moment >= self.start else ()
            for image in images:
                # Version 2 of marshal writes equal values as equal bytes.
                digest = xxhash.xxh3_128_digest(marshal.dumps(tuple(image), 2))
                if digest not in here:
                    here.add(digest)
                    yield Crash(image, self._blobs, self.log, moment, model.new_boot, digest)
            if coming is not None:
                disk.advance(coming)
                if isinstance(coming, Mark):
                    oracle.note(coming.note)

    def run(self, oracle: Callable[[], Oracle[T]]) -> dict[str, Tally]:
        """Recover from every crash and judge; return the count for each model.

        Parameters
        ----------
        oracle : callable
            Makes one that knows of nothing yet.
        """
        return {model.name: self._run(model, oracle()) for model in self.models}

    def _run(self, model: type[DiskModel], oracle: Oracle[T]) -> Tally:
        tally = Tally()
        faults: dict[T, list[str]] = {}
        noted = -1
        for crash in self.crashes(model, oracle):
            if crash.moment != noted:
                noted, faults = crash.moment, {}
            tally.states += 1
            found = self._seen.get((crash.new_boot, crash.digest))
            if found is None:
                found = self._seen[crash.new_boot, crash.digest] = self._recover(crash)
                tally.recovered += 1
            if found not in faults:
                faults[found] = oracle.faults(found, model.name)
            if faults[found]:
                tally.fail(f"{model.name}, after call {crash.moment}: {faults[found][0]}")
                if tally.failures == self.enough:
                    break
        return tally
