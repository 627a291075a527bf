"""State that outlives filesystem instances: one engine a process for each thing it manages.

fsspec makes many thin instances for one URL (one a thread for ``asynchronous=True``), so nothing
that must be shared can live on them. What lives here: the per-process registry and its behaviour
at fork. What must not: what the engines do.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import TypeVar, cast

__all__ = ["Engine", "close_engines", "get_engine"]


class Engine:
    """Base of everything that is shared by the instances of one process."""

    def before_fork(self) -> None:
        """Finish what must not be in progress in any thread while the process is copied."""

    def after_fork_in_parent(self) -> None:
        """Take back :meth:`before_fork`."""

    def after_fork(self) -> None:
        """Drop what a forked child must not share with its parent: descriptors, locks, threads."""

    def close(self) -> None:
        """Give up descriptors and locks; the engine is not used again."""


E = TypeVar("E", bound=Engine)

_engines: dict[tuple[type[Engine], str], Engine] = {}
_lock = threading.RLock()


def get_engine(kind: type[E], key: str, make: Callable[[], E]) -> E:
    """Return this process's engine of ``kind`` for ``key``, made on first use.

    Notes
    -----
    Thread-safe. Engines live as long as the process: they hold what must be shared by
    instances that come and go.
    """
    with _lock:
        engine = _engines.get((kind, key))
        if engine is None:
            engine = _engines[kind, key] = make()
        return cast("E", engine)


def close_engines() -> None:
    """Close every engine of this process; the next use opens them again.

    Called at interpreter exit. Tests call it to come back like another process.
    """
    with _lock:
        engines = list(_engines.values())
        _engines.clear()
    for engine in engines:
        engine.close()


_held_for_fork: list[Engine] = []


def _before_fork() -> None:
    _lock.acquire()
    for engine in _engines.values():
        engine.before_fork()
        _held_for_fork.append(engine)


def _after_fork_in_parent() -> None:
    while _held_for_fork:
        _held_for_fork.pop().after_fork_in_parent()
    _lock.release()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - the inherited lock may be held by a thread that is gone
    _lock = threading.RLock()
    _held_for_fork.clear()
    for engine in _engines.values():
        engine.after_fork()


atexit.register(close_engines)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork,
    )
