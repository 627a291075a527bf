"""Write-back as its callers see it: limits, races, listings, mixed modes, refusals."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tier_tools import (
    BrokenCold,
    Gate,
    GatedFileSystem,
    cold_of,
    hot_files,
    open_broken,
    open_gated,
    open_tier,
    staged_files,
)

from vfs.core.engine import close_engines
from vfs.core.loop import wait as run_on_loop
from vfs.errors import ConfigError, ConflictError, TierFullError, UnavailableError
from vfs.policies.pressure import PressurePolicy
from vfs.tier.change import Change
from vfs.tier.dirty import DirtyStore
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.mounttype import filesystem_type, why_unfit


def refuse(key: str) -> None:
    raise UnavailableError("unplugged", key)


@pytest.fixture
def unplugged(tmp_path: Path) -> TierFileSystem:
    """Give a tier whose cold store takes no writes."""
    tier = open_gated(tmp_path, max_bytes=100_000, max_dirty_bytes=50_000)
    GatedFileSystem.before_put = refuse
    return tier


def test_dirty_is_never_evicted(unplugged: TierFileSystem, tmp_path: Path) -> None:
    cold = fsspec.filesystem("gated", store=tmp_path.as_posix())
    GatedFileSystem.open_gates()
    for number in range(10):
        cold.pipe_file(f"clean{number}", bytes(20_000))
    GatedFileSystem.before_put = refuse
    unplugged.pipe_file("dirty", bytes(30_000))
    for number in range(10):
        unplugged.cat_file(f"clean{number}")
    with pytest.raises(OSError, match="flush") as caught:
        unplugged.evict("dirty")
    assert caught.value.errno == errno.EBUSY
    unplugged.evict("", recursive=True)
    unplugged._engine.make_room(100_000)
    assert set(hot_files(tmp_path)) == {"dirty"}
    assert unplugged.stats().hot_bytes == 30_000


def test_limit_of_dirty_bytes_is_enospc_and_loses_nothing(
    unplugged: TierFileSystem, tmp_path: Path
) -> None:
    stored = 12
    for number in range(stored):
        unplugged.pipe_file(f"n{number}", bytes(4_000))
    with pytest.raises(TierFullError) as caught:
        unplugged.pipe_file("too much", bytes(4_000))
    assert caught.value.errno == errno.ENOSPC
    assert "max_dirty_bytes" in str(caught.value)
    assert unplugged.stats().dirty_bytes == stored * 4_000 <= 50_000
    assert len(unplugged.find("")) == stored == 12
    assert staged_files(tmp_path) == []
    GatedFileSystem.open_gates()
    unplugged.pipe_file("one more", bytes(4_000))
    assert unplugged.flush() == 0
    assert unplugged.stats().dirty_bytes == 0


def test_writers_go_on_when_uploads_do(tmp_path: Path) -> None:
    """At the limit a writer waits for what makes room, and fails only if nothing does."""
    tier = open_gated(tmp_path, max_bytes=100_000, max_dirty_bytes=20_000)
    for number in range(40):
        tier.pipe_file(f"n{number}", bytes(4_000))
        assert tier.stats().dirty_bytes <= 20_000
    assert tier.flush() == 0


def test_age_is_a_limit_too(tmp_path: Path) -> None:
    tier = open_gated(tmp_path, max_lag_s=0.001)
    GatedFileSystem.before_put = refuse
    tier.pipe_file("first", b"1")
    with pytest.raises(TierFullError, match="max_lag_s"):
        tier.pipe_file("second", b"2")


def test_pressure_grows_evenly() -> None:
    policy = PressurePolicy(1000, max_lag_s=100.0)
    delays = [policy.delay_s(used, 0, 0.0) for used in (0, 750, 875, 1000, 1001)]
    assert delays == [0.0, 0.0, 0.25, 0.5, None]
    assert [policy.delay_s(0, 0, lag) for lag in (0, 75, 100, 101)] == [0.0, 0.0, 0.5, None]


def test_object_beyond_the_limit_goes_to_cold_at_once(tmp_path: Path) -> None:
    tier = open_gated(tmp_path, max_bytes=10_000)
    tier.pipe_file("large", bytes(6_000))
    assert tier.pending() == []
    assert tier.status("large").cold
    assert tier.cat_file("large") == bytes(6_000)


def test_write_through_over_a_pending_change(tmp_path: Path) -> None:
    """An instance of another mode on the same directory sends what is pending first."""
    back = open_gated(tmp_path, quiet_s=1e9)
    through = open_gated(tmp_path, write="through")
    back.pipe_file("g/zarr.json", b"old")
    assert back.status("g/zarr.json").dirty
    through.pipe_file("g/zarr.json", b"new")
    assert back.pending() == []
    assert back.cat_file("g/zarr.json") == b"new"
    cold = fsspec.filesystem("gated", store=tmp_path.as_posix())
    assert cold.cat_file("g/zarr.json") == b"new"
    back.rm_file("g/zarr.json")
    with pytest.raises(FileNotFoundError):
        through.cat_file("g/zarr.json")
    through.pipe_file("g/zarr.json", b"newest")
    assert back.cat_file("g/zarr.json") == cold.cat_file("g/zarr.json") == b"newest"


def test_fetch_overtaken_by_a_removal_is_not_installed(tmp_path: Path) -> None:
    tier = open_gated(tmp_path)
    tier.pipe_file("k", b"old")
    tier.flush()
    tier.evict("k")
    put, get = Gate(), Gate()
    GatedFileSystem.before_put = lambda key: put(key) if key == "busy" else None
    GatedFileSystem.before_get = get
    tier.pipe_file("busy", b"the removal waits behind this")
    assert put.reached.wait(30)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(tier.cat_file, "k")
        assert get.reached.wait(30)
        tier.rm_file("k")
        get.go_on.set()
        slow.result(30)
    assert hot_files(tmp_path).get("k") is None
    with pytest.raises(FileNotFoundError):
        tier.cat_file("k")
    for options in ({"write": "through"}, {"promote": "never"}):
        with pytest.raises(FileNotFoundError):
            open_gated(tmp_path, **options).cat_file("k")
        with pytest.raises(FileNotFoundError):
            open_gated(tmp_path, **options).cat_file("k", 1, 2)
    put.go_on.set()
    tier.flush()


def test_fetch_begun_after_a_removal_finds_the_tombstone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal comes when the reader has looked at the journal, and not begun to fetch."""
    tier = open_gated(tmp_path)
    tier.pipe_file("k", b"old")
    tier.flush()
    tier.evict("k")
    put = Gate()
    GatedFileSystem.before_put = lambda key: put(key) if key == "busy" else None
    tier.pipe_file("busy", b"the removal waits behind this")
    assert put.reached.wait(30)
    real = tier._wants_promotion

    async def wants(*args: Any, **kwargs: Any) -> Any:
        answer = await real(*args, **kwargs)
        await tier._rm_file("k")
        return answer

    monkeypatch.setattr(tier, "_wants_promotion", wants)
    with pytest.raises(FileNotFoundError):
        tier.cat_file("k")
    assert hot_files(tmp_path).get("k") is None
    put.go_on.set()
    tier.flush()


def gate_before_publication(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Let the next writes stop between their commit and their name."""
    gate, real = Gate(), DirtyStore.publish

    def publish(self: DirtyStore, change: Change, *args: Any) -> None:
        gate(change.key)
        real(self, change, *args)

    monkeypatch.setattr(DirtyStore, "publish", publish)
    return gate


def test_read_between_commit_and_publication_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cold is two versions behind while the third has a row, and no name yet."""
    tier = open_gated(tmp_path)
    tier.pipe_file("k", b"first")
    tier.flush()
    tier._mover.uploader.rest()
    tier.pipe_file("k", b"second")
    tier.rm_file("k")
    gate = gate_before_publication(monkeypatch)
    reads: list[Callable[[str], Any]] = [
        tier.cat_file,
        lambda key: tier.cat_file(key, 0, 9),
        lambda key: tier.open(key).read(),
    ]
    for read in reads:
        with ThreadPoolExecutor() as pool:
            put = pool.submit(tier.pipe_file, "k", b"third")
            assert gate.reached.wait(30)
            got = pool.submit(read, "k")
            # It would be done at once, were it to read cold.
            assert not wait([got], timeout=0.3).done
            gate.go_on.set()
            assert got.result(30) == b"third"
            put.result(30)
        tier.rm_file("k")
        gate.reached.clear()
        gate.go_on.clear()


@pytest.mark.parametrize("seen", [False, True])
def test_version_told_before_publication_is_that_of_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, seen: bool
) -> None:
    """Who reads the old bytes must not be told the new version: a condition on it would hold."""
    cold_of(tmp_path).pipe_file("k", b"old")
    tier = open_gated(tmp_path, delay_s=1e6)
    assert tier.cat_file("k") == b"old"
    if seen:
        tier.info("k")
    gate = gate_before_publication(monkeypatch)
    with ThreadPoolExecutor() as pool:
        put = pool.submit(tier.pipe_file, "k", b"newer")
        assert gate.reached.wait(30)
        assert tier.cat_file("k") == b"old"
        info = tier.info("k")
        assert (info["size"], info["etag"]) == (3, cold_of(tmp_path).info("k")["etag"])
        gate.go_on.set()
        put.result(30)
    with pytest.raises(ConflictError):
        run_on_loop(tier._call, "put_object", "k", b"lost update", if_match=info["etag"])
    assert tier.cat_file("k") == b"newer"


def test_older_upload_never_lands_after_a_write_through(tmp_path: Path) -> None:
    """Over a store without conditions, only the lock of the key keeps them in order."""
    back, through = open_broken(tmp_path), open_broken(tmp_path, write="through")
    gate = Gate()
    BrokenCold.before_put = gate
    back.pipe_file("k", b"older")
    assert gate.reached.wait(30)
    BrokenCold.before_put = None
    with ThreadPoolExecutor() as pool:
        newer = pool.submit(through.pipe_file, "k", b"newer")
        # It must wait for the upload; were it not to, it would be done long before this ends.
        assert not wait([newer], timeout=0.3).done
        gate.go_on.set()
        newer.result(30)
    assert back.flush() == 0
    assert (tmp_path / "cold/k").read_bytes() == b"newer" == back.cat_file("k")


def test_listing_is_hot_and_cold_without_tombstones(
    unplugged: TierFileSystem, tmp_path: Path
) -> None:
    GatedFileSystem.open_gates()
    for name in ("d/a", "d/b", "e/f/g", "h"):
        unplugged.pipe_file(name, b"1")
    unplugged.flush()
    GatedFileSystem.before_put = refuse
    unplugged.pipe_file("barrier", b"1")
    gate = Gate()
    unplugged._engine.uploader.stop()  # type: ignore[union-attr]
    unplugged.pipe_file("d/new", b"22")
    unplugged.pipe_file("x/y/z", b"333")
    unplugged.rm_file("d/a")
    unplugged.rm("e", recursive=True)
    unplugged.pipe_file("h", b"4444")
    for tier in (unplugged, open_gated(tmp_path, write="through")):
        assert tier.find("") == ["barrier", "d/b", "d/new", "h", "x/y/z"]
        assert tier.ls("", detail=False) == ["barrier", "d", "h", "x"]
        assert tier.ls("d", detail=False) == ["d/b", "d/new"]
        assert tier.ls("x/y", detail=False) == ["x/y/z"]
        assert tier.find("", maxdepth=1) == ["barrier", "h"]
        assert not tier.exists("e")
        assert not tier.exists("e/f")
        assert tier.isdir("x/y")
        assert tier.info("h")["size"] == 4
        assert tier.du("") == 1 + 1 + 2 + 4 + 3
    assert not gate.calls


def test_a_version_stays_the_same_in_listings_when_it_is_sent(tmp_path: Path) -> None:
    """``info`` keeps the version a write got; so must ``ls`` and ``find`` once cold has it."""
    tier = open_tier(tmp_path, write="back")
    tier.pipe({"d/one": b"1", "d/two": b"22", "top": b"333"})
    told = {name: tier.info(name) for name in ("d/one", "d/two", "top")}
    for _ in ("pending or not", "sent"):
        found = tier.find("", detail=True)
        listed = {info["name"]: info for info in (*tier.ls("d"), *tier.ls(""))}
        for name, info in told.items():
            for other in (found[name], listed[name], tier.info(name)):
                assert (other["etag"], other["mtime"]) == (info["etag"], info["mtime"])
        assert tier.flush() == 0
    (tmp_path / "cold/top").write_bytes(b"foreign")
    assert tier.ls("", detail=False) == ["d", "top"]
    assert {i["name"]: i["size"] for i in tier.ls("")}["top"] == len("foreign")


def test_lost_hot_directory_is_no_reason_to_read_cold(tmp_path: Path) -> None:
    tier = open_gated(tmp_path)
    tier.pipe_file("k", b"old")
    tier.flush()
    GatedFileSystem.before_put = refuse
    tier.pipe_file("k", b"new")
    tier._engine.uploader.stop()  # type: ignore[union-attr]
    shutil.move(tmp_path / "hot", tmp_path / "away")
    with pytest.raises(UnavailableError):
        tier.cat_file("k")
    shutil.move(tmp_path / "away", tmp_path / "hot")
    TierFileSystem.clear_instance_cache()
    close_engines()


def test_clean_hit_never_touches_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vfs.tier.journal import Journal

    tier = open_gated(tmp_path)
    tier.pipe_file("k", b"value")
    tier.flush()
    tier.info("k")

    def touched(*args: Any) -> Any:
        raise AssertionError("the journal was asked")

    monkeypatch.setattr(Journal, "_reading", touched)
    assert tier.cat_file("k") == b"value"
    assert tier.cat_file("k", 1, 3) == b"al"
    assert tier.info("k")["size"] == 5
    with tier.open("k") as file:
        assert file.read() == b"value"


@pytest.mark.parametrize("dirty", [True, False])
def test_rename_of_a_tree(tmp_path: Path, dirty: bool) -> None:
    tier = open_tier(tmp_path, write="back")
    for number in range(20):
        tier.pipe_file(f"old/{number % 3}/{number}", b"%d" % number)
    if not dirty:
        tier.flush()
        tier.evict("", recursive=True)
    tier.mv("old", "new", recursive=True)
    assert not tier.exists("old")
    assert len(tier.find("new")) == 20
    tier.flush()
    cold = sorted(p for p in (tmp_path / "cold").rglob("*") if p.is_file())
    assert len(cold) == 20
    assert all(p.read_bytes() == p.name.encode() for p in cold)
    assert not (tmp_path / "cold/old").exists()


def test_transaction_and_append(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, write="back")
    with tier.transaction:
        tier.pipe_file("a", b"1")
        assert tier.find("") == []
    with tier.open("a", "ab") as file:
        file.write(b"2")
    assert tier.cat_file("a") == b"12"
    tier.flush()
    assert (tmp_path / "cold/a").read_bytes() == b"12"


@pytest.mark.parametrize(
    "kind, fit",
    [("ext4", True), ("xfs", True), ("btrfs", True), ("tmpfs", True), ("overlay", True)]
    + [(k, False) for k in ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "lustre")],
)
def test_network_filesystems_are_unfit(kind: str, fit: bool) -> None:
    assert (why_unfit(kind) is None) == fit


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /mnt/share rw shared:2 - nfs4 server:/x rw
41 22 0:36 / /mnt/with\\040space rw - xfs /dev/sdb rw
42 40 0:37 / /mnt/share/local rw - tmpfs none rw
"""


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/data/hot", "ext4"),
        ("/mnt/share/hot", "nfs4"),
        ("/mnt/shared/hot", "ext4"),
        ("/mnt/with space/hot", "xfs"),
        ("/mnt/share/local/hot", "tmpfs"),
    ],
)
def test_filesystem_of_a_path(path: str, kind: str) -> None:
    assert filesystem_type(path, MOUNTS) == kind


def test_unfit_hot_directory_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vfs.tier.mounttype as module

    # No network filesystem can be mounted here: only the answer of the kernel is stood in for.
    monkeypatch.setattr(module, "filesystem_type", lambda *_: "nfs4")
    with pytest.raises(ConfigError, match="nfs4"):
        open_tier(tmp_path, write="back").pipe_file("k", b"1")
    TierFileSystem.clear_instance_cache()
    close_engines()
    open_tier(tmp_path, write="through").pipe_file("k", b"1")


def test_locks_that_do_not_lock_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vfs.core.filelock import LockFile

    monkeypatch.setattr(LockFile, "try_lock", lambda *_: True)
    with pytest.raises(ConfigError, match="lock"):
        open_tier(tmp_path, write="back").pipe_file("k", b"1")


def test_full_disk_fails_the_put_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    tier = open_tier(tmp_path, write="back")
    tier.pipe_file("k", b"old")
    for place, name, code in (
        ("core.durable", "write_all", errno.ENOSPC),
        ("tier.dirty", "fsync", errno.EIO),
        ("tier.dirty", "fsync_directory", errno.EIO),
    ):

        def fail(*_: Any, code: int = code) -> None:
            raise OSError(code, "injected")

        with monkeypatch.context() as patch:
            patch.setattr(f"vfs.{place}.{name}", fail)
            with pytest.raises(OSError, match="injected") as caught:
                tier.pipe_file("k", b"new")
        assert caught.value.errno == code
        assert tier.cat_file("k") == b"old"
    assert tier.flush() == 0
    assert staged_files(tmp_path) == []
    assert (tmp_path / "cold/k").read_bytes() == b"old"
    assert tier.stats().hot_bytes == 3
