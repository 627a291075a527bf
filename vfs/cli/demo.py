"""``vfs demo``: real data through a tier, written, read cold, read hot, and compared.

What lives here: the command, its options, and how a result is shown. What must not: the steps
(``demo_steps.py``, ``demo_run.py``), the places (``demo_place.py``), the data (``demo_data.py``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from vfs.cli.demo_data import Sample
    from vfs.cli.demo_place import Place
    from vfs.cli.demo_run import Step, Tell

__all__ = ["demo"]

_SCHEMA: Final = 1  # of --json; fields may be added under the same number
_WIDTH: Final = 110  # of the table where there is no terminal
_SHOWN: Final = 20  # differences on a page; --json has all
_TERMINATED: Final = 128 + signal.SIGTERM

_VERSIONS: Final = ("fsspec-vfs", "fsspec", "zarr", "xarray", "pandas", "pyarrow", "dask", "numpy")


@click.command(short_help="Run real data through a tier and compare every byte.")
@click.option(
    "--cold",
    metavar="URL",
    help="Cold store: a directory or any fsspec URL. A new directory is made below it and removed "
    "again. Default: a local directory.",
)
@click.option(
    "--cold-option",
    "pairs",
    metavar="KEY=VALUE",
    multiple=True,
    help="Option of the cold store's filesystem; repeatable. VALUE may be JSON, KEY may be "
    'a.b. A secret is better given as KEY=\'{"env": "NAME"}\'.',
)
@click.option("--s3", is_flag=True, help="Use an S3 server, started on this machine, as cold.")
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Work in this empty directory and leave everything there.",
)
@click.option(
    "--files",
    metavar="N",
    type=click.IntRange(min=1),
    help="Use so many of the files at most. Default: all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
def demo(
    ctx: click.Context,
    *,
    cold: str | None,
    pairs: tuple[str, ...],
    s3: bool,
    keep: Path | None,
    files: int | None,
    as_json: bool,
) -> None:
    """Run real data through a tier and compare every byte.

    Ocean and climate model output (netCDF, from the package iris-sample-data) is written with
    xarray as zarr through a tier into a cold store. It is read back from the cold store, then
    from the hot directory; a table does the same through pandas and parquet, a reduction through
    dask. Each value is compared with the source, each object with what a plain filesystem finds
    in the cold store. A cold step must reach the cold store, a hot step must not.

    \b
    Exit codes: 0 all is the same, 1 something differs or failed,
    2 usage or configuration, 5 transient, retry may help, 130 interrupted.
    """  # noqa: D301 - \b is click's mark for a paragraph that keeps its lines
    if s3 and (cold or pairs or keep):
        raise click.UsageError(
            "--s3 brings its own cold store, which ends with the command: "
            "leave out --cold, --cold-option and --keep"
        )
    from vfs.cli.demo_data import NEEDED, need, open_sample, sample_files
    from vfs.cli.demo_place import cold_options, demo_place
    from vfs.cli.demo_run import run_steps

    need((*NEEDED, "flask", "moto", "s3fs") if s3 else NEEDED)
    started_s = time.perf_counter()
    options = cold_options(pairs)
    with (
        _ending_cleanly(),
        demo_place(cold=cold, options=options, s3=s3, keep=keep, warn=_warn) as place,
        _quiet_when_interrupted(),
    ):
        with _progress() as tell:
            tell("open the source", 0.0)
            samples = [open_sample(path) for path in sample_files(files)]
            steps = run_steps(samples, place, tell)
        report = _report(samples, place, steps, kept=keep is not None)
        report["seconds"] = round(time.perf_counter() - started_s, 6)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _show(report)
    ctx.exit(0 if report["ok"] else 1)


def _warn(message: str) -> None:
    click.echo(f"Warning: {message}", err=True)


@contextlib.contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that what was made is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _quiet_when_interrupted() -> Iterator[None]:
    """Say nothing of writes whose directories are being removed: that is what was asked for."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        for name in ("vfs", "asyncio"):  # asyncio tells of tasks left on the consumers' loops
            logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")  # coroutines that will never be awaited
        raise


@contextlib.contextmanager
def _progress() -> Iterator[Tell]:
    """Show a bar on standard error; nothing off a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda name, done: progress.update(
            task, description=name, completed=done, refresh=True
        )


def _report(
    samples: list[Sample], place: Place, steps: list[Step], *, kept: bool
) -> dict[str, Any]:
    """Put everything that is told in one dictionary, whose JSON is the output of ``--json``."""
    differences = [f"{step.name}: {line}" for step in steps for line in step.differences]
    return {
        "schema": _SCHEMA,
        "ok": not differences,
        "hot": str(place.hot),
        "cold": place.shown,
        "kept": kept,
        "requests_counted_by": "tier" if place.server_requests is None else "server",
        "source": [
            {
                "name": sample.path.name,
                "file_bytes": sample.path.stat().st_size,
                "array_bytes": int(sample.dataset.nbytes),
                "arrays": len(sample.dataset.variables),
            }
            for sample in samples
        ],
        "steps": [
            {
                "step": step.name,
                "seconds": round(step.seconds, 6),
                "bytes": step.n_bytes,
                "requests": step.requests,
                "objects": step.objects,
                "differences": step.differences,
            }
            for step in steps
        ],
        "differences": differences,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in _VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    from rich.console import Console
    from rich.table import Table

    from vfs.config.sizes import format_bytes

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    say = _saying(console)
    source = report["source"]
    arrays, n_bytes = (sum(file[name] for file in source) for name in ("arrays", "array_bytes"))
    say(f"{len(source)} files, {arrays} arrays, {format_bytes(n_bytes)}: {_names(source)}")
    say(f"hot {report['hot']}\ncold {report['cold']}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("step", no_wrap=True)
    for name in ("time", "bytes", "requests to cold"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("objects now", no_wrap=True)
    table.add_column("compared", no_wrap=True)
    for step in report["steps"]:
        wrong = len(step["differences"])
        table.add_row(
            step["step"],
            _duration(step["seconds"]),
            format_bytes(step["bytes"]),
            str(step["requests"]),
            "  ".join(f"{count:>4} {state}" for state, count in step["objects"].items()),
            f"[red]{wrong} differ[/red]" if wrong else "same",
        )
    console.print(table)
    say("")
    if report["ok"]:
        say("Every value and every byte is the same; no hot step reached the cold store.")
    for line in report["differences"][:_SHOWN]:
        say(f"DIFFERS {line}")
    if (more := len(report["differences"]) - _SHOWN) > 0:
        say(f"... and {more} more, all in --json")
    say("Left where it is." if report["kept"] else "Hot and cold were removed again.")


def _saying(console: Any) -> Callable[[str], None]:
    """Return a print of plain text: a name in brackets is no markup, a long line stays one."""
    return lambda text: console.print(text, markup=False, soft_wrap=True)


def _names(source: list[dict[str, Any]]) -> str:
    return ", ".join(file["name"].removesuffix(".nc") for file in source)


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
