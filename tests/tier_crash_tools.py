"""What the tier's crash tests share: recording what reaches the disk, and dying at a call."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

#: The calls that change a disk: a process is killed before each of them, in turn.
DURABLE_CALLS = ("open", "write", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir", "link")


@contextlib.contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Record what reaches the operating system, in order, with the path each call is about."""
    calls: list[tuple[str, str]] = []
    paths: dict[int, str] = {}
    real_open, real_fsync, real_unlink, real_rename = os.open, os.fsync, os.unlink, os.rename

    def open_(path: Any, *args: Any, **kwargs: Any) -> int:
        fd = real_open(path, *args, **kwargs)
        paths[fd] = os.fspath(path)
        return fd

    def fsync(fd: int) -> None:
        calls.append(("fsync", paths.get(fd, "?")))
        real_fsync(fd)

    def unlink(path: Any, **kwargs: Any) -> None:
        real_unlink(path, **kwargs)
        calls.append(("unlink", os.fspath(path)))

    def rename(source: Any, target: Any, **kwargs: Any) -> None:
        calls.append(("rename", os.fspath(target)))
        calls.append(("renamed from", os.fspath(source)))
        real_rename(source, target, **kwargs)

    with monkeypatch.context() as patch:
        for name, fake in (
            ("open", open_),
            ("fsync", fsync),
            ("unlink", unlink),
            ("rename", rename),
        ):
            patch.setattr(os, name, fake)
        yield calls


REAL: dict[str, Any] = {name: getattr(os, name) for name in DURABLE_CALLS}


def die_at(count: int) -> None:
    """Kill this process before its ``count``-th durable call."""
    left = [count]

    def deadly(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return REAL[name](*args, **kwargs)

        return call

    for name in DURABLE_CALLS:
        setattr(os, name, deadly(name))


def remove_tree(top: Path) -> None:
    for directory, folders, names in os.walk(top, topdown=False):
        for name in names:
            os.unlink(os.path.join(directory, name))
        for name in folders:
            os.rmdir(os.path.join(directory, name))
    top.rmdir()
