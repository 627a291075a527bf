"""Which objects should be on which tier: a plan, from what is known of each.

What lives here: the choice and its reason. What must not: how heat is measured, how an object is
moved, what it costs.

Two bounds hold by construction. An object that was moved is left alone for a day, so no trace can
make it swing. And what a plan fetches is at most a twentieth of what readers fetched from cold
anyway, so no trace can make a tier cost more than 5 % above cold alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from vfs.policies.promotion import PromotionPolicy
from vfs.policies.rules import Rule, RuleSet

__all__ = ["DAY_S", "Choice", "ColdObject", "HotCopy", "Situation", "choose_moves"]

#: How long an object is left alone after a move, and the window that reads are counted in. Work
#: has the rhythm of days; what was right in the morning should not be undone before the next.
DAY_S: Final = 86400.0

#: Promotions of plans, over what readers fetched from cold within the same day.
_EXTRA_REQUESTS: Final = 0.05

#: Reads within a day that make a cold object worth a copy: once is a scan, again is use.
_WORTH_READS: Final = 2.0

MoveKind: TypeAlias = Literal["demote", "promote"]


class HotCopy(NamedTuple):
    """A clean copy that could leave. ``reads`` are those of about the last day."""

    key: str
    size_bytes: int
    used_at: float
    reads: float
    pinned: bool = False


class ColdObject(NamedTuple):
    """An object without a hot copy that was read. ``reads`` as above."""

    key: str
    size_bytes: int
    reads: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a plan depends on besides the objects themselves.

    Parameters
    ----------
    now : float
        Seconds since the epoch.
    used_bytes, limit_bytes : int
        Of the hot tier.
    moved_at : mapping
        When objects were moved by a plan, as far back as a day.
    cold_reads : float
        Reads that cold answered, within about a day.
    promoted : int
        Promotions by plans, within a day.
    """

    now: float
    used_bytes: int
    limit_bytes: int
    moved_at: Mapping[str, float]
    cold_reads: float
    promoted: int

    def rests(self, key: str) -> bool:
        """Say whether an object was moved less than a day ago.

        INVARIANT: no object is moved twice within a day; a move in the future, from before the
        clock was set back, counts.
        (tests/policies/test_moves.py::test_at_most_one_move_a_day)
        """
        return self.moved_at.get(key, self.now - DAY_S) > self.now - DAY_S


@dataclass(frozen=True, slots=True)
class Choice:
    """One move that a plan wants: of what, by which rule, and why."""

    kind: MoveKind
    key: str
    size_bytes: int
    rule: str
    reason: str


def choose_moves(
    hot: Iterable[HotCopy],
    cold: Iterable[ColdObject],
    rules: RuleSet,
    promotion: PromotionPolicy,
    situation: Situation,
) -> list[Choice]:
    """Return the moves that rules and heat ask for, demotions first.

    Parameters
    ----------
    hot, cold : iterable
        What could be moved. Dirty copies must not be offered.
    rules : RuleSet
        Whose ``demote`` is obeyed.
    promotion : PromotionPolicy
        Of objects whose rule says nothing.
    situation : Situation
        Time, space, and what was done before.

    Notes
    -----
    The same state always gives the same answer.

    Examples
    --------
    >>> from vfs.policies.rules import Demotion
    >>> idle = Rule(number=0, match="**", demote=Demotion(age_s=60))
    >>> now = Situation(
    ...     now=1e9, used_bytes=9, limit_bytes=10, moved_at={}, cold_reads=0, promoted=0
    ... )
    >>> old, new = HotCopy("old", 5, 1e9 - 61, 0), HotCopy("new", 4, 1e9, 0)
    >>> policy = PromotionPolicy("always", 10)
    >>> [move.key for move in choose_moves([old, new], [], RuleSet([idle]), policy, now)]
    ['old']
    """
    demotions = list(_demotions(hot, rules, situation))
    used = situation.used_bytes - sum(choice.size_bytes for choice in demotions)
    return [*demotions, *_promotions(cold, rules, promotion, situation, used)]


def _demotions(hot: Iterable[HotCopy], rules: RuleSet, situation: Situation) -> Iterator[Choice]:
    by_rule: dict[int, list[HotCopy]] = {}
    for copy in hot:
        rule = rules.find(copy.key)
        if rule is None or rule.demote is None or copy.pinned or situation.rests(copy.key):
            continue
        idle_s = max(0.0, situation.now - copy.used_at)
        if rule.demote.allows(idle_s, copy.size_bytes, copy.reads):
            by_rule.setdefault(rule.number, []).append(copy)
    used = situation.used_bytes
    for rule in rules.rules:
        demote = rule.demote
        if demote is None or rule.number not in by_rule:
            continue
        high, low = demote.high_water, demote.low_water
        if high is not None and used <= high * situation.limit_bytes:
            continue
        for copy in sorted(by_rule[rule.number], key=lambda c: (c.used_at, -c.size_bytes, c.key)):
            if low is not None and used <= low * situation.limit_bytes:
                break
            used -= copy.size_bytes
            idle_s = max(0.0, situation.now - copy.used_at)
            reason = demote.reason(idle_s, copy.size_bytes, copy.reads)
            yield Choice("demote", copy.key, copy.size_bytes, str(rule), reason)


def _promotions(
    cold: Iterable[ColdObject],
    rules: RuleSet,
    promotion: PromotionPolicy,
    situation: Situation,
    used: int,
) -> Iterator[Choice]:
    # INVARIANT: plans fetch at most a twentieth of what readers fetched from cold anyway.
    # (tests/policies/test_moves.py::test_a_plan_costs_at_most_a_twentieth_more)
    left = int(_EXTRA_REQUESTS * situation.cold_reads) - situation.promoted
    for found in sorted(cold, key=lambda c: (-c.reads, c.size_bytes, c.key)):
        if left <= 0:
            return
        if found.reads < _WORTH_READS or situation.rests(found.key):
            continue
        rule = rules.find(found.key)
        policy = rules.promotion(found.key, promotion)
        if policy.rule == "never" or found.size_bytes > policy.max_bytes:
            continue
        if not _may_stay(found, rule, used, situation.limit_bytes):
            continue
        used += found.size_bytes
        left -= 1
        reason = f"about {found.reads:.1f} reads in a day came from cold, and there is room"
        name = "promote" if rule is None else str(rule)
        yield Choice("promote", found.key, found.size_bytes, name, reason)


def _may_stay(found: ColdObject, rule: Rule | None, used: int, limit: int) -> bool:
    """Say whether there is room for a copy that the next plan would not drop again."""
    if used + found.size_bytes > limit:
        return False
    if rule is None or rule.demote is None:
        return True
    if rule.demote.high_water is not None:
        return used + found.size_bytes <= rule.demote.high_water * limit
    return not rule.demote.allows(0.0, found.size_bytes, found.reads)
