"""A directory between others: what it stands under and over, recorded in both.

What lives here: the records by which the directories of one stack know each other, and the
dropping of copies that may not be what the directory below has. What must not: the claim on the
cold store (``claim.py``), verbs over several directories (``stack.py``).

Copies of an upper directory are always clean: the one below has acknowledged them. So whenever it
is not certain that every change of the one below passed through the upper one, they are dropped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vfs.errors import ConfigError, os_error
from vfs.observe import logger
from vfs.tier.claim import STATE_DIRECTORY, read_record, write_record

if TYPE_CHECKING:
    from vfs.tier.engine import TierEngine

__all__ = ["ALONE", "Place", "drop_if_doubted", "take_place"]

_ABOVE: Final = "above.json"
_BELOW: Final = "below.json"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a directory stands in a stack.

    Parameters
    ----------
    above : str or None
        Real path of the directory whose users alone change this one; None for the top.
    below : TierEngine or None
        The directory it stands on; None for the last, which stands on the cold store.
    """

    above: str | None = None
    below: TierEngine | None = None


ALONE: Final = Place()


def take_place(engine: TierEngine) -> str:
    """Record under which directory this one lies, or check that it is the one; return its token.

    INVARIANT: nothing is written below a directory past it, which would leave old copies there.
    (tests/tier/test_stack_places.py::test_a_directory_below_another_is_not_opened_alone)

    Raises
    ------
    ConfigError
        It lies under another directory than is said here.
    OSError
        [ENODEV] the directory below cannot be used: whether copies here are old, it alone tells.
    """
    root, above, below = engine.root, engine.place.above, engine.place.below
    if below is not None and not below.ready:
        raise os_error(errno.ENODEV, below.root, "the directory below cannot be used")
    path = os.path.join(root, STATE_DIRECTORY, _ABOVE)
    found = read_record(path) or {}
    if not found and above is not None:
        with contextlib.suppress(FileExistsError):  # another process was faster
            write_record(path, {"above": above, "token": uuid.uuid4().hex}, exclusive=True)
        found = read_record(path) or {}
    if found.get("above") != above:
        asked = f"under {above!r}" if above is not None else "without it"
        message = (
            f"tier: {root!r} lies under {found.get('above')!r}, and is asked for {asked}: what "
            f"is written so would leave old copies there; give the same tiers everywhere, or, if "
            f"that directory is not used any more, remove {path}"
        )
        raise ConfigError(message)
    return str(found.get("token", ""))


def drop_if_doubted(engine: TierEngine, *, rebooted: bool) -> None:
    """Drop every copy if the directory below may not have been what it was when they were made.

    INVARIANT: what the directory below has lost, or was changed in while this one was not above
    it, is not answered from here.
    (tests/tier/test_stack_places.py::test_copies_do_not_outlive_what_a_power_cut_took_below,
    tests/tier/test_stack_places.py::test_copies_of_another_time_are_dropped)
    """
    below = engine.place.below
    if below is None:
        return
    path = os.path.join(engine.root, STATE_DIRECTORY, _BELOW)
    record = read_record(path) or {}
    known = {"token": below.token, "forgets": _forgets(below)}
    if record == known and not (rebooted and known["forgets"]):
        return
    if record.get("token") != below.token or (rebooted and record.get("forgets")):
        copies = [(key, engine.hot.path(key)) for key, _ in engine.hot.walk(engine.absolute_keys)]
        if copies:
            logger.warning("tier %s: %d copies are fetched again", engine.root, len(copies))
            engine.hot.drop(copies)
    write_record(path, known)


def _forgets(engine: TierEngine) -> bool:
    """Say whether a power cut may take what a directory has acknowledged."""
    return engine.back is not None and engine.back.durability == "process"
