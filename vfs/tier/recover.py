"""Coming back: what a crash left half done is finished before anybody reads.

What lives here: the walk over catalogue and journal when a hot directory is opened. What must
not: the single repair (``dirty.py``), sending anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vfs.core.durable import unlink_if_there
from vfs.observe import logger
from vfs.tier.catalog import Row
from vfs.tier.dirty import DirtyStore, digest_of
from vfs.tier.hot import slot_of
from vfs.tier.journal import Change, Kind, State
from vfs.tier.journalrows import at_or_below

if TYPE_CHECKING:
    from vfs.tier.engine import TierEngine

__all__ = ["rebuild_catalog", "recover", "redo_one", "unmark_sent"]


def rebuild_catalog(engine: TierEngine, boot: str) -> None:
    """List the hot directory into a new catalogue; what the journal knows stays dirty.

    After a power cut under ``durability="process"`` no bytes can be trusted that were not compared:
    neither they nor their rows were synced. Copies without a row are dropped, those of rows are
    read and compared.
    """
    store = engine.dirty_if_open()
    if store is not None and store.journal.was_unsynced():
        for change in _distrust(engine, store, boot):
            _give_up(engine, store, change)

    def dirty(key: str) -> Row | None:
        change = store.journal.get(key) if store is not None else None
        if change is None or change.kind is not Kind.PUT:
            return None
        return Row(key, change.size, 0, change.etag, change.mtime, dirty=True)

    engine.catalog.rebuild(engine.hot.walk(engine.absolute_keys), boot, dirty)


def _distrust(engine: TierEngine, store: DirtyStore, boot: str) -> list[Change]:
    """Drop copies that nothing is known of; return the changes whose bytes are damaged.

    Nobody can write meanwhile: a write needs the catalogue, and its process has rebuilt it first.

    INVARIANT: a power cut under ``durability="process"`` may lose bytes, it never changes them.
    (tests/tier/test_powercut.py::test_bytes_torn_by_a_power_cut_are_not_served)
    """
    damaged = []
    with engine.catalog.transaction():
        if engine.catalog.boot() == boot:
            return []  # another process was faster
        store.journal.mend()
        intact = set()
        for change in store.journal.each("kind=?", (Kind.PUT,)):
            staged, path = store.staged_path(change), engine.hot.path(change.key)
            if change.state is State.CORRUPT:
                continue
            if os.path.exists(staged):
                # What it was to replace is of no row any more. In its place it can be put aside.
                engine.hot.make_places([path], store.durability)
                os.replace(staged, path)
            if _is_intact(path, change):
                intact.add(change.key)
            else:
                damaged.append(change)
        kept = intact.union(change.key for change in damaged)
        for key, _ in list(engine.hot.walk(engine.absolute_keys)):
            if key not in kept:
                unlink_if_there(engine.hot.path(key))
    return damaged


def _is_intact(path: str, change: Change) -> bool:
    try:
        return os.path.getsize(path) == change.size and digest_of(path) == change.hash
    except OSError:
        return False


def _give_up(engine: TierEngine, store: DirtyStore, change: Change) -> None:
    """Put aside what is damaged, unless somebody has done so, or replaced it."""
    fd = engine.lock_for_change(change.key)
    if fd is None:
        return
    try:
        now = store.journal.get(change.key)
        if now is not None and now.gen == change.gen and now.state is not State.CORRUPT:
            store.give_up(now, "its bytes are not those written: they were lost in a power cut")
    finally:
        engine.locks.release(fd)


def recover(engine: TierEngine) -> int:
    """Make the hot directory agree with the journal; return how many changes were redone.

    What a living process is in the middle of is left to it: its locks tell.

    INVARIANT: doing it twice, or dying in the middle of it, is the same as doing it once.
    (tests/tier/test_writeback_crash.py::test_killed_at_a_hundred_calls)
    """
    store = engine.dirty_if_open()
    if store is None:
        return 0
    staged = set(os.listdir(engine.hot.temporary))
    redone = 0
    for key, inode, change in _side_by_side(engine.catalog.dirty_inodes(), store.journal.each()):
        if change is None:
            _unmark(engine, key)
            continue
        if change.kind is Kind.PUT:
            settled = change.staged not in staged and inode == _inode(engine, key)
        else:
            settled = not store.needs_redo(change)
        if not settled and change.state is not State.CORRUPT:
            redone += redo_one(engine, change)
    if redone:
        logger.info("hot tier %s: %d changes recovered", engine.root, redone)
    return redone


def _side_by_side(
    marked: Iterator[tuple[str, int]], changes: Iterator[Change]
) -> Iterator[tuple[str, int | None, Change | None]]:
    """Yield for each key what the catalogue marks and the journal knows; both come by key.

    Nothing is collected: a million rows cost the memory of two pages. What changes between two
    pages is looked at again under the key's lock before anything is done.
    """
    mark, change = next(marked, None), next(changes, None)
    while mark is not None or change is not None:
        if change is None or (mark is not None and mark[0] < change.key):
            assert mark is not None  # noqa: S101 - one of them is there
            yield mark[0], mark[1], None
            mark = next(marked, None)
        elif mark is None or change.key < mark[0]:
            yield change.key, None, change
            change = next(changes, None)
        else:
            yield change.key, mark[1], change
            mark, change = next(marked, None), next(changes, None)


def _inode(engine: TierEngine, key: str) -> int:
    try:
        return os.stat(engine.hot.path(key)).st_ino
    except OSError:
        return -1


def redo_one(engine: TierEngine, change: Change) -> bool:
    """Redo one change if nobody is in the middle of it; say whether something was done."""
    store = engine.dirty_if_open()
    fd = engine.lock_for_change(change.key)
    if store is None or fd is None:
        return False
    slot = slot_of(change.key)
    try:
        now = store.journal.get(change.key)
        if now is None or now.gen != change.gen:
            return False
        engine.generations.begin(slot)
        return store.redo(now)
    finally:
        engine.generations.end(slot)
        engine.locks.release(fd)


def unmark_sent(engine: TierEngine, key: str) -> None:
    """Let what cold has, at or below a key, be evicted, whoever is about to take its mark off.

    INVARIANT: what a flush said cold has can be evicted and demoted from then on.
    (tests/tier/test_uploader.py::test_flushed_copy_can_be_evicted_at_once)
    """
    store = engine.dirty()
    if store is None:
        return
    marked = engine.catalog.dirty_inodes(key)
    pending = store.journal.each(*at_or_below(key))
    for marked_key, inode, change in _side_by_side(marked, pending):
        if inode is not None and change is None:
            _unmark(engine, marked_key)


def _unmark(engine: TierEngine, key: str) -> None:
    """Let a copy be evicted again that is marked between the journal and the catalogue."""
    store = engine.dirty_if_open()
    fd = engine.lock_for_change(key)
    if store is None or fd is None:
        return
    try:
        row = engine.catalog.row(key)
        if row is not None and store.journal.get(key) is None:
            engine.catalog.note_clean([(key, row.etag)])
    finally:
        engine.locks.release(fd)
