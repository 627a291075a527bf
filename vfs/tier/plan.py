"""A plan as a value: which moves, by which rule, why, and what they cost.

What lives here: the records, and how people see them. What must not: making a plan, carrying it
out (``planner.py``).
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from vfs.config.sizes import format_bytes

__all__ = ["Applied", "Move", "MoveAction", "Plan", "Prices"]

MoveAction: TypeAlias = Literal["demote", "promote", "upload"]

#: Moves that a notebook shows; a longer list is for ``explain``.
_SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a cold store charges.

    Parameters
    ----------
    get_request, put_request : float
        For one request that reads, and one that writes; removals are free.
    read_gb, write_gb : float
        For 10⁹ bytes out of the store, and into it.
    currency : str
        For people.

    Examples
    --------
    >>> round(Prices(read_gb=0.09, get_request=4e-7).of("promote", 2_000_000_000, 1), 4)
    0.18
    """

    get_request: float = 0.0
    put_request: float = 0.0
    read_gb: float = 0.0
    write_gb: float = 0.0
    currency: str = "USD"

    def of(self, action: MoveAction, size: int, requests: int) -> float:
        """Return what one move costs."""
        if action == "upload":
            return requests * self.put_request + size / 1e9 * self.write_gb
        return requests * self.get_request + (size / 1e9 * self.read_gb if requests else 0.0)


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a plan.

    Parameters
    ----------
    action : {'demote', 'promote', 'upload'}
        Drop a clean hot copy, fetch one, or send what cold does not have yet.
    path : str
        Of the object.
    size : int
        Bytes freed, fetched or sent.
    rule : str
        Which rule asks for it.
    reason : str
        Why, for people.
    requests : int
        To the cold store. A demotion needs none: a copy that is clean is in cold.
    price : float
        By the tier's price table; 0 without one.
    version : str
        Of the object the plan was made for; another one is not moved.
    tier : str
        Of several directories, the one whose copy it is.
    """

    action: MoveAction
    path: str
    size: int
    rule: str
    reason: str
    requests: int
    price: float
    version: str = field(repr=False)
    tier: str = ""

    def __str__(self) -> str:
        where = f" ({self.tier})" if self.tier else ""
        size = format_bytes(self.size)
        return f"{self.action} {self.path}{where}  {size}, {self.rule}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a tier would do now, and why. Nothing is done before ``apply``.

    Parameters
    ----------
    made_at : float
        Seconds since the epoch.
    moves : tuple of Move
        In the order they are made.
    currency : str
        Of the prices; empty without a price table.
    archived : tuple of str
        What was wanted of cold, and must be recalled before it can be promoted, as far as this
        process has been told.
    """

    made_at: float
    moves: tuple[Move, ...]
    currency: str = ""
    archived: tuple[str, ...] = ()

    @property
    def requests(self) -> int:
        """Requests to the cold store."""
        return sum(move.requests for move in self.moves)

    @property
    def price(self) -> float:
        """Of all moves."""
        return sum(move.price for move in self.moves)

    def count(self, action: MoveAction) -> int:
        """Return how many moves of one kind there are."""
        return sum(move.action == action for move in self.moves)

    def size(self, action: MoveAction) -> int:
        """Return the bytes of the moves of one kind."""
        return sum(move.size for move in self.moves if move.action == action)

    def __len__(self) -> int:
        return len(self.moves)

    def __str__(self) -> str:
        if not self.moves:
            return "nothing to move"
        actions: tuple[MoveAction, ...] = ("upload", "demote", "promote")
        parts = [
            f"{action} {self.count(action)} objects, {format_bytes(self.size(action))}"
            for action in actions
            if self.count(action)
        ]
        cost = f", {self.price:.4g} {self.currency}" if self.currency else ""
        return f"{'; '.join(parts)}; {self.requests} requests{cost}"

    def explain(self) -> str:
        """Return every move with its rule and reason, one a line, and the totals."""
        waiting = [f"archived {path}  restore it first" for path in self.archived]
        return "\n".join([*map(str, self.moves), *waiting, str(self)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{move.action}</td><td><code>{html.escape(move.path)}</code></td>"
            f"<td>{format_bytes(move.size)}</td><td>{html.escape(move.rule)}</td>"
            f"<td>{html.escape(move.reason)}</td></tr>"
            for move in self.moves[:_SHOWN]
        )
        more = len(self.moves) - _SHOWN
        rest = f"<p>and {more} more</p>" if more > 0 else ""
        return (
            f"<b>plan</b> {html.escape(str(self))}<table><tr><th>move</th><th>object</th>"
            f"<th>size</th><th>rule</th><th>reason</th></tr>{rows}</table>{rest}"
        )


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a plan.

    Parameters
    ----------
    done : tuple of Move
        Made.
    skipped : tuple of (Move, str)
        Not made, and why: the object changed since, was read, pinned, or moved by somebody else.
    """

    done: tuple[Move, ...]
    skipped: tuple[tuple[Move, str], ...]

    def __str__(self) -> str:
        lines = [f"{len(self.done)} moves made, {len(self.skipped)} skipped"]
        lines += [f"skipped {move.action} {move.path}: {why}" for move, why in self.skipped]
        return "\n".join(lines)
