"""What a promotion knows of cold: which version the copy is, from the answer that brought it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest

import vfs.tier.attempt as attempt_module
import vfs.tier.mover as mover_module
from vfs.core.engine import close_engines
from vfs.errors import ConflictError
from vfs.testing.servers import S3Server
from vfs.tier.filesystem import TierFileSystem

pytestmark = pytest.mark.server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.make_bucket(f"promoted-{uuid.uuid4().hex}")


def open_over(
    s3: S3Server, bucket: str, top: Path, engine: str = "obstore", **options: Any
) -> TierFileSystem:
    found: TierFileSystem = fsspec.filesystem(
        "tier",
        hot=str(top / "hot"),
        cold=f"s3://{bucket}",
        cold_options=s3.storage_options,
        engine=engine,
        **{"write": "back", "delay_s": 0.0, **options},
    )
    return found


def methods(s3: S3Server) -> list[str]:
    """Return the methods of the requests for objects since the last call."""
    found = [record.method for record in s3.requests()]
    s3.reset()
    return found


@pytest.mark.parametrize("engine", ["obstore", "s3fs"])
@pytest.mark.parametrize("size", [5, 9 << 20])
def test_read_and_written_costs_one_request_each(
    s3: S3Server, bucket: str, tmp_path: Path, engine: str, size: int
) -> None:
    """A part of a chunk is changed: the chunk is read, and written."""
    s3.put(f"{bucket}/c", bytes(size))
    tier = open_over(s3, bucket, tmp_path, engine)
    s3.reset()
    data = tier.cat_file("c")
    assert methods(s3) == ["GET"] * (1 + size // (8 << 20))
    tier.pipe_file("c", b"x" + data[1:])
    assert tier.flush() == 0
    assert methods(s3) == ["PUT"]
    assert s3.get(f"{bucket}/c") == b"x" + bytes(size - 1)


@pytest.mark.parametrize("engine", ["obstore", "s3fs"])
@pytest.mark.parametrize("looked", [False, True])
def test_foreign_write_since_it_was_read_is_a_conflict(
    s3: S3Server, bucket: str, tmp_path: Path, engine: str, looked: bool
) -> None:
    """Also where somebody has looked meanwhile: what is there now is not what was read."""
    s3.put(f"{bucket}/k", b"read")
    tier = open_over(s3, bucket, tmp_path, engine)
    assert tier.cat_file("k") == b"read"
    s3.put(f"{bucket}/k", b"theirs")
    if looked:
        tier.info("k")
    tier.pipe_file("k", b"read and changed")
    with pytest.raises(ConflictError):
        tier.flush()
    assert s3.get(f"{bucket}/k") == b"theirs"
    assert tier.cat_file("k") == b"read and changed"
    tier.resolve("k", keep="hot")
    assert tier.flush() == 0
    assert s3.get(f"{bucket}/k") == b"read and changed"


@pytest.mark.parametrize("engine", ["obstore", "s3fs"])
def test_streamed_promotion_knows_its_version_too(
    s3: S3Server, bucket: str, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mover_module, "_THROUGH_MEMORY_BYTES", 1000)
    s3.put(f"{bucket}/c", bytes(2000))
    s3.put(f"{bucket}/d", bytes(2000))
    tier = open_over(s3, bucket, tmp_path, engine)
    tier.promote("c")
    tier.promote("d")
    TierFileSystem.clear_instance_cache()
    close_engines()
    tier = open_over(s3, bucket, tmp_path, engine)
    s3.reset()
    tier.pipe_file("c", b"written")
    assert tier.flush() == 0
    assert methods(s3) == ["PUT"]
    s3.put(f"{bucket}/d", b"theirs")
    tier.pipe_file("d", b"ours")
    with pytest.raises(ConflictError):
        tier.flush()
    assert s3.get(f"{bucket}/d") == b"theirs"


def test_upload_of_a_file_tells_its_version(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what is too large to be sent from memory is."""
    monkeypatch.setattr(attempt_module, "THROUGH_MEMORY_BYTES", 1000)
    tier = open_over(s3, bucket, tmp_path)
    tier.pipe_file("c", bytes(2000))
    assert tier.flush() == 0
    s3.reset()
    tier.pipe_file("c", bytes(3000))
    assert tier.flush() == 0
    assert methods(s3) == ["PUT"]


@pytest.mark.parametrize("consistency", ["open", "ttl"])
def test_file_that_was_written_through_is_not_fetched_again(
    s3: S3Server, bucket: str, tmp_path: Path, consistency: str
) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"ours")
    options: dict[str, Any] = {"write": "through", "delay_s": None, "consistency": consistency}
    tier = open_over(s3, bucket, tmp_path, **options)
    tier.put_file(str(local), "k")
    s3.reset()
    assert tier.cat_file("k") == b"ours"
    assert methods(s3) == ["HEAD"]
    s3.put(f"{bucket}/k", b"theirs")
    again = open_over(s3, bucket, tmp_path, **{**options, "consistency": "open"})
    assert again.cat_file("k") == b"theirs"


def test_what_was_written_through_is_the_base_of_a_later_change(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    through = open_over(s3, bucket, tmp_path, write="through", delay_s=None)
    through.pipe_file("k", b"through")
    back = open_over(s3, bucket, tmp_path)
    s3.reset()
    back.pipe_file("k", b"back")
    assert back.flush() == 0
    assert methods(s3) == ["PUT"]
    through.pipe_file("k", b"through again")
    back.pipe_file("k", b"back again")
    assert back.flush() == 0
    through.pipe_file("k", b"the last")
    s3.put(f"{bucket}/k", b"theirs")
    back.pipe_file("k", b"ours")
    with pytest.raises(ConflictError):
        back.flush()
    assert s3.get(f"{bucket}/k") == b"theirs"


def test_version_of_a_promotion_outlives_the_process_and_a_new_catalogue(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    s3.put(f"{bucket}/k", b"read")
    tier = open_over(s3, bucket, tmp_path)
    assert tier.cat_file("k") == b"read"
    with tier._engine.catalog.transaction() as db:
        db.execute("UPDATE meta SET value='another' WHERE name='boot'")
    TierFileSystem.clear_instance_cache()
    close_engines()
    again = open_over(s3, bucket, tmp_path)
    s3.reset()
    again.pipe_file("k", b"written")
    assert again.flush() == 0
    assert methods(s3) == ["PUT"]


def test_tree_that_was_read_is_still_removed_in_bulk(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    """A condition would cost a request an object, and nobody else writes here."""
    keys = [f"t/{number}" for number in range(20)]
    for key in keys:
        s3.put(f"{bucket}/{key}", b"read")
    tier = open_over(s3, bucket, tmp_path)
    assert set(tier.cat(keys).values()) == {b"read"}
    s3.reset()
    tier.rm("t", recursive=True)
    assert tier.flush() == 0
    asked = methods(s3)
    assert (asked.count("POST"), asked.count("DELETE")) == (1, 0), asked
    assert not tier.exists("t")


@pytest.mark.parametrize("engine", ["obstore", "s3fs"])
@pytest.mark.parametrize("how", ["memory", "stream"])
@pytest.mark.parametrize("consistency", ["open", "ttl"])
def test_promotion_from_a_shared_store_need_not_ask_what_it_got(
    s3: S3Server,
    bucket: str,
    tmp_path: Path,
    engine: str,
    how: str,
    consistency: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mover_module, "_THROUGH_MEMORY_BYTES", 1000 if how == "stream" else 1 << 30)
    s3.put(f"{bucket}/k", bytes(2000))
    ttl = {"ttl_s": 3600} if consistency == "ttl" else {}
    tier = open_over(s3, bucket, tmp_path, engine, consistency=consistency, **ttl)
    tier.promote("k")
    asked = methods(s3)
    assert asked.count("GET") == 1
    assert asked[-1] == "GET", asked
    assert tier.cat_file("k") == bytes(2000)
    assert methods(s3) == (["HEAD"] if consistency == "open" else [])
    s3.put(f"{bucket}/k", b"theirs")
    assert tier.cat_file("k") == (b"theirs" if consistency == "open" else bytes(2000))


@pytest.mark.parametrize("engine", ["obstore", "s3fs"])
@pytest.mark.parametrize("consistency", ["open", "ttl"])
def test_first_read_of_a_shared_store_is_one_request(
    s3: S3Server, bucket: str, tmp_path: Path, engine: str, consistency: str
) -> None:
    s3.put(f"{bucket}/k", b"read")
    tier = open_over(s3, bucket, tmp_path, engine, consistency=consistency)
    s3.reset()
    assert tier.cat_file("k") == b"read"
    assert methods(s3) == ["GET"]
    s3.put(f"{bucket}/k", b"theirs")
    assert tier.cat_file("k") == (b"read" if consistency == "ttl" else b"theirs")
    assert methods(s3) == ([] if consistency == "ttl" else ["HEAD", "GET"])


@pytest.mark.parametrize("consistency", ["open", "ttl"])
def test_shared_store_names_the_version_that_was_read(
    s3: S3Server, bucket: str, tmp_path: Path, consistency: str
) -> None:
    """Read by a process that knows of no other writer, for one that does."""
    s3.put(f"{bucket}/k", b"read")
    assert open_over(s3, bucket, tmp_path).cat_file("k") == b"read"
    shared = open_over(s3, bucket, tmp_path, consistency=consistency)
    s3.reset()
    assert shared.cat_file("k") == b"read"
    assert methods(s3) == ["HEAD"]
    s3.put(f"{bucket}/k", b"theirs")
    again = open_over(s3, bucket, tmp_path, consistency="open")
    assert again.cat_file("k") == b"theirs"
