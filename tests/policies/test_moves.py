"""Plans as decisions: who is moved, in which order, and what no trace can make them do."""

from __future__ import annotations

import doctest
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfs.policies import moves as module
from vfs.policies.lru import Resident, choose_victims
from vfs.policies.moves import DAY_S, Choice, ColdObject, HotCopy, Situation, choose_moves
from vfs.policies.promotion import PromotionPolicy, PromotionRule
from vfs.policies.rules import Demotion, Rule, RuleSet

NOW = 1e9
ALWAYS = PromotionPolicy("always", 100)


def situation(**changed: Any) -> Situation:
    facts: dict[str, Any] = {
        "now": NOW,
        "used_bytes": 90,
        "limit_bytes": 100,
        "moved_at": {},
        "cold_reads": 100,
        "promoted": 0,
    }
    return Situation(**{**facts, **changed})


def rules(**demote: Any) -> RuleSet:
    return RuleSet([Rule(number=0, match="**", demote=Demotion(**demote))])


def keys(choices: list[Choice]) -> str:
    return " ".join(f"{choice.kind[0]}:{choice.key}" for choice in choices)


HOT = [
    HotCopy("new", 10, NOW - 1, 5.0),
    HotCopy("mid", 30, NOW - 50, 1.0),
    HotCopy("old", 50, NOW - 100, 0.0),
    HotCopy("pin", 5, NOW - 999, 0.0, pinned=True),
]


@pytest.mark.parametrize(
    "demote, found",
    [
        ({"age_s": 0}, "d:old d:mid d:new"),
        ({"age_s": 49}, "d:old d:mid"),
        ({"age_s": 50}, "d:old"),
        ({"larger_than": 29}, "d:old d:mid"),
        ({"reads_below": 1}, "d:old"),
        ({"reads_below": 2, "larger_than": 30}, "d:old"),
        ({"high_water": 0.9, "low_water": 0.1}, ""),
        ({"high_water": 0.89, "low_water": 0.89}, "d:old"),
        ({"high_water": 0.89, "low_water": 0.4}, "d:old"),
        ({"high_water": 0.89, "low_water": 0.39}, "d:old d:mid"),
        ({"high_water": 0.5, "low_water": 0.1, "age_s": 60}, "d:old"),
    ],
)
def test_who_is_demoted_and_in_which_order(demote: dict[str, Any], found: str) -> None:
    chosen = choose_moves(HOT, [], rules(**demote), ALWAYS, situation())
    assert keys(chosen) == found
    assert all(choice.rule == "rules[0] **" and choice.reason for choice in chosen)


def test_the_first_rule_decides_and_water_sinks_through_the_rules() -> None:
    two = RuleSet(
        [
            Rule(number=0, match="old", demote=Demotion(age_s=0)),
            Rule(number=1, match="mid"),
            Rule(number=2, match="**", demote=Demotion(high_water=0.5, low_water=0.5)),
        ]
    )
    # Once "old" has gone there is no need for the second.
    assert keys(choose_moves(HOT, [], two, ALWAYS, situation())) == "d:old"
    assert keys(choose_moves(HOT, [], two, ALWAYS, situation(used_bytes=101))) == "d:old d:new"
    assert choose_moves(HOT, [], RuleSet(), ALWAYS, situation()) == []


@pytest.mark.parametrize(
    "cold, changed, found",
    [
        ([ColdObject("a", 10, 2.0)], {}, "p:a"),
        ([ColdObject("a", 10, 1.9)], {}, ""),
        ([ColdObject("a", 11, 9.0)], {}, ""),
        (
            [ColdObject("a", 5, 2.0), ColdObject("b", 5, 9.0), ColdObject("c", 5, 3.0)],
            {},
            "p:b p:c",
        ),
        ([ColdObject("a", 5, 2.0), ColdObject("b", 5, 9.0)], {"cold_reads": 39}, "p:b"),
        ([ColdObject("a", 5, 2.0)], {"cold_reads": 19}, ""),
        ([ColdObject("a", 5, 2.0)], {"promoted": 5}, ""),
        ([ColdObject("a", 5, 2.0)], {"moved_at": {"a": NOW - DAY_S + 1}}, ""),
        ([ColdObject("a", 5, 2.0)], {"moved_at": {"a": NOW - DAY_S}}, "p:a"),
        ([ColdObject("a", 5, 2.0)], {"moved_at": {"a": NOW + 1}}, ""),
    ],
)
def test_who_is_promoted(cold: list[ColdObject], changed: dict[str, Any], found: str) -> None:
    assert keys(choose_moves([], cold, RuleSet(), ALWAYS, situation(**changed))) == found


@pytest.mark.parametrize(
    "rule, found",
    [
        ({}, "p:a"),
        ({"promote": "never"}, ""),
        ({"promote": "second"}, "p:a"),
        ({"promote_max_bytes": 4}, ""),
        ({"demote": Demotion(larger_than=4)}, ""),
        ({"demote": Demotion(larger_than=5)}, "p:a"),
        ({"demote": Demotion(age_s=0)}, "p:a"),
        ({"demote": Demotion(reads_below=3)}, ""),
        ({"demote": Demotion(high_water=0.94, low_water=0.5)}, ""),
        ({"demote": Demotion(high_water=0.95, low_water=0.5)}, "p:a"),
    ],
)
def test_nothing_is_promoted_that_would_be_demoted(rule: dict[str, Any], found: str) -> None:
    only = RuleSet([Rule(number=0, match="**", **rule)])
    cold = [ColdObject("a", 5, 2.0)]
    assert keys(choose_moves([], cold, only, ALWAYS, situation())) == found


@dataclass
class Simulation:
    """A tier without bytes: reads, promotion by reads, eviction for room, plans applied."""

    limit: int
    rules: RuleSet
    promotion: PromotionPolicy
    now: float = NOW
    hot: dict[str, tuple[int, float]] = field(default_factory=dict)
    reads: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cold: list[tuple[float, str]] = field(default_factory=list)
    moves: list[tuple[float, str, str]] = field(default_factory=list)
    requests: int = 0

    def read(self, key: str, size: int) -> None:
        self.reads[key].append(self.now)
        if key in self.hot:
            self.hot[key] = (size, self.now)
            return
        before = sum(1 for _, name in self.cold if name == key)
        self.requests += 1
        self.cold.append((self.now, key))
        if self.rules.promotion(key, self.promotion).wants(reads_before=before, size_bytes=size):
            self.install(key, size)

    def install(self, key: str, size: int) -> None:
        need = sum(s for s, _ in self.hot.values()) + size - self.limit
        for victim in choose_victims([Resident(k, s, at) for k, (s, at) in self.hot.items()], need):
            del self.hot[victim.key]
        if sum(s for s, _ in self.hot.values()) + size <= self.limit:
            self.hot[key] = (size, self.now)

    def plan(self, sizes: dict[str, int]) -> None:
        since = self.now - DAY_S
        recent = [move for move in self.moves if move[0] > since]
        cold_reads = Counter(key for at, key in self.cold if at > since)
        heat = {key: sum(at > since for at in times) for key, times in self.reads.items()}
        chosen = choose_moves(
            [HotCopy(k, s, at, heat.get(k, 0)) for k, (s, at) in self.hot.items()],
            [ColdObject(k, sizes[k], n) for k, n in cold_reads.items() if k not in self.hot],
            self.rules,
            self.promotion,
            situation(
                now=self.now,
                used_bytes=sum(s for s, _ in self.hot.values()),
                limit_bytes=self.limit,
                moved_at={key: at for at, _, key in recent},
                cold_reads=cold_reads.total(),
                promoted=sum(kind == "promote" for _, kind, _ in recent),
            ),
        )
        for choice in chosen:
            self.moves.append((self.now, choice.kind, choice.key))
            if choice.kind == "demote":
                del self.hot[choice.key]
            else:
                self.requests += 1
                before = set(self.hot)
                self.install(choice.key, choice.size_bytes)
                assert before < set(self.hot), "a plan's promotion evicts nothing"


DEMOTIONS = st.builds(
    Demotion,
    age_s=st.none() | st.sampled_from([0.0, 60.0, 7200.0]),
    larger_than=st.none() | st.integers(0, 6),
    reads_below=st.none() | st.integers(0, 4),
    high_water=st.none() | st.just(0.6),
    low_water=st.none() | st.just(0.3),
)
#: (seconds that pass, which object; None for a plan that is applied)
TRACES = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 61.0, 3600.0, 7300.0, DAY_S / 2, DAY_S - 1, DAY_S]),
        st.none() | st.integers(0, 5),
    ),
    max_size=120,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(DEMOTIONS, min_size=1, max_size=3),
    st.sampled_from(["always", "second", "never"]),
    st.integers(3, 12),
    TRACES,
)
def test_at_most_one_move_a_day(
    demotions: list[Demotion],
    promote: PromotionRule,
    limit: int,
    trace: list[tuple[float, int | None]],
) -> None:
    globs = ["[01]", "[23]", "**"]
    found = RuleSet(Rule(number=n, match=globs[n], demote=d) for n, d in enumerate(demotions))
    sizes = {str(n): n + 1 for n in range(6)}
    simulation = Simulation(limit, found, PromotionPolicy(promote, 5))
    for seconds, number in trace:
        simulation.now += seconds
        if number is None:
            simulation.plan(sizes)
        else:
            simulation.read(str(number), sizes[str(number)])
    last: dict[str, float] = {}
    for at, _, key in simulation.moves:
        assert at - last.get(key, -DAY_S) >= DAY_S, (key, simulation.moves)
        last[key] = at


def test_the_worst_trace_is_held_to_one_move_a_day() -> None:
    """Read it and let it rest, for a week, a plan a minute: demoted once a day, not 5000 times."""
    simulation = Simulation(100, rules(age_s=30), ALWAYS)
    for minute in range(7 * 1440):
        simulation.now += 60
        simulation.plan({"a": 1})
        if minute % 2 == 0:
            simulation.read("a", 1)
    assert 6 <= len(simulation.moves) <= 7


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(5, 60), st.sampled_from(["always", "second", "never"]))
def test_a_plan_costs_at_most_a_twentieth_more(
    seed: int, limit: int, promote: PromotionRule
) -> None:
    """Every object equally likely, nothing to be gained: at most 5 % above cold alone."""
    chance = random.Random(seed)
    sizes = {str(n): chance.randint(1, 3) for n in range(100)}
    simulation = Simulation(
        limit, rules(high_water=0.8, low_water=0.5), PromotionPolicy(promote, 3)
    )
    reads = 400
    for number in range(reads):
        simulation.now += chance.choice([1.0, 600.0])
        key = chance.choice(list(sizes))
        simulation.read(key, sizes[key])
        if number % 10 == 0:
            simulation.plan(sizes)
    assert simulation.requests <= 1.05 * reads


def test_every_object_read_twice_costs_at_most_a_twentieth_more() -> None:
    """The trace that is worst for promotion: what looks hot is never read again."""
    simulation = Simulation(10_000, RuleSet(), PromotionPolicy("second", 100))
    simulation.promotion = PromotionPolicy("always", 100)
    sizes = {str(n): 1 for n in range(500)}
    reads = 0
    for key in sizes:
        for _ in range(2):
            simulation.cold.append((simulation.now, key))  # no copy was left: there was no room
            simulation.requests += 1
            reads += 1
        simulation.now += 1
        simulation.plan(sizes)
    assert any(kind == "promote" for _, kind, _ in simulation.moves)
    assert simulation.requests <= 1.05 * reads


def test_examples() -> None:
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted > 0
