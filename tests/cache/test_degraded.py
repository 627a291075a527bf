"""A cache directory that is gone, full or of no use: the target answers, one warning says so."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cache_tools import block_files, disk_bytes, open_cache, reopen_cache, staged_files
from tier_tools import GatedFileSystem, descriptors, open_files_below

from vfs.backends.mem import MemFileSystem
from vfs.cache import engine as engine_module
from vfs.cache.engine import _RETRY_S
from vfs.cache.filesystem import CacheFileSystem
from vfs.core import durable
from vfs.errors import UnavailableError
from vfs.observe import Event, subscribe

DATA = random.Random(1).randbytes(200_000)
MORE = random.Random(2).randbytes(300_000)


class MovableClock:
    """A clock that tests move; the time of day is the machine's."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def wall_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovableClock:
    made = MovableClock()
    monkeypatch.setattr(engine_module, "SYSTEM_CLOCK", made)
    return made


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Give what was logged so far."""
    with caplog.at_level(logging.WARNING, logger="vfs"):
        yield lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def key(store: Path) -> str:
    (store / "k").write_bytes(DATA)
    return str(store / "k")


def read_everyway(fs: CacheFileSystem, key: str, data: bytes) -> None:
    """Read an object by every kind of call."""
    half = len(data) // 2
    assert fs.cat_file(key) == data
    assert fs.cat_file(key, half, half + 10) == data[half : half + 10]
    assert fs.cat_ranges([key, key], [0, half], [5, half + 5]) == [data[:5], data[half : half + 5]]
    assert fs.info(key)["size"] == len(data)
    assert fs.exists(key)
    with fs.open(key) as file:
        file.seek(half)
        assert file.read(7) == data[half : half + 7]
    assert fs.ls(os.path.dirname(key), detail=False)


def fetches(fs: CacheFileSystem) -> int:
    return fs.target.requests["cat_file"]


def assert_keeps_again(fs: CacheFileSystem, store: Path) -> None:
    """Expect that what is read is kept, and served without asking for it again."""
    (store / "fresh").write_bytes(MORE)
    assert fs.cat_file(str(store / "fresh")) == MORE
    asked = fetches(fs)
    assert fs.cat_file(str(store / "fresh")) == MORE
    assert fetches(fs) == asked


# -------------------------------------------------------------------- never usable


@pytest.mark.parametrize("consistency", ["open", "strict", "ttl", "immutable"])
def test_directory_that_cannot_be_made(
    key: str, tmp_path: Path, warnings: Callable[[], list[str]], consistency: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    fs = open_cache(tmp_path, directory=tmp_path / "file/cache", consistency=consistency)
    for _ in range(3):
        read_everyway(fs, key, DATA)
    assert len(warnings()) == 1
    assert fs.stats().used_bytes == fs.stats().max_bytes == 0
    calls: list[Callable[[], Any]] = [
        lambda: fs.warm(key),
        lambda: fs.check(key),
        lambda: fs.evict(key),
        fs.clear,
        fs.fsck,
    ]
    for call in calls:
        with pytest.raises(UnavailableError):
            call()
    fs.pipe_file(key, MORE)
    read_everyway(fs, key, MORE)
    fs.rm_file(key)
    with pytest.raises(FileNotFoundError) as caught:
        fs.cat_file(key)
    assert caught.value.errno == errno.ENOENT
    assert len(warnings()) == 1


def test_directory_that_becomes_usable(
    store: Path,
    key: str,
    tmp_path: Path,
    clock: MovableClock,
    warnings: Callable[[], list[str]],
) -> None:
    (tmp_path / "cache").write_bytes(b"in the way")
    fs = open_cache(tmp_path)
    assert fs.cat_file(key) == DATA
    (tmp_path / "cache").unlink()
    clock.ahead_s += _RETRY_S / 2
    assert fs.cat_file(key) == DATA
    assert not (tmp_path / "cache").exists(), "not tried at every read"
    clock.ahead_s += _RETRY_S
    events: list[Event] = []
    with subscribe(events.append):
        assert_keeps_again(fs, store)
    assert [event.kind for event in events] == ["recovered"]
    assert len(warnings()) == 1
    (tmp_path / "aside").mkdir()
    os.rename(tmp_path / "cache", tmp_path / "aside/cache")
    assert fs.cat_file(key) == DATA
    assert len(warnings()) == 2, "another trouble is said again"


@pytest.mark.parametrize("broken", ["facts", "ghosts", "ledger", "locks", "tmp", "blocks"])
def test_directory_that_cannot_be_opened_costs_no_descriptors(
    store: Path, key: str, tmp_path: Path, clock: MovableClock, broken: str
) -> None:
    open_cache(tmp_path).stats()
    path = tmp_path / "cache" / broken
    if path.is_dir():
        shutil.rmtree(path)
        path.write_bytes(b"no directory")
    else:
        path.unlink()
        path.mkdir()
    fs = reopen_cache(tmp_path)
    assert fs.cat_file(key) == DATA
    before = len(open_files_below(tmp_path))
    for _ in range(20):
        clock.ahead_s += 2 * _RETRY_S
        assert fs.cat_file(key) == DATA
    assert len(open_files_below(tmp_path)) <= before
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    clock.ahead_s += 2 * _RETRY_S
    assert_keeps_again(fs, store)
    assert fs._engine.owner == 0, "no attempt left its number taken"


def test_read_only_disk(
    key: str, store: Path, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    with small_disk(tmp_path / "disk", "8m"):
        assert open_cache(tmp_path, directory=tmp_path / "disk/cache").cat_file(key) == DATA
        reopen_cache(tmp_path)
        os.sync()
        # By a second mount: the first one is busy while tables of closed engines are mapped.
        again = tmp_path / "again"
        again.mkdir()
        subprocess.run(["mount", "--bind", str(tmp_path / "disk"), str(again)], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(again)], check=True)
            fs = open_cache(tmp_path, directory=again / "cache")
            for _ in range(2):
                read_everyway(fs, key, DATA)
            assert len(warnings()) == 1
        finally:
            subprocess.run(["umount", "-l", str(again)], check=False)


# -------------------------------------------------------------------- lost while it is used


def remove_it(root: Path) -> None:
    shutil.rmtree(root)


def empty_it(root: Path) -> None:
    """Do what ``rm -rf cache/*`` does."""
    for path in root.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def put_a_file_there(root: Path) -> None:
    shutil.rmtree(root)
    root.write_bytes(b"in the way")


def move_it(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


LOSSES = [remove_it, empty_it, put_a_file_there, move_it]

each_loss = pytest.mark.parametrize("lose", LOSSES)


@pytest.mark.parametrize("consistency", ["open", "strict", "ttl", "immutable"])
@each_loss
def test_directory_lost_under_a_reader(
    lose: Callable[[Path], None],
    consistency: str,
    store: Path,
    key: str,
    tmp_path: Path,
    clock: MovableClock,
    warnings: Callable[[], list[str]],
) -> None:
    fs = open_cache(tmp_path, consistency=consistency)
    read_everyway(fs, key, DATA)
    lose(tmp_path / "cache")
    for _ in range(3):
        read_everyway(fs, key, DATA)
    fs.pipe_file(key, MORE)
    read_everyway(fs, key, MORE)
    assert len(warnings()) == 1
    if (tmp_path / "cache").is_file():
        (tmp_path / "cache").unlink()
    clock.ahead_s += 2 * _RETRY_S
    read_everyway(fs, key, MORE)
    assert_keeps_again(fs, store)
    assert fs.fsck().damaged == 0
    assert fs.stats().used_bytes == disk_bytes(tmp_path)
    assert len(warnings()) == 1


@each_loss
def test_directory_lost_under_an_open_file(
    lose: Callable[[Path], None],
    store: Path,
    key: str,
    tmp_path: Path,
    clock: MovableClock,
    warnings: Callable[[], list[str]],
) -> None:
    fs = open_cache(tmp_path, grain_bytes=65_536, small_bytes=0, gap_bytes=0)
    with fs.open(key) as file:
        assert file.read(10) == DATA[:10]
        lose(tmp_path / "cache")
        # No question is asked here, so nothing looks whether the directory is there.
        file.seek(100_000)
        assert file.read(100_000) == DATA[100_000:]
    assert len(warnings()) == 1
    if (tmp_path / "cache").is_file():
        (tmp_path / "cache").unlink()
    for _ in range(2):
        clock.ahead_s += 2 * _RETRY_S
        read_everyway(fs, key, DATA)
    assert_keeps_again(fs, store)
    assert_keeps_again(reopen_cache(tmp_path), store)


@pytest.mark.parametrize("moment", ["while it is fetched", "while it is written"])
@each_loss
def test_directory_lost_during_a_fetch(
    lose: Callable[[Path], None],
    moment: str,
    tmp_path: Path,
    clock: MovableClock,
    warnings: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not look like absence of the object: that is what FileNotFoundError says."""
    fs = open_cache(tmp_path, target_protocol="gated", target_options={"store": str(tmp_path)})
    fs.pipe_file("k", DATA)
    fs.pipe_file("other", MORE)
    assert fs.cat_file("other") == MORE
    root = tmp_path / "cache"
    lost: list[str] = []

    def lose_once(*_: Any) -> None:
        if not lost:
            lost.append(moment)
            lose(root)

    write_all = durable.write_all

    def write_and_lose(fd: int, data: Any) -> None:
        write_all(fd, data)
        lose_once()

    if moment == "while it is fetched":
        GatedFileSystem.before_get = lose_once
    else:
        monkeypatch.setattr(durable, "write_all", write_and_lose)
    assert fs.cat_file("k") == DATA
    assert lost
    for _ in range(2):
        assert fs.cat_file("k") == DATA
        assert fs.cat_file("other") == MORE
    assert len(warnings()) == 1
    if root.is_file():
        root.unlink()
    for _ in range(2):
        clock.ahead_s += 2 * _RETRY_S
        assert fs.cat_file("k") == DATA
    asked = fetches(fs)
    assert fs.cat_file("k") == DATA
    assert fetches(fs) == asked, "it is kept again"


def test_write_begun_in_a_directory_that_was_replaced(
    store: Path, key: str, tmp_path: Path, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had reserved is not given back to the ledger of the new directory."""
    fs = open_cache(tmp_path)
    (store / "other").write_bytes(MORE)
    write_all = durable.write_all
    done: list[str] = []

    def replace_meanwhile(fd: int, data: Any) -> None:
        write_all(fd, data)
        if done or len(data) != len(DATA):
            return
        done.append("replaced")
        shutil.rmtree(tmp_path / "cache")
        assert fs.cat_file(str(store / "other")) == MORE  # notices
        clock.ahead_s += 2 * _RETRY_S
        assert fs.cat_file(str(store / "other")) == MORE  # and is kept in the new directory
        assert fs.stats().used_bytes == disk_bytes(tmp_path) > len(MORE)

    monkeypatch.setattr(durable, "write_all", replace_meanwhile)
    assert fs.cat_file(key) == DATA
    assert done
    assert fs.stats().used_bytes >= disk_bytes(tmp_path) > len(MORE)
    assert fs._engine.ledger.owners_in_flight() == []


@pytest.mark.parametrize("part", ["blocks", "tmp", "locks", "ledger", "facts", "ghosts", "boot"])
def test_part_of_the_directory_lost_under_a_reader(
    part: str, store: Path, key: str, tmp_path: Path, clock: MovableClock
) -> None:
    fs = open_cache(tmp_path)
    read_everyway(fs, key, DATA)
    path = tmp_path / "cache" / part
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    for _ in range(2):
        read_everyway(fs, key, DATA)
        (store / "new").write_bytes(MORE)
        read_everyway(fs, str(store / "new"), MORE)
        clock.ahead_s += 2 * _RETRY_S
    assert_keeps_again(reopen_cache(tmp_path), store)


@pytest.mark.parametrize("part", ["blocks", "tmp", "locks"])
def test_part_of_the_directory_comes_back(
    part: str, store: Path, key: str, tmp_path: Path, clock: MovableClock
) -> None:
    fs = open_cache(tmp_path)
    read_everyway(fs, key, DATA)
    path = tmp_path / "cache" / part
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    for _ in range(3):
        read_everyway(fs, key, DATA)
        clock.ahead_s += 2 * _RETRY_S
    assert_keeps_again(fs, store)


def test_shelf_that_is_a_file(key: str, tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    fs = open_cache(tmp_path)
    assert fs.cat_file(key) == DATA
    (file,) = block_files(tmp_path).values()
    shutil.rmtree(file.parent)
    file.parent.write_bytes(b"in the way")
    for _ in range(3):
        read_everyway(fs, key, DATA)
    assert len(warnings()) <= 2, "damaged, and not to be kept"
    assert fs.stats().used_bytes >= disk_bytes(tmp_path)


def test_limit_given_after_the_directory_was_lost(key: str, tmp_path: Path) -> None:
    fs = open_cache(tmp_path, max_bytes="64 MiB")
    for number in range(12):
        fs.pipe_file(f"{key}{number}", DATA)
        fs.cat_file(f"{key}{number}")
    shutil.rmtree(tmp_path / "cache")
    lowered = open_cache(tmp_path, max_bytes="1 MiB")
    read_everyway(lowered, key, DATA)


# -------------------------------------------------------------------- full


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(f"mounting needs root: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)


def fill_disk(disk: Path) -> None:
    with open(disk / "filler", "wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 - the loop ends by it


def _read_on_a_full_disk(top: Path, moment: str, consistency: str) -> None:
    fs = open_cache(top, directory=top / "disk/cache", consistency=consistency)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("vfs").addHandler(handler)
    names = sorted(path.name for path in (top / "store").iterdir())
    if moment == "while it is used":
        fs.cat_file(str(top / "store" / names[0]))
    fill_disk(top / "disk")
    for _ in range(2):
        for name in names:
            path = top / "store" / name
            assert fs.cat_file(str(path)) == path.read_bytes()
            with fs.open(str(path)) as file:
                assert file.read(5) == path.read_bytes()[:5]
    assert len(said) == 1, said
    assert list((top / "disk/cache").glob("tmp/*")) == []
    os.unlink(top / "disk/filler")
    if moment == "while it is used":
        for _ in range(2):
            for name in names:
                path = top / "store" / name
                assert fs.cat_file(str(path)) == path.read_bytes()
        assert fs.target.requests["cat_file"] <= 5 * len(names), "they are kept again"
        assert fs.fsck().damaged == 0


@pytest.mark.parametrize("consistency", ["open", "ttl"])
@pytest.mark.parametrize("moment", ["from the start", "before it is opened", "while it is used"])
def test_full_disk(store: Path, tmp_path: Path, moment: str, consistency: str) -> None:
    """In a process of its own: a mapped table that finds no room kills whoever touches it."""
    for number in range(40):
        (store / f"k{number:02}").write_bytes(random.Random(number).randbytes(10_000))
    with small_disk(tmp_path / "disk", "8m"):
        if moment != "from the start":
            open_cache(tmp_path, directory=tmp_path / "disk/cache").stats()
            reopen_cache(tmp_path)
        child = multiprocessing.get_context("spawn").Process(
            target=_read_on_a_full_disk, args=(tmp_path, moment, consistency)
        )
        child.start()
        child.join(100)
        assert child.exitcode != -signal.SIGBUS, "the process was killed by the full disk"
        assert child.exitcode == 0


@pytest.fixture
def small_files() -> Iterator[None]:
    """Make every write beyond 100 kB of a file fail with EFBIG, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_disk_that_takes_no_more(
    store: Path,
    key: str,
    tmp_path: Path,
    small_files: None,
    warnings: Callable[[], list[str]],
) -> None:
    (store / "small").write_bytes(b"s" * 5000)
    fs = open_cache(tmp_path)
    assert fs.stats().not_kept == 0
    unlimited, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    for count in (1, 2, 3):
        assert fs.cat_file(key) == DATA
        assert fs.stats().not_kept == count
        assert fs.stats().used_bytes == disk_bytes(tmp_path) == 0
    assert fs.cat_file(str(store / "small")) == b"s" * 5000
    assert staged_files(tmp_path) == []
    assert len(block_files(tmp_path)) == 1, "what fits is kept"
    assert len(warnings()) == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, hard))
    assert fs.cat_file(key) == DATA
    assert len(block_files(tmp_path)) == 2
    assert fs.stats().used_bytes == disk_bytes(tmp_path)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Take every descriptor this process may have."""
    taken: list[int] = []
    with descriptors(lambda _: len(os.listdir("/proc/self/fd")) + 50):
        try:
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError as error:
                assert error.errno == errno.EMFILE  # noqa: PT017 - the loop ends by it
            yield
        finally:
            for fd in taken:
                os.close(fd)


@pytest.mark.parametrize("consistency", ["open", "immutable"])
def test_process_without_descriptors_keeps_its_blocks(tmp_path: Path, consistency: str) -> None:
    """A block that cannot be opened is not a block that is damaged."""
    target = MemFileSystem(store=str(tmp_path))
    fs = open_cache(tmp_path, fs=target, consistency=consistency)
    fs.pipe_file("k", DATA)
    fs.pipe_file("cold", MORE)
    assert fs.cat_file("k") == DATA
    with no_descriptors():
        assert fs.cat_file("k") == DATA
        assert fs.cat_file("k", 5, 50) == DATA[5:50]
        assert fs.cat_file("cold") == MORE
    assert fs.stats().damaged == 0
    assert len(block_files(tmp_path)) == 1
    asked = fetches(fs)
    assert fs.cat_file("k") == DATA
    assert fetches(fs) == asked


# -------------------------------------------------------------------- two processes


def _serve(top: Path, pipe: Any) -> None:
    """Answer commands with what a reader in a process of its own finds."""
    clock = MovableClock()
    setattr(engine_module, "SYSTEM_CLOCK", clock)  # noqa: B010 - it is not exported
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("vfs").addHandler(handler)
    fs = open_cache(top)
    while (command := pipe.recv()) is not None:
        verb, argument = command
        if verb == "read":
            before = fetches(fs)
            try:
                pipe.send((fs.cat_file(argument), fetches(fs) - before, len(said)))
            except Exception as error:  # noqa: BLE001 - the test shows it
                pipe.send((repr(error), -1, len(said)))
        else:
            clock.ahead_s += argument
            pipe.send(None)


class OtherProcess:
    """A reader in a process of its own, one command at a time."""

    def __init__(self, top: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(top, far))
        self.process.start()

    def ask(self, verb: str, argument: Any) -> Any:
        self.pipe.send((verb, argument))
        assert self.pipe.poll(60), "no answer"
        return self.pipe.recv()

    def stop(self) -> None:
        self.pipe.send(None)
        self.process.join(60)
        assert self.process.exitcode == 0


@each_loss
def test_directory_lost_under_two_processes(
    lose: Callable[[Path], None],
    key: str,
    tmp_path: Path,
    clock: MovableClock,
    warnings: Callable[[], list[str]],
) -> None:
    fs = open_cache(tmp_path)
    other = OtherProcess(tmp_path)
    try:
        assert fs.cat_file(key) == DATA
        assert other.ask("read", key) == (DATA, 0, 0)
        lose(tmp_path / "cache")
        for _ in range(2):
            assert fs.cat_file(key) == DATA
            assert other.ask("read", key) == (DATA, 1, 1)
        assert len(warnings()) == 1
        if (tmp_path / "cache").is_file():
            (tmp_path / "cache").unlink()
        # One is back before the other; then they share one directory again.
        clock.ahead_s += 2 * _RETRY_S
        assert fs.cat_file(key) == DATA
        assert other.ask("read", key) == (DATA, 1, 1)
        other.ask("tick", 2 * _RETRY_S)
        assert other.ask("read", key) == (DATA, 0, 1)
        assert fs._engine.ledger.used_bytes == disk_bytes(tmp_path) > 0
    finally:
        other.stop()


def test_directory_replaced_by_a_new_cache_of_another_process(
    key: str, tmp_path: Path, clock: MovableClock, warnings: Callable[[], list[str]]
) -> None:
    fs = open_cache(tmp_path)
    assert fs.cat_file(key) == DATA
    shutil.rmtree(tmp_path / "cache")
    other = OtherProcess(tmp_path)
    try:
        assert other.ask("read", key) == (DATA, 1, 0)
        assert fs.cat_file(key) == DATA
        assert len(warnings()) == 1
        clock.ahead_s += 2 * _RETRY_S
        asked = fetches(fs)
        assert fs.cat_file(key) == DATA
        assert fetches(fs) == asked, "the block of the other process"
        assert fs._engine.owner != 0, "that number is taken"
    finally:
        other.stop()
