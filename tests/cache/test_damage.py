"""Blocks that are not what they were: right bytes all the same, and one request more."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cache_tools import block_files, disk_bytes, earlier_boot, open_cache, reopen_cache

from vfs.cache.filesystem import CacheFileSystem
from vfs.observe import Event, subscribe

GRAIN = 65_536
SMALL_BLOCKS: dict[str, Any] = {"grain_bytes": GRAIN, "small_bytes": 0, "gap_bytes": 0}
DATA = random.Random(1).randbytes(3 * GRAIN + 100)
OLD = random.Random(2).randbytes(len(DATA))


class Scene:
    """An object of four blocks that are all here, and the file of the second."""

    def __init__(self, top: Path, **options: Any) -> None:
        self.top = top
        self.key = str(top / "store/k")
        Path(self.key).write_bytes(OLD)
        self.fs = open_cache(top, **SMALL_BLOCKS, **options)
        self.old = self.fetch_second(OLD)
        self.fs.pipe_file(self.key, DATA)
        self.file = self.fetch_second(DATA)
        assert self.fs.cat_file(self.key) == DATA
        # A block of the same size, of the same version.
        self.other = next(
            path
            for path in block_files(top).values()
            if path not in {self.file, self.old} and path.stat().st_size == self.file.stat().st_size
        )
        self.asked = self.fetches()

    def fetch_second(self, data: bytes) -> Path:
        before = set(block_files(self.top))
        assert self.fs.cat_file(self.key, GRAIN, 2 * GRAIN) == data[GRAIN : 2 * GRAIN]
        (name,) = set(block_files(self.top)) - before
        return block_files(self.top)[name]

    def fetches(self) -> int:
        return self.fs.target.requests["cat_file"]

    def new_fetches(self) -> int:
        return self.fetches() - self.asked


def flip_at(path: Path, position: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def replace_by(path: Path, make: Callable[[], Any]) -> None:
    path.unlink()
    make()


def make_full_directory(path: Path) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner/file").write_bytes(b"x")


def link_to_the_right_block(scene: Scene) -> None:
    copy = scene.top / "elsewhere"
    shutil.copyfile(scene.file, copy)
    replace_by(scene.file, lambda: scene.file.symlink_to(copy))


DAMAGE: dict[str, Callable[[Scene], Any]] = {
    "flipped first byte": lambda s: flip_at(s.file, 0),
    "flipped middle byte": lambda s: flip_at(s.file, GRAIN // 2),
    "flipped checksum": lambda s: flip_at(s.file, GRAIN),
    "flipped last byte": lambda s: flip_at(s.file, s.file.stat().st_size - 1),
    "truncated by a byte": lambda s: os.truncate(s.file, s.file.stat().st_size - 1),
    "truncated to a page": lambda s: os.truncate(s.file, 4096),
    "lengthened by a byte": lambda s: os.truncate(s.file, s.file.stat().st_size + 1),
    "lengthened tenfold": lambda s: os.truncate(s.file, 10 * GRAIN),
    "emptied": lambda s: os.truncate(s.file, 0),
    "zeros": lambda s: s.file.write_bytes(bytes(s.file.stat().st_size)),
    "other block": lambda s: shutil.copyfile(s.other, s.file),
    "older version": lambda s: shutil.copyfile(s.old, s.file),
    "empty directory": lambda s: replace_by(s.file, s.file.mkdir),
    "full directory": lambda s: replace_by(s.file, lambda: make_full_directory(s.file)),
    "link to the right block": link_to_the_right_block,
    "dangling link": lambda s: replace_by(s.file, lambda: s.file.symlink_to("nowhere")),
    "pipe": lambda s: replace_by(s.file, lambda: os.mkfifo(s.file)),
}

each_damage = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())


# -------------------------------------------------------------------- reads


@pytest.mark.parametrize("consistency", ["open", "immutable"])
@each_damage
def test_damaged_block_is_fetched_again_once(
    damage: Callable[[Scene], Any],
    consistency: str,
    store: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene(tmp_path, consistency=consistency)
    right = len(block_files(tmp_path))
    damage(scene)
    events: list[Event] = []
    with caplog.at_level(logging.WARNING, logger="vfs"), subscribe(events.append):
        for _ in range(3):
            assert scene.fs.cat_file(scene.key) == DATA
    assert scene.new_fetches() == 1
    assert scene.fs.stats().damaged == 1
    assert [event.kind for event in events] == ["damaged"]
    assert len(caplog.records) == 1
    assert scene.file.is_file()
    assert not scene.file.is_symlink()
    assert len(block_files(tmp_path)) == right
    assert scene.fs.stats().used_bytes >= disk_bytes(tmp_path)
    again = reopen_cache(tmp_path, **SMALL_BLOCKS)
    assert again.fsck().damaged == 0
    assert again.stats().used_bytes == disk_bytes(tmp_path)


@each_damage
def test_range_read_of_a_damaged_block_is_right(
    damage: Callable[[Scene], Any], store: Path, tmp_path: Path
) -> None:
    scene = Scene(tmp_path)
    damage(scene)
    # A range that covers the whole block: what is not touched is not verified.
    low, high = GRAIN - 1, 2 * GRAIN + 1
    assert scene.fs.cat_ranges([scene.key], [low], [high]) == [DATA[low:high]]
    with scene.fs.open(scene.key) as file:
        file.seek(low)
        assert file.read(high - low) == DATA[low:high]
    assert scene.new_fetches() == 1
    assert scene.fs.stats().damaged == 1


def test_untouched_damage_is_not_looked_for(store: Path, tmp_path: Path) -> None:
    key = str(store / "k")
    Path(key).write_bytes(DATA)
    fs = open_cache(tmp_path)
    assert fs.cat_file(key) == DATA
    (file,) = block_files(tmp_path).values()
    flip_at(file, 2 * GRAIN + 5)
    assert fs.cat_file(key, 0, 2 * GRAIN) == DATA[: 2 * GRAIN]
    assert fs.stats().damaged == 0
    assert fs.cat_file(key, 0, 2 * GRAIN + 1) == DATA[: 2 * GRAIN + 1]
    assert fs.stats().damaged == 1


def test_two_blocks_that_were_swapped(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(tmp_path)
    between = tmp_path / "between"
    for source, target in (
        (scene.file, between),
        (scene.other, scene.file),
        (between, scene.other),
    ):
        os.rename(source, target)
    with caplog.at_level(logging.WARNING, logger="vfs"):
        assert scene.fs.cat_file(scene.key) == DATA
        assert scene.fs.cat_file(scene.key) == DATA
    assert scene.fs.stats().damaged == 2
    assert scene.new_fetches() in {1, 2}, "neighbours may share a request"
    assert len(caplog.records) == 2
    assert scene.fs.stats().used_bytes == disk_bytes(tmp_path)


def test_block_damaged_again_is_fetched_again_and_logged_once(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(tmp_path)
    with caplog.at_level(logging.WARNING, logger="vfs"):
        for _ in range(4):
            flip_at(scene.file, 77)
            assert scene.fs.cat_file(scene.key) == DATA
    assert scene.fs.stats().damaged == scene.new_fetches() == 4
    assert len(caplog.records) == 1
    assert scene.fs.stats().used_bytes == disk_bytes(tmp_path)


# -------------------------------------------------------------------- check and fsck


@each_damage
def test_check_finds_and_removes(
    damage: Callable[[Scene], Any], store: Path, tmp_path: Path
) -> None:
    scene = Scene(tmp_path, verify="never")
    damage(scene)
    assert scene.fs.check(scene.key) == {scene.key: 1}
    assert not os.path.lexists(scene.file)
    assert scene.fs.stats().damaged == 1
    assert scene.fs.stats().used_bytes >= disk_bytes(tmp_path)
    assert scene.fs.check(scene.key) == {}
    assert scene.new_fetches() == 0
    assert scene.fs.cat_file(scene.key) == DATA
    assert scene.new_fetches() == 1


def test_check_of_a_tree_names_the_damaged_objects_only(store: Path, tmp_path: Path) -> None:
    fs = open_cache(tmp_path)
    found: dict[str, Path] = {}
    for name in ("a", "d/b", "d/c"):
        (store / name).parent.mkdir(exist_ok=True)
        (store / name).write_bytes(DATA)
        before = set(block_files(tmp_path))
        assert fs.cat_file(str(store / name)) == DATA
        (new,) = set(block_files(tmp_path)) - before
        found[name] = block_files(tmp_path)[new]
    flip_at(found["a"], 5)
    flip_at(found["d/c"], 5)
    assert fs.check(str(store / "d")) == {str(store / "d/c"): 1}
    assert found["a"].exists(), "nobody asked about it"
    assert fs.check([str(store / "a"), str(store / "d")]) == {str(store / "a"): 1}


@each_damage
def test_fsck_finds_and_removes(
    damage: Callable[[Scene], Any], store: Path, tmp_path: Path
) -> None:
    scene = Scene(tmp_path)
    right = len(block_files(tmp_path)) - 1
    damage(scene)
    report = scene.fs.fsck()
    assert (report.blocks, report.damaged) == (right, 1)
    assert report.bytes == scene.fs.stats().used_bytes == disk_bytes(tmp_path)
    assert not os.path.lexists(scene.file)
    assert scene.fs.fsck().damaged == 0
    assert scene.fs.cat_file(scene.key) == DATA
    assert scene.new_fetches() == 1


def test_fsck_removes_a_block_that_lies_on_another_shelf(store: Path, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    shelf = "00" if scene.file.parent.name != "00" else "01"
    lost = tmp_path / "cache/blocks" / shelf / scene.file.name
    os.rename(scene.file, lost)
    assert scene.fs.fsck().damaged == 1, "no read ever finds it, no eviction removes it"
    assert not lost.exists()
    assert scene.fs.stats().used_bytes == disk_bytes(tmp_path)


def test_verification_counts_no_hits(store: Path, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for path in block_files(tmp_path).values():
        os.utime(path, ns=(0, path.stat().st_mtime_ns))
    scene.fs.fsck()
    scene.fs.check(scene.key)
    hits = {path.stat().st_atime_ns for path in block_files(tmp_path).values()}
    assert hits == {0}, "who verifies everything wants nothing in particular"


# -------------------------------------------------------------------- other modes


def test_once_finds_at_the_first_read_of_a_process(store: Path, tmp_path: Path) -> None:
    scene = Scene(tmp_path, verify="once")
    flip_at(scene.file, 5)
    again = reopen_cache(tmp_path, verify="once", **SMALL_BLOCKS)
    # The byte asked for is right; the block it lies in is not.
    assert again.cat_file(scene.key, 2 * GRAIN - 1, 2 * GRAIN) == DATA[2 * GRAIN - 1 : 2 * GRAIN]
    assert again.stats().damaged == 1
    assert again.cat_file(scene.key) == DATA


def test_once_does_not_look_again(store: Path, tmp_path: Path) -> None:
    scene = Scene(tmp_path, verify="once")
    assert scene.fs.cat_file(scene.key) == DATA
    flip_at(scene.file, 5)
    garbled = bytearray(DATA)
    garbled[GRAIN + 5] ^= 1
    assert scene.fs.cat_file(scene.key) == garbled
    assert scene.fs.check(scene.key) == {scene.key: 1}
    assert scene.fs.cat_file(scene.key) == DATA


@pytest.mark.parametrize("verify", ["once", "never"])
@pytest.mark.parametrize("length", [0, 4096, GRAIN, 10 * GRAIN])
def test_length_is_checked_in_every_mode(
    store: Path, tmp_path: Path, verify: str, length: int
) -> None:
    scene = Scene(tmp_path, verify=verify)
    assert scene.fs.cat_file(scene.key) == DATA
    os.truncate(scene.file, length)
    assert scene.fs.cat_file(scene.key) == DATA
    assert scene.fs.stats().damaged == 1


@pytest.mark.parametrize("kind", ["other block", "older version", "pipe", "full directory"])
def test_never_notices_what_is_another_block(store: Path, tmp_path: Path, kind: str) -> None:
    scene = Scene(tmp_path, verify="never")
    DAMAGE[kind](scene)
    assert scene.fs.cat_file(scene.key) == DATA
    assert scene.fs.stats().damaged == 1


def test_never_does_not_notice_a_flipped_byte(store: Path, tmp_path: Path) -> None:
    scene = Scene(tmp_path, verify="never")
    flip_at(scene.file, 5)
    garbled = bytearray(DATA)
    garbled[GRAIN + 5] ^= 1
    assert scene.fs.cat_file(scene.key) == garbled
    assert scene.fs.stats().damaged == 0


def test_after_the_machine_went_down_never_means_once(store: Path, tmp_path: Path) -> None:
    with earlier_boot():
        scene = Scene(tmp_path, verify="never")
    # What a power cut leaves of a block that was renamed before its bytes were on the disk.
    size = scene.file.stat().st_size
    footer = scene.file.read_bytes()[GRAIN:]
    scene.file.write_bytes(bytes(GRAIN) + footer)
    assert scene.file.stat().st_size == size
    for _ in range(2):
        again = reopen_cache(tmp_path, verify="never", **SMALL_BLOCKS)
        assert again.cat_file(scene.key) == DATA
        scene.file.write_bytes(bytes(GRAIN) + footer)


# -------------------------------------------------------------------- many


def garble(path: Path, choose: random.Random) -> None:
    """Flip one to three bits, anywhere in a file."""
    size = path.stat().st_size
    before = path.read_bytes()
    for position in choose.sample(range(size), choose.randrange(1, 4)):
        flip_at(path, position)
    assert path.read_bytes() != before


def fill(fs: CacheFileSystem, store: Path, count: int) -> dict[str, bytes]:
    objects: dict[str, bytes] = {}
    for number in range(count):
        data = random.Random(number).randbytes(1 + number * 97 % 9000)
        (store / f"k{number}").write_bytes(data)
        objects[str(store / f"k{number}")] = data
        assert fs.cat_file(str(store / f"k{number}")) == data
    return objects


@pytest.mark.slow
def test_thousand_damaged_blocks(store: Path, tmp_path: Path) -> None:
    fs = open_cache(tmp_path)
    objects = fill(fs, store, 1000)
    choose = random.Random(3)
    for _ in range(2):
        asked = fs.target.requests["cat_file"]
        damaged = fs.stats().damaged
        files = block_files(tmp_path)
        assert len(files) == 1000
        for path in files.values():
            garble(path, choose)
        for key, data in objects.items():
            assert fs.cat_file(key) == data
        assert fs.stats().damaged - damaged == 1000
        assert fs.target.requests["cat_file"] - asked == 1000
    assert fs.fsck().damaged == 0
    for path in choose.sample(sorted(block_files(tmp_path).values()), 300):
        garble(path, choose)
    report = fs.fsck()
    assert (report.blocks, report.damaged) == (700, 300)
    assert fs.stats().used_bytes == disk_bytes(tmp_path)
