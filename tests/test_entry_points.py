"""What the installed distribution registers."""

import ast
import importlib.util
import os
import re
from importlib.metadata import EntryPoint, distribution
from pathlib import Path

import fsspec
import pytest

import vfs

ROOT = Path(__file__).resolve().parent.parent
ENTRY_POINTS = distribution("fsspec-vfs").entry_points
SPECS = list(ENTRY_POINTS.select(group="fsspec.specs"))


def fsspec_names() -> set[str]:
    """Return the protocols fsspec's source names: at run time ours would be among them."""
    spec = importlib.util.find_spec("fsspec.registry")
    assert spec is not None
    assert spec.origin is not None
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if "known_implementations" in names:
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert isinstance(node.value, ast.Dict)
            return {ast.literal_eval(key) for key in node.value.keys if key is not None}
    pytest.fail("fsspec.registry no longer defines known_implementations")


def test_the_list_of_fsspec_is_read() -> None:
    assert {"s3", "file", "memory", "http"} <= fsspec_names()


def test_we_register_something() -> None:
    assert SPECS
    assert len({spec.name for spec in SPECS}) == len(SPECS)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_protocol_is_plain(spec: EntryPoint) -> None:
    assert re.fullmatch("[a-z]+[0-9]?", spec.name)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_protocol_replaces_none_of_fsspec(spec: EntryPoint) -> None:
    assert spec.name not in fsspec_names()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_protocol_loads(spec: EntryPoint) -> None:
    if ".obstore." in spec.value and importlib.util.find_spec("obstore") is None:
        with pytest.raises(ImportError, match=r"fsspec-vfs\[obstore\]"):
            spec.load()
        return
    cls = spec.load()
    assert issubclass(cls, fsspec.AbstractFileSystem)
    assert fsspec.get_filesystem_class(spec.name) is cls
    protocols = (cls.protocol,) if isinstance(cls.protocol, str) else cls.protocol
    assert spec.name in protocols


def test_commands_load() -> None:
    commands = {command.name: command for command in ENTRY_POINTS.select(group="console_scripts")}
    assert set(commands) == {"vfs"}
    assert callable(commands["vfs"].load())


@pytest.mark.skipif("VFS_TEST_WHEEL" not in os.environ, reason="only tox installs the wheel")
def test_the_wheel_is_what_is_tested() -> None:
    assert vfs.__file__ is not None
    assert not Path(vfs.__file__).resolve().is_relative_to(ROOT / "vfs")
    assert Path(vfs.__file__).with_name("py.typed").is_file()
