"""Time as a value that can be handed in; the only user of ``time`` for decisions.

What lives here: the clock protocol and the real clock. What must not: sleeping.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

__all__ = ["SYSTEM_CLOCK", "Clock"]


class Clock(Protocol):
    """What a decision may ask about time; tests hand in one they can move."""

    def wall_s(self) -> float:
        """Return seconds since the epoch, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never go backwards."""
        ...


class _SystemClock:
    """The machine's own clock."""

    wall_s = staticmethod(time.time)
    monotonic_s = staticmethod(time.monotonic)


SYSTEM_CLOCK: Final[Clock] = _SystemClock()
