"""A Hypothesis state machine: any order of operations agrees with the dict model.

The rules every filesystem has to obey live here, and the hooks with which a
subclass adds its own (promote, evict, pin, crash); the model is in ``model``.

Examples
--------
>>> import fsspec
>>> from hypothesis.stateful import run_state_machine_as_test
>>> class Machine(FilesystemMachine):
...     flat = False
...
...     def make(self):
...         return fsspec.filesystem("mem"), "machine"
>>> run_state_machine_as_test(Machine, settings=settings(max_examples=2, deadline=None))
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

from fsspec import AbstractFileSystem
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vfs.testing.model import Model

__all__ = ["FilesystemMachine", "choices", "contents", "names", "settings"]

_PARTS = ("a", "b", "ab", "a.b", "c d", "é", "%41", "0")
_BOUNDS = st.one_of(st.none(), st.integers(-20, 20), st.sampled_from((-70_000, 65_536, 70_000)))


def names() -> st.SearchStrategy[str]:
    """Names of one to three parts, few enough to meet one another again."""
    return st.lists(st.sampled_from(_PARTS), min_size=1, max_size=3).map("/".join)


def choices() -> st.SearchStrategy[str | int]:
    """A name, or the number of one of the objects there are; see `FilesystemMachine.chosen`."""
    return st.one_of(names(), st.integers(0, 99))


def contents() -> st.SearchStrategy[bytes]:
    """Contents: empty, short, and across the usual block boundaries."""
    lengths = st.sampled_from((65_535, 65_536, 65_537, 200_000))
    long = st.builds(
        lambda n, mark: bytes([mark, mark ^ 255]) * (n // 2), lengths, st.integers(0, 255)
    )
    return st.one_of(st.binary(max_size=20), st.binary(max_size=20), long)


class FilesystemMachine(RuleBasedStateMachine):
    """Operations on a filesystem and on the model, compared after each.

    Subclasses give `make` and may override the other hooks.

    Attributes
    ----------
    flat : bool
        Whether an object may be below another (``a`` and ``a/b``). Where not,
        such writes are left out.
    appends, creates : bool
        Whether ``ab``, and exclusive creation, are to be tried.
    """

    flat: ClassVar[bool] = True
    appends: ClassVar[bool] = True
    creates: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.fs: AbstractFileSystem = None
        self.root = ""

    # -- hooks -------------------------------------------------------------------

    def make(self) -> tuple[AbstractFileSystem, str]:
        """Return the filesystem and a root to write below; called again on reopen."""
        raise NotImplementedError

    def wipe(self) -> None:
        """Empty the root before a run; override where there is a quicker way."""
        self.fs.rm(self.root, recursive=True)

    def reopened(self) -> AbstractFileSystem:
        """Return a new instance on the same storage."""
        type(self.fs).clear_instance_cache()
        return self.make()[0]

    def crash_reopen(self) -> None:
        """Lose the process and come back; what was acknowledged must be there.

        The default only reopens. A subclass that can kill its filesystem, or
        drop what was not made durable, does it here, and takes from
        ``self.model`` what its contract allows to be lost.
        """
        self.fs = self.reopened()

    # -- helpers for rules ---------------------------------------------------------

    def chosen(self, choice: str | int) -> str:
        """Return the name given, or that of an object there is."""
        if isinstance(choice, str):
            return choice
        there = sorted(self.model.objects) or ["a"]
        return there[choice % len(there)]

    def path(self, name: str) -> str:
        """Full path of a name of the model."""
        return f"{self.root}/{name}"

    def fits(self, name: str) -> bool:
        """Whether the name can be written beside what is there."""
        return self.flat or not self.model.blocked(name)

    def agree(
        self, ours: Callable[[], Any], model: Callable[[], Any], *, or_directory: str = ""
    ) -> None:
        """Run both: the same value, or an error of the same type.

        Parameters
        ----------
        ours, model : Callable
            The operation on the filesystem and on the model.
        or_directory : str, optional
            A name; where it is a directory, "is a directory" is as good as
            "not found".
        """
        try:
            expected = model()
        except (FileNotFoundError, FileExistsError) as error:
            allowed: tuple[type[OSError], ...] = (type(error),)
            if isinstance(error, FileNotFoundError):
                allowed += (NotADirectoryError,)
            if or_directory and self.model.may_be_directory(or_directory):
                allowed += (IsADirectoryError,)
            try:
                got = ours()
            except allowed:
                return
            message = f"expected {type(error).__name__}, got {got!r}"
            raise AssertionError(message) from None
        got = ours()
        if expected is not None:
            assert got == expected

    # -- rules -----------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """Start from an empty root."""
        self.fs, self.root = self.make()
        if self.fs.exists(self.root):
            self.wipe()

    @rule(choice=choices(), data=contents(), by=st.sampled_from(("pipe", "file", "coroutine")))
    def put(self, choice: str | int, data: bytes, by: str) -> None:
        """Write an object in one of three ways."""
        name = self.chosen(choice)
        if not self.fits(name):
            return
        if by == "file":
            with self.fs.open(self.path(name), "wb") as f:
                f.write(data[:7])
                f.write(data[7:])
        elif by == "coroutine" and self.fs.async_impl:
            asyncio.run(self._await_pipe(name, data))
        else:
            self.fs.pipe_file(self.path(name), data)
        self.model.put(name, data)

    def _read_file(self, name: str) -> bytes:
        with self.fs.open(self.path(name), "rb") as f:
            data: bytes = f.read()
        return data

    async def _await_pipe(self, name: str, data: bytes) -> None:
        await self.fs._pipe_file(self.path(name), data)

    @precondition(lambda self: self.creates)
    @rule(choice=choices(), data=contents())
    def put_create(self, choice: str | int, data: bytes) -> None:
        """Create an object, if it is not there."""
        name = self.chosen(choice)
        if self.fits(name) or name in self.model:
            self.agree(
                lambda: self.fs.pipe_file(self.path(name), data, mode="create"),
                lambda: self.model.put_create(name, data),
            )

    @precondition(lambda self: self.appends)
    @rule(choice=choices(), data=contents())
    def append(self, choice: str | int, data: bytes) -> None:
        """Add to an object."""
        name = self.chosen(choice)
        if self.fits(name):
            self.add_to(name, data)
            self.model.append(name, data)

    def add_to(self, name: str, data: bytes) -> None:
        """Append by file; override where that may be refused for a reason of its own."""
        with self.fs.open(self.path(name), "ab") as f:
            f.write(data)

    @rule(choice=choices())
    def get(self, choice: str | int) -> None:
        """Read a whole object, by the call and by the file."""
        name = self.chosen(choice)
        self.agree(
            lambda: self.fs.cat_file(self.path(name)),
            lambda: self.model.get(name),
            or_directory=name,
        )
        self.agree(
            lambda: self._read_file(name),
            lambda: self.model.get(name),
            or_directory=name,
        )

    @rule(choice=choices(), start=_BOUNDS, end=_BOUNDS)
    def get_range(self, choice: str | int, start: int | None, end: int | None) -> None:
        """Read part of an object."""
        name = self.chosen(choice)
        self.agree(
            lambda: self.fs.cat_file(self.path(name), start=start, end=end),
            lambda: self.model.get(name, start, end),
            or_directory=name,
        )

    @rule(choice=choices())
    def info(self, choice: str | int) -> None:
        """Ask what a name is."""
        name = self.chosen(choice)
        path = self.path(name)
        if name in self.model:
            info = self.fs.info(path)
            assert (info["type"], info["size"]) == ("file", len(self.model.get(name)))
            assert self.fs.isfile(path)
        elif self.model.is_directory(name):
            assert self.fs.info(path)["type"] == "directory"
            assert self.fs.isdir(path)
        else:
            assert not self.fs.isfile(path)

    @rule(choice=choices())
    def rm(self, choice: str | int) -> None:
        """Delete an object."""
        name = self.chosen(choice)
        self.agree(
            lambda: self.fs.rm_file(self.path(name)),
            lambda: self.model.remove(name),
            or_directory=name,
        )

    @rule(choice=choices())
    def rm_tree(self, choice: str | int) -> None:
        """Delete a tree, or nothing."""
        name = self.chosen(choice)
        self.fs.rm(self.path(name), recursive=True)
        self.model.remove_tree(name)

    @rule(choice=choices(), to=names())
    def cp(self, choice: str | int, to: str) -> None:
        """Copy an object."""
        source = self.chosen(choice)
        if source in self.model and source != to and self.fits(to):
            self.fs.cp_file(self.path(source), self.path(to))
            self.model.copy(source, to)

    @rule(choice=choices(), to=names())
    def mv(self, choice: str | int, to: str) -> None:
        """Move an object."""
        source = self.chosen(choice)
        into = self.model.may_be_directory(to)  # fsspec then moves into it, as mv does
        if source in self.model and source != to and self.fits(to) and not into:
            self.fs.mv(self.path(source), self.path(to))
            self.model.move(source, to)

    @rule(name=st.one_of(st.just(""), names()))
    def ls(self, name: str) -> None:
        """List a directory."""
        if name in self.model or not self.model.children(name):
            return
        seen: dict[str, set[str]] = {}
        for info in self.fs.ls(self.path(name).rstrip("/"), detail=True):
            child = self._name(info["name"])[len(name) :].strip("/")
            seen.setdefault(child, set()).add(info["type"])
        left = set(seen) - set(self.model.children(name))
        # Empty directories may stay where objects have been.
        assert all(seen[child] == {"directory"} for child in left), (left, seen)
        for child, kind in self.model.children(name).items():
            assert kind in seen.get(child, ()), (child, kind, seen)

    @rule()
    def reopen(self) -> None:
        """Go on with a new instance."""
        self.fs = self.reopened()

    @rule()
    def through_pickle(self) -> None:
        """Go on with a pickled copy."""
        self.fs = pickle.loads(pickle.dumps(self.fs))

    @rule()
    def crash(self) -> None:
        """Go on after a crash."""
        note("crash")
        self.crash_reopen()

    def _name(self, path: str) -> str:
        lead = self.fs._strip_protocol(self.root).strip("/")
        name: str = path.strip("/").removeprefix(lead).strip("/")
        return name

    @invariant()
    def names_and_sizes_agree(self) -> None:
        """What is found is what was written, each once."""
        if self.fs is None:
            return
        found = self.fs.find(self.root, detail=True)
        sizes = {self._name(name): info["size"] for name, info in found.items()}
        assert sizes == self.model.find()

    def teardown(self) -> None:
        """Check every byte at the end of a run."""
        if self.fs is not None:
            for name, data in self.model.objects.items():
                assert self.fs.cat_file(self.path(name)) == data
