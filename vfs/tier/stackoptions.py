"""The option ``tiers``: several directories over one cold store, checked before any I/O.

What lives here: what each element may say, and how it becomes options of one tier over the next.
What must not: opening anything.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from vfs.config.options import check_known
from vfs.config.secrets import reveal
from vfs.errors import ConfigError
from vfs.tier.cold import overlap
from vfs.tier.options import TierOptions, hot_directory

__all__ = ["Places", "cold_url"]

#: What a directory may say for itself. The write mode is not among them: what is acknowledged is
#: where the last directory has it, or the cold store.
_DIRECTORY_OPTIONS: Final = ("hot", "max_bytes", "pin", "promote", "promote_max_bytes")
_COLD_OPTIONS: Final = ("cold", "engine", "options")

#: Below this there is nothing to be fast for, or nothing to be safe in.
_LEAST: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Which directory a tier is, and what it stands on.

    Parameters
    ----------
    options : TierOptions
        Of the directory.
    cold : str or None
        URL of the cold store, where the directory stands directly on one that has a URL.
    cold_options : dict
        Of it.
    engine : str
        Its client.
    below : dict or None
        Arguments of the tier that the directory stands on; None where there is no such tier.
    """

    options: TierOptions
    cold: str | None
    cold_options: dict[str, Any]
    engine: str
    below: dict[str, Any] | None = None

    @classmethod
    def parse(
        cls,
        *,
        tiers: object,
        named: Mapping[str, Any],
        cold_options: Mapping[str, Any],
        engine: str,
        each: Mapping[str, Any],
        last: Mapping[str, Any],
    ) -> Places:
        """Check what the user gave.

        Parameters
        ----------
        tiers : object
            The option, or None.
        named : mapping
            Places that are named by an option of their own: ``hot``, ``cold``, and others.
        cold_options, engine
            As given beside them.
        each, last : mapping
            Options that hold for every directory which does not say otherwise; and those of the
            last one.

        Raises
        ------
        ConfigError
            A wrong value or combination; the message names the option.
        """
        if tiers is None:
            options = TierOptions.parse(hot=reveal(named["hot"], name="hot"), **each, **last)
            return cls(
                options=options,
                cold=named["cold"],
                cold_options=dict(cold_options),
                engine=engine,
            )
        directories, cold = _parse_stack(tiers, named)
        cold = {"engine": engine, **cold, "options": {**cold_options, **cold.get("options", {})}}
        top = {**each, **directories[0]}
        if len(directories) == 1:
            return cls(
                options=TierOptions.parse(**top, **last),
                cold=cold["cold"],
                cold_options=cold["options"],
                engine=cold["engine"],
            )
        options = TierOptions.parse(**top)
        for directory in directories[1:-1]:
            TierOptions.parse(**{**each, **directory})
        TierOptions.parse(**{**each, **directories[-1]}, **last)
        below = {**each, **last, "tiers": [*directories[1:], cold]}
        below = {name: value for name, value in below.items() if value is not None}
        below["under"] = os.path.realpath(options.hot)
        return cls(options=options, cold=None, cold_options={}, engine="auto", below=below)


def _parse_stack(
    tiers: object, named: Mapping[str, object]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the directories from the top, and the cold store."""
    twice = sorted(name for name, value in named.items() if value is not None)
    if twice:
        message = f"tier: {', '.join(twice)} beside tiers; tiers names every place, cold the last"
        raise ConfigError(message)
    wanted = isinstance(tiers, Iterable) and not isinstance(tiers, str | bytes | Mapping)
    elements = list(cast("Iterable[object]", tiers)) if wanted else []
    if len(elements) < _LEAST:
        message = (
            "tier: tiers is a list of a directory or more and the cold store, as "
            "tiers=['/dev/shm/top', '/nvme/hot', 's3://bucket']"
        )
        raise ConfigError(message)
    directories = [_directory(element) for element in elements[:-1]]
    cold = _cold(elements[-1])
    for one, other in itertools.combinations([d["hot"] for d in directories], 2):
        if overlap(one, other):
            message = (
                f"tier: tiers: {one!r} and {other!r} overlap; put them in directories of which "
                f"neither lies in the other"
            )
            raise ConfigError(message)
    return directories, cold


def _directory(element: object) -> dict[str, Any]:
    if isinstance(element, str | os.PathLike):
        return {"hot": hot_directory(element)}
    if not isinstance(element, Mapping) or "hot" not in element:
        message = (
            f"tier: tiers: {_shown(element)} names no directory; give a path or "
            f"{{'hot': path, 'max_bytes': ...}}, and the cold store last"
        )
        raise ConfigError(message)
    _check_names(element, _DIRECTORY_OPTIONS)
    return {**element, "hot": hot_directory(reveal(element["hot"], name="hot"))}


def _cold(element: object) -> dict[str, Any]:
    if isinstance(element, str | os.PathLike):
        return {"cold": os.fspath(element)}
    if not isinstance(element, Mapping) or "cold" not in element:
        message = (
            f"tier: tiers: the last one, {_shown(element)}, is no cold store; give its URL or "
            f"{{'cold': url, 'options': ...}}"
        )
        raise ConfigError(message)
    _check_names(element, _COLD_OPTIONS)
    if not isinstance(element.get("options", {}), Mapping):
        raise ConfigError("tier: tiers: options of the cold store is not a mapping")
    return dict(element)


def _check_names(element: Mapping[str, Any], known: tuple[str, ...]) -> None:
    check_known("tier: tiers", element, known)
    for name in set(element) - set(known):
        # One of those that fsspec hands to any filesystem, but never to an element of a list.
        message = f"tier: tiers: unknown option {name!r}; known are {', '.join(known)}"
        raise ConfigError(message)


def _shown(element: object) -> str:
    """Return an element for a message: of a mapping only names, as values may be secrets."""
    if isinstance(element, Mapping):
        return "{" + ", ".join(map(repr, element)) + "}"
    return type(element).__name__ if not isinstance(element, int | float) else repr(element)


def cold_url(tiers: object) -> str | None:
    """Return the URL of the cold store, as far as it can be told of what is not checked yet."""
    if not isinstance(tiers, list | tuple) or not tiers:
        return None
    last = tiers[-1]
    found = last.get("cold") if isinstance(last, Mapping) else last
    return found if isinstance(found, str) else None
