"""What `import vfs` loads: modules are counted, time is measured by the benchmarks only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MAX_NEW_MODULES = 40

# Needed by one room or one extra each, and loaded there when first used.
NOT_LOADED = {
    *("aiohttp", "click", "dask", "msgspec", "numpy", "obstore", "pandas", "pyarrow", "rich"),
    *("s3fs", "sqlite3", "xarray", "zarr"),
}

SCRIPT = """
import json, sys
import fsspec
before = set(sys.modules)
import vfs
print(json.dumps({"new": sorted(set(sys.modules) - before), "all": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        check=True,
    )
    modules: dict[str, list[str]] = json.loads(run.stdout)
    return modules


def test_import_vfs_adds_few_modules(loaded: dict[str, list[str]]) -> None:
    assert "vfs" in loaded["new"]
    assert len(loaded["new"]) <= MAX_NEW_MODULES, loaded["new"]


def test_import_vfs_loads_nothing_heavy(loaded: dict[str, list[str]]) -> None:
    assert not NOT_LOADED.intersection(loaded["all"])


def test_import_vfs_says_nothing_and_writes_nothing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import vfs"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (run.stdout, run.stderr) == ("", "")
    assert not list(tmp_path.iterdir())
