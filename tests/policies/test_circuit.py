"""The circuit as a table: what opens it, what one probe may, what closes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vfs.policies.circuit import Circuit

#: Eight failures in a row open it, for 0.2 s at first and 30 s at last.
OPENS_AT = 8


def opened(now: float = 100.0) -> Circuit:
    circuit = Circuit()
    for _ in range(OPENS_AT):
        circuit = circuit.failed(now, "refused")
    return circuit


def probed(circuit: Circuit, now: float) -> Circuit:
    assert circuit.admits(now)
    return circuit.entered(now)


@pytest.mark.parametrize(
    "history, is_open",
    [
        ("", False),
        ("f" * (OPENS_AT - 1), False),
        ("f" * OPENS_AT, True),
        ("f" * (OPENS_AT - 1) + "a" + "f", False),
        ("fa" * 100, False),
        ("f" * OPENS_AT + "l", True),
        ("f" * OPENS_AT + "a", False),
        ("f" * OPENS_AT + "pf", True),
        ("f" * OPENS_AT + "pl", True),
        ("f" * OPENS_AT + "pa", False),
    ],
)
def test_only_failures_in_a_row_open_it(history: str, is_open: bool) -> None:
    circuit, now = Circuit(), 100.0
    for step in history:
        now += 60.0
        match step:
            case "f":
                circuit = circuit.failed(now, "refused")
            case "a":
                circuit = circuit.answered()
            case "l":
                circuit = circuit.left()
            case "p":
                circuit = circuit.entered(now)
    assert circuit.is_open is is_open
    assert circuit.why == ("refused" if circuit.failures else "")


def test_while_closed_everybody_is_admitted() -> None:
    circuit = Circuit().failed(100.0, "refused")
    for _ in range(50):
        assert circuit.admits(100.0)
        circuit = circuit.entered(100.0)


def test_after_a_pause_one_probe_is_admitted() -> None:
    circuit = opened(100.0)
    assert not circuit.admits(100.19)
    probe = probed(circuit, 100.2)
    assert not probe.admits(100.3), "one, whatever else wants to go"
    assert not probe.admits(1e6)
    assert probed(probe.left(), 100.3), "it did not ask after all"


def test_pause_doubles_up_to_a_limit() -> None:
    circuit, now, pauses = opened(), 100.0, []
    for _ in range(100):
        pauses.append(round(circuit.pause_s(now), 6))
        now = circuit.until_s
        circuit = probed(circuit, now).failed(now, "refused")
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == max(pauses) == 30.0


def test_calls_under_way_when_it_opened_change_nothing() -> None:
    circuit = opened()
    assert circuit.failed(100.1, "late") == circuit
    assert circuit.answered() == Circuit(), "but an answer does: the store is there"


def test_store_that_asks_for_time_gets_it() -> None:
    circuit = replace(opened(), probing=True)
    assert circuit.failed(100.0, "slow down", pause_s=7.0).pause_s(100.0) == 7.0
    assert circuit.failed(100.0, "slow down", pause_s=1e9).pause_s(100.0) == 30.0


def test_who_asks_by_name_waits_a_second_at_most() -> None:
    circuit = opened()
    for _ in range(20):
        circuit = probed(circuit, circuit.until_s).failed(circuit.until_s, "refused")
    now = circuit.failed_s
    assert circuit.pause_s(now) == 30.0
    assert circuit.asked(now).pause_s(now) == 1.0
    assert circuit.asked(now + 5).admits(now + 5)
    assert not circuit.asked(now + 5).entered(now + 5).admits(now + 5)
    assert Circuit().asked(now) == Circuit()


def test_clock_that_is_set_back_holds_nothing_up() -> None:
    assert opened(100.0).admits(50.0)
