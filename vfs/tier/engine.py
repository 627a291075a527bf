"""One hot directory as one process sees it: opened once, shared by all filesystem instances.

What lives here: opening, recovery, and what must be common (locks, flights, counters). What must
not: the steps of reads and writes (``mover.py``), fsspec paths (``filesystem.py``).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vfs.core.clock import SYSTEM_CLOCK, boot_id
from vfs.core.engine import Engine
from vfs.core.filelock import LockFile
from vfs.core.single_flight import SingleFlight
from vfs.errors import UnavailableError
from vfs.observe import Event, emit, logger
from vfs.policies.pin import PinSet
from vfs.policies.rules import Pinned, RuleSet
from vfs.tier.catalog import Catalog
from vfs.tier.claim import STATE_DIRECTORY, claim
from vfs.tier.dirty import DirtyStore
from vfs.tier.heat import ColdReads, Heat
from vfs.tier.hot import SLOTS, Generations, HotStore, slot_of
from vfs.tier.journal import Journal
from vfs.tier.mounttype import check_fit_for_write_back
from vfs.tier.options import BackOptions
from vfs.tier.pins import change_pins, read_pins
from vfs.tier.place import ALONE, Place, drop_if_doubted, take_place
from vfs.tier.recover import rebuild_catalog, recover
from vfs.tier.writeback import GroupCommit

__all__ = [
    "FETCH_LOCKS",
    "LEASE_LOCK",
    "UPLOAD_LOCKS",
    "WRITE_LOCKS",
    "TierEngine",
    "Version",
]

if TYPE_CHECKING:
    from vfs.tier.uploader import Uploader

#: Databases of the parent that a forked child holds on to without using them.
_inherited: Final[list[Catalog | Journal]] = []

#: Bytes of the lock file: one a slot for who fetches, one a slot for who changes, then one each
#: process holds for life, so that the others can tell whether it is alive.
FETCH_LOCKS: Final = 0
WRITE_LOCKS: Final = SLOTS
_LIFE_LOCKS: Final = 2 * SLOTS

#: Far beyond any number of processes: one byte a slot for who sends, one for the uploader.
UPLOAD_LOCKS: Final = 1 << 40
LEASE_LOCK: Final = 1 << 41
_TRIAL_LOCK: Final = LEASE_LOCK + 1

JOURNAL_NAME: Final = "journal.sqlite"

#: Default limit: a share of the disk the hot directory is on.
_DEFAULT_LIMIT_RATIO: Final = 0.5

#: A hot directory that could not be used is tried again after this time.
_RETRY_S: Final = 10.0

#: Versions of hot copies remembered in memory, to answer ``info`` without SQLite.
_REMEMBERED: Final = 10_000


class Version(NamedTuple):
    """What the cold store said of an object, and the generation it was asked in."""

    generation: int
    etag: str | None
    mtime: float | None
    size: int


class TierEngine(Engine):
    """Everything the instances of one process share for one hot directory.

    Parameters
    ----------
    root : str
        The hot directory.
    cold_identity : str
        What cold store it belongs to, without secrets; recorded at first use and compared ever
        after, since copies of one store must never answer for another.
    absolute_keys : bool
        Whether keys start with a slash.
    place : Place
        Where it stands among other hot directories.
    """

    def __init__(
        self, root: str, cold_identity: str, *, absolute_keys: bool, place: Place = ALONE
    ) -> None:
        self.root = root
        self.cold_identity = cold_identity
        self.absolute_keys = absolute_keys
        self.place = place
        self.token = ""
        self.max_bytes: int | None = None
        self.configured_pins: set[str] = set()
        self.rule_sets: set[RuleSet] = set()
        self.back: BackOptions | None = None
        self.uploader: Uploader | None = None
        self._reset()

    def _reset(self) -> None:
        self.ready = False
        self.flights: SingleFlight[Any] = SingleFlight()
        self.cold_requests: Counter[str] = Counter()
        self.hits = 0
        self.misses = 0
        self.promotions = 0
        self.evictions = 0
        self.cold_reads = ColdReads()
        self.versions: dict[str, Version] = {}
        self._named_pins = PinSet(())
        self._gather_pins()
        self._opening = threading.Lock()
        self._broken_since: float | None = None
        self._lives: list[int] = []
        self._stamp = (0, 0)
        self._was_open = False
        self._given_up: list[Catalog | Journal] = []
        self._still: list[Catalog | Journal] = []
        self._journal: Journal | None = None
        self._dirty: DirtyStore | None = None
        self.committer = GroupCommit()
        # Set for good once this process has seen a journal: what cold says is then not enough.
        self._owes = False
        if self.uploader is not None:
            self.uploader.forget_after_fork()

    def before_fork(self) -> None:
        """Let no SQLite call be under way: a child inherits what SQLite believes to hold.

        SQLite keeps its file locks in a table of the process. Copied in the middle of a
        transaction, the table makes every connection of the child wait for one that is gone.
        """
        self._opening.acquire()
        if self.ready:
            self._still = [self.catalog, *([self._journal] if self._journal else [])]
            for database in self._still:
                database.hold_still()

    def after_fork_in_parent(self) -> None:
        """Let SQLite go on."""
        for database in self._still:
            database.go_on()
        self._still = []
        self._opening.release()

    def after_fork(self) -> None:
        """Start anew in a child: descriptors, SQLite and tasks belong to the parent."""
        if self.ready:
            self.locks.forget_after_fork()
            # Never close an SQLite connection of the parent: leave it alone for good.
            _inherited.append(self.catalog)
            if self._journal is not None:
                _inherited.append(self._journal)
        self._reset()

    def close(self) -> None:
        """Leave the hot directory as a process that ended well does."""
        if self.uploader is not None:
            self.uploader.stop()
        if self.ready:
            self.ready = False
            self.save_cold_reads()
            if self._dirty is not None:
                self._dirty.close()
            with contextlib.suppress(OSError):
                self.catalog.bury(self.hot.owner)
            self._give_up_databases()
            self.generations.close()
        self._end_lives(0)
        for catalog in self._given_up:
            catalog.close()
        self._given_up.clear()

    def _give_up_databases(self) -> None:
        self._given_up.append(self.catalog)
        if self._journal is not None:
            self._given_up.append(self._journal)
            self._journal = self._dirty = None

    def configure(
        self,
        max_bytes: int | None,
        pins: Iterable[str],
        back: BackOptions | None = None,
        rules: RuleSet | None = None,
    ) -> None:
        """Take over what a new instance was configured with; the last limit given wins."""
        if back is not None:
            self.back = back.joined(self.back)
            if self._dirty is not None:
                self._dirty.set_durability(self.back.durability)
        self.configured_pins.update(pins)
        if rules is not None and rules.rules:
            self.rule_sets.add(rules)
        self._gather_pins()
        if self.ready:
            drop_if_doubted(self, rebooted=False)  # what is below may have become less durable
        if max_bytes is not None and max_bytes != self.max_bytes:
            self.max_bytes = max_bytes
            if self.ready:
                self.catalog.set_limit(max_bytes)
                self._shrink()

    # ---------------------------------------------------------------- opening

    def usable(self) -> bool:
        """Open the hot directory at first use; say whether it can be used now.

        Raises
        ------
        ConfigError
            The directory belongs to another cold store, or holds files no tier put there.

        Notes
        -----
        A directory that cannot be opened degrades reads to the cold store, with one warning; it
        is tried again every 10 s.
        """
        if self.ready and self._still_there():
            return True
        if self.place.below is not None:
            self.place.below.usable()  # first, and not under a lock that a fork waits for
        with self._opening:
            if self.ready:
                return True  # another thread was faster
            now = SYSTEM_CLOCK.monotonic_s()
            if self._broken_since is not None and now - self._broken_since < _RETRY_S:
                return self._unusable()
            try:
                self._open()
            except OSError as error:
                if self._broken_since is None:
                    self._degrade(str(error))
                self._broken_since = now
                return self._unusable(error)
            if self._broken_since is not None:
                emit(Event("recovered", ""))
                self._broken_since = None
            self.ready = True
        if self.uploader is not None and self._journal is not None:
            self.uploader.start_soon()
        return True

    def _unusable(self, error: OSError | None = None) -> bool:
        """Let reads go to cold, unless cold may lack what was acknowledged.

        INVARIANT: older bytes of cold never answer for newer ones that cannot be reached.
        (tests/tier/test_writeback.py::test_lost_hot_directory_is_no_reason_to_read_cold)
        """
        if self.back is None and not self._owes:
            return False
        message = (
            f"hot tier {self.root} cannot be used, and it may hold writes that are not in the "
            f"cold store yet: {error or 'see the log'}; make it reachable again"
        )
        raise UnavailableError(message, self.root) from error

    def _degrade(self, reason: str) -> None:
        logger.warning("hot tier %s cannot be used: %s", self.root, reason)
        emit(Event("degraded", "", reason=reason))

    def _still_there(self) -> bool:
        """Notice that the directory was deleted, unmounted or replaced under us.

        Locks are names in it: two processes that hold locks of two such directories would not
        exclude each other.
        """
        try:
            facts = os.stat(self.locks.path)
            if (facts.st_dev, facts.st_ino) == self._stamp:
                return True
        except OSError:
            pass
        with self._opening:
            if self.ready:
                self.ready = False
                self._give_up_databases()
                # Only what was a tier before may be one again: the empty place under a lost
                # mount is not, since what is written meanwhile would be unknown to the copies
                # that come back with the mount.
                self._was_open = True
                self._broken_since = SYSTEM_CLOCK.monotonic_s()
                self._degrade("its state directory is gone")
        return self._unusable()

    def _open(self) -> None:
        state = os.path.join(self.root, STATE_DIRECTORY)
        if self._was_open:
            os.stat(os.path.join(state, "tier.json"))
        claim(self.root, self.cold_identity)
        self.token = take_place(self)
        boot = boot_id()
        self.locks = LockFile(os.path.join(state, "locks"))
        self.generations = Generations(os.path.join(state, "generations"))
        self.heat = Heat(os.path.join(state, "heat"))
        facts = os.stat(self.locks.path)
        self._stamp = (facts.st_dev, facts.st_ino)
        with contextlib.ExitStack() as opened:  # closed again if a later step fails
            self.catalog = Catalog(os.path.join(state, "catalog.sqlite"), boot)
            opened.callback(self.catalog.close)
            opened.callback(self._forget_journal)
            opened.callback(self._end_lives, len(self._lives))
            self._prepare(boot)
            opened.pop_all()

    def _forget_journal(self) -> None:
        journal, self._journal, self._dirty = self._journal, None, None
        if journal is not None:
            journal.close()

    def _prepare(self, boot: str) -> None:
        self.hot = HotStore(self.root, self.catalog, self.heat)
        # INVARIANT: nobody takes the number of a dead process that has left files, from a
        # catalogue since lost: they would be taken for its own, and stay.
        # (tests/tier/test_powercut.py::test_files_staged_before_a_power_cut_are_cleaned_up)
        left = self.hot.owners_of_staged_files()
        self.hot.owner = self.catalog.new_owner(lambda n: n not in left and self._prove_alive(n))
        self._open_journal()
        drop_if_doubted(self, rebooted=self.catalog.needs_rebuild)
        if self.catalog.needs_rebuild:
            rebuild_catalog(self, boot)
        self.bury_the_dead()
        if self._dirty is not None:
            recover(self)
        if self.max_bytes is not None:
            self.catalog.set_limit(self.max_bytes)
        elif self.catalog.limit() is None:
            disk = os.statvfs(self.root)
            self.catalog.set_limit(int(disk.f_blocks * disk.f_frsize * _DEFAULT_LIMIT_RATIO))
        self.refresh_pins()
        self._shrink()

    # ---------------------------------------------------------------- journal

    def _open_journal(self) -> None:
        path = os.path.join(self.root, STATE_DIRECTORY, JOURNAL_NAME)
        there = os.path.exists(path)
        if self.back is None and not there:
            return
        self._owes = True
        if self.back is not None:
            check_fit_for_write_back(self.root, self.locks, _TRIAL_LOCK)
        durability = self.back.durability if self.back is not None else "power"
        self._journal = Journal(path, durability)
        self._dirty = DirtyStore(self.hot, self._journal, durability)

    def dirty(self) -> DirtyStore | None:
        """Return what knows the unsent changes, or None where no process has ever made one.

        Notes
        -----
        Cost without write-back: one ``stat``, as another process may begin at any time. Never
        called for a hit.
        """
        if self._dirty is None and self.ready:
            path = os.path.join(self.root, STATE_DIRECTORY, JOURNAL_NAME)
            if self.back is not None or os.path.exists(path):
                with self._opening:
                    if self._dirty is None:
                        self._open_journal()
        return self._dirty

    def dirty_if_open(self) -> DirtyStore | None:
        """Return :meth:`dirty` without looking for a journal of another process."""
        return self._dirty

    def lock_for_change(self, key: str) -> int | None:
        """Take the writer lock of a key if it is free; return its descriptor."""
        return self.locks.acquire_now(WRITE_LOCKS + slot_of(key))

    def owing(self) -> DirtyStore:
        """Return :meth:`dirty`, which must be there.

        Raises
        ------
        UnavailableError
            [EHOSTUNREACH] the hot directory cannot be used.
        """
        self.usable()
        found = self.dirty()
        if found is None:
            message = f"hot tier {self.root} has no journal: nothing was written back here"
            raise UnavailableError(message, self.root)
        return found

    def _prove_alive(self, owner: int) -> bool:
        life = self.locks.acquire_now(_LIFE_LOCKS + owner)
        if life is not None:
            self._lives.append(life)
        return life is not None

    def _end_lives(self, but_first: int) -> None:
        # Of a directory that was lost the lock is kept: calls may still be under way in it.
        while len(self._lives) > but_first:
            self.locks.release(self._lives.pop())

    def bury_the_dead(self) -> None:
        """Undo what processes that died were doing."""
        for owner in {*self.catalog.owners(), *self.hot.owners_of_staged_files()}:
            if owner == self.hot.owner:
                continue
            fd = self.locks.acquire_now(_LIFE_LOCKS + owner)
            if fd is None:
                continue  # alive
            try:
                self.hot.clean_up_after(owner, self._journal)
            finally:
                self.locks.release(fd)

    def _shrink(self) -> None:
        """Obey a limit that was lowered."""
        over = self.catalog.used() - (self.catalog.limit() or 0)
        if over > 0:
            self.make_room(over)

    def make_room(self, need_bytes: int) -> int:
        """Evict until ``need_bytes`` are free; return the bytes freed, 0 when all is pinned."""
        self.refresh_pins()
        freed, count = self.hot.make_room(need_bytes, self.pins)
        self.evictions += count
        if count:
            emit(Event("evicted", "", freed, f"{count} least recently used copies"))
        return freed

    def settled_generation(self, slot: int) -> int | None:
        """Return the generation of a slot, or None while a change is under way.

        A change that its process did not live to end is ended here.
        """
        generation = self.generations.get(slot)
        if generation % 2 == 0:
            return generation
        fd = self.locks.acquire_now(WRITE_LOCKS + slot)
        if fd is None:
            return None
        try:
            self.generations.end(slot)
            return self.generations.get(slot)
        finally:
            self.locks.release(fd)

    # ---------------------------------------------------------------- pins

    def _gather_pins(self) -> None:
        configured = PinSet(self.configured_pins)
        self.pins = Pinned(self._named_pins, configured, self.rule_sets)

    def refresh_pins(self) -> None:
        """Read the pins that any process has set by name."""
        self._named_pins = PinSet(read_pins(self.hot.state))
        self._gather_pins()

    def change_pins(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Record pins durably, for every process."""
        change_pins(self.hot.state, self.catalog, add, remove)
        self.refresh_pins()

    # ---------------------------------------------------------------- small tables

    def remember_version(self, key: str, version: Version) -> None:
        """Keep at hand which cold version an object has while its generation stays the same.

        INVARIANT: what was asked during a change (an odd generation) is not kept: the change may
        land without the number changing.
        (tests/tier/test_races.py::test_version_asked_during_a_change_is_not_kept)
        """
        if version.generation % 2:
            return
        if len(self.versions) >= _REMEMBERED:
            self.versions.pop(next(iter(self.versions)), None)
        self.versions[key] = version

    def known_version(self, key: str) -> Version | None:
        """Return what is remembered of a cold object, unless a change has begun since."""
        version = self.versions.get(key)
        if version is None or version.generation != self.generations.get(slot_of(key)):
            return None
        return version

    def save_cold_reads(self) -> None:
        """Write down for plans what cold was read for; not worth failing a read."""
        with contextlib.suppress(OSError):
            self.cold_reads.save(self.catalog, SYSTEM_CLOCK.wall_s())
