import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import pytest

from vfs.cache.filesystem import CacheFileSystem
from vfs.cache.summary import require_cache, summarize_cache
from vfs.cli.cache import _age, _is_ours, _target_url
from vfs.cli.main import main
from vfs.errors import ConfigError
from vfs.testing.servers import S3Server

SIZES = {"a": 100_000, "sub/b": 3_000_000, "sub/c": 6_000_000}
Here: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]
BLOCKS = 1 + 1 + 6  # up to 4 MiB one block, above it blocks of 1 MiB


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vfs", "cache", *arguments]


def vfs(
    *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*map(str, arguments)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    """Run in this process, which takes a tenth of the time."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        with pytest.raises(SystemExit) as ended:
            main(["cache", *words])
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return run


def told(run: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    """Return the JSON of a run that ended as it should."""
    assert run.returncode == code, run.stdout + run.stderr
    report: dict[str, Any] = json.loads(run.stdout)
    assert report.pop("schema") == 1
    return report


def on_terminal(arguments: list[str], keys: bytes) -> tuple[int, str]:
    """Run with a terminal for standard input and error; return exit code and what it showed."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        arguments,
        stdin=follower,
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(follower)
        os.write(leader, keys)
        shown = b""
        with contextlib.suppress(OSError):  # the last one has closed the terminal
            while part := os.read(leader, 1 << 16):
                shown += part
        code = process.wait(60)
    os.close(leader)
    return code, shown.decode()


def reader(directory: Path, **options: Any) -> CacheFileSystem:
    return CacheFileSystem(target_protocol="disk", directory=str(directory), **options)


def block_files(directory: Path) -> list[Path]:
    return sorted(path for path in (directory / "blocks").rglob("*") if path.is_file())


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for number, (name, size) in enumerate(SIZES.items()):
        path = tmp_path / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * size)
    return tmp_path / "store"


@pytest.fixture
def warmed(tmp_path: Path, store: Path) -> Path:
    """Give a cache directory that holds all of the store."""
    fs = reader(tmp_path / "cache", max_bytes="100 MiB")
    assert fs.warm(str(store)) == sum(SIZES.values())
    return tmp_path / "cache"


@pytest.fixture
def nothing_made(tmp_path: Path) -> Callable[[], bool]:
    before = sorted(tmp_path.rglob("*"))
    return lambda: sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------- status


def test_status_tells_what_is_there(warmed: Path) -> None:
    report = told(vfs("status", warmed, "--json"))
    stats = reader(warmed).stats()
    assert 0 <= report.pop("oldest_block_s") < 60
    assert report == {
        "directory": str(warmed),
        "used_bytes": stats.used_bytes,
        "max_bytes": stats.max_bytes,
        "tables_bytes": 100 * 2**20 - stats.max_bytes,
        "blocks": BLOCKS,
        "block_bytes": stats.used_bytes,
        "small_bytes": stats.used_bytes,
        "main_bytes": 0,
    }


def test_status_for_people(warmed: Path) -> None:
    run = vfs("status", warmed)
    assert run.returncode == 0
    first, *rows = run.stdout.splitlines()
    assert first == str(warmed)
    table = {row[:12].strip(): row[12:].strip() for row in rows}
    assert table.pop("oldest block").endswith(" s")
    assert table == {
        "used": "8.7 MiB of 99.9 MiB (8.7 %)",
        "tables": "108.0 KiB",
        "blocks": str(BLOCKS),
        "small queue": "8.7 MiB",
        "main queue": "0 B",
    }


def test_the_queues_are_told_apart(warmed: Path) -> None:
    path = block_files(warmed)[0]
    facts = path.stat()
    os.utime(path, ns=(0, facts.st_mtime_ns // 2000 * 2000 + 1000))
    found = summarize_cache(str(warmed))
    assert found.main_bytes == facts.st_blocks * 512 + 80  # and its name
    assert found.small_bytes == found.block_bytes - found.main_bytes


def test_a_cache_without_blocks_has_no_oldest_one(tmp_path: Path, here: Here) -> None:
    (tmp_path / "cache.json").write_text('{"format": 1}')
    run = here("status", tmp_path)
    assert run.returncode == 0
    assert "0 B of no limit yet" in run.stdout
    assert run.stdout.endswith("oldest block  none\n")
    assert [path.name for path in tmp_path.iterdir()] == ["cache.json"]


@pytest.mark.parametrize("verb", ["status", "clear", "fsck"])
def test_the_default_directory(
    verb: str, tmp_path: Path, warmed: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    arguments = (verb, *(["--yes"] if verb == "clear" else []), "--json")
    missing = here(*arguments)
    assert missing.returncode == 2
    assert f"{tmp_path}/xdg/vfs/cache" in missing.stderr
    assert not (tmp_path / "xdg").exists()
    (tmp_path / "xdg" / "vfs").mkdir(parents=True)
    warmed.rename(tmp_path / "xdg" / "vfs" / "cache")
    report = told(here(*arguments))
    assert report["directory"] == f"{tmp_path}/xdg/vfs/cache"
    assert report["blocks"] == BLOCKS


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "{}"),
        ("clear", "{}", "--yes"),
        ("fsck", "{}"),
        ("check", "{}"),
        ("check", "{}", "mem://a"),
        ("evict", "{}", "mem://a"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_directory_that_is_no_cache_is_refused(
    arguments: tuple[str, ...],
    there: bool,
    tmp_path: Path,
    nothing_made: Callable[[], bool],
    here: Here,
) -> None:
    directory = tmp_path if there else tmp_path / "nosuch"
    run = here(*(argument.format(directory) for argument in arguments))
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert str(directory) in run.stderr
    assert ("is not a cache" if there else "does not exist") in run.stderr
    assert nothing_made()


@pytest.mark.parametrize("text", ["", "[]", "{}", "no json"])
def test_another_cache_json_is_no_cache(text: str, tmp_path: Path) -> None:
    (tmp_path / "cache.json").write_text(text)
    with pytest.raises(ConfigError):
        require_cache(str(tmp_path))


# ---------------------------------------------------------------- warm


def test_what_was_warmed_is_found(tmp_path: Path, store: Path) -> None:
    directory = tmp_path / "new" / "cache"
    report = told(vfs("warm", directory, f"file://{store}", "--max-bytes", "50 MiB", "--json"))
    total = sum(SIZES.values())
    assert report["ok"]
    assert report["bytes"] == report["bytes_fetched"] == total
    assert report["failed"] == []
    fs = reader(directory)
    for number, (name, size) in enumerate(SIZES.items()):
        assert fs.cat_file(f"{store}/{name}") == bytes([number]) * size
    stats = fs.stats()
    assert (stats.hits, stats.bytes_fetched) == (BLOCKS, 0)
    assert stats.max_bytes + summarize_cache(str(directory)).tables_bytes == 50 * 2**20


def test_warm_fetches_nothing_twice(warmed: Path, store: Path) -> None:
    run = vfs("warm", warmed, store / "a", f"cache::file://{store}/sub")
    assert run.returncode == 0, run.stderr
    assert run.stdout == "8.7 MiB warmed, 0 B fetched\n8.7 MiB used of 99.9 MiB\n"
    assert run.stderr == ""


def test_by_default_what_is_in_the_store_now_is_warmed(warmed: Path, store: Path) -> None:
    (store / "a").write_bytes(b"another")
    believing = told(vfs("warm", warmed, store / "a", "--consistency", "immutable", "--json"))
    assert believing["bytes_fetched"] == 0
    asking = told(vfs("warm", warmed, store / "a", "--json"))
    assert asking["bytes_fetched"] == len(b"another")


def test_blocks_are_cut_as_asked(tmp_path: Path, store: Path, here: Here) -> None:
    sizes = ("--grain-bytes", "2 MiB", "--small-bytes", "64 KiB")
    told(here("warm", tmp_path / "cache", store / "sub" / "c", *sizes, "--json"))
    assert len(block_files(tmp_path / "cache")) == 3
    other = told(here("evict", tmp_path / "cache", store / "sub" / "c", "--json"))
    assert other["blocks"] == 0
    same = told(here("evict", tmp_path / "cache", store / "sub" / "c", *sizes, "--json"))
    assert same["blocks"] == 3


def test_what_does_not_fit_is_told(tmp_path: Path, store: Path) -> None:
    run = vfs("warm", tmp_path / "cache", store, "--max-bytes", "4 MiB", "--json")
    assert not told(run, code=1)["ok"]
    assert run.stderr == "Warning: not all of it is kept, see the limit and the disk\n"
    assert summarize_cache(str(tmp_path / "cache")).block_bytes < 4 * 2**20


def test_the_urls_that_can_be_warmed_are(tmp_path: Path, store: Path, here: Here) -> None:
    run = here("warm", tmp_path / "cache", store / "nosuch", store / "a", "--json")
    report = told(run, code=1)
    assert not report["ok"]
    assert report["bytes"] == SIZES["a"]
    assert report["failed"] == [
        {"url": f"{store}/nosuch", "error": f"no such object: {store}/nosuch"}
    ]
    assert run.stderr == f"Error: no such object: {store}/nosuch\n"


def test_a_failure_of_all_has_its_own_code(tmp_path: Path, here: Here) -> None:
    run = here("warm", tmp_path / "cache", tmp_path / "x", tmp_path / "y")
    assert run.returncode == 3
    assert run.stdout == ""
    assert run.stderr.count("Error: no such object") == 2


def test_a_bar_is_shown_on_a_terminal_and_taken_away(tmp_path: Path, store: Path) -> None:
    code, shown = on_terminal(command("warm", str(tmp_path / "cache"), str(store)), b"")
    assert code == 0
    assert str(store)[:20] in shown
    assert "MB" in shown or "MiB" in shown
    assert shown.rstrip().endswith("\x1b[2K")


@pytest.mark.server
def test_an_interrupted_warm_keeps_what_has_come(tmp_path: Path, s3: S3Server) -> None:
    s3.make_bucket("interrupted")
    for number in range(40):
        s3.put(f"interrupted/{number}", bytes(100_000))
    s3.set_latency(0.3)
    with subprocess.Popen(
        command("warm", str(tmp_path / "cache"), "s3://interrupted", *plain_options(s3)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not block_files(tmp_path / "cache"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err.strip()) == ("", "Interrupted.")
    assert 0 < told(vfs("fsck", tmp_path / "cache", "--json"))["blocks"] <= 40


# ---------------------------------------------------------------- check, fsck


def test_check_finds_and_removes_damage(warmed: Path, store: Path) -> None:
    clean = vfs("check", warmed, store)
    assert (clean.returncode, clean.stdout, clean.stderr) == (0, "no damage\n", "")
    for path in block_files(warmed):
        if path.stat().st_size > 2_000_000:
            flip_a_bit(path)  # the only block of sub/b
    assert told(vfs("check", warmed, store / "a", "--json"))["ok"]
    report = told(vfs("check", warmed, store, "--json"), code=1)
    assert report == {
        "directory": str(warmed),
        "ok": False,
        "damaged": 1,
        "objects": [{"key": f"{store}/sub/b", "blocks": 1}],
        "failed": [],
    }
    assert len(block_files(warmed)) == BLOCKS - 1
    assert vfs("check", warmed, store).returncode == 0


def test_check_for_people_names_the_object(warmed: Path, store: Path, here: Here) -> None:
    for path in block_files(warmed):
        flip_a_bit(path)
    run = here("check", warmed, store / "sub" / "c")
    assert run.returncode == 1
    assert run.stdout == f"DAMAGED {store}/sub/c: 6 blocks, removed\n"


def test_check_needs_no_store_for_what_is_known(warmed: Path, store: Path, here: Here) -> None:
    (store / "a").unlink()
    assert told(here("check", warmed, store / "a", "--json"))["ok"]


@pytest.mark.parametrize("verb", ["fsck", "check"])
def test_the_whole_directory_is_verified(verb: str, warmed: Path, here: Here) -> None:
    assert here(verb, warmed).stdout == f"{BLOCKS} blocks right, 8.7 MiB\n"
    flip_a_bit(block_files(warmed)[0])
    block_files(warmed)[1].write_bytes(b"short")
    report = told(here(verb, warmed, "--json"), code=1)
    assert (report["ok"], report["blocks"], report["damaged"]) == (False, BLOCKS - 2, 2)
    assert report["bytes"] == summarize_cache(str(warmed)).used_bytes
    flip_a_bit(block_files(warmed)[0])
    run = here(verb, warmed)
    assert run.returncode == 1
    assert run.stdout.endswith("DAMAGED 1 block, removed\n")
    assert here(verb, warmed).returncode == 0


# ---------------------------------------------------------------- evict, clear


def test_evict_drops_the_blocks_that_are_known(warmed: Path, store: Path) -> None:
    run = vfs("evict", warmed, store / "a", f"cache::file://{store}/sub/c")
    assert (run.returncode, run.stdout) == (0, "7 blocks evicted\n")
    assert len(block_files(warmed)) == 1
    (store / "sub" / "b").write_bytes(b"replaced meanwhile")
    report = told(vfs("evict", warmed, store, "--json"))
    assert report == {"directory": str(warmed), "ok": True, "blocks": 1, "failed": []}
    assert summarize_cache(str(warmed)).used_bytes == 0


def test_evict_of_nothing_is_not_found(warmed: Path, store: Path, here: Here) -> None:
    run = here("evict", warmed, store / "nosuch")
    assert run.returncode == 3
    assert run.stdout == ""


def test_clear_removes_everything(warmed: Path) -> None:
    report = told(vfs("clear", warmed, "--yes", "--json"))
    assert report == {"directory": str(warmed), "blocks": BLOCKS}
    assert block_files(warmed) == []
    assert summarize_cache(str(warmed)).used_bytes == 0
    assert vfs("clear", warmed, "-y").stdout == "0 blocks removed\n"


def test_clear_asks_nobody_off_a_terminal(warmed: Path) -> None:
    run = vfs("clear", warmed)
    assert run.returncode == 2
    assert "--yes" in run.stderr
    assert len(block_files(warmed)) == BLOCKS


@pytest.mark.parametrize("keys,code,left", [(b"n\n", 1, BLOCKS), (b"y\n", 0, 0)])
def test_clear_asks_on_a_terminal(keys: bytes, code: int, left: int, warmed: Path) -> None:
    ended, shown = on_terminal(command("clear", str(warmed)), keys)
    assert ended == code
    assert f"Remove {BLOCKS} blocks, 8.7 MiB, from {warmed}? [y/N]" in shown
    assert ("Nothing was removed." in shown) == bool(left)
    assert len(block_files(warmed)) == left


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    "arguments,code,part",
    [
        (("nosuch://x",), 2, "nosuch://x cannot be opened"),
        (("s3:/bucket",), 2, "s3://bucket?"),
        (("cache::cache::mem://x",), 2, "two caches"),
        (("mem://x", "--option", "hush"), 2, "--option number 1"),
        (("mem://x", "--option", "nosuch=hush"), 2, "nosuch"),
        (("mem://x", "--max-bytes", "3"), 2, "max_bytes"),
        (("mem://x", "--grain-bytes", "3"), 2, "grain_bytes"),
        (("mem://x",), 3, "no such object: x"),
        (("ftp://me:hush@127.0.0.1:1/x",), 5, "Connection refused"),
        (("http://127.0.0.1:1/x?token=hush",), 5, "token=***"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    arguments: tuple[str, ...], code: int, part: str, tmp_path: Path
) -> None:
    run = vfs("warm", tmp_path / "cache", *arguments)
    assert run.returncode == code, run.stderr
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("Error: ")
    assert part in run.stderr
    assert "hush" not in run.stderr


def test_a_directory_with_other_files_is_refused(tmp_path: Path, store: Path, here: Here) -> None:
    run = here("warm", tmp_path, store)
    assert run.returncode == 2
    assert "holds other files" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_store_in_the_place_of_the_directory_is_refused(here: Here) -> None:
    run = here("warm", "s3://bucket", "s3://bucket/prefix")
    assert run.returncode == 2
    assert "is not a local directory" in run.stderr


@pytest.mark.parametrize("verb", ["warm", "evict"])
def test_a_missing_url_is_a_usage_error(verb: str, warmed: Path, here: Here) -> None:
    assert here(verb, warmed).returncode == 2


@pytest.mark.parametrize(
    "given,target",
    [
        ("s3://b/p", "s3://b/p"),
        ("cache::s3://b/p", "s3://b/p"),
        ("readonly::cache::s3://b/p", "s3://b/p"),
        ("cache::readonly::s3://b/p", "readonly::s3://b/p"),
        ("/x/../y", "file:///y"),
    ],
)
def test_blocks_belong_to_what_is_below_the_cache(given: str, target: str) -> None:
    assert _target_url(given) == target


def test_a_local_path_may_hold_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a:b").write_text("")
    monkeypatch.chdir(tmp_path)
    assert _target_url("a:b") == f"file://{tmp_path}/a:b"


def test_a_mistake_of_ours_is_told_from_one_below() -> None:
    with pytest.raises(ConfigError) as ours:
        _target_url("s3:/b")
    assert _is_ours(ours.value)
    with pytest.raises(ValueError, match="nosuch") as theirs:
        fsspec.get_filesystem_class("nosuch")
    assert not _is_ours(theirs.value)


@pytest.mark.parametrize(
    "seconds,shown", [(0.2, "0 s"), (90, "2 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_ages_are_in_their_largest_unit(seconds: float, shown: str) -> None:
    assert _age(seconds) == shown


# ---------------------------------------------------------------- S3


def plain_options(s3: S3Server) -> list[str]:
    given = s3.storage_options
    pairs = [
        f"key={given['key']}",
        f"secret={given['secret']}",
        *(f"client_kwargs.{name}={value}" for name, value in given["client_kwargs"].items()),
    ]
    return [part for pair in pairs for part in ("--option", pair)]


@pytest.mark.server
def test_warmed_from_s3_readers_ask_nothing(tmp_path: Path, s3: S3Server) -> None:
    bucket = s3.make_bucket("warmed")
    for name, size in SIZES.items():
        s3.put(f"{bucket}/tree/{name}", bytes(size))
    secret = '{"env": "HUSH"}'
    options = [
        secret.join(("secret=", "")) if part.startswith("secret=") else part
        for part in plain_options(s3)
    ]
    env = {"HUSH": s3.storage_options["secret"]}
    run = vfs("warm", tmp_path / "cache", f"s3://{bucket}/tree", *options, "--json", env=env)
    assert told(run)["bytes_fetched"] == sum(SIZES.values())
    again = vfs("warm", tmp_path / "cache", f"s3://{bucket}/tree", *options, "--json", env=env)
    assert told(again)["bytes_fetched"] == 0

    # The secret as it is names the same store as its reference.
    fs, path = fsspec.core.url_to_fs(
        f"cache::s3://{bucket}/tree",
        cache={"directory": str(tmp_path / "cache"), "consistency": "immutable"},
        s3=s3.storage_options,
    )
    s3.reset()
    for name, size in SIZES.items():
        assert fs.cat_file(f"{path}/{name}") == bytes(size)
    assert s3.requests() == []

    url = f"s3://{bucket}/tree/sub/c"
    assert told(vfs("evict", tmp_path / "cache", url, *plain_options(s3), "--json"))["blocks"] == 6


@pytest.mark.server
def test_an_option_that_the_client_refuses_is_told(tmp_path: Path, s3: S3Server) -> None:
    run = vfs("warm", tmp_path / "cache", "s3://b/x", *plain_options(s3), "--option", "nosuch=1")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "nosuch" in run.stderr
