"""Rules: which one a key has, what it says, and what a user may not write."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs.errors import ConfigError
from vfs.policies import rules as module
from vfs.policies.pin import PinSet
from vfs.policies.promotion import PromotionPolicy
from vfs.policies.rules import Demotion, Pinned, Rule, RuleSet
from vfs.tier import ruleoptions
from vfs.tier.ruleoptions import parse_rules

RULES = parse_rules(
    [
        {"match": "**/zarr.json", "pin": True, "write": "through"},
        {"match": "raw/**", "write": "back", "promote": "never"},
        {"match": "raw/**/*.tif", "write": "around"},
        {"match": "*.csv", "promote_max_bytes": "1 KiB"},
        {"match": "keep/**"},
        {"match": "**", "promote": "second", "pin": False},
    ]
)
DEFAULT = PromotionPolicy("always", 100)


@pytest.mark.parametrize(
    "key, number, write, promotion, pinned",
    [
        ("zarr.json", 0, "through", DEFAULT, True),
        ("raw/a/zarr.json", 0, "through", DEFAULT, True),
        ("/raw/a/zarr.json", 0, "through", DEFAULT, True),
        ("raw/a/x.tif", 1, "back", PromotionPolicy("never", 100), True),
        ("/raw/a", 1, "back", PromotionPolicy("never", 100), True),
        ("x.csv", 3, "through", PromotionPolicy("always", 1024), True),
        ("a/x.csv", 5, "through", PromotionPolicy("second", 100), False),
        ("keep/a", 4, "through", DEFAULT, True),
        ("raw", 5, "through", PromotionPolicy("second", 100), False),
    ],
)
def test_the_first_that_matches_decides(
    key: str, number: int, write: str, promotion: PromotionPolicy, pinned: bool
) -> None:
    rule = RULES.find(key)
    assert rule is not None
    assert rule.number == number
    assert RULES.write_mode(key, "through") == write
    assert RULES.promotion(key, DEFAULT) == promotion
    assert (key in Pinned(PinSet([]), PinSet(["**"]), [RULES])) is pinned


def test_no_rule_leaves_it_to_the_options() -> None:
    none = RuleSet()
    assert none.find("a") is None
    assert none.write_mode("a", "around") == "around"
    assert none.promotion("a", DEFAULT) is DEFAULT
    assert parse_rules(None) == none
    assert parse_rules([]) == none


def test_a_rule_pins_by_itself() -> None:
    none = PinSet([])
    assert "a/zarr.json" in Pinned(none, none, [RuleSet(), RULES])
    assert "raw/a" not in Pinned(none, none, [RULES])


def test_pins_by_name_stand_above_rules() -> None:
    assert "a" in Pinned(PinSet(["a"]), PinSet([]), [RULES])
    assert "/a" in Pinned(PinSet(["a"]), PinSet([]), [RULES])
    assert "a" not in Pinned(PinSet([]), PinSet(["a"]), [RULES])
    assert "a" in Pinned(PinSet([]), PinSet(["a"]), [RuleSet()])
    assert 1 not in Pinned(PinSet(["**"]), PinSet([]))


@pytest.mark.parametrize(
    "rule, idle_s, size, reads, allowed",
    [
        ({"age_s": 10}, 10, 0, 0, False),
        ({"age_s": 10}, 10.1, 0, 9, True),
        ({"larger_than": 5}, 0, 5, 0, False),
        ({"larger_than": 5}, 0, 6, 9, True),
        ({"reads_below": 2}, 99, 9, 2, False),
        ({"reads_below": 2}, 0, 0, 1.9, True),
        ({"age_s": 10, "larger_than": 5}, 11, 5, 0, False),
        ({"age_s": 10, "larger_than": 5}, 10, 6, 0, False),
        ({"age_s": 10, "larger_than": 5, "reads_below": 1}, 11, 6, 0, True),
        ({"high_water": 0.9}, 0, 0, 99, True),
    ],
)
def test_every_condition_must_hold(
    rule: dict[str, Any], idle_s: float, size: int, reads: float, allowed: bool
) -> None:
    demotion = Demotion(**rule)
    assert demotion.allows(idle_s, size, reads) is allowed
    assert demotion.reason(idle_s, size, reads)


@pytest.mark.parametrize(
    "rules, where",
    [
        ("**", "rules:"),
        ({"match": "**"}, "rules:"),
        (7, "rules:"),
        (["**"], "rules[0]:"),
        ([{}], "rules[0]:"),
        ([{"match": ""}], "rules[0].match"),
        ([{"match": 3}], "rules[0].match"),
        ([{"match": "[z-a]"}], "rules[0].match"),
        ([{"match": "**"}, {"match": "a", "write": "bak"}], "rules[1].write"),
        ([{"match": "a", "promote": "maybe"}], "rules[0].promote"),
        ([{"match": "a", "promote_max_bytes": "much"}], "rules[0].promote_max_bytes"),
        ([{"match": "a", "promote_max_bytes": -1}], "rules[0].promote_max_bytes"),
        ([{"match": "a", "pin": "yes"}], "rules[0].pin"),
        ([{"match": "a", "pin": True, "demote": {"age_s": 1}}], "rules[0]:"),
        ([{"match": "a", "demote": {}}], "rules[0].demote"),
        ([{"match": "a", "demote": {"age": 1}}], "rules[0].demote: unknown key 'age'"),
        ([{"match": "a", "demote": 5}], "rules[0].demote"),
        ([{"match": "a", "demote": {"age_s": "1 h"}}], "rules[0].demote.age_s"),
        ([{"match": "a", "demote": {"age_s": -1}}], "rules[0].demote.age_s"),
        ([{"match": "a", "demote": {"age_s": float("nan")}}], "rules[0].demote.age_s"),
        ([{"match": "a", "demote": {"larger_than": "x"}}], "rules[0].demote.larger_than"),
        ([{"match": "a", "demote": {"reads_below": 1.5}}], "rules[0].demote.reads_below"),
        ([{"match": "a", "demote": {"high_water": 90}}], "rules[0].demote.high_water"),
        ([{"match": "a", "demote": {"high_water": 0}}], "rules[0].demote.high_water"),
        (
            [{"match": "a", "demote": {"high_water": 0.5, "low_water": 0.6}}],
            "rules[0].demote.low_water",
        ),
        ([{"match": "a", "demote": {"low_water": 0.6}}], "rules[0].demote.low_water"),
    ],
)
def test_wrong_rules_say_where(rules: Any, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules(rules)
    assert str(caught.value).startswith(where), caught.value


def test_one_mark_is_both() -> None:
    found = parse_rules([{"match": "**", "demote": {"high_water": 0.8}}]).rules[0].demote
    assert found is not None
    assert (found.high_water, found.low_water) == (0.8, 0.8)


@given(st.lists(st.sampled_from(["a", "*", "a/*", "**", "?", "**/b"])), st.text("ab/", min_size=1))
def test_the_answer_is_that_of_the_first_alone(globs: list[str], key: str) -> None:
    rules = RuleSet(Rule(number=n, match=glob) for n, glob in enumerate(globs))
    alone = [
        n
        for n, glob in enumerate(globs)
        if key in PinSet([glob]) or key.lstrip("/") in PinSet([glob])
    ]
    found = rules.find(key)
    assert (None if found is None else found.number) == (alone[0] if alone else None)


@pytest.mark.parametrize("where", [module, ruleoptions])
def test_examples(where: Any) -> None:
    failed, attempted = doctest.testmod(where)
    assert failed == 0
    assert attempted > 0
