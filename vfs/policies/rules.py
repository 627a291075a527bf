"""Rules: what holds for the objects of a glob. In order; the first that matches decides.

What lives here: the rules as values, and which of them a key has. What must not: checking what a
user wrote, carrying anything out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vfs.policies.pin import PinSet, glob_to_regex
from vfs.policies.promotion import PromotionPolicy, PromotionRule

__all__ = ["Demotion", "Pinned", "Rule", "RuleSet", "WriteMode"]

WriteMode: TypeAlias = Literal["through", "around", "back"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demotion:
    """Which hot copies a plan drops. Every condition that is given must hold.

    Parameters
    ----------
    age_s : float, optional
        Not read for so long.
    larger_than : int, optional
        More bytes than this.
    reads_below : int, optional
        Fewer reads than this within a day.
    high_water, low_water : float, optional
        Shares of the hot tier's limit. Nothing is dropped up to the higher one; beyond it, what
        was not used for longest goes until the lower one is reached.

    Examples
    --------
    >>> rule = Demotion(age_s=60, larger_than=10)
    >>> rule.allows(idle_s=61, size_bytes=11, reads=9), rule.allows(61, 10, 0)
    (True, False)
    """

    age_s: float | None = None
    larger_than: int | None = None
    reads_below: int | None = None
    high_water: float | None = None
    low_water: float | None = None

    def allows(self, idle_s: float, size_bytes: int, reads: float) -> bool:
        """Say whether a copy may go, as far as the copy itself matters."""
        return (
            (self.age_s is None or idle_s > self.age_s)
            and (self.larger_than is None or size_bytes > self.larger_than)
            and (self.reads_below is None or reads < self.reads_below)
        )

    def reason(self, idle_s: float, size_bytes: int, reads: float) -> str:
        """Return why a copy goes, for people."""
        said = []
        if self.age_s is not None:
            said.append(f"not read for {idle_s:.0f} s (more than {self.age_s:g})")
        if self.larger_than is not None:
            said.append(f"{size_bytes} bytes (more than {self.larger_than})")
        if self.reads_below is not None:
            said.append(f"about {reads:.1f} reads in a day (fewer than {self.reads_below})")
        if self.high_water is not None:
            said.append(f"the hot tier is fuller than {self.high_water:.0%}, least recently used")
        return ", ".join(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What holds for the keys of one glob; None leaves it to the tier's own options.

    Parameters
    ----------
    number : int
        Its place among the rules, from 0.
    match : str
        The glob, as those of ``pin``.
    write : {'through', 'around', 'back'}, optional
        Where a write goes before it is acknowledged.
    promote : {'always', 'second', 'never'}, optional
        When a read leaves a hot copy.
    promote_max_bytes : int, optional
        Larger objects leave none.
    demote : Demotion, optional
        Which copies a plan drops.
    pin : bool, optional
        Whether hot copies are never dropped.
    """

    number: int
    match: str
    write: WriteMode | None = None
    promote: PromotionRule | None = None
    promote_max_bytes: int | None = None
    demote: Demotion | None = None
    pin: bool | None = None

    def __str__(self) -> str:
        return f"rules[{self.number}] {self.match}"


class RuleSet:
    """Rules in their order.

    Parameters
    ----------
    rules : iterable of Rule
        The first whose glob matches a key is the key's rule, whatever it leaves open.

    Examples
    --------
    >>> first, second = Rule(number=0, match="**/zarr.json", pin=True), Rule(number=1, match="**")
    >>> rules = RuleSet([first, second])
    >>> str(rules.find("a/zarr.json")), str(rules.find("/a/c/0"))
    ('rules[0] **/zarr.json', 'rules[1] **')
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self._matches = [
            (re.compile(glob_to_regex(rule.match), re.DOTALL).fullmatch, rule)
            for rule in self.rules
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RuleSet) and self.rules == other.rules

    def __hash__(self) -> int:
        return hash(self.rules)

    def find(self, key: str) -> Rule | None:
        """Return the rule of a key. Keys of local stores start with a slash; globs need not."""
        bare = key.lstrip("/")
        for match, rule in self._matches:
            if match(key) or (bare != key and match(bare)):
                return rule
        return None

    def write_mode(self, key: str, default: WriteMode) -> WriteMode:
        """Return where a write of a key goes."""
        rule = self.find(key)
        return default if rule is None or rule.write is None else rule.write

    def promotion(self, key: str, default: PromotionPolicy) -> PromotionPolicy:
        """Return when a read of a key leaves a hot copy."""
        rule = self.find(key)
        if rule is None or (rule.promote is None and rule.promote_max_bytes is None):
            return default
        largest = rule.promote_max_bytes
        return PromotionPolicy(
            rule.promote or default.rule, default.max_bytes if largest is None else largest
        )

    @property
    def write_modes(self) -> frozenset[WriteMode]:
        """Every mode that some rule names."""
        return frozenset(rule.write for rule in self.rules if rule.write is not None)


class Pinned:
    """Every key that may not leave the hot tier, for whichever reason.

    Parameters
    ----------
    named : PinSet
        Pinned by name: always.
    configured : PinSet
        Pinned by an option, unless the key's rule says otherwise.
    rule_sets : iterable of RuleSet
        Of everyone who uses the hot tier; one that pins is enough.
    """

    def __init__(
        self, named: PinSet, configured: PinSet, rule_sets: Iterable[RuleSet] = ()
    ) -> None:
        self.named = named
        self.configured = configured
        self.rule_sets = tuple(rule_sets)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        bare = key.lstrip("/")
        if key in self.named or bare in self.named:
            return True
        found = [rules.find(key) for rules in self.rule_sets]
        said = {rule.pin for rule in found if rule is not None}
        if True in said:
            return True
        return False not in said and (key in self.configured or bare in self.configured)
