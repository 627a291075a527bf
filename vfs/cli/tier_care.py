"""``vfs tier plan | apply | fsck | run``: look after a whole hot tier.

What lives here: the verbs, their options, signals, and how a result is shown. What must not:
deciding or doing anything (``vfs/tier``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from vfs.cli.tier_place import (
    open_tier,
    print_json,
    progress_bar,
    rules_option,
    tier_options,
)

if TYPE_CHECKING:
    from vfs.tier.plan import Plan

__all__ = ["apply", "fsck", "plan", "run"]

_FAILED: Final = 1

#: How often the main thread looks whether the daemon has ended by itself.
_LOOK_S: Final = 0.5


@click.command(short_help="Say what the rules ask for, and why; do nothing.")
@click.argument("url", metavar="URL")
@click.option("--explain", is_flag=True, help="Each move, with its rule and reason.")
@rules_option
@tier_options
def plan(url: str, *, explain: bool, as_json: bool, **where: Any) -> None:
    """Say what the rules ask for now: what would be sent, demoted, promoted, and what it costs.

    Nothing is done, no request is made. The --json form can be given to apply.
    """
    fs, _ = open_tier(url, watch=False, **where)
    found = fs.plan()
    if as_json:
        totals = {"requests": found.requests, "price": found.price}
        print_json({**dataclasses.asdict(found), **totals})
    else:
        click.echo(found.explain() if explain else str(found))


@click.command("apply", short_help="Make the moves of a plan.")
@click.argument("url", metavar="URL")
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="What plan --json printed: exactly those moves. Else a new plan is made.",
)
@rules_option
@tier_options
@click.pass_context
def apply(
    ctx: click.Context, /, url: str, *, plan_file: str | None, as_json: bool, **where: Any
) -> None:
    """Make the moves of a plan, those of objects that have not changed since.

    Exit code 1 if a move was skipped.
    """
    from vfs.tier.daemon import send_as_users_do

    fs, _ = open_tier(url, watch=False, **where)
    send_as_users_do(fs)
    made = fs.plan() if plan_file is None else _read_plan(plan_file)
    with progress_bar("moves", in_bytes=False) as progress:
        applied = fs.apply(made, progress)
    if as_json:
        skipped = [{**dataclasses.asdict(move), "why": why} for move, why in applied.skipped]
        print_json(
            {"done": [dataclasses.asdict(move) for move in applied.done], "skipped": skipped}
        )
    else:
        click.echo(str(applied))
    ctx.exit(_FAILED if applied.skipped else 0)


def _read_plan(file: str) -> Plan:
    import msgspec

    from vfs.errors import ConfigError
    from vfs.tier.plan import Plan

    with open(file, "rb") as opened:
        text = opened.read()
    try:
        return msgspec.json.decode(text, type=Plan)
    except msgspec.MsgspecError as error:
        message = f"{file} is not what plan --json prints: {error}"
        raise ConfigError(message) from error


@click.command(short_help="Check every hot copy; --repair mends what loses nothing.")
@click.argument("url", metavar="URL")
@click.option("--repair", is_flag=True, help="Drop damaged clean copies, put unsent ones aside.")
@click.option("--no-cold", is_flag=True, help="Do not ask the cold store.")
@tier_options
@click.pass_context
def fsck(
    ctx: click.Context, /, url: str, *, repair: bool, no_cold: bool, as_json: bool, **where: Any
) -> None:
    """Check every hot copy against its checksum, the records, and the cold store.

    Reads all of the hot tier; one request an object. Safe while others use it. Exit code 1 if
    anything is wrong that was not repaired.
    """
    fs, _ = open_tier(url, watch=False, **where)
    with progress_bar("checked", in_bytes=True) as progress:
        report = fs.fsck(repair=repair, cold=not no_cold, progress=progress)
    if as_json:
        print_json({"ok": report.ok, **dataclasses.asdict(report)})
    else:
        click.echo(str(report))
    ctx.exit(0 if report.ok else _FAILED)


@click.command(short_help="Upload, move by the rules, and scrub until stopped.")
@click.argument("url", metavar="URL")
@click.option(
    "--plan-every",
    "plan_every_s",
    type=float,
    default=3600.0,
    metavar="S",
    show_default=True,
    help="Make and apply a plan so often; 0: never.",
)
@click.option(
    "--scrub-every",
    "scrub_every_s",
    type=float,
    default=604800.0,
    metavar="S",
    show_default=True,
    help="Check every copy so often; 0: never.",
)
@click.option(
    "--scrub-rate",
    default="10 MiB",
    metavar="SIZE",
    show_default=True,
    help="Read so much a second for it, at most.",
)
@click.option(
    "--quiet-s",
    type=float,
    default=None,
    metavar="S",
    help="The option of the tier, if its users give it.",
)
@click.option(
    "--delay-s",
    type=float,
    default=None,
    metavar="S",
    help="The option of the tier, if its users give it.",
)
@click.option(
    "--stop-timeout",
    "stop_timeout_s",
    type=float,
    default=60.0,
    metavar="S",
    show_default=True,
    help="When stopped, send what waits for so long at most.",
)
@rules_option
@tier_options
def run(
    url: str,
    *,
    plan_every_s: float,
    scrub_every_s: float,
    scrub_rate: str,
    quiet_s: float | None,
    delay_s: float | None,
    stop_timeout_s: float,
    as_json: bool,
    **where: Any,
) -> None:
    """Look after a hot tier in the foreground, as a service does.

    Sends what any process has written, moves by the rules, checks copies. SIGTERM and SIGINT end
    it, with exit code 0, after what can be sent was sent. With --json one object a line.
    """
    from vfs.config.sizes import parse_bytes
    from vfs.core.loop import io_loop, wait
    from vfs.tier.daemon import TierDaemon

    rate = parse_bytes(scrub_rate, "scrub-rate", minimum=1)
    fs, _ = open_tier(url, watch=False, **where)
    fs._require_hot("")

    def tell(kind: str, line: str) -> None:
        click.echo(json.dumps({"event": kind, "detail": line}) if as_json else f"{kind}: {line}")

    daemon = TierDaemon(
        fs,
        plan_every_s=plan_every_s,
        scrub_every_s=scrub_every_s,
        scrub_bytes_per_s=rate,
        quiet_s=quiet_s,
        delay_s=delay_s,
        tell=tell,
    )
    with _told_to_stop() as told:
        stop = asyncio.Event()
        tell("started", str(fs))
        work = asyncio.run_coroutine_threadsafe(daemon.run(stop), io_loop())
        while not told.wait(_LOOK_S) and not work.done():
            pass
        io_loop().call_soon_threadsafe(stop.set)
        work.result()
        left = wait(daemon.finish, stop_timeout_s)
    unsent = f"{left} changes are unsent" if left > 0 else "what is unsent cannot be told"
    tell("stopped", unsent if left else "the cold store has everything")


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """Yield what SIGTERM and SIGINT set; a second one ends the process at once."""
    told = threading.Event()
    before: dict[int, Any] = {}

    def stop(number: int, _: object) -> None:
        told.set()
        signal.signal(number, before[number])

    for ending in (signal.SIGTERM, signal.SIGINT):
        before[ending] = signal.signal(ending, stop)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
