"""The verbs over several directories: what each means where a tier stands on a tier.

What lives here: which directory does what, and how their answers become one. What must not: what
a verb does in one directory (``verbs.py``, ``planner.py``, ``checkverbs.py``, ``dirtyverbs.py``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from vfs.errors import ConfigError, not_found
from vfs.tier.archiveverbs import ArchiveVerbs
from vfs.tier.checkverbs import CheckVerbs
from vfs.tier.dirtyverbs import DirtyVerbs
from vfs.tier.fsck import FsckReport, Problem
from vfs.tier.options import hot_directory
from vfs.tier.plan import Applied, Plan
from vfs.tier.planner import PlanVerbs
from vfs.tier.status import ObjectStatus, PendingChange, TierStats
from vfs.tier.verbs import TierVerbs
from vfs.types import Progress

if TYPE_CHECKING:
    from vfs.tier.options import TierOptions

__all__ = ["StackVerbs"]


class StackVerbs(TierVerbs, PlanVerbs, CheckVerbs, DirtyVerbs, ArchiveVerbs):
    """Mixin of the tier: every verb, over the directories below as well."""

    if TYPE_CHECKING:
        _below: StackVerbs | None
        _cold_root: str
        _local_cold: bool
        _options: TierOptions

        def _identity(self) -> str: ...

    @property
    def _last(self) -> StackVerbs:
        """The directory that stands directly over the cold store: what waits, waits there."""
        return self if self._below is None else self._below._last

    def _directories(self) -> list[str]:
        below = [] if self._below is None else self._below._directories()
        return [self._options.hot, *below]

    # ---------------------------------------------------------------- one object

    async def _status(self, path: str) -> ObjectStatus:
        if self._below is None:
            return await super()._status(path)
        key, here = self._key(path), self._options.hot
        hot = self._engine.usable() and self._has_copy(key)
        pinned = self._pinned(key)
        try:
            found = await self._below._status(path)
        except FileNotFoundError:
            if not hot:
                raise not_found(key) from None
            size = os.stat(self._engine.hot.path(key)).st_size
            return ObjectStatus(key, "HOT", size, hot, cold=False, pinned=pinned, copies=(here,))
        state = found.state
        if state in {"HOT", "WARM", "COLD"}:
            state = "WARM" if state == "HOT" else state
            state = "HOT" if hot else state
        copies = (here, *found.copies) if hot else found.copies
        return replace(found, state=state, hot=hot, pinned=pinned or found.pinned, copies=copies)

    async def _evict(self, path: str, recursive: bool = False, tier: str | None = None) -> int:
        if tier is not None:
            tier = hot_directory(tier)
            if tier not in self._directories():
                message = f"tier: {tier!r} is none of {', '.join(self._directories())}"
                raise ConfigError(message)
        freed = 0
        # From below: what cannot be evicted there is refused before anything is dropped.
        if self._below is not None and tier != self._options.hot:
            freed += await self._below._evict(path, recursive, tier)
        if tier in {None, self._options.hot}:
            freed += await super()._evict(path, recursive)
        return freed

    async def _demote(
        self,
        path: str | Iterable[str],
        recursive: bool = False,
        progress: Progress | None = None,
    ) -> int:
        paths = [path] if isinstance(path, str) else list(path)
        freed = copies = 0

        def tell(done: int, total: int) -> None:
            nonlocal copies
            copies = total
            if progress is not None:
                progress(done, total)

        if self._below is not None:
            # From below, where cold is looked at; what stands above then asks cold through it.
            freed += await self._below._demote(paths, recursive, tell)
        return freed + await super()._demote(
            paths, recursive, progress and (lambda done, n: progress(copies + done, copies + n))
        )

    async def _change_pins(self, add: list[str], remove: list[str]) -> None:
        """Record pins in every directory: what is too large for one is pinned where it fits."""
        if self._below is not None:
            await self._below._change_pins(add, remove)
        await super()._change_pins(add, remove)

    # ---------------------------------------------------------------- what cold lacks

    async def _flush(
        self,
        path: str = "",
        wait: bool = True,
        timeout_s: float | None = None,
        progress: Progress | None = None,
    ) -> int:
        if self._below is not None:
            return await self._below._flush(path, wait, timeout_s, progress)
        return await super()._flush(path, wait, timeout_s, progress)

    async def _pending_changes(
        self, path: str = "", limit: int | None = None
    ) -> list[PendingChange]:
        if self._below is not None:
            return await self._below._pending_changes(path, limit)
        return await super()._pending_changes(path, limit)

    async def _resolve(self, path: str, keep: Literal["hot", "cold"]) -> None:
        if self._below is None:
            await super()._resolve(path, keep)
            return
        key = self._key(path)
        async with self._mover.changing([key]):
            # INVARIANT: the version that was given up is answered by no directory.
            # (tests/tier/test_stack.py::test_resolving_a_conflict_drops_the_copies_above)
            self._mover.fence([key])
            await self._mover.drop([key])
            await self._below._resolve(path, keep)

    async def _restore(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        if self._below is not None:
            return await self._below._restore(*args, **kwargs)
        return await super()._restore(*args, **kwargs)

    # ---------------------------------------------------------------- all of it

    def stats(self) -> TierStats:
        """Return how full the tiers are and what this process did; no request is made."""
        here = super().stats()
        if self._below is None:
            return here
        found = self._below.stats()
        return replace(
            here,
            cold_requests=found.cold_requests,
            dirty_bytes=found.dirty_bytes,
            dirty_objects=found.dirty_objects,
            lag_s=found.lag_s,
            below=(replace(found, below=()), *found.below),
        )

    async def _plan(self, now: float | None = None) -> Plan:
        plan = await super()._plan(now)
        if self._below is None:
            return plan
        found = await self._below._plan(plan.made_at if now is None else now)
        here, there = self._options.hot, self._below._options.hot
        moves = [replace(move, tier=move.tier or there) for move in found.moves]
        own = [replace(move, tier=here) for move in plan.moves]
        archived = tuple(sorted({*plan.archived, *found.archived}))
        return Plan(plan.made_at, (*moves, *own), found.currency, archived)

    async def _apply(self, plan: Plan, progress: Progress | None = None) -> Applied:
        below = self._below
        if below is None:
            return await super()._apply(plan, progress)
        others = below._directories()
        lower = replace(plan, moves=tuple(move for move in plan.moves if move.tier in others))
        upper = replace(plan, moves=tuple(move for move in plan.moves if move.tier not in others))
        first = await below._apply(lower, _shifted(progress, 0, len(plan)))
        then = await super()._apply(upper, _shifted(progress, len(lower), len(plan)))
        return Applied(first.done + then.done, first.skipped + then.skipped)

    async def _fsck(
        self, repair: bool = False, cold: bool = True, progress: Progress | None = None
    ) -> FsckReport:
        below = self._below
        if below is None:
            return await super()._fsck(repair, cold, progress)
        used = sum(stats.hot_bytes for stats in (self.stats(), *self.stats().below))
        first = await below._fsck(repair, cold, _shifted(progress, 0, used))
        then = await super()._fsck(repair, cold, _shifted(progress, first.bytes, used))
        return self._joined(then, first)

    async def _scrub(self, bytes_per_s: float, tell: Callable[[Problem], None]) -> FsckReport:
        report = await super()._scrub(bytes_per_s, tell)
        if self._below is None:
            return report
        return self._joined(report, await self._below._scrub(bytes_per_s, tell))

    def _joined(self, here: FsckReport, below: FsckReport) -> FsckReport:
        """Return two reports as one, each problem with its directory."""
        assert self._below is not None  # noqa: S101 - there is something to join
        names = self._options.hot, self._below._options.hot
        problems = [
            replace(problem, tier=problem.tier or name)
            for name, report in zip(names, (here, below), strict=True)
            for problem in report.problems
        ]
        return FsckReport(
            here.objects + below.objects,
            here.bytes + below.bytes,
            here.hashed + below.hashed,
            tuple(problems),
        )


def _shifted(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Return what tells the progress of a part as that of the whole."""
    if progress is None:
        return None
    return lambda part, _: progress(done + part, max(total, done + part))
