"""The conformance classes can fail: each finds faults that are known to be there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vfs.testing import conformance
from vfs.testing.conformance import (
    ALL_CAPABILITIES,
    FilesystemConformance,
    base,
    concurrency,
    needs,
)

SUITE = """
import fsspec, pytest, uuid
from vfs.testing.conformance import *

class Test{name}(FilesystemConformance):
    capabilities = ALL_CAPABILITIES - {lacking!r}
    reasons = dict.fromkeys({lacking!r}, "not asked of it here")
    deviations = {deviations!r}

    @pytest.fixture
    def fs(self):
        return fsspec.filesystem({protocol!r}, **{options!r})

    @pytest.fixture
    def root(self, tmp_path):
        return f"{{tmp_path}}/root"
"""
LACKING = {"shared", "fork", "open_async", "etag", "strict_paths", "errno", "is_a_directory"}

# What is wrong with fsspec's own, by the test that has to notice.
MEMORY_FAULTS = {
    "test_find_below_a_file",
    "test_remove_tree_of_nothing",
    "test_unfinished_file_is_invisible",
    "test_error_discards",
    "test_commit_and_discard",
    "test_many_ranges",
    "test_read_file_object",
    "test_write_file_object",
    "test_times",
}
FILE_FAULTS = {
    "test_find_below_a_file",
    "test_remove_tree_of_nothing",
    "test_unfinished_file_is_invisible",
    "test_error_discards",
    "test_append",
    "test_many_ranges",
    "test_transfer_of_files",
    "test_every_range",
    "test_every_range_from_the_end",
    "test_reader_of_a_replaced_object",
}
#: Found in most runs, not in all: threads have to meet in the middle of a write.
RACES = (
    "test_one_creator_wins",
    "test_readers_of_one_key_being_written",
    "test_threads_with_one_key",
)
#: Runs after which one of them has certainly been seen: on a busy machine about half find one.
RACE_RUNS = 20


def run(folder: Path, source: str, *arguments: str) -> tuple[set[str], str]:
    """Run a generated module; return the functions that failed, and all that was said."""
    (folder / "test_generated.py").write_text(source, encoding="utf-8")
    said = folder / "said.txt"
    with said.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=no", "-q"),
                # A fault may also be that it never ends.
                *("--timeout=60", "-rA", "--rootdir", str(folder), *arguments),
                *(f"--basetemp={folder / 'base'}", str(folder / "test_generated.py")),
            ],
            env={**os.environ, "CI": "true", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    text = said.read_text(encoding="utf-8")
    assert done.returncode in {0, 1}, text
    assert re.search(r"^=* ?\d+ [a-z]+.* in \d", text, re.MULTILINE), text
    return set(re.findall(r"^(?:FAILED|ERROR) .*::(test_\w+)", text, re.MULTILINE)), text


@pytest.mark.slow
@pytest.mark.timeout(1200)  # each of them may be one that never ends, and is stopped after a minute
@pytest.mark.parametrize(
    "protocol,options,faults",
    [("memory", {}, MEMORY_FAULTS), ("file", {"auto_mkdir": True}, FILE_FAULTS)],
)
def test_known_faults_are_found(
    tmp_path: Path, protocol: str, options: dict[str, bool], faults: set[str]
) -> None:
    source = SUITE.format(
        name="Theirs", protocol=protocol, options=options, lacking=LACKING, deviations={}
    )
    failed, said = run(tmp_path, source)
    assert faults <= failed, said
    assert re.search(r"\d{3} passed", said)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_known_races_are_found(tmp_path: Path) -> None:
    source = SUITE.format(
        name="Theirs",
        protocol="file",
        options={"auto_mkdir": True},
        lacking=LACKING,
        deviations={},
    )
    for _ in range(RACE_RUNS):
        failed, said = run(tmp_path, source, "-k", " or ".join(RACES))
        if failed:
            break
    assert failed, said
    assert failed <= set(RACES)


def test_skip_needs_a_reason(tmp_path: Path) -> None:
    source = SUITE.format(
        name="Mine", protocol="memory", options={}, lacking={"etag"}, deviations={}
    )
    failed, said = run(tmp_path, source, "-k", "test_etag")
    assert failed == set()
    assert "2 skipped" in said
    failed, _ = run(tmp_path, source.replace("reasons =", "other ="), "-k", "test_etag")
    assert failed == {"test_etag", "test_etag_in_listings"}


def test_deviation_that_is_none_fails(tmp_path: Path) -> None:
    source = SUITE.format(
        name="Mine",
        protocol="memory",
        options={},
        lacking={"etag"},
        deviations={
            "test_error_discards": "closing is writing there",
            "test_kinds_of_buffer": "not so, and loosely said",
            "test_text": "not so",
        },
    )
    chosen = "test_error_discards or test_text or test_kinds_of_buffer"
    failed, said = run(tmp_path, source, "-k", chosen)
    assert "1 xfailed" in said
    assert failed == {"test_text", "test_kinds_of_buffer"}


@pytest.mark.timeout(60)
def test_torn_bytes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # With this set, pytest draws a diff of all that is compared; of these two it takes hours.
    monkeypatch.setenv("CI", "true")
    torn = concurrency.version(2, 3)[:3000] + concurrency.version(3, 4)[3000:]
    with pytest.raises(
        AssertionError, match=rf"^{len(torn)} bytes instead of .*, from offset 3000 on"
    ):
        concurrency.assert_whole(torn)
    for got, said in (
        (b"abd", r"3 bytes instead of 3, from offset 2 on b'd' instead of b'c'"),
        (b"ab", r"2 bytes instead of 3, from offset 2 on b'' instead of b'c'"),
        (bytearray(b"abcd"), r"4 bytes instead of 3, from offset 3 on b'd' instead of b''"),
    ):
        with pytest.raises(AssertionError, match=f"here {said}"):
            base.assert_same(got, b"abc", "here")
    with pytest.raises(AssertionError, match="NoneType"):
        base.assert_same(None, b"abc")
    base.assert_same(memoryview(b"abc"), b"abc")


def test_unknown_capability() -> None:
    with pytest.raises(ValueError):
        needs("telepathy")


def test_every_needed_capability_is_declared_somewhere() -> None:
    needed = {
        name
        for test in vars(FilesystemConformance).values()
        for name in getattr(test, "needed", ())
    }
    assert needed <= ALL_CAPABILITIES


def test_no_class_hides_a_test_of_another() -> None:
    seen: dict[str, str] = {}
    for name in conformance.__all__:
        part = getattr(conformance, name)
        if not isinstance(part, type) or part is FilesystemConformance:
            continue
        for test in vars(part):
            if test.startswith("test_"):
                assert seen.setdefault(test, name) == name
    assert len(seen) > 60
    assert all(hasattr(FilesystemConformance, test) for test in seen)


def test_every_room_is_rewritten() -> None:
    folder = Path(conformance.__file__).parent
    rooms = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert rooms == set(conformance._ROOMS)


def test_importing_the_kit_is_cheap() -> None:
    code = "import sys, vfs.testing; print({'pytest', 'fsspec', 'hypothesis'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
