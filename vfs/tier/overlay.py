"""Listings of a tier: what cold has, and what the journal knows better.

What lives here: cold plus unsent writes minus unsent removals. What must not: requests, the
journal's own work.

The journal is always read before cold is asked. A change that reaches cold in between is then
seen twice, which is harmless; read the other way round it could be seen nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from vfs.policies.zarrorder import ancestors_of
from vfs.tier.change import Change, Kind, etag_of
from vfs.types import Info, ObjectInfo

__all__ = ["Outline", "Overlay", "info_of"]


class Outline(NamedTuple):
    """As much of a change as a listing needs: a million of them may wait."""

    key: str
    kind: Kind
    size: int
    mtime: float
    gen: int


class Overlay:
    """What the journal says of the keys below one directory.

    Parameters
    ----------
    top : str
        The directory.
    outlines : iterable of Outline
        What is pending below it; gone through once.
    folders : set of str
        Directories that are to be removed.
    deep : bool
        Keep all of it, for :meth:`tree`. Else only what is said of direct children is kept, and
        the names of what was removed.
    """

    def __init__(
        self, top: str, outlines: Iterable[Outline], folders: set[str], *, deep: bool = False
    ) -> None:
        self.top = top
        self.folders = folders
        #: Keys that are to be removed from cold.
        self.removed: list[str] = []
        self._start = f"{top}/" if top.strip("/") else top
        self._near: dict[str, Outline] = {}
        self._put_above: set[str] = set()
        self._removed_above: set[str] = set()
        for outline in outlines:
            self._take(outline, deep=deep)

    def _take(self, outline: Outline, *, deep: bool) -> None:
        is_put = outline.kind is Kind.PUT
        above = self._put_above if is_put else self._removed_above
        name, slash, _ = outline.key[len(self._start) :].partition("/")
        above.add(self.top.rstrip("/"))
        if deep:
            above.update(ancestors_of(outline.key))
        elif slash:
            above.add(self._start + name)
        if deep or not slash:
            self._near[outline.key] = outline
        if not is_put:
            self.removed.append(outline.key)

    def __bool__(self) -> bool:
        return bool(self._put_above or self._removed_above or self.folders)

    def has_put_below(self, key: str) -> bool:
        """Say whether something below the directory, or a direct child of it, exists only here."""
        return key.rstrip("/") in self._put_above

    def doubts(self, key: str) -> bool:
        """Say whether a directory of cold may be empty, or gone, for the users of the tier."""
        return key in self.folders or key in self._removed_above

    def children(self, cold: Iterable[ObjectInfo]) -> list[ObjectInfo]:
        """Return the direct children; directories that :meth:`doubts` are still among them."""
        found = {(info.key, info.kind): info for info in cold}
        for path in self._put_above - {self.top.rstrip("/")}:
            found.setdefault((path, "directory"), ObjectInfo(path, 0, kind="directory"))
        for outline in self._near.values():
            if outline.kind is Kind.PUT:
                found[outline.key, "file"] = info_of(outline)
            else:
                found.pop((outline.key, "file"), None)
        return list(found.values())

    def tree(
        self, cold: dict[str, Info], maxdepth: int | None, *, flat: bool, real: bool
    ) -> tuple[dict[str, Info], list[str]]:
        """Return everything below, and the directories of it that may not be there.

        Parameters
        ----------
        cold : dict
            What cold has, by name.
        maxdepth : int or None
            How deep it was asked.
        flat : bool
            Whether directories are nothing but keys.
        real : bool
            Whether ``cold`` reaches to the bottom, so that emptiness can be told from it.
        """
        found = dict(cold)
        for outline in self._near.values():
            self._apply(outline, found, maxdepth)
        held = {
            folder
            for name, info in found.items()
            if info["type"] != "directory"
            for folder in ancestors_of(name)
        }
        unsure = []
        for name, info in list(found.items()):
            if info["type"] != "directory" or name in held or not self.doubts(name):
                continue
            if real and (flat or name in self.folders):
                del found[name]
            elif not real and not self.has_put_below(name):
                unsure.append(name)
        return found, unsure

    def _apply(self, change: Outline, found: dict[str, Info], maxdepth: int | None) -> None:
        """Bring one change into a tree."""
        if change.kind is Kind.DELETE:
            if change.key in found and found[change.key]["type"] != "directory":
                del found[change.key]
            return
        skip = self._start
        parts = change.key[len(skip) :].split("/")
        for level in range(1, len(parts)):
            folder = skip + "/".join(parts[:level])
            if maxdepth is None or level <= maxdepth:
                found.setdefault(folder, ObjectInfo(folder, 0, kind="directory").to_info())
        if maxdepth is None or len(parts) <= maxdepth:
            found[change.key] = info_of(change).to_info()


def info_of(change: Change | Outline) -> ObjectInfo:
    """Return what is known of an object that cold does not have yet."""
    return ObjectInfo(change.key, change.size, change.mtime, etag_of(change.gen))
