"""The pure order of steps, and what a crash between any two of them leaves behind."""

from __future__ import annotations

import itertools

import pytest

from vfs.tier.state import (
    Action,
    ObjectState,
    Promote,
    Read,
    Remove,
    Write,
    actions_for,
)

A = Action


@pytest.mark.parametrize(
    "hot, event, expected",
    [
        (True, Read(promote=True), [A.SERVE_HOT]),
        (True, Read(promote=False), [A.SERVE_HOT]),
        (False, Read(promote=True), [A.FETCH_AND_INSTALL]),
        (False, Read(promote=False), [A.SERVE_COLD]),
        (True, Promote(), []),
        (False, Promote(), [A.FETCH_AND_INSTALL]),
        (True, Remove(), [A.FENCE, A.DROP_HOT, A.REMOVE_COLD]),
        (False, Remove(), [A.FENCE, A.DROP_HOT, A.REMOVE_COLD]),
        (
            True,
            Write("through", fits=True),
            [A.FENCE, A.DROP_HOT, A.WRITE_COLD, A.INSTALL_HOT],
        ),
        (True, Write("through", fits=False), [A.FENCE, A.DROP_HOT, A.WRITE_COLD]),
        (True, Write("around", fits=True), [A.FENCE, A.DROP_HOT, A.WRITE_COLD]),
        (True, Write("through", fits=True, exclusive=True), [A.REFUSE_EXISTS]),
    ],
)
def test_steps(hot: bool, event: object, expected: list[Action]) -> None:
    assert list(actions_for(ObjectState(hot), event)) == expected  # type: ignore[arg-type]


EFFECTS: dict[Action, tuple[str, object]] = {
    A.FENCE: ("fenced", True),
    A.DROP_HOT: ("hot", None),
    A.WRITE_COLD: ("cold", "new"),
    A.REMOVE_COLD: ("cold", None),
    A.INSTALL_HOT: ("hot", "new"),
}


def stale_after_crash(steps: list[Action], *, was_hot: bool) -> bool:
    """Run every prefix of steps on a model; say whether some crash leaves hot unlike cold.

    A promotion that had read the old bytes tries to install after every step, unless fenced.
    """
    for stop, late in itertools.product(range(len(steps) + 1), repeat=2):
        now: dict[str, object] = {"hot": "old" if was_hot else None, "cold": "old", "fenced": False}
        for index, step in enumerate(steps[:stop]):
            what, value = EFFECTS[step]
            now[what] = value
            if index == late and not now["fenced"] and now["hot"] is None:
                now["hot"] = "old"
        if now["hot"] not in {None, now["cold"]}:
            return True
    return False


@pytest.mark.parametrize("was_hot", [True, False])
@pytest.mark.parametrize(
    "event", [Write("through", fits=True), Write("around", fits=True), Remove()]
)
def test_no_crash_between_steps_leaves_a_stale_hot_copy(
    event: Write | Remove, was_hot: bool
) -> None:
    steps = list(actions_for(ObjectState(was_hot), event))
    assert not stale_after_crash(steps, was_hot=was_hot)


def test_the_check_sees_every_wrong_order() -> None:
    right = list(actions_for(ObjectState(hot=True), Write("through", fits=True)))
    for missing in (A.FENCE, A.DROP_HOT):
        broken = [step for step in right if step is not missing]
        assert stale_after_crash(broken, was_hot=missing is A.DROP_HOT), missing
    safe = {
        order
        for order in itertools.permutations(right)
        if not stale_after_crash(list(order), was_hot=True)
    }
    # Dropping before or after fencing is the same to this model, if both come first.
    assert safe == {tuple(right), (A.DROP_HOT, A.FENCE, A.WRITE_COLD, A.INSTALL_HOT)} & safe
    assert tuple(right) in safe


@pytest.mark.parametrize("exclusive", [True, False])
def test_write_back_stages_fences_and_commits(exclusive: bool) -> None:
    event = Write("back", fits=True, exclusive=exclusive)
    assert actions_for(ObjectState(hot=False), event) == (A.STAGE, A.FENCE, A.COMMIT)
    assert actions_for(ObjectState(hot=False, pending="delete"), event)[-1] is A.COMMIT
    expected = (A.REFUSE_EXISTS,) if exclusive else (A.STAGE, A.FENCE, A.COMMIT)
    assert actions_for(ObjectState(hot=True), event) == expected
    assert actions_for(ObjectState(hot=False, pending="put"), event) == expected


def test_removal_under_write_back_is_a_commit() -> None:
    assert actions_for(ObjectState(hot=True), Remove(back=True)) == (A.FENCE, A.COMMIT)


@pytest.mark.parametrize(
    "event", [Write("through", fits=True), Write("back", fits=False), Remove()]
)
def test_what_cold_has_not_seen_is_sent_before_it_is_overtaken(event: Write | Remove) -> None:
    for state in (ObjectState(hot=True, pending="put"), ObjectState(hot=True, pending="delete")):
        steps = actions_for(state, event)
        assert steps[0] is A.SEND_PENDING
        assert steps[1:] == actions_for(ObjectState(hot=True), event)
