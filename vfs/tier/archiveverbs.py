"""The verb restore, and what a tier does with objects that must be recalled first.

What lives here: asking for recalls, waiting for them, naming what waits. What must not: requests
(``core/archive.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from vfs.config.options import check_choice
from vfs.core.archive import SPEEDS, Archive, ArchiveState, Speed, days_of
from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.loop import gather, wait_or_cancel
from vfs.errors import ArchivedError, UnsupportedError
from vfs.observe import logger
from vfs.types import Progress

if TYPE_CHECKING:
    from vfs.core.target import Target
    from vfs.tier.engine import TierEngine
    from vfs.tier.mover import Mover

__all__ = ["ArchiveVerbs"]

#: A recall takes minutes (expedited) to two days (bulk of the deep archive); some stores are
#: faster. A look is a HEAD, and late by a minute at most is late by little.
_FIRST_LOOK_S: Final = 1.0
_LAST_LOOK_S: Final = 60.0

#: Names that a message lists; the rest are counted.
_SHOWN: Final = 5


class ArchiveVerbs:
    """Mixin of the tier; every verb ``x`` has a coroutine ``_x`` for the I/O loop."""

    if TYPE_CHECKING:
        _engine: TierEngine
        _mover: Mover
        target: Target

        def _key(self, path: Any) -> str: ...
        async def _keys(self, path: str, recursive: bool) -> list[str]: ...
        async def _promote_one(self, key: str) -> None: ...

    _archive_found: tuple[Any, Archive | None] | None = None

    def restore(
        self,
        paths: str | Iterable[str],
        days: float = 7,
        speed: Speed = "standard",
        wait: bool = False,
        timeout_s: float | None = None,
        progress: Progress | None = None,
        recursive: bool = False,
    ) -> dict[str, str]:
        """Ask the cold store to make archived objects readable for a time.

        Parameters
        ----------
        paths : str or iterable of str
            Which objects; with ``recursive`` trees.
        days : float
            For how long, from when it is asked; whole days, rounded up.
        speed : {'standard', 'expedited', 'bulk'}
            How fast, and at what price: hours, minutes (not of the deep archive), or up to days.
        wait : bool
            Return when all of them can be read; else at once.
        timeout_s : float, optional
            Give up waiting after this time. The recalls go on.
        progress : callable, optional
            Called with the objects that can be read, and how many there are.
        recursive : bool
            Whether paths are trees.

        Returns
        -------
        dict of str
            By path ``"restoring"`` or ``"restored until ..."``; empty for what is not archived.

        Raises
        ------
        UnsupportedError
            [ENOTSUP] the cold store is not S3, or s3fs, which asks it, is not installed.
        FileNotFoundError
            [ENOENT] there is no such object.
        ConfigError
            ``days`` or ``speed`` is wrong.

        Notes
        -----
        Safe to repeat: a recall under way is not asked for again, one that ends early is
        prolonged. Cost: at most four requests an object, and the store's price of the recall;
        waiting, one more a minute. Nothing is copied to the hot tier before it is read or promoted.
        """
        return wait_or_cancel(
            self._restore, paths, days, speed, wait, timeout_s, progress, recursive
        )

    async def _restore(
        self,
        paths: str | Iterable[str],
        days: float = 7,
        speed: Speed = "standard",
        wait: bool = False,
        timeout_s: float | None = None,
        progress: Progress | None = None,
        recursive: bool = False,
    ) -> dict[str, str]:
        whole, speed = days_of(days), cast("Speed", check_choice("speed", speed, SPEEDS))
        archive = self._require_archive()
        keys: dict[str, None] = {}
        for path in [paths] if isinstance(paths, str) else paths:
            keys.update(dict.fromkeys(await self._keys(path, recursive)))
        states: dict[str, ArchiveState] = dict.fromkeys(keys, ArchiveState())

        async def ask(key: str) -> None:
            states[key] = await self._ask_for(archive, key, whole, speed)

        async def look(key: str) -> None:
            states[key] = await archive.state(self._mover.cold_path(key))

        await gather([partial(ask, key) for key in keys])
        began, pause_s = SYSTEM_CLOCK.monotonic_s(), _FIRST_LOOK_S
        while True:
            left = [key for key, state in states.items() if not state.readable]
            if progress is not None:
                progress(len(states) - len(left), len(states))
            if timeout_s is not None:
                pause_s = min(pause_s, began + timeout_s - SYSTEM_CLOCK.monotonic_s())
            if not left or not wait or pause_s <= 0:
                return {key: str(state) for key, state in states.items()}
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_LOOK_S)
            await gather([partial(look, key) for key in left])

    async def _ask_for(self, archive: Archive, key: str, days: int, speed: Speed) -> ArchiveState:
        """Ask for one object, unless it is readable for so long, or on its way; say how it is."""
        path = self._mover.cold_path(key)
        try:
            state = await archive.state(path)
        except FileNotFoundError:
            return ArchiveState()  # written here, and not in cold yet
        if state.kind == "restoring" or state.lasts(days, SYSTEM_CLOCK.wall_s()):
            return state
        if not await archive.restore(path, days, speed, state):
            return ArchiveState()
        logger.info("archived object %s is asked for, for %d days", key, days)
        now = await archive.state(path)
        # A store may answer HEAD from before the request.
        return ArchiveState("restoring") if now.kind == "archived" else now

    def _archive(self) -> Archive | None:
        """Return what knows archived objects; None where the cold store has none."""
        fs = self.target.fs
        if self._archive_found is None or self._archive_found[0] is not fs:
            self._archive_found = fs, Archive.below(self.target)
        return self._archive_found[1]

    def _require_archive(self) -> Archive:
        found = self._archive()
        if found is None:
            message = "restore: the cold store is not S3, and has nothing to be recalled by name"
            raise UnsupportedError(message)
        return found

    async def _archive_state(self, key: str, storage: str | None, *, hot: bool) -> str:
        """Say for people whether an object of cold must be recalled, as far as can be told.

        s3fs tells the storage class with everything else; through obstore it has to be asked, which
        is not done for what has a hot copy.
        """
        told = storage is not None
        silent = getattr(self.target.fs, "tells_no_storage_class", False) and not hot
        if storage == "STANDARD" or not (told or silent):
            return ""
        try:
            archive = self._archive()
        except UnsupportedError:
            return ""
        return "" if archive is None else str(await archive.state(self._mover.cold_path(key)))

    # ---------------------------------------------------------------- reads and promotions

    @contextlib.contextmanager
    def _naming_archived(self, key: str) -> Iterator[None]:
        """Name an archived object as this tier does, and keep it out of plans."""
        try:
            yield
        except ArchivedError as error:
            self._engine.cold_reads.note_archived(key)
            if error.filename == key:
                raise
            raise ArchivedError(str(error.strerror), key) from error
        self._engine.cold_reads.archived.discard(key)

    async def _promote_many(self, keys: list[str], progress: Progress | None) -> None:
        """Promote what can be read; then name what is archived."""
        refused: dict[str, ArchivedError] = {}

        async def promote(key: str) -> None:
            try:
                with self._naming_archived(key):
                    await self._promote_one(key)
            except ArchivedError as error:
                refused[key] = error

        await gather([partial(promote, key) for key in keys], progress=progress)
        if len(refused) == 1:
            raise next(iter(refused.values()))
        if refused:
            names = ", ".join(sorted(refused)[:_SHOWN])
            more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
            message = (
                f"{len(refused)} of {len(keys)} objects are archived and were not promoted: "
                f"{names}{more}; make them readable by fs.restore(paths, days=..., wait=...)"
            )
            raise ArchivedError(message, min(refused))
