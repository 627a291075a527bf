"""Objects that have to be recalled before they can be read: what S3 says of them, and is asked.

What lives here: storage classes, states of a recall, the single requests. What must not: waiting
for a recall, paths of a tier.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, TypeAlias, cast

from vfs.core.foreign import said_code, translate
from vfs.core.storename import protocols_of
from vfs.core.target import Target, build
from vfs.errors import ArchivedError, ConfigError, UnsupportedError

__all__ = ["SPEEDS", "Archive", "ArchiveState", "Speed", "days_of", "state_of"]

#: How S3 names the classes whose objects cannot be read at once, and the same of objects that
#: Intelligent-Tiering has moved there by itself. GLACIER_IR can be read at once.
_ARCHIVED: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_ARCHIVED_ITSELF: Final = frozenset({"ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS"})
_BY_ITSELF: Final = "INTELLIGENT_TIERING"

_EXPIRY: Final = re.compile(r'expiry-date="([^"]+)"')

_DAY_S: Final = 86400.0

#: S3 takes 30 bits; what is more is meant for something else.
_MOST_DAYS: Final = 1 << 30

Speed: TypeAlias = Literal["standard", "expedited", "bulk"]
SPEEDS: Final = ("standard", "expedited", "bulk")

_UNDER_WAY: Final = "RestoreAlreadyInProgress"

_S3FS: Final = frozenset({"s3", "s3a"})
_OBSTORE: Final = "obs3"


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """Whether an object can be read.

    Parameters
    ----------
    kind : {'readable', 'archived', 'restoring', 'restored'}
        ``restored`` is readable for a time.
    until : float or None
        Of a restored one: seconds since the epoch.
    by_itself : bool
        Whether the store archives it by its own rules, and so restores it without a time.
    """

    kind: Literal["readable", "archived", "restoring", "restored"] = "readable"
    until: float | None = None
    by_itself: bool = False

    @property
    def readable(self) -> bool:
        """Whether a read answers now."""
        return self.kind in {"readable", "restored"}

    def lasts(self, days: int, now: float) -> bool:
        """Say whether it can be read for so long already."""
        return self.kind == "readable" or (
            self.until is not None and self.until >= now + days * _DAY_S
        )

    def __str__(self) -> str:
        if self.kind == "restored" and self.until is not None:
            moment = dt.datetime.fromtimestamp(self.until, dt.UTC)
            return f"restored until {moment:%Y-%m-%d %H:%M} UTC"
        return "" if self.kind == "readable" else self.kind


def state_of(head: Mapping[str, Any]) -> ArchiveState:
    """Return what the answer to a HEAD says.

    Examples
    --------
    >>> str(state_of({"StorageClass": "GLACIER"}))
    'archived'
    >>> told = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"'
    >>> str(state_of({"StorageClass": "GLACIER", "Restore": told}))
    'restored until 2012-12-21 00:00 UTC'
    """
    storage, restore = head.get("StorageClass"), str(head.get("Restore") or "")
    by_itself = storage == _BY_ITSELF
    if 'ongoing-request="true"' in restore:
        return ArchiveState("restoring", by_itself=by_itself)
    if storage not in _ARCHIVED and head.get("ArchiveStatus") not in _ARCHIVED_ITSELF:
        return ArchiveState(by_itself=by_itself)
    found = _EXPIRY.search(restore)
    if found is None:
        return ArchiveState("archived", by_itself=by_itself)
    return ArchiveState("restored", parsedate_to_datetime(found[1]).timestamp(), by_itself)


class Archive:
    """Requests about archived objects to one S3 store.

    Parameters
    ----------
    target : Target
        s3fs: obstore cannot name these requests.
    """

    def __init__(self, target: Target) -> None:
        self._target = target

    @classmethod
    def below(cls, target: Target) -> Archive | None:
        """Return the archive of a store, also of one below layers; None where there is none.

        Raises
        ------
        UnsupportedError
            [ENOTSUP] it is S3 through obstore, and s3fs is not installed.
        """
        fs = target.fs
        while fs is not None:
            if not _S3FS.isdisjoint(protocols_of(fs)):
                found = target if fs is target.fs else Target(fs)
            elif _OBSTORE in protocols_of(fs):
                found = Target(_beside(fs))
            else:
                fs = getattr(fs, "fs", None)
                continue
            found.requests = target.requests
            return cls(found)
        return None

    async def state(self, path: str) -> ArchiveState:
        """Ask whether an object can be read: one HEAD.

        Raises
        ------
        FileNotFoundError
            [ENOENT] no such object.
        """
        return state_of(await self._call("head_object", "info", path))

    async def restore(self, path: str, days: int, speed: Speed, known: ArchiveState) -> bool:
        """Ask for a recall; one under way is fine.

        Returns
        -------
        bool
            Whether it was, or is being, recalled; False for what is not archived after all.

        Notes
        -----
        Cost: one request, and what the store charges for a recall. Safe to repeat: yes.
        """
        request: dict[str, Any] = {"GlacierJobParameters": {"Tier": speed.capitalize()}}
        if not known.by_itself:
            request["Days"] = days
        try:
            await self._call("restore_object", "restore", path, RestoreRequest=request)
        except OSError as error:
            code = said_code(error)
            if code == _UNDER_WAY:
                return True
            # Said of what is not archived: it was replaced since it was looked at.
            if isinstance(error, ArchivedError):
                return False
            raise
        return True

    async def _call(self, method: str, operation: str, path: str, **given: Any) -> Any:
        target = self._target
        target.renew_if_forked()
        bucket, key, version = target.fs.split_path(path)
        request = {"Bucket": bucket, "Key": key, **given}
        if version:
            request["VersionId"] = version
        target.requests[method] += 1
        try:
            return await target.fs._call_s3(method, **request)
        except Exception as error:
            better = translate(error, operation, path)
            if better is error:
                raise
            raise better from error


def days_of(value: object) -> int:
    """Return a number of days, at least one.

    Raises
    ------
    ConfigError
        It is none.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < cast("float", value) < _MOST_DAYS:
        message = f"days: {value!r} is not a number of days"
        raise ConfigError(message)
    return math.ceil(cast("float", value))


def _beside(fs: Any) -> Any:
    """Return s3fs for the store that obstore serves."""
    try:
        return build("s3", fs.storage_options, "s3fs")
    except ConfigError as error:
        message = (
            f"obstore cannot ask S3 for archived objects, and s3fs cannot be used for it: {error}; "
            f"install fsspec-vfs[s3], or open the store with engine='s3fs'"
        )
        raise UnsupportedError(message) from error
