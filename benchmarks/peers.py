"""Other ways to read the same bytes again: one function a peer, None where it is not installed.

What lives here: how each peer is set up and asked. What must not: timing.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec

Reader = Callable[[int | None, int | None], bytes]


def operating_system(path: str) -> Reader:
    """The limit: open, pread, close."""
    size = os.path.getsize(path)

    def read(start: int | None, end: int | None) -> bytes:
        low = start or 0
        high = size if end is None else end
        fd = os.open(path, os.O_RDONLY)
        try:
            return os.pread(fd, high - low, low)
        finally:
            os.close(fd)

    return read


def through(fs: Any, path: str) -> Reader:
    """Any fsspec filesystem, by ``cat_file``."""
    return lambda start, end: fs.cat_file(path, start, end)


def simplecache(path: str, folder: Path) -> dict[str, Reader]:
    """fsspec's cache of whole files over ``file://``, by its two ways of reading."""
    fs = fsspec.filesystem(
        "simplecache", target_protocol="file", cache_storage=str(folder / "simplecache")
    )

    def by_open(start: int | None, end: int | None) -> bytes:
        with fs.open(path, "rb") as file:
            if start is None:
                return bytes(file.read())
            file.seek(start)
            return bytes(file.read((end or 0) - start))

    return {"simplecache cat_file": through(fs, path), "simplecache open.read": by_open}


def file_and_block_cache(path: str, folder: Path) -> dict[str, Reader]:
    """fsspec's two other caches over ``file://``, by opening and reading, as pandas does."""
    readers: dict[str, Reader] = {}
    for protocol in ("filecache", "blockcache"):
        fs = fsspec.filesystem(
            protocol, target_protocol="file", cache_storage=str(folder / protocol)
        )

        def read(start: int | None, end: int | None, fs: Any = fs) -> bytes:
            with fs.open(path, "rb") as file:
                if start is None:
                    return bytes(file.read())
                file.seek(start)
                return bytes(file.read((end or 0) - start))

        readers[f"{protocol} open.read"] = read
    return readers


def diskcache(path: str, folder: Path) -> dict[str, Reader]:
    """``diskcache``: values in files, an index in SQLite."""
    try:
        package = importlib.import_module("diskcache")
    except ImportError:
        return {}
    cache = package.Cache(str(folder / "diskcache"), size_limit=4 << 30)
    with open(path, "rb") as file:
        cache.set(path, file, read=True)

    def read(start: int | None, end: int | None) -> bytes:
        if start is None:
            return bytes(cache[path])
        with cache.get(path, read=True) as file:
            file.seek(start)
            return bytes(file.read((end or 0) - start))

    return {"diskcache": read}


def multi_storage_client(path: str) -> dict[str, Reader]:
    """``multi-storage-client``: it reads local files itself, past its cache, its fastest case."""
    try:
        package = importlib.import_module("multistorageclient")
        ranges = importlib.import_module("multistorageclient.types").Range
    except ImportError:
        return {}
    top, name = os.path.split(path)
    profile = {"storage_provider": {"type": "file", "options": {"base_path": top}}}
    client = package.StorageClient(
        package.StorageClientConfig.from_dict(
            {"profiles": {"benchmark": profile}}, profile="benchmark"
        )
    )

    def read(start: int | None, end: int | None) -> bytes:
        if start is None:
            return bytes(client.read(name))
        return bytes(client.read(name, byte_range=ranges(start, (end or 0) - start)))

    return {"multi-storage-client": read}
