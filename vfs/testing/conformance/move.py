"""What copying and moving mean, for objects and for trees.

Tests within one filesystem live here; transfers to and from local files are
in ``write``.
"""

from __future__ import annotations

import pytest
from fsspec import AbstractFileSystem

from vfs.testing.conformance.base import Conformance, assert_same, needs, relative
from vfs.testing.conformance.read import LARGE_BYTES, pattern

__all__ = ["MoveConformance"]

TREE = {"t/a": b"1", "t/d/b": b"22", "t/d/e/c": b"", "tt": b"not in the tree"}


class MoveConformance(Conformance):
    """``cp_file``, ``copy`` and ``mv``."""

    @needs("write")
    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    @pytest.mark.parametrize("n_bytes", [0, 10, LARGE_BYTES])
    def test_copy_object(self, fs: AbstractFileSystem, root: str, how: str, n_bytes: int) -> None:
        """A copy replaces its target and does not follow its source."""
        self.put_raw(fs, f"{root}/a", pattern(n_bytes))
        self.put_raw(fs, f"{root}/d/b", b"replaced")
        for target in ("d/b", "e/f/c"):
            self.call(fs, how, "cp_file", f"{root}/a", f"{root}/{target}")
        fs.pipe_file(f"{root}/a", b"changed")
        assert_same(self.get_raw(fs, f"{root}/d/b"), pattern(n_bytes))
        assert_same(self.get_raw(fs, f"{root}/e/f/c"), pattern(n_bytes))
        assert self.get_raw(fs, f"{root}/a") == b"changed"

    @needs("write", "list")
    def test_copy_tree(self, fs: AbstractFileSystem, root: str) -> None:
        """A tree keeps its shape, and what is beside it stays."""
        self.fill(fs, root, TREE)
        fs.copy(f"{root}/t/", f"{root}/u/", recursive=True)
        copied = {name.replace("t/", "u/", 1) for name in TREE if name.startswith("t/")}
        assert relative(fs, root, fs.find(root)) == sorted(copied | set(TREE))
        assert self.get_raw(fs, f"{root}/u/d/b") == b"22"

    @needs("write", "delete", "list")
    def test_move_object(self, fs: AbstractFileSystem, root: str) -> None:
        """The object is at its new name only, whatever was there."""
        self.fill(fs, root, {"a": b"moved", "d/b": b"replaced"})
        fs.mv(f"{root}/a", f"{root}/d/b")
        assert relative(fs, root, fs.find(root)) == ["d/b"]
        assert self.get_raw(fs, f"{root}/d/b") == b"moved"
        fs.mv(f"{root}/d/b", f"{root}/e/f/g")
        assert relative(fs, root, fs.find(root)) == ["e/f/g"]
        assert self.get_raw(fs, f"{root}/e/f/g") == b"moved"

    @needs("write", "delete", "list")
    def test_move_tree(self, fs: AbstractFileSystem, root: str) -> None:
        """All of the tree moves, nothing else."""
        self.fill(fs, root, TREE)
        fs.mv(f"{root}/t/", f"{root}/u/", recursive=True)
        moved = [name.replace("t/", "u/", 1) for name in TREE if name.startswith("t/")]
        assert relative(fs, root, fs.find(root)) == sorted([*moved, "tt"])
        assert self.get_raw(fs, f"{root}/u/d/b") == b"22"
        assert not fs.exists(f"{root}/t")

    @needs("write", "delete")
    def test_onto_itself(self, fs: AbstractFileSystem, root: str) -> None:
        """Copying or moving an object onto itself may be refused, but loses nothing."""
        self.put_raw(fs, f"{root}/a", b"kept")
        for verb in (fs.mv, fs.cp_file, fs.copy):
            try:
                verb(f"{root}/a", f"{root}/a")
            except (OSError, ValueError):
                pass
            assert self.get_raw(fs, f"{root}/a") == b"kept"

    @needs("write", "delete")
    @pytest.mark.parametrize("target", ["d", "d/"])
    def test_into_its_own_directory(self, fs: AbstractFileSystem, root: str, target: str) -> None:
        """Moving an object into the directory it is in may be refused, but loses nothing."""
        self.put_raw(fs, f"{root}/d/a", b"kept")
        try:
            fs.mv(f"{root}/d/a", f"{root}/{target}")
        except (OSError, ValueError):
            pass
        paths = fs.find(root)
        assert len(paths) == 1
        assert self.get_raw(fs, paths[0]) == b"kept"

    @needs("write", "delete")
    @pytest.mark.parametrize("verb", ["cp_file", "copy", "mv"])
    def test_missing_source(self, fs: AbstractFileSystem, root: str, verb: str) -> None:
        """A missing source raises, and the target keeps what it has."""
        self.put_raw(fs, f"{root}/b", b"kept")
        for target in ("b", "new"):
            with pytest.raises(FileNotFoundError):
                getattr(fs, verb)(f"{root}/no", f"{root}/{target}")
        assert self.get_raw(fs, f"{root}/b") == b"kept"
        assert not fs.exists(f"{root}/new")
