"""Promotion: whether a cold read should leave a hot copy behind.

What lives here: the decision by rule, size and number of reads. What must not: reading anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["PromotionPolicy", "PromotionRule"]

PromotionRule: TypeAlias = Literal["always", "second", "never"]


@dataclass(frozen=True, slots=True)
class PromotionPolicy:
    """When a cold object is copied to the hot tier.

    Parameters
    ----------
    rule : {'always', 'second', 'never'}
        At the first read, at the second, or only when asked for by name. ``second`` keeps a
        one-off scan from pushing out what is used again.
    max_bytes : int
        Larger objects are read by range from cold.

    Examples
    --------
    >>> PromotionPolicy("second", 100).wants(reads_before=0, size_bytes=10)
    False
    """

    rule: PromotionRule
    max_bytes: int

    def may_want(self, reads_before: int) -> bool:
        """Say whether the size is worth asking for."""
        return self.rule == "always" or (self.rule == "second" and reads_before > 0)

    def wants(self, *, reads_before: int, size_bytes: int) -> bool:
        """Decide for an object of known size."""
        return self.may_want(reads_before) and size_bytes <= self.max_bytes
