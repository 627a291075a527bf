"""What writing means: whole objects, file objects, transfers, transactions.

Tests of one writer live here; several at once are in ``concurrency``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from fsspec import AbstractFileSystem
from fsspec.callbacks import Callback

from vfs.testing.conformance.base import Conformance, assert_same, needs, relative
from vfs.testing.conformance.read import LARGE_BYTES, pattern
from vfs.types import ObjectInfo

__all__ = ["WriteConformance"]


class _InterruptedError(Exception):
    """Raised by a test inside a with-block."""


class WriteConformance(Conformance):
    """Writing objects and reading back what is stored."""

    @needs("write")
    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    @pytest.mark.parametrize("n_bytes", [0, 1, 1000, LARGE_BYTES])
    def test_write_whole_object(
        self, fs: AbstractFileSystem, root: str, how: str, n_bytes: int
    ) -> None:
        """Every byte arrives, and replaces what was there, longer or shorter."""
        for data in (pattern(n_bytes), b"x" * 2000, pattern(n_bytes)):
            self.call(fs, how, "pipe_file", f"{root}/d/e/o", data)
            assert_same(self.get_raw(fs, f"{root}/d/e/o"), data)
            assert fs.info(f"{root}/d/e/o")["size"] == len(data)

    @needs("write")
    @pytest.mark.parametrize("n_bytes", [5, 17 << 20])  # the latter in parts, where there are any
    def test_answers_name_one_version(
        self, fs: AbstractFileSystem, root: str, tmp_path: Path, n_bytes: int
    ) -> None:
        """What the coroutine of a write or a transfer tells, if it does, is what ``info`` says."""
        local, copy, path = tmp_path / "local", tmp_path / "copy", f"{root}/o"
        local.write_bytes(pattern(n_bytes))
        for name, *args in (
            ("pipe_file", path, pattern(n_bytes)),
            ("put_file", str(local), path),
            ("get_file", path, str(copy)),
        ):
            told = self.call(fs, "foreign loop", name, *args)
            if isinstance(told, ObjectInfo) and told.etag is not None:
                info = fs.info(path)
                assert (told.etag, told.size) == (info["etag"], info["size"])

    @needs("write")
    def test_kinds_of_buffer(self, fs: AbstractFileSystem, root: str) -> None:
        """Any bytes-like value is taken, and copied: later changes do not show."""
        changing = bytearray(b"before")
        fs.pipe_file(f"{root}/a", changing)
        changing[:] = b"after!"
        fs.pipe_file(f"{root}/b", memoryview(b"-view-")[1:5])
        assert self.get_raw(fs, f"{root}/a") == b"before"
        assert self.get_raw(fs, f"{root}/b") == b"view"

    @needs("write")
    def test_write_many_objects(self, fs: AbstractFileSystem, root: str) -> None:
        """``pipe`` of a dict writes them all."""
        fs.pipe({f"{root}/{i}": b"%d" % i for i in range(20)})
        assert [self.get_raw(fs, f"{root}/{i}") for i in range(20)] == [
            b"%d" % i for i in range(20)
        ]

    @needs("write")
    @pytest.mark.parametrize("n_bytes", [0, 1, 1000, LARGE_BYTES])
    def test_write_file_object(self, fs: AbstractFileSystem, root: str, n_bytes: int) -> None:
        """Bytes written in uneven pieces arrive as one object."""
        data = pattern(n_bytes)
        with fs.open(f"{root}/d/o", "wb") as f:
            assert (f.writable(), f.tell()) == (True, 0)
            for offset in range(0, n_bytes, 700_001):
                piece = data[offset : offset + 700_001]
                assert f.write(piece) == len(piece)
                assert f.tell() == offset + len(piece)
        assert f.closed
        assert_same(self.get_raw(fs, f"{root}/d/o"), data)

    @needs("write")
    def test_text(self, fs: AbstractFileSystem, root: str) -> None:
        """Text is encoded as asked."""
        with fs.open(f"{root}/o", "w", encoding="latin-1", newline="\r\n") as f:
            f.write("zwölf\nende")
        assert self.get_raw(fs, f"{root}/o") == "zwölf\r\nende".encode("latin-1")
        fs.write_text(f"{root}/t", "ü", encoding="utf-8")
        assert fs.read_text(f"{root}/t", encoding="utf-8") == "ü"
        fs.write_bytes(f"{root}/t", b"\0")
        assert fs.read_bytes(f"{root}/t") == b"\0"

    @needs("write", "seekable_writes")
    def test_file_object_is_seekable(self, fs: AbstractFileSystem, root: str) -> None:
        """h5py, tifffile and netCDF go back and patch what they wrote."""
        data = bytearray(pattern(LARGE_BYTES))
        with fs.open(f"{root}/o", "wb") as f:
            assert f.seekable()
            f.write(data)
            assert f.seek(5) == 5
            f.write(b"patched")
            assert f.tell() == 12
            assert f.seek(0, io.SEEK_END) == LARGE_BYTES
            f.write(b"tail")
            f.flush()
            assert f.seek(LARGE_BYTES - 3) == LARGE_BYTES - 3
            f.write(b"END")
        data[5:12] = b"patched"
        data[-3:] = b"END"
        assert_same(self.get_raw(fs, f"{root}/o"), bytes(data) + b"tail")

    @needs("write", "atomic_writes")
    def test_unfinished_file_is_invisible(self, fs: AbstractFileSystem, root: str) -> None:
        """Until the close, others see the old object or none."""
        self.put_raw(fs, f"{root}/old", b"old")
        with fs.open(f"{root}/old", "wb") as f, fs.open(f"{root}/new", "wb") as g:
            for file in (f, g):
                file.write(b"n" * 100_000)
                file.flush()
            assert self.get_raw(fs, f"{root}/old") == b"old"
            assert not fs.exists(f"{root}/new")
            assert relative(fs, root, fs.find(root)) == ["old"]
        for name in ("old", "new"):
            assert_same(self.get_raw(fs, f"{root}/{name}"), b"n" * 100_000)

    @needs("write", "discard_on_error")
    def test_error_discards(self, fs: AbstractFileSystem, root: str) -> None:
        """A with-block that raises leaves the old object, or none."""
        self.put_raw(fs, f"{root}/old", b"old")
        for name in ("old", "new"):
            with (  # noqa: PT012 - the body is what is tested
                pytest.raises(_InterruptedError),
                fs.open(f"{root}/{name}", "wb") as f,
            ):
                f.write(b"half")
                raise _InterruptedError
        assert self.get_raw(fs, f"{root}/old") == b"old"
        assert not fs.exists(f"{root}/new")
        assert relative(fs, root, fs.find(root)) == ["old"]

    @needs("write", "append")
    def test_append(self, fs: AbstractFileSystem, root: str) -> None:
        """``ab`` adds to what is there, and creates what is not."""
        for n_times in range(1, 4):
            with fs.open(f"{root}/o", "ab") as f:
                assert f.tell() == 3 * (n_times - 1)
                f.write(b"abc")
            assert self.get_raw(fs, f"{root}/o") == b"abc" * n_times
        self.put_raw(fs, f"{root}/large", pattern(LARGE_BYTES))
        with fs.open(f"{root}/large", "ab") as f:
            f.write(b"end")
        assert_same(self.get_raw(fs, f"{root}/large"), pattern(LARGE_BYTES) + b"end")

    @needs("write", "exclusive_create")
    def test_exclusive_create(self, fs: AbstractFileSystem, root: str) -> None:
        """``xb`` creates what is missing, and only that."""
        with fs.open(f"{root}/o", "xb") as f:
            f.write(b"first")
        with pytest.raises(FileExistsError), fs.open(f"{root}/o", "xb") as f:
            f.write(b"second")
        assert self.get_raw(fs, f"{root}/o") == b"first"

    @needs("write")
    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    def test_touch(self, fs: AbstractFileSystem, root: str, how: str) -> None:
        """``touch`` creates the empty object; truncating is its default."""
        self.call(fs, how, "touch", f"{root}/d/o")
        assert self.get_raw(fs, f"{root}/d/o") == b""
        fs.pipe_file(f"{root}/d/o", b"full")
        try:
            fs.touch(f"{root}/d/o", truncate=False)
        except NotImplementedError:
            pass
        assert self.get_raw(fs, f"{root}/d/o") == b"full"
        self.call(fs, how, "touch", f"{root}/d/o", truncate=True)
        assert self.get_raw(fs, f"{root}/d/o") == b""

    @needs("write")
    def test_transfer_of_files(self, fs: AbstractFileSystem, root: str, tmp_path: Path) -> None:
        """``put_file`` and ``get_file`` carry every byte, and tell the callback."""
        for n_bytes in (0, 1000, LARGE_BYTES):
            source, target = tmp_path / "source", tmp_path / "deep" / "er" / f"{n_bytes}"
            source.write_bytes(pattern(n_bytes))
            up, down = Callback(), Callback()
            fs.put_file(str(source), f"{root}/d/o", callback=up)
            assert_same(self.get_raw(fs, f"{root}/d/o"), pattern(n_bytes))
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(f"{root}/d/o", str(target), callback=down)
            assert_same(target.read_bytes(), pattern(n_bytes))
            assert (up.size, up.value) == (n_bytes, n_bytes)
            assert (down.size, down.value) == (n_bytes, n_bytes)

    @needs("write", "list")
    def test_transfer_of_trees(self, fs: AbstractFileSystem, root: str, tmp_path: Path) -> None:
        """``put`` and ``get`` of a folder keep its shape."""
        tree = {"a": b"1", "d/b": b"22", "d/e/c": b""}
        for name, data in tree.items():
            (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "up" / name).write_bytes(data)
        fs.put(f"{tmp_path}/up/", f"{root}/tree/", recursive=True)
        assert relative(fs, f"{root}/tree", fs.find(f"{root}/tree")) == sorted(tree)
        fs.get(f"{root}/tree/", f"{tmp_path}/down/", recursive=True)
        for name, data in tree.items():
            assert self.get_raw(fs, f"{root}/tree/{name}") == data
            assert (tmp_path / "down" / name).read_bytes() == data
        with pytest.raises(FileNotFoundError):
            fs.get_file(f"{root}/no", f"{tmp_path}/no")
        assert not (tmp_path / "no").exists()

    @needs("write", "transactions")
    def test_commit_and_discard(self, fs: AbstractFileSystem, root: str) -> None:
        """Without autocommit a closed file waits for ``commit``."""
        kept = fs.open(f"{root}/kept", "wb", autocommit=False)
        lost = fs.open(f"{root}/lost", "wb", autocommit=False)
        for f in (kept, lost):
            f.write(b"data")
            f.close()
            assert not fs.exists(f.path)
        kept.commit()
        lost.discard()
        assert self.get_raw(fs, f"{root}/kept") == b"data"
        assert relative(fs, root, fs.find(root)) == ["kept"]

    @needs("write", "transactions")
    @pytest.mark.parametrize("interrupted", [False, True])
    def test_transaction(self, fs: AbstractFileSystem, root: str, *, interrupted: bool) -> None:
        """All writes appear at the end, or none; ``pipe_file`` takes part."""
        self.put_raw(fs, f"{root}/old", b"old")

        def write() -> None:
            with fs.transaction:
                with fs.open(f"{root}/opened", "wb") as f:
                    f.write(b"1")
                fs.pipe_file(f"{root}/piped", b"2")
                fs.pipe_file(f"{root}/old", b"new")
                if interrupted:
                    raise _InterruptedError

        if interrupted:
            with pytest.raises(_InterruptedError):
                write()
            expected: Mapping[str, bytes] = {"old": b"old"}
        else:
            write()
            expected = {"old": b"new", "opened": b"1", "piped": b"2"}
        assert relative(fs, root, fs.find(root)) == sorted(expected)
        for name, data in expected.items():
            assert self.get_raw(fs, f"{root}/{name}") == data
        fs.pipe_file(f"{root}/after", b"3")  # the transaction is over
        assert self.get_raw(fs, f"{root}/after") == b"3"
