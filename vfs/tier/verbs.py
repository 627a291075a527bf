"""The verbs of a tier: status, stats, promote, evict, pin, unpin.

What lives here: what a user asks of a tier by name. What must not: routing of reads and writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any, Final, cast

from vfs.config.sizes import format_bytes
from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.loop import run_in_thread, wait
from vfs.errors import TierFullError, UnavailableError, is_a_directory, not_found, os_error
from vfs.observe import Event, emit
from vfs.tier.breaker import Outage, outage_of
from vfs.tier.claim import hot_name_allowed
from vfs.tier.dirtyverbs import pending_of
from vfs.tier.journal import ABSENT, Change, Kind, State, Totals
from vfs.tier.recover import unmark_sent
from vfs.tier.status import ObjectStatus, TierStats, tier_html
from vfs.types import Progress

if TYPE_CHECKING:
    from vfs.core.target import Target
    from vfs.tier.engine import TierEngine
    from vfs.tier.mover import Mover

__all__ = ["TierVerbs"]

#: How often a promotion is tried again that left no copy: it was evicted at once, or a write or
#: another process's room came in between.
_PROMOTIONS: Final = 3


class TierVerbs:
    """Mixin of the tier; every verb ``x`` has a coroutine ``_x`` for the I/O loop."""

    if TYPE_CHECKING:
        _engine: TierEngine
        _mover: Mover
        target: Target

        def _key(self, path: Any) -> str: ...
        def _has_copy(self, key: str) -> bool: ...
        async def _promote_many(self, keys: list[str], progress: Progress | None) -> None: ...
        async def _info(self, path: str) -> dict[str, Any]: ...

        _find: Any

        async def _isdir(self, path: str) -> bool: ...
        async def _archive_state(self, key: str, storage: Any, *, hot: bool) -> str: ...

    def status(self, path: str) -> ObjectStatus:
        """Say where an object is.

        Raises
        ------
        FileNotFoundError
            [ENOENT] in neither tier.
        IsADirectoryError
            [EISDIR] a directory has no one state.

        Notes
        -----
        Cost: one request to cold; for what is, or may be, archived one more.
        """
        return wait(self._status, path)

    async def _status(self, path: str) -> ObjectStatus:
        key = self._key(path)
        hot = self._engine.usable() and self._has_copy(key)
        store = self._engine.dirty()
        change = None if store is None else await run_in_thread(store.journal.get, key)
        if store is not None and change is not None:
            return self._status_of(change, await run_in_thread(outage_of, store.journal), hot=hot)
        try:
            info = await self.target.info(self._mover.cold_path(key))
        except FileNotFoundError:
            if not hot:
                raise not_found(key) from None
            size = os.stat(self._engine.hot.path(key)).st_size
            return ObjectStatus(
                key,
                "HOT",
                size,
                hot,
                cold=False,
                pinned=self._pinned(key),
                copies=self._copies(hot=True, cold=False),
            )
        if info.kind == "directory":
            raise is_a_directory(key)
        state = "HOT" if hot else "COLD"
        storage = info.extra.get("StorageClass")
        return ObjectStatus(
            key,
            cast("Any", state),
            info.size,
            hot,
            cold=True,
            pinned=self._pinned(key),
            etag=info.etag,
            copies=self._copies(hot=hot, cold=True),
            archive=await self._archive_state(key, storage, hot=hot),
        )

    def _copies(self, *, hot: bool, cold: bool) -> tuple[str, ...]:
        engine = self._engine
        places = ((hot, engine.root), (cold, engine.cold_identity))
        return tuple(name for there, name in places if there)

    def _status_of(self, change: Change, outage: Outage, *, hot: bool) -> ObjectStatus:
        """Say where an object is that cold does not know as it is; cold is not asked."""
        pending = pending_of(change, outage)
        if change.kind is Kind.DELETE and change.state < State.CONFLICT:
            raise not_found(change.key)
        name = change.state.name if change.state >= State.CONFLICT else "DIRTY"
        return ObjectStatus(
            change.key,
            cast("Any", name),
            change.size,
            hot,
            cold=change.base not in {None, ABSENT},
            pinned=self._pinned(change.key),
            etag=change.etag,
            dirty=True,
            lag_s=pending.age_s,
            error=pending.error,
            copies=self._copies(hot=hot, cold=change.base not in {None, ABSENT}),
        )

    def _pinned(self, key: str) -> bool:
        return key in self._engine.pins

    def stats(self) -> TierStats:
        """Return how full the hot tier is and what this process did; no request is made."""
        engine = self._engine
        ready = engine.usable()
        store = engine.dirty()
        totals = Totals(0, 0, None) if store is None else store.journal.totals()
        outage = Outage(0.0, "")
        if store is not None and totals.count:
            outage = outage_of(store.journal)
        return TierStats(
            hot_bytes=engine.catalog.used() if ready else 0,
            hot_objects=engine.catalog.count() if ready else 0,
            max_bytes=(engine.catalog.limit() or 0) if ready else 0,
            hits=engine.hits,
            misses=engine.misses,
            promotions=engine.promotions,
            evictions=engine.evictions,
            cold_requests=dict(self.target.requests),
            dirty_bytes=totals.bytes,
            dirty_objects=totals.count,
            lag_s=0.0 if totals.since is None else SYSTEM_CLOCK.wall_s() - totals.since,
            paused_s=outage.pause_s,
            paused_why=outage.why,
            directory=engine.root,
        )

    def promote(self, path: str, recursive: bool = False, progress: Progress | None = None) -> None:
        """Copy an object, or with ``recursive`` a tree, to the hot tier, whatever its size.

        Parameters
        ----------
        path : str
            Which object; with ``recursive`` a tree.
        progress : callable, optional
            Called after each object: how many are done, and of how many.

        Raises
        ------
        TierFullError
            [ENOSPC] it does not fit beside what is pinned.
        ArchivedError
            [ENODATA] it must be recalled first, see :meth:`restore`; of a tree, the objects that
            must, once all others are promoted.
        IsADirectoryError
            [EISDIR] a directory, without ``recursive``.
        """
        wait(self._promote, path, recursive, progress)

    async def _promote(
        self, path: str, recursive: bool = False, progress: Progress | None = None
    ) -> None:
        self._require_hot(path)
        keys = await self._keys(path, recursive)
        failures = self._mover.disk_failures
        await self._promote_many(keys, progress)
        for key in keys:
            # Of a tree a copy that is missing was pushed out by the rest of it.
            for _ in range(_PROMOTIONS if len(keys) == 1 else 0):
                if not self._has_copy(key) and self._mover.disk_failures == failures:
                    await self._promote_many(keys, None)
            if not self._has_copy(key):
                limit = format_bytes(self._engine.catalog.limit() or 0)
                message = (
                    f"no hot copy: the limit is {limit}, and what is pinned stays; "
                    f"raise max_bytes or unpin (a failure of the disk is in the log)"
                )
                raise TierFullError(message, key)

    def evict(self, path: str, recursive: bool = False, tier: str | None = None) -> int:
        """Drop the hot copy of an object, or of a whole tree; cold keeps it.

        Parameters
        ----------
        path : str
            Which object; with ``recursive`` a tree.
        tier : str, optional
            Of several directories, the one whose copies are dropped; all by default.

        Returns
        -------
        int
            Bytes freed. Pinned copies of a tree stay.

        Raises
        ------
        PermissionError
            [EPERM] the object is pinned.
        FileNotFoundError
            [ENOENT] there is no such object.
        OSError
            [EBUSY] cold does not have it yet. Such copies of a tree stay.

        Notes
        -----
        Cost: no request for hot objects. Open readers keep their bytes.
        """
        return wait(self._evict, path, recursive, tier)

    async def _evict(self, path: str, recursive: bool = False, tier: str | None = None) -> int:
        del tier  # there is one directory
        self._require_hot(path)
        engine, key = self._engine, self._key(path)
        await run_in_thread(unmark_sent, engine, key)
        rows = await run_in_thread(engine.catalog.rows, key)
        if not recursive:
            rows = [row for row in rows if row[0] == key]
            if not rows and (await self._info(path))["type"] == "directory":
                raise is_a_directory(key)
            await self._refuse_dirty(key)
            if rows and self._pinned(key):
                raise os_error(errno.EPERM, key, "pinned to the hot tier; unpin it first")
        victims = [(k, engine.hot.path(k), inode) for k, _, inode in rows if not self._pinned(k)]
        freed = await run_in_thread(engine.hot.evict, victims)
        engine.evictions += len(victims)
        for victim, _, _ in victims:
            engine.versions.pop(victim, None)
        if victims:
            emit(Event("evicted", key, freed, "asked for"))
        return freed

    async def _refuse_dirty(self, key: str) -> None:
        row = await run_in_thread(self._engine.catalog.row, key)
        if row is not None and row.dirty:
            message = "cold does not have it yet, so it cannot be evicted; flush it first"
            raise os_error(errno.EBUSY, key, message)

    def pin(self, path: str) -> None:
        """Exempt an object, a glob or (``dir/**``) a tree from eviction, in every process.

        Notes
        -----
        Durable: recorded in the hot directory and synced. Pinning does not copy: ``promote`` does.
        """
        wait(self._change_pins, [path], [])

    def unpin(self, path: str) -> None:
        """Take back :meth:`pin` of exactly this path or glob."""
        wait(self._change_pins, [], [path])

    async def _change_pins(self, add: list[str], remove: list[str]) -> None:
        for path in (*add, *remove):
            self._require_hot(path)
        added, removed = [self._key(p) for p in add], [self._key(p) for p in remove]
        await run_in_thread(self._engine.change_pins, added, removed)

    async def _keys(self, path: str, recursive: bool) -> list[str]:
        if recursive and await self._isdir(path):
            return cast("list[str]", await self._find(path))
        info = await self._info(path)
        if info["type"] == "directory":
            raise is_a_directory(path)
        return [self._key(path)]

    def _require_hot(self, path: str) -> None:
        if not self._engine.usable():
            message = f"hot tier {self._engine.root} cannot be used, see the log"
            raise UnavailableError(message, path)
        key = self._key(path)
        if not hot_name_allowed(key) and key.strip("/"):
            message = "a name the hot tier cannot hold"
            raise OSError(errno.EINVAL, message, path)

    def _repr_html_(self) -> str:
        engine = self._engine
        stats = None
        if engine.ready:
            with contextlib.suppress(OSError):
                stats = self.stats()
        return tier_html(engine.root, engine.cold_identity, stats if engine.ready else None)

    def __str__(self) -> str:
        engine = self._engine
        if not engine.ready:
            return f"tier: hot {engine.root} over {engine.cold_identity}, not used yet"
        used, limit = engine.catalog.used(), engine.catalog.limit() or 0
        return (
            f"tier: hot {engine.root} ({format_bytes(used)} of {format_bytes(limit)}) "
            f"over {engine.cold_identity}"
        )
