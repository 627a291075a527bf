"""What happens to an object: a pure function from state and event to actions.

What lives here: every decision about the order of steps. What must not: I/O, clocks, locks; the
filesystem routes events here and the mover performs the answer.

The order is what keeps the promise "never a wrong byte". A hot copy is dropped, durably, before
the cold store changes, so that no crash can leave an old hot copy beside a newer cold object; it
is installed only after the cold store has acknowledged.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vfs.policies.rules import WriteMode

__all__ = [
    "Action",
    "Event",
    "ObjectState",
    "Promote",
    "Read",
    "Remove",
    "Write",
    "WriteMode",
    "actions_for",
]


class Action(enum.Enum):
    """One step for the mover."""

    SERVE_HOT = "read the hot copy"
    SERVE_COLD = "read the range from the cold store"
    FETCH_AND_INSTALL = "copy the whole object from cold to hot, then read it"
    FENCE = "make every fetch that is under way useless"
    DROP_HOT = "remove the hot copy, durably"
    WRITE_COLD = "store the object in the cold store"
    REMOVE_COLD = "remove the object from the cold store"
    INSTALL_HOT = "publish the written bytes as the hot copy"
    STAGE = "write the bytes to a file of their own, durably"
    COMMIT = "record the change in the journal, then make it visible"
    SEND_PENDING = "bring the cold store up to date with an earlier change first"
    REFUSE_EXISTS = "fail: exclusive creation, and there is one"


@dataclass(frozen=True, slots=True)
class ObjectState:
    """What is known of an object before an event.

    Parameters
    ----------
    hot : bool
        There is a hot copy.
    pending : {'put', 'delete'} or None
        What cold does not know yet of the object.
    """

    hot: bool
    pending: Literal["put", "delete"] | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Somebody reads; ``promote`` is what the promotion policy said."""

    promote: bool


@dataclass(frozen=True, slots=True)
class Promote:
    """Somebody asks for a hot copy by name."""


@dataclass(frozen=True, slots=True)
class Write:
    """Somebody stores an object.

    Parameters
    ----------
    mode : {'through', 'around', 'back'}
        Both tiers, cold only, or hot now and cold later.
    fits : bool
        The object may have a hot copy: its size and name allow it.
    exclusive : bool
        Only if there is none.
    """

    mode: WriteMode
    fits: bool
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Somebody removes an object; ``back`` is whether cold may learn of it later."""

    back: bool = False


Event: TypeAlias = Read | Promote | Write | Remove


def actions_for(state: ObjectState, event: Event) -> tuple[Action, ...]:
    """Return the steps an event needs, in the order they must happen.

    Examples
    --------
    >>> [a.name for a in actions_for(ObjectState(hot=True), Write("through", fits=True))]
    ['FENCE', 'DROP_HOT', 'WRITE_COLD', 'INSTALL_HOT']
    """
    match event:
        case Read(promote=promote):
            if state.hot:
                return (Action.SERVE_HOT,)
            return (Action.FETCH_AND_INSTALL,) if promote else (Action.SERVE_COLD,)
        case Promote():
            return () if state.hot else (Action.FETCH_AND_INSTALL,)
        case Remove(back=True):
            # Committing a removal drops the hot copy after the tombstone is durable.
            return (Action.FENCE, Action.COMMIT)
        case Remove():
            steps: tuple[Action, ...] = (Action.FENCE, Action.DROP_HOT, Action.REMOVE_COLD)
            return steps if state.pending is None else (Action.SEND_PENDING, *steps)
        case Write(mode=mode, fits=fits, exclusive=exclusive):
            # INVARIANT: a hot copy means the object exists, so an exclusive create has lost and
            # must not touch it. (tests/tier/test_write.py::test_exclusive_create_keeps_hot_copy)
            if exclusive and (state.hot or state.pending == "put"):
                return (Action.REFUSE_EXISTS,)
            if mode == "back" and fits:
                # INVARIANT: nothing is committed before its bytes are safe; what is visible is
                # replaced, never removed first: it may be the only copy.
                # (tests/tier/test_state.py::test_write_back_stages_fences_and_commits)
                return (Action.STAGE, Action.FENCE, Action.COMMIT)
            # INVARIANT: fence and drop come before the cold store changes, installation after.
            # (tests/tier/test_state.py::test_no_crash_between_steps_leaves_a_stale_hot_copy)
            steps = (Action.FENCE, Action.DROP_HOT, Action.WRITE_COLD)
            if mode == "through" and fits:
                steps = (*steps, Action.INSTALL_HOT)
            # INVARIANT: a change that cold has not seen is never overtaken by one that goes there
            # directly, or the older would be sent after the newer.
            # (tests/tier/test_writeback.py::test_write_through_over_a_pending_change)
            return steps if state.pending is None else (Action.SEND_PENDING, *steps)
