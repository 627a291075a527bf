"""What each consistency mode lets a reader believe without asking.

What lives here: the decision. What must not: I/O, clocks, tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Consistency", "Mode"]

Mode: TypeAlias = Literal["immutable", "ttl", "open", "strict"]


@dataclass(frozen=True, slots=True)
class Consistency:
    """When a remembered fact may be used.

    Parameters
    ----------
    mode : {'immutable', 'ttl', 'open', 'strict'}
        Never asked again; asked again after ``ttl_s``; asked at every open (of a file, or by a
        call that reads an object in one go); asked at every read.
    ttl_s : float
        For ``ttl``.
    negative_ttl_s : float
        For how long "there is no such object" is believed, in ``immutable`` and ``ttl``.

    Examples
    --------
    >>> Consistency("ttl", 10.0, 1.0).believes(absent=False, age_s=9.0)
    True
    >>> Consistency("open", 10.0, 1.0).believes(absent=False, age_s=0.0)
    False
    """

    mode: Mode
    ttl_s: float
    negative_ttl_s: float

    @property
    def remembers(self) -> bool:
        """Whether an answer may serve a second question at all."""
        return self.mode in {"immutable", "ttl"}

    def believes(self, *, absent: bool, age_s: float) -> bool:
        """Say whether a fact of some age needs no question."""
        if age_s < 0 and self.mode == "ttl":
            return False  # the clock was set back: no telling how old it is
        if self.mode == "immutable":
            return not absent or 0 <= age_s < self.negative_ttl_s
        if self.mode == "ttl":
            return age_s < (self.negative_ttl_s if absent else self.ttl_s)
        return False
