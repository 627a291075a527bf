"""Whether a directory is a cache, and since when.

What lives here: the two small files that say so. What must not: blocks, the ledger.
"""

from __future__ import annotations

import os
from typing import Final

from vfs.core.durable import make_directories
from vfs.errors import ConfigError

__all__ = ["claim", "read_boot"]

#: What marks a directory as a cache, and says in which format.
_CLAIM: Final = b'{"format": 1}\n'
_OURS: Final = frozenset(
    {"blocks", "boot", "cache.json", "facts", "ghosts", "ledger", "locks", "tmp"}
)


def claim(root: str) -> None:
    """Make a directory a cache, or see that it is one.

    Raises
    ------
    ConfigError
        It holds other files, or another format: ``clear`` would remove what is not ours.
    """
    make_directories(root, "process")
    path = os.path.join(root, "cache.json")
    told = _read_claim(path)
    if not told:
        # New, or its maker died: everybody writes the same bytes.
        if any(name not in _OURS for name in os.listdir(root)):
            message = f"cache: directory={root!r} holds other files; give an empty one"
            raise ConfigError(message)
        with open(path, "wb") as file:
            file.write(_CLAIM)
        told = _CLAIM
    if told != _CLAIM:
        message = (
            f"cache: directory={root!r} was made by another version ({told[:80]!r}); "
            f"remove it or give another one"
        )
        raise ConfigError(message)
    os.makedirs(os.path.join(root, "tmp"), exist_ok=True)


def _read_claim(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(4096)
    except FileNotFoundError:
        return b""


def read_boot(path: str) -> str:
    """Return in which boot the ledger was last counted, or nothing."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError):
        return ""
