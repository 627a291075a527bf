"""The verbs of a cache: warm, check, evict, stats, clear, fsck.

What lives here: what a user asks of a cache by name. What must not: routing of reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from vfs.cache.ends import check_all, remove_all
from vfs.cache.maintain import clear_blocks, fsck_blocks
from vfs.cache.status import CacheStats, FsckReport
from vfs.core.loop import gather, run_in_thread, wait
from vfs.errors import UnavailableError
from vfs.types import Progress

if TYPE_CHECKING:
    from vfs.cache.engine import CacheEngine
    from vfs.cache.fetch import Fetcher, Version
    from vfs.cache.options import CacheOptions
    from vfs.cache.versions import Versions

__all__ = ["CacheVerbs"]

#: Objects warmed at a time; their requests share the cache's bound on requests.
_OBJECTS = 8


class CacheVerbs:
    """Mixin of the cache; every verb ``x`` has a coroutine ``_x`` for the I/O loop."""

    if TYPE_CHECKING:
        _engine: CacheEngine
        _fetcher: Fetcher
        _options: CacheOptions
        _versions: Versions

        def _key(self, path: Any) -> str: ...

        _find: Any

        _from_one_version: Any

        async def _isdir(self, path: str) -> bool: ...

    def stats(self) -> CacheStats:
        """Return how full the directory is and what this process did; no request is made."""
        engine = self._engine
        ready = engine.usable()
        return CacheStats(
            directory=engine.root,
            used_bytes=engine.ledger.used_bytes if ready else 0,
            max_bytes=engine.ledger.limit_bytes if ready else 0,
            hits=engine.hits,
            misses=engine.counts["misses"],
            waits=engine.counts["waits"],
            bytes_fetched=engine.counts["bytes_fetched"],
            evictions=engine.counts["evictions"],
            damaged=engine.counts["damaged"],
            not_kept=engine.counts["not_kept"],
        )

    def warm(self, paths: str | Iterable[str], progress: Progress | None = None) -> int:
        """Fetch objects, or whole trees, before they are wanted.

        Parameters
        ----------
        paths : str or iterable of str
            Objects and directories.
        progress : callable, optional
            Called with bytes done and bytes in all, after each piece.

        Returns
        -------
        int
            Bytes gone through. Blocks that could not be kept, for want of room or because their
            version cannot be told from the next one, are counted in ``stats().not_kept``.

        Notes
        -----
        Cost: the requests of reading each object once; none for what is here.
        """
        return wait(self._warm, paths, progress)

    async def _warm(self, paths: str | Iterable[str], progress: Progress | None = None) -> int:
        self._require_directory()
        paths = [paths] if isinstance(paths, str) else list(paths)
        versions = await self._chosen(paths)
        named = {self._key(path) for path in paths}
        sizes = {version.key: version.facts.size for version in versions}
        total, done = sum(sizes.values()), 0

        async def fetch(version: Version) -> None:
            nonlocal total, done
            size, passed, step = version.facts.size, 0, self._options.request_bytes
            total += size - sizes[version.key]  # it may be another version than was found
            sizes[version.key] = size
            try:
                for low in range(0, size, step):
                    high = min(low + step, size)
                    await self._fetcher.read(version, [(low, high)])
                    passed, done = passed + high - low, done + high - low
                    if progress is not None:
                        progress(done, total)
            except BaseException:
                done -= passed
                raise

        async def fetch_present(version: Version) -> None:
            try:
                await self._from_one_version(version.key, fetch, known=version)
            except FileNotFoundError:
                # Of a tree, what was removed since it was listed is no loss.
                if version.key in named:
                    raise

        await gather([lambda v=v: fetch_present(v) for v in versions], limit=_OBJECTS)  # type: ignore[misc]
        return done

    def check(self, paths: str | Iterable[str]) -> dict[str, int]:
        """Verify every block that is here of some objects or trees, whatever ``verify`` says.

        Returns
        -------
        dict of str to int
            Damaged blocks by key, for the objects that had some. They are removed.

        Notes
        -----
        Cost: what finding the versions costs in this mode; the blocks are read locally.
        """
        return wait(self._check, paths)

    async def _check(self, paths: str | Iterable[str]) -> dict[str, int]:
        self._require_directory()
        damaged: dict[str, int] = {}
        for version in await self._chosen(paths):
            before = self._engine.counts["damaged"]
            for number in _numbers(version):
                await run_in_thread(check_all, self._engine, version, number)
            found = self._engine.counts["damaged"] - before
            if found:
                damaged[version.key] = found
        return damaged

    def evict(self, paths: str | Iterable[str]) -> int:
        """Drop the blocks of the present versions of objects or trees.

        Returns
        -------
        int
            How many blocks were here.
        """
        return wait(self._evict, paths)

    async def _evict(self, paths: str | Iterable[str]) -> int:
        self._require_directory()
        dropped = 0
        for version in await self._chosen(paths):
            for number in _numbers(version):
                dropped += await run_in_thread(remove_all, self._engine, version, number)
        return dropped

    async def _chosen(self, paths: str | Iterable[str]) -> list[Version]:
        named: list[str] = []
        found: list[str] = []
        for path in [paths] if isinstance(paths, str) else paths:
            if await self._isdir(path):
                found.extend(cast("list[str]", await self._find(path)))
            else:
                named.append(self._key(path))
        versions = await gather([lambda k=k: self._versions.current(k) for k in named])  # type: ignore[misc]
        listed = await gather(
            [lambda k=k: self._versions.current(k) for k in found],  # type: ignore[misc]
            return_exceptions=True,
        )
        for version in listed:
            # Of a tree, what was removed since it was listed is no loss.
            if isinstance(version, BaseException) and not isinstance(version, FileNotFoundError):
                raise version
            if not isinstance(version, BaseException):
                versions.append(version)
        return cast("list[Version]", versions)

    def clear(self) -> int:
        """Remove every block of the directory, of whatever store; return how many there were."""
        self._require_directory()
        engine = self._engine
        return clear_blocks(engine.root, engine.ledger)

    def fsck(self) -> FsckReport:
        """Verify every block of the directory, remove the wrong ones, recount the rest."""
        self._require_directory()
        engine = self._engine
        return fsck_blocks(engine.root, engine.ledger)

    def _require_directory(self) -> None:
        if not self._engine.usable():
            message = "the cache directory cannot be used, see the log"
            raise UnavailableError(message, self._engine.root)

    def __str__(self) -> str:
        return str(self.stats()) if self._engine.ready else f"cache {self._engine.root}"


def _numbers(version: Version) -> range:
    return range(-(-version.facts.size // version.grain_bytes))
