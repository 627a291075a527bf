"""status, stats, promote, evict, pin, unpin, by name."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from tier_tools import hot_files, open_tier

from vfs.core.engine import close_engines
from vfs.errors import ConflictError
from vfs.observe import Event, subscribe
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.mover import Mover


def test_status_follows_the_object(tier: TierFileSystem, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tier.status("a")
    tier.pipe_file("a", b"12345")
    found = tier.status("a")
    assert (found.state, found.hot, found.cold, found.size) == ("HOT", True, True, 5)
    assert tier.evict("a") == 5
    found = tier.status("a")
    assert (found.state, found.hot, found.cold) == ("COLD", False, True)
    assert tier.evict("a") == 0
    tier.promote("a")
    assert tier.status("a").state == "HOT"
    assert "HOT" in tier.status("a")._repr_html_()
    (tmp_path / "cold/a").unlink()
    assert (tier.status("a").hot, tier.status("a").cold) == (True, False)


def test_trees_are_promoted_and_evicted(tier: TierFileSystem, tmp_path: Path) -> None:
    for name in ("t/a", "t/d/b", "t2"):
        tier.pipe_file(name, name.encode())
    assert tier.evict("t", recursive=True) == len("t/a") + len("t/d/b")
    assert sorted(hot_files(tmp_path)) == ["t2"]
    tier.promote("t", recursive=True)
    assert sorted(hot_files(tmp_path)) == ["t/a", "t/d/b", "t2"]
    assert tier.evict("", recursive=True) == 10
    assert not any(path.name != ".vfs" for path in (tmp_path / "hot").iterdir())
    with pytest.raises(FileNotFoundError):
        tier.promote("nothing")
    with pytest.raises(FileNotFoundError):
        tier.evict("nothing")


def test_promote_ignores_rule_and_size(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, promote="never", promote_max_bytes=10, write="around")
    tier.pipe_file("a", b"x" * 1000)
    assert tier.cat_file("a", 0, 5) == b"xxxxx"
    assert hot_files(tmp_path) == {}
    tier.promote("a")
    assert hot_files(tmp_path) == {"a": b"x" * 1000}


def test_promotion_that_is_evicted_at_once_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = open_tier(tmp_path, write="around")
    tier.pipe_file("t/a", b"1")
    real, evicted = Mover.fetch_and_install, list[int]()

    async def fetch_and_install(self: Mover, key: str, *args: Any) -> Any:
        found = await real(self, key, *args)
        if not evicted:
            evicted.append(await tier._evict(key))
        return found

    monkeypatch.setattr(Mover, "fetch_and_install", fetch_and_install)
    tier.promote("t/a")
    assert (evicted, hot_files(tmp_path)) == ([1], {"t/a": b"1"})


def test_large_objects_are_streamed(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, write="around")
    data = bytes(range(256)) * (20 << 12)
    tier.pipe_file("big", data)
    tier.promote("big")
    assert hot_files(tmp_path) == {"big": data}
    assert tier.stats().cold_requests.get("get_file") == 1
    assert "cat_file" not in tier.stats().cold_requests


def test_second_read_promotes(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, promote="second", write="around")
    tier.pipe_file("a", b"1")
    tier.cat_file("a")
    assert hot_files(tmp_path) == {}
    tier.cat_file("a")
    assert hot_files(tmp_path) == {"a": b"1"}


def test_ranges_of_large_objects_stay_cold(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, promote_max_bytes=100, write="around")
    tier.pipe_file("a", b"0123456789" * 100)
    assert tier.cat_file("a", 10, 15) == b"01234"
    assert tier.cat_file("a", -5) == b"56789"
    with tier.open("a") as file:
        file.seek(500)
        assert file.read(5) == b"01234"
    assert hot_files(tmp_path) == {}


def test_ranges_of_a_large_object_cost_one_request_each(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, promote_max_bytes=100, write="around")
    tier.pipe_file("a", b"0123456789" * 100_000)
    with tier.open("a") as file:
        before = tier.stats().cold_requests
        for number in range(10):
            file.seek(number * 90_000)
            assert file.read(10_000) == b"0123456789" * 1000
    tier.cat_file("a", 5, 10)
    after = tier.stats().cold_requests
    assert after["cat_file"] - before.get("cat_file", 0) == 11
    assert after["info"] == before["info"]


def test_reader_of_a_large_object_notices_a_replacement(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, promote_max_bytes=100, write="around")
    tier.pipe_file("a", b"0123456789" * 100_000)
    with tier.open("a") as file:
        assert file.read(10_000) == b"0123456789" * 1000
        tier.pipe_file("a", b"9876543210" * 100_000)
        file.seek(500_000)
        with pytest.raises(ConflictError):
            file.read(10_000)


def test_pins_last(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    tier.pipe_file("a", b"1")
    tier.pin("a")
    assert tier.status("a").pinned
    with pytest.raises(OSError) as caught:
        tier.evict("a")
    assert caught.value.errno == errno.EPERM
    TierFileSystem.clear_instance_cache()
    close_engines()
    again = open_tier(tmp_path)
    assert again.status("a").pinned
    assert again.evict("", recursive=True) == 0
    again.unpin("a")
    assert again.evict("a") == 1


def test_stats_count_what_happened(tier: TierFileSystem) -> None:
    tier.pipe_file("a", b"1" * 10)
    tier.evict("a")
    tier.cat_file("a")
    tier.cat_file("a")
    stats = tier.stats()
    assert (stats.misses, stats.hits, stats.promotions, stats.evictions) == (1, 1, 2, 1)
    assert (stats.hot_bytes, stats.hot_objects) == (10, 1)
    assert stats.cold_requests["pipe_file"] == 1
    assert stats.cold_requests["cat_file"] == 1
    assert "hits" in tier._repr_html_()
    assert "hot" in str(tier)


def test_events_tell_what_happened(tier: TierFileSystem) -> None:
    seen: list[Event] = []
    with subscribe(seen.append):
        tier.pipe_file("a", b"1" * 10)
        tier.evict("a")
        tier.cat_file("a")
    assert [(event.kind, event.key) for event in seen if event.kind == "promoted"] == [
        ("promoted", "a"),
        ("promoted", "a"),
    ]


def test_failing_subscriber_disturbs_nothing(tier: TierFileSystem) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError(event.kind)

    with subscribe(broken):
        tier.pipe_file("a", b"1")
    assert tier.cat_file("a") == b"1"


def test_notebooks_show_a_bar_each_and_whether_it_is_safe(tmp_path: Path) -> None:
    top = tmp_path / "<b>&amp;"
    tier = open_tier(top, write="back", quiet_s=1e9)
    assert "not known" in tier._repr_html_(), "what another process left is not known yet"
    tier.pipe_file("zarr.json", b"12345")
    shown = tier._repr_html_()
    assert shown.count("<meter") == 2
    assert "safe to switch off? <b>no</b>" in shown
    assert "cold has 0 B" in shown
    tier.flush()
    shown = tier._repr_html_()
    assert "safe to switch off? <b>yes</b>" in shown
    assert "cold has 5 B" in shown
    assert "<b>&amp;" not in shown
    assert "&lt;b&gt;&amp;amp;" in shown
    tier.rm_file("zarr.json")
    assert "safe to switch off? <b>no</b>" in tier._repr_html_()
    (top / "hot").rename(top / "gone")  # at once: the uploader, woken by the removal, looks in it
    assert "not known" in tier._repr_html_()
