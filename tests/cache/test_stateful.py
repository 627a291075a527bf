"""The dict model against a cache whose target changes, fails, stalls and returns short bodies."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from cache_tools import disk_bytes
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from vfs.backends.mem import MemFileSystem
from vfs.cache.filesystem import CacheFileSystem
from vfs.core.engine import close_engines
from vfs.errors import ConflictError, IntegrityError, UnavailableError
from vfs.testing.stateful import FilesystemMachine, choices, contents

#: Examples of one run; docs/testing.md has the sizes of a run and of a release.
EXAMPLES = int(os.environ.get("VFS_MODEL_EXAMPLES", "300"))

LIMIT_BYTES = 1 << 20


class FlakyFileSystem(MemFileSystem):
    """``mem`` whose next read goes wrong as asked."""

    protocol = "flaky"
    fault: ClassVar[str | None] = None

    def get_object(self, key: str, start: int | None, end: int | None, **kwargs: Any) -> bytes:
        fault, type(self).fault = type(self).fault, None
        if fault == "down":
            message = "no answer"
            raise UnavailableError(message, key)
        data = super().get_object(key, start, end, **kwargs)
        if fault == "short":
            return data[: len(data) // 2]
        if fault == "replaced":
            value, _ = self._entry(key)
            self.put_object(key, value)  # the same bytes under a new etag
        return data


class CacheMachine(FilesystemMachine):
    """Every rule of the kit, and what only a cache can meet."""

    mode: ClassVar[str] = "open"
    #: Whether changes behind the cache's back must be seen.
    foreign: ClassVar[bool] = True

    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="vfs-machine-"))
        super().__init__()

    def _open(self, **options: Any) -> Any:
        return fsspec.filesystem(
            "cache",
            target_protocol="flaky",
            target_options={"store": self.top.as_posix()},
            directory=str(self.top / "cache"),
            max_bytes=LIMIT_BYTES,
            consistency=self.mode,
            **{"small_bytes": "64 KiB", "grain_bytes": "64 KiB", **options},
        )

    def make(self) -> tuple[Any, str]:
        return self._open(), "r"

    def wipe(self) -> None:
        """Every run has a store of its own."""

    def teardown(self) -> None:
        super().teardown()
        FlakyFileSystem.fault = None
        CacheFileSystem.clear_instance_cache()
        close_engines()
        shutil.rmtree(self.top)

    def reopened(self) -> Any:
        CacheFileSystem.clear_instance_cache()
        close_engines()
        return self._open()

    @precondition(lambda self: self.foreign)
    @rule(choice=choices(), data=contents())
    def changed_behind(self, choice: str | int, data: bytes) -> None:
        name = self.chosen(choice)
        if self.fits(name):
            self.fs.fs.pipe_file(self.path(name), data)
            self.model.put(name, data)

    @precondition(lambda self: self.foreign)
    @rule(choice=choices())
    def removed_behind(self, choice: str | int) -> None:
        name = self.chosen(choice)
        if name in self.model.objects:
            self.fs.fs.rm_file(self.path(name))
            self.model.remove(name)

    @rule(choice=choices(), fault=st.sampled_from(["down", "short", "replaced"]))
    def read_through_a_fault(self, choice: str | int, fault: str) -> None:
        """Right bytes or an error; never wrong bytes, never "not found"."""
        name = self.chosen(choice)
        if name not in self.model.objects:
            return
        FlakyFileSystem.fault = fault
        data: bytes | None = None
        with contextlib.suppress(UnavailableError, IntegrityError, ConflictError):
            data = self.fs.cat_file(self.path(name))
        FlakyFileSystem.fault = None
        assert data in {None, self.model.objects[name]}
        assert self.fs.cat_file(self.path(name)) == self.model.objects[name]

    @rule(
        seed=st.integers(0, 1 << 30),
        how=st.sampled_from(["flip", "cut", "grow", "swap", "empty"]),
    )
    def damage_a_block(self, seed: int, how: str) -> None:
        blocks = sorted((self.top / "cache/blocks").glob("*/*"))
        if not blocks:
            return
        chance = random.Random(seed)
        block = chance.choice(blocks)
        data = bytearray(block.read_bytes())
        if how == "flip" and data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif how == "cut" and data:
            del data[chance.randrange(len(data)) :]
        elif how == "grow":
            data += b"\0"
        elif how == "swap":
            data = bytearray(chance.choice(blocks).read_bytes())
        else:
            data.clear()
        block.write_bytes(data)

    @rule()
    def evict_all(self) -> None:
        self.fs.clear()

    @rule()
    def verify_all(self) -> None:
        self.fs.fsck()
        assert self.fs.fsck().damaged == 0

    @rule(choice=choices())
    def evict(self, choice: str | int) -> None:
        name = self.chosen(choice)
        if name in self.model.objects:
            self.fs.evict(self.path(name))

    @rule(choice=choices())
    def warm(self, choice: str | int) -> None:
        name = self.chosen(choice)
        if name in self.model.objects:
            assert self.fs.warm(self.path(name)) == len(self.model.objects[name])

    @rule(choice=choices(), start=st.integers(-30, 30), end=st.integers(-30, 30))
    def read_by_another_instance(self, choice: str | int, start: int, end: int) -> None:
        other = self._open(small_bytes=0, verify="once")
        name = self.chosen(choice)
        if name in self.model.objects:
            expected = self.model.objects[name][start:end]
            assert other.cat_file(self.path(name), start, end) == expected

    @rule()
    def directory_is_lost(self) -> None:
        shutil.rmtree(self.top / "cache", ignore_errors=True)
        self.fs = self.reopened()

    @invariant()
    def limit_holds(self) -> None:
        assert disk_bytes(self.top) <= LIMIT_BYTES


class ImmutableMachine(CacheMachine):
    mode: ClassVar[str] = "immutable"
    foreign: ClassVar[bool] = False

    def add_to(self, name: str, data: bytes) -> None:
        """Once more where ``replaced`` gave it another version, which this mode never asks for.

        The refusal is the write's; it also makes the cache ask again.
        """
        try:
            super().add_to(name, data)
        except ConflictError:
            super().add_to(name, data)


class StrictMachine(CacheMachine):
    mode: ClassVar[str] = "strict"


def run(machine: type[CacheMachine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("machine", [CacheMachine, ImmutableMachine, StrictMachine])
def test_a_few_histories(machine: type[CacheMachine]) -> None:
    run(machine, 6)


@pytest.mark.stateful
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("machine", [CacheMachine, ImmutableMachine, StrictMachine])
def test_many_histories(machine: type[CacheMachine]) -> None:
    run(machine, EXAMPLES)
