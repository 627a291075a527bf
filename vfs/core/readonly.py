"""``ReadOnly``: a mixin that makes every write of a filesystem raise EROFS.

What lives here: the mixin. What must not: the layer of the same name (``layers/readonly.py``).
"""

from __future__ import annotations

from typing import Any

from vfs.errors import ReadOnlyError

__all__ = ["ReadOnly"]


class ReadOnly:
    """Mixin, named first: ``class MySource(ReadOnly, KeyValueFileSystem)``.

    Every call that would change something raises :class:`~vfs.errors.ReadOnlyError` before any
    I/O; ``open`` for writing does so at opening, not at close.
    """

    read_only: bool = True

    def put_object(self, key: str, value: bytes, **_: Any) -> Any:
        """Refuse."""
        del value
        message = "write refused: this filesystem is read-only"
        raise ReadOnlyError(message, key)

    def delete_object(self, key: str) -> Any:
        """Refuse."""
        message = "removal refused: this filesystem is read-only"
        raise ReadOnlyError(message, key)
