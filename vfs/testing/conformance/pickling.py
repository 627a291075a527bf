"""What a filesystem is when it is copied, pickled, named in JSON, or sent elsewhere.

Identity of instances and other processes live here.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import warnings
from multiprocessing.connection import Connection
from typing import Any

import pytest
from fsspec import AbstractFileSystem
from fsspec.core import OpenFile

from vfs.testing.conformance.base import Conformance, needs

__all__ = ["PicklingConformance"]

_CHILD_S = 60.0  # bound of the wait for another process


def read_and_write(pipe: Connection, fs: AbstractFileSystem, path: str) -> None:
    """Read an object, write another beside it, and send what was read.

    Parameters
    ----------
    pipe : Connection
        Where the answer goes: bytes read and token, or the error's ``repr``.
    fs : AbstractFileSystem
        As it arrived in this process.
    path : str
        What to read; ``path + ".answer"`` is written.
    """
    try:
        data = fs.cat_file(path)
        fs.pipe_file(path + ".answer", data[::-1])
        token = fs.__dask_tokenize__()
    except BaseException as error:  # noqa: BLE001 - reported to the parent
        pipe.send(repr(error))
    else:
        pipe.send((data, token))


class PicklingConformance(Conformance):
    """Copies of a filesystem and their objects."""

    def _same(self, fs: AbstractFileSystem, other: AbstractFileSystem, root: str) -> None:
        """Check that what one writes the other reads."""
        assert type(other) is type(fs)
        fs.pipe_file(f"{root}/by-one", b"1")
        assert other.cat_file(f"{root}/by-one") == b"1"
        other.pipe_file(f"{root}/by-other", b"2")
        assert fs.cat_file(f"{root}/by-other") == b"2"

    @needs("write")
    def test_pickle(self, fs: AbstractFileSystem, root: str) -> None:
        """A pickled filesystem is the same storage."""
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            other = pickle.loads(pickle.dumps(fs, protocol))
            self._same(fs, other, root)
            assert other == fs
            assert hash(other) == hash(fs)

    @needs("write")
    def test_copy(self, fs: AbstractFileSystem, root: str) -> None:
        """A copy and a deep copy are the same storage."""
        self._same(fs, copy.copy(fs), root)
        self._same(fs, copy.deepcopy(fs), root)

    @needs("write")
    def test_json(self, fs: AbstractFileSystem, root: str) -> None:
        """``to_json`` and ``to_dict`` name the same storage."""
        self._same(fs, AbstractFileSystem.from_json(fs.to_json()), root)
        self._same(fs, AbstractFileSystem.from_dict(fs.to_dict()), root)

    def test_open_file(self, fs: AbstractFileSystem, root: str) -> None:
        """A pickled ``OpenFile`` opens the same object, as dask's workers do."""
        self.put_raw(fs, f"{root}/o", b"1")
        file = pickle.loads(pickle.dumps(OpenFile(fs, f"{root}/o", "rb")))
        with file as f:
            assert f.read() == b"1"

    def test_instances_are_reused(self, fs: AbstractFileSystem, root: str) -> None:
        """The same arguments give the same token, whatever path came with them."""
        self.put_raw(fs, f"{root}/o", b"1")
        if not fs.cachable:
            pytest.skip("instances of this class are not cached, which fsspec allows")
        first = type(fs)(*fs.storage_args, **fs.storage_options)
        assert type(fs)(*fs.storage_args, **fs.storage_options) is first
        assert first.cat_file(f"{root}/o") == b"1"

    def test_repr(self, fs: AbstractFileSystem, root: str) -> None:
        """``repr`` and the notebook's view work, and name the class."""
        self.put_raw(fs, f"{root}/o", b"1")
        assert type(fs).__name__ in repr(fs) or str(fs.protocol) in repr(fs)
        show = getattr(fs, "_repr_html_", None)
        assert show is None or isinstance(show(), str)

    def test_url(self, fs: AbstractFileSystem, root: str) -> None:
        """A path with its protocol names the same object, for this filesystem."""
        self.put_raw(fs, f"{root}/o", b"1")
        url = fs.unstrip_protocol(f"{root}/o")
        assert "://" in url
        assert fs.cat_file(url) == b"1"
        assert fs._strip_protocol(url) == fs._strip_protocol(f"{root}/o")

    @needs("write", "shared")
    def test_spawned_process(self, fs: AbstractFileSystem, root: str) -> None:
        """A new process reads what this one wrote, writes, and has the same dask token."""
        assert self._in_process("spawn", fs, root) == fs.__dask_tokenize__()

    @needs("write", "fork")
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
    def test_forked_process(self, fs: AbstractFileSystem, root: str) -> None:
        """A forked child goes on with the filesystem it finds in its memory."""
        self._in_process("fork", fs, root)
        assert fs.cat_file(f"{root}/o") == b"abc"

    def _in_process(self, method: str, fs: AbstractFileSystem, root: str) -> object:
        """Read and write in another process, and return its token."""
        fs.pipe_file(f"{root}/o", b"abc")
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe(duplex=False)
        arguments = (theirs, fs, f"{root}/o")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, 3.12
            child = context.Process(target=read_and_write, args=arguments)
            child.start()
        try:
            theirs.close()
            assert ours.poll(_CHILD_S), "the other process does not answer"
            answer = ours.recv()
        finally:
            child.kill()
            child.join()
            ours.close()
        assert isinstance(answer, tuple), answer
        assert answer[0] == b"abc"
        if "shared" in self.capabilities:
            assert fs.cat_file(f"{root}/o.answer") == b"cba"
        return answer[1]
