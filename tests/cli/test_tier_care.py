"""``vfs tier promote | demote | evict | pin | plan | apply | fsck | run`` as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner, Result
from tier_tools import forget, wait_until

from vfs.cli.main import cli
from vfs.core.loop import wait
from vfs.tier.daemon import TierDaemon, send_as_users_do

RULES = 'rules = [{match = "raw/**", demote = {age_s = 60}}]\nprices = {put_request = 0.5}\n'


def hot_names(top: Path) -> set[str]:
    """Return the keys of hot copies without reading them, which would make them look used."""
    hot = top / "hot"
    files = (path for path in hot.rglob("*") if path.is_file() and ".vfs" not in path.parts)
    return {path.relative_to(hot).as_posix() for path in files}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    forget()


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """Leave a tier with clean copies and one change that cold lacks."""
    hot, url = str(tmp_path / "hot"), f"disk://{tmp_path}/cold"
    fs: Any = fsspec.filesystem("tier", hot=hot, cold=url, write="back", quiet_s=1e9)
    fs.pipe({"raw/a": b"12345", "raw/b": b"1", "keep": b"1"})
    fs.flush()
    fs.pipe_file("g/zarr.json", b"{}")
    forget()
    for name in ("raw/a", "raw/b", "keep"):
        os.utime(tmp_path / "hot" / name, (time.time() - 3600,) * 2)
    (tmp_path / "rules.toml").write_text(RULES)
    return {"hot": hot, "url": url, "rules": str(tmp_path / "rules.toml")}


def run(verb: str, place: dict[str, str], *more: str) -> Result:
    forget()
    return CliRunner().invoke(
        cli, ["tier", verb, place["url"], "--hot", place["hot"], "--root", *more]
    )


def report(done: Result, code: int = 0) -> dict[str, Any]:
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.output)
    assert found.pop("schema") == 1
    return found


def test_promote_evict_and_demote(place: dict[str, str], tmp_path: Path) -> None:
    freed = report(run("evict", place, "--path", "raw", "-r", "--json"))
    assert freed == {"path": "raw", "bytes": 6}
    assert "is hot" in run("promote", place, "--path", "raw", "--recursive").output
    assert hot_names(tmp_path) == {"raw/a", "raw/b", "keep", "g/zarr.json"}
    assert run("evict", place, "--path", "g/zarr.json").exit_code == 5, "busy: not in cold yet"
    assert "2 B freed" in run("demote", place, "--path", "g/zarr.json").output
    assert (tmp_path / "cold/g/zarr.json").read_bytes() == b"{}"
    assert run("promote", place, "--path", "nothing").exit_code == 3
    url = f"{place['url']}/raw/a"
    done = CliRunner().invoke(cli, ["tier", "demote", url, "--hot", place["hot"]])
    assert done.exit_code == 2, "another way to open the store is another tier"


def test_the_chained_form_names_the_object(tmp_path: Path) -> None:
    hot, url = str(tmp_path / "hot"), f"disk://{tmp_path}/cold"
    fs, path = fsspec.url_to_fs(f"tier::{url}/d/a", tier={"hot": hot})
    fs.pipe_file(path, b"1")
    forget()
    for verb in ("pin", "unpin", "demote", "promote", "evict"):
        done = CliRunner().invoke(cli, ["tier", verb, f"tier::{url}/d/a", "--hot", hot, "--json"])
        assert report(done)["path"] == path
        forget()
    assert not (tmp_path / "hot" / path.strip("/")).exists()


def test_pins_hold(place: dict[str, str]) -> None:
    assert report(run("pin", place, "--path", "raw/**", "--json"))["pinned"]
    assert run("evict", place, "--path", "raw/a").exit_code == 1
    plan = report(run("plan", place, "--rules", place["rules"], "--json"))
    assert [move["action"] for move in plan["moves"]] == ["upload"]
    assert "unpinned" in run("unpin", place, "--path", "raw/**").output
    assert run("evict", place, "--path", "raw/a").exit_code == 0


def test_plan_explains_and_does_nothing(place: dict[str, str], tmp_path: Path) -> None:
    before = hot_names(tmp_path)
    done = run("plan", place, "--rules", place["rules"], "--explain")
    assert done.exit_code == 0, done.output
    assert "demote raw/a  5 B, rules[0] raw/**: not read for" in done.output
    assert "upload g/zarr.json" in done.output
    assert "0.5 USD" in run("plan", place, "--rules", place["rules"]).output
    assert hot_names(tmp_path) == before
    assert not (tmp_path / "cold/g").exists()
    assert "1 requests" in run("plan", place).output


def test_apply_makes_the_moves_that_were_looked_at(place: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(
        run("plan", place, "--rules", place["rules"], "--json").output
    )
    (tmp_path / "rules.json").write_text('{"rules": [{"match": "**", "demote": {"age_s": 0}}]}')
    os.utime(tmp_path / "hot/raw/b", (time.time() + 60,) * 2)
    found = report(run("apply", place, "--plan", str(tmp_path / "plan.json"), "--json"), 1)
    assert {(m["action"], m["path"]) for m in found["done"]} == {
        ("upload", "g/zarr.json"),
        ("demote", "raw/a"),
    }
    assert [(m["path"], m["why"]) for m in found["skipped"]] == [
        ("raw/b", "it was read since the plan was made")
    ]
    assert hot_names(tmp_path) == {"raw/b", "keep", "g/zarr.json"}
    assert (tmp_path / "cold/g/zarr.json").exists()
    done = run("apply", place, "--rules", str(tmp_path / "rules.json"))
    assert done.exit_code == 0, done.output
    assert "keep" not in hot_names(tmp_path)


@pytest.mark.parametrize(
    "name, text",
    [
        ("rules.toml", "rules = ["),
        ("rules.json", "[]"),
        ("rules.toml", 'write = "back"'),
        ("rules.toml", 'rules = [{match = "a", demote = {age = 1}}]'),
        ("plan.json", "{}"),
    ],
)
def test_wrong_files_are_usage_errors(
    place: dict[str, str], tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    option = "--plan" if name.startswith("plan") else "--rules"
    done = run("apply", place, option, str(tmp_path / name))
    assert done.exit_code == 2, done.output


def test_fsck_finds_and_mends(place: dict[str, str], tmp_path: Path) -> None:
    assert report(run("fsck", place, "--json"))["ok"]
    (tmp_path / "hot/raw/a").write_bytes(b"54321")
    found = report(run("fsck", place, "--json"), 1)
    assert [(p["kind"], p["path"]) for p in found["problems"]] == [("corrupt", "raw/a")]
    assert "repaired" in run("fsck", place, "--repair").output
    (tmp_path / "cold/keep").unlink()
    assert run("fsck", place).exit_code == 1
    assert run("fsck", place, "--no-cold").exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_works_until_it_is_stopped(
    place: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "hot/keep").write_bytes(b"2")  # rotten: same inode, same size
    command = [sys.executable, "-m", "vfs", "tier", "run", place["url"], "--hot", place["hot"]]
    command += ["--root", "--json", "--rules", place["rules"], "--quiet-s", "1e9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: not {"raw/a", "raw/b", "keep"} & hot_names(tmp_path), 60)
            assert not (tmp_path / "cold/g").exists(), "its node is not quiet"
            other: Any = fsspec.filesystem(
                "tier", hot=place["hot"], cold=place["url"], write="back"
            )
            other._mover.uploader.rest()
            other.pipe_file("new", b"sent by the daemon")
            wait_until((tmp_path / "cold/new").exists, 60)
            process.send_signal(number)
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, output
    events = [json.loads(line) for line in output.splitlines()]
    assert events[0]["event"] == "started"
    assert events[-1] == {"event": "stopped", "detail": "the cold store has everything"}
    assert {event["event"] for event in events} >= {"plan", "damaged", "scrub"}
    assert (tmp_path / "cold/g/zarr.json").read_bytes() == b"{}", "flushed at the end"


def test_run_ends_well_though_cold_refuses(place: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cold/g").write_bytes(b"in the way")
    command = [sys.executable, "-m", "vfs", "tier", "run", place["url"], "--hot", place["hot"]]
    command += ["--root", "--plan-every", "0", "--scrub-every", "0", "--stop-timeout", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("started")
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert "1 changes are unsent" in output
    assert hot_names(tmp_path) >= {"g/zarr.json"}


def test_run_holds_metadata_until_its_node_is_quiet(place: dict[str, str], tmp_path: Path) -> None:
    fs: Any = fsspec.filesystem("tier", hot=place["hot"], cold=place["url"])
    fs._mover.uploader.rest()
    send_as_users_do(fs, 17.0, 1.5)
    assert (fs._engine.back.quiet_s, fs._engine.back.delay_s) == (17.0, 1.5)
    forget()
    fs = fsspec.filesystem("tier", hot=place["hot"], cold=place["url"])
    fs._mover.uploader.rest()
    daemon = TierDaemon(
        fs,
        plan_every_s=1,
        scrub_every_s=1,
        scrub_bytes_per_s=1,
        quiet_s=18.0,
        delay_s=2.5,
        tell=print,
    )
    wait(daemon._upload)
    assert (fs._engine.back.quiet_s, fs._engine.back.delay_s) == (18.0, 2.5)


def test_run_needs_a_tier(tmp_path: Path) -> None:
    place = {"hot": str(tmp_path / "hot"), "url": f"disk://{tmp_path}/cold"}
    for verb in ("run", "fsck", "plan", "apply", "pin"):
        assert run(verb, place).exit_code == 3
    assert not (tmp_path / "hot").exists()
