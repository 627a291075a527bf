"""What must work with the core dependencies alone; `tox -e no-extras` has nothing else."""

import importlib
import pkgutil
import subprocess
import sys

import fsspec
import pytest

import vfs

# The demonstration, the test kit and the Rust client are what extras are for.
NEED_EXTRAS = ("vfs.backends.obstore", "vfs.cli.demo", "vfs.paths", "vfs.testing")

MODULES = [
    module.name
    for module in pkgutil.walk_packages(vfs.__path__, "vfs.", onerror=lambda _name: None)
    if not module.name.startswith(NEED_EXTRAS) and not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name: str) -> None:
    importlib.import_module(name)


def test_bytes_go_round_by_url() -> None:
    with fsspec.open("mem://no-extras/a", "wb") as file:
        file.write(b"abc")
    with fsspec.open("mem://no-extras/a", "rb") as file:
        assert file.read() == b"abc"


def test_command_answers() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "vfs", "--help"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout
