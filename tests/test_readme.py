"""The examples of README.md run as they stand, and its commands can be taken out of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")
HEADED = re.findall(r"^### (\w+)\n+```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_every_python_block_stands_under_its_own_heading() -> None:
    assert len(HEADED) == TEXT.count("```python")
    assert [name for name, _ in HEADED] == ["pandas", "xarray", "zarr"]


@pytest.mark.parametrize("source", [pytest.param(code, id=name) for name, code in HEADED])
def test_example_runs(source: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert {path.name for path in tmp_path.iterdir()} == {"hot", "cold"}


def test_set_up_is_two_commands() -> None:
    section = TEXT.partition("## Set up\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    start = "python3 -m venv .venv && .venv/bin/pip install -q -e "
    assert blocks == [
        f"{start}'.[demo]' && .venv/bin/vfs demo\n",
        f"{start}'.[test]' && .venv/bin/pytest -n 2 --dist worksteal\n",
    ]


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", TEXT)
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
