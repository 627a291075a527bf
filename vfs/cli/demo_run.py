"""Running the steps of the demonstration: what each took, and whether it kept its promise.

What lives here: the clock, the counters, and what an unreadable result becomes. What must not:
what a step does.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TypeAlias

from vfs.cli.demo_data import Sample
from vfs.cli.demo_place import Place
from vfs.cli.demo_steps import PLAN, Demo, Outcome, Requests
from vfs.errors import ConfigError, is_retryable

__all__ = ["Step", "Tell", "run_steps"]

#: Told the name of the step that begins, and how much of all is done, from 0 to 1.
Tell: TypeAlias = Callable[[str, float], None]


@dataclass(slots=True)
class Step:
    """What one step did.

    Attributes
    ----------
    name : str
        For people.
    seconds : float
        Without the comparison.
    n_bytes : int
        Of the values written or read; of the objects where objects are compared or evicted.
    requests : int
        That reached the cold store.
    objects : dict of str to int
        How many objects are in which state afterwards.
    differences : list of str
        Empty if all is as it should be.
    """

    name: str
    seconds: float = 0.0
    n_bytes: int = 0
    requests: int = 0
    objects: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


def run_steps(samples: Sequence[Sample], place: Place, tell: Tell) -> list[Step]:
    """Do all steps.

    Parameters
    ----------
    samples : sequence of Sample
        The source; the first is climate output.
    place : Place
        Empty.
    tell : callable
        Told of progress.

    Returns
    -------
    list of Step
        All, or those up to the first whose result could not even be decoded.

    Raises
    ------
    ConfigError, OSError
        What the tier or the cold store raised.
    """
    steps: list[Step] = []
    with warnings.catch_warnings():
        # xarray consolidates by default, and zarr warns about it each time.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        demo = Demo(samples, place)
        # Before the clock of any step runs.
        for package in ("dask.array", "pyarrow.parquet", "zarr"):
            import_module(package)
        demo.table  # noqa: B018
        for number, (name, action, expected) in enumerate(PLAN):
            tell(name, number / len(PLAN))
            step = Step(name)
            steps.append(step)
            try:
                _perform(demo, step, action, expected)
            except ConfigError:
                raise
            except OSError as error:
                # Once something differs, that is the result, whatever a reader makes of it.
                if is_retryable(error) or not any(step.differences for step in steps):
                    raise
                step.differences.append(f"failed: {' '.join(str(error).split())}")
                break
            except (ValueError, RuntimeError, LookupError) as error:
                # What a codec says about bytes that are not what was written.
                told = " ".join(str(error).split())
                step.differences.append(f"unreadable: {type(error).__name__}: {told}")
                break
        tell("done", 1.0)
    return steps


def _perform(demo: Demo, step: Step, action: Callable[[Demo], Outcome], expected: Requests) -> None:
    before = demo.requests()
    started_s = time.perf_counter()
    outcome = action(demo)
    step.seconds = time.perf_counter() - started_s
    step.requests = demo.requests() - before
    step.n_bytes = int(outcome.n_bytes)
    step.differences += outcome.check()
    step.objects = demo.states()
    if (step.requests == 0) != (expected is Requests.NONE):
        step.differences.append(f"{expected.value}, but {step.requests} requests reached cold")
