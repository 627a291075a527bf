import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from vfs.cli import main as main_module
from vfs.cli.main import VERBS, cli, exit_code, main
from vfs.errors import CircuitOpenError, ConfigError, IntegrityError, UnavailableError, not_found

HEAVY = ("fsspec", "msgspec", "numpy", "rich", "sqlite3", "xarray", "zarr")


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )


def failing(error: BaseException) -> click.Command:
    @click.command()
    def verb() -> None:
        raise error

    return verb


@pytest.mark.parametrize(
    "error,code",
    [
        (ConfigError("wrong"), 2),
        (not_found("a"), 3),
        (UnavailableError("gone", "a"), 5),
        (TimeoutError(), 5),
        (CircuitOpenError("open", "a"), 1),
        (IntegrityError("bits", "a"), 1),
        (OSError(28, "full", "a"), 1),
        (KeyError("a"), None),
        (ValueError("a"), None),
    ],
)
def test_errors_have_exit_codes(error: Exception, code: int | None) -> None:
    assert exit_code(error) == code


def test_every_verb_of_the_table_is_a_command() -> None:
    with click.Context(cli) as ctx:
        assert cli.list_commands(ctx) == sorted(VERBS)
        for verb in VERBS:
            command = cli.get_command(ctx, verb)
            assert command is not None
            assert command.name == verb
            assert command.short_help or command.help


def test_help_imports_nothing_heavy() -> None:
    run = run_python(
        "import json, sys\n"
        "from vfs.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        f"print(json.dumps([n for n in {HEAVY} if n in sys.modules]), file=sys.stderr)"
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stderr) == []
    assert "demo" in run.stdout


def test_python_m_vfs_is_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "vfs", "--version"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0
    assert run.stdout.startswith("vfs ")
    assert run.stderr == ""


def test_unknown_verb_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["dmeo"])
    assert result.exit_code == 2


@pytest.mark.parametrize(
    "error,code,told",
    [
        (ConfigError("two\nlines"), 2, "Error: two lines\n"),
        (not_found("a/b"), 3, "Error: no such object: a/b\n"),
        (UnavailableError("s3://me:pw@host is away", "a"), 5, "Error: s3://***@host is away: a\n"),
        (OSError("bare"), 1, "Error: bare\n"),
    ],
)
def test_an_error_is_told_in_one_line(
    error: Exception,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "get_command", lambda *_: failing(error))
    with pytest.raises(SystemExit) as ended:
        main(["verb"])
    assert ended.value.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == told


def test_notes_are_part_of_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError(5, "no answer", "a")
    error.add_note("gave up after 3 attempts")
    monkeypatch.setattr(cli, "get_command", lambda *_: failing(error))
    with pytest.raises(SystemExit):
        main(["verb"])
    assert capsys.readouterr().err == "Error: no answer: a; gave up after 3 attempts\n"


def test_a_mistake_in_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "get_command", lambda *_: failing(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        main(["verb"])


def test_interrupted_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "get_command", lambda *_: failing(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as ended:
        main(["verb"])
    assert ended.value.code == main_module.INTERRUPTED == 130
    assert capsys.readouterr().err.strip() == "Interrupted."
