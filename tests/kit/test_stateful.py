"""The state machine agrees with a right filesystem and catches wrong ones."""

from collections.abc import Iterator
from typing import ClassVar

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from vfs.testing.stateful import FilesystemMachine

pytestmark = pytest.mark.stateful

FEW = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Right(MemoryFileSystem):  # type: ignore[misc]
    """fsspec's memory without the faults the machine finds in it."""

    protocol = "right"
    store: ClassVar[dict[str, object]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        super().pipe_file(path, bytes(value), mode=mode)

    def _open(self, path: str, mode: str = "rb", **kwargs: object) -> object:
        if mode == "rb" and not self.exists(path):
            raise FileNotFoundError(path)  # theirs says "exists" where an object lies above
        return super()._open(path, mode, **kwargs)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        if self.exists(path):
            super().rm(path, recursive=recursive, maxdepth=maxdepth)


class StaleAfterMove(Right):
    def mv(self, path1: str, path2: str, **kwargs: object) -> None:
        self.cp_file(path1, path2)


class LosesTheTail(Right):
    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: object
    ) -> bytes:
        data: bytes = super().cat_file(path, start, end)
        return data[:65_536]


class ForgetsTheEmpty(Right):
    def find(self, path: str, **kwargs: object) -> object:
        found = super().find(path, detail=True)
        return {name: info for name, info in found.items() if info["size"]}


class OverwritesOnCreate(Right):
    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        super().pipe_file(path, value)


def machine(cls: type[MemoryFileSystem]) -> type[FilesystemMachine]:
    class Machine(FilesystemMachine):
        flat = False

        def make(self) -> tuple[AbstractFileSystem, str]:
            return cls(), "/machine"

        def wipe(self) -> None:
            cls.store.clear()
            cls.pseudo_dirs[:] = [""]

    return Machine


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    Right.store.clear()
    Right.pseudo_dirs[:] = [""]
    yield
    fsspec.filesystem("memory").clear_instance_cache()


def test_a_right_filesystem_passes() -> None:
    run_state_machine_as_test(machine(Right), settings=FEW)


@pytest.mark.parametrize(
    "wrong", [StaleAfterMove, LosesTheTail, ForgetsTheEmpty, OverwritesOnCreate]
)
def test_a_wrong_filesystem_is_caught(wrong: type[MemoryFileSystem]) -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(wrong), settings=FEW)
