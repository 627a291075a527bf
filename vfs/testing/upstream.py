"""The suites of fsspec and zarr, run over any filesystem.

Adapters live here, one class a suite; what is tested is theirs. Each class
takes the same fixtures ``fs`` and ``root`` as the conformance classes, from a
class named before it among the bases, and needs pytest-asyncio in its
``auto`` mode where zarr's own tests are coroutines.

Examples
--------
>>> import fsspec, pytest
>>> class Mine:
...     @pytest.fixture
...     def fs(self):
...         return fsspec.filesystem("memory")
...
...     @pytest.fixture
...     def root(self):
...         return "/upstream"
>>> class TestCopy(Mine, FsspecCopyTests): ...
>>> class TestStore(Mine, ZarrStoreTests): ...
>>> class TestMachines(Mine, ZarrMachineTests): ...
"""

from __future__ import annotations

import functools
import posixpath
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
import fsspec.tests.abstract as upstream
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, cpu
from zarr.storage import FsspecStore
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests
from zarr.testing.strategies import keys as zarr_keys

if TYPE_CHECKING:
    from fsspec.implementations.local import LocalFileSystem

__all__ = [
    "FsspecCopyTests",
    "FsspecGetTests",
    "FsspecOpenTests",
    "FsspecPipeTests",
    "FsspecPutTests",
    "ZarrMachineTests",
    "ZarrStoreTests",
    "zarr_store",
]


class _FsspecFixtures(upstream.AbstractFixtures):  # type: ignore[misc]
    """fsspec's fixtures, from ``root`` and the declared capabilities."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"empty_directories"})

    @pytest.fixture
    def fs_path(self, fs: AbstractFileSystem, root: str) -> str:
        """Return an existing directory to work in."""
        fs.makedirs(root, exist_ok=True)
        return root

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        """Return what joins paths: always with slashes."""
        return posixpath.join

    @pytest.fixture
    def fs_sanitize_path(self) -> Callable[[str], str]:
        """Return what the suite expects to be applied to its paths: nothing."""
        return str

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        """Return whether directories stay when they are empty."""
        return "empty_directories" in self.capabilities

    @pytest.fixture
    def local_fs(self) -> LocalFileSystem:
        """Return fsspec's local filesystem, for each test (theirs warns in pytest 9)."""
        return fsspec.filesystem("file", auto_mkdir=True)


class FsspecCopyTests(_FsspecFixtures, upstream.AbstractCopyTests):  # type: ignore[misc]
    """45 cases of ``copy``."""


class FsspecGetTests(_FsspecFixtures, upstream.AbstractGetTests):  # type: ignore[misc]
    """45 cases of ``get``."""


class FsspecPutTests(_FsspecFixtures, upstream.AbstractPutTests):  # type: ignore[misc]
    """45 cases of ``put``."""


class FsspecOpenTests(_FsspecFixtures, upstream.AbstractOpenTests):  # type: ignore[misc]
    """One case: ``xb`` of what exists fails at the open."""


class FsspecPipeTests(_FsspecFixtures, upstream.AbstractPipeTests):  # type: ignore[misc]
    """One case: ``mode="create"`` of what exists fails."""


def zarr_store(fs: AbstractFileSystem, root: str) -> FsspecStore:
    """Return zarr's store over the asynchronous twin of a filesystem.

    Parameters
    ----------
    fs : AbstractFileSystem
        In sync mode.
    root : str
        Below which the keys are.

    Returns
    -------
    FsspecStore
        Of the class's own instance with ``asynchronous=True``, or, where there
        are no coroutines, of fsspec's wrapper around this one.
    """
    return FsspecStore(**_store_arguments(fs, root))


def _store_arguments(fs: AbstractFileSystem, root: str) -> dict[str, Any]:
    if fs.async_impl:
        options = {**fs.storage_options, "asynchronous": True}
        twin = type(fs)(*fs.storage_args, **options)
    else:
        twin = AsyncFileSystemWrapper(fs, asynchronous=True)
    return {"fs": twin, "path": fs._strip_protocol(root)}


class ZarrStoreTests(StoreTests[FsspecStore, cpu.Buffer]):
    """zarr's own tests of a store: 73 cases in zarr 3.1, 77 in 3.4."""

    store_cls = FsspecStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, fs: AbstractFileSystem, root: str) -> Iterator[dict[str, Any]]:
        """Yield the store's arguments; each test has a loop, and so instances, of its own."""
        yield _store_arguments(fs, root)
        type(fs).clear_instance_cache()

    async def get(self, store: FsspecStore, key: str) -> Buffer:
        """Read past the store."""
        return self.buffer_cls.from_bytes(await store.fs._cat_file(f"{store.path}/{key}"))

    async def set(self, store: FsspecStore, key: str, value: Buffer) -> None:
        """Write past the store."""
        await store.fs._pipe_file(f"{store.path}/{key}", value.to_bytes())

    def test_store_repr(self, store: FsspecStore) -> None:
        """The store names its path."""
        assert store.path in repr(store)

    def test_store_supports_writes(self, store: FsspecStore) -> None:
        """It can write."""
        assert store.supports_writes

    def test_store_supports_listing(self, store: FsspecStore) -> None:
        """It can list."""
        assert store.supports_listing


class _MachineStore(FsspecStore):
    """A store without the two things zarr's machines do not expect of its own class."""

    keeps_directories = False

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Read ranges; zarr 3.4 takes the last 0 bytes (``start=-0``) for the whole."""
        asked = [
            (key, RangeByteRequest(0, 0) if part == SuffixByteRequest(0) else part)
            for key, part in key_ranges
        ]
        return await super().get_partial_values(prototype, asked)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List names; a directory left empty is none to a machine that knows only keys."""
        async for name in super().list_dir(prefix):
            path = "/".join(part for part in (self.path, prefix.strip("/"), name) if part)
            if not self.keeps_directories or await self.fs._find(path):
                yield name


class _HierarchicalStoreMachine(ZarrStoreStateMachine):
    """zarr's machine for stores in which no key may lie below another, as files lie below none."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._folders: set[str] = set()

    @rule(key=zarr_keys(), data=st.binary(min_size=0, max_size=100))
    def set(self, key: str, data: bytes) -> None:
        """Set a key that is no directory, nor below an object; a directory may stay when empty."""
        parts = key.split("/")
        above = {"/".join(parts[:length]) for length in range(1, len(parts))}
        assume(key not in self._folders and not above & self.model.keys())
        self._folders |= above
        super().set(key, data)


class ZarrMachineTests:
    """zarr's state machines, over a store and over a hierarchy of groups and arrays.

    Attributes
    ----------
    capabilities : frozenset[str]
        Only ``empty_directories`` counts: those are then left out of listings.
    max_examples, n_steps : int
        How much to try.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"empty_directories"})
    max_examples: ClassVar[int] = 10
    n_steps: ClassVar[int] = 20

    def _store(self, fs: AbstractFileSystem, root: str) -> FsspecStore:
        store = _MachineStore(**_store_arguments(fs, root))
        store.keeps_directories = "empty_directories" in self.capabilities
        return store

    def _run(self, factory: Any) -> None:
        with warnings.catch_warnings():
            # The machines draw data types that have no specification yet; zarr says so.
            warnings.filterwarnings("ignore", message="The data type .* does not have a Zarr V3")
            run_state_machine_as_test(
                factory,
                settings=settings(
                    max_examples=self.max_examples,
                    stateful_step_count=self.n_steps,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )

    def test_zarr_store_machine(self, fs: AbstractFileSystem, root: str) -> None:
        """Any order of store operations agrees with a dict."""
        store = self._store(fs, root)
        flat = getattr(fs, "flat", False)
        machine = ZarrStoreStateMachine if flat else _HierarchicalStoreMachine
        self._run(functools.partial(machine, store))

    def test_zarr_hierarchy_machine(self, fs: AbstractFileSystem, root: str) -> None:
        """Any order of group and array operations agrees with zarr's memory store."""
        store = self._store(fs, root)
        self._run(functools.partial(ZarrHierarchyStateMachine, store))
