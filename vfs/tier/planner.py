"""Making plans and carrying them out: plan, apply, demote.

What lives here: gathering what a plan depends on, and the moves themselves. What must not: which
objects are moved (``policies/moves.py``), how a plan looks (``plan.py``).
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.loop import gather, run_in_thread, wait
from vfs.errors import ArchivedError, ConflictError, is_a_directory, os_error
from vfs.observe import Event, emit
from vfs.policies.moves import Choice, ColdObject, HotCopy, Situation, choose_moves
from vfs.tier.catalog import Row
from vfs.tier.claim import hot_name_allowed
from vfs.tier.heat import reads_of_a_day
from vfs.tier.history import claim_moves, cold_reads, recent_moves
from vfs.tier.hot import slot_of
from vfs.tier.journal import Change, Kind, State
from vfs.tier.plan import Applied, Move, MoveAction, Plan
from vfs.tier.recover import unmark_sent
from vfs.tier.schedule import waits_for
from vfs.types import Progress

if TYPE_CHECKING:
    from vfs.tier.engine import TierEngine
    from vfs.tier.mover import Mover
    from vfs.tier.options import TierOptions

__all__ = ["PlanVerbs"]

#: Rows of the catalogue that are looked at together.
_PAGE: Final = 1000

_LOOK_S: Final = 0.02

#: Told what became of a move: why it was not made, or nothing.
Settle: TypeAlias = Callable[[Move, str], None]


class PlanVerbs:
    """Mixin of the tier; every verb ``x`` has a coroutine ``_x`` for the I/O loop."""

    if TYPE_CHECKING:
        _engine: TierEngine
        _mover: Mover
        _options: TierOptions

        def _key(self, path: Any) -> str: ...
        def _has_copy(self, key: str) -> bool: ...
        def _pinned(self, key: str) -> bool: ...
        def _require_hot(self, path: str) -> None: ...
        async def _keys(self, path: str, recursive: bool) -> list[str]: ...
        async def _flush(
            self,
            path: str = "",
            wait: bool = True,
            timeout_s: float | None = None,
            progress: Progress | None = None,
        ) -> int: ...

    # ---------------------------------------------------------------- plan

    def plan(self, now: float | None = None) -> Plan:
        """Say what the rules ask for now: each move with its rule, reason, bytes and price.

        Parameters
        ----------
        now : float, optional
            Seconds since the epoch; another time shows what will be asked for then.

        Returns
        -------
        Plan
            Uploads of what cold lacks, demotions by the rules' ``demote``, and promotions of what
            was read from cold twice or more within a day. Nothing is done: see :meth:`apply`.

        Notes
        -----
        Cost: no request; a stat and some tens of microseconds for each object of the hot tier. An
        object that a plan moved is left alone for a day. Promotions are at most 5 % of the reads
        that cold answered within a day, and never more than there is room for.
        """
        return wait(self._plan, now)

    async def _plan(self, now: float | None = None) -> Plan:
        self._require_hot("")
        await run_in_thread(self._engine.save_cold_reads)
        return await run_in_thread(self._make_plan, SYSTEM_CLOCK.wall_s() if now is None else now)

    def _make_plan(self, now: float) -> Plan:
        engine, options = self._engine, self._options
        engine.refresh_pins()
        recent = recent_moves(engine.catalog, now)
        cold = {known.key: known for known in cold_reads(engine.catalog)}
        heat = {k: reads_of_a_day(c.day, c.reads, c.before, now) for k, c in cold.items()}
        situation = Situation(
            now=now,
            used_bytes=engine.catalog.used(),
            limit_bytes=engine.catalog.limit() or 0,
            moved_at={key: at for key, (at, _) in recent.items()},
            cold_reads=sum(heat.values()),
            promoted=sum(kind == "promote" for _, kind in recent.values()),
        )
        waiting = [
            ColdObject(key, known.size, heat[key])
            for key, known in cold.items()
            if known.size is not None and hot_name_allowed(key) and not self._has_copy(key)
        ]
        archived = engine.cold_reads.archived
        named = tuple(sorted(known.key for known in waiting if known.key in archived))
        waiting = [known for known in waiting if known.key not in archived]
        inodes: dict[str, int] = {}
        hot = self._hot_copies(now, inodes)
        chosen = choose_moves(hot, waiting, options.rules, options.promotion, situation)
        moves = [*self._uploads(now), *(self._move(choice, inodes) for choice in chosen)]
        currency = options.prices.currency if options.prices else ""
        return Plan(now, tuple(moves), currency, named)

    def _hot_copies(self, now: float, inodes: dict[str, int]) -> Iterator[HotCopy]:
        """Yield the clean copies; their inodes are noted beside."""
        engine = self._engine
        for row in _rows(engine):
            try:
                used_at = os.stat(engine.hot.path(row.key)).st_atime
            except OSError:
                continue  # gone meanwhile
            if not row.dirty:
                inodes[row.key] = row.inode
                reads = engine.heat.reads(row.inode, now)
                yield HotCopy(row.key, row.size, used_at, reads, self._pinned(row.key))

    def _uploads(self, now: float) -> Iterator[Move]:
        store = self._engine.dirty()
        for change in store.journal.select("state<?", (State.CONFLICT,)) if store else ():
            put = change.kind is Kind.PUT
            rule = self._options.rules.find(change.key)
            said = "" if rule is None or rule.write is None else str(rule)
            reason = f"cold lacks it for {max(0.0, now - change.since):.0f} s"
            if not put:
                reason = f"removed here {max(0.0, now - change.since):.0f} s ago"
            price = self._price("upload", change.size, 1) if put else 0.0
            yield Move(
                "upload", change.key, change.size, said or "write-back", reason, 1, price,
                f"{change.gen}",
            )  # fmt: skip

    def _move(self, choice: Choice, inodes: dict[str, int]) -> Move:
        requests = 1 if choice.kind == "promote" else 0
        return Move(
            choice.kind,
            choice.key,
            choice.size_bytes,
            choice.rule,
            choice.reason,
            requests,
            self._price(choice.kind, choice.size_bytes, requests),
            self._version(choice.key, inodes.get(choice.key, 0)),
        )

    def _price(self, action: MoveAction, size: int, requests: int) -> float:
        prices = self._options.prices
        return prices.of(action, size, requests) if prices is not None else 0.0

    def _version(self, key: str, inode: int) -> str:
        """Return what every change of an object through this tier changes."""
        return f"{self._engine.generations.get(slot_of(key))}-{inode}"

    # ---------------------------------------------------------------- apply

    def apply(self, plan: Plan, progress: Progress | None = None) -> Applied:
        """Make exactly the moves of a plan.

        Parameters
        ----------
        plan : Plan
            As :meth:`plan` returned it, also in another process.
        progress : callable, optional
            Called with the moves that are dealt with, and their number.

        Returns
        -------
        Applied
            What was moved; and what was not, since it changed after the plan was made, was read,
            pinned, or moved by somebody else.

        Notes
        -----
        Never removes what cold does not have, nor what is pinned.
        """
        return wait(self._apply, plan, progress)

    async def _apply(self, plan: Plan, progress: Progress | None = None) -> Applied:
        self._require_hot("")
        fates: dict[Move, str] = {}

        def settle(move: Move, why: str) -> None:
            fates[move] = why
            if progress is not None:
                progress(len(fates), len(plan.moves))

        await self._apply_uploads([m for m in plan.moves if m.action == "upload"], settle)
        demotions = [move for move in plan.moves if move.action == "demote"]
        for first in range(0, len(demotions), _PAGE):
            page = demotions[first : first + _PAGE]
            found = await run_in_thread(self._apply_demotions, page, plan.made_at)
            for move, why in found.items():
                settle(move, why)
        await self._apply_promotions([m for m in plan.moves if m.action == "promote"], settle)
        done = tuple(move for move in plan.moves if not fates[move])
        skipped = tuple((move, fates[move]) for move in plan.moves if fates[move])
        return Applied(done, skipped)

    async def _apply_uploads(self, moves: list[Move], settle: Settle) -> None:
        store = self._engine.dirty()
        if store is None or not moves:
            for move in moves:
                settle(move, "cold has it already")
            return
        pending = {change.key: change for change in await run_in_thread(store.journal.select, "1")}
        left = []
        for move in moves:
            change = pending.get(move.path)
            if change is None:
                settle(move, "cold has it already")
            elif f"{change.gen}" != move.version:
                settle(move, "it changed since the plan was made")
            else:
                left.append(move)
        await run_in_thread(store.journal.ask_for_flush)
        while left:
            self._mover.uploader.start()
            await asyncio.sleep(_LOOK_S)
            found = await run_in_thread(store.journal.select, "1")
            left = _still_waiting(left, found, pending, settle)

    def _apply_demotions(self, moves: list[Move], made_at: float) -> dict[Move, str]:
        """Drop hot copies that are still the ones the plan was made for; return who was not."""
        engine = self._engine
        engine.refresh_pins()
        fates = {move: self._why_not_demoted(move, made_at) for move in moves}
        free = [move.path for move, why in fates.items() if not why]
        claimed = claim_moves(engine.catalog, free, "demote", SYSTEM_CLOCK.wall_s())
        victims = []
        for move in moves:
            if not fates[move] and move.path not in claimed:
                fates[move] = "it was moved within the last day"
            elif not fates[move]:
                inode = int(move.version.partition("-")[2])
                victims.append((move.path, engine.hot.path(move.path), inode))
        freed = engine.hot.evict(victims)
        for move in moves:
            if not fates[move] and engine.catalog.row(move.path) is not None:
                fates[move] = "it changed since the plan was made"
            elif not fates[move]:
                engine.evictions += 1
                engine.versions.pop(move.path, None)
        if victims:
            emit(Event("evicted", "", freed, f"{len(victims)} copies, by a plan"))
        return fates

    def _why_not_demoted(self, move: Move, made_at: float) -> str:
        """Say why a copy must stay.

        INVARIANT: a plan that has become old removes nothing that is dirty, pinned or in use.
        (tests/tier/test_plan.py::test_what_changed_since_is_skipped)
        """
        engine = self._engine
        row = engine.catalog.row(move.path)
        if row is None:
            return "it has no hot copy any more"
        if row.dirty:
            return "cold does not have it yet"
        if move.version != self._version(move.path, row.inode):
            return "it changed since the plan was made"
        if self._pinned(move.path):
            return "it is pinned"
        try:
            if os.stat(engine.hot.path(move.path)).st_atime > made_at:
                return "it was read since the plan was made"
        except OSError:
            return "it has no hot copy any more"
        return ""

    async def _apply_promotions(self, moves: list[Move], settle: Settle) -> None:
        async def promote(move: Move) -> None:
            settle(move, await self._apply_promotion(move))

        await gather([partial(promote, move) for move in moves])

    async def _apply_promotion(self, move: Move) -> str:
        """Fetch a copy; return why there is none."""
        engine, key = self._engine, move.path
        if self._has_copy(key):
            return "it has a hot copy already"
        if move.version != self._version(key, 0):
            return "it changed since the plan was made"
        limit = engine.catalog.limit() or 0
        if await run_in_thread(engine.catalog.used) + move.size > limit:
            return "there is no room any more"
        now = SYSTEM_CLOCK.wall_s()
        if not await run_in_thread(claim_moves, engine.catalog, [key], "promote", now):
            return "it was moved within the last day"
        try:
            await self._mover.fetch_and_install(key, move.size, move.size)
        except ArchivedError:
            engine.cold_reads.note_archived(key)
            return "it is archived; make it readable by restore first"
        except OSError as error:
            return f"it could not be fetched: {error}"
        return "" if self._has_copy(key) else "it is larger than it was, or there is no room"

    # ---------------------------------------------------------------- demote

    def demote(
        self,
        path: str | Iterable[str],
        recursive: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Make sure that cold has an object, then drop its hot copy.

        Parameters
        ----------
        path : str or iterable of str
            Which object, or several; with ``recursive`` trees.
        progress : callable, optional
            Called after each copy: how many are done, and of how many.

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
        ConflictError
            [ESTALE] cold lacks it, or has another one, by somebody else's doing. The hot copy
            stays.
        OSError
            What :meth:`flush` raises where it cannot be sent.

        Notes
        -----
        Cost: one request an object, to look, and the upload of what cold lacks. ``evict`` does not
        look, and refuses what cold lacks.
        """
        return wait(self._demote, path, recursive, progress)

    async def _demote(
        self,
        path: str | Iterable[str],
        recursive: bool = False,
        progress: Progress | None = None,
    ) -> int:
        paths = [path] if isinstance(path, str) else list(path)
        keys: dict[str, None] = {}
        for one in paths:
            self._require_hot(one)
            keys.update(await self._keys_to_demote(one, recursive))
        calls: list[Callable[[], Awaitable[int]]] = [partial(self._demote_one, key) for key in keys]
        return sum(cast("list[int]", await gather(calls, progress=progress)))

    async def _keys_to_demote(self, path: str, recursive: bool) -> dict[str, None]:
        key = self._key(path)
        await self._flush(path)
        await run_in_thread(unmark_sent, self._engine, key)
        if not recursive:
            if await run_in_thread(self._engine.catalog.row, key) is None:
                return dict.fromkeys(await self._keys(path, recursive=False))
            if self._pinned(key):
                raise os_error(errno.EPERM, key, "pinned to the hot tier; unpin it first")
            return {key: None}
        rows = await run_in_thread(self._engine.catalog.rows, key)
        return {k: None for k, _, _ in rows if not self._pinned(k)}

    async def _demote_one(self, key: str) -> int:
        engine = self._engine
        row = await run_in_thread(engine.catalog.row, key)
        if row is None:
            return 0
        if row.dirty:
            message = "it was written while it was demoted; demote it again"
            raise os_error(errno.EBUSY, key, message)
        # INVARIANT: the hot copy is not dropped while it is the only one.
        # (tests/tier/test_plan.py::test_demote_keeps_what_cold_has_lost)
        found = await self._mover.remote.head(key)
        if found is not None and found.kind == "directory":
            raise is_a_directory(key)
        same = found is not None and found.size == row.size
        if found is None or not same or row.cold_etag not in {None, found.etag}:
            what = "lacks it" if found is None else "has another object of that name"
            message = f"cold {what}, by somebody else's doing; the hot copy stays"
            raise ConflictError(message, key)
        victims = [(key, engine.hot.path(key), row.inode)]
        freed = await run_in_thread(engine.hot.evict, victims)
        engine.evictions += 1
        engine.versions.pop(key, None)
        emit(Event("evicted", key, freed, "demoted"))
        return int(freed)


def _still_waiting(
    left: list[Move], found: list[Change], before: dict[str, Change], settle: Settle
) -> list[Move]:
    """Settle the uploads that are done or have failed; return the others."""
    now = {change.key: change for change in found}
    failed = [
        change
        for change in found
        if change.state >= State.REFUSED
        or (change.key in before and change.tries > before[change.key].tries)
    ]
    waiting = []
    for move in left:
        change = now.get(move.path)
        if change is None or f"{change.gen}" != move.version:
            settle(move, "")
            continue
        why = next((f for f in failed if f is change or waits_for(change, f)), None)
        if why is None:
            waiting.append(move)
        else:
            settle(move, f"it could not be sent: {why.key}: {why.error}")
    return waiting


def _rows(engine: TierEngine) -> Iterator[Row]:
    after = ""
    while page := engine.catalog.page(after, _PAGE):
        yield from page
        after = page[-1].key
