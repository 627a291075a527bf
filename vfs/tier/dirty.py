"""The files of what cold does not have yet: staged, committed, published, repaired after a crash.

What lives here: the order in which a write-back touches the disk, blocking. What must not: the
cold store, decisions about what is sent when.

The order of a put, and what each step is for (the crash tests remove them one by one):

1. write the bytes to ``.vfs/tmp/<name>`` and sync them;
2. sync ``.vfs/tmp``, so that the name survives with them;
3. commit a row of the journal that names the file: from here on the put is done;
4. rename the file onto the object's own name, where readers find it.

After a crash between 3 and 4, :meth:`DirtyStore.redo` does 4. A removal is 3 with a tombstone,
then the hot copy is unlinked.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterable
from typing import IO, Any, Final

import xxhash

from vfs.core.durable import (
    Durability,
    Staging,
    fsync,
    fsync_directory,
    make_directories,
    unlink_if_there,
)
from vfs.errors import UnavailableError
from vfs.observe import Event, emit, logger
from vfs.tier.catalog import Reservation, Row, remove_row, replace_row
from vfs.tier.group import Intent, stage_together
from vfs.tier.hot import HotStore
from vfs.tier.journal import Change, Draft, Journal, Kind, State

__all__ = ["DirtyStore", "digest_of"]

#: From so many on, files are published in one transaction of the catalogue.
_TOGETHER: Final = 2

#: One step of reading a file for its checksum.
_PIECE_BYTES: Final = 8 << 20


def digest_of(path: str) -> str:
    """Return the xxh3 of a file."""
    digest = xxhash.xxh3_64()
    file: IO[bytes]
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return str(digest.hexdigest())


class DirtyStore:
    """The dirty files of one hot directory.

    Parameters
    ----------
    hot : HotStore
        The directory.
    journal : Journal
        Its journal.
    durability : {'power', 'process'}
        What an acknowledged write survives.
    """

    def __init__(self, hot: HotStore, journal: Journal, durability: Durability) -> None:
        self.hot = hot
        self.journal = journal
        self.durability = durability
        #: Inodes whose sync has failed: never synced again, as it would succeed without the bytes.
        self.unsyncable: set[int] = set()
        self.aside = os.path.join(hot.state, "aside")
        self._gate = threading.Lock()
        self._closed = False

    def set_durability(self, durability: Durability) -> None:
        """Choose what an acknowledged write survives from now on."""
        if durability != self.durability:
            self.journal.set_durability(durability)
            self.durability = durability

    def staged_path(self, change: Change) -> str:
        """Return where a change's bytes were before they got their name."""
        return os.path.join(self.hot.temporary, change.staged)

    # ---------------------------------------------------------------- put

    def stage(self, reservation: Reservation, content: Any) -> tuple[str, str]:
        """Write the bytes of a put to a file of its own; return its name and their xxh3.

        INVARIANT: the bytes are on the disk before a row names them.
        (tests/tier/test_writeback_crash.py::test_put_is_durable_in_the_right_order)
        """
        staging, digest = self.write(reservation, content)
        self.seal(staging)
        return os.path.basename(staging.path), digest

    def write(self, reservation: Reservation, content: Any) -> tuple[Staging, str]:
        """Write the bytes of a put to a file that is left open; return it and their xxh3."""
        # Never a name that was used before: the journal may still know an older file by it.
        name = f"{self.hot.owner}-{reservation.id}-{secrets.token_hex(8)}"
        staging = Staging(self.hot.temporary, "process", name)
        try:
            if content.local is None:
                staging.write(content.value)
                return staging, xxhash.xxh3_64_hexdigest(content.value)
            self.hot.fill(staging, content.local)
            return staging, digest_of(staging.path)
        except BaseException:
            staging.discard()
            raise

    def seal(self, staging: Staging) -> None:
        """Bring a staged file to the disk, as far as is promised, and close it."""
        try:
            if self.durability == "power":
                fsync(staging.fd)
        except BaseException:
            staging.discard()
            raise
        os.close(staging.fd)

    def drop_staged(self, name: str) -> None:
        """Remove a staged file that no row names."""
        unlink_if_there(os.path.join(self.hot.temporary, name))

    def commit(self, intents: list[Intent]) -> None:
        """Record a group of changes and make them visible; each notes its own failure.

        One directory sync, one journal commit and one transaction of the catalogue serve them
        all. The callers hold the writer locks of every key, and have fenced them.
        """
        with self._gate:
            stage_together(self, [i for i in intents if i.put is not None])
            ready = [i for i in intents if i.error is None and not i.declined]
            if ready:
                self._commit(ready)

    def close(self) -> None:
        """Let no commit begin any more: others may now take away what this process staged.

        What cold does not have yet stays, and the user is told.
        """
        with self._gate:
            self._closed = True
        with contextlib.suppress(OSError):
            if count := self.journal.count():
                logger.warning(
                    "hot tier %s keeps %d changes that are not in the cold store yet; flush() "
                    "sends them, or `vfs tier flush`, or the next process that opens the tier",
                    self.hot.root,
                    count,
                )

    def refuse_if_closed(self, intent: Intent) -> None:
        """Raise where :meth:`close` was called before a change could be committed."""
        if self._closed:
            key = intent.put.key if intent.put is not None else intent.drafts[0].key
            message = "write refused: the tier was closed"
            raise UnavailableError(message, key)

    def _commit(self, intents: list[Intent]) -> None:
        drafts = [draft for intent in intents for draft in intent.drafts]
        try:
            self.refuse_if_closed(intents[0])
            if self.durability == "power" and any(draft.staged for draft in drafts):
                # INVARIANT: the name of a staged file survives whenever a row names it.
                # (tests/tier/test_writeback_crash.py::test_put_is_durable_in_the_right_order)
                fsync_directory(self.hot.temporary)
            recorded = self.journal.record(drafts)
        except BaseException as error:  # noqa: BLE001 - handed to every caller
            for intent in intents:
                intent.error = error
                self._settle(intent)
            return
        by_key = {change.key: (change, old) for change, old in recorded}
        removed = [c.key for c, _ in recorded if c.kind is Kind.DELETE]
        published = self._publish_together(intents, by_key)
        for intent in intents:
            try:
                for draft in intent.drafts:
                    if draft.kind is Kind.PUT and draft.key not in published:
                        self.publish(by_key[draft.key][0], intent.reservations[draft.key])
            except BaseException as error:  # noqa: BLE001 - handed to its caller
                intent.error = error
                removed = [k for k in removed if k not in {d.key for d in intent.drafts}]
                self._take_back(intent, by_key)
        if removed:
            self._drop(removed, intents, by_key)

    def _drop(
        self,
        removed: list[str],
        intents: list[Intent],
        recorded: dict[str, tuple[Change, Change | None]],
    ) -> None:
        """Remove the copies of what was deleted."""
        try:
            self.hot.drop([(key, self.hot.path(key)) for key in removed])
        except BaseException as error:  # noqa: BLE001 - handed to its caller
            for intent in intents:
                if any(draft.key in removed for draft in intent.drafts):
                    intent.error = intent.error or error
                    self._restore(intent, recorded)

    def _restore(self, intent: Intent, recorded: dict[str, tuple[Change, Change | None]]) -> None:
        """Take back removals that failed, of what is still there.

        A tombstone stays for what is gone already, and for a move, which is finished later: taken
        back it would leave the object under both names.

        INVARIANT: what could not be removed does not vanish later, when the disk is well again.
        (tests/tier/test_disk_faults.py::test_each_call_that_fails)
        """
        if any(draft.kind is Kind.PUT for draft in intent.drafts):
            return
        for draft in intent.drafts:
            if os.path.isfile(self.hot.path(draft.key)):
                with contextlib.suppress(OSError):
                    self.journal.take_back(*recorded[draft.key])

    def _settle(self, intent: Intent) -> None:
        """Remove the files of a change that was not recorded, or do it if it was after all.

        A commit that failed may still have reached the disk. Then the row decides, now as after a
        crash: its caller is told that it failed, and may find it done.

        INVARIANT: a write that failed is not done later, when somebody has read that it was not.
        (tests/tier/test_disk_faults.py::test_each_statement_that_fails)
        """
        for draft in intent.drafts:
            try:
                change = self.journal.get(draft.key)
                if change is not None and _is_of(change, draft):
                    self.redo(change)
                elif draft.staged:
                    self.drop_staged(draft.staged)
            except OSError as error:
                # Nobody knows: whoever buries this process will.
                logger.warning("the outcome for %s is not known: %s", draft.key, error)

    def _take_back(self, intent: Intent, recorded: dict[str, tuple[Change, Change | None]]) -> None:
        """Undo what was recorded, unless a file has its name already: then all of it is done."""
        changes = [recorded[draft.key] for draft in intent.drafts]
        if any(c.staged and not os.path.exists(self.staged_path(c)) for c, _ in changes):
            for change, _ in changes:
                with contextlib.suppress(OSError):  # else it is done when it is sent
                    self.redo(change)
            return
        for change, old in changes:
            self.journal.take_back(change, old)
            if change.staged:
                self.drop_staged(change.staged)

    def _publish_together(
        self, intents: list[Intent], recorded: dict[str, tuple[Change, Change | None]]
    ) -> set[str]:
        """Publish what needs no second look, in one transaction; return its keys."""
        done: set[str] = set()
        puts = [
            (recorded[draft.key][0], intent.reservations[draft.key])
            for intent in intents
            for draft in intent.drafts
            if draft.kind is Kind.PUT
        ]
        if len(puts) < _TOGETHER:
            return done
        try:
            with self.hot.catalog.transaction() as db:
                if self.durability == "power":
                    paths = [self.hot.path(change.key) for change, _ in puts]
                    self.hot.make_places(paths, self.durability)
                for change, reservation in puts:
                    path = self.hot.path(change.key)
                    self.hot.place(self.staged_path(change), path, self.durability)
                    done.add(change.key)
                    row = _row_of(change, os.stat(path))
                    replace_row(db, row, reservation)
                    self.hot.heat.forget(row.inode)
        except OSError as error:
            # What was renamed is visible, and counted as soon as it is recovered; the rest is
            # tried again one by one.
            logger.info("publishing one by one: %s", error)
            for change, reservation in puts:
                if change.key in done:
                    self.hot.catalog.release(reservation)
                    self.redo(change)
        return done

    def publish(self, change: Change, reservation: Reservation | None) -> None:
        """Give a recorded file the object's name, and count it in the catalogue.

        INVARIANT: the directory is on the disk before the only name of the bytes is in it.
        (tests/tier/test_powercut.py::test_directory_is_synced_before_a_file_moves_into_it)
        """
        staged, path = self.staged_path(change), self.hot.path(change.key)
        row = _row_of(change, os.stat(staged))
        with self.hot.catalog.transaction() as db:
            replace_row(db, row, reservation)
            self.hot.place(staged, path, self.durability)
            self.hot.heat.forget(row.inode)

    # ---------------------------------------------------------------- after a crash

    def redo(self, change: Change) -> bool:
        """Make what is visible agree with a row; say whether anything had to be done.

        The caller holds the key's writer lock and has read the row under it. Doing it twice is
        the same as once.

        INVARIANT: what was acknowledged is found again, whatever step its process died at.
        (tests/tier/test_writeback_crash.py::test_killed_at_a_hundred_calls)
        """
        path = self.hot.path(change.key)
        if change.kind is Kind.DELETE:
            if not self.needs_redo(change):
                return False
            self.hot.drop([(change.key, path)])
            return True
        if change.state is State.CORRUPT:
            return False
        if os.path.exists(self.staged_path(change)):
            self.publish(change, None)
            return True
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            self.give_up(change, "the file is missing from the hot directory")
            return True
        row = self.hot.catalog.row(change.key)
        known = (True, found.st_ino, change.etag)
        if row is not None and (row.dirty, row.inode, row.etag) == known:
            return False
        with self.hot.catalog.transaction() as db:
            replace_row(db, _row_of(change, found), None)
        return True

    def needs_redo(self, change: Change) -> bool:
        """Say whether a crash left a row that is not visible yet."""
        if change.kind is Kind.DELETE:
            # The file may be gone and its row not: a process died inside the transaction.
            there = os.path.isfile(self.hot.path(change.key))
            return there or self.hot.catalog.row(change.key) is not None
        return os.path.exists(self.staged_path(change))

    def give_up(self, change: Change, why: str) -> None:
        """Put the bytes of a damaged change aside and report it; they are never sent.

        INVARIANT: bytes that are not those written reach neither cold nor a reader.
        (tests/tier/test_uploader.py::test_corrupt_dirty_object_is_kept_aside)
        """
        path = self.hot.path(change.key)
        kept = os.path.join(self.aside, f"{change.gen}-{os.path.basename(change.key)[:100]}")
        try:
            make_directories(self.aside, "power")
            os.rename(path, kept)
            why = f"{why}; what was found is kept as {kept}"
            with self.hot.catalog.transaction() as db:
                remove_row(db, change.key)
        except FileNotFoundError:
            pass
        logger.error("unsent bytes of %s are damaged: %s", change.key, why)
        emit(Event("damaged", change.key, change.size, why))
        self.journal.fail([(change, State.CORRUPT, 0.0, why)])

    # ---------------------------------------------------------------- for the uploader

    def pin_bytes(self, change: Change) -> tuple[str, int]:
        """Give a change's file a second name that later writes leave alone; return name and inode.

        A file that cannot be synced is noted in :attr:`unsyncable`.

        The bytes are synced first unless they always were: once cold has them the copy counts as
        clean, and a clean copy must survive a power cut whole or not at all.

        INVARIANT: also what was written before with a weaker durability than today's.
        (tests/tier/test_powercut.py::test_bytes_of_a_weaker_durability_are_synced_before_they_count)
        """
        link = os.path.join(self.hot.temporary, f"{self.hot.owner}-up-{secrets.token_hex(8)}")
        os.link(self.hot.path(change.key), link)
        fd = os.open(link, os.O_RDONLY)
        try:
            inode = os.fstat(fd).st_ino
            if inode not in self.unsyncable and self.journal.was_unsynced():
                try:
                    fsync(fd)
                except OSError as error:
                    # What is read from it still is what was written: that is compared.
                    logger.warning("%s cannot be synced: %s", change.key, error)
                    self.unsyncable.add(inode)
            return link, inode
        except BaseException:
            unlink_if_there(link)
            raise
        finally:
            os.close(fd)

    def sync_names(self, changes: Iterable[Change]) -> None:
        """Make the visible names of changes durable, before their rows are forgotten.

        INVARIANT: no power cut brings back the copy that a change has replaced once the journal
        has forgotten the change.
        (tests/tier/test_writeback_crash.py::test_name_is_synced_before_the_row_is_forgotten)
        """
        puts = [c for c in changes if c.kind is Kind.PUT]
        self.hot.sync_removals({os.path.dirname(self.hot.path(c.key)) for c in puts})


def _is_of(change: Change, draft: Draft) -> bool:
    """Say whether a row is the one that a draft was to become."""
    return (change.kind, change.staged, change.touched) == (draft.kind, draft.staged, draft.now)


def _row_of(change: Change, found: os.stat_result) -> Row:
    return Row(
        change.key, found.st_size, found.st_ino, change.etag, change.mtime, True, None, change.hash
    )
