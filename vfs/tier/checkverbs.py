"""The verb fsck, and the scrub that goes on by itself.

What lives here: the order of the checks, their pace, the look at cold. What must not: a single
check or repair (``fsck.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.loop import gather, run_in_thread, wait
from vfs.tier.catalog import Row
from vfs.tier.fsck import (
    Finding,
    FsckReport,
    Problem,
    check_copies,
    check_files,
    check_journal,
    pull,
)
from vfs.types import Progress

if TYPE_CHECKING:
    from vfs.tier.engine import TierEngine
    from vfs.tier.mover import Mover

__all__ = ["CheckVerbs"]

#: Bytes read in one visit to a thread: some 10 ms of a disk's time.
_PIECE_BYTES: Final = 8 << 20

#: Objects of cold that are asked about together.
_PAGE: Final = 512


class _Tally:
    """What the checks have found so far."""

    def __init__(self) -> None:
        self.objects = self.bytes = self.hashed = 0
        self.problems: list[Problem] = []

    def note(self, finding: Finding) -> None:
        if isinstance(finding, Problem):
            self.problems.append(finding)
        elif isinstance(finding, bool):
            self.objects += 1
            self.hashed += finding
        else:
            self.bytes += finding

    def report(self) -> FsckReport:
        return FsckReport(self.objects, self.bytes, self.hashed, tuple(self.problems))


class CheckVerbs:
    """Mixin of the tier; every verb ``x`` has a coroutine ``_x`` for the I/O loop."""

    if TYPE_CHECKING:
        _engine: TierEngine
        _mover: Mover

        def _require_hot(self, path: str) -> None: ...

    def fsck(
        self, repair: bool = False, cold: bool = True, progress: Progress | None = None
    ) -> FsckReport:
        """Check every hot copy against its checksum, the records, and the cold store.

        Parameters
        ----------
        repair : bool
            Drop damaged clean copies, which are fetched again when they are read; put damaged
            unsent ones aside, never to be sent or served; remove files that nothing counts.
        cold : bool
            Ask cold whether it has every clean copy. What it lacks is reported, never repaired:
            the hot copy may be the last one.
        progress : callable, optional
            Called with the bytes that are checked, and how many there are.

        Returns
        -------
        FsckReport
            Empty of problems if all is well.

        Notes
        -----
        Cost: reads all of the hot tier; with ``cold``, one request an object. Safe while others
        use the tier. Copies of an older version of the library get their checksum now.
        """
        return wait(self._fsck, repair, cold, progress)

    async def _fsck(
        self, repair: bool = False, cold: bool = True, progress: Progress | None = None
    ) -> FsckReport:
        self._require_hot("")
        engine, tally = self._engine, _Tally()
        if repair:
            await run_in_thread(engine.bury_the_dead)
        total = await run_in_thread(engine.catalog.used)
        checks: list[Iterator[Finding]] = [
            check_copies(engine, repair=repair),
            check_files(engine, repair=repair),
            check_journal(engine, repair=repair),
        ]
        for check in checks:
            while await run_in_thread(pull, check, _PIECE_BYTES, tally.note) is not None:
                if progress is not None:
                    progress(tally.bytes, total)
        # What one check has told, as what was put aside a moment ago, the next need not tell.
        tally.problems = list(
            {problem.path: problem for problem in reversed(tally.problems)}.values()
        )
        if cold:
            await self._check_cold(tally)
        return tally.report()

    async def _check_cold(self, tally: _Tally) -> None:
        after = ""
        while page := await run_in_thread(self._engine.catalog.page, after, _PAGE):
            after = page[-1].key
            clean = [row for row in page if not row.dirty]
            for problem in await gather([partial(self._check_in_cold, row) for row in clean]):
                if isinstance(problem, Problem):
                    tally.note(problem)

    async def _check_in_cold(self, row: Row) -> Problem | None:
        found = await self._mover.remote.head(row.key)
        same = found is not None and found.kind == "file" and found.size == row.size
        if found is not None and same and row.cold_etag in {None, found.etag}:
            return None
        if await run_in_thread(self._engine.catalog.row, row.key) != row:
            return None  # changed here meanwhile
        if found is None or found.kind == "directory":
            why = "cold lacks it; the hot copy is the last one: write it again, or evict it"
            return Problem("cold_lacks", row.key, why)
        why = "somebody else replaced it in cold; evict it, and it is read from there"
        return Problem("cold_differs", row.key, why)

    async def _scrub(self, bytes_per_s: float, tell: Callable[[Problem], None]) -> FsckReport:
        """Check and mend every copy once, at most so fast."""
        tally, began = _Tally(), SYSTEM_CLOCK.monotonic_s()

        def note(finding: Any) -> None:
            tally.note(finding)
            if isinstance(finding, Problem):
                tell(finding)

        findings = check_copies(self._engine, repair=True)
        piece = int(min(_PIECE_BYTES, max(1.0, bytes_per_s)))
        while await run_in_thread(pull, findings, piece, note) is not None:
            ahead_s = tally.bytes / bytes_per_s - (SYSTEM_CLOCK.monotonic_s() - began)
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
        return tally.report()
