"""The circuit of one tier: consulted before cold is asked, told afterwards, recorded for all.

What lives here: the clock, the record in the journal, which errors count. What must not: when the
circuit opens (``policies/circuit.py``), requests.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, NamedTuple

from vfs.core.clock import SYSTEM_CLOCK, Clock
from vfs.core.loop import run_in_thread
from vfs.errors import CircuitOpenError, ThrottledError, is_retryable
from vfs.observe import Event, emit, logger
from vfs.policies.circuit import Circuit

if TYPE_CHECKING:
    from vfs.tier.journal import Journal

__all__ = ["Breaker", "Outage", "outage_of"]

#: Name of the record in the journal: it is there exactly while the circuit is open.
_NOTE: Final = "outage"


#: How often it is looked whether the probe of somebody else has ended: about a request's time.
_PROBE_S: Final = 0.02


class Outage(NamedTuple):
    """For how long no upload is tried, and why; zero and empty while all is well."""

    pause_s: float
    why: str


def outage_of(journal: Journal, clock: Clock = SYSTEM_CLOCK) -> Outage:
    """Return what the sender of the machine, whichever process it is, has recorded."""
    circuit = _recorded(journal)
    return Outage(circuit.pause_s(clock.wall_s()), circuit.why)


def _recorded(journal: Journal) -> Circuit:
    found = journal.note(_NOTE)
    return Circuit() if found is None else Circuit(**json.loads(found))


class Breaker:
    """The circuit that all uploads of one process share; on the I/O loop only.

    Parameters
    ----------
    clock : Clock
        Wall time is used, as the record outlives the process.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.clock = clock
        self.circuit = Circuit()
        self._waits: int | None = None

    async def adopt(self, journal: Journal) -> None:
        """Go on where another process of this machine, which may have died, has stopped."""
        if not self.circuit.is_open:
            self.circuit = await run_in_thread(_recorded, journal)

    async def heed(self, journal: Journal) -> None:
        """Shorten the pause if somebody, in whichever process, waits: for a flush, or for room."""
        waits = int(await run_in_thread(journal.note, "waits") or 0)
        before, self._waits = self._waits, waits
        if before != waits:
            self.ask()

    def ask(self) -> None:
        """Shorten the pause: somebody waits for the answer."""
        self.circuit = self.circuit.asked(self.clock.wall_s())

    @property
    def is_open(self) -> bool:
        """Whether cold failed last; then one step at a time is tried."""
        return self.circuit.is_open

    def pause_s(self) -> float:
        """Return how long nothing may be sent."""
        return self.circuit.pause_s(self.clock.wall_s())

    def rest_s(self) -> float:
        """Return how long to wait before a turn: for a pause, or for a probe's answer."""
        now = self.clock.wall_s()
        return 0.0 if self.circuit.admits(now) else max(_PROBE_S, self.circuit.pause_s(now))

    def enter(self) -> bool:
        """Begin a call, if one may be made now; whoever does must :meth:`leave`."""
        now = self.clock.wall_s()
        if not self.circuit.admits(now):
            return False
        self.circuit = self.circuit.entered(now)
        return True

    async def leave(self, journal: Journal, error: Exception | None, *, done: bool) -> None:
        """End a call: with an error, done, or neither where cold was not asked.

        INVARIANT: what cold refuses is an answer: only transient failures open the circuit.
        (tests/tier/test_circuit.py::test_refusals_do_not_open_it)
        """
        before = self.circuit
        if error is None and not done:
            self.circuit = before.left()
            return
        if error is None or not is_retryable(error):
            self.circuit = before.answered()
        else:
            pause_s = error.retry_after_s if isinstance(error, ThrottledError) else None
            why = f"{type(error).__name__}: {error}"
            self.circuit = before.failed(self.clock.wall_s(), why, pause_s or 0.0)
        await self._record(journal, before)

    async def _record(self, journal: Journal, before: Circuit) -> None:
        """Let every process know that uploads pause, or do no longer."""
        now = self.circuit
        if not (now.is_open or before.is_open) or now == before:
            return
        if now.is_open:
            if not before.is_open:
                logger.warning("uploads pause, the cold store fails: %s", now.why)
                emit(Event("paused", "", reason=now.why))
            await run_in_thread(journal.set_note, _NOTE, json.dumps(asdict(now)))
        else:
            logger.info("the cold store answers again, uploads go on")
            emit(Event("resumed", ""))
            await run_in_thread(journal.set_note, _NOTE, None)

    def refusal(self, key: str) -> CircuitOpenError:
        """Return the error of a call that was not made."""
        message = (
            f"not sent: uploads are paused for {self.pause_s():.1f} s, since the cold store "
            f"fails: {self.circuit.why}; what waits is safe, flush() tries again"
        )
        return CircuitOpenError(message, key)
