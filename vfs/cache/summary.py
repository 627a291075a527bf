"""What lies in a cache directory, found by looking, without opening it as a cache.

What lives here: the read-only pass over a directory that ``vfs cache status`` shows. What must
not: making, changing or locking anything.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any, Final

from vfs.cache.evict import scan_blocks
from vfs.cache.ledger import read_counters
from vfs.core.clock import SYSTEM_CLOCK
from vfs.errors import ConfigError

__all__ = ["CacheSummary", "require_cache", "summarize_cache"]

_TABLES: Final = ("facts", "ghosts")


@dataclass(frozen=True, slots=True)
class CacheSummary:
    """What a cache directory holds.

    Parameters
    ----------
    directory : str
        Where it is.
    used_bytes, max_bytes : int
        As in :class:`~vfs.cache.status.CacheStats`: what is charged, and the limit of the blocks.
    tables_bytes : int
        What the tables take of the disk at most; with ``max_bytes`` it makes up the limit given.
    blocks, block_bytes : int
        Blocks found, and the disk space they take.
    small_bytes, main_bytes : int
        The same, of the small queue, where every block begins, and of the main one.
    oldest_block_s : float or None
        Age of the block that waits longest, since it was stored or last moved to the end of its
        queue; None without blocks.

    Notes
    -----
    Blocks come and go while they are counted, so the numbers need not agree to the byte.
    """

    directory: str
    used_bytes: int
    max_bytes: int
    tables_bytes: int
    blocks: int
    block_bytes: int
    small_bytes: int
    main_bytes: int
    oldest_block_s: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def require_cache(root: str) -> None:
    """See that a directory is a cache; make nothing.

    Raises
    ------
    ConfigError
        There is none, or it holds something else.
    OSError
        It cannot be read.
    """
    try:
        with open(os.path.join(root, "cache.json"), encoding="utf-8") as file:
            found = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        there = "is not a cache directory" if os.path.lexists(root) else "does not exist"
        message = f"cache: directory={root!r} {there}; name the one that the cache was given"
        raise ConfigError(message) from None
    except ValueError:
        found = None
    if not isinstance(found, dict) or "format" not in found:
        raise ConfigError(f"cache: directory={root!r} is not a cache directory: cache.json is not")


def summarize_cache(root: str) -> CacheSummary:
    """Count the blocks of a directory and read its ledger.

    Raises
    ------
    ConfigError
        It is not a cache directory.

    Notes
    -----
    Cost: one stat a block, 2 µs each. Safe beside readers and writers, of any user that may read.
    """
    require_cache(root)
    limit, used = read_counters(os.path.join(root, "ledger"))
    count = small = main = 0
    oldest_ns: int | None = None
    for block, _ in scan_blocks(os.path.join(root, "blocks")):
        count += 1
        if block.main:
            main += block.size_bytes
        else:
            small += block.size_bytes
        if oldest_ns is None or block.queued_at < oldest_ns:
            oldest_ns = block.queued_at
    age_s = None if oldest_ns is None else max(0.0, SYSTEM_CLOCK.wall_s() - oldest_ns / 1e9)
    return CacheSummary(
        directory=root,
        used_bytes=used,
        max_bytes=limit,
        tables_bytes=sum(_length(os.path.join(root, name)) for name in _TABLES),
        blocks=count,
        block_bytes=small + main,
        small_bytes=small,
        main_bytes=main,
        oldest_block_s=age_s,
    )


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
