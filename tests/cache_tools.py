"""What the cache's tests share: opening one, and looking at its directory from outside."""

from __future__ import annotations

import builtins
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from vfs.cache.filesystem import CacheFileSystem
from vfs.core.engine import close_engines

DISK_BLOCK_BYTES = 4096
NAME_BYTES = 80  # what a block's name is charged


def open_cache(top: Path, **options: Any) -> CacheFileSystem:
    """Open the cache of a directory; over ``disk`` unless another target is given."""
    if "fs" not in options:
        options.setdefault("target_protocol", "disk")
    options.setdefault("directory", str(top / "cache"))
    return CacheFileSystem(**options)


def reopen_cache(top: Path, **options: Any) -> CacheFileSystem:
    """Open the cache as another process would, with nothing but the directory to know from."""
    CacheFileSystem.clear_instance_cache()
    close_engines()
    return open_cache(top, **options)


@contextmanager
def earlier_boot() -> Iterator[None]:
    """Let what happens inside happen before the machine was last started."""
    real, number = builtins.open, str(uuid4())

    def fake(file: Any, *args: Any, **kwargs: Any) -> Any:
        if file == "/proc/sys/kernel/random/boot_id":
            return io.StringIO(f"{number}\n")
        return real(file, *args, **kwargs)

    builtins.open = fake
    try:
        yield
    finally:
        builtins.open = real


def is_name_of_block(name: str) -> bool:
    """Say whether a file in ``blocks/`` is a block, by its name alone."""
    return re.fullmatch("[0-9a-f]{32}", name) is not None


def block_files(top: Path) -> dict[str, Path]:
    """Return what lies under the names of blocks, whatever it is."""
    shelves = (top / "cache/blocks").glob("*/*")
    return {path.name: path for path in shelves if is_name_of_block(path.name)}


def staged_files(top: Path) -> list[str]:
    """Return the names of files that are being written, or were left."""
    return sorted(path.name for path in (top / "cache/tmp").glob("*"))


def disk_bytes(top: Path) -> int:
    """Return the disk space that blocks and names take now, those being written included.

    A file that is published meanwhile is met twice, in ``tmp`` first, and counted once. Unless a
    block is removed meanwhile (hold the evictors' lock), this is never more than was there.
    """
    seen: dict[int, int] = {}
    for inode, size in _lengths(top / "cache"):
        seen[inode] = -(-size // DISK_BLOCK_BYTES) * DISK_BLOCK_BYTES + NAME_BYTES
    return sum(seen.values())


def _lengths(root: Path) -> Iterator[tuple[int, int]]:
    for folder in (f"{root}/tmp", *(f"{root}/blocks/{number:02x}" for number in range(256))):
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in found:
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield facts.st_ino, facts.st_size
