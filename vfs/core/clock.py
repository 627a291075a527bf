"""Time as a value that can be handed in; the only user of ``time`` for decisions.

What lives here: the clock protocol, the real clock, and since which start of the machine it runs.
What must not: sleeping.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "boot_id"]


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


def boot_id() -> str:
    """Return what changes when the machine starts again."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"
