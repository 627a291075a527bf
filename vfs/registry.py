"""Protocols of this library, and filesystems from URLs.

What lives here: what is registered under which name, and the one-call opener. What must not:
imports of rooms; names are resolved through entry points.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from fsspec.core import split_protocol, url_to_fs

from vfs.config.secrets import redact_url
from vfs.core.target import SERVED_BY
from vfs.errors import ConfigError

__all__ = ["open_filesystem", "protocols"]


def protocols() -> dict[str, str]:
    """Return the protocols this library registers, with the class that serves each.

    Examples
    --------
    >>> protocols()["mem"]
    'vfs.backends.mem:MemFileSystem'
    """
    ours = (ep for ep in entry_points(group="fsspec.specs") if ep.value.startswith("vfs."))
    return {ep.name: ep.value for ep in sorted(ours)}


def open_filesystem(url: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Open the filesystem of a URL, chained or plain; local files are served by ``disk``.

    Parameters
    ----------
    url : str
        As pandas and zarr take it, for example ``"tier::s3://bucket/key"``.
    storage_options : dict, optional
        As pandas and zarr take them: options of the outermost protocol, and one dictionary for
        each inner protocol under its name.

    Returns
    -------
    fs : AbstractFileSystem
        The filesystem.
    path : str
        The path of the URL inside it.

    Raises
    ------
    ConfigError
        An unknown protocol, a missing package or a wrong option.

    Notes
    -----
    Cost: no request.

    Examples
    --------
    >>> fs, path = open_filesystem("mem://a/b")
    >>> path
    'a/b'
    """
    protocol, path = split_protocol(url)
    if "::" not in url and (protocol in SERVED_BY or protocol is None):
        url = f"disk://{path}"
    try:
        fs, inner = url_to_fs(url, **dict(storage_options or {}))
    except ConfigError:
        raise
    except (ImportError, ValueError, TypeError) as error:
        message = f"cannot open {redact_url(url)!r}: {redact_url(str(error))}"
        raise ConfigError(message) from error
    return fs, str(inner)
