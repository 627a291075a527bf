"""Stores of obstore: one a bucket, made on first use, never used across a fork.

What lives here: construction, credentials and the fork rule. What must not: requests for objects.
"""

from __future__ import annotations

import datetime as dt
import errno
import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from vfs.backends.obstore.options import StoreConfig
from vfs.errors import ConfigError

__all__ = ["Stores", "botocore_credentials", "usable_here"]

#: The process in which the Rust client's threads were started. They do not exist in a forked
#: child, where any request would wait for ever.
_started_in: int | None = None

#: Names that say the credentials (or that there are none) are given with the options.
_GIVEN: Final = ("access_key_id", "skip_signature", "web_identity_token_file", "role_arn")
_GIVEN_BY_ENVIRONMENT: Final = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")

#: How long credentials that botocore calls lasting are believed before it is asked again: an
#: expiring role's file may have been written anew.
_BELIEVED: Final = dt.timedelta(minutes=15)


def usable_here() -> bool:
    """Say whether this process can use the client: it was not forked after the first use."""
    return _started_in in {None, os.getpid()}


class Stores:
    """The stores of one filesystem instance, by bucket.

    Parameters
    ----------
    make : callable
        Makes a store from a bucket's name and keyword arguments.
    config : StoreConfig
        What it is made with.
    """

    def __init__(self, make: Callable[..., Any], config: StoreConfig) -> None:
        self._make = make
        self._config = config
        self._stores: dict[str, Any] = {}

    def of(self, bucket: str, path: str) -> Any:
        """Return the store of a bucket.

        Raises
        ------
        OSError
            [ENOTSUP] in a process forked after the client was used.
        """
        global _started_in  # noqa: PLW0603 - the Rust runtime is one a process
        if _started_in is None:
            _started_in = os.getpid()
        if not usable_here():
            detail = (
                "the Rust client does not survive a fork; start processes by 'spawn' or "
                "'forkserver', or use s3:// (engine='s3fs')"
            )
            raise OSError(errno.ENOTSUP, detail, path)
        store = self._stores.get(bucket)
        if store is None:
            store = self._stores.setdefault(bucket, self._new(bucket))
        return store

    def _new(self, bucket: str) -> Any:
        made = self._config
        try:
            return self._make(
                bucket,
                config=made.config,
                client_options=made.client_options,
                retry_config=made.retry_config,
            )
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - the client raises what it likes
            # Its text may show values; names of options were checked before.
            message = f"cannot open bucket {bucket!r} with these options ({type(error).__name__})"
            raise ConfigError(message) from None


def botocore_credentials(config: StoreConfig) -> Mapping[str, Any]:
    """Return what botocore's chain adds: region, and a provider of credentials.

    The chain of s3fs users: environment, profiles, SSO, containers, instance. The Rust client's
    own knows no profiles.

    Raises
    ------
    ConfigError
        A profile is named, and botocore (extra ``s3``) is not installed or does not know it.
    """
    if importlib.util.find_spec("botocore") is None:
        if config.profile is None:
            return {}
        raise ConfigError("obs3: profile needs botocore; install fsspec-vfs[s3]")
    given = any(config.config.get(name) for name in _GIVEN)
    if config.profile is None and (given or any(map(os.environ.get, _GIVEN_BY_ENVIRONMENT))):
        return {}
    from botocore.exceptions import ProfileNotFound
    from botocore.session import Session

    session = Session(profile=config.profile)
    try:
        region = session.get_config_variable("region")
    except ProfileNotFound as error:
        raise ConfigError(f"obs3: profile {config.profile!r} is not configured") from error
    found: dict[str, Any] = {"region": region} if region else {}
    if not given:
        found["credential_provider"] = _provider(session)
    return found


def _provider(session: Any) -> Callable[[], Any]:
    def credentials() -> dict[str, Any]:
        # Called by a thread of the Rust client, never by a loop's.
        found = session.get_credentials()
        if found is None:
            raise RuntimeError("no credentials found")
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": dt.datetime.now(dt.UTC) + _BELIEVED,
        }

    return credentials
