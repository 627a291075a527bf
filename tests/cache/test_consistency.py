"""What each mode lets a reader see, and that changes through the cache are seen at once."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tier_tools import Gate, GatedFileSystem

from vfs.backends.mem import MemFileSystem
from vfs.cache import facts as facts_module
from vfs.cache import versions as versions_module
from vfs.cache.consistency import Consistency
from vfs.errors import ConflictError, UnavailableError
from vfs.types import ObjectInfo

MODES = ("immutable", "ttl", "open", "strict")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def wall_s(self) -> float:
        return self.now_s

    def monotonic_s(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(versions_module, "SYSTEM_CLOCK", moved)
    return moved


class UntaggedFileSystem(MemFileSystem):
    """``mem`` without etags, with times as coarse as a test wants, as an old HTTP server has."""

    protocol = "untagged"
    reads_conditionally = False
    mtime = 1000.0

    def head_object(self, key: str) -> ObjectInfo:
        info = super().head_object(key)
        return ObjectInfo(info.key, info.size, type(self).mtime)

    def get_object(self, key: str, start: int | None, end: int | None, **_: Any) -> bytes:
        return super().get_object(key, start, end)


class DownFileSystem(MemFileSystem):
    """``mem`` that can be unplugged."""

    protocol = "unplugged"
    blocking = True
    down = False

    def _check(self) -> None:
        if type(self).down:
            message = "no answer"
            raise UnavailableError(message)

    def head_object(self, key: str) -> ObjectInfo:
        self._check()
        return super().head_object(key)

    def get_object(self, key: str, start: int | None, end: int | None, **kwargs: Any) -> bytes:
        self._check()
        return super().get_object(key, start, end, **kwargs)


def open_over(protocol: str, top: Path, mode: str, **options: Any) -> Any:
    return fsspec.filesystem(
        "cache",
        target_protocol=protocol,
        target_options={"store": top.as_posix()},
        directory=str(top / "cache"),
        consistency=mode,
        **options,
    )


def read(fs: Any, key: str) -> bytes | None:
    try:
        data: bytes = fs.cat_file(key)
    except FileNotFoundError:
        return None
    return data


def behind(fs: Any) -> Any:
    """Return the target, for changes the cache does not see."""
    return fs.fs


# ------------------------------------------------------------------ foreign changes


@pytest.mark.parametrize("mode", ["open", "strict"])
def test_foreign_changes_are_seen_by_the_next_read(tmp_path: Path, mode: str) -> None:
    fs = open_over("mem", tmp_path, mode)
    for content in (b"one", b"two", b"3"):
        behind(fs).pipe_file("a", content)
        assert fs.cat_file("a") == content
        assert fs.info("a")["size"] == len(content)
    behind(fs).rm_file("a")
    assert read(fs, "a") is None
    assert not fs.exists("a")


def test_immutable_asks_once(tmp_path: Path, clock: Clock) -> None:
    fs = open_over("mem", tmp_path, "immutable")
    behind(fs).pipe_file("a", b"one")
    assert fs.cat_file("a") == b"one"
    behind(fs).pipe_file("a", b"two")
    clock.now_s += 1e9
    assert fs.cat_file("a") == b"one"
    assert fs.info("a")["size"] == 3


def test_ttl_is_the_worst_staleness(tmp_path: Path, clock: Clock) -> None:
    fs = open_over("mem", tmp_path, "ttl", ttl_s=10, negative_ttl_s=2)
    behind(fs).pipe_file("a", b"one")
    assert fs.cat_file("a") == b"one"
    assert not fs.exists("b")
    behind(fs).pipe_file("a", b"two")
    behind(fs).pipe_file("b", b"new")
    clock.now_s += 1.9
    assert not fs.exists("b")
    clock.now_s += 0.2
    assert fs.exists("b")
    clock.now_s += 7.8
    assert fs.cat_file("a") == b"one"
    clock.now_s += 0.2
    assert fs.cat_file("a") == b"two"


def test_ttl_after_the_clock_was_set_back(tmp_path: Path, clock: Clock) -> None:
    fs = open_over("mem", tmp_path, "ttl", ttl_s=10)
    behind(fs).pipe_file("a", b"one")
    assert fs.cat_file("a") == b"one"
    behind(fs).pipe_file("a", b"two")
    clock.now_s -= 3600
    assert fs.cat_file("a") == b"two"


def test_absence_is_believed_for_its_time_only(tmp_path: Path, clock: Clock) -> None:
    fs = open_over("mem", tmp_path, "immutable", negative_ttl_s=5)
    assert read(fs, "a") is None
    behind(fs).pipe_file("a", b"late")
    asked = fs.target.requests.total()
    assert read(fs, "a") is None
    assert fs.target.requests.total() == asked
    clock.now_s += 5
    assert read(fs, "a") == b"late"


def test_strict_notices_a_change_under_an_open_file(tmp_path: Path) -> None:
    fs = open_over("mem", tmp_path, "strict")
    fs.pipe_file("a", b"x" * 300_000)
    with fs.open("a") as file:
        assert file.read(10) == b"x" * 10
        behind(fs).pipe_file("a", b"y" * 300_000)
        file.seek(200_000)
        with pytest.raises(OSError, match="replaced"):
            file.read(10)


def test_open_file_keeps_its_version(tmp_path: Path) -> None:
    fs = open_over("mem", tmp_path, "open")
    fs.pipe_file("a", b"x" * 300_000)
    assert fs.cat_file("a") == b"x" * 300_000
    with fs.open("a") as file:
        behind(fs).pipe_file("a", b"y" * 300_000)
        assert file.read() == b"x" * 300_000
    assert fs.cat_file("a") == b"y" * 300_000


# ------------------------------------------------------------------ own changes


def _change(fs: Any, how: str) -> None:
    """Make ``d/a`` hold b"new", or be absent."""
    if how == "pipe":
        fs.pipe_file("d/a", b"new")
    elif how == "file":
        with fs.open("d/a", "wb") as file:
            file.write(b"new")
    elif how == "coroutine":
        asyncio.run(fs._pipe_file("d/a", b"new"))
    elif how == "copy":
        fs.cp_file("d/new", "d/a")
    elif how == "move":
        fs.mv("d/new", "d/a")
    elif how == "remove":
        fs.rm_file("d/a")
    elif how == "remove tree":
        fs.rm("d", recursive=True)
    elif how == "move away":
        fs.mv("d/a", "d/b")
    else:
        with fs.transaction:
            fs.pipe_file("d/a", b"new")


CHANGES = ("pipe", "file", "coroutine", "copy", "move", "transaction")
REMOVALS = ("remove", "remove tree", "move away")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", [*CHANGES, *REMOVALS])
def test_own_changes_are_seen_at_once(tmp_path: Path, mode: str, how: str) -> None:
    fs = open_over("mem", tmp_path, mode)
    other = open_over("mem", tmp_path, mode, verify="once")
    assert other is not fs
    fs.pipe_file("d/a", b"old one")
    fs.pipe_file("d/new", b"new")
    for reader in (fs, other):
        assert reader.cat_file("d/a") == b"old one"
        assert reader.info("d/a")["size"] == 7
        assert reader.ls("d", detail=False) == ["d/a", "d/new"]
        assert reader.find("") == ["d/a", "d/new"]
    _change(fs, how)
    for reader in (fs, other):
        if how in REMOVALS:
            assert read(reader, "d/a") is None
            assert not reader.exists("d/a")
            assert "d/a" not in reader.find("")
        else:
            assert reader.cat_file("d/a") == b"new"
            assert reader.info("d/a")["size"] == 3
            assert reader.du("d/a") == 3
    if how == "remove tree":
        assert not other.exists("d")


@pytest.mark.parametrize("mode", MODES)
def test_creation_ends_an_absence(tmp_path: Path, mode: str) -> None:
    fs, other = open_over("mem", tmp_path, mode), open_over("mem", tmp_path, mode, verify="never")
    for reader in (fs, other):
        assert read(reader, "d/a") is None
        assert not reader.exists("d")
        assert reader.find("") == []
    fs.pipe_file("d/a", b"1", mode="create")
    for reader in (fs, other):
        assert reader.cat_file("d/a") == b"1"
        assert reader.isdir("d")
        assert reader.find("") == ["d/a"]
    with pytest.raises(FileExistsError):
        other.pipe_file("d/a", b"2", mode="create")


def _serve_reads(top: Path, mode: str, asked: Any, answers: Any) -> None:
    fs = fsspec.filesystem(
        "cache", target_protocol="disk", directory=str(top / "cache"), consistency=mode
    )
    for key in iter(asked.get, None):
        answers.put(read(fs, key))


@pytest.mark.parametrize("mode", MODES)
def test_changes_are_seen_by_another_process(tmp_path: Path, mode: str) -> None:
    fs = fsspec.filesystem(
        "cache", target_protocol="disk", directory=str(tmp_path / "cache"), consistency=mode
    )
    key = str(tmp_path / "data/a")
    context = multiprocessing.get_context("spawn")
    asked, answers = context.Queue(), context.Queue()
    reader = context.Process(target=_serve_reads, args=(tmp_path, mode, asked, answers))
    reader.start()
    for content in (b"one", b"two", None, b"three", b"four", None):
        if content is None:
            fs.rm_file(key)
        else:
            fs.pipe_file(key, content)
        for _ in range(2):
            asked.put(key)
            assert answers.get(timeout=60) == content
    asked.put(None)
    reader.join(30)
    assert reader.exitcode == 0


# ------------------------------------------------------------------ races


def _in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


@pytest.mark.parametrize("mode", MODES)
def test_fact_asked_during_a_write_is_not_kept(tmp_path: Path, mode: str) -> None:
    """A reader asks while a write is under way and is told the old state."""
    fs = open_over("gated", tmp_path, mode)
    fs.pipe_file("a", b"old")
    writing = Gate()
    GatedFileSystem.before_put = writing
    thread, _ = _in_thread(lambda: fs.pipe_file("a", b"new!"))
    assert writing.reached.wait(30)
    assert fs.cat_file("a") == b"old"  # the write has not been acknowledged
    assert fs.info("a")["size"] == 3
    writing.go_on.set()
    thread.join(30)
    assert fs.cat_file("a") == b"new!"
    assert fs.info("a")["size"] == 4


@pytest.mark.parametrize("mode", MODES)
def test_question_before_a_write_answers_no_reader_after_it(tmp_path: Path, mode: str) -> None:
    """The question is on its way back with the old answer when the write is acknowledged."""
    fs = open_over("gated", tmp_path, mode)
    fs.pipe_file("a", b"old")
    asking = Gate()
    GatedFileSystem.before_head = asking
    thread, early = _in_thread(lambda: fs.info("a")["size"])
    assert asking.reached.wait(30)
    GatedFileSystem.before_head = None
    fs.pipe_file("a", b"new!")
    assert fs.info("a")["size"] == 4
    assert fs.cat_file("a") == b"new!"
    asking.go_on.set()
    thread.join(30)
    assert early == [3]
    assert fs.info("a")["size"] == 4
    assert fs.cat_file("a") == b"new!"


@pytest.mark.parametrize("mode", MODES)
def test_late_fill_is_of_its_version(tmp_path: Path, mode: str) -> None:
    """Bytes of the old version arrive after the new one was written."""
    fs = open_over("gated", tmp_path, mode)
    fs.pipe_file("a", b"old")
    fetching = Gate()
    GatedFileSystem.before_get = fetching
    thread, late = _in_thread(lambda: fs.cat_file("a"))
    assert fetching.reached.wait(30)
    GatedFileSystem.before_get = None
    fs.pipe_file("a", b"new!")
    assert fs.cat_file("a") == b"new!"
    fetching.go_on.set()
    thread.join(30)
    assert late in ([b"old"], [b"new!"])  # it began before the write
    assert fs.cat_file("a") == b"new!"


def test_replaced_again_and_again_under_a_read(tmp_path: Path) -> None:
    """A read that meets a change before its first byte begins again, and never mixes."""
    fs = open_over("gated", tmp_path, "open", small_bytes=0, grain_bytes="64 KiB")
    fs.pipe_file("a", b"0" * 300_000)
    changes = iter(range(1, 3))

    def change(key: str) -> None:
        number = next(changes, None)
        if number is not None:
            MemFileSystem.put_object(behind(fs), key, str(number).encode() * 300_000)

    GatedFileSystem.before_get = change
    assert fs.cat_file("a") == b"2" * 300_000


@pytest.mark.parametrize("path", ["d/a", "d"])
@pytest.mark.parametrize("mode", MODES)
def test_warm_of_what_was_replaced(tmp_path: Path, mode: str, path: str) -> None:
    """It asks again like a read, in the mode that never asks by itself too."""
    fs = open_over("gated", tmp_path, mode)
    fs.pipe({"d/a": b"old", "d/b": b"beside"})
    assert fs.info("d/a")["size"] == 3
    MemFileSystem.put_object(behind(fs), "d/a", b"newer")
    told: list[tuple[int, int]] = []
    size = 5 + (6 if path == "d" else 0)
    assert fs.warm(path, lambda done, total: told.append((done, total))) == size
    assert told[-1] == (size, size)
    assert fs.cat_file("d/a") == b"newer"


@pytest.mark.parametrize("mode", MODES)
def test_warm_of_what_is_removed_meanwhile(tmp_path: Path, mode: str) -> None:
    fs = open_over("gated", tmp_path, mode)
    fs.pipe({"d/a": b"old", "d/b": b"beside"})
    fs.info("d/a")

    def remove(key: str) -> None:
        if key == "d/a":
            GatedFileSystem.before_get = None
            MemFileSystem.delete_object(behind(fs), "d/a")

    for path, size in (("d", 6), ("d/a", None)):
        MemFileSystem.put_object(behind(fs), "d/a", b"old")
        fs.invalidate_cache()
        fs.clear()
        GatedFileSystem.before_get = remove
        if size is None:
            with pytest.raises(FileNotFoundError):
                fs.warm(path)
        else:
            assert fs.warm(path) == size


# ------------------------------------------------------------------ targets without etags


def test_version_told_by_time_is_kept_once_it_is_old(tmp_path: Path, clock: Clock) -> None:
    fs = open_over("untagged", tmp_path, "open")
    UntaggedFileSystem.mtime = clock.now_s - 1
    fs.pipe_file("a", b"one")
    assert fs.cat_file("a") == b"one"
    behind(fs).pipe_file("a", b"two")  # the same size, the same second
    assert fs.cat_file("a") == b"two"
    assert fs.fsck().blocks == 0
    clock.now_s += 60
    assert fs.cat_file("a") == b"two"
    assert fs.fsck().blocks == 1
    hits = fs.stats().hits
    assert fs.cat_file("a") == b"two"
    assert fs.stats().hits == hits + 1


@pytest.mark.parametrize("mode", MODES)
def test_own_change_that_keeps_size_and_time(tmp_path: Path, clock: Clock, mode: str) -> None:
    fs = open_over("untagged", tmp_path, mode)
    UntaggedFileSystem.mtime = clock.now_s - 60
    for content in (b"one", b"two", b"six"):
        fs.pipe_file("a", content)
        assert fs.cat_file("a") == content
        assert fs.cat_file("a") == content
        with fs.open("a") as file:
            assert file.read() == content


# ------------------------------------------------------------------ a target that is down


@pytest.mark.parametrize("mode", MODES)
def test_target_that_is_down(tmp_path: Path, clock: Clock, mode: str) -> None:
    fs = open_over("unplugged", tmp_path, mode)
    fs.pipe_file("a", b"here")
    assert fs.cat_file("a") == b"here"
    DownFileSystem.down = True
    try:
        if mode in {"immutable", "ttl"}:
            assert fs.cat_file("a") == b"here"
            assert fs.exists("a")
        clock.now_s += 3600
        if mode == "immutable":
            assert fs.cat_file("a") == b"here"
        else:
            for call in (fs.cat_file, fs.info, fs.exists):
                with pytest.raises(UnavailableError):
                    call("a")
        with pytest.raises(UnavailableError):
            fs.cat_file("never seen")
    finally:
        DownFileSystem.down = False
    assert fs.cat_file("a") == b"here"


# ------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    "mode,absent,age_s,believed",
    [
        ("immutable", False, 1e9, True),
        ("immutable", False, -5.0, True),
        ("immutable", True, 4.9, True),
        ("immutable", True, 5.0, False),
        ("immutable", True, -1.0, False),
        ("ttl", False, 59.9, True),
        ("ttl", False, 60.0, False),
        ("ttl", False, -0.1, False),
        ("ttl", True, 5.0, False),
        ("open", False, 0.0, False),
        ("strict", False, 0.0, False),
    ],
)
def test_what_is_believed(mode: Any, absent: bool, age_s: float, believed: bool) -> None:
    assert Consistency(mode, 60.0, 5.0).believes(absent=absent, age_s=age_s) is believed


def _fact(etag: str | None, stamp: int) -> facts_module.Facts:
    return facts_module.Facts(3, etag, 5.5, 7.0, stamp)


def test_facts_table(tmp_path: Path) -> None:
    path = str(tmp_path / "facts")
    table, other = facts_module.FactsTable(path, 256), facts_module.FactsTable(path, 256)
    digest = os.urandom(16)
    assert table.get(digest) is None
    for etag in ("x", "é" * 10, "e" * 39, None, ""):
        fact = _fact(etag, table.stamp(digest))
        table.remember(digest, fact)
        assert table.get(digest) == fact._replace(etag=etag or None)
        assert other.get(digest) == fact._replace(etag=etag or None)
    long = _fact("e" * 40, table.stamp(digest))
    other.restamp(digest)
    assert table.get(digest) is None
    table.remember(digest, long._replace(stamp=table.stamp(digest)))
    assert table.get(digest) == long._replace(stamp=table.stamp(digest))
    assert other.get(digest) is None


def test_torn_entry_is_no_fact(tmp_path: Path) -> None:
    path = tmp_path / "facts"
    table = facts_module.FactsTable(str(path), 256)
    digest = os.urandom(16)
    table.remember(digest, _fact("tag", table.stamp(digest)))
    whole = path.read_bytes()
    start = whole.index(digest)
    for at in range(start, start + 92):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert facts_module.FactsTable(str(path), 256).get(digest) is None


def test_table_is_bounded_and_never_confuses(tmp_path: Path) -> None:
    table = facts_module.FactsTable(str(tmp_path / "facts"), 256)
    size = (tmp_path / "facts").stat().st_size
    digests = [os.urandom(16) for _ in range(2000)]
    for number, digest in enumerate(digests):
        table.remember(digest, facts_module.Facts(number, "e", None, number, table.stamp(digest)))
    found = {number: table.get(digest) for number, digest in enumerate(digests)}
    assert all(fact is None or fact.size == number for number, fact in found.items())
    assert sum(fact is not None for fact in found.values()) > 200
    assert (tmp_path / "facts").stat().st_size == size


def test_many_threads_and_a_writer_see_no_mixture(tmp_path: Path) -> None:
    """The write is acknowledged before the next version is begun: no reader may go back."""
    fs = open_over("mem", tmp_path, "immutable")
    fs.pipe_file("a", b"%06d" % 0)
    acknowledged = 0
    done = threading.Event()

    def follow() -> int:
        seen = 0
        while not done.is_set():
            floor = acknowledged
            number = int(fs.cat_file("a"))
            assert number >= max(floor, seen)
            seen = number
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(follow) for _ in range(4)]
        try:
            for number in range(1, 300):
                fs.pipe_file("a", b"%06d" % number)
                acknowledged = number
        finally:
            done.set()
        assert all(reader.result(60) > 0 for reader in readers)


def test_a_refused_append_makes_the_cache_ask_again(tmp_path: Path) -> None:
    """``immutable`` never asks; but what a write is refused for was learned."""
    fs = fsspec.filesystem(
        "cache",
        directory=str(tmp_path / "cache"),
        target_protocol="mem",
        target_options={"store": tmp_path.as_posix()},
        consistency="immutable",
    )
    fs.pipe_file("k", b"1")
    assert fs.cat_file("k") == b"1"
    fs.fs.pipe_file("k", b"foreign")
    with pytest.raises(ConflictError), fs.open("k", "ab") as file:
        file.write(b"2")
    assert fs.fs.cat_file("k") == b"foreign"
    with fs.open("k", "ab") as file:
        file.write(b"2")
    assert fs.cat_file("k") == b"foreign2" == fs.fs.cat_file("k")
