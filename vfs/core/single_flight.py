"""Single-flight: concurrent calls for one thing share one execution.

What lives here: the in-flight table of one loop. What must not: agreement between processes,
which is a lock's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

__all__ = ["SingleFlight"]

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Calls in flight, by key; used on one loop only.

    Notes
    -----
    A caller that is cancelled leaves the flight to the others: what it fetches is still wanted,
    or soon will be. An error goes to everybody who waited, and to nobody who comes later.

    References
    ----------
    Go's ``golang.org/x/sync/singleflight``.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def run(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await ``call()``, or the one that is already under way for ``key``."""
        task = self._flights.get(key)
        if task is None:
            task = asyncio.ensure_future(call())
            self._flights[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    def _landed(self, key: Hashable, task: asyncio.Task[T]) -> None:
        self._flights.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen: nobody may be left to await it
