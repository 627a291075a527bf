"""What a cache says of itself.

What lives here: frozen records and how they look. What must not: finding them out.
"""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import Any

from vfs.config.sizes import format_bytes

__all__ = ["CacheStats", "FsckReport"]


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How full a cache directory is, and what this process did with it.

    Parameters
    ----------
    directory : str
        Where the blocks lie.
    used_bytes, max_bytes : int
        Of all processes; ``used_bytes`` may be above the truth for a while, never below.
    hits, misses : int
        Blocks found here, and not.
    waits : int
        Missing blocks that another reader of this process was fetching already.
    bytes_fetched : int
        From the target.
    evictions, damaged, not_kept : int
        Blocks removed for room; found wrong and fetched again; not stored (limit, disk).
    """

    directory: str
    used_bytes: int
    max_bytes: int
    hits: int
    misses: int
    waits: int
    bytes_fetched: int
    evictions: int
    damaged: int
    not_kept: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        used, limit = format_bytes(self.used_bytes), format_bytes(self.max_bytes)
        return (
            f"cache {self.directory}: {used} of {limit}; {self.hits} hits, {self.misses} misses, "
            f"{format_bytes(self.bytes_fetched)} fetched, {self.evictions} evicted, "
            f"{self.damaged} damaged"
        )

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(str(self))}</code>"


@dataclass(frozen=True, slots=True)
class FsckReport:
    """What a check of a whole cache directory found.

    Parameters
    ----------
    blocks, bytes : int
        Right ones, and what they occupy.
    damaged : int
        Removed; they are fetched again when wanted.
    """

    blocks: int
    bytes: int
    damaged: int

    def as_dict(self) -> dict[str, int]:
        """Return the fields by name."""
        return asdict(self)
