"""Which tier a command means, and how its results are shown; shared by the verbs of ``vfs tier``.

What lives here: the options that name a tier, and opening it. What must not: verbs.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from vfs.tier.filesystem import TierFileSystem

__all__ = ["open_tier", "path_option", "print_json", "progress_bar", "rules_option", "tier_options"]

_SCHEMA: Final = 1  # of --json; fields may be added under the same number

_OPTIONS: Final = (
    click.option("--hot", metavar="DIR", help="The hot directory."),
    click.option(
        "--tier",
        "tiers",
        metavar="DIR",
        multiple=True,
        help="Instead of --hot, where there are several: each directory, fastest first; URL is "
        "then the cold store's root.",
    ),
    click.option(
        "--option",
        "pairs",
        metavar="KEY=VALUE",
        multiple=True,
        help="Option of the URL's filesystem, as its users give it; repeatable. VALUE may be "
        'JSON, KEY may be a.b. A secret is better given as KEY=\'{"env": "NAME"}\'.',
    ),
    click.option(
        "--root",
        is_flag=True,
        help="URL is the cold store's root, as in tier:// with cold=; else as in tier::URL.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)


def tier_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add what says which tier is meant."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


path_option = click.option(
    "--path",
    "inside",
    metavar="PATH",
    default="",
    help="An object or a tree below URL; with --root or --tier the only way to name one.",
)

rules_option = click.option(
    "--rules",
    "rules_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="The rules its users give, as TOML or JSON: rules, and if wanted prices.",
)


def open_tier(
    url: str,
    *,
    hot: str | None,
    tiers: tuple[str, ...],
    pairs: tuple[str, ...],
    root: bool,
    watch: bool = True,
    inside: str = "",
    rules_file: str | None = None,
) -> tuple[TierFileSystem, str]:
    """Return the tier of a URL, and the path there.

    With ``watch`` this process may send what waits, else it only looks.
    """
    from fsspec.core import url_to_fs

    from vfs.cli.demo_place import cold_options
    from vfs.config.secrets import redact_url
    from vfs.errors import ConfigError
    from vfs.tier.claim import require_tier
    from vfs.tier.filesystem import TierFileSystem
    from vfs.tier.options import hot_directory

    if bool(tiers) == (hot is not None):
        raise click.UsageError("name the hot directory by --hot, or several, each by --tier")
    for directory in tiers or (hot,):
        require_tier(hot_directory(directory))
    given = _read_rules(rules_file) if rules_file else {}
    target = url.removeprefix("tier::")
    try:
        options = cold_options(pairs)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--cold-option", "--option")) from None
    try:
        if tiers:
            places = [*tiers, {"cold": target, "options": options}]
            fs, path = TierFileSystem(tiers=places, **given), ""
        elif root:
            fs, path = TierFileSystem(hot=hot, cold=target, cold_options=options, **given), ""
        else:
            protocol = target.rpartition("::")[2].partition("://")[0]
            more = {protocol: options} if options else {}
            fs, path = url_to_fs(f"tier::{target}", tier={"hot": hot, **given}, **more)
    except ConfigError:
        raise
    except (ImportError, TypeError, ValueError) as error:
        message = redact_url(f"{url} cannot be opened: {error}")
        raise ConfigError(message) from error
    assert isinstance(fs, TierFileSystem)  # noqa: S101 - its name stands first
    if not watch:
        fs._last._mover.uploader.rest()
    if inside:
        path = f"{path.rstrip('/')}/{inside}" if path else inside
    return fs, path


def _read_rules(file: str) -> dict[str, Any]:
    """Return the options that a file of rules gives."""
    import tomllib

    from vfs.errors import ConfigError

    with open(file, "rb") as opened:
        text = opened.read()
    try:
        if os.path.splitext(file)[1] == ".json":
            found = json.loads(text)
        else:
            found = tomllib.loads(text.decode())
    except ValueError as error:
        message = f"{file}: {error}"
        raise ConfigError(message) from error
    if not isinstance(found, dict) or not set(found) <= {"rules", "prices"}:
        message = f"{file}: holds rules, and if wanted prices, and nothing else"
        raise ConfigError(message)
    return found


def print_json(report: dict[str, Any]) -> None:
    """Print one JSON object."""
    click.echo(json.dumps({"schema": _SCHEMA, **report}, indent=2))


@contextlib.contextmanager
def progress_bar(what: str, *, in_bytes: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error; nothing off a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    count = DownloadColumn(binary_units=True) if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), count)
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
