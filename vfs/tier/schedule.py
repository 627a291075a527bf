"""Which changes may be sent now: the order of zarr, of directories, and of turns.

What lives here: questions to the journal. What must not: sending, waiting.

A put waits for removals that would be in its way; metadata waits for what is below it, and until
its node is quiet; removals wait for metadata above them. A change that failed for good keeps
waiting, and so does what must not be seen before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vfs.policies.zarrorder import ancestors_of, node_of, rank_of
from vfs.tier.journal import Change, Journal, Kind, State, below

__all__ = ["Schedule", "Turn", "in_the_way", "waits_for"]

#: An object that is written to again and again is sent after so many delays nevertheless.
_DELAYS: Final = 5

#: Changes taken in one turn. A turn costs two journal commits.
_PUTS: Final = 128
_DELETES: Final = 1000

_MAY_GO: Final = f"state<={int(State.REFUSED)} AND not_before<=?"


@dataclass(frozen=True, slots=True)
class Turn:
    """What may be sent now, and when to look again at what may not."""

    puts: list[Change]
    deletes: list[Change]
    folders: list[str]
    next_s: float | None

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes or self.folders)


def waits_for(change: Change, other: Change) -> bool:
    """Say whether a change may not be sent before another one."""
    near = other.key in ancestors_of(change.key) or change.key in ancestors_of(other.key)
    if change.kind is not other.kind and near:
        return True
    above = node_of(change.key) in ancestors_of(other.key)
    if change.kind is Kind.PUT:
        return bool(rank_of(change.key) and above and other.kind is Kind.PUT)
    return bool(rank_of(other.key) and node_of(other.key) in ancestors_of(change.key))


def in_the_way(journal: Journal, key: str) -> tuple[list[Change], list[str]]:
    """Return pending removals above and below a key, and directories at and below it."""
    above = [name for name in ancestors_of(key) if name.strip("/")]
    condition, arguments = below(key)
    marks = ",".join("?" * len(above))
    found = journal.select(f"kind=1 AND ({condition} OR key IN ({marks}))", (*arguments, *above))
    folders = sorted(journal.folders(key), key=lambda name: name.count("/"), reverse=True)
    return found, folders


class Schedule:
    """The order of one journal's changes.

    Parameters
    ----------
    journal : Journal
        Whose.
    quiet_s : float
        How long a zarr node must not have been written to before its metadata goes.
    max_lag_s : float or None
        Nothing waits longer than half of this.
    delay_s : float, default 0.0
        How long an object must not have been written to before it goes.
    """

    def __init__(
        self, journal: Journal, quiet_s: float, max_lag_s: float | None, delay_s: float = 0.0
    ) -> None:
        self.journal = journal
        self.quiet_s = quiet_s
        self.max_lag_s = max_lag_s
        self.delay_s = delay_s

    def next_turn(self, now: float) -> Turn:
        """Choose what may be sent now."""
        ask = self.journal
        flush = ask.flush_wanted()
        deleting = ask.any("kind=1")
        puts, waits = self._objects(now)
        if deleting or ask.folders():
            puts = [change for change in puts if not self._in_the_way(change)]
        metadata = ask.select(f"kind=0 AND rank>0 AND {_MAY_GO}", (now,))
        for change in metadata:
            wait_s = self._hold_s(change, now, flush, self.quiet_s)
            if wait_s > 0:
                waits.append(wait_s)
            elif not self._is_barred(change, flush) and not self._in_the_way(change):
                puts.append(change)
        deletes = self._deletes(now) if deleting else []
        folders = [] if puts or deletes else self._empty_folders()
        if (later := ask.soonest(now)) is not None:
            waits.append(later - now)
        return Turn(puts, deletes, folders, min(waits, default=None))

    def _objects(self, now: float) -> tuple[list[Change], list[float]]:
        """Return the oldest objects that may go, and how long those before whom nobody goes wait.

        The order is that of the last writes, so that what follows one that waits waits, too.
        """
        wanted = self.journal.room_wanted()
        some = f"kind=0 AND rank=0 AND {_MAY_GO}"
        # The oldest alone tells whether any may go: this is asked while others write.
        for first in self.journal.select(some, (now,), 1):
            hold_s = self._hold_s(first, now, wanted, self.delay_s)
            if hold_s > 0:
                late = now - _DELAYS * self.delay_s
                return self.journal.select(f"since<=? AND {some}", (late, now), _PUTS), [hold_s]
        found = self.journal.select(some, (now,), _PUTS)
        return [c for c in found if self._hold_s(c, now, wanted, self.delay_s) <= 0], []

    def _hold_s(self, change: Change, now: float, wanted: int, quiet_s: float) -> float:
        """Return how long a change still waits to be left alone for ``quiet_s``."""
        if change.gen <= wanted:
            return 0.0
        left_s = quiet_s - (now - change.touched)
        # INVARIANT: what was written after ``now`` was read is not quiet either.
        # (tests/tier/test_uploader.py::test_metadata_younger_than_the_look_is_held)
        if not 0 < left_s <= 2 * quiet_s:
            return 0.0  # quiet, or the clock was set back
        if self.max_lag_s is not None and now - change.since >= self.max_lag_s / 2:
            return 0.0
        return left_s

    def _is_barred(self, change: Change, flush: int) -> bool:
        """Say whether something below metadata has to be sent before it.

        INVARIANT: metadata is never in cold before what was written under it.
        (tests/tier/test_writeback_zarr.py::test_cold_never_shows_metadata_before_chunks)
        """
        node = node_of(change.key)
        condition, arguments = below(node)
        rank = rank_of(change.key)
        # Under a flush only what it asked for: a writer that never rests must not hold it up.
        limit = max(flush, change.gen) if change.gen <= flush else (1 << 62)
        return self.journal.any(
            f"kind=0 AND {condition} AND key<>? AND gen<=? AND (node<>? OR rank<?)",
            (*arguments, change.key, limit, node, rank),
        )

    def _in_the_way(self, change: Change) -> bool:
        """Say whether a removal must go before a put: of an object above it, or of one below."""
        above = [name for name in ancestors_of(change.key) if name.strip("/")]
        marks = ",".join("?" * len(above))
        if above and self.journal.any(f"kind=1 AND key IN ({marks})", above):
            return True
        condition, arguments = below(change.key)
        if self.journal.any(f"kind=1 AND {condition}", arguments):
            return True
        return change.key in self.journal.folders(change.key)

    def _deletes(self, now: float) -> list[Change]:
        found = self.journal.select(f"kind=1 AND {_MAY_GO}", (now,), _DELETES)
        metadata = self.journal.select("rank>0")
        nodes = {node_of(change.key): 0 for change in metadata}
        for change in metadata:
            node = node_of(change.key)
            nodes[node] = max(nodes[node], rank_of(change.key))
        return [
            change
            for change in found
            if not self._above_waits(change, nodes) or self._makes_way(change)
        ]

    def _above_waits(self, change: Change, nodes: dict[str, int]) -> bool:
        """Say whether metadata above a removal has to go first.

        INVARIANT: chunks are removed after the metadata that speaks of them.
        (tests/tier/test_writeback_zarr.py::test_removal_takes_metadata_first)
        """
        own, rank = node_of(change.key), rank_of(change.key)
        return any(
            name in nodes and (rank == 0 or name != own or nodes[name] > rank)
            for name in ancestors_of(change.key)
        )

    def _makes_way(self, change: Change) -> bool:
        """Say whether a put waits for this removal, which then must not wait for metadata."""
        above = [name for name in ancestors_of(change.key) if name.strip("/")]
        marks = ",".join("?" * len(above))
        if above and self.journal.any(f"kind=0 AND key IN ({marks})", above):
            return True
        condition, arguments = below(change.key)
        return self.journal.any(f"kind=0 AND {condition}", arguments)

    def _empty_folders(self) -> list[str]:
        """Return directories to be removed below which nothing is pending, the deepest first."""
        ready = []
        for folder in self.journal.folders():
            condition, arguments = below(folder)
            if not self.journal.any(f"{condition} AND kind=1", arguments):
                ready.append(folder)
        return sorted(ready, key=lambda name: name.count("/"), reverse=True)
