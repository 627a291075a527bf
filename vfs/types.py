"""Plain values that every room shares: what is known of an object, and who may do what.

What lives here: frozen records without behaviour beyond conversion. What must not: I/O, fsspec.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["Info", "ObjectInfo", "ObjectKind", "Progress"]

#: What fsspec calls an "info": ``name``, ``size``, ``type`` and whatever a backend adds.
Info: TypeAlias = dict[str, Any]

ObjectKind: TypeAlias = Literal["file", "directory"]

#: Called with how much is done, and of how much.
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a backend knows of one object without reading it.

    Parameters
    ----------
    key : str
        The key inside the backend.
    size : int
        Length in bytes; 0 for directories.
    mtime : float, optional
        Last change, seconds since the epoch, UTC.
    etag : str, optional
        Opaque version of the content; only equality means something.
    kind : {'file', 'directory'}
        Directories appear in listings of hierarchical backends only.
    extra : dict
        Further backend facts, passed on in :meth:`to_info`.

    Examples
    --------
    >>> ObjectInfo("a/b", 3, etag="1").to_info()["size"]
    3
    """

    key: str
    size: int
    mtime: float | None = None
    etag: str | None = None
    kind: ObjectKind = "file"
    extra: dict[str, Any] = field(default_factory=dict)

    def to_info(self) -> Info:
        """Return the dictionary fsspec's users expect of ``info()`` and ``ls(detail=True)``."""
        info: Info = {
            "name": self.key,
            "size": self.size,
            "type": self.kind,
            "mtime": self.mtime,
            "etag": self.etag,
        }
        if self.extra:
            info.update(self.extra)
        return info
