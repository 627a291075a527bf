"""plan, apply and demote over a real tier: what is listed is done, and nothing else."""

from __future__ import annotations

import os
import pickle
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tier_tools import BrokenCold, hot_files, open_broken, open_tier

from vfs.core.engine import close_engines
from vfs.errors import ConfigError, ConflictError
from vfs.policies.moves import DAY_S
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.plan import Move, Plan

OLD = [{"match": "raw/**", "demote": {"age_s": 60}}, {"match": "**", "promote": "second"}]
HOUR = 3600.0


def later() -> float:
    return time.time() + HOUR


def told(plan: Plan) -> set[tuple[str, str]]:
    return {(move.action, move.path) for move in plan.moves}


def quiet(top: Path, **options: Any) -> TierFileSystem:
    tier = open_tier(top, **options)
    tier._mover.uploader.rest()
    return tier


def test_a_plan_lists_and_does_nothing(tmp_path: Path) -> None:
    prices = {"put_request": 0.5, "write_gb": 1e9, "currency": "EUR"}
    rules = [*OLD, {"match": "x/**", "write": "back"}]
    tier = quiet(tmp_path, write="back", rules=rules, prices=prices)
    open_tier(tmp_path).pipe({"raw/a": b"12345", "raw/b": b"1", "keep": b"1"})
    tier.pipe_file("new", b"123")
    tier.pin("raw/b")
    assert told(tier.plan()) == {("upload", "new")}
    before = tier.stats()
    plan = tier.plan(later())
    assert told(plan) == {("upload", "new"), ("demote", "raw/a")}
    upload, demote = plan.moves
    assert (upload.size, upload.requests, upload.price) == (3, 1, 3.5)
    assert (demote.size, demote.requests, demote.price) == (5, 0, 0.0)
    assert demote.rule == "rules[0] raw/**"
    assert "not read for" in demote.reason
    assert (plan.requests, plan.price, plan.size("demote")) == (1, 3.5, 5)
    assert "raw/a" in plan.explain()
    assert "EUR" in str(plan)
    assert "<table>" in plan._repr_html_()
    assert replace(tier.stats(), lag_s=before.lag_s) == before
    assert set(hot_files(tmp_path)) == {"raw/a", "raw/b", "keep", "new"}
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_apply_does_exactly_the_moves(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, write="back", rules=OLD, quiet_s=1e9)
    tier.pipe({"raw/a": b"12345", "raw/d/b": b"1", "keep": b"1"})
    tier.flush()
    tier.pipe_file("g/zarr.json", b"{}")
    plan = tier.plan(later())
    assert told(plan) == {("upload", "g/zarr.json"), ("demote", "raw/a"), ("demote", "raw/d/b")}
    seen: list[tuple[int, int]] = []
    applied = tier.apply(plan, progress=lambda done, total: seen.append((done, total)))
    assert applied.done == plan.moves
    assert applied.skipped == ()
    assert sorted(seen) == [(1, 3), (2, 3), (3, 3)]
    assert set(hot_files(tmp_path)) == {"keep", "g/zarr.json"}
    assert (tmp_path / "cold/g/zarr.json").exists()
    assert tier.cat_file("raw/a") == b"12345"
    assert "3 moves made" in str(applied)


def test_what_changed_since_is_skipped(tmp_path: Path) -> None:
    tier = quiet(tmp_path, rules=[*OLD, {"match": "back/**", "write": "back"}])
    names = ["same", "written", "dirty", "pinned", "gone", "read"]
    tier.pipe({f"raw/{name}": name.encode() for name in names})
    plan = tier.plan(later())
    assert len(plan) == len(names)
    # As if it had been made just now, so that only what happens from here on is later.
    plan = Plan(time.time(), plan.moves)
    tier.pipe_file("raw/written", b"other")
    back = quiet(tmp_path, write="back")
    back.pipe_file("raw/dirty", b"other")
    tier.pin("raw/pinned")
    tier.evict("raw/gone")
    os.utime(tmp_path / "hot/raw/read", (time.time() + 1,) * 2)
    applied = tier.apply(plan)
    assert [move.path for move in applied.done] == ["raw/same"]
    why = {move.path.removeprefix("raw/"): reason for move, reason in applied.skipped}
    assert set(why) == set(names) - {"same"}
    assert "changed" in why["written"]
    assert "cold does not have it" in why["dirty"]
    assert "pinned" in why["pinned"]
    assert "no hot copy" in why["gone"]
    assert "read since" in why["read"]
    assert set(hot_files(tmp_path)) == {f"raw/{n}" for n in names if n not in {"same", "gone"}}
    assert back.cat_file("raw/dirty") == b"other"


def test_an_object_moved_within_a_day_is_left_alone(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, rules=OLD)
    tier.pipe_file("raw/a", b"1")
    plan = tier.plan(later())
    assert len(tier.apply(plan).done) == 1
    tier.cat_file("raw/a")
    assert set(hot_files(tmp_path)) == {"raw/a"}
    assert told(tier.plan(later())) == set()
    again = Plan(later(), tuple(_same(tier, move) for move in plan.moves))
    applied = tier.apply(again)
    assert [why for _, why in applied.skipped] == ["it was moved within the last day"]
    TierFileSystem.clear_instance_cache()
    close_engines()
    tier = open_tier(tmp_path, rules=OLD)
    assert told(tier.plan(later())) == set(), "another process knows it too"
    assert told(tier.plan(later() + DAY_S)) == {("demote", "raw/a")}


def _same(tier: TierFileSystem, move: Move) -> Move:
    """Return a move as a plan would make it for the object as it is now."""
    row = tier._engine.catalog.row(move.path)
    assert row is not None
    version = tier._version(move.path, row.inode)
    return Move(
        move.action, move.path, move.size, move.rule, move.reason, move.requests, 0.0, version
    )


def test_what_is_read_from_cold_again_is_promoted(tmp_path: Path) -> None:
    rules = [{"match": "never/**", "promote": "never"}]
    tier = open_tier(tmp_path, max_bytes=1000, write="around", rules=rules)
    tier.pipe({"a": bytes(100), "never/a": bytes(100), "once": bytes(100)})
    tier.pin("fill")
    other = open_tier(tmp_path)
    other.pipe_file("fill", bytes(950))
    for _ in range(30):  # there is no room for a copy
        tier.cat_file("a")
        tier.cat_file("never/a")
    tier.cat_file("once")
    assert set(hot_files(tmp_path)) == {"fill"}
    assert told(tier.plan()) == set(), "there is no room"
    tier.unpin("fill")
    tier.evict("fill")
    plan = tier.plan()
    assert told(plan) == {("promote", "a")}
    assert (plan.moves[0].size, plan.requests) == (100, 1)
    before = tier.stats().cold_requests
    assert len(tier.apply(plan).done) == 1
    assert tier.stats().cold_requests.get("cat_file", 0) - before["cat_file"] == plan.requests
    assert set(hot_files(tmp_path)) == {"a"}
    assert [why for _, why in tier.apply(plan).skipped] == ["it has a hot copy already"]
    tier.evict("a")
    assert told(tier.plan()) == set(), "it was promoted today"


def test_promotion_of_what_was_replaced_is_skipped(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, write="around")
    tier.pipe_file("a", bytes(100))
    for _ in range(41):
        tier._engine.cold_reads.count("a")
    tier._engine.cold_reads.note_size("a", 100)
    plan = tier.plan()
    assert told(plan) == {("promote", "a")}
    tier.pipe_file("a", bytes(1))
    assert [why for _, why in tier.apply(plan).skipped] == ["it changed since the plan was made"]
    assert hot_files(tmp_path) == {}


def test_heat_keeps_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfs.tier.hot._TOUCH_NS", -1)  # else reads of one second count as one
    tier = open_tier(tmp_path, rules=[{"match": "**", "demote": {"reads_below": 3}}])
    tier.pipe({"cool": b"1", "warm": b"1", "opened": b"1"})
    for _ in range(3):
        tier.cat_file("warm")
        with tier.open("opened") as file:
            file.read()
    tier.cat_file("cool")
    assert told(tier.plan()) == {("demote", "cool")}
    assert told(tier.plan(time.time() + 2 * DAY_S)) == {("demote", n) for n in tier.ls("", False)}
    tier.rm_file("warm")
    tier.pipe_file("warm", b"new")
    assert ("demote", "warm") in told(tier.plan()), "a new object has no reads yet"


@pytest.mark.parametrize("write", ["through", "back"])
def test_a_new_copy_begins_without_heat(
    tmp_path: Path, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of its file may be that of an older one, which was read."""
    tier = quiet(tmp_path, write=write)
    assert tier._engine.usable()
    forgotten: list[int] = []
    monkeypatch.setattr(tier._engine.heat, "forget", forgotten.append)
    tier.pipe_file("alone", b"1")
    tier.pipe({f"together/{number}": b"1" for number in range(20)})
    names = ["alone", *(f"together/{number}" for number in range(20))]
    assert {(tmp_path / "hot" / name).stat().st_ino for name in names} <= set(forgotten)


def test_uploads_that_fail_are_reported(tmp_path: Path) -> None:
    tier = open_broken(tmp_path, quiet_s=1e9)
    tier.pipe_file("g/zarr.json", b"{}")
    plan = tier.plan()
    assert told(plan) == {("upload", "g/zarr.json")}
    BrokenCold.arm(1000, 13)  # EACCES: for good
    ((move, why),) = tier.apply(plan).skipped
    assert move.path == "g/zarr.json"
    assert "could not be sent" in why
    BrokenCold.disarm()
    assert len(tier.apply(plan).done) == 1
    assert [why for _, why in tier.apply(plan).skipped] == ["cold has it already"]


def test_demote_sends_first(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, write="back", quiet_s=1e9)
    tier.pipe({"g/zarr.json": b"{}", "g/c/0": b"0", "h": b"1"})
    assert tier.demote("g", recursive=True) == 3
    assert tier.demote("h") == 1
    assert hot_files(tmp_path) == {}
    assert (tmp_path / "cold/g/zarr.json").read_bytes() == b"{}"
    tier.promote("g", recursive=True)
    assert tier.demote(["g/zarr.json", "g/c/0"]) == 3
    assert tier.demote("h") == 0
    with pytest.raises(FileNotFoundError):
        tier.demote("nothing")
    with pytest.raises(IsADirectoryError):
        tier.demote("g")


def test_demote_obeys_pins(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, pin=["d/keep"])
    tier.pipe({"d/keep": b"1", "d/a": b"22"})
    with pytest.raises(PermissionError):
        tier.demote("d/keep")
    assert tier.demote("d", recursive=True) == 2
    assert set(hot_files(tmp_path)) == {"d/keep"}


def test_demote_keeps_what_cold_has_lost(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    tier.pipe({"a": b"1", "b": b"1", "c": b"1"})
    tier.info("c")
    (tmp_path / "cold/a").unlink()
    (tmp_path / "cold/b").write_bytes(b"foreign")
    (tmp_path / "cold/c").unlink()
    (tmp_path / "cold/c").write_bytes(b"2")
    for name in ("a", "b", "c"):
        with pytest.raises(ConflictError):
            tier.demote(name)
    assert set(hot_files(tmp_path)) == {"a", "b", "c"}


def test_demote_keeps_what_cannot_be_sent(tmp_path: Path) -> None:
    tier = open_broken(tmp_path)
    BrokenCold.arm(1000, 13)
    tier.pipe_file("a", b"1")
    with pytest.raises(OSError):
        tier.demote("a")
    assert set(hot_files(tmp_path)) == {"a"}


@pytest.mark.parametrize(
    "prices, where",
    [
        ({"put": 1}, "prices: unknown key 'put'"),
        ({"read_gb": "dear"}, "prices.read_gb"),
        ({"read_gb": -1}, "prices.read_gb"),
        ({"currency": 3}, "prices.currency"),
        (3, "prices:"),
    ],
)
def test_wrong_prices_say_where(tmp_path: Path, prices: Any, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_tier(tmp_path, prices=prices)
    assert str(caught.value).startswith(where), caught.value


def test_nothing_to_move(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    plan = tier.plan()
    assert (len(plan), str(plan)) == (0, "nothing to move")
    assert tier.apply(plan).done == ()
