"""Bringing cold up to date: one uploader a tier, over all processes of the machine.

What lives here: the lease, the turns, one attempt for one change and what its failure means. What
must not: which change is next (``schedule.py``), single requests (``remote.py``).

Everything runs on the I/O loop. The task lives while something is pending: whoever made a change,
or found some, watches until they are gone, and sends them whenever nobody else has the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.durable import unlink_if_there
from vfs.core.loop import clean_up_in_thread, gather, io_loop, run_in_thread
from vfs.errors import ConflictError, is_a_directory, is_retryable
from vfs.observe import Event, emit, logger
from vfs.tier.attempt import Outcome, failure_of, prepared, probe_of, split
from vfs.tier.breaker import Breaker
from vfs.tier.dirty import DirtyStore
from vfs.tier.engine import LEASE_LOCK, UPLOAD_LOCKS
from vfs.tier.hot import slot_of
from vfs.tier.journal import ABSENT, Change, Kind
from vfs.tier.options import DELAY_S, QUIET_S
from vfs.tier.recover import redo_one
from vfs.tier.remote import PreconditionLostError, Remote
from vfs.tier.schedule import Schedule, Turn, in_the_way

if TYPE_CHECKING:
    from vfs.tier.engine import TierEngine

__all__ = ["Uploader"]

#: Uploads in flight together: what the library fetches in parallel, too.
_PARALLEL: Final = 16

#: How often a process looks whether the lease is free, or whether others have changed something.
_POLL_S: Final = 0.2

#: Attempts of one change against a foreign writer that changes the same object.
_DUELS: Final = 4

#: An object beyond this is asked about before it is sent on the chance that it is new.
_ASK_FIRST_BYTES: Final = 1 << 20

#: How long the end of a process waits for uploads that are on their way.
_STOP_S: Final = 5.0


class Uploader:
    """Sends what one hot directory owes its cold store.

    Parameters
    ----------
    engine : TierEngine
        The hot side.
    remote : Remote
        The cold side.
    """

    def __init__(self, engine: TierEngine, remote: Remote) -> None:
        self.engine = engine
        self.remote = remote
        self.forget_after_fork()

    def forget_after_fork(self) -> None:
        """Start without a task: that one belongs to the parent."""
        self._task: asyncio.Task[None] | None = None
        self._news: asyncio.Event | None = None
        self._lease: int | None = None
        self._stopping = False
        self._delaying = False
        self.breaker = Breaker()

    # ---------------------------------------------------------------- life

    def start(self, *, written: bool = False) -> None:
        """Look after what is pending until nothing is; on the I/O loop.

        Parameters
        ----------
        written : bool, default False
            Something was written, no more: who sleeps until an older write may go sleeps on.
        """
        if self._stopping:
            return
        if self._news is None:
            self._news = asyncio.Event()
        if not (written and self._delaying):
            self._news.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    def rest(self) -> None:
        """Send nothing from this process: it only looks."""
        self._stopping = True

    def work(self) -> None:
        """Take back :meth:`rest`, and look after what is pending."""
        self._stopping = False
        self.start_soon()

    def start_soon(self) -> None:
        """Do :meth:`start` from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is gone: the interpreter ends
            io_loop().call_soon_threadsafe(self.start)

    def stop(self) -> None:
        """End the task; what it was sending is sent again by whoever comes next."""
        task, self._stopping = self._task, True
        if task is None:
            return
        ended = threading.Event()

        def ask() -> None:
            task.add_done_callback(lambda _: ended.set())
            if self._news is not None:
                self._news.set()

        with contextlib.suppress(RuntimeError):
            io_loop().call_soon_threadsafe(ask)
            # What is on its way is let finish: a request cannot be called back, and one that
            # lands after its successor would be taken for somebody else's.
            if not ended.wait(_STOP_S):
                io_loop().call_soon_threadsafe(task.cancel)
                ended.wait(_STOP_S)

    async def _run(self) -> None:
        assert self._news is not None  # noqa: S101 - start() made it
        try:
            while not self._stopping and self.engine.usable():
                self._news.clear()
                store = self.engine.dirty()
                if store is None:
                    break
                if not await run_in_thread(store.journal.count):
                    if not self._news.is_set():
                        break
                    continue
                if not await self._has_lease(store):
                    await self._sleep(_POLL_S)
                    continue
                pause_s = await self._step(store)
                if pause_s:
                    await self._sleep(min(pause_s, _POLL_S))
                self._delaying = False
        except OSError as error:
            # The hot directory, not cold. Whoever needs it next starts again and is told.
            logger.warning("uploads of hot tier %s stopped: %s", self.engine.root, error)
        except RuntimeError as error:
            if not _interpreter_ends(error):
                raise  # else: what was on its way is sent again by whoever comes next
        finally:
            self._end_lease()
            self._task = None

    async def _step(self, store: DirtyStore) -> float:
        """Send what may be sent now; return how long to rest."""
        await self.breaker.heed(store.journal)
        if rest_s := self.breaker.rest_s():
            return rest_s
        turn = await run_in_thread(self._schedule(store).next_turn, SYSTEM_CLOCK.wall_s())
        if not turn:
            self._delaying = turn.next_s is not None
            return _POLL_S if turn.next_s is None else max(0.0, turn.next_s)
        await self._take(store, probe_of(turn) if self.breaker.is_open else turn)
        return 0.0

    async def _sleep(self, seconds: float) -> None:
        """Wait for news of this process, or for a time."""
        assert self._news is not None  # noqa: S101 - as above
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)

    async def _has_lease(self, store: DirtyStore) -> bool:
        """Be the only uploader of the machine, if nobody else is; the kernel ends a dead one's.

        INVARIANT: one process sends at a time, and another takes over when it dies.
        (tests/tier/test_writeback_processes.py::test_uploads_are_taken_over)
        """
        if self._lease is None:
            self._lease = self.engine.locks.acquire_now(LEASE_LOCK)
            if self._lease is not None:
                await self.breaker.adopt(store.journal)
        return self._lease is not None

    def _end_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            self.engine.locks.release(lease)

    def _schedule(self, store: DirtyStore) -> Schedule:
        back = self.engine.back
        if back is None:
            return Schedule(store.journal, QUIET_S, None, DELAY_S)
        return Schedule(store.journal, back.quiet_s, back.max_lag_s, back.delay_s)

    # ---------------------------------------------------------------- a turn

    async def _take(self, store: DirtyStore, turn: Turn) -> None:
        """Send what may be sent now."""
        journal = store.journal
        await run_in_thread(journal.mark_sent, [*turn.puts, *turn.deletes])
        bulk, single = await run_in_thread(split, store, turn.deletes)
        calls = [partial(self._attempt, store, change) for change in (*turn.puts, *single)]
        found = await gather(calls, limit=_PARALLEL)
        outcomes = [outcome for outcome in found if isinstance(outcome, Outcome)]
        if bulk:
            outcomes += await self._remove_many(store, bulk)
        await self._record(store, outcomes)
        for folder in turn.folders:
            await self._remove_folder(store, folder)

    async def _record(self, store: DirtyStore, outcomes: list[Outcome]) -> None:
        done = [o for o in outcomes if o.done]
        if done:
            await run_in_thread(self._record_done, store, done)
        failed = [o for o in outcomes if o.error is not None]
        if failed:
            await run_in_thread(store.journal.fail, [failure_of(o) for o in failed])

    def _record_done(self, store: DirtyStore, done: list[Outcome]) -> None:
        store.sync_names(o.change for o in done)
        puts = [o for o in done if o.change.kind is Kind.PUT]
        # INVARIANT: a copy the journal no longer has has its version in cold, the next's base.
        # (tests/tier/test_uploader.py::test_answer_of_cold_is_a_base_before_the_mark_is_off)
        self.engine.catalog.note_base((o.change.key, o.change.etag, o.etag) for o in puts)
        store.journal.finish((o.change, o.etag) for o in done)
        self.engine.catalog.note_clean((o.change.key, o.change.etag) for o in puts)
        self._drop_unsyncable(store, puts)
        for outcome in done:
            change = outcome.change
            if change.kind is Kind.PUT:
                emit(Event("written", change.key, change.size, "in the cold store"))
            else:
                emit(Event("removed", change.key, 0, "in the cold store"))

    def _drop_unsyncable(self, store: DirtyStore, done: list[Outcome]) -> None:
        """Drop copies whose sync has failed: cold has them, and the disk may not.

        INVARIANT: a sync that failed is not repeated until it seems to succeed.
        (tests/tier/test_disk_faults.py::test_copy_that_cannot_be_synced_is_sent_and_dropped)
        """
        for outcome in done:
            if outcome.inode in store.unsyncable:
                key = outcome.change.key
                self.engine.hot.evict([(key, self.engine.hot.path(key), outcome.inode)])

    # ---------------------------------------------------------------- one change

    async def send_now(self, key: str) -> None:
        """Bring cold up to date for one key, in the caller's turn; it holds the writer lock.

        Raises
        ------
        ConflictError, IntegrityError, OSError
            It could not be; the change stays pending.
        CircuitOpenError
            [EHOSTUNREACH] it was not even tried: see :meth:`_attempt_now`.
        """
        store = self.engine.dirty()
        if store is None:
            return
        change = await run_in_thread(store.journal.get, key)
        if change is None:
            return
        await run_in_thread(store.redo, change)
        await self._attempt_now(store, change)

    async def clear_the_way(self, key: str) -> None:
        """Send removals, pending above or below a key, that a write straight to cold would meet."""
        store = self.engine.dirty()
        if store is None:
            return
        changes, folders = await run_in_thread(in_the_way, store.journal, key)
        for change in changes:
            await run_in_thread(redo_one, self.engine, change)
            await self._attempt_now(store, change)
        for folder in folders:
            await self._remove_folder(store, folder)

    async def _attempt_now(self, store: DirtyStore, change: Change) -> None:
        """Send one change in its caller's turn, and raise why it cannot be.

        While the circuit is open one caller finds out whether cold is back, once a second; the
        others are told at once instead of each waiting for a store that does not answer.
        """
        self.breaker.ask()
        await run_in_thread(store.journal.mark_sent, [change])
        outcome = await self._attempt(store, change, at_once=True)
        if outcome.held_back:
            raise self.breaker.refusal(change.key)
        if outcome.error is not None:
            raise outcome.error

    async def _attempt(
        self, store: DirtyStore, change: Change, *, at_once: bool = False
    ) -> Outcome:
        """Send one change, as the only one that sends this key; ``at_once`` records it as well.

        INVARIANT: while cold is down it is asked once a pause, whatever waits.
        (tests/tier/test_circuit.py::test_outage_costs_few_requests)
        INVARIANT: what is sent for a caller, who changes cold next, is recorded before anybody
        else may send it again.
        (tests/tier/test_uploader.py::test_what_waits_is_not_sent_again_over_a_write_through)
        """
        async with self.engine.locks.hold([UPLOAD_LOCKS + slot_of(change.key)]):
            if not self.breaker.enter():
                return Outcome(change, held_back=True)
            outcome = Outcome(change)
            try:
                outcome = await self._send(store, change)
            except Exception as error:
                if _interpreter_ends(error):
                    raise
                outcome = Outcome(change, error=error)
            finally:
                await self.breaker.leave(store.journal, outcome.error, done=outcome.done)
            if at_once:
                await self._record(store, [outcome])
            return outcome

    async def _send(self, store: DirtyStore, change: Change) -> Outcome:
        ready = await run_in_thread(prepared, self.engine, store, change)
        if ready is None:
            return Outcome(change)  # overtaken, or still in somebody's hands
        now = ready.change
        if now.kind is Kind.DELETE:
            return await self._send_removal(now)
        if ready.source is None:
            return await self._report_damage(store, now, ready.damage)
        try:
            etag = await self._put(now, ready.source)
        finally:
            if isinstance(ready.source, str):
                await clean_up_in_thread(unlink_if_there, ready.source)
        return Outcome(now, etag, done=True, inode=ready.inode)

    async def _report_damage(self, store: DirtyStore, change: Change, why: str) -> Outcome:
        """Put a damaged change aside, unless it was only replaced meanwhile."""
        fd = self.engine.lock_for_change(change.key)
        if fd is None:
            return Outcome(change)  # a writer has it: look again later
        try:
            now = await run_in_thread(store.journal.get, change.key)
            if now is None or now.gen != change.gen:
                return Outcome(change)
            await run_in_thread(store.give_up, change, why)
        finally:
            self.engine.locks.release(fd)
        return Outcome(change)

    async def _put(self, change: Change, source: bytes | str) -> str | None:
        """Store bytes, after what is left of directories that were removed here.

        An upload that was under way when its object was removed may have made them.
        """
        try:
            return await self._put_there(change, source)
        except IsADirectoryError:
            if not await self.remote.remove_empty_tree(change.key):
                raise
        return await self._put_there(change, source)

    async def _put_there(self, change: Change, source: bytes | str) -> str | None:
        """Store bytes on the condition that cold is what the change is based on.

        INVARIANT: an object that somebody else has put into cold meanwhile is not overwritten.
        (tests/tier/test_uploader.py::test_foreign_write_is_a_conflict)
        """
        guess = await self._first_guess(change)
        for _ in range(_DUELS):
            try:
                return await self.remote.put(change.key, source, guess)
            except PreconditionLostError:
                found = await self.remote.head(change.key)
                if found is not None and found.kind == "directory":
                    if guess == ABSENT:
                        raise is_a_directory(change.key) from None
                    found = None
            if found is None:
                if change.base not in {None, ABSENT} and "-" not in change.sent:
                    break  # somebody removed it
                guess = ABSENT
                continue
            if change.base is not None:
                known = await self._ours(change, found.size)
                if known is None:
                    break
                if known == change.hash:
                    return found.etag  # it was us: the answer had been lost
            guess = found.etag
        message = (
            "the cold object was changed by another writer since this one was based on it; both "
            "versions are kept: resolve(path, keep='hot') or keep='cold'"
        )
        raise ConflictError(message, change.key)

    async def _first_guess(self, change: Change) -> str | None:
        """Return what is expected in cold; where nothing is known, that it is new."""
        if change.base is not None or not self.remote.conditional:
            return change.base
        if change.size <= _ASK_FIRST_BYTES:
            return ABSENT
        found = await self.remote.head(change.key)
        return found.etag if found is not None and found.kind == "file" else ABSENT

    async def _ours(self, change: Change, size: int) -> str | None:
        """Return the contents of the cold object if this tier has sent them."""
        if size != change.size and not change.sent:
            return None
        digest = await self.remote.digest(change.key, size)
        return digest if digest in {change.hash, *change.sent} else None

    async def _send_removal(self, change: Change) -> Outcome:
        """Remove an object on the condition that cold is what the removal is based on.

        INVARIANT: an object that somebody else has put into cold meanwhile is not removed.
        (tests/tier/test_uploader.py::test_removal_spares_what_somebody_else_wrote)
        """
        try:
            await self.remote.remove(change.key, change.base)
        except PreconditionLostError:
            found = await self.remote.head(change.key)
            if found is not None and found.kind == "file":
                if await self._ours(change, found.size) is None:
                    message = (
                        "the cold object was changed by another writer since it was removed here; "
                        "resolve(path, keep='hot') removes it, keep='cold' brings it back"
                    )
                    raise ConflictError(message, change.key) from None
                await self.remote.remove(change.key, found.etag)
        return Outcome(change, ABSENT, done=True)

    async def _remove_many(self, store: DirtyStore, changes: list[Change]) -> list[Outcome]:
        """Remove what no version is known of, in bulk."""
        slots = {UPLOAD_LOCKS + slot_of(change.key) for change in changes}
        async with self.engine.locks.hold(slots):
            current = []
            for change in changes:
                now = await run_in_thread(store.journal.get, change.key)
                if now is not None and now.gen == change.gen:
                    current.append(now)
            if not current or not self.breaker.enter():
                return []
            failure: Exception | None = None
            try:
                await self.remote.remove_many([change.key for change in current])
            except Exception as error:
                if _interpreter_ends(error):
                    raise
                failure = error
            await self.breaker.leave(store.journal, failure, done=failure is None)
        return [Outcome(c, ABSENT, error=failure, done=failure is None) for c in current]

    async def _remove_folder(self, store: DirtyStore, folder: str) -> None:
        if not self.breaker.enter():
            return
        failure: OSError | None = None
        try:
            await self.remote.remove_directory(folder)
        except OSError as error:
            failure = error
        await self.breaker.leave(store.journal, failure, done=failure is None)
        # Any other failure: not there, or not empty: somebody else's objects keep it.
        if failure is None or not is_retryable(failure):
            await run_in_thread(store.journal.forget_folder, folder)


def _interpreter_ends(error: BaseException) -> bool:
    """Say whether a call failed only because Python has ended its threads.

    It does so before anybody is told, and says it by the text of a ``RuntimeError`` alone.
    """
    return isinstance(error, RuntimeError) and "shutdown" in str(error)
