"""``vfs tier`` as a user meets it: what it prints, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner, Result
from tier_tools import forget

from vfs.cli.main import cli


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    forget()


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """Leave a tier with one change that cold lacks, and no process that sends it."""
    hot, url = str(tmp_path / "hot"), f"disk://{tmp_path}/cold"
    fs: Any = fsspec.filesystem("tier", hot=hot, cold=url, write="back", quiet_s=1e9)
    fs.pipe_file("g/zarr.json", b"{}")
    forget()
    return {"hot": hot, "url": url}


def run(verb: str, place: dict[str, str], *more: str) -> Result:
    return CliRunner().invoke(
        cli, ["tier", verb, place["url"], "--hot", place["hot"], "--root", *more]
    )


def test_status_and_pending_tell_and_send_nothing(place: dict[str, str], tmp_path: Path) -> None:
    done = run("status", place, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert (report["schema"], report["safe"], report["dirty_objects"]) == (1, False, 1)
    done = run("pending", place, "--json")
    found = json.loads(done.output)["pending"]
    assert [(c["path"], c["change"], c["size"]) for c in found] == [("g/zarr.json", "put", 2)]
    assert "g/zarr.json" in run("pending", place).output
    assert "no" in run("status", place).output
    assert not (tmp_path / "cold/g").exists()


def test_flush_sends_and_says_so(place: dict[str, str], tmp_path: Path) -> None:
    done = run("flush", place)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "cold/g/zarr.json").read_bytes() == b"{}"
    assert "nothing is pending" in run("pending", place).output
    assert json.loads(run("status", place, "--json").output)["safe"]


def test_flush_exits_6_while_not_durable(place: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cold").mkdir(exist_ok=True)
    (tmp_path / "cold/g").write_bytes(b"an object where a directory is needed")
    done = run("flush", place, "--no-wait", "--json")
    assert done.exit_code == 6, done.output
    assert json.loads(done.output) == {"schema": 1, "durable": False, "pending": 1}
    done = run("flush", place)
    assert done.exit_code == 1, "it is refused for good"
    (tmp_path / "cold/g").unlink()
    assert run("flush", place).exit_code == 0


def test_chained_form_and_absent_tier(tmp_path: Path) -> None:
    hot = str(tmp_path / "hot")
    runner = CliRunner()
    arguments = ["tier", "status", f"disk://{tmp_path}/cold/k", "--hot", hot]
    assert runner.invoke(cli, arguments).exit_code == 3
    assert not (tmp_path / "hot").exists(), "a question makes nothing"
    options = {"tier": {"hot": hot, "write": "back"}}
    fs, path = fsspec.url_to_fs(f"tier::disk://{tmp_path}/cold/k", **options)
    fs.pipe_file(path, b"1")
    fs.flush()
    forget()
    done = runner.invoke(cli, [*arguments, "--object", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["state"] == "HOT"
    assert runner.invoke(cli, ["tier", "flush", "nosuch://x", "--hot", hot]).exit_code == 2
