"""A tier that looks after itself: uploads, plans, scrubs, until it is told to stop.

What lives here: what is done when. What must not: signals, printing (``vfs/cli``), the work itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from vfs.core.loop import run_in_thread
from vfs.observe import logger
from vfs.tier.options import BackOptions

if TYPE_CHECKING:
    from vfs.tier.filesystem import TierFileSystem

__all__ = ["TierDaemon", "send_as_users_do"]

#: How often it looks whether other processes have written something.
_LOOK_S: Final = 1.0

#: What fails is tried again after this time: the hot disk, or cold, may come back.
_AGAIN_S: Final = 30.0

#: Told what happened: of which kind, and a line for people.
Tell = Callable[[str, str], None]


def send_as_users_do(
    fs: TierFileSystem, quiet_s: float | None = None, delay_s: float | None = None
) -> None:
    """Send what waits, from a tier that was opened to rest, as those who write it do.

    Where anybody writes back, zarr's metadata is held until its node is quiet, and objects until
    they are left alone.

    INVARIANT: a process that only looks after a tier sends no metadata before its chunks.
    (tests/cli/test_tier_care.py::test_run_holds_metadata_until_its_node_is_quiet)
    """
    last = fs._last
    engine = last._engine
    if engine.back is None and engine.usable() and engine.dirty() is not None:
        options = {"quiet_s": quiet_s, "delay_s": delay_s}
        given: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
        engine.configure(None, (), BackOptions.parse(**given))
    last._mover.uploader.work()


class TierDaemon:
    """What ``vfs tier run`` does.

    Parameters
    ----------
    fs : TierFileSystem
        Which tier, with its rules.
    plan_every_s, scrub_every_s : float
        How often; 0 for never.
    scrub_bytes_per_s : float
        How fast copies are read to be checked, at most.
    quiet_s, delay_s : float, optional
        As the options of the tier.
    tell : callable
        Called with what happened, on the I/O loop.
    """

    def __init__(
        self,
        fs: TierFileSystem,
        *,
        plan_every_s: float,
        scrub_every_s: float,
        scrub_bytes_per_s: float,
        quiet_s: float | None = None,
        delay_s: float | None = None,
        tell: Tell,
    ) -> None:
        self.fs = fs
        self.plan_every_s = plan_every_s
        self.scrub_every_s = scrub_every_s
        self.scrub_bytes_per_s = scrub_bytes_per_s
        self.quiet_s = quiet_s
        self.delay_s = delay_s
        self.tell = tell

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; on the I/O loop."""
        jobs: list[tuple[Callable[[], Awaitable[None]], float]] = [(self._upload, _LOOK_S)]
        if self.plan_every_s:
            jobs.append((self._plan, self.plan_every_s))
        if self.scrub_every_s:
            jobs.append((self._scrub, self.scrub_every_s))
        tasks = [asyncio.ensure_future(self._repeat(*job)) for job in jobs]
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in found:
            if isinstance(outcome, Exception):
                raise outcome

    async def _repeat(self, job: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            try:
                await job()
                pause_s = every_s
            except OSError as error:
                logger.warning("tier run: %s", error)
                self.tell("failed", str(error))
                pause_s = min(every_s, _AGAIN_S)
            await asyncio.sleep(pause_s)

    async def _upload(self) -> None:
        """Start sending where something waits; the uploader ends when nothing does."""
        last = self.fs._last
        engine = last._engine
        if not await run_in_thread(engine.usable):
            return
        await run_in_thread(send_as_users_do, self.fs, self.quiet_s, self.delay_s)
        store = await run_in_thread(engine.dirty)
        if store is not None and (await run_in_thread(store.journal.totals)).count:
            last._mover.uploader.start()

    async def _plan(self) -> None:
        plan = await self.fs._plan()
        # What cold lacks is on its way already, when its turn comes.
        plan = replace(plan, moves=tuple(m for m in plan.moves if m.action != "upload"))
        if plan.moves:
            applied = await self.fs._apply(plan)
            self.tell("plan", f"{plan}; {len(applied.skipped)} skipped")

    async def _scrub(self) -> None:
        report = await self.fs._scrub(
            self.scrub_bytes_per_s, lambda problem: self.tell("damaged", str(problem))
        )
        self.tell("scrub", str(report).rpartition("\n")[2])

    async def finish(self, timeout_s: float) -> int:
        """Send what can be sent in a time; return how much cold does not have then."""
        try:
            return await self.fs._flush("", wait=True, timeout_s=timeout_s)
        except OSError as error:
            self.tell("failed", str(error))
        with contextlib.suppress(OSError):
            return self.fs.stats().dirty_objects
        return -1
