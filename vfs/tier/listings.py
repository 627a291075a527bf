"""What a tier lists: cold, with what the journal knows better.

What lives here: listings, trees, and what a directory is while cold is behind. What must not: the
merging itself (``overlay.py``), reads of objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from vfs.core.loop import hop, run_in_thread
from vfs.errors import not_a_directory, not_found
from vfs.policies.zarrorder import ancestors_of
from vfs.tier.overlay import Outline, Overlay, info_of
from vfs.types import Info, ObjectInfo

if TYPE_CHECKING:
    from vfs.core.target import Target
    from vfs.tier.catalog import Row
    from vfs.tier.change import Change
    from vfs.tier.engine import TierEngine
    from vfs.tier.journal import Journal
    from vfs.tier.mover import Mover
    from vfs.tier.options import TierOptions

__all__ = ["TierListings"]


class TierListings:
    """Mixin of the tier: directories and listings."""

    if TYPE_CHECKING:
        _cold_root: str
        _engine: TierEngine
        _local_cold: bool
        _mover: Mover
        _options: TierOptions
        target: Target

        def _from_cold(self, info: ObjectInfo) -> ObjectInfo: ...

    async def _head_cold(self, key: str, *, removed: bool) -> ObjectInfo:
        """Ask cold, where what it says may be out of date: removed here, or not there yet."""
        overlay = await self._overlay(key, "itself")
        try:
            info = self._from_cold(await self.target.info(self._mover.cold_path(key)))
        except (FileNotFoundError, NotADirectoryError) as error:
            if overlay.has_put_below(key):
                return ObjectInfo(key, 0, kind="directory")
            if isinstance(error, NotADirectoryError):
                await self._refuse_removed_directory(key)
            raise
        if info.kind == "file" and not removed:
            return info
        if not overlay and not removed:
            return info
        if await self._is_visible_directory(key, overlay):
            return ObjectInfo(key, 0, kind="directory")
        raise not_found(key)

    async def _head_unnamed(self, key: str, change: Change) -> ObjectInfo:
        """Return the version of the copy that answers until a write has given its own the name.

        INVARIANT: the version told is that of the bytes that are read.
        (tests/tier/test_writeback.py::test_version_told_before_publication_is_that_of_the_bytes)
        """
        try:
            return await self._head_cold(key, removed=False)
        except FileNotFoundError:  # somebody has removed it there, and the copy still answers
            return info_of(change)

    async def _overlay(
        self, key: str, of: Literal["itself", "children", "tree"] = "children"
    ) -> Overlay:
        """Return what the journal knows of a directory; nothing where nothing is pending."""
        store = self._engine.dirty() if self._engine.usable() else None
        if store is None:
            return Overlay(key, [], set())
        return await run_in_thread(_read_overlay, store.journal, key, of)

    async def _is_visible_directory(self, key: str, overlay: Overlay) -> bool:
        """Say whether a directory is one for the users of this tier."""
        if overlay.has_put_below(key):
            return True
        try:
            cold = await hop(self.target.tree, self._mover.cold_path(key), None)
        except (FileNotFoundError, NotADirectoryError):
            return False
        removed = {self._mover.cold_path(name) for name in overlay.removed}
        if any(i["type"] != "directory" for n, i in cold.items() if n not in removed):
            return True
        if self._mover.flat or key in overlay.folders:
            return False
        info = await self._mover.remote.head(key)
        return info is not None and info.kind == "directory"

    async def list_directory(self, key: str) -> list[ObjectInfo]:
        overlay = await self._overlay(key)
        try:
            found = await self.target.children(self._mover.cold_path(key))
        except (FileNotFoundError, NotADirectoryError):
            if not overlay.has_put_below(key):
                pending = await self._mover.pending(key)
                if pending is not None:
                    # Cold may not know of the object yet: (tests/conformance/test_tier_back_mem.py)
                    error = not_found if pending == "delete" else not_a_directory
                    raise error(key) from None
                raise
            found = []
        named = [self._from_cold(info) for info in found if not self._is_hot_directory(info.key)]
        named = await self._as_written_here(named)
        if not overlay:
            return named
        children = []
        for info in overlay.children(named):
            doubted = info.kind == "directory" and overlay.doubts(info.key)
            if not doubted or await self._is_visible_directory(
                info.key, await self._overlay(info.key, "itself")
            ):
                children.append(info)
        if not children and key.strip("/") and not await self._is_visible_directory(key, overlay):
            raise not_found(key)
        return children

    async def _tree(self, key: str, maxdepth: int | None) -> dict[str, Info]:
        return await hop(self._tree_on_loop, key, maxdepth)

    async def _tree_on_loop(self, key: str, maxdepth: int | None) -> dict[str, Info]:
        overlay = await self._overlay(key, "tree")
        try:
            cold = await self.target.tree(self._mover.cold_path(key), maxdepth)
        except (FileNotFoundError, NotADirectoryError):
            if not overlay:
                raise
            cold = {}
        found = self._renamed(cold)
        files = [name for name, info in found.items() if info["type"] == "file"]
        for row in await self._versions_given_here(files):
            if row.equals(found[row.key]["size"], found[row.key].get("etag")):
                found[row.key] = ObjectInfo(row.key, row.size, row.mtime, row.etag).to_info()
        if not overlay:
            return found
        found, unsure = overlay.tree(found, maxdepth, flat=self._mover.flat, real=maxdepth is None)
        for name in unsure:
            if not await self._is_visible_directory(name, await self._overlay(name, "itself")):
                del found[name]
        return found

    async def _as_written_here(self, listed: list[ObjectInfo]) -> list[ObjectInfo]:
        """Give the objects of a listing the versions they had before cold had them."""
        files = [info.key for info in listed if info.kind == "file"]
        given = {row.key: row for row in await self._versions_given_here(files)}
        if not given:
            return listed
        told = []
        for info in listed:
            row = given.get(info.key)
            if row is not None and row.equals(info.size, info.etag):
                told.append(ObjectInfo(row.key, row.size, row.mtime, row.etag))
            else:
                told.append(info)
        return told

    async def _versions_given_here(self, keys: list[str]) -> list[Row]:
        """Return the hot copies among some objects that still go by a version of the tier's.

        INVARIANT: whoever asks after the upload is told the same version as who asked before.
        (tests/tier/test_writeback.py::test_a_version_stays_the_same_in_listings_when_it_is_sent)
        """
        engine = self._engine
        if not keys or not engine.usable():
            return []
        if engine.place.below is None and engine.dirty() is None:
            return []
        return await run_in_thread(engine.catalog.given_here, keys)

    def _renamed(self, found: dict[str, Info]) -> dict[str, Info]:
        """Name entries of the cold store as this filesystem does."""
        if not self._cold_root:
            return found
        skip = len(self._cold_root)
        renamed = {}
        for name, info in found.items():
            info["name"] = name[skip:].strip("/")
            renamed[info["name"]] = info
        return renamed

    def _is_hot_directory(self, name: str) -> bool:
        return self._local_cold and name == self._options.hot

    async def _refuse_removed_directory(self, key: str) -> None:
        """Raise that nothing is there, where only what was removed here is in the way in cold."""
        store = self._engine.dirty() if self._engine.usable() else None
        if store is None:
            return
        for name in ancestors_of(key):
            if name.strip("/") and await self._mover.pending(name) == "delete":
                raise not_found(key)
        if key in await run_in_thread(store.journal.folders, key):
            overlay = await self._overlay(key, "itself")
            if not await self._is_visible_directory(key, overlay):
                raise not_found(key)


def _read_overlay(journal: Journal, key: str, of: Literal["itself", "children", "tree"]) -> Overlay:
    """Read what a listing needs of the journal, page by page.

    Of a directory ``itself`` it matters what was removed below it, and whether anything is new.
    """
    top = key.rstrip("/")
    outlines: Iterable[Outline] = journal.outlines(top)
    if of == "itself":
        outlines = (*journal.outlines(top, "kind=0", 1), *journal.outlines(top, "kind=1"))
    return Overlay(key, outlines, journal.folders(top), deep=of == "tree")
