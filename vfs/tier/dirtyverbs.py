"""The verbs of write-back: flush, pending, resolve.

What lives here: what a user asks of changes that cold does not have yet. What must not: sending
them (``uploader.py``).
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any, Final, Literal

from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.loop import run_in_thread, wait
from vfs.errors import ConflictError, IntegrityError, not_found, os_error
from vfs.tier.breaker import Outage, outage_of
from vfs.tier.journal import Change, Kind, State
from vfs.tier.journalrows import at_or_below
from vfs.tier.schedule import waits_for
from vfs.tier.status import PendingChange
from vfs.types import Progress

if TYPE_CHECKING:
    from vfs.tier.dirty import DirtyStore
    from vfs.tier.engine import TierEngine
    from vfs.tier.mover import Mover

__all__ = ["DirtyVerbs"]

#: How often a flush looks whether it is done: another process may be the one that sends.
_LOOK_S: Final = 0.02


#: How often it tells how far it is: a million changes take some 50 ms to count.
_TELL_S: Final = 0.5


class DirtyVerbs:
    """Mixin of the tier; every verb ``x`` has a coroutine ``_x`` for the I/O loop."""

    if TYPE_CHECKING:
        _engine: TierEngine
        _mover: Mover

        def _key(self, path: Any) -> str: ...

    def flush(
        self,
        path: str = "",
        wait: bool = True,
        timeout_s: float | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Send to cold what was written before, without waiting for zarr nodes to be quiet.

        Parameters
        ----------
        path : str, optional
            An object or a tree; everything by default.
        wait : bool
            Return when cold has all of it; else at once.
        timeout_s : float, optional
            Give up waiting after this time. Sending goes on.
        progress : callable, optional
            Called while it waits: how many of the changes cold has by now, and of how many.

        Returns
        -------
        int
            How many changes cold does not have yet: 0 means that all of it is there.

        Raises
        ------
        ConflictError
            [ESTALE] somebody else changed an object in cold; both versions are kept, see
            :meth:`resolve`.
        IntegrityError
            [EBADMSG] bytes were damaged on the hot disk before they were sent.
        OSError
            What the cold store refuses for good, as EACCES.

        Notes
        -----
        Raises only once everything that can be sent has been. Cost without pending changes: no
        request.
        """
        return _wait(self._flush, path, wait, timeout_s, progress)

    async def _flush(
        self,
        path: str = "",
        wait: bool = True,
        timeout_s: float | None = None,
        progress: Progress | None = None,
    ) -> int:
        store = self._engine.dirty() if self._engine.usable() else None
        if store is None:
            return 0
        key = self._key(path).rstrip("/") if path else ""
        upto = await run_in_thread(store.journal.ask_for_flush)
        began = SYSTEM_CLOCK.monotonic_s()
        again, tell = False, _Told(progress)
        while True:
            if not await run_in_thread(_is_behind, store, key, upto):
                tell.done()
                return 0
            if tell.is_due():
                tell.left(await run_in_thread(_left, store, key, upto))
            self._mover.uploader.start()
            if not wait:
                return await run_in_thread(_left, store, key, upto)
            failed = await run_in_thread(_failed_for_good, store, key, upto)
            if failed is not None and (again or failed.state is not State.REFUSED):
                raise _error_of(failed)
            if failed is not None:
                # It may have been refused by an attempt from before this call.
                again = True
                await run_in_thread(store.journal.ask_for_flush)
            if timeout_s is not None and SYSTEM_CLOCK.monotonic_s() - began >= timeout_s:
                return await run_in_thread(_left, store, key, upto)
            await asyncio.sleep(_LOOK_S)

    def pending(self, path: str = "", limit: int | None = None) -> list[PendingChange]:
        """Return what cold does not have yet, oldest first; no request is made.

        Parameters
        ----------
        path : str, optional
            An object or a tree; everything by default.
        limit : int, optional
            At most so many: millions may wait. ``stats()`` counts them.
        """
        return _wait(self._pending_changes, path, limit)

    async def _pending_changes(
        self, path: str = "", limit: int | None = None
    ) -> list[PendingChange]:
        store = self._engine.dirty() if self._engine.usable() else None
        if store is None:
            return []
        key = self._key(path).rstrip("/") if path else ""
        most = -1 if limit is None else limit
        changes = await run_in_thread(store.journal.get_below, key, itself=True, limit=most)
        outage = await run_in_thread(outage_of, store.journal)
        return [pending_of(change, outage) for change in changes]

    def resolve(self, path: str, keep: Literal["hot", "cold"]) -> None:
        """Choose between the two versions of an object in conflict.

        Parameters
        ----------
        path : str
            Which object.
        keep : {'hot', 'cold'}
            ``hot`` sends this tier's version over the other. ``cold`` drops it for good.

        Raises
        ------
        FileNotFoundError
            [ENOENT] nothing is pending for it.

        Notes
        -----
        The foreign version that ``hot`` overwrites is the one that is there now; one that comes
        later is a conflict again. Also gives a change that the store refused another turn.
        """
        _wait(self._resolve, path, keep)

    async def _resolve(self, path: str, keep: Literal["hot", "cold"]) -> None:
        if keep not in {"hot", "cold"}:
            message = f"keep: {keep!r} is neither 'hot' nor 'cold'"
            raise ValueError(message)
        key, store = self._key(path), self._engine.owing()
        async with self._mover.changing([key]):
            change = await run_in_thread(store.journal.get, key)
            if change is None:
                raise not_found(key, "nothing is pending for it")
            if keep == "hot":
                found = await self._mover.remote.head(key)
                base = (
                    (found.etag if found is not None else "") if change.base is not None else None
                )
                await run_in_thread(store.journal.resolve, key, base)
            else:
                self._mover.fence([key])
                await run_in_thread(store.journal.forget, change)
                await self._mover.drop([key])
        self._mover.uploader.start()


class _Told:
    """Tells how far a flush is, now and then."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._total = 0
        self._next_s = 0.0

    def is_due(self) -> bool:
        """Say whether somebody wants to be told now."""
        return self._progress is not None and SYSTEM_CLOCK.monotonic_s() >= self._next_s

    def left(self, count: int) -> None:
        """Tell how many changes cold does not have yet."""
        self._next_s = SYSTEM_CLOCK.monotonic_s() + _TELL_S
        self._total = max(self._total, count)
        if self._progress is not None:
            self._progress(self._total - count, self._total)

    def done(self) -> None:
        """Tell that cold has all of them."""
        if self._progress is not None:
            self._progress(self._total, self._total)


#: ``flush`` has a parameter of that name.
_wait = wait


def _wanted(key: str, upto: int) -> tuple[str, tuple[object, ...]]:
    """Return the SQL condition for what a flush waits for, and its arguments."""
    condition, arguments = at_or_below(key)
    return f"{condition} AND gen<=?", (*arguments, upto)


def _left(store: DirtyStore, key: str, upto: int) -> int:
    """Return how much of what a flush waits for is not in cold."""
    condition, arguments = _wanted(key, upto)
    return store.journal.how_many(condition, arguments) + len(store.journal.folders(key))


def _is_behind(store: DirtyStore, key: str, upto: int) -> bool:
    """Say whether something that a flush waits for is not in cold; a count of a million is slow."""
    return store.journal.any(*_wanted(key, upto)) or bool(store.journal.folders(key))


def _failed_for_good(store: DirtyStore, key: str, upto: int) -> Change | None:
    """Return a change that holds up a flush for good, once nothing else can be sent."""
    condition, arguments = _wanted(key, upto)
    bad = f"state>={int(State.REFUSED)}"  # a constant, so that its index can be used
    failed = store.journal.select(f"{bad} AND {condition}", arguments, 100)
    if not failed:
        return None
    for change in store.journal.each(condition, arguments):
        if change.state < State.REFUSED and not any(waits_for(change, f) for f in failed):
            return None
    return failed[0]


def _error_of(change: Change) -> OSError:
    """Return the error that a change which failed for good stands for."""
    message = f"not in the cold store: {change.error}"
    if change.state is State.CONFLICT:
        return ConflictError(message, change.key)
    if change.state is State.CORRUPT:
        return IntegrityError(message, change.key)
    return os_error(errno.EIO, change.key, message)


def pending_of(change: Change, outage: Outage) -> PendingChange:
    """Return what a user is told of a change."""
    return PendingChange(
        path=change.key,
        change="put" if change.kind is Kind.PUT else "delete",
        size=change.size,
        age_s=max(0.0, SYSTEM_CLOCK.wall_s() - change.since),
        tries=change.tries,
        state=change.state.name.lower(),
        error=change.error or (f"uploads are paused: {outage.why}" if outage.why else ""),
    )
