"""Hot and cold storage behind one fsspec URL.

What lives here: the public names, loaded when they are used, so that ``import vfs`` costs next to
nothing. What must not: side effects; protocols are registered by entry points.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfs.core.base import VirtualFileSystem as VirtualFileSystem
    from vfs.core.chained import WrapperFileSystem as WrapperFileSystem
    from vfs.core.keyvalue import KeyValueFileSystem as KeyValueFileSystem
    from vfs.core.readonly import ReadOnly as ReadOnly
    from vfs.errors import ArchivedError as ArchivedError
    from vfs.errors import CircuitOpenError as CircuitOpenError
    from vfs.errors import ConfigError as ConfigError
    from vfs.errors import ConflictError as ConflictError
    from vfs.errors import IntegrityError as IntegrityError
    from vfs.errors import QuotaExceededError as QuotaExceededError
    from vfs.errors import ReadOnlyError as ReadOnlyError
    from vfs.errors import ThrottledError as ThrottledError
    from vfs.errors import TierFullError as TierFullError
    from vfs.errors import UnavailableError as UnavailableError
    from vfs.errors import UnsupportedError as UnsupportedError
    from vfs.errors import VfsError as VfsError
    from vfs.errors import is_retryable as is_retryable
    from vfs.observe import Event as Event
    from vfs.observe import subscribe as subscribe
    from vfs.registry import open_filesystem as open_filesystem
    from vfs.registry import protocols as protocols
    from vfs.types import ObjectInfo as ObjectInfo

_HOMES: dict[str, str] = {
    "ArchivedError": "vfs.errors",
    "CircuitOpenError": "vfs.errors",
    "ConfigError": "vfs.errors",
    "ConflictError": "vfs.errors",
    "Event": "vfs.observe",
    "IntegrityError": "vfs.errors",
    "KeyValueFileSystem": "vfs.core.keyvalue",
    "ObjectInfo": "vfs.types",
    "QuotaExceededError": "vfs.errors",
    "ReadOnly": "vfs.core.readonly",
    "ReadOnlyError": "vfs.errors",
    "ThrottledError": "vfs.errors",
    "TierFullError": "vfs.errors",
    "UnavailableError": "vfs.errors",
    "UnsupportedError": "vfs.errors",
    "VfsError": "vfs.errors",
    "VirtualFileSystem": "vfs.core.base",
    "WrapperFileSystem": "vfs.core.chained",
    "is_retryable": "vfs.errors",
    "open_filesystem": "vfs.registry",
    "protocols": "vfs.registry",
    "subscribe": "vfs.observe",
}

__all__ = [  # noqa: PLE0604 - the names are strings, found on first use
    "__version__",
    *sorted(_HOMES),
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fsspec-vfs")
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'vfs' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return list(__all__)
