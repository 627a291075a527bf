"""Trees of objects: list, find, du, rm -r, mv, each with its requests in flight together.

What lives here: operations over many keys, derived from the primitives. What must not: single
objects (``base.py``), anything about one backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from fsspec.core import has_magic
from fsspec.utils import stringify_path

from vfs.core.loop import gather, wait
from vfs.core.primitives import Primitives
from vfs.errors import invalid_path, is_a_directory
from vfs.types import Info, ObjectInfo

__all__ = ["TreeOperations"]


class TreeOperations(Primitives, abstract=True):
    """What fsspec does one directory at a time, done concurrently."""

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        """List the direct children of a directory, or the object itself, sorted by name."""
        key = self._key(path)
        try:
            infos = [item.to_info() for item in await self._children(key)]
        except NotADirectoryError:
            infos = [await self._info(key)]
        infos.sort(key=_by_name)
        return infos if detail else [info["name"] for info in infos]

    _ls._derived = True  # type: ignore[attr-defined]

    async def _children(self, key: str) -> list[ObjectInfo]:
        found = await self._call("list_directory", key)
        return cast("list[ObjectInfo]", found if isinstance(found, list) else list(found))

    async def _tree(self, key: str, maxdepth: int | None) -> dict[str, Info]:
        """Return everything below a directory, a level at a time, one level in parallel."""
        found: dict[str, Info] = {}
        level = [key]
        depth = 0
        while level and (maxdepth is None or depth < maxdepth):
            listings = await gather(
                [lambda k=k: self._ls(k) for k in level],  # type: ignore[misc]
                return_exceptions=True,
            )
            below: list[str] = []
            for parent, listing in zip(level, listings, strict=True):
                if isinstance(listing, FileNotFoundError | NotADirectoryError):
                    continue  # removed since its parent was listed, or never there
                if isinstance(listing, BaseException):
                    raise listing
                for info in cast("list[Info]", listing):
                    if info["name"] == parent:
                        continue
                    found[info["name"]] = info
                    if info["type"] == "directory":
                        below.append(info["name"])
            level = below
            depth += 1
        return found

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        *,
        detail: bool = False,
        prefix: str = "",
        **_: Any,
    ) -> Any:
        """Return every object below a directory, or the object itself.

        Parameters
        ----------
        path : str
            With a trailing slash it means the directory only.
        maxdepth : int, optional
            1 is the direct children.
        withdirs : bool
            Directories too, and ``path`` itself.
        detail : bool
            A dictionary of infos instead of a list of names.
        prefix : str
            Only names whose first component below ``path`` begins so.
        """
        if maxdepth is not None and maxdepth < 1:
            message = "maxdepth must be at least 1"
            raise ValueError(message)
        directory_only = stringify_path(path).endswith("/")
        key = self._key(path)
        found = await self._tree(key, maxdepth)
        if prefix:
            start = f"{key.rstrip('/')}/{prefix}" if key else prefix
            found = {name: info for name, info in found.items() if name.startswith(start)}
        if not withdirs:
            found = {name: info for name, info in found.items() if info["type"] != "directory"}
        if (withdirs or not found) and key != self.root_marker:
            own = await self._info_or_none(key)
            if own and (
                (own["type"] == "directory" and withdirs)
                or (own["type"] != "directory" and not directory_only)
            ):
                found[key] = own
        names = sorted(found)
        return {name: found[name] for name in names} if detail else names

    async def _info_or_none(self, key: str) -> Info | None:
        try:
            return cast("Info", await self._info(key))
        except (FileNotFoundError, NotADirectoryError):
            return None

    async def _du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **_: Any,
    ) -> Any:
        """Return the bytes below a path, in all or by name; one listing, no further request."""
        found = await self._find(path, maxdepth, withdirs, detail=True)
        sizes = {name: info["size"] or 0 for name, info in found.items()}
        return sum(sizes.values()) if total else sizes

    async def _rm(
        self,
        path: str | list[str],
        recursive: bool = False,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        **_: Any,
    ) -> None:
        """Remove objects, or trees with ``recursive=True``.

        Removing nothing recursively is silent, as on object stores; without ``recursive`` a
        missing object raises, and so does a directory.
        """
        del batch_size
        self._refuse_if_read_only(path)
        paths = path if isinstance(path, list) else [path]
        for item in paths:
            if has_magic(self._strip_protocol(item)) and not await self._exists(item):
                await self._rm_keys(await self._glob(item), recursive, maxdepth)
            else:
                await self._rm_keys([self._key(item)], recursive, maxdepth)

    async def _rm_keys(
        self,
        keys: Iterable[str],
        recursive: bool,
        maxdepth: int | None,
    ) -> None:
        keys = list(keys)
        if recursive:
            for key in keys:
                await self._rm_tree(key, maxdepth)
            return
        for key in keys:
            try:
                await self._rm_file(key)
            except FileNotFoundError:
                if not self.flat and await self._isdir(key):  # flat ones have looked
                    raise is_a_directory(key) from None
                raise

    async def _rm_tree(self, key: str, maxdepth: int | None) -> None:
        found = await self._find(key, maxdepth, withdirs=True, detail=True)
        objects = [name for name, info in found.items() if info["type"] != "directory"]
        await self._delete_many(objects)
        folders = [name for name, info in found.items() if info["type"] == "directory"]
        if key in folders and maxdepth is not None:
            folders.remove(key)
        for name in sorted(folders, key=lambda n: n.count("/"), reverse=True):
            await self._rmdir_quietly(name)

    async def _delete_many(self, keys: list[str]) -> None:
        results = await gather(
            [lambda k=k: self._rm_file(k) for k in keys],  # type: ignore[misc]
            return_exceptions=True,
        )
        for result in results:
            # Somebody else removed it first: the outcome is the one asked for.
            if isinstance(result, BaseException) and not isinstance(result, FileNotFoundError):
                raise result

    async def _rmdir_quietly(self, key: str) -> None:
        """Remove a directory that was just emptied; another writer may have filled it again."""
        try:
            await self._rmdir(key)
        except FileNotFoundError:
            return
        except OSError:
            if await self._find(key):
                return
            raise

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Move an object (atomically where the backend can) or, ``recursive``, a tree."""
        wait(self._mv, path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)

    async def _mv(
        self,
        path1: Any,
        path2: Any,
        *,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        self._refuse_if_read_only(path1)
        if isinstance(path1, list) or isinstance(path2, list) or has_magic(path1):
            await self._copy(path1, path2, recursive=recursive, maxdepth=maxdepth, on_error="raise")
            await self._rm(path1, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        source, target = self._key(path1), self._key(path2)
        into = stringify_path(path2).endswith("/") or await self._isdir(target)
        if into and not stringify_path(path1).endswith("/"):
            # As with the shell: into a directory that is there, under its own name.
            name = source.rstrip("/").rpartition("/")[2]
            target = f"{target.rstrip('/')}/{name}" if target else name
        if source == target:
            await self._info(source)
            return  # onto itself: copying and then removing would lose it
        if target.startswith(f"{source.rstrip('/')}/") and await self._isdir(source):
            raise invalid_path(target, f"it lies inside the directory {source!r} to be moved")
        if await self._isfile(source):
            await self._mv_file(source, target)
            return
        await self._copy(path1, path2, recursive=recursive, maxdepth=maxdepth, on_error="raise")
        await self._rm(path1, recursive=recursive, maxdepth=maxdepth, **kwargs)


def _by_name(info: Info) -> str:
    return cast("str", info["name"])
