"""``obs3://`` at SeaweedFS, which checks what a mock does not: names, numbers and sizes."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import psutil
import pytest

from vfs.backends.obstore.base import UPLOAD_PART_BYTES
from vfs.backends.obstore.filesystem import S3FileSystem
from vfs.testing.stores import SeaweedServer

pytestmark = pytest.mark.server

_MIB: Final = 1 << 20
_MOST_KEY_BYTES: Final = 1024  # of S3


class Memory:
    """The most that this process grows while it is entered."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.most_bytes = 0

    def _watch(self) -> None:
        before = self._process.memory_info().rss
        while not self._done.wait(0.01):
            grown = self._process.memory_info().rss - before
            self.most_bytes = max(self.most_bytes, grown)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.fixture
def fs(seaweed: SeaweedServer) -> S3FileSystem:
    return S3FileSystem(**seaweed.storage_options)


@pytest.fixture
def root(seaweed: SeaweedServer) -> str:
    return seaweed.fresh()


# -------------------------------------------------------------------- names


def long_key(size: int) -> str:
    """Return a key in parts that a filesystem below the server can hold."""
    return "/".join(["k" * 199] * (size // 200 + 1))[:size].rstrip("/").ljust(size, "k")


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a+b",
        "a%2Bb",
        "a%20b",
        "100%",
        "%",
        "a/ b/+",
        "\u00fc/\u4e2d/\U0001f389",
        "a=b&c?d#e;f,g:h@i$j!",
    ],
)
def test_another_client_knows_it_by_the_same_name(
    fs: S3FileSystem, seaweed: SeaweedServer, root: str, name: str
) -> None:
    path = f"{root}/{name}"
    fs.pipe_file(path, name.encode())
    assert seaweed.get(path) == name.encode()
    fs.cp_file(path, f"{root}/copy")
    assert seaweed.get(f"{root}/copy") == name.encode()
    assert fs.find(root) == sorted([path, f"{root}/copy"])
    fs.rm(root, recursive=True)
    with pytest.raises(FileNotFoundError):
        seaweed.get(path)


def test_longest_key(fs: S3FileSystem, seaweed: SeaweedServer, root: str) -> None:
    taken = len(root.partition("/")[2].encode()) + 1
    path = f"{root}/{long_key(_MOST_KEY_BYTES - taken)}"
    assert len(path.partition("/")[2].encode()) == _MOST_KEY_BYTES
    fs.pipe_file(path, b"1")
    assert (fs.cat_file(path), seaweed.get(path)) == (b"1", b"1")
    assert fs.find(root) == [path]
    with pytest.raises(OSError, match="too long"):
        fs.pipe_file(f"{path}k", b"1")
    fs.rm_file(path)
    assert not fs.exists(path)


def test_names_with_a_slash_at_the_end_are_directories(
    fs: S3FileSystem, seaweed: SeaweedServer, root: str
) -> None:
    seaweed.put(f"{root}/marked/", b"")
    assert fs.isdir(f"{root}/marked")
    assert fs.isdir(f"{root}/marked/")
    assert fs.find(root) == []
    with pytest.raises(IsADirectoryError):
        fs.pipe_file(f"{root}/d/", b"1")
    fs.pipe_file(f"{root}/d/a", b"1")
    assert fs.ls(f"{root}/d/", detail=False) == [f"{root}/d/a"]
    with pytest.raises(IsADirectoryError):
        fs.rm_file(f"{root}/d/")
    assert seaweed.get(f"{root}/d/a") == b"1"


# -------------------------------------------------------------------- numbers and sizes


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(1200)  # three minutes where other work runs beside it
def test_hundred_thousand_keys(fs: S3FileSystem, root: str) -> None:
    count, folders = 100_000, 100
    names = [f"{root}/{n % folders:02}/{n:06}" for n in range(count)]
    with Memory() as writing:
        fs.pipe(dict.fromkeys(names, b"1"))
    with Memory() as listing:
        found = fs.find(root, detail=True)
    assert len(found) == count
    assert found.keys() == set(names)
    assert {info["size"] for info in found.values()} == {1}
    assert fs.ls(f"{root}/07", detail=False) == sorted(names[7::folders])
    assert len(fs.ls(root)) == folders
    with Memory() as removing:
        fs.rm(root, recursive=True)
    assert fs.find(root) == []
    # A listing's entries take 0.5 KiB each; so many requests in flight would be gigabytes.
    assert max(writing.most_bytes, removing.most_bytes) < 400 * _MIB
    assert listing.most_bytes < 200 * _MIB


class Generated:
    """Bytes that cost nothing to have and tell where they are from: blocks with their number."""

    block_bytes = 1 << 20

    def __init__(self, size: int) -> None:
        self.size = size
        self._fill = os.urandom(self.block_bytes - 8)

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.size // self.block_bytes):
            yield number.to_bytes(8) + self._fill


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_object_of_5_gib(fs: S3FileSystem, seaweed: SeaweedServer, tmp_path: Path) -> None:
    if not os.environ.get("VFS_TEST_5_GIB"):
        pytest.skip("takes minutes and 15 GiB of disk: set VFS_TEST_5_GIB=1")
    check_large(fs, seaweed, tmp_path, 5 << 30)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_object_of_many_parts(fs: S3FileSystem, seaweed: SeaweedServer, tmp_path: Path) -> None:
    check_large(fs, seaweed, tmp_path, 40 * UPLOAD_PART_BYTES)


def check_large(fs: Any, seaweed: SeaweedServer, folder: Path, size: int) -> None:
    """Write a file by parts and read it back, whole and in ranges, in bounded memory."""
    if shutil.disk_usage(folder).free < 4 * size:
        pytest.skip(f"needs {4 * size >> 30} GiB of disk")
    bucket = seaweed.make_bucket(f"large-{size}")  # its volumes go with it, a prefix's do not
    local, back, path = folder / "local", folder / "back", f"{bucket}/k"
    with local.open("wb") as file:
        file.writelines(Generated(size))
    wanted = digest_of(local)
    try:
        with Memory() as memory:
            fs.put_file(local, path)
            local.unlink()
            assert fs.info(path)["size"] == size
            for start in (0, size // 2, size - _MIB):
                number = start // _MIB
                assert fs.cat_file(path, start, start + 8) == number.to_bytes(8)
            fs.get_file(path, back)
        assert back.stat().st_size == size
        assert digest_of(back) == wanted
        assert seaweed.uploads(bucket) == []
        assert memory.most_bytes < 400 * _MIB
    finally:
        fs.rm_file(path)
        seaweed.signed("DELETE", bucket)
