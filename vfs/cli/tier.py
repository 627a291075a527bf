"""``vfs tier``: look after a hot tier, object by object: status, pending, flush, promote and so on.

What lives here: the verbs, their options, and how a result is shown. What must not: anything that
reads or changes objects (``vfs/tier``).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import click

from vfs.cli.tier_care import apply, fsck, plan, run
from vfs.cli.tier_place import (
    open_tier,
    path_option,
    print_json,
    progress_bar,
    tier_options,
)

if TYPE_CHECKING:
    from vfs.core.archive import Speed
    from vfs.tier.status import PendingChange

__all__ = ["tier"]

_TRANSIENT: Final = 5
_NOT_DURABLE: Final = 6


@click.group(short_help="Look after a hot tier: status, flush, promote, restore, plan, fsck, run.")
def tier() -> None:
    """Look after a hot tier (tier::URL).

    URL is an object or a place in the cold store, s3://bucket/prefix; a tier:: in front of it is
    fine. A hot directory belongs to one store opened in one way: give --hot, --option and --root
    as its users do; where they give tiers=, each directory by --tier, and as URL the cold store.

    \b
    Exit codes: 0 done, 1 a conflict, damage or refusal, 2 usage or configuration,
    3 not found, 5 transient, retry may help, 6 not in the cold store yet,
    130 interrupted.
    """  # noqa: D301 - \b is click's mark for a paragraph that keeps its lines


@tier.command(short_help="Show where an object is, or how full the hot tier is.")
@click.argument("url", metavar="URL")
@click.option("--object", "is_object", is_flag=True, help="URL is an object: say where it is.")
@path_option
@tier_options
def status(url: str, *, is_object: bool, inside: str, as_json: bool, **where: Any) -> None:
    """Show how full the hot tier is, and what the cold store does not have yet.

    With --object or --path: where an object is. Nothing is sent. Otherwise no request is made.
    """
    from vfs.config.sizes import format_bytes

    fs, path = open_tier(url, watch=False, inside=inside, **where)
    if is_object or inside:
        found = dataclasses.asdict(fs.status(path))
        if as_json:
            print_json(found)
            return
        for name, value in found.items():
            click.echo(f"{name:<8}  {value}")
        return
    stats = fs.stats()
    if as_json:
        report = dataclasses.asdict(stats)
        print_json({"safe": not stats.dirty_objects, **report})
        return
    safe = "yes" if not stats.dirty_objects else "no"
    for one in (stats, *stats.below):
        name = "hot" if one is stats else f"below, {one.directory}"
        full = f"{format_bytes(one.hot_bytes)} of {format_bytes(one.max_bytes)}"
        click.echo(f"{name:<28}{full}")
        click.echo(f"{'objects':<28}{one.hot_objects}")
    for name, value in (
        ("not in cold", f"{stats.dirty_objects} changes, {format_bytes(stats.dirty_bytes)}"),
        ("behind by", f"{stats.lag_s:.0f} s"),
        ("paused", stats.pause()),
        ("safe to switch off for good", safe),
    ):
        click.echo(f"{name:<28}{value}")


@tier.command(short_help="List what the cold store does not have yet.")
@click.argument("url", metavar="URL")
@path_option
@tier_options
def pending(url: str, *, as_json: bool, **where: Any) -> None:
    """List what the cold store does not have yet at URL and below it, oldest first.

    Nothing is sent, no request is made.
    """
    fs, path = open_tier(url, watch=False, **where)
    changes = fs.pending(path)
    if as_json:
        print_json({"pending": [dataclasses.asdict(change) for change in changes]})
        return
    for change in changes:
        click.echo(_line(change))
    if not changes:
        click.echo("nothing is pending")


@tier.command(short_help="Send what the cold store does not have yet.")
@click.argument("url", metavar="URL")
@click.option("--no-wait", is_flag=True, help="Ask those who run to send it, and return.")
@click.option("--timeout", "timeout_s", type=float, metavar="S", help="Wait so long at most.")
@path_option
@tier_options
@click.pass_context
def flush(
    ctx: click.Context,
    /,
    url: str,
    *,
    no_wait: bool,
    timeout_s: float | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Send what was written at URL and below it to the cold store, and wait until it is there.

    Exit code 6 while something is not. Conflicts and damage are told, and exit with 1.
    """
    fs, path = open_tier(url, **where)
    with progress_bar("sent", in_bytes=False) as progress:
        left = fs.flush(path, wait=not no_wait, timeout_s=timeout_s, progress=progress)
    if as_json:
        print_json({"durable": not left, "pending": left})
    elif left:
        click.echo(f"{left} changes are not in the cold store yet")
    else:
        click.echo("the cold store has everything")
    ctx.exit(_NOT_DURABLE if left else 0)


@tier.command(short_help="Copy to the hot tier.")
@click.argument("url", metavar="URL")
@click.option("--recursive", "-r", is_flag=True, help="A whole tree.")
@path_option
@tier_options
def promote(url: str, *, recursive: bool, as_json: bool, **where: Any) -> None:
    """Copy an object or a tree to the hot tier, whatever its size and the rules."""
    fs, path = open_tier(url, watch=False, **where)
    with progress_bar("promoted", in_bytes=False) as progress:
        fs.promote(path, recursive=recursive, progress=progress)
    if as_json:
        print_json({"path": path, "hot": True})
    else:
        click.echo(f"{path or url} is hot")


@tier.command(short_help="Send what cold lacks, then drop hot copies.")
@click.argument("url", metavar="URL")
@click.option("--recursive", "-r", is_flag=True, help="A whole tree.")
@path_option
@tier_options
def demote(url: str, *, recursive: bool, as_json: bool, **where: Any) -> None:
    """Make sure that the cold store has an object or a tree, then drop the hot copies."""
    from vfs.tier.daemon import send_as_users_do

    fs, path = open_tier(url, watch=False, **where)
    send_as_users_do(fs)
    with progress_bar("demoted", in_bytes=False) as progress:
        freed = fs.demote(path, recursive=recursive, progress=progress)
    _print_freed(path, freed, as_json=as_json)


@tier.command(short_help="Drop hot copies of what cold has.")
@click.argument("url", metavar="URL")
@click.option("--recursive", "-r", is_flag=True, help="A whole tree; what is unsent stays.")
@click.option("--from", "only", metavar="DIR", help="Of several directories, this one only.")
@path_option
@tier_options
def evict(url: str, *, recursive: bool, only: str | None, as_json: bool, **where: Any) -> None:
    """Drop the hot copy of an object or a tree. Refuses what the cold store does not have yet."""
    fs, path = open_tier(url, watch=False, **where)
    _print_freed(path, fs.evict(path, recursive=recursive, tier=only), as_json=as_json)


@tier.command(short_help="Never drop the hot copies of a name or glob.")
@click.argument("url", metavar="URL")
@path_option
@tier_options
def pin(url: str, *, as_json: bool, **where: Any) -> None:
    """Exempt an object, or those of a glob, from leaving the hot tier, in every process."""
    fs, path = open_tier(url, watch=False, **where)
    fs.pin(path)
    _print_pin(path, pinned=True, as_json=as_json)


@tier.command(short_help="Take back a pin.")
@click.argument("url", metavar="URL")
@path_option
@tier_options
def unpin(url: str, *, as_json: bool, **where: Any) -> None:
    """Take back the pin of exactly this name or glob."""
    fs, path = open_tier(url, watch=False, **where)
    fs.unpin(path)
    _print_pin(path, pinned=False, as_json=as_json)


@tier.command(short_help="Make archived objects of the cold store readable.")
@click.argument("url", metavar="URL")
@click.option("--recursive", "-r", is_flag=True, help="A whole tree.")
@click.option("--days", type=float, default=7.0, metavar="N", show_default=True, help="How long.")
@click.option(
    "--speed",
    type=click.Choice(["standard", "expedited", "bulk"]),
    default="standard",
    show_default=True,
    help="How fast, and at what price.",
)
@click.option("--wait", is_flag=True, help="Return when all of it can be read.")
@click.option("--timeout", "timeout_s", type=float, metavar="S", help="Wait so long at most.")
@path_option
@tier_options
@click.pass_context
def restore(
    ctx: click.Context,
    /,
    url: str,
    *,
    recursive: bool,
    days: float,
    speed: Speed,
    wait: bool,
    timeout_s: float | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Ask the cold store for archived objects, so that they can be read for a time.

    One that is under way is not asked for again. With --wait: exit code 5 while one cannot be read.
    """
    fs, path = open_tier(url, watch=False, **where)
    with progress_bar("readable", in_bytes=False) as progress:
        told = fs.restore(path, days, speed, wait, timeout_s, progress, recursive)
    if as_json:
        print_json({"objects": told})
    else:
        for name, state in told.items():
            click.echo(f"{name}  {state or 'not archived'}")
    left = sum(state == "restoring" for state in told.values())
    ctx.exit(_TRANSIENT if wait and left else 0)


def _print_freed(path: str, freed: int, *, as_json: bool) -> None:
    from vfs.config.sizes import format_bytes

    if as_json:
        print_json({"path": path, "bytes": freed})
    else:
        click.echo(f"{format_bytes(freed)} freed")


def _print_pin(path: str, *, pinned: bool, as_json: bool) -> None:
    if as_json:
        print_json({"path": path, "pinned": pinned})
    else:
        click.echo(f"{path} {'pinned' if pinned else 'unpinned'}")


def _line(change: PendingChange) -> str:
    from vfs.config.sizes import format_bytes

    size = format_bytes(change.size) if change.change == "put" else "removed"
    tries = f", {change.tries} failed tries: {change.error}" if change.tries else ""
    return f"{change.path}  {size}, {change.age_s:.0f} s, {change.state}{tries}"


for _command in (plan, apply, fsck, run):
    tier.add_command(_command)
