"""The tests every filesystem here passes, as classes to subclass.

Give a subclass the fixtures ``fs`` and ``root``, and, where the filesystem
cannot do something, ``capabilities`` and the ``reasons``; no test lives in
this module.

Examples
--------
>>> import pytest
>>> from fsspec.implementations.memory import MemoryFileSystem
>>> class TestMine(FilesystemConformance):
...     capabilities = ALL_CAPABILITIES - {"shared"}
...     reasons = {"shared": "it lives in the memory of one process"}
...
...     @pytest.fixture
...     def fs(self):
...         return MemoryFileSystem()
...
...     @pytest.fixture
...     def root(self):
...         return "/kit"
"""

from __future__ import annotations

import pytest

_ROOMS = (
    "base",
    "concurrency",
    "conditional",
    "errors",
    "list",
    "move",
    "pickling",
    "read",
    "remove",
    "write",
)
pytest.register_assert_rewrite(*(f"{__name__}.{room}" for room in _ROOMS))

# The assertions are rewritten only in what is imported after the line above.
from vfs.testing.conformance.base import ALL_CAPABILITIES, CAPABILITIES, Conformance, needs  # noqa: E402
from vfs.testing.conformance.concurrency import ConcurrencyConformance  # noqa: E402
from vfs.testing.conformance.conditional import ConditionalConformance  # noqa: E402
from vfs.testing.conformance.errors import ErrorConformance  # noqa: E402
from vfs.testing.conformance.list import ListConformance  # noqa: E402
from vfs.testing.conformance.move import MoveConformance  # noqa: E402
from vfs.testing.conformance.pickling import PicklingConformance  # noqa: E402
from vfs.testing.conformance.read import ReadConformance  # noqa: E402
from vfs.testing.conformance.remove import RemoveConformance  # noqa: E402
from vfs.testing.conformance.write import WriteConformance  # noqa: E402

__all__ = [
    "ALL_CAPABILITIES",
    "CAPABILITIES",
    "ConcurrencyConformance",
    "ConditionalConformance",
    "Conformance",
    "ErrorConformance",
    "FilesystemConformance",
    "ListConformance",
    "MoveConformance",
    "PicklingConformance",
    "ReadConformance",
    "RemoveConformance",
    "WriteConformance",
    "needs",
]


class FilesystemConformance(
    ReadConformance,
    WriteConformance,
    RemoveConformance,
    ListConformance,
    MoveConformance,
    ConditionalConformance,
    ErrorConformance,
    ConcurrencyConformance,
    PicklingConformance,
):
    """All of it."""
