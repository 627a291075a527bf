"""Write-back on the hot side: admit, stage, commit; what a caller waits for.

What lives here: the steps of a change that cold learns of later, as coroutines on the I/O loop.
What must not: file operations (``dirty.py``), sending (``uploader.py``), the order of steps
(``state.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Literal

from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.durable import unlink_if_there
from vfs.core.loop import clean_up_in_thread, run_in_thread
from vfs.errors import TierFullError, exists_already, is_a_directory, not_a_directory
from vfs.policies.pressure import PressurePolicy
from vfs.policies.zarrorder import ancestors_of
from vfs.tier.catalog import Reservation, is_local_etag
from vfs.tier.claim import hot_name_allowed
from vfs.tier.dirty import DirtyStore
from vfs.tier.group import Intent, SmallPut
from vfs.tier.journal import ABSENT, Draft, Kind, Totals, below

if TYPE_CHECKING:
    from vfs.tier.engine import TierEngine, Version
    from vfs.tier.mover import Content, Mover

__all__ = ["GroupCommit", "WriteBack"]

#: How long a writer waits at the limit for uploads that make no progress, before it gets ENOSPC.
_PATIENCE_S: Final = 2.0
_PAUSE_S: Final = 0.02

#: Changes of one journal commit. A commit costs one sync whatever it holds; more than this only
#: makes the first of them wait.
_GROUP: Final = 256


class GroupCommit:
    """Commits of many callers made by one: while one is on its way the next ones gather."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Intent, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self, store: DirtyStore, intent: Intent) -> None:
        """Commit a change together with whoever else waits; raise what became of it."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((intent, future))
        if self._task is None:
            self._task = asyncio.ensure_future(self._drain(store))
        await future

    async def _drain(self, store: DirtyStore) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
            try:
                await run_in_thread(store.commit, [intent for intent, _ in group])
            except BaseException as error:  # noqa: BLE001 - handed to every waiter
                for intent, _ in group:
                    intent.error = intent.error or error
            for intent, future in group:
                if future.cancelled():
                    continue
                if intent.error is None:
                    future.set_result(None)
                else:
                    future.set_exception(intent.error)
        # No await since the list was seen empty, so nobody can have joined unseen.
        self._task = None


class WriteBack:
    """Changes that are acknowledged by the hot tier.

    Parameters
    ----------
    mover : Mover
        Whose engine and cold store.
    """

    def __init__(self, mover: Mover) -> None:
        self.mover = mover

    @property
    def engine(self) -> TierEngine:
        """What the instances of this process share."""
        return self.mover.engine

    # ---------------------------------------------------------------- the short way

    async def put_small(self, key: str, content: Content) -> bool:
        """Store a small object in one visit to a thread; False where that takes more.

        Whoever waits meanwhile shares the next visit: its reservations, its journal commit and
        its publication are one transaction each.

        Notes
        -----
        The fence comes before the bytes are staged: earlier than a put needs it, and as good.
        """
        store = self.engine.owing()
        if not hot_name_allowed(key):
            return False

        async def put() -> bool:
            async with self.mover.changing([key]):
                # INVARIANT: asked before the fence, which makes it out of date.
                # (tests/tier/test_uploader.py::test_what_was_looked_at_is_the_base_of_a_change)
                known = self.engine.known_version(key)
                self.mover.fence([key])
                self.engine.versions.pop(key, None)
                small = SmallPut(key, content, admit, lambda key: self._base(key, known))
                intent = Intent([], put=small)
                try:
                    await self.engine.committer.run(store, intent)
                except BaseException:
                    if content.reservation is not None:
                        await clean_up_in_thread(self.engine.catalog.release, content.reservation)
                    raise
                return not intent.declined

        def admit(totals: Totals, ahead: int, limit: int) -> bool:
            size = content.size
            fits = size <= self._most_bytes(limit) and self._place(store, key)
            return fits and self._delay_s(totals, ahead + size, limit) == 0.0

        if not await _to_its_end(put()):
            return False
        self.mover.uploader.start(written=True)
        return True

    # ---------------------------------------------------------------- admission

    async def admitted(
        self, key: str, content: Content, write: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Wait for room, set it aside, and write; a caller that is cancelled leaves it running.

        Raises
        ------
        TierFullError
            [ENOSPC] the limit is reached by what cold does not have yet, and uploads do not
            get on.
        """
        store = self.engine.owing()
        if not hot_name_allowed(key):
            return await write()
        first = await run_in_thread(self._try_now, store, key, content.size)
        if first is False:
            return await write()
        if first is None:
            await self._slow_down(store, key, content.size)
            first = await self._reserve(store, key, content.size)
        content.reservation = first

        async def run() -> Any:
            try:
                return await write()
            finally:
                if content.reservation is not None:
                    await clean_up_in_thread(self.engine.catalog.release, content.reservation)

        return await _to_its_end(run())

    def _try_now(
        self, store: DirtyStore, key: str, size: int
    ) -> Reservation | Literal[False] | None:
        """Do in one visit to a thread what a write needs where nothing is in its way.

        Returns
        -------
        Reservation, False or None
            The bytes set aside; that hot cannot hold the object; or that there may be no room yet.
        """
        engine = self.engine
        limit = engine.catalog.limit() or 0
        if size > self._most_bytes(limit) or not self._place(store, key):
            return False
        if self._delay_s(store.journal.totals(), size, limit) != 0.0:
            return None
        found = engine.catalog.reserve(engine.hot.owner, key, size)
        return found if isinstance(found, Reservation) else None

    def _delay_s(self, totals: Totals, size: int, limit: int) -> float | None:
        """Return how long a write has to wait for uploads; None at the limit."""
        back = self.engine.back
        lag_s = SYSTEM_CLOCK.wall_s() - totals.since if totals.since is not None else 0.0
        policy = PressurePolicy(self._max_dirty_bytes(limit), back.max_lag_s if back else None)
        return policy.delay_s(totals.bytes, size, lag_s)

    def _most_bytes(self, limit: int) -> int:
        return min(limit, self._max_dirty_bytes(limit))

    def _max_dirty_bytes(self, limit: int) -> int:
        back = self.engine.back
        given = back.max_dirty_bytes if back is not None else None
        return given if given is not None else max(1, limit // 2)

    async def _ask_for_room(self, store: DirtyStore) -> None:
        """Have objects sent that only wait to be left alone, whichever process sends."""
        await run_in_thread(store.journal.ask_for_room)
        self.mover.uploader.start()

    async def _slow_down(self, store: DirtyStore, key: str, size: int) -> None:
        """Hold a writer back while much waits to be sent, and refuse it at the limit."""
        engine = self.engine
        limit = self._max_dirty_bytes(engine.catalog.limit() or 0)
        policy = PressurePolicy(limit, engine.back.max_lag_s if engine.back else None)
        waited_s, least = 0.0, None
        while True:
            totals = await run_in_thread(store.journal.totals)
            now = SYSTEM_CLOCK.wall_s()
            lag_s = max(0.0, now - totals.since) if totals.since is not None else 0.0
            delay_s = policy.delay_s(totals.bytes, size, lag_s)
            if delay_s is not None:
                if delay_s:
                    await self._ask_for_room(store)
                    await asyncio.sleep(delay_s)
                return
            if least is None or totals.bytes < least:
                waited_s, least = 0.0, totals.bytes
            if waited_s >= _PATIENCE_S:
                why = policy.describe(totals.bytes + size, lag_s)
                message = f"write refused: {why}; see pending() for what holds the uploads up"
                raise TierFullError(message, key)
            await self._wait(store, waited_s)
            waited_s += _PAUSE_S

    async def _wait(self, store: DirtyStore, waited_s: float) -> None:
        """Wait for uploads; who begins to wait at a limit shortens their pause."""
        if not waited_s:
            await run_in_thread(store.journal.hurry)
        self.mover.uploader.start()
        await asyncio.sleep(_PAUSE_S)

    async def _reserve(self, store: DirtyStore, key: str, size: int) -> Reservation | None:
        """Set bytes aside; None if what is pinned leaves no room: the write then goes to cold."""
        waited_s, least = 0.0, None
        while True:
            reservation = await self.mover.reserve(key, size)
            if reservation is not None:
                return reservation
            totals = await run_in_thread(store.journal.totals)
            if not totals.bytes:
                return None
            if least is None or totals.bytes < least:
                waited_s, least = 0.0, totals.bytes
            if waited_s >= _PATIENCE_S:
                message = (
                    f"write refused: the hot tier holds {totals.bytes} bytes that are not in the "
                    f"cold store yet and may not be evicted; see pending()"
                )
                raise TierFullError(message, key)
            await self._wait(store, waited_s)
            waited_s += _PAUSE_S

    def _place(self, store: DirtyStore, key: str) -> bool:
        """Say whether the hot directory can hold an object of this name.

        Raises
        ------
        IsADirectoryError, NotADirectoryError
            [EISDIR, ENOTDIR] where the cold store would say so, as far as is known here.
        """
        flat = self.mover.flat
        condition, arguments = below(key)
        try:
            facts = os.lstat(self.engine.hot.path(key))
        except FileNotFoundError:
            facts = None
        except NotADirectoryError:
            above = [a for a in ancestors_of(key) if a.strip("/")]
            if not flat and any(_is_put(store, name) for name in above):
                raise not_a_directory(key) from None
            return False
        except OSError:
            return False  # a name that is too long for this disk
        if facts is not None and stat.S_ISDIR(facts.st_mode):
            if not flat and store.journal.any(f"kind=0 AND {condition}", arguments):
                raise is_a_directory(key)
            return False
        if not flat:
            self._ask_local_cold(store, key)
        return True

    def _ask_local_cold(self, store: DirtyStore, key: str) -> None:
        """Refuse early what a cold store on this machine would refuse later; no other is asked."""
        try:
            info = self.mover.cold.info_now(self.mover.cold_path(key), may_block=True)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            if any(store.journal.get(name) for name in ancestors_of(key)):
                return  # the object in the way is to be removed
            raise
        is_directory = info is not None and info["type"] == "directory"
        if is_directory and key not in store.journal.folders(key):
            raise is_a_directory(key)

    # ---------------------------------------------------------------- steps

    async def stage(self, key: str, content: Content) -> Intent:
        """Write the bytes of a put to a file of its own, durably."""
        store = self.engine.owing()
        reservation = content.reservation
        assert reservation is not None  # noqa: S101 - fits says so
        if content.create:
            await self._refuse_if_there(store, key)
        known = self.engine.known_version(key)
        base, (name, digest) = await run_in_thread(
            lambda: (self._base(key, known), store.stage(reservation, content))
        )
        if content.create:
            base = ABSENT
        now = SYSTEM_CLOCK.wall_s()
        draft = Draft(key, Kind.PUT, now, base, name, content.size, digest)
        return Intent([draft], {key: reservation})

    async def removal(self, key: str, known: Version | None) -> Intent:
        """Return the change that removes a key; ``known`` is its version, asked before a fence."""
        base = await run_in_thread(lambda: self._base(key, known, removes=True))
        return Intent([Draft(key, Kind.DELETE, SYSTEM_CLOCK.wall_s(), base)])

    async def commit(self, intent: Intent) -> None:
        """Record a change and make it visible; then it is acknowledged."""
        for draft in intent.drafts:
            self.engine.versions.pop(draft.key, None)
        await self.engine.committer.run(self.engine.owing(), intent)
        self.mover.uploader.start(written=True)

    def _base(self, key: str, known: Version | None, *, removes: bool = False) -> str | None:
        """Return the etag of the cold object a change is based on, if it is known.

        What was only read is removed without a condition: that would cost a request an object,
        where a bulk request removes a thousand, to guard against writers the user has excluded.
        """
        row = self.engine.catalog.row(key)
        alone = self.mover.freshness is None
        if row is not None and removes and row.etag is None and alone:
            row = None
        if row is not None and row.cold_etag is not None:
            return row.cold_etag
        if known is not None and not is_local_etag(known.etag):
            return known.etag
        return None

    async def _refuse_if_there(self, store: DirtyStore, key: str) -> None:
        """Be sure that neither tier has an object that is to be created exclusively."""
        if await run_in_thread(store.journal.get, key) is not None:
            return  # its removal is on its way
        found = await self.mover.remote.head(key)
        if found is not None and found.kind == "file":
            raise exists_already(key)

    # ---------------------------------------------------------------- snapshots

    @contextlib.asynccontextmanager
    async def snapshot(self, key: str) -> AsyncIterator[tuple[str, int] | None]:
        """Give the bytes that are hot now a name of their own; yields it and the inode."""
        hot = self.engine.hot
        link = os.path.join(hot.temporary, f"{hot.owner}-cp-{os.urandom(8).hex()}")

        def make() -> tuple[str, int] | None:
            try:
                os.link(hot.path(key), link)
            except OSError:
                return None
            return link, os.stat(link).st_ino

        if not hot_name_allowed(key):
            yield None
            return
        found = await run_in_thread(make)
        try:
            yield found
        finally:
            if found is not None:
                await clean_up_in_thread(unlink_if_there, link)


async def _to_its_end(write: Coroutine[Any, Any, Any]) -> Any:
    """Await a write that ends by itself, even if who waits for it is cancelled.

    Stopped between the commit and the rename it would leave its bytes to the next recovery.
    """
    task = asyncio.ensure_future(write)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


def _is_put(store: DirtyStore, key: str) -> bool:
    change = store.journal.get(key)
    return change is not None and change.kind is Kind.PUT
