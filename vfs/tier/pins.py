"""The pins that were set by name, recorded in the hot directory for every process.

What lives here: the file they are in. What must not: patterns (``policies/pin.py``), who asks.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable

from vfs.core.durable import Staging
from vfs.errors import os_error
from vfs.tier.catalog import Catalog

__all__ = ["change_pins", "read_pins"]

_NAME = "pins.json"


def read_pins(state: str) -> list[str]:
    """Return the patterns of a state directory.

    Raises
    ------
    OSError
        [EIO] the file is damaged: to go on without it would evict what somebody pinned.
    """
    path = os.path.join(state, _NAME)
    try:
        with open(path, encoding="utf-8") as file:
            return [str(pattern) for pattern in json.load(file)]
    except FileNotFoundError:
        return []
    except ValueError as error:
        message = "the list of pins is damaged; repair or remove it"
        raise os_error(errno.EIO, path, message) from error


def change_pins(state: str, catalog: Catalog, add: Iterable[str], remove: Iterable[str]) -> None:
    """Record pins durably."""
    with catalog.transaction():  # one writer at a time, over all processes
        patterns = ({*read_pins(state)} | {*add}) - {*remove}
        with Staging(state, "power") as staging:
            staging.write(json.dumps(sorted(patterns)).encode())
            staging.publish(os.path.join(state, _NAME))
