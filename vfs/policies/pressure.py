"""How writers slow down before a limit: when much, or old, data waits to be sent.

What lives here: the decision from four numbers. What must not: waiting, measuring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["PressurePolicy"]

#: Below this share of a limit nobody waits. Above it the wait grows evenly to the longest, so
#: that writers come down to the speed of the uploads instead of stopping at a wall.
_FREE_RATIO: Final = 0.75
_LONGEST_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class PressurePolicy:
    """What a writer has to do before it may add unsent bytes.

    Parameters
    ----------
    max_dirty_bytes : int
        Limit of bytes that are not in the cold store yet.
    max_lag_s : float or None
        How old the oldest unsent change may be.

    Examples
    --------
    >>> policy = PressurePolicy(max_dirty_bytes=100, max_lag_s=None)
    >>> policy.delay_s(50, 10, 0.0), policy.delay_s(100, 0, 0.0), policy.delay_s(100, 1, 0.0)
    (0.0, 0.5, None)
    """

    max_dirty_bytes: int
    max_lag_s: float | None

    def delay_s(self, dirty_bytes: int, more_bytes: int, lag_s: float) -> float | None:
        """Return how long to wait first, or None where there is no room now."""
        used = (dirty_bytes + more_bytes) / self.max_dirty_bytes
        if self.max_lag_s is not None:
            used = max(used, lag_s / self.max_lag_s)
        if used > 1:
            return None
        return max(0.0, (used - _FREE_RATIO) / (1 - _FREE_RATIO)) * _LONGEST_S

    def describe(self, dirty_bytes: int, lag_s: float) -> str:
        """Return what is full, for people."""
        if self.max_lag_s is not None and lag_s > self.max_lag_s:
            return f"the oldest unsent change is {lag_s:.0f} s old, max_lag_s is {self.max_lag_s}"
        return f"{dirty_bytes} bytes wait to be sent, max_dirty_bytes is {self.max_dirty_bytes}"
