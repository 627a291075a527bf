"""The cold store as the uploader needs it: conditional where it can be, told by contents where not.

What lives here: single requests. What must not: queues, the journal, files of the hot tier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import xxhash

from vfs.core.foreign import translate
from vfs.core.storename import protocols_of
from vfs.core.target import Target, told_etag
from vfs.errors import ConflictError, UnavailableError, is_retryable
from vfs.tier.journal import ABSENT
from vfs.types import ObjectInfo

__all__ = ["PreconditionLostError", "Remote"]

_S3: Final = frozenset({"s3", "s3a"})

_HTTP_CONFLICT: Final = 409

#: Larger objects are sent by the client's own streaming upload, which may be in parts.
THROUGH_MEMORY_BYTES: Final = 64 << 20

#: One request of a comparison by contents.
_PIECE_BYTES: Final = 8 << 20


class PreconditionLostError(Exception):
    """The object in the cold store is not the one a change is based on."""


class Remote:
    """Requests to one cold store.

    Parameters
    ----------
    target : Target
        The store.
    path_of : callable
        From a key to the store's path.
    """

    def __init__(self, target: Target, path_of: Callable[[str], str]) -> None:
        self.target = target
        self.path_of = path_of

    @property
    def _s3(self) -> bool:
        # Asked each time: a forked child may stand on another client than its parent.
        return not _S3.isdisjoint(protocols_of(self.target.fs))

    @property
    def conditional(self) -> bool:
        """Whether a write can name the version it replaces, atomically."""
        return self._s3 or (self.target.ours and bool(self.target.fs.writes_conditionally))

    async def head(self, key: str) -> ObjectInfo | None:
        """Return what the store has under a key now, None for nothing."""
        try:
            return await self.target.info(self.path_of(key))
        except (FileNotFoundError, NotADirectoryError):
            return None

    async def put(self, key: str, source: bytes | str, base: str | None) -> str | None:
        """Store bytes, or a local file given by its path.

        Parameters
        ----------
        key : str
            Under which.
        source : bytes or str
            What.
        base : str or None
            The etag of the object to be replaced, :data:`ABSENT` for none, None for whichever.

        Returns
        -------
        str or None
            Its etag, where the store's answer told.

        Raises
        ------
        PreconditionLostError
            Another object is there. Without conditional writes this is found by asking first,
            so that a writer in between is not seen.
        """
        path = self.path_of(key)
        self.target.renew_if_forked()
        large = isinstance(source, str)
        if base and not (self.conditional and not (large and self._s3)):
            await self._compare(key, base)
            base = None
        try:
            if self._s3:
                return await self._put_s3(path, source, base)
            if self.target.ours:
                return await self._put_ours(path, source, base)
            if isinstance(source, str):
                await self.target.put_file(source, path, create=base == ABSENT)
            else:
                await self.target.pipe_file(path, source, create=base == ABSENT)
        except (FileExistsError, ConflictError) as error:
            raise PreconditionLostError(key) from error
        except FileNotFoundError as error:
            if base:  # S3's answer to If-Match where there is no object any more
                raise PreconditionLostError(key) from error
            raise
        return None

    async def _put_ours(self, path: str, source: bytes | str, base: str | None) -> str | None:
        conditions = {"if_none_match": base == ABSENT, "if_match": base or None}
        self.target.requests["put_file" if isinstance(source, str) else "pipe_file"] += 1
        if isinstance(source, str):
            return told_etag(await self.target.fs._put_local(path, source, **conditions))
        done = await self.target.fs._call("put_object", path, source, **conditions)
        return told_etag(done)

    async def _put_s3(self, path: str, source: bytes | str, base: str | None) -> str | None:
        condition: dict[str, Any] = {}
        if base == ABSENT:
            condition = {"mode": "create"}
        elif base:
            condition = {"IfMatch": f'"{base}"'}
        try:
            if isinstance(source, str):
                await self.target.call("put_file", source, path, **condition)
                return None
            done = await self.target.call("pipe_file", path, source, **condition)
        except OSError as error:
            status = _status_of(error)
            if status in {404, 412} and condition:
                raise PreconditionLostError(path) from error
            if status == _HTTP_CONFLICT:
                message = "another conditional write of the same key is under way"
                raise UnavailableError(message, path) from error
            raise
        return told_etag(done)

    async def _compare(self, key: str, base: str) -> None:
        found = await self.head(key)
        if found is None or found.etag != base:
            raise PreconditionLostError(key)

    async def remove(self, key: str, base: str | None) -> None:
        """Remove an object; none is fine.

        Parameters
        ----------
        key : str
            Which.
        base : str or None
            Its etag, :data:`ABSENT` where there is to be none, None for whichever.

        Raises
        ------
        PreconditionLostError
            It is another one than ``base``.
        """
        path = self.path_of(key)
        if base is not None:
            found = await self.head(key)
            if found is None:
                return
            if found.etag != base:
                raise PreconditionLostError(key)
            if self._s3:
                await self._remove_s3(path, base)
                return
        try:
            await self.target.call("rm_file", path)
        except (FileNotFoundError, NotADirectoryError):
            return

    async def _remove_s3(self, path: str, base: str) -> None:
        """Send a DELETE with a condition, which s3fs's own cannot name."""
        bucket, key, _ = self.target.fs.split_path(path)
        self.target.requests["rm_file"] += 1
        try:
            await self.target.fs._call_s3(
                "delete_object", Bucket=bucket, Key=key, IfMatch=f'"{base}"'
            )
        except Exception as error:
            if _status_of(error) in {404, 412}:
                raise PreconditionLostError(path) from error
            raise translate(error, "rm_file", path) from error

    async def remove_many(self, keys: list[str]) -> None:
        """Remove objects, in bulk where the store can; absent ones are fine."""
        await self.target.remove_many([self.path_of(key) for key in keys])

    async def remove_directory(self, key: str) -> None:
        """Remove a directory if it is empty."""
        await self.target.call("rmdir", self.path_of(key))

    async def remove_empty_tree(self, key: str) -> bool:
        """Remove a directory that holds nothing but directories; say whether it is gone.

        Notes
        -----
        Cost: a listing and a removal for each directory; nothing is removed where there is an
        object below it.
        """
        trees = [self.path_of(key)]
        try:
            for path in trees:
                for entry in await self.target.call("ls", path, detail=True):
                    if entry["type"] != "directory":
                        return False
                    trees.append(entry["name"])
            for path in reversed(trees):
                await self.target.call("rmdir", path)
        except FileNotFoundError:
            return True  # somebody else has removed it
        except OSError as error:
            if is_retryable(error):
                raise
            return False
        return True

    async def digest(self, key: str, size: int) -> str:
        """Return the xxh3 of an object, read piece by piece."""
        path, digest = self.path_of(key), xxhash.xxh3_64()
        for start in range(0, size, _PIECE_BYTES):
            digest.update(await self.target.cat_file(path, start, min(size, start + _PIECE_BYTES)))
        return str(digest.hexdigest())


def _status_of(error: BaseException) -> int | None:
    for said in (error, error.__cause__):
        response = getattr(said, "response", None)
        if isinstance(response, Mapping):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else None
    return None
