import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vfs.cli.demo import _show
from vfs.cli.demo_compare import compare_datasets, compare_tables
from vfs.cli.demo_data import climate_table, need, open_sample, sample_files
from vfs.cli.demo_steps import PLAN
from vfs.errors import ConfigError

for package in ("dask", "iris_sample_data", "pandas", "pyarrow", "xarray", "zarr"):
    pytest.importorskip(package, reason="the demonstration needs the extra 'demo'")

STEPS = [name for name, _, _ in PLAN]

# A filesystem that stores one byte of each chunk of the temperature wrong, and never says so.
FLIP = """
from fsspec.implementations.local import LocalFileSystem

class FlipFileSystem(LocalFileSystem):
    protocol = "flip"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("flip://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if "air_temperature/c/" in path:
            middle = len(value) // 2
            value = value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]
        super().pipe_file(path, value, mode=mode, **kwargs)
"""


def vfs(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vfs", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )


@dataclass(frozen=True)
class Kept:
    """What one run left and told, started with a terminal for its standard error only."""

    top: Path
    report: dict[str, Any]
    bar: str


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    top = tmp_path_factory.mktemp("demo") / "kept"
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "vfs", "demo", "--files", "2", "--json", "--keep", str(top)],
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(follower)
        told = b""
        with contextlib.suppress(OSError):  # the last one has closed the terminal
            while part := os.read(leader, 1 << 16):
                told += part
        assert process.stdout is not None
        printed = process.stdout.read()
        assert process.wait(60) == 0, printed
    os.close(leader)
    return Kept(top, json.loads(printed), told.decode())


def shape(value: Any) -> Any:
    """Reduce JSON to names and types; of a list, to those of its elements."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        shapes = [shape(inner) for inner in value]
        return shapes[:1] if all(one == shapes[0] for one in shapes) else shapes
    return type(value).__name__


def test_json_has_its_shape(kept: Kept) -> None:
    report = dict(kept.report)
    versions = report.pop("versions")
    assert {"python", "fsspec", "xarray", "zarr"} <= versions.keys()
    assert shape(report) == {
        "schema": "int",
        "ok": "bool",
        "hot": "str",
        "cold": "str",
        "kept": "bool",
        "requests_counted_by": "str",
        "source": [
            {"name": "str", "file_bytes": "int", "array_bytes": "int", "arrays": "int"},
        ],
        "steps": [
            {
                "step": "str",
                "seconds": "float",
                "bytes": "int",
                "requests": "int",
                "objects": {"HOT": "int", "COLD": "int"},
                "differences": [],
            }
        ],
        "differences": [],
        "seconds": "float",
    }
    assert report["schema"] == 1
    assert report["ok"]
    assert report["kept"]
    assert report["requests_counted_by"] == "tier"


def test_cold_steps_reach_cold_and_hot_steps_do_not(kept: Kept) -> None:
    report = kept.report
    assert [step["step"] for step in report["steps"]] == STEPS
    for step in report["steps"]:
        if step["step"].endswith("cold") or step["step"].startswith("write"):
            assert step["requests"] > 0
            assert step["objects"]["HOT"] > 0
        else:
            assert step["requests"] == 0
        if step["step"] == "evict":
            assert step["objects"]["HOT"] == 0
        else:
            assert step["bytes"] > 0


def test_what_is_kept_reads_without_vfs(kept: Kept) -> None:
    import pandas as pd
    import xarray as xr

    samples = [open_sample(path) for path in sample_files(2)]
    for sample in samples:
        path = kept.top / "cold" / sample.key
        with xr.open_zarr(path, chunks=None, zarr_format=3) as found:
            assert compare_datasets(sample.dataset, found) == []
    found = pd.read_parquet(kept.top / "cold" / "climate.parquet")
    assert compare_tables(climate_table(samples), found) == []


def test_hot_holds_the_same_objects(kept: Kept) -> None:
    top = kept.top
    hot = {
        path.relative_to(top / "hot"): path.read_bytes()
        for path in (top / "hot").rglob("*")
        if path.is_file() and ".vfs" not in path.parts
    }
    assert len(hot) == kept.report["steps"][-1]["objects"]["HOT"] > 0
    for name, data in hot.items():
        assert (top / "cold" / name).read_bytes() == data


def test_a_bar_is_shown_on_a_terminal_and_taken_away(kept: Kept) -> None:
    assert all(step in kept.bar for step in STEPS)
    assert kept.bar.rstrip().endswith("\x1b[2K")


def test_a_table_is_shown(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    _show(kept.report)
    table = capsys.readouterr().out
    rows = [row for row in map(str.rstrip, table.splitlines()) if row.endswith("  same")]
    assert [next(name for name in STEPS if row.startswith(name)) for row in rows] == STEPS
    assert "Every value and every byte is the same" in table
    assert "Left where it is." in table
    assert f"\nhot {kept.top}/hot\n" in table
    assert "\x1b" not in table


def test_differences_are_shown(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"a[{number}]: missing" for number in range(30)]
    last = {**kept.report["steps"][-1], "differences": lines}
    steps = [*kept.report["steps"][:-1], last]
    _show({**kept.report, "ok": False, "kept": False, "steps": steps, "differences": lines})
    table = capsys.readouterr().out
    assert "30 differ" in table
    assert "DIFFERS a[19]: missing\n... and 10 more, all in --json\n" in table
    assert "Every value" not in table
    assert "were removed again" in table


def test_a_cold_store_that_damages_bytes_is_found_out(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "flip-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "flip_filesystem.py").write_text(FLIP)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flip\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fsspec.specs]\nflip = flip_filesystem:FlipFileSystem\n"
    )
    search = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    arguments = ("demo", "--files", "1", "--json", "--cold", f"flip://{tmp_path}/cold")
    run = vfs(*arguments, env={"PYTHONPATH": search, "TMPDIR": str(tmp_path)})
    assert run.returncode == 1, run.stderr
    report = json.loads(run.stdout)
    assert not report["ok"]
    damaged = [line for line in report["differences"] if "compare objects, hot" in line]
    assert len(damaged) == 27
    assert all("/air_temperature/c/" in line and "differs from byte" in line for line in damaged)
    assert report["steps"][0]["differences"] == []
    assert any(line.startswith("read a window, cold") for line in report["differences"])
    assert {path.name for path in tmp_path.iterdir()} <= {"site", "cold"}
    assert not list((tmp_path / "cold").iterdir())


@pytest.mark.parametrize(
    "number,code",
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_interrupted_it_leaves_nothing(number: signal.Signals, code: int, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "vfs", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("vfs-demo-*/hot/*.zarr")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    assert err.strip() == ("Interrupted." if number == signal.SIGINT else "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments,code,part",
    [
        (("--cold", "nosuch://x"), 2, "nosuch://x"),
        (("--cold", "s3:/bucket"), 2, "s3://bucket?"),
        (("--cold", "s3://b", "--cold-option", "hush"), 2, "number 1"),
        (("--cold", "http://127.0.0.1:1/x"), 5, "127.0.0.1"),
        (("--keep", "."), 2, "is not an empty directory"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    arguments: tuple[str, ...], code: int, part: str, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("stays")
    run = vfs("demo", *arguments, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("Error: ")
    assert part in run.stderr
    assert "hush" not in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_s3_brings_its_own_cold_store() -> None:
    assert vfs("demo", "--s3", "--cold", "mem://x").returncode == 2


@pytest.mark.parametrize("package,argument", [("xarray", ""), ("dask", ""), ("moto", "--s3")])
def test_a_missing_extra_is_named(package: str, argument: str) -> None:
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from vfs.cli.main import main; main({['demo', *filter(None, [argument])]})"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert package in run.stderr
    assert 'install "fsspec-vfs[demo]"' in run.stderr


def test_only_what_is_missing_is_named() -> None:
    need(["json", "xarray"])
    with pytest.raises(ConfigError) as refused:
        need(["json", "nosuchpackage", "nosuch.inner"])
    assert "(nosuchpackage, nosuch.inner)" in str(refused.value)


@pytest.mark.server
def test_s3_counts_at_the_server(tmp_path: Path) -> None:
    run = vfs("demo", "--s3", "--files", "2", "--json", env={"TMPDIR": str(tmp_path)})
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    report = json.loads(run.stdout)
    assert report["ok"]
    assert report["requests_counted_by"] == "server"
    assert report["cold"].startswith("s3://")
    requests = {step["step"]: step["requests"] for step in report["steps"]}
    assert requests["read everything, hot"] == 0
    assert requests["compare objects, cold"] >= report["steps"][2]["objects"]["COLD"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_all_files() -> None:
    run = vfs("demo", "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    report = json.loads(run.stdout)
    assert report["ok"]
    assert [file["name"][:4] for file in report["source"]] == [
        "A1B_",
        "nemo",
        "E1_n",
        "nemo",
        "nemo",
    ]
