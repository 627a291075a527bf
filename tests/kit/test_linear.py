"""The checker of histories against histories made by hand, and against all orders by force."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from vfs.testing.linear import Operation, explain, is_linearizable


def put(value: str, began: float, ended: float, outcome: str = "ok") -> Operation:
    return Operation("put", began, ended, value, outcome)  # type: ignore[arg-type]


def get(value: str | None, began: float, ended: float) -> Operation:
    return Operation("get", began, ended, value)


def other(kind: str, began: float, ended: float, outcome: str = "ok", **more: str) -> Operation:
    return Operation(kind, began, ended, outcome=outcome, **more)  # type: ignore[arg-type]


GOOD = {
    "nothing": [],
    "read of nothing": [get(None, 0, 1)],
    "one after the other": [put("a", 0, 1), get("a", 2, 3), put("b", 4, 5), get("b", 6, 7)],
    "read beside a write, old": [put("a", 0, 5), get(None, 1, 2)],
    "read beside a write, new": [put("a", 0, 5), get("a", 1, 2)],
    "two writes at once, either": [put("a", 0, 5), put("b", 0, 5), get("a", 6, 7)],
    "writes swapped by a read": [put("a", 0, 9), put("b", 0, 9), get("b", 1, 2), get("a", 3, 4)],
    "delete": [put("a", 0, 1), other("delete", 2, 3), get(None, 4, 5)],
    "delete of nothing": [other("delete", 0, 1, "refused"), get(None, 2, 3)],
    "create": [other("create", 0, 1, value="a"), other("create", 2, 3, "refused", value="b")],
    "two create at once": [
        other("create", 0, 5, value="a"),
        other("create", 0, 5, "refused", value="b"),
        get("a", 6, 7),
    ],
    "replace": [put("a", 0, 1), other("replace", 2, 3, value="b", expected="a"), get("b", 4, 5)],
    "replace that lost": [
        put("a", 0, 1),
        put("b", 2, 3),
        other("replace", 4, 5, "refused", value="c", expected="a"),
        get("b", 6, 7),
    ],
    "unknown that happened": [put("a", 0, 1, "unknown"), get("a", 2, 3)],
    "unknown that did not": [put("a", 0, 1, "unknown"), get(None, 2, 3)],
    "unknown that happened late": [
        put("a", 0, 1, "unknown"),
        get(None, 2, 3),
        get("a", 4, 5),
    ],
    "unknown create": [other("create", 0, 1, "unknown", value="a"), put("b", 2, 3), get("b", 4, 5)],
    "unknown delete": [put("a", 0, 1), other("delete", 2, 3, "unknown"), get("a", 4, 5)],
    "touching": [put("a", 0, 1), get(None, 1, 2)],
}

BAD = {
    "stale read": [put("a", 0, 1), get(None, 2, 3)],
    "read of what nobody wrote": [put("a", 0, 1), get("b", 0, 3)],
    "old after new": [put("a", 0, 9), get("a", 1, 2), get(None, 3, 4)],
    "lost write": [put("a", 0, 1), put("b", 2, 3), get("a", 4, 5)],
    "seen before it began": [get("a", 0, 1), put("a", 2, 3)],
    "readers that disagree": [
        put("a", 0, 9),
        put("b", 0, 9),
        get("a", 1, 2),
        get("b", 3, 4),
        get("a", 5, 6),
    ],
    "risen": [put("a", 0, 1), other("delete", 2, 3), get("a", 4, 5)],
    "delete that found nothing": [put("a", 0, 1), other("delete", 2, 3, "refused")],
    "delete twice": [put("a", 0, 1), other("delete", 2, 3), other("delete", 4, 5)],
    "two created": [other("create", 0, 5, value="a"), other("create", 0, 5, value="b")],
    "create over something": [put("a", 0, 1), other("create", 2, 3, value="b")],
    "create refused by nothing": [other("create", 0, 1, "refused", value="b")],
    "replace of another": [put("a", 0, 1), other("replace", 2, 3, value="c", expected="b")],
    "two replaced": [
        put("a", 0, 1),
        other("replace", 2, 5, value="b", expected="a"),
        other("replace", 2, 5, value="c", expected="a"),
    ],
    "unknown that happened twice": [
        put("a", 0, 1, "unknown"),
        get("a", 2, 3),
        put("b", 4, 5),
        get("a", 6, 7),
    ],
    "unknown before it began": [get("a", 0, 1), put("a", 2, 3, "unknown")],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories(name: str) -> None:
    order = explain(GOOD[name])
    assert order is not None
    for earlier, later in itertools.combinations(order, 2):
        assert later.outcome == "unknown" or later.ended >= earlier.began


@pytest.mark.parametrize("name", BAD)
def test_bad_histories(name: str) -> None:
    assert not is_linearizable(BAD[name])


def test_what_was_there_before() -> None:
    assert is_linearizable([get("a", 0, 1)], first="a")
    assert not is_linearizable([get(None, 0, 1)], first="a")


def run_register(choose: random.Random, count: int) -> list[Operation]:
    """Make a history that is linearizable: each operation happens at a moment within its time."""
    value: str | None = None
    found = []
    free = [0.0] * 8  # until when each process is busy
    for n in range(count):
        at = n + choose.random()
        who = choose.choice([i for i in range(8) if free[i] < at])
        began = choose.uniform(free[who], at)
        ended = free[who] = at + choose.uniform(0, 6)
        kind = choose.choice(["put", "get", "delete", "create", "replace"])
        new, expected = f"v{n}", choose.choice([value, f"v{n - 1}"])
        outcome = "ok"
        if kind == "put":
            value = new
        elif kind == "get":
            new = value  # type: ignore[assignment]
        elif kind == "delete":
            outcome, value = ("ok", None) if value is not None else ("refused", None)
        elif kind == "create":
            outcome, value = ("ok", new) if value is None else ("refused", value)
        elif kind == "replace":
            outcome, value = ("ok", new) if value == expected else ("refused", value)
        found.append(Operation(kind, began, ended, new, outcome, expected))  # type: ignore[arg-type]
    choose.shuffle(found)
    return found


def by_force(history: list[Operation]) -> bool:
    """Try every order, by other means than the checker."""
    for order in itertools.permutations(history):
        if any(b.ended < a.began for a, b in itertools.combinations(order, 2)):
            continue
        value: str | None = None
        for op in order:
            if op.kind == "get" and value != op.value:
                break
            if op.kind == "delete" and (value is None) != (op.outcome == "refused"):
                break
            if op.kind == "create" and (value is None) != (op.outcome == "ok"):
                break
            if op.kind == "replace" and (value == op.expected) != (op.outcome == "ok"):
                break
            if op.kind == "delete":
                value = None
            elif op.kind != "get" and op.outcome == "ok":
                value = op.value
        else:
            return True
    return False


def test_checker_agrees_with_all_orders_by_force() -> None:
    choose = random.Random(3)
    verdicts = []
    for _ in range(300):
        history = run_register(choose, 5)
        assert is_linearizable(history)
        spoilt = list(history)
        at = choose.randrange(len(spoilt))
        op = spoilt[at]
        value = choose.choice([None, "v0", "v1", "v2"])
        spoilt[at] = Operation("get", op.began, op.ended, value)
        verdicts.append(by_force(spoilt))
        assert is_linearizable(spoilt) == verdicts[-1]
    assert 50 < sum(verdicts) < 250, "both verdicts were met"


def test_long_history_of_eight_takes_no_time() -> None:
    choose = random.Random(5)
    began = time.perf_counter()
    for _ in range(20):
        assert is_linearizable(run_register(choose, 60))
    assert time.perf_counter() - began < 30
