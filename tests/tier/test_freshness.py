"""Other writers of the cold store: what ``consistency="ttl"`` and ``"open"`` promise, and cost."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from history_tools import (
    ENOUGH_READS,
    ENOUGH_VERSIONS,
    TTL_S,
    Read,
    content,
    run_history,
    version_of,
    worst_staleness_s,
)
from tier_tools import (
    Gate,
    GatedFileSystem,
    cold_of,
    hot_files,
    open_gated,
    open_tier,
)

from vfs.core.loop import wait
from vfs.core.single_flight import SingleFlight
from vfs.errors import ConfigError, ConflictError, UnavailableError
from vfs.testing.servers import S3Server
from vfs.types import ObjectInfo


@pytest.fixture(autouse=True)
def open_gates() -> Any:
    yield
    GatedFileSystem.open_gates()


class Asked:
    """Counts requests of each kind from now on."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.gets: list[str] = []
        GatedFileSystem.before_head = self.heads.append
        GatedFileSystem.before_get = self.gets.append

    def take(self) -> tuple[int, int]:
        found = len(self.heads), len(self.gets)
        self.heads.clear()
        self.gets.clear()
        return found


def read_whole(fs: Any, key: str) -> bytes:
    with fs.open(key) as file:
        return bytes(file.read())


def read_async(fs: Any, key: str) -> bytes:
    again = type(fs)(*fs.storage_args, **{**fs.storage_options, "asynchronous": True})
    return bytes(asyncio.run(again._cat_file(key)))


def read_to_file(fs: Any, key: str) -> bytes:
    local = Path(fs._options.hot).parent / "fetched"
    fs.get_file(key, str(local))
    return local.read_bytes()


READS: dict[str, Any] = {
    "cat_file": lambda fs, key: fs.cat_file(key),
    "range": lambda fs, key: fs.cat_file(key, 0, 1000),
    "cat": lambda fs, key: fs.cat([key])[key],
    "open": read_whole,
    "async": read_async,
    "get_file": read_to_file,
    "cat_ranges": lambda fs, key: fs.cat_ranges([key], [0], [None], on_error="raise")[0],
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("protocol", ["mem", "disk", "file"])
def test_foreign_change_is_seen_at_once(tmp_path: Path, protocol: str, read: str) -> None:
    if protocol == "mem":
        tier = open_gated(tmp_path, write="through", consistency="open")
        cold, path = cold_of(tmp_path), "d/k"
    else:
        url = f"{protocol}://{tmp_path}/cold"
        tier = fsspec.filesystem("tier", hot=str(tmp_path / "hot"), cold=url, consistency="open")
        path = f"{tmp_path}/cold/d/k"
        cold = fsspec.filesystem("disk")
        cold.mkdirs(f"{tmp_path}/cold/d")
    for value in (b"one", b"two", b"three", b"", b"four"):
        cold.pipe_file(path, value)
        for _ in range(3):
            assert READS[read](tier, "d/k") == value
            assert tier.info("d/k")["size"] == len(value)
            assert tier.exists("d/k")
    assert hot_files(tmp_path) == {"d/k": b"four"}
    cold.rm_file(path)
    with pytest.raises(FileNotFoundError):
        READS[read](tier, "d/k")
    assert not tier.exists("d/k")
    assert hot_files(tmp_path) == {}


@pytest.mark.parametrize("protocol", ["gated", "telling"])
def test_requests(tmp_path: Path, protocol: str) -> None:
    """Exclusive: none for a hit. Open: one a read. Ttl: none, within it."""
    cold_of(tmp_path).pipe_file("k", b"value")
    fetch = (2, 1) if protocol == "gated" else (0, 1)
    for consistency, fill, hit in (
        ("exclusive", (0, 1), (0, 0)),
        ("open", fetch, (1, 0)),
        ("ttl", fetch, (0, 0)),
    ):
        tier = open_gated(tmp_path, protocol, write="through", consistency=consistency)
        tier.evict("k")
        if protocol == "telling":
            tier.cat_file("k")  # of this store only the first answer shows that it tells
            tier.evict("k")
        asked = Asked()
        assert tier.cat_file("k") == b"value"
        assert asked.take() == fill
        for _ in range(3):
            assert tier.cat_file("k") == b"value"
            assert asked.take() == hit
        assert read_whole(tier, "k") == b"value"
        assert asked.take() == hit
        GatedFileSystem.open_gates()


def test_ttl_counts_from_the_question(tmp_path: Path) -> None:
    cold_of(tmp_path).pipe_file("k", b"1")
    tier = open_gated(tmp_path, write="through", consistency="ttl", ttl_s=30)
    freshness = tier._freshness
    assert freshness is not None
    clock = _Clock()
    freshness.clock = clock
    assert tier.cat_file("k") == b"1"
    cold_of(tmp_path).pipe_file("k", b"22")
    clock.now_s = 29.9
    assert tier.cat_file("k") == b"1"
    clock.now_s = 30.0
    assert tier.cat_file("k") == b"22"
    assert tier.info("k")["size"] == 2
    cold_of(tmp_path).rm_file("k")
    assert tier.cat_file("k") == b"22"
    clock.now_s = 60.0
    with pytest.raises(FileNotFoundError):
        tier.cat_file("k")


class TellingFileSystem(GatedFileSystem):
    """Names the version with the bytes, as object stores do."""

    protocol = "telling"

    def get_whole(self, key: str) -> tuple[ObjectInfo, bytes]:
        _, info = self._entry(key)
        return info, self.get_object(key, None, None)


def test_ttl_of_a_promotion_counts_from_its_request(tmp_path: Path) -> None:
    """Not from its end: the object is replaced while its bytes are on their way, for long."""
    cold_of(tmp_path).pipe_file("k", b"1")
    tier = open_gated(tmp_path, "telling", write="through", consistency="ttl", ttl_s=30)
    freshness = tier._freshness
    assert freshness is not None
    clock = _Clock()
    freshness.clock = clock

    def replace(key: str) -> None:
        GatedFileSystem.before_get = None
        cold_of(tmp_path).pipe_file(key, b"22")
        clock.now_s = 20.0

    GatedFileSystem.before_get = replace
    assert tier.cat_file("k") == b"1"
    clock.now_s = 29.9
    assert tier.cat_file("k") == b"1"
    clock.now_s = 30.0
    assert tier.cat_file("k") == b"22"


class _Clock:
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


@pytest.mark.parametrize("mode,allowed_s", [("open", 0.0), ("ttl", TTL_S)])
@pytest.mark.parametrize("write", ["through", "back"])
@pytest.mark.parametrize("protocol", ["gated", "telling"])
def test_history_of_a_foreign_writer(
    tmp_path: Path, mode: str, allowed_s: float, write: str, protocol: str
) -> None:
    options = {"ttl_s": TTL_S} if mode == "ttl" else {}
    tier = open_gated(tmp_path, protocol, write=write, consistency=mode, **options)
    # Several ranges of one call may be of several versions here: kind 2 is left out.
    written_s, reads = run_history(tier, cold_of(tmp_path).pipe_file, "a", (0, 1, 3))
    assert len(written_s) > ENOUGH_VERSIONS
    assert len(reads) > ENOUGH_READS
    assert worst_staleness_s(written_s, reads) <= allowed_s


@pytest.mark.parametrize("mode", ["exclusive", "ttl", "open"])
@pytest.mark.parametrize("write", ["through", "back"])
def test_history_of_own_writers(tmp_path: Path, mode: str, write: str) -> None:
    """What one instance has acknowledged every later read sees, whatever the mode."""
    tier = open_gated(tmp_path, write=write, consistency=mode)
    written_s, reads = run_history(tier, tier.pipe_file, "a", (0, 1, 3))
    assert len(written_s) > ENOUGH_VERSIONS
    assert worst_staleness_s(written_s, reads) == 0


def _follow(top: Path, until_s: float, mode: str, found: Any) -> None:
    tier = open_tier(top, consistency=mode, **({"ttl_s": TTL_S} if mode == "ttl" else {}))
    reads = []
    while time.monotonic() < until_s:
        began_s = time.monotonic()
        data = tier.cat_file("a")
        reads.append(Read(began_s, time.monotonic(), version_of(data)))
    found.put(reads)


@pytest.mark.parametrize("mode,allowed_s", [("open", 0.0), ("ttl", TTL_S)])
def test_history_of_four_processes(tmp_path: Path, mode: str, allowed_s: float) -> None:
    context = multiprocessing.get_context("spawn")
    (tmp_path / "cold").mkdir()
    # Not replaced within one tick of the disk's clock, which its versions are told by.
    disk = fsspec.filesystem("disk")
    disk.pipe_file(f"{tmp_path}/cold/a", content(0))
    written_s = [time.monotonic()]
    found = context.Queue()
    until_s = time.monotonic() + 8.0
    processes = [
        context.Process(target=_follow, args=(tmp_path, until_s, mode, found)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    version = 0
    while time.monotonic() < until_s:
        version += 1
        disk.pipe_file(f"{tmp_path}/cold/a", content(version))
        written_s.append(time.monotonic())
        time.sleep(0.02)  # the pace of the history, not synchronisation
    reads = [read for _ in processes for read in found.get(timeout=60)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(reads) > ENOUGH_READS
    assert worst_staleness_s(written_s, reads) <= allowed_s


@pytest.mark.parametrize("protocol", ["gated", "telling"])
def test_readers_that_come_together_share_one_fetch(tmp_path: Path, protocol: str) -> None:
    cold_of(tmp_path).pipe_file("k", b"value")
    tier = open_gated(tmp_path, protocol, write="through", consistency="open")
    asked = Asked()
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: tier.cat_file("k"), range(16))) == {b"value"}
    assert asked.take()[1] == 1


@pytest.mark.parametrize("what", ["replaced", "removed", "left alone"])
@pytest.mark.parametrize("protocol", ["gated", "telling"])
def test_reader_that_joins_a_fetch_gets_no_older_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, what: str
) -> None:
    """It comes after a foreign write, while the bytes of before are on their way."""
    cold = cold_of(tmp_path)
    cold.pipe({"first": b"1", "k": b"older"})
    tier = open_gated(tmp_path, protocol, write="through", consistency="open")
    tier.cat_file("first")
    joining, gate, gets = joins(monkeypatch), Gate(), []

    def answer(key: str) -> None:
        gets.append(key)
        if len(gets) == 1:
            gate(key)

    GatedFileSystem.before_get = answer
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(tier.cat_file, "k")
        assert gate.reached.wait(30)
        assert joining.acquire(timeout=30)
        if what == "replaced":
            cold.pipe_file("k", b"newer")
        elif what == "removed":
            cold.rm_file("k")
        second = pool.submit(tier.cat_file, "k")
        assert joining.acquire(timeout=30)
        gate.go_on.set()
        assert first.result(30) == b"older"
        if what == "removed":
            with pytest.raises(FileNotFoundError):
                second.result(30)
        else:
            assert second.result(30) == (b"newer" if what == "replaced" else b"older")
    assert len(gets) == (2 if what == "replaced" else 1)


def test_reader_that_joins_a_fetch_within_the_ttl_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = cold_of(tmp_path)
    cold.pipe({"first": b"1", "k": b"older"})
    tier = open_gated(tmp_path, "telling", write="through", consistency="ttl", ttl_s=1e6)
    tier.cat_file("first")
    joining, gate, asked = joins(monkeypatch), Gate(), Asked()
    GatedFileSystem.before_get = gate
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(tier.cat_file, "k")
        assert gate.reached.wait(30)
        cold.pipe_file("k", b"newer")
        assert joining.acquire(timeout=30)
        second = pool.submit(tier.cat_file, "k")
        assert joining.acquire(timeout=30)
        gate.go_on.set()
        assert first.result(30) == second.result(30) == b"older"
    assert (gate.calls, asked.heads) == (1, [])


def joins(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Return what is released whenever a reader begins a fetch, or joins one."""
    joining, real = threading.Semaphore(0), SingleFlight.run

    async def run(self: SingleFlight[Any], *args: Any) -> Any:
        joining.release()
        return await real(self, *args)

    monkeypatch.setattr(SingleFlight, "run", run)
    return joining


@pytest.mark.timeout(120)
@pytest.mark.parametrize("write", ["through", "back"])
@pytest.mark.parametrize("what", ["replaced", "removed", "left alone"])
@pytest.mark.parametrize("protocol", ["gated", "telling"])
def test_conditional_write_after_a_foreign_one(
    tmp_path: Path, protocol: str, write: str, what: str
) -> None:
    cold = cold_of(tmp_path)
    cold.pipe_file("k", b"read")
    tier = open_gated(tmp_path, protocol, write=write, consistency="open")
    assert tier.cat_file("k") == b"read"
    etag = tier.info("k")["etag"]
    if what == "replaced":
        cold.pipe_file("k", b"theirs")
    elif what == "removed":
        cold.rm_file("k")

    def put() -> None:
        wait(tier.put_object, "k", b"read and changed", if_match=etag)

    if what == "left alone":
        put()
        assert tier.cat_file("k") == b"read and changed"
        return
    with pytest.raises((ConflictError, FileNotFoundError)):
        put()
    if what == "replaced":
        assert tier.cat_file("k") == cold.cat_file("k") == b"theirs"
    else:
        assert not tier.exists("k")
    tier.pipe_file("k", b"next")  # no lock is held any more
    assert tier.cat_file("k") == b"next"


def test_unsent_writes_are_not_compared(tmp_path: Path) -> None:
    """They wait for the upload, which finds the conflict."""
    cold_of(tmp_path).pipe_file("k", b"base")
    tier = open_gated(tmp_path, consistency="open", delay_s=1e6)
    assert tier.cat_file("k") == b"base"
    tier.pipe_file("k", b"ours")
    cold_of(tmp_path).pipe_file("k", b"foreign")
    assert tier.cat_file("k") == b"ours"
    with pytest.raises(ConflictError):
        tier.flush()
    assert tier.cat_file("k") == b"ours"
    tier.resolve("k", "cold")
    assert tier.cat_file("k") == b"foreign"


def test_sent_writes_are_compared(tmp_path: Path) -> None:
    tier = open_gated(tmp_path, consistency="open")
    tier.pipe_file("k", b"ours")
    assert tier.flush() == 0
    asked = Asked()
    assert tier.cat_file("k") == b"ours"
    assert asked.take() == (1, 0), "its etag is known from the upload"
    cold_of(tmp_path).pipe_file("k", b"foreign")
    assert tier.cat_file("k") == b"foreign"


@pytest.mark.parametrize("consistency", ["open", "ttl"])
def test_what_was_written_through_is_not_fetched_again(tmp_path: Path, consistency: str) -> None:
    tier = open_gated(tmp_path, write="through", consistency=consistency)
    tier.pipe_file("k", b"ours")
    asked = Asked()
    assert tier.cat_file("k") == b"ours"
    assert asked.take() == (1, 0), "its etag is known from the write"
    cold_of(tmp_path).pipe_file("k", b"them")
    again = open_gated(tmp_path, write="through", consistency="open")
    assert again.cat_file("k") == b"them"


@pytest.mark.server
@pytest.mark.parametrize("engine", ["obstore", "s3fs"])
def test_both_clients_tell_the_version_they_wrote(
    tmp_path: Path, s3: S3Server, engine: str
) -> None:
    bucket = s3.make_bucket(f"fresh-{uuid.uuid4().hex}")
    tier = fsspec.filesystem(
        "tier",
        hot=str(tmp_path / "hot"),
        cold=f"s3://{bucket}",
        cold_options=s3.storage_options,
        engine=engine,
        consistency="open",
    )
    tier.pipe_file("k", b"ours")
    s3.reset()
    assert tier.cat_file("k") == b"ours"
    assert [record.method for record in s3.requests()] == ["HEAD"]
    s3.put(f"{bucket}/k", b"them")
    assert tier.cat_file("k") == b"them"


def test_write_that_is_overtaken_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody replaces the object before the hot copy of a write through is there."""
    tier = open_gated(tmp_path, write="through", consistency="open")
    install = tier._mover._install_written

    async def late(*args: Any) -> None:
        cold_of(tmp_path).pipe_file("k", b"them")
        await install(*args)

    monkeypatch.setattr(tier._mover, "_install_written", late)
    tier.pipe_file("k", b"ours")
    assert hot_files(tmp_path) == {"k": b"ours"}
    assert tier.cat_file("k") == b"them"


def test_exclusive_process_names_no_version_of_what_it_writes(tmp_path: Path) -> None:
    tier = open_gated(tmp_path, write="through")
    tier.pipe_file("k", b"ours")
    row = tier._engine.catalog.row("k")
    assert row is not None
    assert row.etag is None


def test_cold_that_cannot_be_asked(tmp_path: Path) -> None:
    """Never an answer that may be wrong, and never "not found"; within the ttl a copy answers."""
    cold_of(tmp_path).pipe_file("k", b"value")

    def down(key: str) -> None:
        raise UnavailableError("unplugged", key)

    for consistency in ("open", "ttl"):
        tier = open_gated(tmp_path, write="through", consistency=consistency)
        assert tier.cat_file("k") == b"value"
        GatedFileSystem.before_head = down
        if consistency == "open":
            for read in (tier.cat_file, tier.info, lambda key, tier=tier: read_whole(tier, key)):
                with pytest.raises(UnavailableError):
                    read("k")
        else:
            assert tier.cat_file("k") == b"value"
        GatedFileSystem.open_gates()
    assert hot_files(tmp_path) == {"k": b"value"}


def test_exclusive_process_beside_an_open_one(tmp_path: Path) -> None:
    """What it takes for the version of a copy is not believed, whether it came before or after."""
    cold_of(tmp_path).pipe_file("before", b"1")
    exclusive = open_gated(tmp_path, write="through")
    assert exclusive.cat_file("before") == b"1"
    cold_of(tmp_path).pipe_file("before", b"2")  # of the same size
    assert exclusive.info("before")["size"] == 1
    shared = open_gated(tmp_path, write="through", consistency="open")
    assert shared.cat_file("before") == b"2"
    cold_of(tmp_path).pipe_file("after", b"1")
    assert exclusive.cat_file("after") == b"1"
    cold_of(tmp_path).pipe_file("after", b"2")
    exclusive._engine.versions.clear()
    assert exclusive.info("after")["size"] == 1
    assert shared.cat_file("after") == b"2"


def test_opened_file_is_of_the_version_it_was_opened_in(tmp_path: Path) -> None:
    cold_of(tmp_path).pipe_file("k", b"one" * 1000)
    tier = open_gated(tmp_path, write="through", consistency="open")
    with tier.open("k") as file:
        assert file.read(3) == b"one"
        cold_of(tmp_path).pipe_file("k", b"two" * 1000)
        assert tier.cat_file("k") == b"two" * 1000
        assert file.read() == (b"one" * 1000)[3:]


@pytest.mark.parametrize(
    "options",
    [
        {"consistency": "sometimes"},
        {"ttl_s": 5},
        {"consistency": "open", "ttl_s": 5},
        {"consistency": "ttl", "ttl_s": "long"},
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"consistency|ttl_s"):
        open_tier(tmp_path, **options)
    assert not os.path.exists(tmp_path / "hot")


def test_several_directories_are_exclusive(tmp_path: Path) -> None:
    tiers = [str(tmp_path / "a"), str(tmp_path / "b"), f"disk://{tmp_path}/cold"]
    with pytest.raises(ConfigError, match="several directories"):
        fsspec.filesystem("tier", tiers=tiers, consistency="open")
