"""What errors mean: the type, errno and path of each, and what is refused.

A test looks at types, errno and ``filename``, never at texts; the one text
that is forbidden is the one zarr mistakes for an empty object.
"""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec import AbstractFileSystem

from vfs.testing.conformance.base import Conformance, assert_os_error, needs, relative

__all__ = ["ErrorConformance"]


def read_file(fs: AbstractFileSystem, path: str, mode: str) -> object:
    """Open and read a file."""
    with fs.open(path, mode) as f:
        return f.read()


READS: dict[str, Callable[[AbstractFileSystem, str], object]] = {
    "cat_file": lambda fs, path: fs.cat_file(path),
    "cat_file range": lambda fs, path: fs.cat_file(path, start=1, end=3),
    "cat_file suffix": lambda fs, path: fs.cat_file(path, start=-8),
    "cat_ranges": lambda fs, path: fs.cat_ranges([path], [0], [1], on_error="raise"),
    "cat": lambda fs, path: fs.cat(path),
    "open": lambda fs, path: read_file(fs, path, "rb"),
    "open r": lambda fs, path: read_file(fs, path, "r"),
}
QUESTIONS: dict[str, Callable[[AbstractFileSystem, str], object]] = {
    "info": lambda fs, path: fs.info(path),
    "size": lambda fs, path: fs.size(path),
    "ls": lambda fs, path: fs.ls(path),
    "modified": lambda fs, path: fs.modified(path),
    "rm_file": lambda fs, path: fs.rm_file(path),
    "rm": lambda fs, path: fs.rm(path),
}
COROUTINES: dict[str, Callable[[AbstractFileSystem], Callable[[str], object]]] = {
    "_cat_file": lambda fs: fs._cat_file,
    "_info": lambda fs: fs._info,
    "_ls": lambda fs: fs._ls,
    "_rm_file": lambda fs: fs._rm_file,
}
REFUSED = ["../outside", "d/../../outside", "..", "d/..", "nul\0byte", "d\0/a"]


class ErrorConformance(Conformance):
    """Missing objects, directories in the place of objects, impossible paths."""

    def _check(self, error: BaseException, code: int, name: str) -> None:
        assert_os_error(error, code, name, errno_known="errno" in self.capabilities)

    @pytest.mark.parametrize("name", ["no", "d/no", "no/deep/er"])
    @pytest.mark.parametrize("verb", [*READS, *QUESTIONS])
    def test_missing(self, fs: AbstractFileSystem, root: str, verb: str, name: str) -> None:
        """What is not there is FileNotFoundError, with ENOENT and the path."""
        self.put_raw(fs, f"{root}/d/a", b"1")
        with pytest.raises(FileNotFoundError) as caught:
            (READS | QUESTIONS)[verb](fs, f"{root}/{name}")
        self._check(caught.value, errno.ENOENT, name)

    @pytest.mark.parametrize("verb", COROUTINES)
    def test_missing_for_coroutines(self, fs: AbstractFileSystem, root: str, verb: str) -> None:
        """Coroutines raise the same."""
        with pytest.raises(FileNotFoundError) as caught:
            self.call(fs, "foreign loop", verb[1:], f"{root}/no")
        self._check(caught.value, errno.ENOENT, "no")

    def test_missing_for_transfer(self, fs: AbstractFileSystem, root: str, tmp_path: Path) -> None:
        """A missing source leaves no local file."""
        with pytest.raises(FileNotFoundError) as caught:
            fs.get_file(f"{root}/no", str(tmp_path / "target"))
        self._check(caught.value, errno.ENOENT, "no")
        assert not (tmp_path / "target").exists()

    @needs("errno", "is_a_directory")
    @pytest.mark.parametrize("verb", READS)
    def test_directory_where_an_object_is_meant(
        self, fs: AbstractFileSystem, root: str, verb: str
    ) -> None:
        """A directory cannot be read: EISDIR, and not "absent"."""
        self.put_raw(fs, f"{root}/dir/a", b"1")
        with pytest.raises(IsADirectoryError) as caught:
            READS[verb](fs, f"{root}/dir")
        self._check(caught.value, errno.EISDIR, "dir")

    @needs("errno", "is_a_directory", "write", "delete")
    def test_directory_is_not_removed_as_an_object(self, fs: AbstractFileSystem, root: str) -> None:
        """``rm_file`` of a directory is EISDIR and removes nothing."""
        self.put_raw(fs, f"{root}/dir/a", b"1")
        with pytest.raises(IsADirectoryError) as caught:
            fs.rm_file(f"{root}/dir")
        self._check(caught.value, errno.EISDIR, "dir")
        assert self.get_raw(fs, f"{root}/dir/a") == b"1"

    @needs("write", "delete")
    @pytest.mark.parametrize("verb", [*READS, "rm_file"])
    def test_directory_is_no_object(self, fs: AbstractFileSystem, root: str, verb: str) -> None:
        """Whatever the error, a directory is neither read nor removed as an object."""
        self.put_raw(fs, f"{root}/dir/a", b"1")
        with pytest.raises((FileNotFoundError, IsADirectoryError)):
            (READS | QUESTIONS)[verb](fs, f"{root}/dir")
        assert self.get_raw(fs, f"{root}/dir/a") == b"1"

    @needs("write")
    def test_object_where_a_directory_is_meant(self, fs: AbstractFileSystem, root: str) -> None:
        """Below an object nothing is found; writing there works or is ENOTDIR."""
        self.put_raw(fs, f"{root}/f", b"kept")
        for read in (fs.cat_file, fs.info):
            with pytest.raises((FileNotFoundError, NotADirectoryError)) as caught:
                read(f"{root}/f/below")
            assert caught.value.errno in (None, errno.ENOENT, errno.ENOTDIR)
        try:
            fs.pipe_file(f"{root}/f/below", b"new")
        except OSError as error:
            self._check(error, errno.ENOTDIR, "f")
            assert relative(fs, root, fs.find(root)) == ["f"]
        else:
            assert self.get_raw(fs, f"{root}/f/below") == b"new"
        assert self.get_raw(fs, f"{root}/f") == b"kept"

    @needs("write", "delete")
    def test_object_where_a_directory_is(self, fs: AbstractFileSystem, root: str) -> None:
        """Writing an object named as a directory works or is EISDIR, and hurts nothing."""
        self.put_raw(fs, f"{root}/d/a", b"kept")
        try:
            fs.pipe_file(f"{root}/d", b"new")
        except OSError as error:
            self._check(error, errno.EISDIR, "d")
        else:
            assert self.get_raw(fs, f"{root}/d") == b"new"
            if "append" in self.capabilities:
                fs.rm_file(f"{root}/d")
                with fs.open(f"{root}/d", "ab") as f:
                    f.write(b"too")
                assert self.get_raw(fs, f"{root}/d") == b"too"
        assert self.get_raw(fs, f"{root}/d/a") == b"kept"

    @needs("write", "strict_paths")
    def test_write_with_a_trailing_slash(self, fs: AbstractFileSystem, root: str) -> None:
        """A path that ends in a slash names a directory: EISDIR, nothing written."""

        def open_and_write(path: str) -> None:
            with fs.open(path, "wb") as f:
                f.write(b"1")

        for write in (lambda path: fs.pipe_file(path, b"1"), open_and_write):
            with pytest.raises(IsADirectoryError) as caught:
                write(f"{root}/o/")
            self._check(caught.value, errno.EISDIR, "o")
        assert relative(fs, root, fs.find(root)) == []

    @needs("write", "delete", "list", "strict_paths")
    @pytest.mark.parametrize("name", REFUSED, ids=ascii)
    def test_impossible_path(self, fs: AbstractFileSystem, root: str, name: str) -> None:
        """``..`` and NUL are refused by every verb before anything is touched."""
        self.fill(fs, root, {"in/side": b"kept", "outside": b"kept", "in/d/a": b"kept"})
        path = f"{root}/in/{name}"
        verbs: dict[str, Callable[[], object]] = {
            "cat_file": lambda: fs.cat_file(path),
            "open": lambda: fs.open(path, "rb"),
            "info": lambda: fs.info(path),
            "pipe_file": lambda: fs.pipe_file(path, b"bad"),
            "write": lambda: fs.open(path, "wb").close(),
            "rm_file": lambda: fs.rm_file(path),
            "rm tree": lambda: fs.rm(path, recursive=True),
            "mkdir": lambda: fs.makedirs(path, exist_ok=True),
            "copy from": lambda: fs.cp_file(path, f"{root}/copy"),
            "copy to": lambda: fs.cp_file(f"{root}/outside", path),
        }
        for verb, call in verbs.items():
            with pytest.raises((OSError, ValueError)) as caught:
                call()
            if isinstance(caught.value, OSError):
                assert caught.value.errno == errno.EINVAL, verb
        assert relative(fs, root, fs.find(root)) == ["in/d/a", "in/side", "outside"]
        for kept in ("in/d/a", "in/side", "outside"):
            assert self.get_raw(fs, f"{root}/{kept}") == b"kept"

    def test_errors_can_be_pickled(self, fs: AbstractFileSystem, root: str) -> None:
        """An error comes out of another process as it was."""
        with pytest.raises(FileNotFoundError) as caught:
            fs.cat_file(f"{root}/no")
        error = pickle.loads(pickle.dumps(caught.value))
        assert type(error) is type(caught.value)
        assert (error.errno, error.filename, error.args) == (
            caught.value.errno,
            caught.value.filename,
            caught.value.args,
        )
