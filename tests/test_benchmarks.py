"""The benchmarks run and say what they shall; how fast anything is, only people judge."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The checkout comes last, so that what is measured is the vfs that is installed.
RUN = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module('benchmarks', alter_sys=True, run_name='__main__')"
)

# Topic -> (workload, case) of rows without which the topic measured nothing.
EXPECTED = {
    "warm": {
        ("64 KiB", "tier, hot"),
        ("64 KiB", "tier, hot / LocalFileSystem"),
        ("64 KiB", "cache, verify=always"),
        ("64 KiB", "requests of the cache"),
        ("1 MiB", "readonly::disk"),
        ("64 KiB out of 256 MiB", "disk"),
        ("64 KiB", "requests to cold"),
    },
    "entries": {
        ("64 KiB, warm", "100 hot objects"),
        ("new entry of 4 KiB", "promotion at 20 entries"),
        ("64 KiB through cache, warm", "100 blocks"),
    },
    "arrays": {
        ("1 MiB chunks, whole", "tier, hot"),
        ("1 MiB chunks, windows", "disk"),
        ("4 MiB shards, windows", "LocalStore"),
        ("sharded, warm", "requests to cold"),
    },
    "imports": {
        ("import vfs", "CPU over import fsspec"),
        ("first read through a new tier", "modules loaded"),
    },
    "layers": {
        ("cat_file", "readonly::mem over mem"),
        ("info", "readonly::disk over disk"),
    },
    "cold": {
        ("read 3 x 1 MiB together", "tier, filling"),
        ("read 3 x 1 MiB together", "cache, filling"),
        ("write 3 x 1 MiB together", "tier, write=through"),
    },
    "engines": {
        ("12 x 1 MiB", "obs3"),
        ("96 ranges of 64 KiB", "obs3"),
        ("one object of 2 MiB", "s3fs"),
        ("write 45 x 64 KiB", "obs3"),
        ("find 100 keys", "obs3"),
        ("3 of 20 columns, parquet", "pyarrow"),
        ("3 of 20 columns, parquet", "obs3"),
    },
    "writeback": {
        ("write 45 chunks of 64 KiB", "tier, back, power"),
        ("send 45 x 64 KiB that wait", "flush"),
        ("come back to 100 that wait", "open"),
        ("come back to 100 that wait", "journal, on disk"),
    },
    "policies": {
        ("zipf 0.9, 5 % cached", "lru"),
        ("loop of 2 x the cache, 12 epochs", "s3fifo + duel"),
        ("another dataset, 2 x the cache", "pass 3"),
    },
    "shared": {
        ("16 threads, 2 cold objects", "cache: GETs an object"),
        ("16 threads, 2 cold objects", "cache: wrong answers"),
        ("3 of 20 columns, parquet", "cache, warm"),
        ("64 KiB, warm, each", "2 processes"),
    },
}


def run_quickly(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, str(ROOT), "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("topic", sorted(set(EXPECTED) - {"cold", "shared"}))
def test_quick_run_has_the_rows_of_a_topic(topic: str) -> None:
    check_rows(topic)


@pytest.mark.server
@pytest.mark.parametrize("topic", ["cold", "shared"])
def test_quick_run_over_a_server_has_its_rows(topic: str) -> None:
    check_rows(topic)


def check_rows(topic: str) -> None:
    run = run_quickly("--json", topic)
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    rows = {(row["workload"], row["case"]): row for row in told["rows"]}
    assert rows.keys() >= EXPECTED[topic], sorted(rows)
    for key in EXPECTED[topic]:
        assert isinstance(rows[key]["value"], int | float), rows[key]
    for key, row in rows.items():
        if key[1] in {"requests to cold", "requests of the cache", "cache: wrong answers"}:
            assert row["value"] == 0, row
    assert told["machine"]["python"]


def test_table_names_value_and_budget() -> None:
    run = run_quickly("layers")
    assert run.returncode == 0, run.stderr
    assert "readonly::mem over mem" in run.stdout
    assert "budget 5" in run.stdout


def test_unknown_topic_is_refused() -> None:
    run = run_quickly("nonsense")
    assert run.returncode == 2
    assert "there are warm, " in run.stderr
