"""Unknown options are errors, with the nearest known name.

What lives here: the check of option names. What must not: option values.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from vfs.errors import ConfigError

__all__ = ["GENERIC_OPTIONS", "check_choice", "check_known"]

#: What fsspec, dask or pandas hand to any filesystem whatever it is; accepted and without effect.
#: ``anon``: pandas repeats a call that was refused with ``anon=True`` for the outermost layer;
#: an error about the option would hide the refusal. ``auto_mkdir``: parents are always made.
GENERIC_OPTIONS: Final = frozenset(
    {
        "anon",
        "asynchronous",
        "auto_mkdir",
        "batch_size",
        "listings_expiry_time",
        "loop",
        "max_paths",
        "skip_instance_cache",
        "use_listings_cache",
    }
)


def check_known(what: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse option names that nobody reads.

    Parameters
    ----------
    what : str
        Who was given the options, for the message.
    given : mapping
        The options; only names are looked at, so no secret can reach the message.
    known : iterable of str
        Names that mean something, besides :data:`GENERIC_OPTIONS`.

    Raises
    ------
    ConfigError
        An unknown name; the message suggests the nearest known one.

    Examples
    --------
    >>> check_known("tier", {"max_bite": 1}, ["max_bytes"])
    Traceback (most recent call last):
        ...
    vfs.errors.ConfigError: tier: unknown option 'max_bite'; did you mean 'max_bytes'?
    """
    names = sorted(known)
    for name in given:
        if name in names or name in GENERIC_OPTIONS:
            continue
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names) or 'none'}"
        message = f"{what}: unknown option {name!r}; {hint}"
        raise ConfigError(message)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises
    ------
    ConfigError
        It is not; the message lists the choices.
    """
    if isinstance(value, str) and value in choices:
        return value
    message = f"{name}: {value!r} is not one of {', '.join(map(repr, choices))}"
    raise ConfigError(message)
