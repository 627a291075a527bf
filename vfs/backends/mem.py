"""``mem://``: objects in this process's memory; the readable reference of the key-value contract.

What lives here: five primitives on a dictionary. What must not: anything a backend author would
not have to write.
"""

from __future__ import annotations

import bisect
import hashlib
import threading
from collections.abc import Iterator
from typing import Any

from vfs.config.options import check_known
from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.engine import Engine, get_engine
from vfs.core.keyvalue import KeyValueFileSystem
from vfs.errors import ConflictError, exists_already, not_found
from vfs.types import ObjectInfo

__all__ = ["MemFileSystem"]


class _Objects(Engine):
    """The objects of one named store; every instance and thread of the process shares it."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, ObjectInfo]] = {}
        self.order: list[str] = []  # the keys, sorted
        self.lock = threading.Lock()
        self.serial = 0

    def after_fork(self) -> None:
        self.lock = threading.Lock()


class MemFileSystem(KeyValueFileSystem):
    """Objects in memory, shared by all users of one process.

    Parameters
    ----------
    store : str, default "default"
        Which of the process's stores; give a name of your own to be alone.

    Notes
    -----
    Thread-safe. A forked child starts with a copy, another process with nothing. Values are
    copied on the way in. Durability: none.

    Examples
    --------
    >>> fs = MemFileSystem(store="example")
    >>> fs.pipe_file("mem://a/b", b"hello")
    >>> fs.cat_file("a/b", start=-3)
    b'llo'
    """

    protocol = "mem"
    reads_conditionally = True
    writes_conditionally = True

    def __init__(self, store: str = "default", **kwargs: Any) -> None:
        check_known("mem", kwargs, ["store"])
        super().__init__(**kwargs)
        self._objects = get_engine(_Objects, store, _Objects)

    def head_object(self, key: str) -> ObjectInfo:
        return self._entry(key)[1]

    def get_object(
        self, key: str, start: int | None, end: int | None, *, if_match: str | None = None
    ) -> bytes:
        value, info = self._entry(key)
        if if_match is not None and info.etag != if_match:
            message = "the object was replaced"
            raise ConflictError(message, key)
        return value[start:end]

    def put_object(
        self,
        key: str,
        value: bytes,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> ObjectInfo:
        value = bytes(value)
        with self._objects.lock:
            present = self._objects.values.get(key)
            if if_none_match and present is not None:
                raise exists_already(key)
            if if_match is not None and (present is None or present[1].etag != if_match):
                message = "the object was replaced since it was read"
                raise ConflictError(message, key)
            self._objects.serial += 1
            # The serial number tells an object from a later one with the same content.
            content = hashlib.blake2b(value, digest_size=8).hexdigest()
            etag = f"{content}-{self._objects.serial:x}"
            info = ObjectInfo(key, len(value), SYSTEM_CLOCK.wall_s(), etag)
            self._objects.values[key] = (value, info)
            if present is None:
                bisect.insort(self._objects.order, key)
        return info

    def delete_object(self, key: str) -> None:
        with self._objects.lock:
            if self._objects.values.pop(key, None) is None:
                raise not_found(key)
            del self._objects.order[bisect.bisect_left(self._objects.order, key)]

    def list_objects(self, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        with self._objects.lock:
            first = max(
                bisect.bisect_left(self._objects.order, prefix),
                bisect.bisect_right(self._objects.order, start_after) if start_after else 0,
            )
            keys = []
            for key in self._objects.order[first:]:
                if not key.startswith(prefix):
                    break
                keys.append(key)
            return iter([self._objects.values[key][1] for key in keys])

    def _entry(self, key: str) -> tuple[bytes, ObjectInfo]:
        try:
            return self._objects.values[key]
        except KeyError:
            raise not_found(key) from None
