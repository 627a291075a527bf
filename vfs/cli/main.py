"""The command ``vfs``: its verbs, found lazily, and what becomes of their errors.

What lives here: the table of verbs and the exit codes. What must not: a verb, or an import that
``vfs --help`` would pay for.

A verb is one module of this folder and one line of :data:`VERBS`. Its module imports ``click`` and
the standard library at the top, all else inside functions: ``vfs --help`` imports every verb.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

import click

__all__ = ["VERBS", "cli", "exit_code", "main"]

#: Verb to ``module:command``.
VERBS: Final = {
    "cache": "vfs.cli.cache:cache",
    "demo": "vfs.cli.demo:demo",
    "tier": "vfs.cli.tier:tier",
}

DONE, SOME_FAILED, USAGE, NOT_FOUND, TRANSIENT, INTERRUPTED = 0, 1, 2, 3, 5, 130


def exit_code(error: Exception) -> int | None:
    """Return the exit code that stands for an error of the library.

    Parameters
    ----------
    error : Exception
        What a verb raised.

    Returns
    -------
    int or None
        2 for a wrong option, 3 for an absent object, 5 where the same call may succeed later,
        1 for any other failed input or output; None for a mistake in the program, which wants a
        traceback.

    Examples
    --------
    >>> exit_code(FileNotFoundError(2, "no such object", "a")), exit_code(KeyError("a"))
    (3, None)
    """
    from vfs.errors import ConfigError, is_retryable  # `vfs --help` does without

    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, FileNotFoundError):
        return NOT_FOUND
    if is_retryable(error):
        return TRANSIENT
    return SOME_FAILED if isinstance(error, OSError) else None


class _Failure(click.ClickException):
    """An error of the library, told in one line."""

    def __init__(self, error: Exception, code: int) -> None:
        from vfs.config.secrets import redact_url

        told = str(error)
        if isinstance(error, OSError) and error.strerror:
            where = f": {error.filename}" if error.filename else ""
            told = f"{error.strerror}{where}"
        lines = (told or type(error).__name__, *getattr(error, "__notes__", ()))
        super().__init__(redact_url("; ".join(" ".join(line.split()) for line in lines)))
        self.exit_code = code  # type: ignore[misc]  # click declares it for the class


class _Verbs(click.Group):
    """A group that imports a verb when it is asked for, and gives errors their exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)  # noqa: S101 - a wrong line in VERBS
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # Without a name it is our own standard output: click ends quietly.
            if error.filename is None:
                raise
            raise _Failure(error, TRANSIENT) from error
        except (OSError, ValueError) as error:
            code = exit_code(error)
            if code is None:
                raise
            raise _Failure(error, code) from error


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("fsspec-vfs")
    except PackageNotFoundError:  # run from a checkout
        number = "(not installed)"
    click.echo(f"vfs {number}")
    ctx.exit()


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Hot and cold storage behind one fsspec URL.

    \b
    Exit codes: 0 done, 1 some items failed, 2 usage or configuration,
    3 not found, 5 transient, retry may help, 6 not durable yet,
    130 interrupted.
    """  # noqa: D301 - \b is click's mark for a paragraph that keeps its lines


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process if not given.
    """
    try:
        returned = cli.main(arguments, prog_name="vfs", standalone_mode=False)
        code = returned if isinstance(returned, int) else DONE
    except click.Abort:
        click.echo("Interrupted.", err=True)
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    sys.exit(code)
