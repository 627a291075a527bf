"""Objects that S3 must recall first: told as such, asked for, waited for, kept out of plans."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr

from vfs.core import archive as archive_module
from vfs.core import loop as loop_module
from vfs.core.archive import Archive, ArchiveState, state_of
from vfs.core.foreign import translate
from vfs.core.loop import io_loop, wait
from vfs.errors import ArchivedError, ConfigError, UnsupportedError, is_retryable
from vfs.testing.servers import S3Server
from vfs.tier import archiveverbs
from vfs.tier.filesystem import TierFileSystem

pytestmark = pytest.mark.timeout(180)

ENGINES = ("s3fs", "obstore")


class Store:
    """A bucket with objects of storage classes, and tiers over it."""

    def __init__(self, s3: S3Server, top: Path) -> None:
        self.s3, self.top, self.heads = s3, top, 0
        self.bucket = s3.make_bucket(f"archive-{uuid.uuid4().hex}")
        options = {**s3.storage_options, "use_listings_cache": False}
        self.client: Any = fsspec.filesystem("s3", **options)

    def put(self, key: str, data: bytes, storage: str = "GLACIER") -> None:
        self.client.pipe_file(f"{self.bucket}/root/{key}", data, StorageClass=storage)
        for _ in range(self.heads):
            # The server counts looks from the first one on, also for the state before a recall.
            self.client.info(f"{self.bucket}/root/{key}")

    def tier(self, engine: str, **options: Any) -> TierFileSystem:
        found: TierFileSystem = fsspec.filesystem(
            "tier",
            **{"hot": str(self.top / "hot"), **options},
            **({} if "tiers" in options else {"cold": self.url}),
            s3=self.s3.storage_options,
            engine=engine,
        )
        return found

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/root"

    def recall_slowly(self, heads: int) -> None:
        """Let recalls of later objects be under way until each was looked at so often."""
        how = {"progression": "manual", "times": heads} if heads else {"progression": "immediate"}
        told = json.dumps({"model_name": "s3::keyrestore", "transition": how}).encode()
        status, _ = self.s3.request_raw("POST", "/moto-api/state-manager/set-transition", told)
        assert status == 201
        self.heads = heads


@pytest.fixture
def store(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(archiveverbs, "_FIRST_LOOK_S", 0.01)
    monkeypatch.setattr(archiveverbs, "_LAST_LOOK_S", 0.1)
    made = Store(s3, tmp_path)
    yield made
    made.recall_slowly(0)


def requests_of(tier: TierFileSystem, name: str) -> int:
    return tier.stats().cold_requests.get(name, 0)


# -------------------------------------------------------------------- reads


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("storage", ["GLACIER", "DEEP_ARCHIVE"])
def test_a_read_says_what_to_do(store: Store, engine: str, storage: str, tmp_path: Path) -> None:
    store.put("a", b"hello", storage)
    tier = store.tier(engine)
    reads: dict[str, Callable[[], object]] = {
        "cat": lambda: tier.cat_file("a"),
        "range": lambda: tier.cat_file("a", 1, 3),
        "ranges": lambda: tier.cat_ranges(["a"], [0], [2], on_error="raise"),
        "open": lambda: tier.open("a").read(),
        "get": lambda: tier.get_file("a", str(tmp_path / "local")),
        "promote": lambda: tier.promote("a"),
        "copy": lambda: tier.cp_file("a", "b"),
        "move": lambda: tier.mv_file("a", "b"),
    }
    for read in reads.values():
        with pytest.raises(ArchivedError, match=r"fs\.restore\(path, days=") as caught:
            read()
        assert (caught.value.errno, caught.value.filename) == (errno.ENODATA, "a")
        assert not isinstance(caught.value, FileNotFoundError | PermissionError)
        assert not is_retryable(caught.value)
    assert tier.stats().hot_objects == 0
    assert not tier.exists("b")
    assert tier.exists("a"), "a move that is refused removes nothing"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_refused_read_is_one_request(store: Store, engine: str) -> None:
    store.put("a", b"hello")
    tier = store.tier(engine)
    store.s3.reset()
    for number in range(3):
        with pytest.raises(ArchivedError):
            tier.cat_file("a")
        gets = [r for r in store.s3.requests() if r.method == "GET" and r.kind == "object"]
        assert len(gets) == number + 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("promote", ["always", "second", "never"])
def test_ranges_of_a_large_object_say_the_same(store: Store, engine: str, promote: str) -> None:
    store.put("a", bytes(100_000))
    tier = store.tier(engine, promote=promote, promote_max_bytes=1000)
    with tier.open("a") as file, pytest.raises(ArchivedError) as caught:
        file.read(10)
    assert caught.value.filename == "a"
    with pytest.raises(ArchivedError):
        tier.cat_file("a", 0, 10)


@pytest.mark.parametrize("engine", ENGINES)
def test_names_and_facts_need_no_recall(store: Store, engine: str) -> None:
    store.put("d/a", b"hello")
    store.put("d/b", b"hello", "STANDARD")
    tier = store.tier(engine)
    assert tier.info("d/a")["size"] == 5
    assert sorted(tier.ls("d", detail=False)) == ["d/a", "d/b"]
    assert sorted(tier.find("")) == ["d/a", "d/b"]
    assert tier.cat_file("d/b") == b"hello"
    tier.rm_file("d/a")
    assert tier.find("") == ["d/b"]


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_and_other_filesystems_tell_the_same(
    store: Store, engine: str, tmp_path: Path
) -> None:
    store.put("a", b"hello")
    options = store.s3.storage_options
    cache = fsspec.filesystem(
        "cache",
        target_protocol="s3",
        target_options=options,
        engine=engine,
        directory=str(tmp_path / "cache"),
    )
    for read in (cache.cat_file, lambda path: cache.open(path).read()):
        with pytest.raises(ArchivedError):
            read(f"{store.bucket}/root/a")
    with pytest.raises(ArchivedError):
        cache.cp_file(f"{store.bucket}/root/a", f"{store.bucket}/root/b")


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_hot_can_be_read_copied_and_moved(store: Store, engine: str) -> None:
    tier = store.tier(engine)
    for name in ("a", "b"):
        tier.pipe_file(name, b"hello")
        store.client.cp_file(
            f"{store.bucket}/root/{name}", f"{store.bucket}/root/{name}", StorageClass="GLACIER"
        )
    assert tier.cat_file("a") == b"hello"
    tier.cp_file("a", "copied")
    tier.mv_file("b", "moved")
    assert sorted(tier.find("")) == ["a", "copied", "moved"]
    for name in ("copied", "moved"):
        assert store.s3.get(f"{store.bucket}/root/{name}") == b"hello"
        assert tier.cat_file(name) == b"hello"
    assert not store.client.exists(f"{store.bucket}/root/b")


@pytest.mark.parametrize("engine", ENGINES)
def test_zarr_takes_no_archived_chunk_for_one_that_was_never_written(
    store: Store, engine: str
) -> None:
    tier = store.tier(engine, write="around")
    place = zarr.storage.FsspecStore(store.tier(engine, asynchronous=True), path="array")
    array = zarr.create_array(place, shape=(4,), chunks=(2,), dtype="i4", fill_value=-1)
    array[:] = 7
    chunk = tier.cat_file("array/c/0")
    tier.rm_file("array/c/0")
    store.put("array/c/0", chunk)
    with pytest.raises(ArchivedError):
        zarr.open_array(place, mode="r")[:]
    tier.restore("array", recursive=True, wait=True)
    assert np.array_equal(zarr.open_array(place, mode="r")[:], [7, 7, 7, 7])


# -------------------------------------------------------------------- restore


@pytest.mark.parametrize("engine", ENGINES)
def test_restore_makes_it_readable(store: Store, engine: str) -> None:
    store.recall_slowly(30)
    store.put("a", b"hello")
    tier = store.tier(engine)
    assert tier.status("a").archive == "archived"
    assert tier.restore("a", days=3) == {"a": "restoring"}
    assert tier.status("a").archive == "restoring"
    with pytest.raises(ArchivedError):
        tier.cat_file("a")
    seen: list[tuple[int, int]] = []
    told = tier.restore("a", wait=True, progress=lambda done, of: seen.append((done, of)))
    assert told["a"].startswith("restored until ")
    assert seen[0] == (0, 1)
    assert seen[-1] == (1, 1)
    assert requests_of(tier, "restore_object") == 1, "one under way is not asked for again"
    assert tier.status("a").archive == told["a"]
    assert tier.cat_file("a") == b"hello"
    assert tier.status("a").state == "HOT"


def test_restore_is_asked_as_s3_wants_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a", b"hello")
    tier = store.tier("s3fs")
    asked: list[dict[str, Any]] = []
    call = tier.target.fs._call_s3

    async def note(method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "restore_object":
            asked.append(kwargs)
        return await call(method, *args, **kwargs)

    monkeypatch.setattr(tier.target.fs, "_call_s3", note)
    tier.restore("a", days=1.5, speed="bulk")
    assert asked == [
        {
            "Bucket": store.bucket,
            "Key": "root/a",
            "RestoreRequest": {"Days": 2, "GlacierJobParameters": {"Tier": "Bulk"}},
        }
    ]
    tier.restore("a", days=1)
    assert len(asked) == 1, "it is readable for longer than that"
    tier.restore("a", days=30)
    assert asked[1]["RestoreRequest"]["Days"] == 30, "it is prolonged"


@pytest.mark.parametrize("engine", ENGINES)
def test_restore_of_many(store: Store, engine: str) -> None:
    for number in range(3):
        store.put(f"d/{number}", b"%d" % number)
    store.put("d/plain", b"x", "STANDARD")
    store.put("d/soon", b"x", "GLACIER_IR")
    tier = store.tier(engine)
    with pytest.raises(IsADirectoryError):
        tier.restore("d")
    told = tier.restore("d", recursive=True, wait=True, timeout_s=60)
    assert told["d/plain"] == told["d/soon"] == ""
    assert all(told[f"d/{n}"].startswith("restored until") for n in range(3))
    tier.promote("d", recursive=True)
    assert tier.stats().hot_objects == 5
    assert tier.restore(["d/plain", "d/1"]).keys() == {"d/plain", "d/1"}
    with pytest.raises(FileNotFoundError):
        tier.restore("missing")


def test_waiting_ends_in_time_and_the_recall_goes_on(store: Store) -> None:
    store.recall_slowly(30)
    store.put("a", b"hello")
    tier = store.tier("s3fs")
    began = time.monotonic()
    assert tier.restore("a", wait=True, timeout_s=0.5) == {"a": "restoring"}
    assert time.monotonic() - began >= 0.5
    assert tier.restore("a", wait=True, timeout_s=0) == {"a": "restoring"}


def test_waiting_looks_less_and_less_often(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.recall_slowly(20)
    store.put("a", b"hello")
    tier = store.tier("s3fs")
    pauses: list[float] = []

    async def note(delay: float) -> None:
        pauses.append(delay)

    monkeypatch.setattr(archiveverbs, "_FIRST_LOOK_S", 1.0)
    monkeypatch.setattr(archiveverbs, "_LAST_LOOK_S", 60.0)
    monkeypatch.setattr("vfs.tier.archiveverbs.asyncio", SimpleNamespace(sleep=note))
    tier.restore("a", wait=True)
    assert pauses[:8] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_waiting_can_be_cancelled(store: Store) -> None:
    store.recall_slowly(30)
    store.put("a", b"hello")
    tier = store.tier("s3fs")

    async def cancel() -> None:
        looked = asyncio.Event()

        def progress(done: int, of: int) -> None:
            looked.set()

        task = asyncio.ensure_future(tier._restore("a", wait=True, progress=progress))
        await looked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run_coroutine_threadsafe(cancel(), io_loop()).result(60)


def test_an_interrupt_ends_the_call_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = threading.Event(), threading.Event()

    async def forever() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    def interrupted(loop: Any, func: Any) -> Any:
        asyncio.run_coroutine_threadsafe(func(), loop)
        assert began.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop_module, "_fsspec_sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop_module.wait_or_cancel(forever)
    assert ended.wait(60)


def test_a_recall_that_is_under_way_or_not_needed_is_no_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What S3 answers where it was asked twice at once, or the object was replaced meanwhile."""
    store.put("a", b"hello")
    tier = store.tier("s3fs")
    call = tier.target.fs._call_s3
    code = "RestoreAlreadyInProgress"

    class ClientError(Exception):
        def __init__(self) -> None:
            super().__init__(code)
            self.response = {
                "Error": {"Code": code},
                "ResponseMetadata": {"HTTPStatusCode": 409},
            }

    async def refuse(method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "restore_object":
            raise OSError(errno.EIO, "refused") from ClientError()
        return await call(method, *args, **kwargs)

    monkeypatch.setattr(tier.target.fs, "_call_s3", refuse)
    assert tier.restore("a") == {"a": "restoring"}
    code = "InvalidObjectState"
    assert tier.restore("a") == {"a": ""}
    code = "AccessDenied"
    with pytest.raises(OSError):
        tier.restore("a")


def test_what_is_not_in_cold_yet_needs_no_recall(store: Store) -> None:
    tier = store.tier("s3fs", write="back", quiet_s=1e9)
    tier.pipe_file("zarr.json", b"{}")
    assert tier.restore("zarr.json", wait=True) == {"zarr.json": ""}
    assert tier.status("zarr.json").archive == ""
    assert tier.flush() == 0


def test_wrong_arguments(store: Store) -> None:
    tier = store.tier("s3fs")
    for days in (0, -1, "3", True, None, float("nan"), 1e12):
        with pytest.raises(ConfigError, match="days"):
            tier.restore("a", days=days)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="speed"):
        tier.restore("a", speed="fast")  # type: ignore[arg-type]


def test_other_stores_have_nothing_to_recall(tmp_path: Path) -> None:
    tier = fsspec.filesystem("tier", hot=str(tmp_path / "hot"), cold=f"disk://{tmp_path}/cold")
    tier.pipe_file("a", b"1")
    with pytest.raises(UnsupportedError, match="not S3"):
        tier.restore("a")
    assert tier.status("a").archive == ""


def test_obstore_without_s3fs_says_what_is_missing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", b"hello")
    tier = store.tier("obstore")

    def missing(*args: Any) -> Any:
        raise ConfigError("protocol 's3' needs a package that is not installed")

    monkeypatch.setattr(archive_module, "build", missing)
    with pytest.raises(UnsupportedError, match="engine='s3fs'"):
        tier.restore("a")
    assert tier.status("a").archive == ""
    assert tier.status("a").state == "COLD"


@pytest.mark.parametrize("engine", ENGINES)
def test_restore_below_layers_and_directories(store: Store, engine: str, tmp_path: Path) -> None:
    store.put("a", b"hello")
    tiers = [
        str(tmp_path / "top"),
        str(tmp_path / "hot"),
        {"cold": store.url, "options": store.s3.storage_options, "engine": engine},
    ]
    stack = fsspec.filesystem("tier", tiers=tiers, write="back")
    with pytest.raises(ArchivedError) as caught:
        stack.cat_file("a")
    assert caught.value.filename == "a"
    assert stack.status("a").archive == "archived"
    assert stack.restore("a", wait=True)["a"].startswith("restored")
    assert stack.cat_file("a") == b"hello"
    store.put("b", b"hello")
    chained = fsspec.filesystem(
        "tier",
        hot=str(tmp_path / "another"),
        target_protocol="readonly",
        target_options={
            "target_protocol": "s3",
            "target_options": store.s3.storage_options,
            "engine": engine,
        },
    )
    name = f"{store.bucket}/root/b"
    assert chained.restore(name, wait=True)[name].startswith("restored")
    assert chained.cat_file(name) == b"hello"


# -------------------------------------------------------------------- plans and promotions


@pytest.mark.parametrize("engine", ENGINES)
def test_promotion_of_a_tree_names_what_is_archived(store: Store, engine: str) -> None:
    for number in range(7):
        store.put(f"d/{number}", b"old")
    store.put("d/new", b"new", "STANDARD")
    tier = store.tier(engine)
    with pytest.raises(ArchivedError, match=r"7 of 8 .*d/0, d/1, .* and 2 more") as caught:
        tier.promote("d", recursive=True)
    assert caught.value.filename == "d/0"
    assert tier.status("d/new").state == "HOT", "the others are promoted nevertheless"


def wanted(tier: TierFileSystem, *names: str) -> None:
    """Make it look as if objects were often read from cold."""
    for name in names:
        for _ in range(60):
            tier._engine.cold_reads.count(name)
        tier._engine.cold_reads.note_size(name, 5)


def test_plans_leave_out_what_is_archived(store: Store) -> None:
    store.put("a", b"hello")
    store.put("b", b"hello", "STANDARD")
    tier = store.tier("s3fs", write="around")
    wanted(tier, "a", "b")
    with pytest.raises(ArchivedError):
        tier.cat_file("a")
    plan = tier.plan()
    assert plan.archived == ("a",)
    assert {(m.action, m.path) for m in plan.moves} == {("promote", "b")}
    assert "archived a" in plan.explain()
    tier.restore("a", wait=True)
    assert tier.cat_file("a") == b"hello"
    tier.evict("a")
    plan = tier.plan()
    assert plan.archived == ()
    assert {(m.action, m.path) for m in plan.moves} == {("promote", "a"), ("promote", "b")}


def test_a_plan_that_meets_an_archived_object_goes_on(store: Store) -> None:
    for name in ("a", "b"):
        store.put(name, b"hello", "STANDARD")
    tier = store.tier("s3fs", write="around")
    wanted(tier, "a", "b")
    plan = tier.plan()
    assert len(plan.moves) == 2
    store.put("a", b"hello")
    applied = tier.apply(plan)
    assert [move.path for move in applied.done] == ["b"]
    assert "archived" in applied.skipped[0][1]
    assert tier.plan().archived == ("a",)


# -------------------------------------------------------------------- what S3 says


def test_states() -> None:
    expiry = 'expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"'
    restored = f'ongoing-request="false", {expiry}'
    by_itself = {"StorageClass": "INTELLIGENT_TIERING"}
    assert state_of({}).readable
    assert state_of({"StorageClass": "GLACIER_IR"}).readable
    assert state_of({"StorageClass": "GLACIER"}).kind == "archived"
    assert state_of({"StorageClass": "DEEP_ARCHIVE", "Restore": restored}).until == 1356048000
    under_way = {"StorageClass": "GLACIER", "Restore": 'ongoing-request="true"'}
    assert state_of(under_way).kind == "restoring"
    assert state_of(by_itself).readable
    found = state_of({**by_itself, "ArchiveStatus": "ARCHIVE_ACCESS"})
    assert (found.kind, found.by_itself) == ("archived", True)
    assert ArchiveState("restored", 1000.0).lasts(1, 1000.0 - 86400)
    assert not ArchiveState("restored", 1000.0).lasts(2, 1000.0 - 86400)
    assert not ArchiveState("archived").lasts(1, 0.0)


def test_sdks_of_others() -> None:
    class HttpResponseError(Exception):
        error_code = "BlobArchived"

    error = translate(HttpResponseError(), "cat_file", "a")
    assert isinstance(error, ArchivedError)


def test_what_the_store_archives_by_itself_is_restored_without_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    async def note(self: Archive, method: str, operation: str, path: str, **given: Any) -> None:
        asked.append(given["RestoreRequest"])

    monkeypatch.setattr(Archive, "_call", note)
    archive = Archive.below(store.tier("s3fs").target)
    assert archive is not None
    known = ArchiveState("archived", by_itself=True)
    assert wait(archive.restore, "bucket/a", 3, "standard", known)
    assert asked == [{"GlacierJobParameters": {"Tier": "Standard"}}]
