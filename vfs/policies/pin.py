"""Pins: glob patterns whose objects never leave the hot tier.

What lives here: matching names against patterns. What must not: where patterns are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["PinSet", "glob_to_regex"]


def glob_to_regex(pattern: str) -> str:
    """Translate a glob over whole keys.

    ``*`` and ``?`` stay inside one path component, ``**`` crosses them, ``[...]`` is a set. A
    pattern without a slash is matched against the whole key too, so ``zarr.json`` means the one
    at the root and ``**/zarr.json`` means every one.

    Examples
    --------
    >>> bool(re.fullmatch(glob_to_regex("**/zarr.json"), "zarr.json"))
    True
    """
    out = []
    position = 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            out.append("(?:.*/)?")
            position += 3
        elif pattern.startswith("**", position):
            out.append(".*")
            position += 2
        elif pattern[position] == "*":
            out.append("[^/]*")
            position += 1
        elif pattern[position] == "?":
            out.append("[^/]")
            position += 1
        elif pattern[position] == "[" and (end := pattern.find("]", position + 2)) > 0:
            inner = pattern[position + 1 : end].replace("\\", "\\\\")
            inner = f"^{inner[1:]}" if inner.startswith("!") else inner
            out.append(f"[{inner}]")
            position = end + 1
        else:
            out.append(re.escape(pattern[position]))
            position += 1
    return "".join(out)


class PinSet:
    """An immutable set of pin patterns.

    Parameters
    ----------
    patterns : iterable of str
        Globs over keys; a literal key is a glob that matches itself.

    Examples
    --------
    >>> "a/zarr.json" in PinSet(["**/zarr.json"])
    True
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(sorted(set(patterns)))
        union = "|".join(f"(?:{glob_to_regex(p)})" for p in self.patterns)
        self._match = re.compile(union, re.DOTALL).fullmatch if union else None

    def __contains__(self, key: object) -> bool:
        return self._match is not None and isinstance(key, str) and self._match(key) is not None
