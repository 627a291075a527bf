"""Which client serves a protocol: the Rust one where it can, fsspec's own elsewhere.

What lives here: the choice. What must not: either client; they are found by protocol.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Final

import fsspec

from vfs.config.options import check_choice
from vfs.errors import ConfigError

__all__ = ["ENGINES", "choose_protocol"]

#: ``auto`` takes obstore if it is installed and every option means something to it.
ENGINES: Final = ("auto", "obstore", "s3fs")

_FASTER: Final = {"s3": "obs3", "s3a": "obs3"}


def choose_protocol(protocol: str, options: Mapping[str, Any], engine: str) -> str:
    """Return the protocol whose class is to serve a target.

    Parameters
    ----------
    protocol : str
        As the URL names it.
    options : mapping
        What the target is given; ``auto`` looks at names, ``obstore`` leaves errors to the class.
    engine : {"auto", "obstore", "s3fs"}
        Without effect where there is no choice.

    Raises
    ------
    ConfigError
        Another engine, or obstore is asked for and not installed.
    """
    check_choice("engine", engine, ENGINES)
    faster = _FASTER.get(protocol)
    if faster is None or engine == "s3fs":
        return protocol
    if importlib.util.find_spec("obstore") is None:
        if engine == "obstore":
            raise ConfigError("engine='obstore' needs obstore; install fsspec-vfs[obstore]")
        return protocol
    if engine == "obstore" or fsspec.get_filesystem_class(faster).takes(options):
        return faster
    return protocol
