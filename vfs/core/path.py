"""Names: what may be a key, and how a URL becomes one. Pure string functions.

What lives here: the path rules that every backend shares. What must not: I/O, ``os.path``.
"""

from __future__ import annotations

from vfs.errors import invalid_path, is_a_directory

__all__ = [
    "check_components",
    "check_writable_name",
    "clean_key",
    "join",
    "parent_keys",
    "strip_protocol",
]


def strip_protocol(path: str, protocols: tuple[str, ...]) -> str:
    """Remove ``proto://`` or ``proto::`` from the front of ``path``, if it is one of ours."""
    for protocol in protocols:
        if path.startswith(protocol) and path.startswith(("://", "::"), len(protocol)):
            cut = 3 if path.startswith("://", len(protocol)) else 2
            return path[len(protocol) + cut :]
    return path


def clean_key(path: str) -> str:
    """Return the key a path means, or refuse a name that can never be an object.

    Parameters
    ----------
    path : str
        Protocol already stripped.

    Returns
    -------
    str
        Without leading, trailing and doubled slashes; ``""`` is the root.

    Raises
    ------
    OSError
        [EINVAL] a NUL character, or a ``.`` or ``..`` component: silently resolving them would
        let a name reach outside the place the user gave, and object stores keep them apart.

    Examples
    --------
    >>> clean_key("/a//b/")
    'a/b'
    """
    check_components(path)
    if "//" in path or path[:1] == "/" or path[-1:] == "/":
        path = "/".join(part for part in path.split("/") if part)
    return path


def check_components(path: str) -> None:
    """Refuse what no key may hold; see :func:`clean_key`.

    Raises
    ------
    OSError
        [EINVAL] a NUL character, or a ``.`` or ``..`` component.
    """
    if "\0" in path:
        raise invalid_path(path, "it contains a NUL character")
    if path[:1] == "." or "/." in path:
        for part in path.split("/"):
            if part in {".", ".."}:
                raise invalid_path(path, f"component {part!r} is not allowed; give the full name")


def check_writable_name(path: str, key: str) -> None:
    """Refuse to write an object to a name that says "directory".

    Raises
    ------
    IsADirectoryError
        [EISDIR] ``path`` ends with a slash, or is the root.
    """
    if not key or path.endswith("/"):
        raise is_a_directory(path)


def join(root: str, key: str) -> str:
    """Put ``key`` below ``root``; an empty root or key adds no slash."""
    if not root:
        return key
    return f"{root.rstrip('/')}/{key}" if key else root


def parent_keys(key: str) -> list[str]:
    """Return every directory above ``key``, outermost first.

    Examples
    --------
    >>> parent_keys("a/b/c")
    ['a', 'a/b']
    """
    parts = key.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
