"""What every conformance class shares: capabilities, selection, fixtures.

The vocabulary of capabilities and the hooks a subclass fills in live here;
tests, and anything the filesystems under test use themselves, must not.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar, ParamSpec, TypeVar

import pytest
from fsspec import AbstractFileSystem

__all__ = ["ALL_CAPABILITIES", "CAPABILITIES", "Conformance", "needs"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])

CAPABILITIES: Mapping[str, str] = {
    "write": "Objects can be written.",
    "list": "Prefixes can be listed.",
    "delete": "Objects can be deleted.",
    "exclusive_create": "'xb' and mode='create' let exactly one writer win.",
    "append": "'ab' adds to the end of an object.",
    "ranges_negative": "Ranges may count from the end.",
    "empty_directories": "A directory made by mkdir stays though it is empty.",
    "etag": "info() has an etag that changes with the content.",
    "mtime": "info() and modified() know when an object was written.",
    "transactions": "Writes in a transaction appear together at its end, or never.",
    "seekable_writes": "A file being written can be read back and patched.",
    "discard_on_error": "A file whose with-block raises leaves nothing behind.",
    "atomic_writes": "A file being written is invisible until it is closed.",
    "conditional": "A reader of a replaced object sees one version, or raises.",
    "errno": "Errors carry errno and the path.",
    "is_a_directory": "Reading or removing a directory as an object is EISDIR, not ENOENT.",
    "strict_paths": "'..', NUL and a trailing slash are refused, not repaired.",
    "implicit_directories": "Writing needs no mkdir before it.",
    "silent_tree_removal": "rm(recursive=True) of nothing raises nothing.",
    "foreign_loop": "Coroutines may be awaited on any event loop.",
    "open_async": "open_async() gives an asynchronous reader.",
    "odd_names": "Any unicode name of up to 255 bytes is a name.",
    "shared": "Another process with the same arguments sees the same objects.",
    "fork": "A forked child can go on using the filesystem.",
}
"""Name and meaning of each capability."""

ALL_CAPABILITIES = frozenset(CAPABILITIES)


def needs(*capabilities: str) -> Callable[[F], F]:
    """Run a test only where all these capabilities are declared."""
    unknown = set(capabilities) - ALL_CAPABILITIES
    if unknown:
        message = f"no such capability: {sorted(unknown)}"
        raise ValueError(message)

    def mark(test: F) -> F:
        test.__dict__["needed"] = capabilities
        return test

    return mark


class Conformance:
    """Fixtures and helpers; subclasses are collected when they give ``fs`` and ``root``.

    Attributes
    ----------
    capabilities : frozenset[str]
        What the filesystem declares it can do; see `CAPABILITIES`.
    reasons : Mapping[str, str]
        For each capability left out, why. A skip without a reason fails.
    deviations : Mapping[str, str]
        Test name to reason, for known faults: these tests are expected to
        fail. With its parameters (``test_x[sync]``) a name means that one
        case, and it is an error when it passes.
    n_workers : int
        Threads and coroutines of the concurrency tests.
    """

    capabilities: ClassVar[frozenset[str]] = ALL_CAPABILITIES
    reasons: ClassVar[Mapping[str, str]] = {}
    deviations: ClassVar[Mapping[str, str]] = {}
    n_workers: ClassVar[int] = 16

    # -- given by the subclass -----------------------------------------------

    @pytest.fixture
    def fs(self) -> AbstractFileSystem:
        """Return the filesystem under test, in sync mode."""
        raise NotImplementedError

    @pytest.fixture
    def root(self) -> str:
        """Return an empty path prefix to write below, without a trailing slash."""
        raise NotImplementedError

    def put_raw(self, fs: AbstractFileSystem, path: str, data: bytes) -> None:
        """Write past the code under test, where the subclass knows how."""
        fs.pipe_file(path, data)

    def get_raw(self, fs: AbstractFileSystem, path: str) -> bytes:
        """Read past the code under test, where the subclass knows how."""
        data: bytes = fs.cat_file(path)
        return data

    # -- selection -----------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _selected(self, request: pytest.FixtureRequest) -> None:
        """Skip what is not declared, with the reason; mark what is known to fail."""
        for capability in getattr(request.function, "needed", ()):
            if capability in self.capabilities:
                continue
            if not self.reasons.get(capability):
                pytest.fail(f"{capability!r} is not declared, and `reasons` does not say why")
            pytest.skip(f"{capability}: {self.reasons[capability]}")
        # pytest doubles a backslash, twice where several classes share a parametrisation.
        own = re.sub(r"\\+", r"\\", request.node.name)
        for name in {own, request.function.__name__} & set(self.deviations):
            exact = name == own
            why = self.deviations[name]
            request.applymarker(pytest.mark.xfail(reason=why, strict=exact))

    # -- for the tests -------------------------------------------------------

    def await_here(
        self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await a coroutine function on a fresh loop of this thread."""

        async def main() -> T:
            return await function(*args, **kwargs)

        return asyncio.run(main())

    def call(
        self, fs: AbstractFileSystem, how: str, verb: str, *args: object, **kwargs: object
    ) -> Any:
        """Call a method the sync way, or its coroutine on a foreign loop."""
        if how == "sync":
            return getattr(fs, verb)(*args, **kwargs)
        if not fs.async_impl:
            pytest.skip("the filesystem has no coroutines")
        if "foreign_loop" not in self.capabilities:
            pytest.skip(f"foreign_loop: {self.reasons.get('foreign_loop', 'no reason given')}")
        return self.await_here(getattr(fs, "_" + verb), *args, **kwargs)

    def fill(self, fs: AbstractFileSystem, root: str, tree: Mapping[str, bytes]) -> None:
        """Write every object of ``tree`` below ``root``."""
        for name, data in tree.items():
            self.put_raw(fs, f"{root}/{name}", data)


def relative(fs: AbstractFileSystem, root: str, names: Iterable[str]) -> list[str]:
    """Names below ``root``, sorted; repeated names stay repeated."""
    prefix = fs._strip_protocol(root).rstrip("/")
    return sorted(name.removeprefix(prefix).strip("/") for name in names)


def assert_same(data: object, expected: bytes, where: object = "") -> None:
    """Check that the bytes are those expected, and tell where they first are not.

    For content of any length. `assert data == expected` has pytest, where the environment says
    CI, draw a diff of both; for torn objects of some kilobytes that takes hours.
    """
    # INVARIANT: what is wrong is told at once.
    # (tests/kit/test_conformance.py::test_torn_bytes_are_told_at_once)
    if data == expected:
        return
    assert isinstance(data, bytes | bytearray | memoryview), (where, type(data))
    got = bytes(data)
    pairs = enumerate(zip(got, expected, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(got), len(expected)))
    there, wanted = got[at : at + 16], expected[at : at + 16]
    message = f"{where} {len(got)} bytes instead of {len(expected)}, "
    message += f"from offset {at} on {there!r} instead of {wanted!r}"
    raise AssertionError(message.strip())


def assert_os_error(error: BaseException, code: int, name: str, *, errno_known: bool) -> None:
    """Check errno and path of an error, and that zarr will not misread it."""
    assert isinstance(error, OSError)
    assert "not satisfiable" not in str(error)  # zarr takes such a text for an empty object
    if errno_known:
        assert error.errno == code, errno.errorcode.get(error.errno or 0)
        assert error.filename is not None
        assert name in str(error.filename)
