"""Files that several processes map: made once, with their disk space.

What lives here: opening one such file. What must not: what is in it.
"""

from __future__ import annotations

import mmap
import os

__all__ = ["map_file"]


def map_file(path: str, size_bytes: int) -> mmap.mmap:
    """Map a file, made with at least this size; one that is larger keeps its own.

    Raises
    ------
    OSError
        [ENOSPC] the disk is full. Without its space given out in advance, a page written through
        a map would kill the process (SIGBUS) once the disk is full.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        size = max(size_bytes, os.fstat(fd).st_size)
        os.posix_fallocate(fd, 0, size)
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)
