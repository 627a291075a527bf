"""What removing means, for objects and for trees.

Tests of one remover live here; several at once are in ``concurrency``.
"""

from __future__ import annotations

import pytest
from fsspec import AbstractFileSystem

from vfs.testing.conformance.base import Conformance, needs, relative

__all__ = ["RemoveConformance"]


class RemoveConformance(Conformance):
    """Removing objects and trees."""

    @needs("write", "delete")
    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    def test_remove_object(self, fs: AbstractFileSystem, root: str, how: str) -> None:
        """Only the named object goes; a second removal raises."""
        self.fill(fs, root, {"a": b"1", "ab": b"2", "d/a": b"3"})
        self.call(fs, how, "rm_file", f"{root}/a")
        assert relative(fs, root, fs.find(root)) == ["ab", "d/a"]
        with pytest.raises(FileNotFoundError):
            self.call(fs, how, "rm_file", f"{root}/a")
        with pytest.raises(FileNotFoundError):
            fs.rm(f"{root}/a")
        self.call(fs, how, "rm", f"{root}/ab")
        assert relative(fs, root, fs.find(root)) == ["d/a"]

    @needs("write", "delete", "list")
    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    def test_remove_tree(self, fs: AbstractFileSystem, root: str, how: str) -> None:
        """Everything below goes, and nothing whose name only begins the same."""
        self.fill(fs, root, {"d/a": b"1", "d/e/b": b"2", "dd": b"3", "d.x": b"4", "e/a": b"5"})
        self.call(fs, how, "rm", f"{root}/d", recursive=True)
        assert relative(fs, root, fs.find(root)) == ["d.x", "dd", "e/a"]
        assert not fs.exists(f"{root}/d")
        fs.rm([f"{root}/dd", f"{root}/e"], recursive=True)
        assert relative(fs, root, fs.find(root)) == ["d.x"]

    @needs("delete", "silent_tree_removal")
    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    def test_remove_tree_of_nothing(self, fs: AbstractFileSystem, root: str, how: str) -> None:
        """Removing what is below nothing succeeds, as it does on S3; zarr relies on it."""
        self.call(fs, how, "rm", f"{root}/no", recursive=True)
        self.call(fs, how, "rm", f"{root}/no/deeper", recursive=True)
        self.put_raw(fs, f"{root}/f", b"kept")
        self.call(fs, how, "rm", f"{root}/f/below", recursive=True)
        assert self.get_raw(fs, f"{root}/f") == b"kept"
