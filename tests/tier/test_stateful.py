"""The dict model against a tier: promotion, eviction, pins, limits, crashes, other instances."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from tier_tools import BrokenCold, hot_files, open_stack, open_tier

from vfs.core.engine import close_engines
from vfs.testing.stateful import FilesystemMachine, choices, contents
from vfs.tier.filesystem import TierFileSystem

#: Examples of one run; docs/testing.md has the sizes of a run and of a release.
EXAMPLES = int(os.environ.get("VFS_MODEL_EXAMPLES", "300"))


class TierMachine(FilesystemMachine):
    """Every rule of the kit, and what only a tier can do."""

    flat: ClassVar[bool] = False
    write: ClassVar[str] = "through"

    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="vfs-machine-"))
        self.pinned: set[str] = set()
        super().__init__()

    def make(self) -> tuple[Any, str]:
        return open_tier(self.top, max_bytes=300_000, write=self.write), "r"

    def wipe(self) -> None:
        """Every run has a directory of its own."""

    def teardown(self) -> None:
        TierFileSystem.clear_instance_cache()
        close_engines()
        shutil.rmtree(self.top)

    def reopened(self) -> Any:
        TierFileSystem.clear_instance_cache()
        close_engines()
        return self.make()[0]

    @rule(choice=choices())
    def promote(self, choice: str | int) -> None:
        name = self.chosen(choice)
        if name in self.model.objects:
            if len(self.model.objects[name]) <= 100_000 and not self.pinned:
                self.fs.promote(self.path(name))
                assert self.fs.status(self.path(name)).state == "HOT"
        else:
            with pytest.raises((FileNotFoundError, IsADirectoryError, NotADirectoryError)):
                self.fs.promote(self.path(name))

    @rule(choice=choices())
    def evict(self, choice: str | int) -> None:
        name = self.chosen(choice)
        if name in self.model.objects and name not in self.pinned:
            self.fs.evict(self.path(name))
            assert self.fs.status(self.path(name)).state == "COLD"

    @rule()
    def evict_all(self) -> None:
        self.fs.evict("", recursive=True)

    @rule(choice=choices())
    def pin(self, choice: str | int) -> None:
        name = self.chosen(choice)
        self.fs.pin(self.path(name))
        self.pinned.add(name)

    @rule()
    def unpin_all(self) -> None:
        for name in self.pinned:
            self.fs.unpin(self.path(name))
        self.pinned.clear()

    @rule(choice=choices(), start=st.integers(-30, 30), end=st.integers(-30, 30))
    def read_by_another_instance(self, choice: str | int, start: int, end: int) -> None:
        other = open_tier(self.top, promote="second", max_bytes=300_000)
        name = self.chosen(choice)
        if name in self.model.objects:
            expected = self.model.objects[name][start:end]
            assert other.cat_file(self.path(name), start, end) == expected

    @rule()
    def power_cut(self) -> None:
        """Come back on what another boot would find: no catalogue that can be trusted."""
        TierFileSystem.clear_instance_cache()
        close_engines()
        for path in (self.top / "hot/.vfs").glob("catalog.sqlite*"):
            path.unlink()
        self.fs = self.make()[0]

    @invariant()
    def hot_copies_equal_cold_objects(self) -> None:
        copies = hot_files(self.top) if (self.top / "hot").exists() else {}
        for key, data in copies.items():
            assert (self.top / "cold" / key).read_bytes() == data
        if copies:
            stats = self.fs.stats()
            assert sum(map(len, copies.values())) == stats.hot_bytes <= 300_000


class AroundMachine(TierMachine):
    write: ClassVar[str] = "around"


class BackMachine(TierMachine):
    """Write-back: what was acknowledged is there whether cold has it or not."""

    def make(self) -> tuple[Any, str]:
        options = {"write": "back", "quiet_s": 0.01, "delay_s": 0.01, "max_dirty_bytes": 2_000_000}
        return self.another(**options), "r"

    def another(self, **options: Any) -> TierFileSystem:
        found: TierFileSystem = fsspec.filesystem(
            "tier",
            hot=str(self.top / "hot"),
            cold=f"broken://{self.top}/cold",
            max_bytes=2_000_000,
            **options,
        )
        return found

    @rule(wait=st.booleans())
    def flush(self, wait: bool) -> None:
        if wait:
            BrokenCold.disarm()  # what is refused for good, flush raises
        left = self.fs.flush(wait=wait)
        if wait:
            assert left == 0
            assert self.fs.pending() == []
            self.cold_equals_model()

    def cold_equals_model(self) -> None:
        """Read cold without the library."""
        cold = self.top / "cold/r"
        found = {p.relative_to(cold).as_posix(): p for p in cold.rglob("*") if p.is_file()}
        assert found.keys() == self.model.objects.keys()
        for name, path in found.items():
            assert path.read_bytes() == self.model.objects[name]

    @rule(choice=choices(), code=st.sampled_from((errno.EIO, errno.ENOSPC, errno.ETIMEDOUT)))
    def cold_fails_next(self, choice: str | int, code: int) -> None:
        """Let the next writes to cold fail, as a disk or a network does."""
        BrokenCold.arm(2, code)

    @rule(choice=choices())
    def promote(self, choice: str | int) -> None:
        name = self.chosen(choice)
        if name in self.model.objects and not self.pinned:
            self.fs.promote(self.path(name))
            assert self.fs.status(self.path(name)).state in {"HOT", "DIRTY"}

    @rule(choice=choices())
    def evict(self, choice: str | int) -> None:
        name = self.chosen(choice)
        if name in self.model.objects and name not in self.pinned:
            refused = contextlib.suppress(OSError)
            with refused if self.fs.status(self.path(name)).dirty else contextlib.nullcontext():
                self.fs.evict(self.path(name))
                assert not self.fs.status(self.path(name)).dirty

    @rule(choice=choices(), start=st.integers(-30, 30), end=st.integers(-30, 30))
    def read_by_another_instance(self, choice: str | int, start: int, end: int) -> None:
        other = self.another(promote="second")
        name = self.chosen(choice)
        if name in self.model.objects:
            expected = self.model.objects[name][start:end]
            assert other.cat_file(self.path(name), start, end) == expected

    @rule(choice=choices(), data=contents())
    def write_through_by_another_instance(self, choice: str | int, data: bytes) -> None:
        name = self.chosen(choice)
        if self.fits(name):
            BrokenCold.disarm()
            self.another().pipe_file(self.path(name), data)
            self.model.put(name, data)

    @invariant()
    def hot_copies_equal_cold_objects(self) -> None:
        if not (self.top / "hot").exists():
            return
        for key, data in hot_files(self.top).items():
            assert data == self.model.objects[key.removeprefix("r/")]
        stats = self.fs.stats()
        assert stats.hot_bytes <= 2_000_000

    def teardown(self) -> None:
        BrokenCold.disarm()
        if self.fs is not None:
            assert self.fs.flush() == 0
            self.cold_equals_model()
        super().teardown()


class StackMachine(BackMachine):
    """Three tiers: the top holds less than the rest, and nothing that the others do not answer."""

    def another(self, promote: str = "always", **options: Any) -> TierFileSystem:
        first = {"max_bytes": 300_000, "promote": promote}
        given = {"max_bytes": 2_000_000, **options}
        return open_stack(self.top, first=first, promote=promote, **given)

    @rule(choice=choices(), name=st.sampled_from(("top", "hot")))
    def evict_from_one(self, choice: str | int, name: str) -> None:
        key = self.chosen(choice)
        directory = str(self.top / name)
        if key in self.model.objects and key not in self.pinned:
            dirty = name == "hot" and self.fs.status(self.path(key)).dirty
            with contextlib.suppress(OSError) if dirty else contextlib.nullcontext():
                self.fs.evict(self.path(key), tier=directory)
                if name == "top":
                    assert directory not in self.fs.status(self.path(key)).copies

    @rule(choice=choices())
    def promote(self, choice: str | int) -> None:
        name = self.chosen(choice)
        small = name in self.model.objects and len(self.model.objects[name]) <= 100_000
        if small and not self.pinned:
            self.fs.promote(self.path(name))
            assert self.fs.status(self.path(name)).hot

    @rule()
    def lose_the_top(self) -> None:
        """Come back without it, as after a reboot where it was on a memory disk."""
        TierFileSystem.clear_instance_cache()
        close_engines()
        shutil.rmtree(self.top / "top", ignore_errors=True)
        self.fs = self.make()[0]

    @rule()
    def check(self) -> None:
        report = self.fs.fsck(cold=False)
        assert report.problems == ()

    @invariant()
    def copies_of_the_top_equal_the_model(self) -> None:
        if (self.top / "top").exists():
            copies = hot_files(self.top, "top")
            for key, data in copies.items():
                assert data == self.model.objects[key.removeprefix("r/")]
            assert sum(map(len, copies.values())) <= 300_000

    @invariant()
    def hot_copies_equal_cold_objects(self) -> None:
        if (self.top / "hot").exists():
            for key, data in hot_files(self.top).items():
                assert data == self.model.objects[key.removeprefix("r/")]


def run(machine: type[TierMachine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_few_histories() -> None:
    run(TierMachine, 10)


def test_a_few_histories_of_write_back() -> None:
    run(BackMachine, 10)


def test_a_few_histories_of_three_tiers() -> None:
    run(StackMachine, 10)


@pytest.mark.stateful
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("machine", [TierMachine, AroundMachine, BackMachine, StackMachine])
def test_many_histories(machine: type[TierMachine]) -> None:
    run(machine, EXAMPLES)
