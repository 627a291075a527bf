"""Whether a history of concurrent reads and writes of one object is one that a register can have.

The checker, its operations and nothing else live here: who records a history is the test's
business. An operation whose outcome is not known may have happened at any time since it began.

References
----------
Herlihy and Wing, "Linearizability: A Correctness Condition for Concurrent Objects", TOPLAS 1990.
Wing and Gong, "Testing and Verifying Concurrent Objects", JPDC 1993: the search. Lowe, "Testing for
Linearizability", 2017: states that were seen are not searched again. As in porcupine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = ["Operation", "explain", "is_linearizable"]

#: Beginnings and ends of operations are compared, so any clock that all processes share will do.
_NEVER: Final = float("inf")

Kind: TypeAlias = Literal["put", "get", "delete", "create", "replace"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call on one object, as its caller saw it.

    Parameters
    ----------
    kind : {'put', 'get', 'delete', 'create', 'replace'}
        ``create`` stores only where nothing is, ``replace`` only over ``expected``.
    began, ended : float
        Of one clock for all processes.
    value : str or None
        What was stored, or what was read; None for no object. Stored values are unique.
    outcome : {'ok', 'refused', 'unknown'}
        ``refused``: the call said that there was no object (``delete``), that there was one
        (``create``), or that it was another one (``replace``). ``unknown``: it failed in another
        way, and may have happened then, later, or never.
    expected : str or None
        For ``replace``.
    who : str
        For people.
    """

    kind: Kind
    began: float
    ended: float
    value: str | None = None
    outcome: Literal["ok", "refused", "unknown"] = "ok"
    expected: str | None = None
    who: str = ""


def _after(op: Operation, now: str | None) -> tuple[str | None, ...]:
    """Return what the register holds after an operation; nothing where it cannot come here."""
    match op.kind:
        case "put":
            return (op.value,)
        case "get":
            return (now,) if now == op.value else ()
        case "delete":
            fits = op.outcome == "unknown" or (now is None) == (op.outcome == "refused")
            return (None,) if fits else ()
        case "create":
            may = now is None
        case "replace":
            may = now == op.expected
    if op.outcome == "refused":
        return () if may else (now,)
    return (op.value,) if may else ()


def is_linearizable(history: Iterable[Operation], first: str | None = None) -> bool:
    """Say whether the operations can be put in an order that explains all they returned.

    Parameters
    ----------
    history : iterable of Operation
        Of one object; objects are independent of each other, so each is checked alone.
    first : str or None
        What the object held before.

    Notes
    -----
    Cost: exponential in how many operations overlap, in the worst case; histories of some tens of
    operations by eight processes take milliseconds.

    Examples
    --------
    >>> put = Operation("put", 0, 2, "a")
    >>> is_linearizable([put, Operation("get", 1, 3, None)])
    True
    >>> is_linearizable([put, Operation("get", 3, 4, None)])
    False
    """
    return explain(history, first) is not None


def explain(history: Iterable[Operation], first: str | None = None) -> list[Operation] | None:
    """Return an order that explains a history, or None if there is none.

    Unknown operations that explain nothing are left out. Parameters as :func:`is_linearizable`.
    """
    # A read that failed says nothing.
    ops = sorted(
        (op for op in history if not (op.kind == "get" and op.outcome == "unknown")),
        key=lambda op: op.began,
    )
    ends = [_NEVER if op.outcome == "unknown" else op.ended for op in ops]
    needed = sum(1 << i for i, op in enumerate(ops) if op.outcome != "unknown")
    seen: set[tuple[int, str | None]] = set()
    # Depth first: what is done as a bit mask, the value it led to, and the order so far.
    stack: list[tuple[int, str | None, tuple[int, ...]]] = [(0, first, ())]
    while stack:
        done, value, order = stack.pop()
        if done & needed == needed:
            return [ops[i] for i in order]
        if (done, value) in seen:
            continue
        seen.add((done, value))
        left = [i for i in range(len(ops)) if not done >> i & 1]
        # Nothing may come first that began only after another one had ended.
        horizon = min(ends[i] for i in left)
        first_ones = [i for i in left if ops[i].began <= horizon]
        idle = [i for i in first_ones if needed >> i & 1 and _after(ops[i], value) == (value,)]
        # What changes nothing can only be helped by coming at once: no other order need be tried.
        for i in idle[:1] or reversed(first_ones):
            nexts = _after(ops[i], value)
            stack.extend((done | 1 << i, after, (*order, i)) for after in nexts)
    return None
