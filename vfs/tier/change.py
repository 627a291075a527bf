"""One change that cold does not have yet, as a value.

What lives here: the records that travel between journal, uploader and user. What must not: the
database, files, requests.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = ["ABSENT", "Change", "Draft", "Kind", "State", "Totals", "etag_of"]

#: As the version a change is based on: the cold store has no such object.
ABSENT: Final = ""


class Kind(enum.IntEnum):
    """What was done to a key."""

    PUT = 0
    DELETE = 1


class State(enum.IntEnum):
    """How far a change is."""

    WAITING = 0
    SENT = 1  # at least one attempt may have reached the cold store
    REFUSED = 2  # the store refuses it for good, as far as is known
    CONFLICT = 3  # somebody else changed the cold object
    CORRUPT = 4  # the bytes here are not those that were written


@dataclass(frozen=True, slots=True)
class Change:
    """One key whose cold object is not what the tier says it is.

    ``base`` is the etag of the cold object that this change replaces: None unknown,
    :data:`ABSENT` none. ``sent`` are the contents that may be there from earlier attempts.
    ``first`` is the generation of the first change since the journal last knew of none.
    """

    key: str
    gen: int
    kind: Kind
    staged: str
    size: int
    hash: str
    mtime: float
    since: float
    touched: float
    base: str | None
    sent: tuple[str, ...]
    state: State = State.WAITING
    tries: int = 0
    not_before: float = 0.0
    error: str = ""
    first: int = 0

    @property
    def etag(self) -> str:
        """Version of the hot object: its own until the cold store gives another."""
        return etag_of(self.gen)


def etag_of(gen: int) -> str:
    """Return the version that the tier gives to the object of a change."""
    return f"hot-{gen:x}"


@dataclass(frozen=True, slots=True)
class Draft:
    """A change to be recorded."""

    key: str
    kind: Kind
    now: float
    base: str | None = None
    staged: str = ""
    size: int = 0
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Totals:
    """How much waits: objects, bytes, and since when."""

    count: int
    bytes: int
    since: float | None
