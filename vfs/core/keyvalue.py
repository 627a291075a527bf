"""``KeyValueFileSystem``: a whole filesystem from five operations on keys.

What lives here: directories, listings and moves derived from a flat, ordered namespace. What must
not: any one service.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any, ClassVar, Final, cast

from vfs.core.base import VirtualFileSystem
from vfs.core.loop import drive, hop, run_in_thread
from vfs.core.primitives import Kind
from vfs.errors import directory_not_empty, is_a_directory, not_a_directory, not_found
from vfs.types import Info, ObjectInfo

__all__ = ["KeyValueFileSystem"]

#: Keys taken from a blocking listing in one visit to a thread: what S3 returns in a page.
_PAGE: Final = 1000

#: Sorts after every key that continues a prefix; used to step over a subdirectory.
_LAST_CHARACTER: Final = "\U0010ffff"


class KeyValueFileSystem(VirtualFileSystem, abstract=True):
    """Base of backends that only know keys and values.

    Subclasses give five primitives, named after the S3 operations, each ``def`` or ``async
    def``: ``head_object``, ``get_object``, ``put_object``, ``delete_object`` and
    ``list_objects(prefix, start_after)``, which returns (or, asynchronous, yields)
    :class:`~vfs.types.ObjectInfo` of *every* key that starts with ``prefix`` and sorts after
    ``start_after``, in key order. Optional: ``copy_object``, ``move_object``, ``put_path``,
    ``get_path``.

    Notes
    -----
    Directories exist while a key lies below them. ``a`` and ``a/b`` may both be objects, as on
    S3. ``mkdir`` is accepted and does nothing.

    Examples
    --------
    See ``vfs/backends/mem.py``, the readable reference.
    """

    flat = True
    required: ClassVar[dict[str, str]] = dict.fromkeys(
        ("head_object", "get_object", "put_object", "delete_object", "list_objects"), ""
    )

    async def _pages(self, prefix: str, start_after: str) -> AsyncIterator[list[ObjectInfo]]:
        """Yield the listing in pieces, from wherever the primitive has to run."""
        if self._kinds["list_objects"] is Kind.LOOP:
            found: Any = self.list_objects(prefix, start_after)
            if inspect.isawaitable(found):
                yield list(await found)
                return
            page: list[ObjectInfo] = []
            async for item in found:
                page.append(item)
                if len(page) >= _PAGE:
                    yield page
                    page = []
            yield page
            return
        items = iter(await self._call("list_objects", prefix, start_after))
        while True:
            if self.blocking:
                page = await run_in_thread(lambda: list(islice(items, _PAGE)))
            else:
                page = list(islice(items, _PAGE))
            if not page:
                return
            yield page

    async def _first_below(self, key: str) -> ObjectInfo | None:
        prefix = f"{key}/" if key else ""
        async for page in self._pages(prefix, ""):
            if page:
                return page[0]
        return None

    def info_now(self, key: str, *, may_block: bool) -> Info | None:
        kind = self._kinds["head_object"]
        if kind is not Kind.INLINE and not (kind is Kind.THREAD and may_block):
            return None
        try:
            info: ObjectInfo = self.head_object(key)
        except FileNotFoundError:
            return None  # perhaps a directory: the slow path looks
        return info.to_info()

    async def _head(self, key: str) -> Info:
        if key:
            try:
                info: ObjectInfo = await self._call("head_object", key)
            except FileNotFoundError:
                if await self._on_loop("_first_below", key) is None:
                    raise not_found(key) from None
            else:
                return info.to_info()
        return ObjectInfo(key, 0, kind="directory").to_info()

    async def _on_loop(self, name: str, *args: Any) -> Any:
        """Run one of our own coroutines where the backend's coroutines belong."""
        if self.loop_bound and not self.loop_free:
            return await hop(getattr(self, name), *args)
        return await getattr(self, name)(*args)

    async def _children(self, key: str) -> list[ObjectInfo]:
        return cast("list[ObjectInfo]", await self._on_loop("_list_children", key))

    async def _list_children(self, key: str) -> list[ObjectInfo]:
        prefix = f"{key}/" if key else ""
        children: dict[str, ObjectInfo] = {}
        start_after: str | None = ""
        while start_after is not None:
            start_after = await self._take_children(prefix, start_after, children)
        if not children and key:
            await self._call("head_object", key)  # raises if there is nothing at all
            raise not_a_directory(key)
        return list(children.values())

    async def _take_children(
        self, prefix: str, start_after: str, children: dict[str, ObjectInfo]
    ) -> str | None:
        """Add children to a dictionary; return where to go on, or None at the end."""
        async for page in self._pages(prefix, start_after):
            folder = ""
            for item in page:
                name, slash, _ = item.key[len(prefix) :].partition("/")
                if slash:
                    folder = f"{prefix}{name}"
                    # "" as a key: an object "a" and a directory "a" may both be there.
                    children.setdefault(f"{name}/", ObjectInfo(folder, 0, kind="directory"))
                else:
                    children[name] = item
                    folder = ""
            if folder and len(page) >= _PAGE:
                # A whole page ended inside one subdirectory: step over the rest of it.
                return f"{folder}/{_LAST_CHARACTER}"
        return None

    async def _tree(self, key: str, maxdepth: int | None) -> dict[str, Info]:
        return cast("dict[str, Info]", await self._on_loop("_list_tree", key, maxdepth))

    async def _list_tree(self, key: str, maxdepth: int | None) -> dict[str, Info]:
        """Return everything below a prefix from one flat listing."""
        prefix = f"{key}/" if key else ""
        found: dict[str, Info] = {}
        async for page in self._pages(prefix, ""):
            for item in page:
                parts = item.key[len(prefix) :].split("/")
                depth = len(parts) if maxdepth is None else min(len(parts), maxdepth + 1)
                for level in range(1, depth):
                    folder = prefix + "/".join(parts[:level])
                    if folder not in found:
                        found[folder] = ObjectInfo(folder, 0, kind="directory").to_info()
                if maxdepth is None or len(parts) <= maxdepth:
                    found[item.key] = item.to_info()
        return found

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        try:
            data: bytes = await super()._cat_file(path, start, end, **kwargs)
            return data
        except FileNotFoundError:
            await self._refuse_directory(self._key(path))
            raise

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        try:
            return super().cat_file(path, start, end, **kwargs)
        except FileNotFoundError:
            if not self.loop_bound:
                drive(self._refuse_directory(self._key(path)))
            raise

    async def _refuse_directory(self, key: str) -> None:
        # Only where a listing is cheap: zarr asks for many keys that are absent, and a request
        # each to tell "directory" from "nothing" would be a toll.
        if not self.loop_bound and (not key or await self._first_below(key) is not None):
            raise is_a_directory(key)

    async def _rm_file(self, path: str, **_: Any) -> None:
        self._refuse_if_read_only(path)
        key = self._key(path)
        try:
            await self._call("delete_object", key)
        except FileNotFoundError:
            # Worth a listing, unlike a read: what is removed was there, in all likelihood.
            if await self._on_loop("_first_below", key) is not None:
                raise is_a_directory(key) from None
            raise

    async def _mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Do nothing: a directory appears with the first object in it."""
        del create_parents
        self._refuse_if_read_only(path)
        self._key(path)

    async def _rmdir(self, path: str) -> None:
        """Do nothing, since an empty directory is not there; refuse one that is not empty."""
        self._refuse_if_read_only(path)
        key = self._key(path)
        if await self._on_loop("_first_below", key) is not None:
            raise directory_not_empty(self._raw(path))
