"""Power cuts and kills over a directory above another: no copy outlives what it was made of.

What is simulated, and judged, is as in ``test_powercut.py``; besides, every copy above must be
what the directory below has.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tier_power_tools import explore

import vfs.tier.engine as engine_module
import vfs.tier.hot as hot_module
from vfs.testing.crash import Tally
from vfs.tier.hot import HotStore
from vfs.tier.mover import Mover

#: States of one run: a twentieth of those of one directory, as each costs three times as much.
STATES = int(os.environ.get("VFS_CRASH_STATES", "8000")) // 20
PARTS = 4
MUTANT_RUNS = 60


def durability_of(seed: int) -> str:
    return "process" if seed // PARTS % 2 else "power"


@pytest.mark.crash
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_crashes_of_two_directories_lose_tear_and_clobber_nothing(
    part: int, fast_place: Path, record_property: Callable[[str, object], None]
) -> None:
    total = Tally()
    seed = part
    while total.states < STATES / PARTS:
        total.add(explore(fast_place, seed, durability_of(seed), twice=1, two=True))
        assert not total.failures, (seed, total.described)
        seed += PARTS
    record_property("states", total.states)


def nothing(*_: Any, **__: Any) -> None:
    """Stand in for a step that is left out."""


async def kept(self: Mover, keys: list[str]) -> int:
    """Drop no copy above before the directory below is changed."""
    if self.engine.place.below is None:
        return await _drop(self, keys)
    return 0


_drop = Mover.drop

Step = tuple[Any, str, Any, str]


def steps() -> dict[str, Step]:
    return {
        "drop copies that are doubted": (engine_module, "drop_if_doubted", nothing, "process"),
        "drop the copy above first": (Mover, "drop", kept, "power"),
        "sync removals": (HotStore, "sync_removals", nothing, "power"),
        "sync a copy above": (hot_module, "fsync", nothing, "power"),
    }


@pytest.mark.crash
@pytest.mark.mutant
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", steps())
def test_without_any_step_a_copy_above_does_harm(
    step: str, fast_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name, instead, durability = steps()[step]
    monkeypatch.setattr(where, name, instead)
    assert any(
        explore(fast_place, n, durability, twice=0, enough=1, two=True).failures
        for n in range(MUTANT_RUNS)
    ), f"nobody would notice if nobody did: {step}"
