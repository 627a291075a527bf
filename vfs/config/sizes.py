"""Sizes as people write them: ``"500 GiB"``, ``"64 KB"``, ``1048576``.

What lives here: parsing and printing of byte counts. What must not: percentages of a disk, which
need I/O.
"""

from __future__ import annotations

import re
from typing import Final

from vfs.errors import ConfigError

__all__ = ["format_bytes", "parse_bytes"]

_UNITS: Final = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**n for n, prefix in enumerate("kmgtpe", 1)},
    **{f"{prefix}ib": 1024**n for n, prefix in enumerate("kmgtpe", 1)},
}
_PATTERN: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def parse_bytes(value: object, name: str, *, minimum: int = 0) -> int:
    """Return a number of bytes.

    Parameters
    ----------
    value : int or str
        An integer, or a number with ``B``, ``kB`` .. ``EB`` (powers of 1000) or ``KiB`` ..
        ``EiB`` (powers of 1024).
    name : str
        The option, for the error message.
    minimum : int
        Smaller values are refused.

    Raises
    ------
    ConfigError
        Not a size, or below ``minimum``.

    Examples
    --------
    >>> parse_bytes("1.5 KiB", "max_bytes"), parse_bytes(10, "max_bytes")
    (1536, 10)
    """
    size: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _PATTERN.fullmatch(value)):
        unit = _UNITS.get(match[2].lower())
        if unit is not None:
            size = int(float(match[1]) * unit)
    if size is None:
        message = f"{name}: {value!r} is not a size; give bytes or for example '500 GiB'"
        raise ConfigError(message)
    if size < minimum:
        message = f"{name}: {value!r} is too small; at least {format_bytes(minimum)} is needed"
        raise ConfigError(message)
    return size


def format_bytes(size: float) -> str:
    """Return a size for people, in binary units.

    Examples
    --------
    >>> format_bytes(1536), format_bytes(12)
    ('1.5 KiB', '12 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} PiB"
