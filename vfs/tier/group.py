"""What one commit of the dirty store is made of, and how the bytes of small puts get ready for it.

What lives here: changes that wait for a commit, and staging many files so that the disk works on
them together. What must not: the commit itself, what follows it (``dirty.py``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.durable import Staging, start_writing
from vfs.tier.catalog import Reservation
from vfs.tier.journal import Draft, Kind, Totals

if TYPE_CHECKING:
    from vfs.tier.dirty import DirtyStore

__all__ = ["Intent", "SmallPut", "stage_together"]

#: Files of a group that are open at a time: enough for the disk, few of what a process may open.
_OPEN: Final = 32


@dataclass(slots=True)
class SmallPut:
    """A put whose bytes are staged in the same visit to a thread that commits it.

    Parameters
    ----------
    key : str
        Of the object.
    content : Content
        Its bytes, in memory.
    admit : callable
        Takes how much waits, how many bytes of the same visit come before this one, and the limit
        of the hot tier; says whether nothing is in the way, or raises what the caller is to get.
    base : callable
        Returns the etag of the cold object that is replaced, where it is known.
    """

    key: str
    content: Any
    admit: Callable[[Totals, int, int], bool]
    base: Callable[[str], str | None]


@dataclass(slots=True)
class Intent:
    """One atomic change: its rows, the files they name, and what became of it.

    ``put`` is still to be staged; ``declined`` says that it was not, for want of room.
    """

    drafts: list[Draft]
    reservations: dict[str, Reservation] = field(default_factory=dict)
    error: BaseException | None = None
    put: SmallPut | None = None
    declined: bool = False


def stage_together(store: DirtyStore, intents: list[Intent]) -> None:
    """Admit small puts, set aside room for all of them at once, and stage them."""
    if not intents:
        return
    try:
        store.refuse_if_closed(intents[0])
        puts = _admit(store, intents)
        wanted = [(put.key, put.content.size) for _, put in puts]
        found = store.hot.catalog.reserve_all(store.hot.owner, wanted)
    except OSError as error:
        for intent in intents:
            intent.error = intent.error or error
        return
    placed: list[tuple[Intent, SmallPut, Reservation]] = []
    for (intent, put), reservation in zip(puts, found, strict=True):
        if reservation is None:
            intent.declined = True
        else:
            put.content.reservation = reservation
            placed.append((intent, put, reservation))
    for first in range(0, len(placed), _OPEN):
        _stage_some(store, placed[first : first + _OPEN])


def _stage_some(store: DirtyStore, puts: list[tuple[Intent, SmallPut, Reservation]]) -> None:
    """Write all of the files, then wait for each: the disk works on them together."""
    written: list[tuple[Intent, Draft, Reservation, Staging]] = []
    for intent, put, reservation in puts:
        try:
            base = put.base(put.key)
            staging, digest = store.write(reservation, put.content)
        except Exception as error:  # noqa: BLE001 - handed to its caller
            intent.error = error
            continue
        if store.durability == "power":
            start_writing(staging.fd)
        now, name = SYSTEM_CLOCK.wall_s(), os.path.basename(staging.path)
        draft = Draft(put.key, Kind.PUT, now, base, name, put.content.size, digest)
        written.append((intent, draft, reservation, staging))
    for intent, draft, reservation, staging in written:
        try:
            store.seal(staging)
        except Exception as error:  # noqa: BLE001 - handed to its caller
            intent.error = error
            continue
        intent.drafts.append(draft)
        intent.reservations[draft.key] = reservation


def _admit(store: DirtyStore, intents: list[Intent]) -> list[tuple[Intent, SmallPut]]:
    """Return those in whose way nothing is."""
    puts, ahead, totals = [], 0, store.journal.totals()
    limit = store.hot.catalog.limit() or 0
    for intent in intents:
        put = intent.put
        assert put is not None  # noqa: S101 - chosen by it
        try:
            intent.declined = not put.admit(totals, ahead, limit)
        except Exception as error:  # noqa: BLE001 - handed to its caller
            intent.error = error
            continue
        if not intent.declined:
            puts.append((intent, put))
            ahead += put.content.size
    return puts
