"""The error tree: classes, errno, pickling, retryability, and what foreign errors become."""

from __future__ import annotations

import errno
import pickle
from typing import Any

import pytest

import vfs
from vfs import errors
from vfs.core.foreign import object_info, translate

OURS = {
    errors.ReadOnlyError: (errno.EROFS, PermissionError, False),
    errors.UnsupportedError: (errno.ENOTSUP, NotImplementedError, False),
    errors.ConflictError: (errno.ESTALE, OSError, False),
    errors.IntegrityError: (errno.EBADMSG, OSError, False),
    errors.QuotaExceededError: (errno.EDQUOT, OSError, False),
    errors.TierFullError: (errno.ENOSPC, OSError, False),
    errors.ArchivedError: (errno.ENODATA, OSError, False),
    errors.ThrottledError: (errno.EBUSY, OSError, True),
    errors.UnavailableError: (errno.EHOSTUNREACH, ConnectionError, True),
    errors.CircuitOpenError: (errno.EHOSTUNREACH, ConnectionError, False),
}


def test_the_tree_is_complete() -> None:
    found = {
        value
        for value in vars(errors).values()
        if isinstance(value, type)
        and issubclass(value, errors.VfsError)
        and value is not errors.VfsError
    }
    assert found == set(OURS)
    assert not any(issubclass(cls, FileNotFoundError) for cls in found)


@pytest.mark.parametrize("cls", OURS)
def test_each_error_is_an_oserror_that_pickles(cls: type[errors.VfsError]) -> None:
    code, also, retry = OURS[cls]
    error = cls("read: because; do that", "a/b")
    error.add_note("tried 3 times")
    copy = pickle.loads(pickle.dumps(error))
    for one in (error, copy):
        assert isinstance(one, OSError)
        assert isinstance(one, also)
        assert (one.errno, one.filename) == (code, "a/b")
        assert errors.is_retryable(one) is retry
    assert str(copy) == str(error)
    assert copy.__notes__ == ["tried 3 times"]


def test_attributes_survive_pickling() -> None:
    error = errors.ThrottledError("slow down", "k", retry_after_s=2.5)
    assert pickle.loads(pickle.dumps(error)).retry_after_s == 2.5


def test_config_error_is_no_oserror() -> None:
    assert issubclass(vfs.ConfigError, ValueError)
    assert not issubclass(vfs.ConfigError, OSError)


@pytest.mark.parametrize(
    "error, expected",
    [
        (TimeoutError(), True),
        (ConnectionResetError(errno.ECONNRESET, ""), True),
        (OSError(errno.EAGAIN, ""), True),
        (OSError(errno.EIO, ""), False),
        (OSError(errno.ENOSPC, ""), False),
        (FileNotFoundError(errno.ENOENT, ""), False),
        (PermissionError(errno.EACCES, ""), False),
        (ValueError(), False),
    ],
)
def test_retryable(error: BaseException, expected: bool) -> None:
    assert errors.is_retryable(error) is expected


class ClientResponseError(Exception):
    """Shaped as aiohttp's: no OSError, has a status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status}, url='https://me:hunter2@host/x?sig=hunter2'")
        self.status = status


class EndpointConnectionError(Exception):
    """Named as botocore's."""


class ClientError(Exception):
    """Shaped as botocore's."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "foreign, expected",
    [
        (ClientResponseError(404), FileNotFoundError),
        (ClientResponseError(403), PermissionError),
        (ClientResponseError(429), errors.ThrottledError),
        (ClientResponseError(503), errors.ThrottledError),
        (ClientResponseError(500), errors.UnavailableError),
        (EndpointConnectionError("to https://me:hunter2@host"), errors.UnavailableError),
        (TimeoutError(), errors.UnavailableError),
        (FileNotFoundError("x"), FileNotFoundError),
        (caused(FileNotFoundError("x"), ClientResponseError(404)), FileNotFoundError),
        (caused(FileNotFoundError("x"), ClientResponseError(403)), PermissionError),
        (caused(FileNotFoundError("x"), ClientResponseError(500)), errors.UnavailableError),
        (caused(FileNotFoundError("x"), ConnectionRefusedError(111, "")), errors.UnavailableError),
        # What s3fs makes of them.
        (caused(OSError(errno.EIO, "429"), ClientError(429)), errors.ThrottledError),
        (caused(OSError(errno.EBUSY, "503"), ClientError(503)), errors.ThrottledError),
        (caused(OSError(errno.EREMOTEIO, "500"), ClientError(500)), errors.UnavailableError),
        (FileExistsError("x"), FileExistsError),
        (IsADirectoryError("x"), IsADirectoryError),
    ],
)
def test_foreign_errors(foreign: Exception, expected: type[OSError]) -> None:
    ours = translate(foreign, "cat_file", "bucket/k")
    assert type(ours) is expected or isinstance(ours, expected)
    assert isinstance(ours, OSError)
    assert ours.errno
    assert "hunter2" not in str(ours)
    assert "not satisfiable" not in str(ours)


def test_unknown_errors_pass_unchanged() -> None:
    for error in (ValueError("x"), KeyError("x"), OSError(errno.EIO, "disk"), RuntimeError("x")):
        assert translate(error, "info", "k") is error


@pytest.mark.parametrize(
    "info, etag, mtime",
    [
        ({"name": "b/k", "size": 3, "type": "file", "ETag": '"abc"'}, "abc", None),
        ({"name": "k", "size": 3, "type": "file", "mtime": 5}, None, 5.0),
        (
            {"name": "k", "size": 3, "type": "file", "updated": "2026-01-01T00:00:00+00:00"},
            None,
            1767225600.0,
        ),
        ({"name": "d/", "size": 0, "type": "directory", "ino": 4}, None, None),
    ],
)
def test_foreign_infos(info: dict[str, Any], etag: str | None, mtime: float | None) -> None:
    ours = object_info(info)
    assert (ours.etag, ours.mtime) == (etag, mtime)
    assert ours.size == info["size"]
