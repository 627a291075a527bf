"""Which version a key means now, and for how long that may be believed.

What lives here: facts about objects, asked of the target or remembered, and what a change makes
of them. What must not: blocks (``fetch.py``), fsspec's calls (``filesystem.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from hashlib import blake2b
from typing import Any, Final, TypeAlias

from vfs.cache.engine import CacheEngine
from vfs.cache.facts import ABSENT, DIRECTORY, NO_OBJECT, Facts, FactsTable, Sighting
from vfs.cache.fetch import Version
from vfs.cache.options import CacheOptions
from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.path import parent_keys
from vfs.core.target import Target
from vfs.errors import is_a_directory, not_found
from vfs.types import Info, ObjectInfo

__all__ = ["Versions"]

#: A version that is told by time alone is not kept while it is younger: a second change within
#: the clock's resolution (1 s in HTTP, 2 s on FAT) would look the same. git calls such entries
#: racily clean.
_RACY_S: Final = 2.5

#: Objects of one listing whose versions are remembered: 10 µs each, and most are never read.
_LEARNT: Final = 10_000

#: Versions at hand with the names of their blocks, about 1 KiB each.
_RECENT_KEPT: Final = 1_000

#: A stamp no facts were ever asked under.
_NO_STAMP: Final = -1

_NOTHING: Final = Sighting(Facts(ABSENT, None, None, 0.0, 0), 0, b"", 0, b"")

_Recent: TypeAlias = tuple[FactsTable, Sighting, Version]


class Versions:
    """What one cache filesystem knows of its target.

    Parameters
    ----------
    engine : CacheEngine
        Whose directory holds the facts.
    target : Target
        Who is asked.
    options : CacheOptions
        How long an answer is believed, and how objects are cut into blocks.
    store : str
        Name of the target, so that several may share a directory.
    """

    def __init__(
        self, engine: CacheEngine, target: Target, options: CacheOptions, store: str
    ) -> None:
        self._engine = engine
        self._target = target
        self._options = options
        self._consistency = options.consistency
        self._recent: dict[str, _Recent] = {}
        self._opened: dict[str, Version] = {}
        self._store = blake2b(store.encode(), digest_size=16).digest()

    def digest(self, key: str) -> bytes:
        """Return what a key of this store is called in the directory."""
        data = key.encode("utf-8", "surrogateescape")
        return blake2b(data, digest_size=16, key=self._store).digest()

    def of(self, key: str, facts: Facts) -> Version:
        """Return a version as blocks."""
        size, small = facts.size, self._options.small_bytes
        grain = max(size, 1) if size <= small else self._options.grain_bytes
        return Version(key, self.digest(key), facts, grain, keep=_tells(facts))

    def believed(self, key: str) -> Version | None:
        """Return the version that may be read without asking; on any thread, in 1 µs.

        Its size may be one of those that are none: see :mod:`~vfs.cache.facts`.
        """
        table = self._engine.facts
        recent = self._recent.get(key)
        if recent is None or recent[0] is not table or not table.still(recent[1]):
            recent = self._look(key, table)
            if recent is None:
                return None
        version = recent[2]
        facts = version.facts
        age_s = SYSTEM_CLOCK.wall_s() - facts.asked_at
        fresh = self._consistency.believes(absent=facts.absent, age_s=age_s)
        return version if fresh else None

    def _look(self, key: str, table: FactsTable) -> _Recent | None:
        digest = self.digest(key)
        seen = table.see(digest)
        if seen is None:
            facts = table.get(digest)  # with an etag that fits no table
            return None if facts is None else (table, _NOTHING, self.of(key, facts))
        if len(self._recent) >= _RECENT_KEPT:
            self._recent.clear()
        recent = self._recent[key] = (table, seen, self.of(key, seen.facts))
        return recent

    async def current(self, key: str) -> Version:
        """Return the version to read now; on the I/O loop.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            [ENOENT, EISDIR] there is no object to read.
        """
        facts = await self.facts(key)
        if facts.size == ABSENT:
            raise not_found(key)
        if facts.size == DIRECTORY:
            raise is_a_directory(key)
        return self.of(key, facts)

    async def facts(self, key: str) -> Facts:
        """Return what is known of an object, asking as the mode demands; on the I/O loop."""
        digest = self.digest(key)
        if not self._engine.usable():
            return await self._ask(key, digest, 0)
        stamp = self._engine.facts.stamp(digest)
        if not self._consistency.remembers:
            # A question that somebody else asked earlier may have an older answer.
            return await self._ask(key, digest, stamp)
        known = self.believed(key)
        if known is not None and known.facts.size != NO_OBJECT:
            return known.facts
        # INVARIANT: who comes after a change never joins a question asked before it.
        # (tests/cache/test_consistency.py::test_question_before_a_write_answers_no_reader_after_it)
        return await self._engine.questions.run(
            (digest, stamp), lambda: self._ask(key, digest, stamp)
        )

    async def _ask(self, key: str, digest: bytes, stamp: int) -> Facts:
        asked_at = SYSTEM_CLOCK.wall_s()
        try:
            info = await self._target.info(key)
        except FileNotFoundError:
            facts = Facts(ABSENT, None, None, asked_at, stamp)
        else:
            size = DIRECTORY if info.kind == "directory" else info.size
            facts = Facts(size, info.etag, info.mtime, asked_at, stamp)
        if self._engine.ready:
            self._engine.facts.remember(digest, facts)
        return facts

    def opened_as(self, key: str, info: Info) -> Version:
        """Return the version a file was opened with, for each of its reads; on any thread."""
        facts = self.facts_of(key, info)
        version = self._opened.get(key)
        if version is None or version.facts != facts:
            if len(self._opened) >= _RECENT_KEPT:
                self._opened.clear()
            version = self._opened[key] = self.of(key, facts)
        return version

    def facts_of(self, key: str, info: Info) -> Facts:
        """Return the facts a file was opened with."""
        size, etag, mtime = int(info["size"]), info.get("etag"), info.get("mtime")
        if etag is None and self._engine.ready:
            known = self._engine.facts.get(self.digest(key))
            if known is not None and (known.size, known.etag, known.mtime) == (size, None, mtime):
                return known
        # Without an etag, and no longer known, it cannot be told from other versions.
        return Facts(size, etag, mtime, 0.0, _NO_STAMP)

    # ---------------------------------------------------------------- listings

    async def listing(
        self,
        key: str,
        what: str,
        ask: Callable[[], Coroutine[Any, Any, Any]],
        *,
        learn: bool = False,
    ) -> Any:
        """Return a listing of a directory, remembered as facts are.

        Parameters
        ----------
        key, what : str
            The directory, and which listing of it.
        ask : callable
            Asks the target.
        learn : bool
            Whether it is a list of infos, from which facts may be taken.
        """
        engine = self._engine
        if not self._consistency.remembers or not engine.usable():
            return await ask()
        digest = self.digest(f"{key}/")
        stamp = engine.facts.stamp(digest)
        now = SYSTEM_CLOCK.wall_s()
        kept = engine.listings.get(digest + what.encode())
        # A listing says what is absent too, and is believed no longer than an absence.
        if (
            kept is not None
            and kept[0] == stamp
            and self._consistency.believes(absent=True, age_s=now - kept[1])
        ):
            return kept[2]
        found = await ask()
        if engine.ready and engine.facts.stamp(digest) == stamp:
            engine.remember_listing(digest + what.encode(), stamp, now, found)
            if learn:
                self._learn(digest, stamp, now, found)
        return found

    def _learn(self, digest: bytes, stamp: int, asked_at: float, found: list[ObjectInfo]) -> None:
        """Take from a listing what it says of the objects in it, if the listing still holds.

        A change restamps directories first and objects then: if the directory's stamp is the old
        one after an object's was read, no change of that object has begun before.
        """
        table = self._engine.facts
        if not self._target.tells_versions:
            return  # their listings and their heads describe one version differently
        learnt = [
            (own, Facts(info.size, info.etag, info.mtime, asked_at, table.stamp(own)))
            for info in found[:_LEARNT]
            if info.kind == "file" and info.etag is not None
            for own in (self.digest(info.key),)
        ]
        if table.stamp(digest) == stamp:
            for own, facts in learnt:
                table.remember(own, facts)

    # ---------------------------------------------------------------- changes

    def forget(self, keys: Iterable[str]) -> None:
        """Ask again for these objects."""
        if self._engine.ready:
            for key in keys:
                self._engine.facts.restamp(self.digest(key))

    def changed(self, keys: Iterable[str]) -> None:
        """Make what is known of these objects, and of listings with them, unbelievable."""
        if not self._engine.usable():
            return
        table = self._engine.facts
        keys = list(keys)
        folders = {folder for key in keys for folder in parent_keys(key)}
        for folder in {"", "/", *folders, *keys}:
            table.restamp(self.digest(f"{folder}/"))
        # A directory comes and goes with what lies in it.
        for key in {*folders, *keys}:
            table.restamp(self.digest(key))


def _tells(facts: Facts) -> bool:
    """Say whether a version can be told from the next one, and so may be kept."""
    if facts.exact:
        return True
    return facts.mtime is not None and 0 <= facts.mtime < facts.asked_at - _RACY_S
