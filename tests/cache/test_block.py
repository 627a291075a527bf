"""Block files: right bytes or a word that says why not, for every range and every flipped bit."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfs.cache import block as block_module
from vfs.cache.block import (
    DAMAGED,
    MAX_HITS,
    PAGE_BYTES,
    DamagedBlock,
    Verify,
    block_name,
    block_path,
    file_bytes,
    footer_of,
    hits_of,
    is_block_name,
    occupied_bytes,
    payload_of,
    read_block,
)
from vfs.core.localread import WAIT_FOR_DISK, WaitForDisk

MODES: tuple[Verify, ...] = ("always", "once", "never")
LENGTHS = (1, 65_535, 65_536, 65_537, 1 << 20, (4 << 20) + 3)
NAME = block_name(b"u" * 16, b"e5:tag", 1 << 20, 0)
OTHER = block_name(b"u" * 16, b"e5:tag", 1 << 20, 1)


class Shelf:
    """A directory of blocks as the functions under test want it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)

    def path(self, name: str = NAME) -> Path:
        return self.top / block_path(name)

    def write(self, payload: bytes, name: str = NAME) -> None:
        self.path(name).parent.mkdir(exist_ok=True)
        self.path(name).write_bytes(payload + footer_of(name, payload))
        os.utime(self.path(name), ns=(0, 5_000))

    def flip(self, position: int, mask: int = 0x40, name: str = NAME) -> None:
        with open(self.path(name), "r+b", buffering=0) as file:
            file.seek(position)
            (byte,) = file.read(1)
            file.seek(position)
            file.write(bytes([byte ^ mask]))

    def read(
        self, length: int, low: int = 0, high: int | None = None, **options: Any
    ) -> bytes | WaitForDisk | DamagedBlock | None:
        given_: dict[str, Any] = {"verify": "always", "may_block": True, "verified": {}, **options}
        name = given_.pop("name", NAME)
        end = length if high is None else high
        # Both ways that a reader may ask: the answers, and what is verified by them, are the same.
        room = memoryview(bytearray(b"?") * (end - low))
        into = {**given_, "verified": dict(given_["verified"]), "counts": False}
        filled = read_block(self.fd, name, length, low, end, **into, into=room)
        found = read_block(self.fd, name, length, low, end, **given_)
        assert not isinstance(found, memoryview)
        assert into["verified"] == given_["verified"]
        if filled is not WAIT_FOR_DISK and found is not WAIT_FOR_DISK:
            assert (bytes(room) if filled is room else filled) == found
        return found


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    os.close(made.fd)


# -------------------------------------------------------------------- names and lengths


def test_name_depends_on_every_part() -> None:
    parts: list[list[Any]] = [
        [b"u" * 16, b"v" * 16],
        [b"e5:tag", b"e5:tag2", b"e6:tag", b""],
        [1 << 16, 1 << 20],
        [0, 1, 10, 100],
    ]
    tuples = list(itertools.product(*parts))
    assert len({block_name(*one) for one in tuples}) == len(tuples)


def test_parts_of_a_name_do_not_run_into_each_other() -> None:
    digest = b"u" * 16
    assert block_name(digest, b"x", 1, 23) != block_name(digest, b"x", 12, 3)
    assert block_name(digest, b"3/x", 1, 2) != block_name(digest, b"x", 1, 23)
    assert block_name(digest, b"", 1, 2) != block_name(digest, b"/", 1, 2)


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.binary(max_size=40),
                          st.integers(1, 1 << 40), st.integers(0, 1 << 40)),
                min_size=2, max_size=8, unique=True))  # fmt: skip
def test_names_of_different_blocks_differ(blocks: list[tuple[bytes, bytes, int, int]]) -> None:
    names = [block_name(*one) for one in blocks]
    assert len(set(names)) == len(names)
    assert all(is_block_name(name) for name in names)
    assert all(block_path(name) == f"{name[:2]}/{name}" for name in names)


@pytest.mark.parametrize(
    "name", ["", "a" * 31, "a" * 33, "A" * 32, "g" * 32, "0-1-" + "a" * 32, "a" * 31 + "\n"]
)
def test_other_files_are_no_blocks(name: str) -> None:
    assert not is_block_name(name)


@given(st.integers(1, 1 << 40))
def test_payload_follows_from_the_length_of_the_file(payload: int) -> None:
    assert payload_of(file_bytes(payload)) == payload
    assert file_bytes(payload) > payload


def test_every_length_is_that_of_one_payload_or_of_none() -> None:
    payloads = [*range(1, 300), *range(PAGE_BYTES - 100, PAGE_BYTES + 100)]
    payloads += range(2 * PAGE_BYTES - 100, 2 * PAGE_BYTES + 100)
    by_length = {file_bytes(payload): payload for payload in payloads}
    assert len(by_length) == len(payloads)
    for low in (0, PAGE_BYTES, 2 * PAGE_BYTES):
        for length in range(max(low - 20, 0), low + 120):
            expected = by_length.get(length)
            assert payload_of(length) == expected, length


@given(st.integers(0, 1 << 40))
def test_length_without_payload_is_refused(length: int) -> None:
    payload = payload_of(length)
    assert payload is None or (payload > 0 and file_bytes(payload) == length)


@pytest.mark.parametrize("length", LENGTHS)
def test_file_has_the_length_that_was_charged(shelf: Shelf, length: int) -> None:
    shelf.write(bytes(length))
    facts = shelf.path().stat()
    assert facts.st_size == file_bytes(length)
    room = occupied_bytes(facts.st_size) - occupied_bytes(0)
    assert facts.st_size <= room < facts.st_size + 4096
    assert room % 4096 == 0


@pytest.mark.parametrize("count", [20_000, 60_000])
def test_names_are_charged_for_their_directories(shelf: Shelf, count: int) -> None:
    """A million blocks of 4 KiB would have 60 MB of directories past the limit."""
    chance = random.Random(count)
    for number in range(256):
        (shelf.top / f"{number:02x}").mkdir()
    for _ in range(count):
        os.close(os.open(shelf.path(chance.randbytes(16).hex()), os.O_CREAT | os.O_WRONLY))
    taken = sum(path.stat().st_blocks * 512 for path in shelf.top.iterdir())
    assert taken <= (256 << 12) + count * occupied_bytes(0)


# -------------------------------------------------------------------- ranges


def edges_of(length: int) -> list[int]:
    """Return the offsets around the first, a middle and the last edges of pages."""
    pages = -(-length // PAGE_BYTES)
    around = {0, 1, 2, pages // 2, pages - 1, pages}
    near = {page * PAGE_BYTES + shift for page in around for shift in (-1, 0, 1)}
    return sorted(at for at in {*near, 0, length - 1, length} if 0 <= at <= length)


@pytest.mark.parametrize("verify", MODES)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_range_at_the_edges_of_pages(shelf: Shelf, length: int, verify: Verify) -> None:
    payload = random.Random(length).randbytes(length)
    shelf.write(payload)
    verified: dict[str, int] = {}
    ranges = [(low, high) for low, high in itertools.combinations(edges_of(length), 2)]
    assert ranges
    for low, high in ranges:
        found = shelf.read(length, low, high, verify=verify, verified=verified)
        assert found == payload[low:high], (low, high)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_range_of_any_payload(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 3 * PAGE_BYTES + 5))
    low = data.draw(st.integers(0, length - 1))
    high = data.draw(st.integers(low + 1, length))
    payload = random.Random(length).randbytes(length)
    with tempfile.TemporaryDirectory() as top:
        shelf = Shelf(Path(top))
        try:
            shelf.write(payload)
            for verify in MODES:
                assert shelf.read(length, low, high, verify=verify) == payload[low:high]
        finally:
            os.close(shelf.fd)


@pytest.mark.parametrize("length", LENGTHS)
def test_reader_that_may_not_wait_gets_the_bytes_or_is_told_so(shelf: Shelf, length: int) -> None:
    payload = random.Random(length).randbytes(length)
    shelf.write(payload)
    assert shelf.read(length, may_block=False) in {payload, WAIT_FOR_DISK}
    assert shelf.read(length, length - 1, may_block=False) in {payload[-1:], WAIT_FOR_DISK}
    if length > 4 << 20:
        assert shelf.read(length, may_block=False) is WAIT_FOR_DISK, "too much for a loop"


# -------------------------------------------------------------------- hits


class Clock:
    """A clock that a test moves."""

    now_s = 1_800_000_000.0

    def wall_s(self) -> float:
        return self.now_s


def test_hits_are_counted_up_to_three(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(block_module, "SYSTEM_CLOCK", clock)
    shelf.write(b"x" * 10)
    seen = []
    for _ in range(MAX_HITS + 3):
        seen.append(hits_of(shelf.path().stat()))
        for _ in range(3):
            assert shelf.read(10) == b"x" * 10, "three reads in one second are one use"
        clock.now_s += 1
    assert seen == [0, 1, 2, 3, 3, 3]
    assert shelf.path().stat().st_mtime_ns == 5_000, "the place in the queue is kept"


@pytest.mark.parametrize("atime_ns", [-5, 1 << 36, 1_800_000_000 * 10**9])
def test_time_that_no_reader_wrote_counts_as_one_hit(shelf: Shelf, atime_ns: int) -> None:
    shelf.write(b"x" * 10)
    os.utime(shelf.path(), ns=(atime_ns, 5_000))
    assert hits_of(shelf.path().stat()) == 1
    assert shelf.read(10) == b"x" * 10
    assert hits_of(shelf.path().stat()) == 2


def test_damaged_block_has_no_hits(shelf: Shelf) -> None:
    shelf.write(b"x" * 10)
    shelf.flip(3)
    os.utime(shelf.path(), ns=(0, 5_000))
    assert shelf.read(10) is DAMAGED
    assert hits_of(shelf.path().stat()) == 0


# -------------------------------------------------------------------- damage


def test_every_flipped_byte_is_found_where_it_is_read(shelf: Shelf) -> None:
    length = 70_000
    payload = random.Random(1).randbytes(length)
    shelf.write(payload)
    choose = random.Random(2)
    tail = range(length, file_bytes(length))
    edges = (0, PAGE_BYTES - 1, PAGE_BYTES, length - 1)
    body = {*edges, *choose.sample(range(length), 600)}
    second_page = (PAGE_BYTES, length)
    for position in (*sorted(body), *tail):
        mask = 1 << choose.randrange(8)
        shelf.flip(position, mask)
        assert shelf.read(length) is DAMAGED, position
        one = min(position, length - 1)
        assert shelf.read(length, one, one + 1) is DAMAGED, position
        low, high = second_page if position < PAGE_BYTES else (0, PAGE_BYTES)
        neighbour = payload[low:high] if position < length else DAMAGED
        assert shelf.read(length, low, high) == neighbour, position
        shelf.flip(position, mask)
        assert shelf.read(length, one, one + 1) == payload[one : one + 1]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_garbled_stretch_is_found(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 2 * PAGE_BYTES))
    payload = random.Random(length).randbytes(length)
    whole = payload + footer_of(NAME, payload)
    at = data.draw(st.integers(0, len(whole) - 1))
    garbage = data.draw(st.binary(min_size=1, max_size=64))[: len(whole) - at]
    garbled = whole[:at] + garbage + whole[at + len(garbage) :]
    with tempfile.TemporaryDirectory() as top:
        shelf = Shelf(Path(top))
        try:
            shelf.write(payload)
            shelf.path().write_bytes(garbled)
            assert shelf.read(length) == (payload if garbled == whole else DAMAGED)
        finally:
            os.close(shelf.fd)


@pytest.mark.parametrize("verify", MODES)
@pytest.mark.parametrize("new_length", [0, 1, 69_999, 70_000, 70_055, 70_057, 200_000])
def test_file_of_another_length_is_damaged(shelf: Shelf, verify: Verify, new_length: int) -> None:
    shelf.write(b"x" * 70_000)
    verified: dict[str, int] = {}
    assert shelf.read(70_000, verify=verify, verified=verified) == b"x" * 70_000
    os.truncate(shelf.path(), new_length)
    assert shelf.read(70_000, 0, 10, verify=verify, verified=verified) is DAMAGED


@pytest.mark.parametrize("verify", MODES)
def test_block_under_another_name_is_damaged(shelf: Shelf, verify: Verify) -> None:
    shelf.write(b"x" * 100, OTHER)
    shelf.path().parent.mkdir(exist_ok=True)
    os.rename(shelf.path(OTHER), shelf.path())
    assert shelf.read(100, verify=verify) is DAMAGED


@pytest.mark.parametrize("verify", MODES)
def test_block_of_another_payload_is_damaged(shelf: Shelf, verify: Verify) -> None:
    shelf.write(b"x" * 100)
    assert shelf.read(99, verify=verify) is DAMAGED
    assert shelf.read(101, verify=verify) is DAMAGED


@pytest.mark.parametrize("verify", MODES)
@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "dangling link", "link to itself"])
def test_what_is_no_file_is_damaged(shelf: Shelf, verify: Verify, kind: str) -> None:
    shelf.write(b"x" * 4048, OTHER)
    path = shelf.path()
    path.parent.mkdir(exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        goals = {
            "link": shelf.path(OTHER),
            "dangling link": Path("nowhere"),
            "link to itself": path,
        }
        path.symlink_to(goals[kind])
    # 4048 bytes of payload make a file of 4096: as long as a directory of ext4.
    for length in (100, 4048):
        assert shelf.read(length, verify=verify) is DAMAGED


@pytest.mark.parametrize("verify", MODES)
def test_absent_block_is_no_damage(shelf: Shelf, verify: Verify) -> None:
    assert shelf.read(100, verify=verify) is None
    shelf.path().parent.mkdir()
    assert shelf.read(100, verify=verify) is None


# -------------------------------------------------------------------- how much is verified


def test_always_checks_the_touched_pages_only(shelf: Shelf) -> None:
    shelf.write(b"x" * 200_000)
    shelf.flip(150_000)
    assert shelf.read(200_000, 0, 2 * PAGE_BYTES) == b"x" * 2 * PAGE_BYTES
    assert shelf.read(200_000, 0, 2 * PAGE_BYTES + 1) is DAMAGED


def test_once_checks_the_whole_block_at_its_first_read(shelf: Shelf) -> None:
    shelf.write(b"x" * 200_000)
    shelf.flip(150_000)
    verified: dict[str, int] = {}
    assert shelf.read(200_000, 0, 1, verify="once", verified=verified) is DAMAGED
    assert not verified


def test_once_trusts_what_it_has_verified(shelf: Shelf) -> None:
    shelf.write(b"x" * 200_000)
    verified: dict[str, int] = {}
    assert shelf.read(200_000, 0, 1, verify="once", verified=verified) == b"x"
    shelf.flip(150_000)
    trusted = shelf.read(200_000, 150_000, 150_001, verify="once", verified=verified)
    assert trusted == bytes([ord("x") ^ 0x40])
    assert shelf.read(200_000, 0, 1, verify="once") is DAMAGED, "another process"
    assert shelf.read(200_000, 150_000, 150_001, verified=verified) is DAMAGED, "always"


def test_once_verifies_a_replaced_file_again(shelf: Shelf) -> None:
    shelf.write(b"x" * 100)
    verified: dict[str, int] = {}
    assert shelf.read(100, verify="once", verified=verified) == b"x" * 100
    shelf.write(b"x" * 100, OTHER)
    os.rename(shelf.path(OTHER), shelf.path())
    assert shelf.read(100, verify="once", verified=verified) is DAMAGED


def test_never_checks_the_footer_but_not_the_payload(shelf: Shelf) -> None:
    shelf.write(b"x" * 100)
    shelf.flip(50)
    assert shelf.read(100, 50, 51, verify="never") == bytes([ord("x") ^ 0x40])
    for position in range(100, file_bytes(100)):
        shelf.flip(position)
        assert shelf.read(100, 0, 1, verify="never") is DAMAGED, position
        shelf.flip(position)
