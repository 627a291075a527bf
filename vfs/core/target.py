"""Any fsspec filesystem as coroutines on the I/O loop, with our errors and our infos.

What lives here: building a target and calling it, asynchronous or not. What must not: any
behaviour a layer or tier adds.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from vfs.config.secrets import redact_url, reveal
from vfs.core.base import VirtualFileSystem
from vfs.core.client import choose_protocol
from vfs.core.foreign import object_info, translate
from vfs.core.localread import WaitForDisk
from vfs.core.loop import driven, gather, run_in_thread
from vfs.core.storename import protocols_of
from vfs.core.wholereads import download_whole, read_whole
from vfs.errors import (
    ConfigError,
    IntegrityError,
    UnavailableError,
    exists_already,
    is_a_directory,
    replaced,
)
from vfs.types import Info, ObjectInfo

__all__ = ["SERVED_BY", "Target", "build", "in_sync_mode", "told_etag"]

#: Local files are always served by our own class: fsspec's writes in place, so that a reader may
#: see half a file, and makes no parents.
SERVED_BY: Final = {"file": "disk", "local": "disk"}

#: Synchronous filesystems that bear several threads. Others (ftp, sftp, smb, ...) hold one
#: connection, so their calls are made one after the other.
_THREAD_SAFE: Final = (LocalFileSystem, MemoryFileSystem)

#: Filesystems in which ``a`` and ``a/b`` may both be objects and a directory is nothing but keys.
_KEYS_ONLY: Final = frozenset({"s3", "s3a"})

#: How often a body that breaks off is asked for in all.
_BODY_TRIES: Final = 3

_NOT_FOR_TARGETS: Final = frozenset({"asynchronous", "loop"})


def build(protocol: str, options: Mapping[str, Any] | None = None, engine: str = "auto") -> Any:
    """Make the filesystem a wrapper stands on, bound to the I/O loop.

    Parameters
    ----------
    protocol : str
        As the URL names it.
    options : mapping, optional
        What its class is given.
    engine : {"auto", "obstore", "s3fs"}
        See ``client.py``.

    Raises
    ------
    ConfigError
        An unknown protocol, a missing package, or an option its class does not take.
    """
    asked = SERVED_BY.get(protocol, protocol)
    given = {k: v for k, v in (options or {}).items() if k not in _NOT_FOR_TARGETS}
    protocol = choose_protocol(asked, given, engine)
    try:
        if _remembers_listings(protocol):
            # What another process changed must be seen; the wrapper remembers what it may.
            given.setdefault("use_listings_cache", False)
        fs = fsspec.filesystem(protocol, **reveal(given))
    except ConfigError:
        raise
    except ImportError as error:
        message = f"protocol {protocol!r} needs a package that is not installed: {error}"
        raise ConfigError(message) from error
    except (TypeError, ValueError) as error:
        message = f"cannot open protocol {protocol!r}: {redact_url(str(error))}"
        raise ConfigError(message) from error
    if protocol != asked:
        fs.stands_for = asked
    return in_sync_mode(fs)


def _remembers_listings(protocol: str) -> bool:
    """Say whether a class is not ours and takes the option that turns its listing cache off."""
    cls = fsspec.get_filesystem_class(protocol)
    if issubclass(cls, VirtualFileSystem):
        return False
    parameters = inspect.signature(cls.__init__).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def in_sync_mode(fs: Any) -> Any:
    """Return a filesystem that is bound to the I/O loop, itself or made again from its options."""
    ours = isinstance(fs, VirtualFileSystem)
    if ours or not getattr(fs, "async_impl", False) or not fs.asynchronous:
        return fs
    options = {k: v for k, v in fs.storage_options.items() if k not in _NOT_FOR_TARGETS}
    return type(fs)(*fs.storage_args, **options)


def told_etag(done: object) -> str | None:
    """Return the etag that the answer to a write tells, ours or S3's by s3fs."""
    if isinstance(done, ObjectInfo):
        return done.etag
    etag = done.get("ETag") if isinstance(done, Mapping) else None
    return str(etag).strip('"') if etag else None


class Target:
    """A filesystem to call from coroutines on the I/O loop.

    Parameters
    ----------
    fs : AbstractFileSystem
        Ours, asynchronous (made in sync mode) or synchronous.

    Attributes
    ----------
    requests : Counter
        Calls made so far, by operation: what reached the storage from here.
    loop_bound : bool
        Whether the coroutines must run on the I/O loop.
    """

    def __init__(self, fs: Any) -> None:
        self.requests: Counter[str] = Counter()
        self._stand_on(fs)
        _targets.add(self)

    def _stand_on(self, fs: Any) -> None:
        self.fs = fs
        self.ours = isinstance(fs, VirtualFileSystem)
        self.loop_bound = not self.ours or bool(fs.loop_bound)
        self._keys_only = not _KEYS_ONLY.isdisjoint(protocols_of(fs))
        self._forked = False
        self._one_at_a_time = self._new_lock()

    def _new_lock(self) -> asyncio.Lock | None:
        shared = self.ours or self.fs.async_impl or isinstance(self.fs, _THREAD_SAFE)
        return None if shared else asyncio.Lock()

    def renew_if_forked(self) -> None:
        """In a forked child, stand on a client that works here; before every request."""
        if self._forked:
            self._renew_after_fork()

    def _renew_after_fork(self) -> None:
        """Make the filesystem again: its client's connections and loop are the parent's."""
        stands_for = getattr(self.fs, "stands_for", None)
        if self.ours and stands_for is None:
            self._forked = False  # renews itself, or says why it cannot
        elif self.ours:
            self._stand_on(build(cast("str", stands_for), self.fs.storage_options))
        else:
            self._stand_on(type(self.fs)(*self.fs.storage_args, **self.fs.storage_options))

    @property
    def read_only(self) -> bool:
        """Whether every write would be refused."""
        return bool(getattr(self.fs, "read_only", False))

    @property
    def tells_versions(self) -> bool:
        """Whether a read can name the version it wants, and listings name it as infos do."""
        return bool(self._keys_only or (self.ours and self.fs.reads_conditionally))

    async def call(self, operation: str, path: str, *args: Any, **kwargs: Any) -> Any:
        """Call ``fs._operation`` or, for a synchronous filesystem, ``fs.operation`` in a thread.

        Raises
        ------
        OSError
            With errno and path, whatever the filesystem raised (see ``foreign.py``).
        """
        self.requests[operation] += 1
        self.renew_if_forked()
        try:
            if self.fs.async_impl:
                return await getattr(self.fs, f"_{operation}")(path, *args, **kwargs)
            method = getattr(self.fs, operation)
            if self._one_at_a_time is None or driven():
                return await run_in_thread(method, path, *args, **kwargs)
            async with self._one_at_a_time:
                return await run_in_thread(method, path, *args, **kwargs)
        except Exception as error:
            # Of the two paths of an upload, the second is ours.
            named = args[0] if operation == "put_file" else path
            if kwargs.get("mode") == "create" and _precondition_failed(error):
                raise exists_already(named) from error
            better = translate(error, operation, named)
            if better is error:
                raise
            raise better from error

    def get_now(
        self, path: str, start: int | None, end: int | None, *, may_block: bool
    ) -> bytes | WaitForDisk | None:
        """Answer a read without waiting, if the filesystem is ours and can."""
        if not self.ours:
            return None
        return cast(
            "bytes | WaitForDisk | None", self.fs.get_now(path, start, end, may_block=may_block)
        )

    def info_now(self, path: str, *, may_block: bool) -> Info | None:
        """Answer ``info`` without waiting, if the filesystem is ours and can."""
        if not self.ours:
            return None
        return cast("Info | None", self.fs.info_now(path, may_block=may_block))

    async def info(self, path: str) -> ObjectInfo:
        """Return what is known of a path."""
        return object_info(await self.call("info", path))

    async def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return bytes of an object.

        Notes
        -----
        A suffix of a small object may come back longer from filesystems that ignore it: it is cut.
        """
        self.renew_if_forked()
        if start is not None or end is not None:
            data = await self._cat_range(path, start, end)
        elif self._keys_only and not self.ours:
            data = (await self.cat_whole(path))[1]
        else:
            data = await self.call("cat_file", path)
        return data if isinstance(data, bytes) else bytes(data)

    async def cat_whole(self, path: str) -> tuple[ObjectInfo | None, bytes]:
        """Return an object, and what it is where the answer with its bytes tells, at no cost."""
        # INVARIANT: the parts of an object are of one version
        # (tests/backends/test_s3_faults.py::test_object_replaced_between_two_parts_of_a_read).
        self.renew_if_forked()
        if self.ours and self.fs.gives("get_whole"):
            self.requests["cat_file"] += 1
            return cast("tuple[ObjectInfo | None, bytes]", await self.fs._call("get_whole", path))
        if self._keys_only and not self.ours and (found := await read_whole(self, path)):
            return found
        data = await self.call("cat_file", path)
        return None, data if isinstance(data, bytes) else bytes(data)

    async def _cat_range(self, path: str, start: int | None, end: int | None) -> Any:
        if start is not None and end is not None and 0 <= end <= start:
            return b""
        try:
            return await self.call("cat_file", path, start=start, end=end)
        except OSError as error:
            # S3 answers 416 to a range beyond the end, and fsspec's local files EINVAL to a
            # suffix longer than the file: both are a matter of arithmetic once the size is known.
            if isinstance(error, FileNotFoundError | PermissionError):
                raise
            if "not satisfiable" not in str(error) and error.errno != errno.EINVAL:
                raise
        size = int((await self.info(path)).size)
        low, high, _ = slice(start, end).indices(size)
        if high <= low:
            return b""
        return await self.call("cat_file", path, start=low, end=high)

    async def cat_version(self, path: str, start: int, end: int, known: ObjectInfo) -> bytes:
        """Return a range of the version that ``known`` describes, or refuse.

        Raises
        ------
        ConflictError
            [ESTALE] the object is another one now.
        IntegrityError
            [EBADMSG] fewer bytes came than the version has.

        Notes
        -----
        Cost: one request where the storage takes If-Match, else one more to compare afterwards.
        """
        self.renew_if_forked()
        if self.ours and self.fs.reads_conditionally and known.etag is not None:
            self.requests["cat_file"] += 1
            data = await self.fs._call("get_object", path, start, end, if_match=known.etag)
        elif self._keys_only and known.etag is not None:
            version = {"Range": f"bytes={start}-{end - 1}", "IfMatch": f'"{known.etag}"'}
            _, data = await self._get_from_s3(path, version)
        else:
            data = await self.cat_file(path, start, end)
            now = await self.info(path)
            if (now.size, now.etag, now.mtime) != (known.size, known.etag, known.mtime):
                raise replaced(path)
        if len(data) != end - start:
            message = f"{len(data)} bytes came instead of {end - start}"
            raise IntegrityError(message, path)
        return cast("bytes", data)

    @property
    def reads_with_facts(self) -> bool:
        """Whether :meth:`cat_start` can answer: one request for bytes, size and version."""
        return self._keys_only or (self.ours and self.fs.gives("get_start"))

    async def cat_start(self, path: str, count: int) -> tuple[ObjectInfo, bytes] | None:
        """Return the first bytes of an object and what it is, by one request.

        Returns
        -------
        tuple or None
            None where the answer did not say all of it, as that of an empty object does not.

        Raises
        ------
        FileNotFoundError
            [ENOENT] authoritatively absent, or a directory.
        """
        self.renew_if_forked()
        if self.ours:
            self.requests["cat_file"] += 1
            return cast(
                "tuple[ObjectInfo, bytes] | None", await self.fs._call("get_start", path, count)
            )
        try:
            answer, data = await self._get_from_s3(path, {"Range": f"bytes=0-{count - 1}"})
        except OSError as error:
            if "not satisfiable" in str(error) or error.errno == errno.EINVAL:
                return None
            raise
        size = str(answer.get("ContentRange", "")).rpartition("/")[2]
        etag = str(answer.get("ETag", "")).strip('"')
        if not size.isdecimal() or not etag or len(data) != min(count, int(size)):
            return None
        info = {"name": path, "size": int(size), "type": "file", "ETag": etag}
        return object_info({**info, "LastModified": answer.get("LastModified")}), data

    async def _get_from_s3(
        self, path: str, conditions: dict[str, str]
    ) -> tuple[Mapping[str, Any], bytes]:
        """Send a GET with conditions that s3fs's own reads cannot name."""
        bucket, key, version_id = self.fs.split_path(path)
        request = {"Bucket": bucket, "Key": key, **conditions}
        if version_id:
            request["VersionId"] = version_id
        for attempt in range(_BODY_TRIES):
            self.requests["cat_file"] += 1
            answered = False
            try:
                answer = await self.fs._call_s3("get_object", **request)
                answered = True
                async with answer["Body"] as body:
                    return answer, await body.read()
            except Exception as error:
                if _precondition_failed(error):
                    raise replaced(path) from error
                better = translate(error, "cat_file", path)
                # s3fs has tried the request itself again; a body that broke off it has not.
                broke_off = answered and isinstance(better, UnavailableError)
                if attempt + 1 == _BODY_TRIES or not broke_off:
                    if better is error:
                        raise
                    raise better from error
        raise AssertionError

    async def pipe_file(self, path: str, value: Any, *, create: bool = False) -> str | None:
        """Store an object; missing parents are made where the filesystem has directories.

        Returns
        -------
        str or None
            Its etag, where the answer told.
        """
        mode = {"mode": "create"} if create else {}
        if not self.ours and not isinstance(value, bytes):
            value = bytes(value)  # botocore takes no memoryview, others no bytearray
        return told_etag(await self._with_parents("pipe_file", path, (path, value), mode))

    async def put_file(self, local: str, path: str, *, create: bool = False) -> str | None:
        """Store a local file, streaming where the filesystem can; return the etag, if told."""
        mode = {"mode": "create"} if create else {}
        return told_etag(await self._with_parents("put_file", path, (local, path), mode))

    async def _with_parents(
        self, operation: str, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return await self.call(operation, *args, **kwargs)
        except FileNotFoundError:
            # Not absence of the object (this is a write) but of its directory.
            await self.call("makedirs", self.fs._parent(path), exist_ok=True)
            return await self.call(operation, *args, **kwargs)

    async def get_file(self, path: str, local: str) -> ObjectInfo | None:
        """Copy an object to a local path, streaming where the filesystem can; as ``cat_whole``."""
        self.renew_if_forked()
        if self._keys_only and not self.ours and (found := await download_whole(self, path, local)):
            return found
        told = await self.call("get_file", path, local)
        return told if isinstance(told, ObjectInfo) else None

    async def children(self, path: str) -> list[ObjectInfo]:
        """Return the direct children of a directory.

        Raises
        ------
        FileNotFoundError, NotADirectoryError
            [ENOENT, ENOTDIR] nothing there; an object.
        """
        found: list[Info] = await self.call("ls", path, detail=True)
        infos = [object_info(info) for info in found]
        plain = path.rstrip("/")
        if len(infos) == 1 and infos[0].key.rstrip("/") == plain and infos[0].kind == "file":
            raise NotADirectoryError(errno.ENOTDIR, "is an object, not a directory", path)
        # s3fs lists a directory marker as an entry of its own directory.
        return [info for info in infos if info.key.rstrip("/") != plain]

    async def tree(self, path: str, maxdepth: int | None = None) -> dict[str, Info]:
        """Return everything below a directory, from one flat listing where there is one."""
        plain = path.rstrip("/")
        found: dict[str, Info] = {}
        if not self._keys_only or maxdepth is not None:
            found = await self.call("find", path, maxdepth=maxdepth, withdirs=True, detail=True)
        if self._keys_only:
            # With directories s3fs gives one entry a name, and "a" of "a/b" hides the object "a".
            objects = await self.call("find", path, maxdepth=maxdepth, detail=True)
            found = {**found, **_folders_of(objects, plain), **objects}
        infos = (object_info(info) for info in found.values() if info)
        return {info.key: info.to_info() for info in infos if info.key.rstrip("/") != plain}

    async def remove(self, path: str) -> None:
        """Remove one object.

        Raises
        ------
        FileNotFoundError
            [ENOENT] there is none. Object stores would stay silent, so they are asked first.
        """
        if not self.ours and (await self.info(path)).kind == "directory":
            raise is_a_directory(path)
        await self.call("rm_file", path)

    async def remove_many(self, paths: list[str]) -> None:
        """Remove objects, in bulk where the filesystem can; absent ones are fine."""
        self.renew_if_forked()
        if self.ours:
            self.requests["rm_file"] += len(paths)
            await self.fs._delete_many(paths)
            return
        bulk = getattr(self.fs, "_bulk_delete", None)
        if bulk is not None:
            # s3fs: 1000 keys a request.
            pages = [paths[i : i + 1000] for i in range(0, len(paths), 1000)]
            await gather([lambda p=p: self.call("bulk_delete", p) for p in pages])  # type: ignore[misc]
            return
        results = await gather(
            [lambda p=p: self.call("rm_file", p) for p in paths],  # type: ignore[misc]
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, FileNotFoundError):
                raise result


def _precondition_failed(error: BaseException) -> bool:
    """Say whether S3 answered 412, by what botocore's error carries."""
    for said in (error, error.__cause__):
        response = getattr(said, "response", None)
        if isinstance(response, Mapping):
            return response.get("Error", {}).get("Code") in {"PreconditionFailed", "412"}
    return False


def _folders_of(names: Iterable[str], top: str) -> dict[str, Info]:
    """Return the directories that keys below ``top`` imply."""
    folders: dict[str, Info] = {}
    for name in names:
        folder = name.rpartition("/")[0]
        while len(folder) > len(top) and folder not in folders:
            folders[folder] = {"name": folder, "size": 0, "type": "directory"}
            folder = folder.rpartition("/")[0]
    return folders


_targets: weakref.WeakSet[Target] = weakref.WeakSet()


def _after_fork() -> None:
    for target in _targets:
        target._forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
