"""What a tier can be asked: where an object is, how full the hot tier is.

What lives here: the answers, for programs, terminals and notebooks. What must not: finding them.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from vfs.config.sizes import format_bytes

__all__ = ["ObjectState", "ObjectStatus", "PendingChange", "TierStats", "tier_html"]

ObjectState: TypeAlias = Literal["HOT", "WARM", "COLD", "DIRTY", "CONFLICT", "CORRUPT"]


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """Where one object is.

    Parameters
    ----------
    path : str
        Its key.
    state : {'HOT', 'WARM', 'COLD', 'DIRTY', 'CONFLICT', 'CORRUPT'}
        Whether a read answers from the hot tier, of several the top one; warm: from one below it.
        The last three are of write-back: cold lacks what was written, was changed by somebody
        else, or the bytes here were damaged before they were sent.
    size : int
        In bytes.
    hot, cold : bool
        Which copies exist, in the top directory and in the cold store.
    pinned : bool
        Whether the hot copy is exempt from eviction.
    etag : str or None
        Version of the cold object; while cold lacks this one, the tier's own.
    dirty : bool
        Whether cold does not have it yet. Never evicted.
    lag_s : float
        For how long.
    error : str
        Why the last attempt to send it failed.
    copies : tuple of str
        Where copies are, fastest first: directories, and the name of the cold store.
    archive : str
        Of what must be recalled before cold can be read: ``"archived"``, ``"restoring"``, or
        ``"restored until ..."``; empty for others.
    """

    path: str
    state: ObjectState
    size: int
    hot: bool
    cold: bool
    pinned: bool
    etag: str | None = None
    dirty: bool = False
    lag_s: float = 0.0
    error: str = ""
    copies: tuple[str, ...] = ()
    archive: str = ""

    def _repr_html_(self) -> str:
        copies = ", ".join(n for n, there in (("hot", self.hot), ("cold", self.cold)) if there)
        pinned = " · pinned" if self.pinned else ""
        pinned += f" · {self.archive}" if self.archive else ""
        return (
            f"<code>{html.escape(self.path)}</code> <b>{self.state}</b> · "
            f"{format_bytes(self.size)} · on {copies or 'neither tier'}{pinned}"
        )


@dataclass(frozen=True, slots=True)
class TierStats:
    """How full a hot tier is, and what this process did with it.

    Parameters
    ----------
    hot_bytes, hot_objects, max_bytes : int
        Of the hot tier, over all processes.
    hits, misses, promotions, evictions : int
        Of this process. Hits are counted without a lock, so under threads a few may be missing.
    cold_requests : dict
        Calls this process made to the cold store, by operation.
    dirty_bytes, dirty_objects : int
        What cold does not have yet, over all processes; removals count as objects.
    lag_s : float
        Age of the oldest of it.
    paused_s : float
        How long nothing is sent, because the cold store fails; 0 while all is well.
    paused_why : str
        What it said last; empty while all is well.
    directory : str
        Which it is.
    below : tuple of TierStats
        Of the directories below, where there are several.
    """

    hot_bytes: int
    hot_objects: int
    max_bytes: int
    hits: int
    misses: int
    promotions: int
    evictions: int
    cold_requests: dict[str, int] = field(default_factory=dict)
    dirty_bytes: int = 0
    dirty_objects: int = 0
    lag_s: float = 0.0
    paused_s: float = 0.0
    paused_why: str = ""
    directory: str = ""
    below: tuple[TierStats, ...] = ()

    def _repr_html_(self) -> str:
        ratio = self.hot_bytes / self.max_bytes if self.max_bytes else 0.0
        requests = sum(self.cold_requests.values())
        return (
            f'<meter value="{ratio:.3f}" max="1"></meter> hot {format_bytes(self.hot_bytes)} of '
            f"{format_bytes(self.max_bytes)} in {self.hot_objects} objects · {self.hits} hits, "
            f"{self.misses} misses · {requests} requests to cold · {self._safety()}"
        )

    def _safety(self) -> str:
        """Return whether the hot disk holds the only copy of anything, for people."""
        if not self.dirty_objects:
            return "cold has everything"
        paused = f" · {html.escape(self.pause())}" if self.paused_why else ""
        return (
            f"<b>{self.dirty_objects} changes, {format_bytes(self.dirty_bytes)}, are not in cold "
            f"yet</b>, the oldest for {self.lag_s:.0f} s{paused}"
        )

    def pause(self) -> str:
        """Return whether uploads are paused, for people."""
        if not self.paused_why:
            return "no"
        return f"uploads paused for {self.paused_s:.1f} s: {self.paused_why}"


@dataclass(frozen=True, slots=True)
class PendingChange:
    """One change that cold does not have yet.

    Parameters
    ----------
    path : str
        Of the object.
    change : {'put', 'delete'}
        What was done to it.
    size : int
        In bytes; 0 for a removal.
    age_s : float
        Since when cold is behind.
    tries : int
        Failed attempts.
    state : {'waiting', 'sent', 'refused', 'conflict', 'corrupt'}
        ``sent``: an attempt was begun.
    error : str
        What the last attempt said; where there was none, why uploads are paused.
    """

    path: str
    change: Literal["put", "delete"]
    size: int
    age_s: float
    tries: int
    state: str
    error: str


def tier_html(hot: str, cold: str, stats: TierStats | None) -> str:
    """Return a tier for notebooks: a bar each, and whether the hot disk may go.

    Parameters
    ----------
    hot, cold : str
        What they are, without secrets.
    stats : TierStats or None
        None where nobody can tell: the tier was not opened, or its disk is away.
    """
    names = f"<b>tier</b> hot <code>{html.escape(hot)}</code> over <code>{html.escape(cold)}</code>"
    if stats is None:
        why = "not used yet, or not there"
        return f"<div>{names}<br>safe to switch off? <b>not known</b>: {why}</div>"
    hot_bytes = (stats.below or (stats,))[-1].hot_bytes  # what is unsent is in the last one
    sent = max(0, hot_bytes - stats.dirty_bytes)
    share = sent / hot_bytes if hot_bytes else float(not stats.dirty_objects)
    safe = "no" if stats.dirty_objects else "yes"
    return (
        f"<div>{names}<br>{stats._repr_html_()}<br>"
        f'<meter value="{share:.3f}" max="1"></meter> cold has {format_bytes(sent)} of what is '
        f"hot<br>safe to switch off? <b>{safe}</b></div>"
    )
