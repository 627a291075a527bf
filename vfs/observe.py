"""What happened, as typed events for whoever subscribes; nothing is printed or sent by itself.

What lives here: the event type and the hooks. What must not: any exporter, any handler of the
logging module, paths with secrets in them (emitters redact).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = ["Event", "Hook", "emit", "subscribe"]

logger: Final = logging.getLogger("vfs")

EventKind: TypeAlias = Literal[
    "promoted",
    "evicted",
    "written",
    "removed",
    "not_promoted",
    "damaged",
    "degraded",
    "recovered",
    "paused",
    "resumed",
]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one object.

    Parameters
    ----------
    kind : str
        What happened.
    key : str
        To which object; empty for a whole tier.
    size_bytes : int
        How large it is.
    reason : str
        Why, for people.
    """

    kind: EventKind
    key: str
    size_bytes: int = 0
    reason: str = ""


Hook: TypeAlias = Callable[[Event], None]

_hooks: list[Hook] = []


def emit(event: Event) -> None:
    """Tell every subscriber; a failing one is logged and does not disturb the storage.

    Notes
    -----
    Never called on a hit: a hit must cost no more than reading it.
    """
    for hook in tuple(_hooks):
        try:
            hook(event)
        except Exception:
            logger.exception("a subscriber failed on %s", event.kind)


@contextmanager
def subscribe(hook: Hook) -> Iterator[None]:
    """Call ``hook`` for every event of this process inside the ``with`` block.

    Examples
    --------
    >>> seen = []
    >>> with subscribe(seen.append):
    ...     emit(Event("promoted", "a", 3))
    >>> seen[0].kind
    'promoted'
    """
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)
