"""``vfs cache``: look after a block cache: status, warm, check, evict, clear, fsck.

What lives here: the verbs, their options, and how a result is shown. What must not: anything that
reads or changes blocks (``vfs/cache``).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from vfs.cache.engine import CacheEngine
    from vfs.cache.filesystem import CacheFileSystem
    from vfs.errors import ConfigError
    from vfs.types import Progress

__all__ = ["cache"]

_SCHEMA: Final = 1  # of --json; fields may be added under the same number
_FAILED: Final = 1
_MODES: Final = ("open", "immutable", "ttl", "strict")
_AGES: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))

_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_directory_argument = click.argument("directory", metavar="DIR")
_directory_or_default = click.argument("directory", metavar="[DIR]", required=False)


_TARGET_OPTIONS: Final = (
    click.option(
        "--option",
        "pairs",
        metavar="KEY=VALUE",
        multiple=True,
        help="Option of the URLs' filesystem, as the readers give it; repeatable. VALUE may be "
        'JSON, KEY may be a.b. A secret is better given as KEY=\'{"env": "NAME"}\'.',
    ),
    click.option("--grain-bytes", metavar="SIZE", help="Size of a block, if the readers give it."),
    click.option("--small-bytes", metavar="SIZE", help="The same, of what is one block."),
)


def _target_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add what says which store is meant, and how its readers cut its objects."""
    for option in reversed(_TARGET_OPTIONS):
        function = option(function)
    return function


@click.group(short_help="Look after a block cache: status, warm, check, evict, clear.")
def cache() -> None:
    """Look after a block cache (cache::URL).

    DIR is the directory that the cache is given. Where it may be left out, the platform's cache
    directory is meant, as it is in Python. Only warm makes a directory. URLs are those of the
    store, s3://bucket/prefix; a cache:: in front of them is fine.

    \b
    Exit codes: 0 done, 1 damage was found or some items failed,
    2 usage or configuration, 3 not found, 5 transient, retry may help,
    130 interrupted.
    """  # noqa: D301 - \b is click's mark for a paragraph that keeps its lines


# ---------------------------------------------------------------- without a store


@cache.command(short_help="Show how full a cache is.")
@_directory_or_default
@_json_option
def status(directory: str | None, *, as_json: bool) -> None:
    """Show how full a cache is.

    Every block is counted, none is read; nothing is made or changed. "Used" is what the cache
    reckons with: it may be above what lies there for a while, never below.
    """
    from vfs.cache.summary import summarize_cache
    from vfs.config.sizes import format_bytes

    found = summarize_cache(_root(directory))
    if as_json:
        _print_json(found.as_dict())
        return
    limit = "no limit yet"
    if found.max_bytes:
        share = f"{100 * found.used_bytes / found.max_bytes:.1f} %"
        limit = f"{format_bytes(found.max_bytes)} ({share})"
    oldest = "none" if found.oldest_block_s is None else _age(found.oldest_block_s)
    click.echo(found.directory)
    for name, value in (
        ("used", f"{format_bytes(found.used_bytes)} of {limit}"),
        ("tables", format_bytes(found.tables_bytes)),
        ("blocks", str(found.blocks)),
        ("small queue", format_bytes(found.small_bytes)),
        ("main queue", format_bytes(found.main_bytes)),
        ("oldest block", oldest),
    ):
        click.echo(f"{name:<12}  {value}")


@cache.command(short_help="Remove every block.")
@_directory_or_default
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_json_option
@click.pass_context
def clear(ctx: click.Context, directory: str | None, *, yes: bool, as_json: bool) -> None:
    """Remove every block of a cache, of whatever store.

    Nothing is lost but time: readers fetch again what they want. The directory stays a cache.
    """
    from vfs.cache.maintain import clear_blocks
    from vfs.cache.summary import summarize_cache
    from vfs.config.sizes import format_bytes

    root = _root(directory)
    found = summarize_cache(root)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("clear asks first, and here is nobody to ask; give --yes")
        what = f"Remove {_blocks(found.blocks)}, {format_bytes(found.block_bytes)}, from {root}?"
        if not click.confirm(what, err=True):
            click.echo("Nothing was removed.", err=True)
            ctx.exit(_FAILED)
    engine = _engine(root)
    removed = clear_blocks(root, engine.ledger)
    if as_json:
        _print_json({"directory": root, "blocks": removed})
    else:
        click.echo(f"{_blocks(removed)} removed")


@cache.command(short_help="Verify every block, remove the damaged, recount.")
@_directory_or_default
@_json_option
@click.pass_context
def fsck(ctx: click.Context, directory: str | None, *, as_json: bool) -> None:
    """Verify every block of a cache, remove the damaged and recount the rest.

    Reads the whole cache. Safe while others use it. Exit code 1 if anything was damaged.
    """
    _fsck(ctx, _root(directory), as_json=as_json)


def _fsck(ctx: click.Context, root: str, *, as_json: bool) -> None:
    from vfs.cache.maintain import fsck_blocks
    from vfs.cache.summary import require_cache
    from vfs.config.sizes import format_bytes

    require_cache(root)
    engine = _engine(root)
    found = fsck_blocks(root, engine.ledger)
    if as_json:
        _print_json({"directory": root, "ok": not found.damaged, **found.as_dict()})
    else:
        click.echo(f"{_blocks(found.blocks)} right, {format_bytes(found.bytes)}")
        if found.damaged:
            click.echo(f"DAMAGED {_blocks(found.damaged)}, removed")
    ctx.exit(_FAILED if found.damaged else 0)


# ---------------------------------------------------------------- of a store


@cache.command(short_help="Fetch objects or trees before they are wanted.")
@_directory_argument
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("--max-bytes", metavar="SIZE", help="Limit of the directory, from now on.")
@click.option(
    "--consistency",
    type=click.Choice(_MODES),
    default="open",
    show_default=True,
    help="How old an answer may be. open asks for the version of every object, so that what is "
    "in the store now is fetched; immutable asks only for objects it has never heard of.",
)
@_target_options
@_json_option
@click.pass_context
def warm(
    ctx: click.Context,
    /,
    directory: str,
    urls: tuple[str, ...],
    *,
    max_bytes: str | None,
    consistency: str,
    as_json: bool,
    **target: Any,
) -> None:
    """Fetch objects, or whole trees, before they are wanted.

    What is here already is not fetched again. Readers find it if they name the same DIR and the
    same store: URL and options of the store as here, and the same block sizes. An interrupted
    warm keeps what has come.
    """
    from vfs.config.sizes import format_bytes

    stores = _Stores(_root(directory), max_bytes=max_bytes, consistency=consistency, **target)
    opened = [stores.open(url) for url in urls]
    done = 0
    with _progress() as bar:
        for url, fs, path in opened:
            with stores.noting_failure(url):
                done += fs.warm(path, bar(url))
    stats = opened[0][1].stats()  # all of them share the directory
    kept = not stats.not_kept and done <= stats.max_bytes
    if not kept:
        click.echo("Warning: not all of it is kept, see the limit and the disk", err=True)
    if as_json:
        ok = kept and not stores.failed
        _print_json({"ok": ok, **stats.as_dict(), "bytes": done, "failed": stores.failed})
    elif len(stores.failed) < len(urls):
        click.echo(f"{format_bytes(done)} warmed, {format_bytes(stats.bytes_fetched)} fetched")
        click.echo(f"{format_bytes(stats.used_bytes)} used of {format_bytes(stats.max_bytes)}")
    ctx.exit(stores.code(len(urls)) or (0 if kept else _FAILED))


@cache.command(short_help="Verify the blocks of objects or trees, or all.")
@_directory_argument
@click.argument("urls", metavar="[URL]...", nargs=-1)
@_target_options
@_json_option
@click.pass_context
def check(
    ctx: click.Context,
    /,
    directory: str,
    urls: tuple[str, ...],
    *,
    as_json: bool,
    **target: Any,
) -> None:
    """Verify the blocks of objects or trees; without a URL every block, as fsck does.

    Damaged blocks are removed and fetched again when they are wanted. Of an object, the blocks of
    the version known here are meant; the store is asked for what is not known, and for listings.
    Exit code 1 if anything was damaged.
    """
    root = _root(directory)
    if not urls:
        _fsck(ctx, root, as_json=as_json)
    stores = _known_stores(root, **target)
    opened = [stores.open(url) for url in urls]
    damaged: dict[str, int] = {}
    for url, fs, path in opened:
        with stores.noting_failure(url):
            for key, count in fs.check(path).items():
                damaged[_shown(key)] = count
    if as_json:
        ok = not damaged and not stores.failed
        count = sum(damaged.values())
        objects = [{"key": key, "blocks": blocks} for key, blocks in damaged.items()]
        report = {"directory": root, "ok": ok, "damaged": count, "objects": objects}
        _print_json({**report, "failed": stores.failed})
    else:
        for key, count in damaged.items():
            click.echo(f"DAMAGED {key}: {_blocks(count)}, removed")
        if not damaged and not stores.failed:
            click.echo("no damage")
    ctx.exit(_FAILED if damaged else stores.code(len(urls)))


@cache.command(short_help="Drop the blocks of objects or trees.")
@_directory_argument
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@_target_options
@_json_option
@click.pass_context
def evict(
    ctx: click.Context,
    /,
    directory: str,
    urls: tuple[str, ...],
    *,
    as_json: bool,
    **target: Any,
) -> None:
    """Drop the blocks of objects or trees; the store keeps its objects.

    Of an object, the blocks of the version known here are meant; the store is asked for what is
    not known, and for listings. Blocks of older versions leave by themselves, or by clear.
    """
    root = _root(directory)
    stores = _known_stores(root, **target)
    opened = [stores.open(url) for url in urls]
    dropped = 0
    for url, fs, path in opened:
        with stores.noting_failure(url):
            dropped += fs.evict(path)
    if as_json:
        ok, failed = not stores.failed, stores.failed
        _print_json({"directory": root, "ok": ok, "blocks": dropped, "failed": failed})
    elif len(stores.failed) < len(urls):
        click.echo(f"{_blocks(dropped)} evicted")
    ctx.exit(stores.code(len(urls)))


class _Stores:
    """The filesystems of some URLs over one cache directory, and which of them failed.

    Parameters
    ----------
    root : str
        The directory.
    pairs : tuple of str
        Options of the stores, each ``KEY=VALUE``.
    **options
        Of the cache; those that are None are left out.
    """

    def __init__(self, root: str, pairs: tuple[str, ...], **options: str | None) -> None:
        from vfs.cli.demo_place import cold_options
        from vfs.errors import ConfigError

        given = {name: value for name, value in options.items() if value is not None}
        self._cache = {"directory": root, **given}
        try:
            self._target = cold_options(pairs)
        except ConfigError as error:
            raise ConfigError(str(error).replace("--cold-option", "--option")) from None
        self._codes: list[int] = []
        self.failed: list[dict[str, str]] = []

    def open(self, url: str) -> tuple[str, CacheFileSystem, str]:
        """Return a URL as it may be shown, its cache and its path there.

        Raises
        ------
        ConfigError
            A wrong URL or option, or a package that is missing.
        """
        from fsspec.core import url_to_fs

        from vfs.cache.filesystem import CacheFileSystem
        from vfs.errors import ConfigError

        target = _target_url(url)
        protocol = target.rpartition("::")[2].partition("://")[0]
        options = {protocol: self._target} if self._target else {}
        try:
            fs, path = url_to_fs(f"cache::{target}", cache=self._cache, **options)
        except ConfigError:
            raise
        except (ImportError, TypeError, ValueError) as error:
            raise _wrong(url, f"cannot be opened: {error}") from error
        assert isinstance(fs, CacheFileSystem)  # noqa: S101 - its name stands first
        return _shown(url), fs, path

    @contextlib.contextmanager
    def noting_failure(self, url: str) -> Iterator[None]:
        """Tell and note a failure, so that the other URLs have their turn.

        Raises
        ------
        ConfigError
            An option that the store's client refuses only now.
        """
        from vfs.cli.main import _Failure, exit_code

        try:
            yield
        except OSError as error:
            code = exit_code(error) or _FAILED
            failure = _Failure(error, code)
            failure.show()
            self._codes.append(code)
            self.failed.append({"url": url, "error": failure.format_message()})
        except (TypeError, ValueError) as error:
            if _is_ours(error):
                raise
            raise _wrong(url, f"cannot be used: {error}") from error

    def code(self, count: int) -> int:
        """Return the exit code of ``count`` URLs: their own if all failed alike, else 1."""
        if not self._codes:
            return 0
        alike = len(self._codes) == count and len(set(self._codes)) == 1
        return self._codes[0] if alike else _FAILED


def _known_stores(root: str, **target: Any) -> _Stores:
    """Return stores whose objects are taken in the version that is known: that one is here."""
    from vfs.cache.summary import require_cache

    require_cache(root)
    return _Stores(root, consistency="immutable", **target)


def _target_url(url: str) -> str:
    """Return the URL of what a cache stands on; what stands over it does not matter to it."""
    parts = url.split("::")
    if parts.count("cache") > 1:
        raise _wrong(url, "has two caches; name one")
    if "cache" in parts:
        parts = parts[parts.index("cache") + 1 :]
    if len(parts) > 1 or "://" in parts[0]:
        return "::".join(parts)
    protocol, colon, rest = parts[0].partition(":")
    if colon and not os.path.lexists(parts[0]):
        raise _wrong(url, f"is neither a URL nor a local path; {protocol}://{rest.lstrip('/')}?")
    return f"file://{os.path.abspath(os.path.expanduser(parts[0]))}"


def _is_ours(error: Exception) -> bool:
    """Say whether an error was raised in this library, and not in a client below it."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and str(frame.tb_frame.f_globals["__name__"]).startswith("vfs.")


def _wrong(url: str, why: str) -> ConfigError:
    from vfs.errors import ConfigError

    return ConfigError(f"{_shown(url)} {_shown(why)}")


def _shown(text: str) -> str:
    from vfs.config.secrets import redact_url

    return redact_url(text)


def _root(directory: str | None) -> str:
    from vfs.cache.options import CacheOptions

    return CacheOptions.parse(directory=directory).directory


def _engine(root: str) -> CacheEngine:
    """Open a directory that is known to be a cache."""
    from vfs.cache.engine import CacheEngine
    from vfs.core.engine import get_engine
    from vfs.errors import UnavailableError

    engine = get_engine(CacheEngine, os.path.realpath(root), lambda: CacheEngine(root))
    if not engine.usable():
        raise UnavailableError("the cache directory cannot be used, see above", root)
    return engine


def _print_json(report: dict[str, Any]) -> None:
    click.echo(json.dumps({"schema": _SCHEMA, **report}, indent=2))


def _blocks(count: int) -> str:
    return "1 block" if count == 1 else f"{count} blocks"


def _age(seconds: float) -> str:
    """Return an age for people, in its largest unit.

    Examples
    --------
    >>> _age(0.4), _age(7200)
    ('0 s', '2 h')
    """
    for unit, length in _AGES[:-1]:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], Progress]]:
    """Show a bar a URL on standard error; nothing off a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Bars(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:

        def start(url: str) -> Callable[[int, int], None]:
            task = progress.add_task(url, total=None)
            return lambda done, total: progress.update(
                task, completed=done, total=total, refresh=True
            )

        yield start
