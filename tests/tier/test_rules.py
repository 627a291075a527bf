"""Rules at work: where writes go, what reads leave, what stays, all by glob."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from tier_tools import hot_files, open_tier

from vfs.errors import ConfigError
from vfs.tier.filesystem import TierFileSystem


def cold_files(top: Path) -> dict[str, bytes]:
    cold = top / "cold"
    return {p.relative_to(cold).as_posix(): p.read_bytes() for p in cold.rglob("*") if p.is_file()}


MODES = [
    {"match": "back/**", "write": "back"},
    {"match": "around/**", "write": "around"},
    {"match": "through/**", "write": "through"},
]


def quiet(top: Path, **options: object) -> TierFileSystem:
    """Open a tier that sends nothing by itself."""
    tier = open_tier(top, **options)
    tier._mover.uploader.rest()
    return tier


@pytest.mark.parametrize("default", ["through", "around", "back"])
def test_writes_go_where_their_rule_says(tmp_path: Path, default: str) -> None:
    tier = quiet(tmp_path, write=default, rules=MODES)
    names = ("back/a", "around/a", "through/a", "other/a")
    tier.pipe({name: name.encode() for name in names})
    hot = {"back/a", "through/a"} | ({"other/a"} if default != "around" else set())
    cold = {"around/a", "through/a"} | ({"other/a"} if default != "back" else set())
    assert set(hot_files(tmp_path)) == hot
    assert set(cold_files(tmp_path)) == cold
    assert {change.path for change in tier.pending()} == set(names) - cold
    assert tier.cat(list(names)) == {name: name.encode() for name in names}


def test_copies_and_moves_between_modes(tmp_path: Path) -> None:
    tier = quiet(tmp_path, rules=MODES)
    for source in ("back", "around", "through"):
        for target in ("back", "around", "through"):
            tier.pipe_file(f"{source}/old", b"old")
            data = f"{source} {target}".encode()
            tier.pipe_file(f"{source}/a", data)
            tier.cp_file(f"{source}/a", f"{target}/copy")
            assert tier.cat_file(f"{target}/copy") == data
            assert ("cold" if target != "back" else "hot") in _where(tmp_path, f"{target}/copy")
            tier.mv(f"{source}/a", f"{target}/moved")
            assert tier.cat_file(f"{target}/moved") == data
            assert not tier.exists(f"{source}/a")
            tier.rm(f"{target}/copy")
            assert not tier.exists(f"{target}/copy")
    assert not (tmp_path / "cold/around/copy").exists()


def _where(top: Path, name: str) -> str:
    return " ".join(tier for tier in ("hot", "cold") if (top / tier / name).exists())


def test_copy_of_what_waits_is_not_taken_from_cold(tmp_path: Path) -> None:
    tier = quiet(tmp_path, rules=MODES)
    other = quiet(tmp_path)
    other.pipe_file("back/a", b"older")
    tier.pipe_file("back/a", b"newer")
    assert (tmp_path / "cold/back/a").read_bytes() == b"older"
    tier.cp_file("back/a", "through/a")
    other.cp_file("back/a", "b")
    assert cold_files(tmp_path)["through/a"] == b"newer"
    assert cold_files(tmp_path)["b"] == b"newer"


def test_removal_waits_for_metadata_that_waits(tmp_path: Path) -> None:
    rules = [{"match": "**/zarr.json", "write": "back"}]
    tier = quiet(tmp_path, rules=rules)
    other = quiet(tmp_path)
    other.pipe({"g/zarr.json": b"{}", "g/c/0": b"0", "h/c/0": b"1"})
    tier.rm("g", recursive=True)
    assert not tier.exists("g/c/0")
    assert set(cold_files(tmp_path)) == {"g/zarr.json", "g/c/0", "h/c/0"}
    tier.rm_file("h/c/0")
    assert set(cold_files(tmp_path)) == {"g/zarr.json", "g/c/0"}


def test_removal_alone_waits_for_metadata_too(tmp_path: Path) -> None:
    tier = quiet(tmp_path, rules=[{"match": "**/zarr.json", "write": "back"}])
    open_tier(tmp_path).pipe({"g/zarr.json": b"{}", "g/c/0": b"0"})
    tier.rm_file("g/zarr.json")
    tier.rm_file("g/c/0")
    assert set(cold_files(tmp_path)) == {"g/zarr.json", "g/c/0"}
    with pytest.raises(FileNotFoundError):
        tier.rm_file("g/c/0")


def test_reads_promote_as_their_rule_says(tmp_path: Path) -> None:
    rules = [
        {"match": "never/**", "promote": "never"},
        {"match": "second/**", "promote": "second"},
        {"match": "small/**", "promote_max_bytes": 3},
    ]
    open_tier(tmp_path, write="around").pipe(
        {f"{name}/a": b"1234" for name in ("never", "second", "small", "other")}
    )
    tier = open_tier(tmp_path, rules=rules)
    for name in ("never", "second", "small", "other"):
        tier.cat_file(f"{name}/a")
    assert set(hot_files(tmp_path)) == {"other/a"}
    for name in ("never", "second", "small"):
        tier.cat_file(f"{name}/a")
        with tier.open(f"{name}/a") as file:
            assert file.read() == b"1234"
        tier.get_file(f"{name}/a", str(tmp_path / "got"))
    assert set(hot_files(tmp_path)) == {"other/a", "second/a"}


def test_pins_of_rules_hold_against_pressure_and_evict(tmp_path: Path) -> None:
    rules = [{"match": "keep/**", "pin": True}, {"match": "**/x", "pin": False}]
    tier = open_tier(tmp_path, max_bytes=100, rules=rules, pin=["**/x"])
    tier.pipe_file("keep/x", bytes(40))
    tier.pipe_file("a/x", bytes(40))
    for number in range(5):
        tier.pipe_file(f"b{number}", bytes(30))
    assert "keep/x" in hot_files(tmp_path)
    assert "a/x" not in hot_files(tmp_path)
    assert tier.status("keep/x").pinned
    with pytest.raises(PermissionError):
        tier.evict("keep/x")
    tier.evict("", recursive=True)
    assert set(hot_files(tmp_path)) == {"keep/x"}


def test_wrong_rules_are_refused_before_any_io(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_tier(tmp_path, rules=[{"match": "**", "demote": {"age": 3}}])
    assert str(caught.value).startswith("rules[0].demote")
    assert not (tmp_path / "hot").exists()
    with pytest.raises(ConfigError):
        open_tier(tmp_path, durability="process", rules=[{"match": "**", "write": "around"}])
    open_tier(tmp_path, durability="process", rules=[{"match": "**", "write": "back"}])


def test_rules_travel(tmp_path: Path) -> None:
    tier = quiet(tmp_path, rules=MODES)
    again = pickle.loads(pickle.dumps(tier))
    assert again._options.rules == tier._options.rules
    again.pipe_file("around/a", b"1")
    assert hot_files(tmp_path) == {}
