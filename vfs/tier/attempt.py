"""One attempt to bring cold up to date with one change: what is sent, what became of it.

What lives here: the outcome as a value, what it means for the next attempt, and the bytes. What
must not: requests, the order of attempts (``uploader.py``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

import xxhash

from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.durable import unlink_if_there
from vfs.errors import ConflictError, IntegrityError, is_retryable
from vfs.observe import logger
from vfs.tier.dirty import DirtyStore, digest_of
from vfs.tier.journal import Change, Kind, State
from vfs.tier.recover import redo_one
from vfs.tier.remote import THROUGH_MEMORY_BYTES
from vfs.tier.schedule import Turn

if TYPE_CHECKING:
    from vfs.tier.engine import TierEngine

__all__ = ["Outcome", "Ready", "failure_of", "prepared", "probe_of", "split", "verified"]

_FIRST_RETRY_S: Final = 0.05
_LAST_RETRY_S: Final = 30.0

#: What a store refuses for good is tried again so rarely that it harms nobody: rights are mended
#: by people. ``flush`` tries at once.
_REFUSED_RETRY_S: Final = 300.0


class Outcome(NamedTuple):
    """What became of an attempt: done with an etag, failed, or (neither) overtaken or held back."""

    change: Change
    etag: str | None = None
    error: Exception | None = None
    done: bool = False
    inode: int | None = None
    held_back: bool = False


class Ready(NamedTuple):
    """What is to be sent: bytes, or the path of a file of its own; None where they are damaged."""

    change: Change
    source: bytes | str | None = None
    inode: int | None = None
    damage: str = ""


def prepared(engine: TierEngine, store: DirtyStore, change: Change) -> Ready | None:
    """Look again at a change and take hold of its bytes, in one visit to a thread.

    Returns
    -------
    Ready or None
        None where it was overtaken, or is still in somebody's hands.
    """
    if store.needs_redo(change):
        # Its process is in the middle of it, or died there.
        redo_one(engine, change)
    now = store.journal.get(change.key)
    if now is None or now.gen != change.gen or store.needs_redo(now):
        return None
    if now.kind is Kind.DELETE:
        return Ready(now)
    try:
        link, inode = store.pin_bytes(now)
    except FileNotFoundError:
        return Ready(now, damage="the file is gone")
    source: bytes | str | None = None
    try:
        source = verified(link, now)
    finally:
        if not isinstance(source, str):
            unlink_if_there(link)
    return Ready(now, source, inode, "its checksum is not the one written")


def probe_of(turn: Turn) -> Turn:
    """Return the first step of a turn, to find out with it whether cold is back."""
    if turn.puts:
        return Turn(turn.puts[:1], [], [], turn.next_s)
    return Turn([], turn.deletes[:1], [] if turn.deletes else turn.folders[:1], turn.next_s)


def split(store: DirtyStore, changes: list[Change]) -> tuple[list[Change], list[Change]]:
    """Return the removals that can be asked for in bulk, and those that need one look each."""
    bulk: list[Change] = []
    single: list[Change] = []
    for change in changes:
        simple = change.base is None and not store.needs_redo(change)
        (bulk if simple else single).append(change)
    return bulk, single


def verified(link: str, change: Change) -> bytes | str | None:
    """Return the bytes of a change, or a path for large ones; None if they are not its bytes."""
    if os.path.getsize(link) != change.size:
        return None
    if change.size > THROUGH_MEMORY_BYTES:
        return link if digest_of(link) == change.hash else None
    with open(link, "rb") as file:
        data = file.read()
    return data if xxhash.xxh3_64_hexdigest(data) == change.hash else None


def failure_of(outcome: Outcome) -> tuple[Change, State, float, str]:
    """Return what is recorded of a failed attempt."""
    change, error = outcome.change, outcome.error
    assert error is not None  # noqa: S101 - the caller chose those
    text = f"{type(error).__name__}: {error}"
    now = SYSTEM_CLOCK.wall_s()
    if isinstance(error, ConflictError):
        logger.error("conflict: %s", error)
        return change, State.CONFLICT, 0.0, text
    if is_retryable(error) or isinstance(error, IntegrityError):
        wait_s = min(_LAST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(change.tries, 20))
        return change, State.SENT, now + wait_s, text
    logger.warning("the cold store refuses %s: %s", change.key, error)
    return change, State.REFUSED, now + _REFUSED_RETRY_S, text
