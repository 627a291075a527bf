"""Secrets: kept out of every repr, pickle, JSON, token, log and error; found again by reference.

What lives here: which option names are secret, sealing and revealing. What must not: storing a
secret anywhere but in this process's memory.

A secret may be given as itself, as ``{"env": "NAME"}`` or as ``{"file": "PATH"}``. The last two
travel to other processes as references. A plain one is sealed when its filesystem is pickled or
turned into JSON: the same process (and its forks) can open the seal, another one gets a
:class:`~vfs.errors.ConfigError` that says what to do instead.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from vfs.errors import ConfigError

__all__ = ["is_secret_name", "redact", "redact_url", "reveal", "seal", "unseal"]

_SECRET_NAME: Final = re.compile(
    r"(^|_)(key|secret|token|password|passwd|passphrase|credentials?|signature|sas)($|_)"
    r"|connection_string|account_key|access_key|private",
    re.IGNORECASE,
)
_SEAL: Final = "vfs-sealed-secret"
_vault: dict[str, str] = {}
_salt: Final = os.urandom(16)
_USERINFO: Final = re.compile(r"://[^/@\s]+@")
_QUERY_SECRET: Final = re.compile(
    r"([?&][^=&\s]*(?:signature|token|secret|password|key|sig)[^=&\s]*=)[^&\s]+", re.IGNORECASE
)


def is_secret_name(name: str) -> bool:
    """Say whether an option of this name is treated as a secret."""
    return bool(_SECRET_NAME.search(name))


def _seal_value(value: str) -> dict[str, str]:
    reference = hashlib.blake2b(value.encode(), key=_salt, digest_size=16).hexdigest()
    _vault[reference] = value
    return {_SEAL: reference}


def seal(options: Any, *, name: str = "") -> Any:
    """Return a copy of ``options`` with every plain secret replaced by an opaque reference.

    Parameters
    ----------
    options : object
        Any nesting of dictionaries and lists.

    Examples
    --------
    >>> sealed = seal({"key": "AKIA", "anon": False})
    >>> "AKIA" in repr(sealed), reveal(sealed)
    (False, {'key': 'AKIA', 'anon': False})
    """
    if isinstance(options, Mapping):
        if _SEAL in options or _is_reference(options):
            return dict(options)
        return {key: seal(value, name=str(key)) for key, value in options.items()}
    if isinstance(options, list | tuple):
        return type(options)(seal(item, name=name) for item in options)
    if isinstance(options, str) and is_secret_name(name):
        return _seal_value(options)
    if isinstance(options, str) and _USERINFO.search(options):
        return _seal_value(options)
    return options


def redact(options: Any, *, name: str = "") -> Any:
    """Return a copy of ``options`` for people: secrets are ``'***'``; not reversible."""
    if isinstance(options, Mapping):
        if _SEAL in options:
            return "***"
        return {key: redact(value, name=str(key)) for key, value in options.items()}
    if isinstance(options, list | tuple):
        return type(options)(redact(item, name=name) for item in options)
    if isinstance(options, str):
        return "***" if is_secret_name(name) else redact_url(options)
    return options


def redact_url(url: str) -> str:
    """Return a URL without user info and without signature parameters.

    Examples
    --------
    >>> redact_url("ftp://me:pw@host/x?X-Amz-Signature=abc&n=1")
    'ftp://***@host/x?X-Amz-Signature=***&n=1'
    """
    return _QUERY_SECRET.sub(r"\1***", _USERINFO.sub("://***@", url))


def _is_reference(options: Mapping[Any, Any]) -> bool:
    return len(options) == 1 and next(iter(options)) in {"env", "file"}


def reveal(options: Any, *, name: str = "") -> Any:
    """Return ``options`` with seals opened and references resolved, on the machine that opens.

    Raises
    ------
    ConfigError
        A sealed secret of another process, an unset variable, or an unreadable file. The message
        names the option, never a value.
    """
    if isinstance(options, list | tuple):
        return type(options)(reveal(item, name=name) for item in options)
    if not isinstance(options, Mapping):
        return options
    if _SEAL in options:
        return _open_seal(str(options[_SEAL]), name)
    # ``{"env": ...}`` is a reference only where a secret is expected: some clients have real
    # options called "env" or "file".
    if is_secret_name(name) and _is_reference(options):
        return _resolve_reference(options, name)
    return {key: reveal(value, name=str(key)) for key, value in options.items()}


def unseal(options: Any, *, name: str = "") -> Any:
    """Return ``options`` with seals opened; references stay references.

    Raises
    ------
    ConfigError
        A sealed secret of another process.
    """
    if isinstance(options, list | tuple):
        return type(options)(unseal(item, name=name) for item in options)
    if not isinstance(options, Mapping):
        return options
    if _SEAL in options:
        return _open_seal(str(options[_SEAL]), name)
    return {key: unseal(value, name=str(key)) for key, value in options.items()}


def _open_seal(reference: str, name: str) -> str:
    try:
        return _vault[reference]
    except KeyError:
        message = (
            f"option {name!r} was given as plain text in another process and is not sent along; "
            f"give it as {{'env': 'NAME'}} or {{'file': 'PATH'}}, or leave it to the provider's "
            f"own chain, so that this process can find it itself"
        )
        raise ConfigError(message) from None


def _resolve_reference(options: Mapping[Any, Any], name: str) -> str:
    kind, where = next(iter(options.items()))
    if kind == "env":
        value = os.environ.get(str(where))
        if value is None:
            message = f"option {name!r}: environment variable {where!r} is not set"
            raise ConfigError(message)
        return value
    try:
        with open(os.path.expanduser(str(where)), encoding="utf-8") as file:
            return file.read().strip()
    except OSError as error:
        message = f"option {name!r}: cannot read {where!r} ({error.strerror})"
        raise ConfigError(message) from error
