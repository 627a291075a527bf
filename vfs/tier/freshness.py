"""Hot copies and other writers of the cold store: which copies are still what cold has.

What lives here: the comparison before a copy answers, for ``consistency="ttl"`` and ``"open"``.
What must not: reading, promotion (``mover.py``), conflicts of what is sent (``uploader.py``).

With the default, ``"exclusive"``, none of this is made: a hot hit asks nobody.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from vfs.core.clock import SYSTEM_CLOCK, Clock
from vfs.core.loop import run_in_thread
from vfs.tier.catalog import Catalog, Row
from vfs.tier.engine import FETCH_LOCKS
from vfs.tier.hot import slot_of
from vfs.tier.options import Consistency
from vfs.tier.versionnotes import note_version, share
from vfs.types import ObjectInfo

if TYPE_CHECKING:
    from vfs.tier.mover import Mover

__all__ = ["NOT_FETCHED", "TURNS", "Fetched", "Freshness", "Mark", "mark_of"]

#: What tells one version of a cold object from the next: size, etag, and without one its mtime.
Mark: TypeAlias = tuple[int, str | None, float | None]

#: Objects whose last comparison is remembered, by a process; what is forgotten is compared again.
_REMEMBERED: Final = 100_000

#: Looks at a copy that others replace at the same time.
_LOOKS: Final = 5


#: Numbers of readers' arrivals and of requests, all on the I/O loop: which of two was first.
TURNS: Final = itertools.count()


class Fetched(NamedTuple):
    """What a fetch has brought."""

    #: Its request was sent after everything with a lower number,
    turn: int
    #: and at this time.
    sent_s: float
    #: What it is, where the answer told.
    info: ObjectInfo | None
    #: None where the copy has the bytes, or may have them.
    data: bytes | None


#: Somebody else was faster, or it waits to be sent: look again.
NOT_FETCHED: Final = Fetched(0, 0.0, None, None)


def mark_of(info: ObjectInfo) -> Mark | None:
    """Return what tells a version from the next, None where the store tells nothing that does."""
    if info.kind != "file" or (info.etag is None and info.mtime is None):
        return None
    return (info.size, info.etag, None if info.etag is not None else info.mtime)


def _mark_of_copy(row: Row) -> Mark | None:
    """Return of which version a hot copy is; None where nobody has compared yet."""
    if row.cold_etag is not None:
        return (row.size, row.cold_etag, None)
    if row.mtime is None or row.etag is not None:
        return None  # nothing known, or the time of a write here
    return (row.size, None, row.mtime)


class Freshness:
    """Compares hot copies with the cold store before they answer.

    Parameters
    ----------
    mover : Mover
        Whose copies.
    mode : {'ttl', 'open'}
        Whether a comparison counts for ``ttl_s``, or for one read, or one opening, only.
    ttl_s : float
        See there.
    clock : Clock
        Monotonic time is used.

    Notes
    -----
    Cost: one request for the facts of an object a comparison. A promotion costs none beside its
    own, but one for a reader that joins it when it has been sent already; two where the answer
    with the bytes does not tell their version. On the I/O loop, but for :meth:`is_fresh`.
    """

    def __init__(
        self, mover: Mover, mode: Consistency, ttl_s: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.mover = mover
        self.mode = mode
        self.ttl_s = ttl_s
        self.clock = clock
        #: Whether answers with bytes tell their version; the first ones show whether they do.
        self.tells = mover.cold.reads_with_facts
        self._compared: dict[str, float] = {}
        self._shared: Catalog | None = None

    def is_fresh(self, key: str) -> bool:
        """Say whether a copy may answer without being compared."""
        if self.mode == "open":
            return False
        asked_s = self._compared.get(key)
        return asked_s is not None and self._still_counts(asked_s)

    def _still_counts(self, asked_s: float) -> bool:
        return self.mode == "ttl" and self.clock.monotonic_s() - asked_s < self.ttl_s

    async def check(self, key: str, *, held: bool = False) -> bool:
        """Drop the copy of a clean object if cold has another version, or none.

        INVARIANT: a copy answers only if cold was asked after the read began, or less than
        ``ttl_s`` before; one that comes after a look that found none was fetched before, perhaps.
        (tests/tier/test_freshness.py::test_history_of_a_foreign_writer)

        Parameters
        ----------
        key : str
            Which.
        held : bool
            Whether the caller is :meth:`~vfs.tier.mover.Mover.changing` the object.

        Returns
        -------
        bool
            Whether a copy may answer.

        Raises
        ------
        OSError
            The cold store cannot be asked; UnavailableError where it cannot be reached.
        """
        for _ in range(_LOOKS):
            if self.is_fresh(key):
                return True
            await self.share()
            row = await run_in_thread(self.mover.engine.catalog.row, key)
            if row is not None and _mark_of_copy(row) is None and not row.dirty:
                # Whoever has fetched it is about to record of which version it is.
                slot = FETCH_LOCKS + slot_of(key)
                async with self.mover.engine.locks.hold([slot], line="looks"):
                    row = await run_in_thread(self.mover.engine.catalog.row, key)
            if row is None:
                return False
            if row.dirty or await self.mover.pending(key) is not None:
                return True
            asked_s = self.clock.monotonic_s()
            found = await self.mover.remote.head(key)
            known = _mark_of_copy(row)
            if found is not None and known is not None and mark_of(found) == known:
                self._note(key, asked_s)
                return True
            await self._drop(key, row, held=held)
        return False

    async def _drop(self, key: str, row: Row, *, held: bool) -> None:
        # INVARIANT: who holds the object's lock does not wait for it.
        # (tests/tier/test_freshness.py::test_conditional_write_after_a_foreign_one)
        async with contextlib.nullcontext() if held else self.mover.changing([key]):
            now = await run_in_thread(self.mover.engine.catalog.row, key)
            if now == row and await self.mover.pending(key) is None:
                self.mover.fence([key])
                await self.mover.drop([key])
                self._compared.pop(key, None)

    async def share(self) -> None:
        """Let every process know that others write to cold, once for each catalogue."""
        catalog = self.mover.engine.catalog
        if self._shared is not catalog:
            await run_in_thread(share, catalog)
            self._shared = catalog

    async def fetch(
        self, key: str, join: Callable[[Hashable, Mark | None], Awaitable[Fetched]]
    ) -> bytes | None:
        """Fetch an object, or join who is fetching it.

        INVARIANT: what was sent for before this call counts only if cold still has that version.
        (tests/tier/test_freshness.py::test_reader_that_joins_a_fetch_gets_no_older_version)

        Parameters
        ----------
        key : str
            Which.
        join : callable
            Fetches, or awaits who does with an equal first argument. The second is the version
            that cold had before, where answers do not tell.
        """
        await self.share()
        came = next(TURNS)
        for _ in range(_LOOKS):
            if not self.tells:
                break
            found = await join(None, None)
            if found.data is None or found.turn > came or self._still_counts(found.sent_s):
                return found.data
            mark = None if found.info is None else mark_of(found.info)
            if mark is not None and mark == await self._mark(key):
                return found.data
        mark = await self._mark(key)
        return (await join(object() if mark is None else mark, mark)).data

    async def _mark(self, key: str) -> Mark | None:
        """Return which version cold has now."""
        found = await self.mover.remote.head(key)
        return None if found is None else mark_of(found)

    async def label(self, key: str, before: Mark | None, generation: int | None) -> None:
        """Record of which version a new copy is, if cold had the same one before and after.

        Without a label the copy is dropped by the next comparison.
        """
        asked_s = self.clock.monotonic_s()
        found = None if before is None else await self.mover.remote.head(key)
        if found is not None and mark_of(found) == before:
            await self.note(key, found, generation, asked_s)

    async def note(
        self, key: str, info: ObjectInfo, generation: int | None, asked_s: float
    ) -> None:
        """Record of which version a new copy is; cold was asked then, at the earliest."""
        generations, slot = self.mover.engine.generations, slot_of(key)
        await run_in_thread(
            note_version,
            self.mover.engine.catalog,
            key,
            info.etag,
            info.mtime,
            lambda: generations.get(slot) == generation,
            compared=True,
        )
        self._note(key, asked_s)

    def _note(self, key: str, asked_s: float) -> None:
        if self.mode == "ttl":
            if len(self._compared) >= _REMEMBERED:
                self._compared.pop(next(iter(self._compared)), None)
            self._compared[key] = asked_s
