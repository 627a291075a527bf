"""What reading means: whole objects, ranges, many ranges, file objects.

Tests of reads alone live here; writes appear only to prepare an object.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import pytest
from fsspec import AbstractFileSystem

from vfs.testing.conformance.base import Conformance, assert_same, needs

__all__ = ["ReadConformance"]

TEN = b"0123456789"
EDGES = (None, 0, 1, 5, 9, 10, 11, 100)
EDGES_FROM_END = (-1, -3, -9, -10, -11, -100)
LARGE_BYTES = (8 << 20) + 1  # one more than a multipart part


def pattern(n_bytes: int) -> bytes:
    """Bytes in which no two aligned blocks are alike."""
    words = b"".join(i.to_bytes(4, "big") for i in range(n_bytes // 4 + 1))
    return words[:n_bytes]


class ReadConformance(Conformance):
    """Reading objects of known content."""

    @pytest.fixture(params=["sync", "foreign loop"])
    def cat(self, request: pytest.FixtureRequest, fs: AbstractFileSystem) -> Callable[..., bytes]:
        """Return ``cat_file``, called in the one way and the other."""

        def read(path: str, **kwargs: int | None) -> bytes:
            data: bytes = self.call(fs, request.param, "cat_file", path, **kwargs)
            return data

        return read

    @pytest.mark.parametrize("n_bytes", [0, 1, 1000, LARGE_BYTES])
    def test_read_whole_object(
        self, fs: AbstractFileSystem, root: str, cat: Callable[..., bytes], n_bytes: int
    ) -> None:
        """All bytes, as bytes, for the empty object and for a large one."""
        self.put_raw(fs, f"{root}/o", pattern(n_bytes))
        data = cat(f"{root}/o")
        assert type(data) is bytes
        assert_same(data, pattern(n_bytes))
        assert fs.info(f"{root}/o")["size"] == fs.size(f"{root}/o") == n_bytes

    @pytest.mark.parametrize("content", [TEN, b""], ids=["ten", "empty"])
    def test_every_range(
        self, fs: AbstractFileSystem, root: str, cat: Callable[..., bytes], content: bytes
    ) -> None:
        """Open, past the end, empty and reversed ranges are those of a slice."""
        self.put_raw(fs, f"{root}/o", content)
        for start, end in itertools.product(EDGES, EDGES):
            got = cat(f"{root}/o", start=start, end=end)
            assert_same(got, content[start:end], (start, end))

    @needs("ranges_negative")
    @pytest.mark.parametrize("content", [TEN, b""], ids=["ten", "empty"])
    def test_every_range_from_the_end(
        self, fs: AbstractFileSystem, root: str, cat: Callable[..., bytes], content: bytes
    ) -> None:
        """Negative bounds count from the end, as those of a slice do."""
        self.put_raw(fs, f"{root}/o", content)
        pairs = [
            *itertools.product(EDGES_FROM_END, EDGES),
            *itertools.product(EDGES, EDGES_FROM_END),
            *itertools.product(EDGES_FROM_END, EDGES_FROM_END),
        ]
        for start, end in pairs:
            got = cat(f"{root}/o", start=start, end=end)
            assert_same(got, content[start:end], (start, end))

    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    @pytest.mark.parametrize("max_gap", [None, 0, 3, 1000])
    def test_many_ranges(
        self, fs: AbstractFileSystem, root: str, how: str, max_gap: int | None
    ) -> None:
        """Overlapping, repeated, touching, unordered ranges come in the order asked."""
        content = {"a": pattern(4000), "b": TEN}
        self.fill(fs, root, content)
        asked = [("a", 10, 20), ("b", 0, 3), ("a", 15, 40), ("a", 0, 10), ("a", 41, 41)]
        asked += [("a", 3990, 5000), ("b", 3, 10), ("a", 10, 20), ("a", 100, 2000)]
        names, starts, ends = zip(*asked, strict=True)
        paths = [f"{root}/{name}" for name in names]
        got = self.call(fs, how, "cat_ranges", paths, list(starts), list(ends), max_gap=max_gap)
        for piece, (name, start, end) in zip(got, asked, strict=True):
            assert_same(piece, content[name][start:end], (name, start, end))

    @pytest.mark.parametrize("how", ["sync", "foreign loop"])
    def test_many_ranges_with_one_missing(
        self, fs: AbstractFileSystem, root: str, how: str
    ) -> None:
        """``on_error="return"`` puts the error in its place; ``"raise"`` raises it."""
        self.put_raw(fs, f"{root}/a", TEN)
        paths, starts, ends = [f"{root}/a", f"{root}/no", f"{root}/a"], [0, 0, 2], [1, 1, 4]
        got = self.call(fs, how, "cat_ranges", paths, starts, ends, on_error="return")
        assert (got[0], got[2]) == (b"0", b"23")
        assert isinstance(got[1], FileNotFoundError)
        with pytest.raises(FileNotFoundError):
            self.call(fs, how, "cat_ranges", paths, starts, ends, on_error="raise")

    def test_many_ranges_with_common_bounds(self, fs: AbstractFileSystem, root: str) -> None:
        """One start and one end stand for all; open ends are allowed; lengths must agree."""
        self.fill(fs, root, {"a": TEN, "b": TEN[::-1]})
        paths = [f"{root}/a", f"{root}/b"]
        assert list(fs.cat_ranges(paths, 2, 5)) == [b"234", b"765"]
        assert list(fs.cat_ranges(paths, [7, None], [None, 2])) == [b"789", b"98"]
        assert list(fs.cat_ranges([], [], [])) == []
        with pytest.raises(ValueError):  # noqa: PT011 - fsspec raises it bare
            fs.cat_ranges(paths, [0], [1, 2])

    def test_read_many_objects(self, fs: AbstractFileSystem, root: str) -> None:
        """``cat`` of a list is a dict; missing ones are raised, returned or left out."""
        self.fill(fs, root, {"a": b"1", "b": b"22"})
        a, b, no = (fs._strip_protocol(f"{root}/{name}") for name in ("a", "b", "no"))
        assert fs.cat([a, b]) == {a: b"1", b: b"22"}
        assert fs.cat(a) == b"1"
        with pytest.raises(FileNotFoundError):
            fs.cat([a, no])
        assert fs.cat([a, no], on_error="omit") == {a: b"1"}
        got = fs.cat([a, no], on_error="return")
        assert got[a] == b"1"
        assert isinstance(got[no], FileNotFoundError)

    def test_read_file_object(self, fs: AbstractFileSystem, root: str) -> None:
        """A reader seeks, tells, reads into buffers, and stops at the end."""
        self.put_raw(fs, f"{root}/o", TEN)
        with fs.open(f"{root}/o", "rb") as f:
            assert (f.readable(), f.seekable(), f.writable()) == (True, True, False)
            assert (f.read(3), f.tell(), f.read(0)) == (b"012", 3, b"")
            assert f.seek(-2, io.SEEK_END) == 8
            assert (f.read(100), f.read(), f.read(1)) == (b"89", b"", b"")
            assert f.seek(4) == 4
            assert f.seek(2, io.SEEK_CUR) == 6
            buffer = bytearray(3)
            assert f.readinto(buffer) == 3
            assert bytes(buffer) == b"678"
            assert f.readinto(bytearray(5)) == 1
            f.seek(0)
            assert f.read(-1) == TEN
            f.seek(50)
            assert f.read() == b""
            with pytest.raises((OSError, ValueError)):
                f.seek(-1)
        assert f.closed
        with pytest.raises(ValueError):  # noqa: PT011 - as the builtin file does
            f.read(1)

    def test_file_object_in_pieces(self, fs: AbstractFileSystem, root: str) -> None:
        """Small, large and backward reads of a large object give its bytes."""
        content = pattern(LARGE_BYTES)
        self.put_raw(fs, f"{root}/o", content)
        with fs.open(f"{root}/o", "rb") as f:
            for offset in (0, 1, 4095, 1 << 20, LARGE_BYTES - 10, (5 << 20) - 3, 7):
                for n_bytes in (1, 100, 70_000):
                    f.seek(offset)
                    assert_same(f.read(n_bytes), content[offset : offset + n_bytes])
            f.seek(0)
            pieces = list(iter(lambda: f.read(1_000_003), b""))
        assert_same(b"".join(pieces), content)

    def test_file_object_as_buffers(self, fs: AbstractFileSystem, root: str) -> None:
        """What pyarrow asks a reader for: buffers of the right bytes, and the place after."""
        content = pattern(LARGE_BYTES)
        self.put_raw(fs, f"{root}/o", content)
        with fs.open(f"{root}/o", "rb") as f:
            if not hasattr(f, "read_buffer"):
                return  # not one of this library's readers
            for offset in (0, 1, 4095, LARGE_BYTES - 10, LARGE_BYTES, LARGE_BYTES + 5, 7):
                for n_bytes in (0, 100, 65_536, 1_000_003):
                    f.seek(offset)
                    wanted = content[offset : offset + n_bytes]
                    assert_same(bytes(f.read_buffer(n_bytes)), wanted)
                    assert f.tell() == offset + len(wanted)
                    after = offset + len(wanted)
                    assert_same(f.read(10), content[after : after + 10])
            f.seek(3)
            assert_same(bytes(f.read_buffer()), content[3:])

    @pytest.mark.parametrize("n_bytes", [0, 7, 65_536, 200_000])
    def test_file_named_as_a_table(self, fs: AbstractFileSystem, root: str, n_bytes: int) -> None:
        """A file whose end may come with its size is as any other, from the end and the start."""
        content = pattern(n_bytes)
        self.put_raw(fs, f"{root}/t.parquet", content)
        with fs.open(f"{root}/t.parquet", "rb") as f:
            assert f.seek(0, io.SEEK_END) == n_bytes
            for n_last in (8, 1000, 65_536, 100_000):
                f.seek(max(0, n_bytes - n_last))
                assert_same(f.read(), content[-n_last:])
            f.seek(0)
            assert_same(f.read(10) + f.read(), content)
        with pytest.raises(FileNotFoundError):
            fs.open(f"{root}/no.parquet", "rb").read()

    @needs("write")
    def test_directory_named_as_a_table(self, fs: AbstractFileSystem, root: str) -> None:
        """As spark makes them: it cannot be opened."""
        self.put_raw(fs, f"{root}/dir.parquet/a", b"1")
        with pytest.raises((FileNotFoundError, IsADirectoryError)):
            fs.open(f"{root}/dir.parquet", "rb").read()

    def test_lines_and_text(self, fs: AbstractFileSystem, root: str) -> None:
        """Lines of bytes and of text, with the encoding and newlines asked for."""
        self.put_raw(fs, f"{root}/o", "zwölf\r\n\nende".encode("latin-1"))
        with fs.open(f"{root}/o", "rb") as f:
            assert f.readline() == b"zw\xf6lf\r\n"
            assert list(f) == [b"\n", b"ende"]
        with fs.open(f"{root}/o", "r", encoding="latin-1") as f:
            assert f.read() == "zwölf\n\nende"
        with fs.open(f"{root}/o", "r", encoding="latin-1", newline="") as f:
            assert f.readlines() == ["zwölf\r\n", "\n", "ende"]

    def test_parts_of_objects(self, fs: AbstractFileSystem, root: str) -> None:
        """``head``, ``tail`` and ``read_block`` read no more than they say."""
        self.put_raw(fs, f"{root}/o", TEN)
        assert (fs.head(f"{root}/o", 3), fs.tail(f"{root}/o", 3)) == (b"012", b"789")
        assert fs.read_block(f"{root}/o", 2, 4) == b"2345"

    @needs("open_async", "foreign_loop")
    def test_asynchronous_file_object(self, fs: AbstractFileSystem, root: str) -> None:
        """``open_async`` reads on the caller's loop."""
        self.put_raw(fs, f"{root}/o", TEN)

        async def read() -> list[bytes]:
            f = await fs.open_async(f"{root}/o", "rb")
            try:
                return [await f.read(4), await f.read(-1)]
            finally:
                await f.close()

        assert self.await_here(read) == [b"0123", b"456789"]

    @needs("list")
    def test_mapping(self, fs: AbstractFileSystem, root: str) -> None:
        """``get_mapper`` shows objects as a dict; a missing one is a KeyError."""
        self.fill(fs, root, {"a": b"1", "d/b": b"22"})
        mapper = fs.get_mapper(root)
        assert dict(mapper) == {"a": b"1", "d/b": b"22"}
        assert mapper.getitems(["a", "no"], on_error="omit") == {"a": b"1"}
        with pytest.raises(KeyError):
            mapper["no"]
