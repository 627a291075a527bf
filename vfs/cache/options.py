"""The options of a cache, checked before any I/O.

What lives here: values, defaults and their validation. What must not: opening anything.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Final, cast

from fsspec.core import split_protocol

from vfs.cache.block import PAGE_BYTES, Verify
from vfs.cache.consistency import Consistency, Mode
from vfs.config.options import check_choice
from vfs.config.secrets import redact_url
from vfs.config.sizes import parse_bytes
from vfs.core.file import LAST_AHEAD_BYTES
from vfs.errors import ConfigError

__all__ = ["OPTION_NAMES", "CacheOptions"]

#: How long a fact is believed in mode ``ttl`` if nothing is said: a person who waits for a change
#: waits a minute, a notebook that opens a store again within it asks nothing.
_TTL_S: Final = 60.0

#: Absences are believed for less: what is not there is often about to come.
_NEGATIVE_TTL_S: Final = 5.0

#: Modelled best of 256 KiB to 16 MiB for time series and browsing together; also what
#: mountpoint-s3 uses.
_GRAIN_BYTES: Final = 1 << 20

#: Below this a second request costs more than the bytes: 30 ms at 85 MB/s are 2.5 MB. A little more
#: than the usual size, so that a zarr shard of 4 MiB is one block with its index, which follows it
#: (reading such an array took 1.22 of the time of ``LocalStore``, and takes 0.99; "arrays").
_SMALL_BYTES: Final = (4 << 20) + (64 << 10)

_GAP_BYTES: Final = 1 << 20

#: Beyond this a request is split at multiples of half of it: parts of 8 MiB, which is what AWS
#: advises, and no stream so long that it holds the others up.
_REQUEST_BYTES: Final = 16 << 20
_CONCURRENCY: Final = 16

#: The least a limit can be: the tables take 64 KiB, and one small block has to fit.
_LEAST_LIMIT_BYTES: Final = 1 << 20

_LOCAL: Final = (None, "file", "local", "disk")

OPTION_NAMES: Final = (
    "access",
    "concurrency",
    "consistency",
    "directory",
    "fo",
    "fs",
    "gap_bytes",
    "grain_bytes",
    "max_bytes",
    "memory_bytes",
    "negative_ttl_s",
    "readahead_bytes",
    "request_bytes",
    "small_bytes",
    "target_options",
    "engine",
    "target_protocol",
    "ttl_s",
    "verify",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """How one cache behaves; see :class:`~vfs.cache.filesystem.CacheFileSystem`."""

    directory: str
    max_bytes: int | None
    consistency: Consistency
    grain_bytes: int
    small_bytes: int
    gap_bytes: int
    request_bytes: int
    concurrency: int
    verify: Verify
    may_evict: bool
    memory_bytes: int
    readahead_bytes: int

    @classmethod
    def parse(
        cls,
        *,
        directory: object = None,
        max_bytes: object = None,
        consistency: object = "open",
        ttl_s: object = None,
        negative_ttl_s: object = None,
        grain_bytes: object = None,
        small_bytes: object = None,
        gap_bytes: object = None,
        request_bytes: object = None,
        concurrency: object = None,
        verify: object = "always",
        access: object = "auto",
        memory_bytes: object = None,
        readahead_bytes: object = None,
    ) -> CacheOptions:
        """Check what the user gave.

        Raises
        ------
        ConfigError
            A wrong value; the message names the option.
        """
        mode = cast("Mode", check_choice("consistency", consistency, _MODES))
        ttl = _seconds("ttl_s", ttl_s, _TTL_S)
        if ttl_s is not None and mode != "ttl":
            message = f"ttl_s has no meaning with consistency={mode!r}; give consistency='ttl'"
            raise ConfigError(message)
        negative = _seconds("negative_ttl_s", negative_ttl_s, min(ttl, _NEGATIVE_TTL_S))
        grain = _size("grain_bytes", grain_bytes, _GRAIN_BYTES)
        if grain % PAGE_BYTES or not grain:
            message = f"grain_bytes: {grain_bytes!r} is not a multiple of 64 KiB"
            raise ConfigError(message)
        request = _size("request_bytes", request_bytes, _REQUEST_BYTES)
        if request < grain:
            message = f"request_bytes: {request} is less than one block of {grain} bytes"
            raise ConfigError(message)
        limit = None
        if max_bytes is not None:
            limit = parse_bytes(max_bytes, "max_bytes", minimum=_LEAST_LIMIT_BYTES)
        return cls(
            directory=_directory(directory),
            max_bytes=limit,
            consistency=Consistency(mode, ttl, negative),
            grain_bytes=grain,
            small_bytes=_size("small_bytes", small_bytes, _SMALL_BYTES),
            gap_bytes=_size("gap_bytes", gap_bytes, _GAP_BYTES),
            request_bytes=request,
            concurrency=_count("concurrency", concurrency, _CONCURRENCY),
            verify=cast("Verify", check_choice("verify", verify, ("always", "once", "never"))),
            may_evict=check_choice("access", access, ("auto", "epoch")) == "auto",
            memory_bytes=_size("memory_bytes", memory_bytes, 0),
            readahead_bytes=_size("readahead_bytes", readahead_bytes, LAST_AHEAD_BYTES),
        )


_MODES: Final = ("immutable", "ttl", "open", "strict")


def _size(name: str, value: object, default: int) -> int:
    return default if value is None else parse_bytes(value, name)


def _count(name: str, value: object, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    message = f"{name}: {value!r} is not a positive number"
    raise ConfigError(message)


def _seconds(name: str, value: object, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    message = f"{name}: {value!r} is not a number of seconds"
    raise ConfigError(message)


def _directory(given: object) -> str:
    if given is None:
        from platformdirs import user_cache_dir

        return os.path.join(user_cache_dir("vfs", appauthor=False), "cache")
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        message = "cache: directory is empty; name a local directory"
        raise ConfigError(message)
    protocol, path = split_protocol(os.fspath(given))
    if protocol not in _LOCAL or "::" in str(given):
        message = f"cache: directory={redact_url(str(given))!r} is not a local directory"
        raise ConfigError(message)
    if "\0" in path:
        message = "cache: directory contains a NUL character"
        raise ConfigError(message)
    return str(os.path.abspath(os.path.expanduser(path)))
