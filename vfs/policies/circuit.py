"""When a store that does not answer is asked again: closed, open, half-open.

What lives here: the machine, as a value; every answer about it depends on the time it is given.
What must not: clocks, calls, the judgement whether an error is transient.

References
----------
The pattern is Nygard's, "Release It!" (2007), chapter 5; the names of the states are his.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

__all__ = ["Circuit"]

#: Failures in a row that open it. One request in ten failing opens it once in 10^8 requests; a
#: store that is down is seen after fewer requests than are in flight together.
_OPENS_AT: Final = 8

#: The first pause is that of a server that restarts a worker, the last is how late the end of a
#: long outage may be noticed.
_FIRST_PAUSE_S: Final = 0.2
_LAST_PAUSE_S: Final = 30.0

#: People who ask by name are not made to wait for the end of a pause, only for this.
_ASKED_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is known of a store's health: the next state is made of this one.

    Parameters
    ----------
    failures : int
        Transient failures in a row; a probe that fails counts, calls still under way when it
        opened do not.
    failed_s, until_s : float
        When the last of them was, and when the next call may be made.
    why : str
        What the last one said.
    probing : bool
        One call is under way to find out; the others wait for its answer.

    Examples
    --------
    >>> circuit = Circuit()
    >>> for _ in range(8):
    ...     circuit = circuit.failed(100.0, "refused")
    >>> circuit.is_open, circuit.admits(100.1), circuit.admits(100.2)
    (True, False, True)
    >>> probe = circuit.entered(100.2)
    >>> probe.admits(100.2), probe.answered().is_open
    (False, False)
    """

    failures: int = 0
    failed_s: float = 0.0
    until_s: float = 0.0
    why: str = ""
    probing: bool = False

    @property
    def is_open(self) -> bool:
        """Whether calls are held back; half-open counts as open."""
        return self.failures >= _OPENS_AT

    def pause_s(self, now: float) -> float:
        """Return how long no call may be made."""
        if not self.is_open or now < self.failed_s:
            return 0.0  # closed, or the clock was set back: nothing is known of the pause
        return max(0.0, self.until_s - now)

    def admits(self, now: float) -> bool:
        """Say whether a call may be made: any while closed, one after a pause."""
        return not self.is_open or (not self.probing and self.pause_s(now) == 0.0)

    def entered(self, now: float) -> Circuit:
        """Note that an admitted call begins: after a pause it is the probe."""
        return replace(self, probing=True) if self.is_open else self

    def answered(self) -> Circuit:
        """Note that the store did what it was asked, or refused to: it is there."""
        return Circuit()

    def left(self) -> Circuit:
        """Note that a call ended without having asked the store."""
        return replace(self, probing=False)

    def failed(self, now: float, why: str, pause_s: float = 0.0) -> Circuit:
        """Note a transient failure.

        Parameters
        ----------
        now : float
            When.
        why : str
            What it said.
        pause_s : float
            What the store asked for, kept up to the longest pause.
        """
        if self.is_open and not self.probing:
            return self  # it was under way when the circuit opened: no news
        failures = self.failures + 1
        # The exponent is bounded, as an outage may last for years.
        doublings = min(max(0, failures - _OPENS_AT), 30)
        wait_s = min(_LAST_PAUSE_S, max(pause_s, _FIRST_PAUSE_S * 2.0**doublings))
        return Circuit(failures, now, now + wait_s, why)

    def asked(self, now: float) -> Circuit:
        """Note that somebody wants an answer now: the next call may be made soon."""
        soon_s = max(now, self.failed_s + _ASKED_PAUSE_S)
        return replace(self, until_s=min(self.until_s, soon_s))
