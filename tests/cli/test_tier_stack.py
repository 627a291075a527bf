"""``vfs tier`` where there are several directories."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner, Result
from tier_tools import forget

from vfs.cli.main import cli
from vfs.testing.servers import S3Server


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    forget()


@pytest.fixture
def tiers(tmp_path: Path) -> list[str]:
    """Leave one object that cold has, and one that it lacks."""
    places = [str(tmp_path / "top"), str(tmp_path / "hot"), f"disk://{tmp_path}/cold"]
    fs: Any = fsspec.filesystem("tier", tiers=places, write="back", quiet_s=1e9)
    fs.pipe_file("a", b"12345")
    fs.flush()
    fs.pipe_file("g/zarr.json", b"{}")
    return places


def run(verb: str, tiers: list[str], *more: str) -> Result:
    forget()
    named = [word for directory in tiers[:-1] for word in ("--tier", directory)]
    return CliRunner().invoke(cli, ["tier", verb, tiers[-1], *named, *more])


def report(done: Result, code: int = 0) -> dict[str, Any]:
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_status(tiers: list[str]) -> None:
    told = report(run("status", tiers, "--json"))
    assert told["safe"] is False
    assert [below["directory"] for below in told["below"]] == [tiers[1]]
    told = report(run("status", tiers, "--path", "a", "--json"))
    assert (told["state"], told["copies"]) == ("HOT", tiers)
    assert f"below, {tiers[1]}" in run("status", tiers).output


def test_what_waits_in_the_last_directory_is_told_and_sent(tiers: list[str]) -> None:
    assert [p["path"] for p in report(run("pending", tiers, "--json"))["pending"]] == [
        "g/zarr.json"
    ]
    assert report(run("pending", tiers, "--path", "a", "--json"))["pending"] == []
    assert report(run("flush", tiers, "--json"))["durable"] is True
    assert report(run("pending", tiers, "--json"))["pending"] == []


def test_copies_leave_one_directory_or_all(tiers: list[str]) -> None:
    assert report(run("evict", tiers, "--path", "a", "--from", tiers[0], "--json"))["bytes"] == 5
    assert report(run("status", tiers, "--path", "a", "--json"))["state"] == "WARM"
    assert report(run("promote", tiers, "--path", "a", "--json"))["hot"]
    assert report(run("demote", tiers, "--path", "a", "--json"))["bytes"] == 10
    assert run("pin", tiers, "--path", "a").exit_code == 0
    assert run("evict", tiers, "--path", "a", "--from", "/no/tier").exit_code == 2


def test_plan_apply_and_fsck(tiers: list[str]) -> None:
    moves = report(run("plan", tiers, "--json"))["moves"]
    assert [(m["action"], m["path"], m["tier"]) for m in moves] == [
        ("upload", "g/zarr.json", tiers[1])
    ]
    assert len(report(run("apply", tiers, "--json"))["done"]) == 1
    found = report(run("fsck", tiers, "--json"))
    assert (found["ok"], found["objects"]) == (True, 4)


def test_directories_are_named_once(tiers: list[str], tmp_path: Path) -> None:
    assert run("status", tiers, "--hot", tiers[0]).exit_code == 2
    assert CliRunner().invoke(cli, ["tier", "status", tiers[-1]]).exit_code == 2
    assert run("status", [tiers[1], tiers[-1]]).exit_code == 2, "the one above is missing"
    missing = [tiers[0], str(tmp_path / "missing"), tiers[-1]]
    assert run("status", missing).exit_code == 3
    assert not (tmp_path / "missing").exists()


def test_restore(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket(f"cli-{uuid.uuid4().hex}")
    options: dict[str, Any] = s3.storage_options
    cold: Any = fsspec.filesystem("s3", **options)
    for name in ("a", "b"):
        cold.pipe_file(f"{bucket}/d/{name}", b"1", StorageClass="GLACIER")
    cold.pipe_file(f"{bucket}/d/c", b"1")
    hot = str(tmp_path / "hot")
    fsspec.filesystem("tier", hot=hot, cold=f"s3://{bucket}/d", s3=options).ls("")
    named = [
        "--hot",
        hot,
        "--root",
        "--option",
        f"client_kwargs={json.dumps(options['client_kwargs'])}",
    ]
    named += ["--option", "key=testing", "--option", "secret=testing"]

    def do(verb: str, *more: str) -> Result:
        forget()
        return CliRunner().invoke(cli, ["tier", verb, f"s3://{bucket}/d", *named, *more])

    assert report(do("status", "--path", "a", "--json"))["archive"] == "archived"
    done = do("promote", "--path", "a")
    assert done.exit_code == 1
    assert "fs.restore" in done.output
    told = report(do("restore", "--path", "a", "--days", "2", "--wait", "--json"))["objects"]
    assert told["a"].startswith("restored until")
    done = do("restore", "--recursive", "--wait", "--timeout", "60")
    assert done.exit_code == 0, done.output
    assert done.output.count("restored until") == 2
    assert "c  not archived" in done.output
    assert do("promote", "--recursive").exit_code == 0
    assert do("restore", "--path", "a", "--days", "0").exit_code == 2
    assert do("restore", "--path", "missing").exit_code == 3
