"""Opening the cold store of a tier and keeping it apart from the hot directory.

What lives here: URLs and options of the cold side. What must not: reading or writing objects.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fsspec.core import split_protocol, url_to_fs

from vfs.config.secrets import redact_url, reveal
from vfs.core.storename import protocols_of
from vfs.core.target import SERVED_BY, build, in_sync_mode
from vfs.errors import ConfigError

__all__ = ["check_apart", "is_local", "open_cold", "options_of_cold", "overlap"]


def options_of_cold(cold: str | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the options that stand under the cold store's protocol out of ``kwargs``."""
    if cold is None or not isinstance(cold, str):
        return {}
    protocol = split_protocol(cold)[0]
    if protocol in kwargs and isinstance(kwargs[protocol], Mapping):
        return dict(kwargs.pop(protocol))
    return {}


def open_cold(cold: str, options: Mapping[str, Any], engine: str) -> tuple[Any, str]:
    """Open the cold store of a ``tier://`` URL; return it and its root path.

    Raises
    ------
    ConfigError
        The URL names no filesystem, or an option is wrong.
    """
    protocol, path = split_protocol(cold)
    if "::" in cold:
        try:
            fs, root = url_to_fs(cold, **reveal(dict(options)))
        except (ImportError, ValueError, TypeError) as error:
            message = f"tier: cannot open cold={redact_url(cold)!r}: {redact_url(str(error))}"
            raise ConfigError(message) from error
        fs = in_sync_mode(fs)
    else:
        fs = build(protocol or "file", options, engine)
        root = fs._strip_protocol(cold if protocol else os.path.abspath(path))
    if not root or root == "/":
        message = f"tier: cold={redact_url(cold)!r} names no place below the root; give a prefix"
        raise ConfigError(message)
    return fs, root


def is_local(fs: Any) -> bool:
    """Say whether a filesystem, or the innermost one of its layers, is files of this machine."""
    if any(protocol in {*SERVED_BY, "disk"} for protocol in protocols_of(fs)):
        return True
    inner = getattr(fs, "fs", None)
    return inner is not None and is_local(inner)


def overlap(one: str, other: str) -> bool:
    """Say whether two directories are the same, or one lies in the other."""
    one, other = (f"{os.path.realpath(path).rstrip('/')}/" for path in (one, other))
    return one.startswith(other) or other.startswith(one)


def check_apart(hot: str, cold: str, *, local: bool) -> None:
    """Refuse a hot directory that is the cold store, lies in it or holds it.

    Raises
    ------
    ConfigError
        The two overlap: copies would be listed, evicted or promoted as objects.
    """
    if not local or not cold:
        return
    if overlap(hot, cold):
        message = (
            f"tier: hot={hot!r} and cold={cold!r} overlap; put them in directories of which "
            f"neither lies in the other"
        )
        raise ConfigError(message)
