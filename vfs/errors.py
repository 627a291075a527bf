"""Every error this library raises, its errno, and the one place that decides what may be retried.

What lives here: the error classes, helpers that build the builtin ones with errno, message and
path, and :func:`is_retryable`. What must not: any import of fsspec or of another room.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Final

__all__ = [
    "ArchivedError",
    "CircuitOpenError",
    "ConfigError",
    "ConflictError",
    "IntegrityError",
    "QuotaExceededError",
    "ReadOnlyError",
    "ThrottledError",
    "TierFullError",
    "UnavailableError",
    "UnsupportedError",
    "VfsError",
    "archived",
    "directory_not_empty",
    "exists_already",
    "invalid_path",
    "is_a_directory",
    "is_retryable",
    "not_a_directory",
    "not_found",
    "replaced",
]


class ConfigError(ValueError):
    """A wrong option, size or combination; raised before any I/O has happened.

    Not an ``OSError``: nothing was asked of any storage yet.
    """


class VfsError(OSError):
    """Root of the I/O errors that POSIX has no builtin class for.

    Parameters
    ----------
    message : str
        Operation, cause and remedy, in one sentence. Never holds a secret.
    path : str, optional
        The path as the caller named it, kept in ``filename``.

    Examples
    --------
    >>> error = ReadOnlyError("write refused: the layer is read-only", "a/b")
    >>> error.errno == errno.EROFS, error.filename
    (True, 'a/b')
    """

    code: int = errno.EIO

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(self.code, message, path)

    def __reduce__(self) -> tuple[type[VfsError], tuple[str, str | None], dict[str, object]]:
        # OSError's own reduce passes (errno, text, path), which is not our signature; attributes
        # such as ``retry_after_s`` and notes travel in the state.
        return type(self), (str(self.strerror), self.filename), dict(self.__dict__)


class ReadOnlyError(VfsError, PermissionError):
    """[EROFS] A write through something that only reads. Not retryable."""

    code = errno.EROFS


class UnsupportedError(VfsError, NotImplementedError):
    """[ENOTSUP] The storage cannot do this at all. Not retryable."""

    code = errno.ENOTSUP


class ConflictError(VfsError):
    """[ESTALE] The object changed since the version this call was based on. Not retryable."""

    code = errno.ESTALE


class IntegrityError(VfsError):
    """[EBADMSG] Bytes disagree with their checksum, length or etag. Not retryable."""

    code = errno.EBADMSG


class QuotaExceededError(VfsError):
    """[EDQUOT] A limit set by the user would be crossed. Not retryable."""

    code = errno.EDQUOT


class TierFullError(VfsError):
    """[ENOSPC] The hot tier holds only what may not be evicted. Not retryable."""

    code = errno.ENOSPC


class ArchivedError(VfsError):
    """[ENODATA] The object is there, its bytes must be recalled first. Not retryable.

    Notes
    -----
    ``fs.restore(path, days=..., wait=...)`` of a tier asks for it.
    """

    # Name and facts are there, data is not: ENODATA. EAGAIN, which says much the same, means "at
    # once again" to every loop that goes by errno, here and elsewhere; a recall takes minutes to
    # days, and none begins by itself. ENOENT would be absence, and zarr's fill values.
    code = errno.ENODATA


class ThrottledError(VfsError):
    """[EBUSY] The service asks to slow down. Retryable after ``retry_after_s``.

    Parameters
    ----------
    message, path
        As in :class:`VfsError`.
    retry_after_s : float, optional
        What the service asked for, in seconds.
    """

    code = errno.EBUSY

    def __init__(
        self, message: str, path: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, path)
        self.retry_after_s = retry_after_s


class UnavailableError(VfsError, ConnectionError):
    """[EHOSTUNREACH] The storage cannot be reached now. Retryable; never means "absent"."""

    code = errno.EHOSTUNREACH


class CircuitOpenError(UnavailableError):
    """[EHOSTUNREACH] Not even tried: the last calls failed. Not retryable at once."""


def not_found(path: str, detail: str = "no such object") -> FileNotFoundError:
    """Build ENOENT: *authoritative absence* of ``path``, and nothing else."""
    return FileNotFoundError(errno.ENOENT, detail, path)


def exists_already(path: str) -> FileExistsError:
    """Build EEXIST for an exclusive create that lost."""
    return FileExistsError(errno.EEXIST, "object exists and exclusive creation was asked", path)


def archived(path: str, operation: str) -> ArchivedError:
    """Build ENODATA for bytes that the store has put into an archive."""
    message = (
        f"{operation} refused: the object is archived; make it readable by "
        f"fs.restore(path, days=..., wait=...) of a tier, or by the store's own tools"
    )
    return ArchivedError(message, path)


def replaced(path: str) -> ConflictError:
    """Build ESTALE for a read whose object has become another one."""
    message = "the object was replaced while it was being read; open it again"
    return ConflictError(message, path)


def is_a_directory(path: str) -> IsADirectoryError:
    """Build EISDIR for an object operation on a directory."""
    return IsADirectoryError(errno.EISDIR, "is a directory, an object is expected", path)


def not_a_directory(path: str) -> NotADirectoryError:
    """Build ENOTDIR for a directory operation on an object."""
    return NotADirectoryError(errno.ENOTDIR, "is an object, a directory is expected", path)


def directory_not_empty(path: str) -> OSError:
    """Build ENOTEMPTY for ``rmdir`` of a directory with entries."""
    return OSError(errno.ENOTEMPTY, "directory is not empty; use rm(recursive=True)", path)


def invalid_path(path: str, why: str) -> OSError:
    """Build EINVAL for a name that can never be an object here."""
    return OSError(errno.EINVAL, f"invalid path: {why}", path)


#: Transient by nature. EIO is absent: on local disks it means a broken device (and a failed
#: fsync must never be retried), and remote backends map their own transient failures.
_RETRYABLE_ERRNO: Final = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.ETIMEDOUT,
    }
)


def is_retryable(error: BaseException) -> bool:
    """Say whether the same call may succeed if it is made again.

    This is the only place that decides; retry loops and circuit breakers ask it.

    Parameters
    ----------
    error : BaseException
        What a filesystem call raised.

    Returns
    -------
    bool
        True for timeouts, lost connections, throttling and unreachable hosts.

    Notes
    -----
    Cost: none. Thread-safe: yes. A conditional write whose *answer* was lost is retryable only by
    a caller that reads the object back first.

    Examples
    --------
    >>> is_retryable(UnavailableError("no route")), is_retryable(not_found("a"))
    (True, False)
    """
    if isinstance(error, CircuitOpenError):
        return False
    if isinstance(error, TimeoutError | asyncio.TimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno in _RETRYABLE_ERRNO


def os_error(code: int, path: str, detail: str | None = None) -> OSError:
    """Build the builtin ``OSError`` subclass of ``code`` with its message and path."""
    return OSError(code, detail or os.strerror(code), path)
