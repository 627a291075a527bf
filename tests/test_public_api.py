"""The public names are pinned: adding or losing one is a decision, not an accident."""

from __future__ import annotations

import importlib.metadata

import vfs

PUBLIC = """
ArchivedError CircuitOpenError ConfigError ConflictError Event IntegrityError
KeyValueFileSystem ObjectInfo QuotaExceededError ReadOnly ReadOnlyError ThrottledError TierFullError
UnavailableError UnsupportedError VfsError VirtualFileSystem WrapperFileSystem __version__
is_retryable open_filesystem protocols subscribe
"""


def test_public_names() -> None:
    assert sorted(vfs.__all__) == sorted(PUBLIC.split())
    assert dir(vfs) == sorted(vfs.__all__)
    for name in vfs.__all__:
        assert getattr(vfs, name) is not None


def test_version_is_that_of_the_distribution() -> None:
    assert vfs.__version__ == importlib.metadata.version("fsspec-vfs")


def test_what_is_not_public_is_an_attribute_error() -> None:
    assert not hasattr(vfs, "utils")


def test_protocols() -> None:
    assert sorted(vfs.protocols()) == [
        *("cache", "disk", "mem", "obaz", "obgs", "obs3", "readonly", "tier")
    ]
