"""When a read of a cold object leaves a copy, and what is noted for plans.

What lives here: asking the policy, and whether what is read in parts is still the same. What must
not: fetching (``mover.py``), the policy itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.loop import run_in_thread
from vfs.errors import is_a_directory

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vfs.tier.engine import TierEngine, Version
    from vfs.tier.mover import Mover
    from vfs.tier.options import TierOptions
    from vfs.types import ObjectInfo

__all__ = ["TierPromotions"]


class TierPromotions:
    """Mixin of the tier: reads of what is only cold."""

    if TYPE_CHECKING:
        _engine: TierEngine
        _mover: Mover
        _options: TierOptions

        def _naming_archived(self, key: str) -> AbstractContextManager[None]: ...
        async def head_object(self, key: str) -> ObjectInfo: ...

    async def _wants_promotion(self, key: str, *, whole: bool) -> tuple[bool, int | None]:
        """Ask the policy; the size is asked of cold only where it can change the answer."""
        policy = self._options.promotion_of(key)
        before = self._engine.cold_reads.count(key)
        if not policy.may_want(before):
            return False, None
        if whole:
            return True, None  # the object is fetched anyway; its size is known afterwards
        known = self._engine.known_version(key)
        size = known.size if known is not None else (await self.head_object(key)).size
        return policy.wants(reads_before=before, size_bytes=size), size

    async def _is_still(self, key: str, known: Version) -> bool:
        """Say whether an object is the one it was, as far as anyone can tell.

        INVARIANT: what is remembered may be forgotten, or end with a change of another key.
        (tests/tier/test_races.py::test_open_reader_conflicts_with_a_change_of_its_object_only)
        """
        if self._engine.known_version(key) == known:
            return True
        try:
            now = await self.head_object(key)
        except FileNotFoundError:
            return False
        return (now.etag, now.mtime, now.size) == known[1:]

    async def _note_cold_read(self, key: str, size: int | None) -> None:
        """Keep for plans what cold was just read for."""
        engine = self._engine
        if size is None and (known := engine.known_version(key)) is not None:
            size = known.size
        if size is not None:
            engine.cold_reads.note_size(key, size)
        if engine.cold_reads.is_due(SYSTEM_CLOCK.wall_s()):
            await run_in_thread(engine.save_cold_reads)

    async def _promote_as_read(self, key: str) -> bool:
        """Count a read of a cold object and leave a copy if the policy wants one; say whether."""
        info = await self.head_object(key)
        if info.kind == "directory":
            raise is_a_directory(key)
        policy = self._options.promotion_of(key)
        before = self._engine.cold_reads.count(key)
        await self._note_cold_read(key, info.size)
        if not policy.wants(reads_before=before, size_bytes=info.size):
            return False
        self._engine.misses += 1
        with self._naming_archived(key):
            await self._mover.fetch_and_install(key, info.size, policy.max_bytes)
        return True
