"""What other people's filesystems say, in our words: infos and errors, normalised at the edge.

What lives here: the translation of fsspec implementations that are not ours. What must not:
imports of any SDK (they are recognised by class name) and any I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

from vfs.config.secrets import redact_url
from vfs.errors import (
    ThrottledError,
    UnavailableError,
    VfsError,
    archived,
    not_found,
    os_error,
)
from vfs.types import Info, ObjectInfo

__all__ = ["ARCHIVED_CODES", "by_status", "object_info", "said_code", "translate"]

#: Spellings of the same two facts in s3fs, gcsfs, adlfs, http, sftp, webdav, hdfs and others.
_ETAG_NAMES: Final = ("etag", "ETag", "content_md5", "md5", "checksum", "ino")
_MTIME_NAMES: Final = (
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "updated",
    "modified",
    "modificationTime",
    "created",
)

#: Exceptions of SDKs that are no OSError, by class name: botocore and aiobotocore, aiohttp,
#: paramiko. All of them mean that no answer came.
_UNREACHABLE: Final = frozenset(
    {
        "ClientConnectionError",
        "ClientConnectorError",
        "ClientPayloadError",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "ConnectionTimeoutError",
        "EndpointConnectionError",
        "HTTPClientError",
        "IncompleteReadError",
        "ProxyConnectionError",
        "ReadTimeoutError",
        "ResponseStreamingError",
        "SSHException",
        "ServerDisconnectedError",
    }
)
_NO_CREDENTIALS: Final = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "SSOTokenLoadError"}
)
_BAD_NAMES: Final = frozenset({"ParamValidationError"})
#: How S3 answers a read and a copy of what must be recalled first, both with 403, and how Azure.
ARCHIVED_CODES: Final = frozenset(
    {"InvalidObjectState", "ObjectNotInActiveTierError", "BlobArchived"}
)

_STATUS_GONE: Final = (404, 410)
_STATUS_FORBIDDEN: Final = (401, 403)
_STATUS_THROTTLED: Final = (429, 503)
_STATUS_SERVER_ERROR: Final = 500


def object_info(info: Info) -> ObjectInfo:
    """Turn the info of any fsspec implementation into ours; nothing it said is lost."""
    extra = {k: v for k, v in info.items() if k not in {"name", "size", "type", "mtime", "etag"}}
    is_directory = info["type"] == "directory"
    etag = next((info[name] for name in _ETAG_NAMES if info.get(name) is not None), None)
    mtime = next((info[name] for name in _MTIME_NAMES if info.get(name) is not None), None)
    return ObjectInfo(
        info["name"].rstrip("/") or "/" if info["name"].startswith("/") else info["name"],
        int(info.get("size") or 0),
        _seconds(mtime),
        str(etag).strip('"') if etag is not None and not is_directory else None,
        "directory" if is_directory else "file",
        extra,
    )


def _seconds(value: Any) -> float | None:
    if isinstance(value, dt.datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=dt.UTC)
        return float(value.timestamp())
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        for parse in (dt.datetime.fromisoformat, parsedate_to_datetime):
            with contextlib.suppress(ValueError):
                return _seconds(parse(value))
    return None


def translate(error: Exception, operation: str, path: str) -> Exception:
    """Return the error a caller should see for one that another filesystem raised.

    Parameters
    ----------
    error : Exception
        As it came.
    operation, path : str
        For the message.

    Returns
    -------
    Exception
        ``error`` itself when it already says the right thing.

    Notes
    -----
    ``FileNotFoundError`` is believed only when it is not itself caused by a failure: fsspec's
    HTTP filesystem turns every error of a HEAD into it, and zarr would read that as fill values.
    """
    if isinstance(error, VfsError):
        return error
    if said_code(error) in ARCHIVED_CODES:
        return archived(path, operation)
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError):
        return _absence(error, operation, path)
    if isinstance(error, OSError) and error.errno is not None:
        return _with_meaning(error, operation, path)
    names = _names(error)
    if isinstance(error, TimeoutError | asyncio.TimeoutError) or names & _UNREACHABLE:
        return _unavailable(error, operation, path)
    if names & _BAD_NAMES:
        return os_error(errno.EINVAL, path, f"{operation}: the storage allows no such name")
    if names & _NO_CREDENTIALS:
        detail = f"{operation}: no credentials found; give key and secret or configure a profile"
        return os_error(errno.EACCES, path, detail)
    if isinstance(status, int):
        return by_status(status, operation, path) or error
    if isinstance(error, FileExistsError | PermissionError | IsADirectoryError):
        return _with_errno(error, path)
    return error


def _absence(error: FileNotFoundError, operation: str, path: str) -> Exception:
    """Return what a ``FileNotFoundError`` really says, going by what it was raised from."""
    cause: BaseException = error
    while isinstance(cause, FileNotFoundError) and cause.__cause__ is not None:
        cause = cause.__cause__  # perhaps translated already, by a filesystem of ours in between
    status = _status(cause)
    if isinstance(cause, FileNotFoundError | KeyError) or status in _STATUS_GONE:
        return error if error.errno else not_found(path)
    if isinstance(cause, OSError | asyncio.TimeoutError) or _names(cause) & _UNREACHABLE:
        return _unavailable(cause, operation, path)
    return by_status(status, operation, path) or error


def _with_meaning(error: OSError, operation: str, path: str) -> Exception:
    """Return what an error says that came with an errno, but of no kind of its own.

    s3fs gives EIO to a 429, EBUSY to a 503, EREMOTEIO to a 500: that one may try again, only the
    answer below tells.
    """
    if type(error) is not OSError or error.__cause__ is None:
        return error
    return by_status(_status(error.__cause__), operation, path) or error


def said_code(error: BaseException) -> str | None:
    """Return the code that a service gave an error, as botocore's errors and their kin carry it."""
    said: BaseException | None = error
    while said is not None:
        response = getattr(said, "response", None)
        told = response.get("Error") if isinstance(response, dict) else None
        if isinstance(told, dict) and isinstance(told.get("Code"), str):
            return cast("str", told["Code"])
        if isinstance(code := getattr(said, "error_code", None), str):
            return code  # Azure's SDK, which adlfs speaks
        said = said.__cause__
    return None


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error carries, as aiohttp's do or as botocore's."""
    response = getattr(error, "response", None)
    told = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    status = getattr(error, "status", None) or told.get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def _unavailable(error: BaseException, operation: str, path: str) -> UnavailableError:
    reason = redact_url(str(error)) or type(error).__name__
    return UnavailableError(f"{operation}: the storage did not answer ({reason})", path)


def by_status(status: int | None, operation: str, path: str) -> Exception | None:
    """Return the error an HTTP status means for any operation; None if it means none."""
    if not isinstance(status, int):
        return None
    if status in _STATUS_GONE:
        return not_found(path)
    if status in _STATUS_FORBIDDEN:
        return os_error(errno.EACCES, path, f"{operation}: the server refuses access ({status})")
    if status in _STATUS_THROTTLED:
        return ThrottledError(f"{operation}: the server asks to slow down ({status})", path)
    if status >= _STATUS_SERVER_ERROR:
        return UnavailableError(f"{operation}: the server failed ({status})", path)
    return None


def _with_errno(error: OSError, path: str) -> OSError:
    """Give an errno to a builtin error that was raised without one (fsspec often does)."""
    for kind, code in (
        (FileExistsError, errno.EEXIST),
        (IsADirectoryError, errno.EISDIR),
        (PermissionError, errno.EACCES),
    ):
        if isinstance(error, kind):
            return kind(code, str(error) or kind.__name__, path)
    return error
