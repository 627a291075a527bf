"""Registration with fsspec: by dotted name, never over a name that means something else.

What lives here: the one call that makes a protocol known. What must not: a list of our own
backends (that is the entry points' job).
"""

from __future__ import annotations

import re
from typing import Any

from fsspec.implementations.chained import ChainedFileSystem
from fsspec.registry import known_implementations, register_implementation

from vfs.errors import ConfigError

__all__ = ["register"]


def register(cls: type[Any], protocol: str) -> None:
    """Make ``protocol`` open ``cls`` in this process, in URLs and in chains.

    Other processes know a protocol through the entry point group ``fsspec.specs`` only.

    Raises
    ------
    ConfigError
        ``protocol`` is not all ``[a-z]`` (and digits, where nothing is wrapped), so that fsspec
        would misread chains with it, or is taken by another class.
    """
    wraps = issubclass(cls, ChainedFileSystem)
    if not re.fullmatch("[a-z]+" if wraps else "[a-z][a-z0-9]*", protocol):
        message = f"protocol {protocol!r} of {cls.__qualname__}: only letters a to z work in chains"
        raise ConfigError(message)
    dotted = f"{cls.__module__}.{cls.__qualname__}"
    known = known_implementations.get(protocol)
    # Entry points spell it "module:Class" or "module.Class".
    if known is not None and known["class"].replace(":", ".") != dotted:
        message = f"protocol {protocol!r} already means {known['class']}; choose another name"
        raise ConfigError(message)
    # Both tables: chains look names up in known_implementations, which holds strings only, while
    # a class defined in a notebook or a function cannot be imported by its dotted name.
    known_implementations.setdefault(protocol, {"class": dotted})
    register_implementation(protocol, cls, clobber=True)
