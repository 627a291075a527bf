"""A new process for what forks often."""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def in_a_small_process(function: Callable[..., T], place: Path, *args: Any, **kwargs: Any) -> T:
    """Call ``function(place, ...)``, which a module has to give, where forking is cheap.

    A process that has run thousands of tests has a gigabyte of pages, which each fork counts and
    each child copies: a kill took 140 ms there, and 55 ms here.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_call, function, place, args, kwargs).result()


def _call(
    function: Callable[..., T], place: Path, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> T:
    # As in the fixture that made the place.
    tempfile.tempdir = str(place)
    return function(place, *args, **kwargs)
