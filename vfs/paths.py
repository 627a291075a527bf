"""``UPath`` of this library's protocols.

What lives here: the class that universal-pathlib finds through its entry point. What must not:
imports by other modules; universal-pathlib is not a dependency.
"""

from __future__ import annotations

from upath import UPath

__all__ = ["VfsPath"]


class VfsPath(UPath):
    """A path of this library's protocols, without universal-pathlib's warning."""
