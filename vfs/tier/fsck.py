"""Is the hot tier what its records say? Checked byte by byte, and mended where nothing is lost.

What lives here: the checks and repairs, blocking, one object at a time. What must not: the verbs
and their pace (``checkverbs.py``), requests to cold.

Whatever looks wrong is looked at again under the key's writer lock before it is called wrong or
mended: what somebody is in the middle of is not damage.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import xxhash

from vfs.config.sizes import format_bytes
from vfs.core.durable import unlink_if_there
from vfs.observe import Event, emit, logger
from vfs.tier.catalog import Row, remove_row
from vfs.tier.journal import Change, Kind, State

if TYPE_CHECKING:
    from vfs.tier.engine import TierEngine

__all__ = ["FsckReport", "Problem", "ProblemKind", "check_copies", "check_files", "check_journal"]

ProblemKind: TypeAlias = Literal[
    "corrupt", "lost", "missing", "orphan", "uncounted", "cold_lacks", "cold_differs", "conflict"
]

#: Rows that are looked at together, and one step of reading.
_PAGE: Final = 256
_PIECE_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be.

    Parameters
    ----------
    kind : str
        ``corrupt``: the bytes are not those that were written. ``lost``: a write that cold does
        not have, and whose bytes are not here either. ``missing``: counted, but not there.
        ``orphan``: a file that nothing counts. ``uncounted``: a write that cold lacks, not
        counted. ``cold_lacks``, ``cold_differs``: of a copy that should be in cold. ``conflict``:
        cold was changed by somebody else.
    path : str
        Of the object.
    detail : str
        For people.
    dirty : bool
        Whether cold does not have it: what is damaged then has no other copy.
    repaired : bool
        Whether it was mended.
    tier : str
        Of several directories, the one it is in.
    """

    kind: ProblemKind
    path: str
    detail: str
    dirty: bool = False
    repaired: bool = False
    tier: str = ""

    def __str__(self) -> str:
        state = ", repaired" if self.repaired else ""
        where = f" in {self.tier}" if self.tier else ""
        return f"{self.kind} {self.path}{where}: {self.detail}{state}"


@dataclass(frozen=True, slots=True)
class FsckReport:
    """What a check of a hot tier found.

    Parameters
    ----------
    objects, bytes : int
        Hot copies that were read, and their size.
    hashed : int
        Of those, how many had no checksum, and have one now.
    problems : tuple of Problem
        Empty if all is well.
    """

    objects: int
    bytes: int
    hashed: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong that was not repaired."""
        return all(problem.repaired for problem in self.problems)

    def __str__(self) -> str:
        told = f"{self.objects} copies checked, {format_bytes(self.bytes)}"
        hashed = f", {self.hashed} had no checksum before" if self.hashed else ""
        return "\n".join(
            [*map(str, self.problems), f"{told}{hashed}, {len(self.problems)} problems"]
        )


#: What a check yields: bytes it has read, a copy that is done (and whether it was hashed only
#: now), or a problem.
Finding: TypeAlias = int | bool | Problem


def check_copies(engine: TierEngine, *, repair: bool) -> Iterator[Finding]:
    """Compare every row with its file: there, of the right size, the right bytes."""
    after = ""
    while page := engine.catalog.page(after, _PAGE):
        after = page[-1].key
        for row in page:
            yield from _check_copy(engine, row, repair=repair)


def _check_copy(engine: TierEngine, row: Row, *, repair: bool) -> Iterator[Finding]:
    wrong: tuple[ProblemKind, str] | None = None
    digest = xxhash.xxh3_64()
    try:
        fd = _open_unnoticed(engine.hot.path(row.key))
    except OSError as error:
        wrong = "missing", f"it cannot be opened: {error.strerror}"
    else:
        try:
            facts = os.fstat(fd)
            if facts.st_ino != row.inode or not stat.S_ISREG(facts.st_mode):
                wrong = "missing", "another file has its name"
            else:
                while piece := os.read(fd, _PIECE_BYTES):
                    digest.update(piece)
                    yield len(piece)
                wrong = _compare(row, facts.st_size, digest.hexdigest())
        except OSError as error:
            wrong = "corrupt", f"it cannot be read: {error.strerror}"
        finally:
            os.close(fd)
    if wrong is not None:
        problem = _judge(engine, row, *wrong, repair=repair)
        if problem is not None:
            yield problem
        return
    if row.hash is None:
        engine.catalog.note_hash(row.key, row.inode, digest.hexdigest())
    yield row.hash is None


def _compare(row: Row, size: int, digest: str) -> tuple[ProblemKind, str] | None:
    if size != row.size:
        return "corrupt", f"it has {size} bytes instead of {row.size}"
    if row.hash is not None and digest != row.hash:
        return "corrupt", "its bytes are not those that were written"
    return None


def _open_unnoticed(path: str) -> int:
    """Open a file without making it look used."""
    with contextlib.suppress(PermissionError):  # only its owner may
        return os.open(path, os.O_RDONLY | getattr(os, "O_NOATIME", 0))
    return os.open(path, os.O_RDONLY)


def _judge(
    engine: TierEngine, row: Row, kind: ProblemKind, why: str, *, repair: bool
) -> Problem | None:
    """Return what is wrong with a copy, if it is still the one and nobody is changing it."""
    with _alone(engine, row.key) as alone:
        # An eviction, here or in another process, removes the file before its row is gone.
        with engine.catalog.transaction():
            now = engine.catalog.row(row.key)
        same = now is not None and (now.inode, now.size, now.hash) == (
            row.inode,
            row.size,
            row.hash,
        )
        if not alone or not same:
            return None
        store = engine.dirty()
        change = store.journal.get(row.key) if store is not None else None
        if change is not None and change.kind is Kind.PUT:
            return _judge_unsent(engine, change, kind, why, repair=repair)
        if repair:
            _drop(engine, row, kind)
        return Problem(kind, row.key, why, repaired=repair)


def _judge_unsent(
    engine: TierEngine, change: Change, kind: ProblemKind, why: str, *, repair: bool
) -> Problem:
    """Return damage to what cold lacks: put aside, and never sent.

    INVARIANT: what cold does not have is not removed, however damaged.
    (tests/tier/test_fsck.py::test_corrupt_dirty_copy_is_kept_aside)
    """
    store = engine.owing()
    if os.path.exists(store.staged_path(change)):
        # A crash left it between the journal and its name.
        if repair:
            store.redo(change)
        return Problem("uncounted", change.key, "it was not published yet", True, repair)
    if repair and change.state is not State.CORRUPT:
        store.give_up(change, why)
        with engine.catalog.transaction() as db:
            remove_row(db, change.key)
    return Problem("lost" if kind == "missing" else kind, change.key, why, dirty=True)


def _drop(engine: TierEngine, row: Row, kind: ProblemKind) -> None:
    """Remove a damaged clean copy: the next read fetches it again."""
    engine.versions.pop(row.key, None)
    if row.dirty:
        # Its process died after cold had it, before that was noted.
        engine.catalog.note_clean([(row.key, row.etag)])
    if kind == "missing":
        with engine.catalog.transaction() as db:
            remove_row(db, row.key, row.inode)
        return
    engine.hot.evict([(row.key, engine.hot.path(row.key), row.inode)])
    logger.warning("a hot copy of %s was damaged; it is fetched again when it is read", row.key)
    emit(Event("damaged", row.key, row.size, "a clean copy, dropped"))


@contextlib.contextmanager
def _alone(engine: TierEngine, key: str) -> Iterator[bool]:
    """Exclude writers of a key, unless there is one."""
    fd = engine.lock_for_change(key)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            engine.locks.release(fd)


def check_files(engine: TierEngine, *, repair: bool) -> Iterator[Finding]:
    """Look for files in the hot directory that nothing counts."""
    for key, facts in engine.hot.walk(engine.absolute_keys):
        if engine.catalog.row(key) is None:
            problem = _judge_orphan(engine, key, facts, repair=repair)
            if problem is not None:
                yield problem


def _judge_orphan(
    engine: TierEngine, key: str, facts: os.stat_result, *, repair: bool
) -> Problem | None:
    path = engine.hot.path(key)
    with _alone(engine, key) as alone:
        if not alone or engine.catalog.row(key) is not None:
            return None
        try:
            if os.stat(path).st_ino != facts.st_ino:
                return None
        except OSError:
            return None
        store = engine.dirty()
        change = store.journal.get(key) if store is not None else None
        if store is not None and change is not None and change.kind is Kind.PUT:
            if repair and change.state is not State.CORRUPT:
                store.redo(change)
            return Problem("uncounted", key, "cold does not have it yet", True, repair)
        if repair:
            with engine.catalog.transaction():
                if unlink_if_there(path):
                    engine.hot.sync_removals({os.path.dirname(path)})
                    engine.hot.prune(os.path.dirname(path))
        return Problem("orphan", key, f"{facts.st_size} bytes that nothing counts", repaired=repair)


def check_journal(engine: TierEngine, *, repair: bool) -> Iterator[Finding]:
    """Look for changes whose bytes are not here, or that cannot be sent."""
    store = engine.dirty()
    for change in store.journal.each() if store is not None else ():
        if change.state is State.CONFLICT:
            yield Problem("conflict", change.key, change.error, dirty=True)
        elif change.state is State.CORRUPT:
            yield Problem("lost", change.key, change.error, dirty=True)
        elif change.kind is Kind.PUT and engine.catalog.row(change.key) is None:
            problem = _judge_change(engine, change, repair=repair)
            if problem is not None:
                yield problem


def _judge_change(engine: TierEngine, change: Change, *, repair: bool) -> Problem | None:
    store = engine.owing()
    with _alone(engine, change.key) as alone:
        now = store.journal.get(change.key)
        if not alone or now is None or now.gen != change.gen:
            return None
        if engine.catalog.row(change.key) is not None:
            return None
        if os.path.isfile(engine.hot.path(change.key)) or os.path.exists(store.staged_path(change)):
            if repair:
                store.redo(change)
            return Problem("uncounted", change.key, "cold does not have it yet", True, repair)
        why = "its bytes are not in the hot directory"
        if repair:
            store.give_up(change, why)
        return Problem("lost", change.key, why, dirty=True)


def pull(findings: Iterator[Finding], most_bytes: int, tell: Callable[[Any], None]) -> int | None:
    """Let a check go on until it has read so much; return how much, None at its end."""
    done = 0
    for finding in findings:
        tell(finding)
        if not isinstance(finding, bool | Problem):
            done += finding
        if done >= most_bytes:
            return done
    return None
