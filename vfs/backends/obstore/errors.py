"""What obstore says, in our words.

What lives here: the translation of its exceptions. What must not: requests.
"""

from __future__ import annotations

import errno
import html
import re
from typing import Final

from obstore import exceptions

from vfs.config.secrets import redact_url
from vfs.core.foreign import ARCHIVED_CODES, by_status
from vfs.errors import (
    ConflictError,
    UnavailableError,
    UnsupportedError,
    archived,
    exists_already,
    invalid_path,
    not_found,
    os_error,
)

__all__ = ["status_of", "translate_obstore"]

#: How object_store (``client/retry.rs``) words an answer that is no success.
_STATUS: Final = re.compile(r"status code: (\d{3})")
_S3_CODE: Final = re.compile(r"<Code>([^<]*)</Code>(?:\s*<Message>([^<]*)</Message>)?")
#: Texts of object_store, reqwest and hyper for requests that got no whole answer, and of
#: credentials that nobody gave. They are all "generic", so only the words tell them apart.
_NO_ANSWER: Final = re.compile(
    r"error sending request|HTTP error|timed? ?out|connection|decoding response|body error"
    r"|request or response body",
    re.IGNORECASE,
)
_NO_CREDENTIALS: Final = re.compile(
    r"credential|metadata service|169\.254\.169\.254|unauthorized", re.IGNORECASE
)
_HOW_TO_SIGN: Final = "no credentials found; give key and secret, a profile or anon=True"
_BAD_REQUEST: Final = 400
_CONFLICT: Final = 409
_NOT_IMPLEMENTED: Final = 501
_REDIRECT: Final = range(300, 400)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error tells of, if any."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def translate_obstore(error: Exception, operation: str, path: str) -> Exception:
    """Return the ``OSError`` a caller should see; ``error`` itself if it is none of obstore's.

    Notes
    -----
    ``FileNotFoundError`` comes only from an answer 404 for this key or its bucket.
    """
    if isinstance(error, OSError):
        absent = isinstance(error, FileNotFoundError)
        return not_found(path, _absent(error)) if absent else error
    if isinstance(error, exceptions.AlreadyExistsError):
        return exists_already(path)
    if isinstance(error, exceptions.PreconditionError):
        return ConflictError("the object is another one than was asked for", path)
    if isinstance(error, exceptions.NotSupportedError):
        return UnsupportedError(f"{operation}: the store cannot do this", path)
    if isinstance(error, exceptions.InvalidPathError):
        return _invalid(error, path)
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return _refused(error, operation, path)
    if isinstance(error, ValueError) and "parse path" in str(error):
        return invalid_path(path, _first_line(error).rpartition(": ")[2])
    ours = not isinstance(error, exceptions.BaseError)
    return error if ours else _generic(error, operation, path)


def _absent(error: BaseException) -> str:
    return "no such bucket" if _code(error) == "NoSuchBucket" else "no such object"


def _code(error: BaseException) -> str | None:
    found = _S3_CODE.search(str(error))
    return found[1] if found else None


def _refused(error: BaseException, operation: str, path: str) -> OSError:
    if _code(error) in ARCHIVED_CODES:
        return archived(path, operation)
    if "no credentials found" in str(error):
        return os_error(errno.EACCES, path, f"{operation}: {_HOW_TO_SIGN}")
    detail = f"{operation}: the server refuses access ({_said(error)})"
    return os_error(errno.EACCES, path, detail)


def _invalid(error: BaseException, path: str) -> OSError:
    text = _first_line(error)
    if "Encountered object" in text:
        # One such key of somebody else's makes the whole listing fail, in the Rust client.
        why = f"the listing holds a key that this client cannot name ({text}); use s3:// here"
        return os_error(errno.EINVAL, path, why)
    return invalid_path(path, text)


def _generic(error: Exception, operation: str, path: str) -> Exception:
    status = status_of(error)
    text = str(error)
    if _code(error) in {"NoSuchBucket", "NoSuchKey"}:
        return not_found(path, _absent(error))
    if _code(error) in ARCHIVED_CODES:
        return archived(path, operation)
    if status == _NOT_IMPLEMENTED:
        message = f"{operation}: the server does not implement this request, or a condition of it"
        return UnsupportedError(message, path)
    known = by_status(status, operation, path)
    if known is not None:
        return known
    if status == _CONFLICT:
        message = f"{operation}: another conditional write of the same key is under way"
        return UnavailableError(message, path)
    if status in _REDIRECT or "redirect" in text.lower():
        remedy = "give client_kwargs={'region_name': ...}"
        detail = f"{operation}: the bucket lives in another region; {remedy}"
        return os_error(errno.EINVAL, path, detail)
    if status is not None and status >= _BAD_REQUEST:
        return os_error(errno.EINVAL, path, f"{operation}: refused ({_said(error)})")
    if _NO_CREDENTIALS.search(text):
        return os_error(errno.EACCES, path, f"{operation}: {_HOW_TO_SIGN}")
    if _NO_ANSWER.search(text):
        reason = _first_line(error)
        return UnavailableError(f"{operation}: the storage did not answer ({reason})", path)
    return os_error(errno.EIO, path, f"{operation}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return redact_url(str(error).partition("\n")[0])


def _said(error: BaseException) -> str:
    """Return code and message of an S3 answer: the rest may show how the request was signed."""
    found = _S3_CODE.search(str(error))
    if not found:
        return f"status {status_of(error)}" if status_of(error) else _first_line(error)
    return html.unescape(": ".join(part for part in found.groups() if part))
