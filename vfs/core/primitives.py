"""The authors' contract: what a backend gives, and how each primitive is called.

What lives here: the primitives of a filesystem with their meaning, and the dispatch that lets
each be ``def`` or ``async def``. What must not: anything derived from them (see ``base.py``).
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterable
from typing import Any, ClassVar

from fsspec.asyn import AsyncFileSystem

from vfs.core.loop import hop, run_in_thread
from vfs.errors import ReadOnlyError, UnsupportedError
from vfs.types import ObjectInfo

__all__ = ["Primitives"]


class Kind(enum.Enum):
    """How a primitive is called."""

    INLINE = "a quick def: on the caller's thread or loop"
    THREAD = "a def that may block: in a thread when the caller is a loop"
    LOOP = "an async def: on the I/O loop"


PRIMITIVES = (
    "copy_object",
    "delete_object",
    "get_end",
    "get_object",
    "get_path",
    "get_start",
    "get_whole",
    "head_object",
    "list_directory",
    "list_objects",
    "make_directory",
    "move_object",
    "put_object",
    "put_path",
    "remove_directory",
)


class Primitives(AsyncFileSystem):  # type: ignore[misc]  # fsspec carries no types
    """What a backend author writes; each may be ``def`` or ``async def``.

    A key is what ``_strip_protocol`` returns, cleaned: it is also the name users see.

    Attributes
    ----------
    blocking : bool
        Whether the ``def`` primitives may wait for a disk. True moves them to a thread when
        they are awaited.
    any_loop : bool
        Whether the ``async def`` primitives wait for nothing and so need no loop at all. False
        keeps them on the I/O loop, because their client belongs to it.
    read_only : bool
        Whether every write is refused, with EROFS, before any I/O.
    flat : bool
        Whether ``a`` and ``a/b`` may both be objects.
    reads_conditionally : bool
        Whether ``get_object`` takes ``if_match=`` (an etag) and raises ``ConflictError``.
    writes_conditionally : bool
        Whether ``put_object`` honours ``if_match=``.
    loop_free : bool
        Whether the ``async def`` primitives, though they need a loop, run on whichever loop
        awaits them: their client belongs to none.
    loop_bound : bool
        Derived: some primitive needs a loop; synchronous callers use the I/O loop.
    """

    blocking: ClassVar[bool] = False
    any_loop: ClassVar[bool] = False
    loop_free: ClassVar[bool] = False
    read_only: bool = False
    flat: bool = False
    reads_conditionally: bool = False
    writes_conditionally: bool = False
    loop_bound: ClassVar[bool] = False
    #: The primitives a class must give, each with the method of fsspec that may be overridden
    #: in its place ("" for none).
    required: ClassVar[dict[str, str]] = {
        "head_object": "_info",
        "get_object": "_cat_file",
        "put_object": "_pipe_file",
        "delete_object": "_rm_file",
        "list_directory": "_ls",
    }
    _kinds: ClassVar[dict[str, Kind]] = {}
    _is_abstract: ClassVar[bool] = True

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._is_abstract = abstract
        cls._kinds = {name: cls._kind_of(name) for name in PRIMITIVES}
        cls.loop_bound = not cls.any_loop and Kind.LOOP in cls._kinds.values()
        if not abstract:
            missing = [
                name
                for name, method in cls.required.items()
                if getattr(cls, name) is getattr(Primitives, name)
                and getattr(getattr(cls, method, None), "_derived", True)
            ]
            if missing:
                message = f"{cls.__qualname__} lacks {', '.join(missing)}"
                raise TypeError(message)

    @classmethod
    def _kind_of(cls, name: str) -> Kind:
        function = getattr(cls, name)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return Kind.LOOP
        # An optional primitive that is not given only raises, which needs no thread.
        given = function is not getattr(Primitives, name)
        return Kind.THREAD if cls.blocking and given else Kind.INLINE

    def _refuse_if_read_only(self, path: Any) -> None:
        if self.read_only:
            message = "write refused: this filesystem is read-only"
            raise ReadOnlyError(message, str(path))

    @classmethod
    def gives(cls, name: str) -> bool:
        """Say whether the class has an optional primitive of its own."""
        return getattr(cls, name) is not getattr(Primitives, name)

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a primitive where it belongs."""
        kind = self._kinds[name]
        method = getattr(self, name)
        if kind is Kind.INLINE:
            return method(*args, **kwargs)
        if kind is Kind.THREAD:
            return await run_in_thread(method, *args, **kwargs)
        if self.any_loop or self.loop_free:
            return await method(*args, **kwargs)
        return await hop(method, *args, **kwargs)

    def head_object(self, key: str) -> Any:
        """Return the :class:`~vfs.types.ObjectInfo` of a key.

        Raises
        ------
        FileNotFoundError
            [ENOENT] authoritatively absent.
        """
        raise NotImplementedError

    def get_object(self, key: str, start: int | None, end: int | None) -> Any:
        """Return ``data[start:end]`` as bytes, with Python's meaning of negative and None.

        Raises
        ------
        FileNotFoundError
            [ENOENT] authoritatively absent.
        """
        raise NotImplementedError

    def put_object(
        self,
        key: str,
        value: bytes,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> Any:
        """Store a whole object, atomically, and return its :class:`~vfs.types.ObjectInfo`.

        ``value`` is any bytes-like object; copy it if you keep it.

        Raises
        ------
        FileExistsError
            [EEXIST] ``if_none_match`` and there is one.
        ConflictError
            [ESTALE] ``if_match`` and the etag is another.
        """
        raise NotImplementedError

    def delete_object(self, key: str) -> Any:
        """Remove an object.

        Raises
        ------
        FileNotFoundError
            [ENOENT] there is none.
        """
        raise NotImplementedError

    def list_directory(self, key: str) -> Any:
        """Return the direct children of a directory, an iterable of ``ObjectInfo``.

        Raises
        ------
        FileNotFoundError
            [ENOENT] nothing of that name.
        NotADirectoryError
            [ENOTDIR] it is an object.
        """
        raise NotImplementedError

    def list_objects(self, prefix: str, start_after: str) -> Iterable[ObjectInfo]:
        """Return every object below a prefix, in key order, after a key (optional)."""
        raise NotImplementedError

    def copy_object(self, source: str, target: str) -> Any:
        """Copy inside the backend (optional)."""
        raise NotImplementedError

    def move_object(self, source: str, target: str) -> Any:
        """Move one object inside the backend, atomically (optional)."""
        raise NotImplementedError

    def put_path(self, key: str, local: str, *, if_none_match: bool, if_match: str | None) -> Any:
        """Store the content of a local file (optional), with bounded memory."""
        raise NotImplementedError

    def get_start(self, key: str, count: int) -> Any:
        """Return ``(ObjectInfo, first bytes)`` by one request (optional).

        None where the answer does not tell the version, as that of an empty object may not.
        """
        raise NotImplementedError

    def get_end(self, key: str, count: int) -> Any:
        """Return ``(ObjectInfo, last bytes)`` by one request (optional).

        None where the answer does not tell the version, or the backend has no such request.
        """
        raise NotImplementedError

    def get_whole(self, key: str) -> Any:
        """Return ``(ObjectInfo, bytes)`` of an object by the requests of a read (optional).

        None for the facts where no answer tells the version.
        """
        raise NotImplementedError

    def get_path(self, key: str, local: str) -> Any:
        """Copy an object into an existing local file (optional), with bounded memory.

        It may return the ``ObjectInfo`` of what it copied, where the answer told the version.
        """
        raise NotImplementedError

    def make_directory(self, key: str) -> Any:
        """Make a directory and its parents; without it directories are only prefixes."""

    def remove_directory(self, key: str) -> Any:
        """Remove an empty directory; without it there is nothing to remove."""
        message = "this backend has no directories of its own"
        raise UnsupportedError(message, key)
