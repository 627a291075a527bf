"""Work on a whole cache directory: removing all of it, verifying all of it.

What lives here: passes over every block file, for verbs and command line. What must not: reads of
objects, eviction by policy (``evict.py``).
"""

from __future__ import annotations

import os

from vfs.cache.block import DAMAGED, payload_of, read_block
from vfs.cache.evict import remove_block, remove_stray, scan_blocks, scan_strays
from vfs.cache.ledger import Ledger
from vfs.cache.status import FsckReport

__all__ = ["clear_blocks", "fsck_blocks"]


def clear_blocks(root: str, ledger: Ledger) -> int:
    """Remove every block; return how many there were. Open readers keep their bytes."""
    top = os.path.join(root, "blocks")
    start = ledger.begin_scan()
    removed = 0
    for block, _ in scan_blocks(top):
        removed += remove_block(top, block.name)
    ledger.end_scan(start, 0)
    return removed


def fsck_blocks(root: str, ledger: Ledger) -> FsckReport:
    """Verify every block and remove the damaged; correct the ledger by what is left.

    Notes
    -----
    Reads everything: some 2 GB/s from the page cache, else what the disk gives. Safe beside
    readers and writers.
    """
    top = os.path.join(root, "blocks")
    start = ledger.begin_scan()
    directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    blocks = occupied = 0
    damaged = sum(remove_stray(path) for path in list(scan_strays(top)))
    try:
        for block, length in scan_blocks(top):
            read = _verify(directory, block.name, length)
            if read is DAMAGED:
                damaged += remove_block(top, block.name)
            elif read is not None:  # else evicted meanwhile
                blocks += 1
                occupied += block.size_bytes
    finally:
        os.close(directory)
    ledger.end_scan(start, occupied)
    return FsckReport(blocks, occupied, damaged)


def _verify(directory: int, name: str, length: int) -> object:
    """Read a whole block; the answers are those of ``read_block``."""
    payload = payload_of(length)
    if payload is None:
        return DAMAGED
    return read_block(
        directory,
        name,
        payload,
        0,
        payload,
        verify="always",
        may_block=True,
        verified={},
        counts=False,
    )
