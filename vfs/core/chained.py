"""``WrapperFileSystem``: a filesystem over a filesystem, alone or in a chained URL.

What lives here: the (``fo``, ``target_protocol``, ``target_options``) triple of fsspec's chains
and the explicit delegation of every primitive. What must not: any concern of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from fsspec import get_filesystem_class
from fsspec.implementations.chained import ChainedFileSystem
from fsspec.spec import _Cached
from fsspec.utils import stringify_path

from vfs.core.base import VirtualFileSystem
from vfs.core.localread import WaitForDisk
from vfs.core.loop import gather, hop
from vfs.core.path import check_components, strip_protocol
from vfs.core.target import Target, build, in_sync_mode
from vfs.errors import ConfigError, is_a_directory
from vfs.types import Info, ObjectInfo

__all__ = ["WrapperFileSystem"]


class _ChainedType(_Cached):  # type: ignore[misc]
    """Give every path of one chained URL the same instance.

    fsspec leaves the path out of the outermost layer's identity only: in ``a::b::c://path`` it
    stays in the options of ``b``, so that each path would make new instances of ``a`` and ``b``.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        own = kwargs.pop(cls.protocol, None) if isinstance(cls.protocol, str) else None
        if isinstance(own, Mapping):
            # storage_options={"tier": {...}} reaches us whole from those who build the chain
            # themselves (universal-pathlib) instead of through fsspec.
            kwargs = {**own, **kwargs}
        options = kwargs.get("target_options")
        if options and kwargs.get("target_protocol"):
            kwargs["target_options"] = _without_paths(kwargs["target_protocol"], options)
        return super().__call__(*args, **kwargs)


def _without_paths(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    cleaned = dict(options)
    try:
        cls = get_filesystem_class(protocol)
    except (ImportError, ValueError):
        return cleaned  # reported, with its remedy, when the target is built
    if "fo" in cls._strip_tokenize_options:
        cleaned.pop("fo", None)
    inner = cleaned.get("target_options")
    if inner and cleaned.get("target_protocol"):
        cleaned["target_options"] = _without_paths(cleaned["target_protocol"], inner)
    return cleaned


class WrapperFileSystem(
    VirtualFileSystem,
    ChainedFileSystem,  # type: ignore[misc]  # fsspec carries no types
    metaclass=_ChainedType,
    abstract=True,
):
    """Base of layers and tiers: one inner filesystem, every primitive delegated by name.

    A layer overrides the primitives its concern touches, and nothing else.

    Parameters
    ----------
    target_protocol : str
        Protocol of the inner filesystem; what a chained URL fills in.
    target_options : dict, optional
        Its options. Secrets may be given as ``{"env": "NAME"}`` or ``{"file": "PATH"}``.
    fs : AbstractFileSystem, optional
        The inner filesystem itself, instead of the two above.
    fo : str, optional
        The path of a chained URL; ignored.
    engine : {"auto", "obstore", "s3fs"}, default "auto"
        Which client serves ``s3://``: obstore if it is installed and knows every option given,
        else s3fs. A forked child goes on with s3fs.

    Raises
    ------
    ConfigError
        No target, an unknown one, or both ways of naming it.

    Notes
    -----
    The inner filesystem is made in sync mode, whatever mode this one is in, and so lives on the
    I/O loop: one client and one connection pool for pandas and zarr in one process.
    """

    _strip_tokenize_options = ("fo",)
    #: Set where a layer must see every call on the I/O loop even over a local target.
    always_on_loop: ClassVar[bool] = False

    def __init__(
        self,
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        fs: Any = None,
        fo: str | None = None,
        engine: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        del fo
        if (fs is None) == (target_protocol is None):
            name = self._protocols()[0]
            message = f"{name}: name one target, as in {name}::s3://bucket/key, or give fs="
            raise ConfigError(message)
        if fs is None:
            fs = build(cast("str", target_protocol), target_options, engine)
        self._adopt(fs)

    def _adopt(self, fs: Any) -> None:
        """Stand on ``fs``: its path rules become ours, and its loop."""
        self.fs = in_sync_mode(fs)
        self.target = Target(self.fs)
        self.root_marker = self.fs.root_marker
        # Instance attributes on purpose: fsspec declares both as class attributes, but whether a
        # wrapper needs the loop depends on what it wraps.
        bound = self.always_on_loop or self.target.loop_bound
        self.loop_bound = bound  # type: ignore[misc]
        self.any_loop = not bound  # type: ignore[misc]
        self.flat = self.target.ours and self.fs.flat
        self.reads_conditionally = self.target.ours and self.fs.reads_conditionally
        self.writes_conditionally = self.target.ours and self.fs.writes_conditionally
        self._strip_protocol = self._strip_through  # type: ignore[method-assign]
        self._parent = self._parent_through

    @property
    def read_only(self) -> bool:  # type: ignore[override]
        """Whether writes are refused here or below."""
        return self.target.read_only

    # ---------------------------------------------------------------- names

    def _strip_through(self, path: Any) -> Any:
        if isinstance(path, list):
            return [self._strip_through(item) for item in path]
        path = strip_protocol(stringify_path(path), self._protocols())
        return self.fs._strip_protocol(path)

    def _key(self, path: Any) -> str:
        if self.target.ours:
            own = strip_protocol(stringify_path(path), self._protocols())
            return cast("str", self.fs._key(own))
        # Doubled slashes stay: "a//b" and "a/b" are two objects on S3.
        key = cast("str", self._strip_protocol(path))
        check_components(key)
        return key

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        # On the class, where the inner filesystem is not known (fsspec and universal-pathlib ask
        # there): a leading slash is the inner filesystem's business.
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        return strip_protocol(stringify_path(path), cls._protocols()).rstrip("/")

    def _parent_through(self, path: str) -> str:
        return cast("str", self.fs._parent(self._strip_protocol(path)))

    def unstrip_protocol(self, name: str) -> str:
        """Return the chained URL of a path."""
        return f"{self._protocols()[0]}::{self.fs.unstrip_protocol(self._strip_protocol(name))}"

    # ---------------------------------------------------------------- delegation

    def get_now(
        self, key: str, start: int | None, end: int | None, *, may_block: bool
    ) -> bytes | WaitForDisk | None:
        return self.target.get_now(key, start, end, may_block=may_block)

    def info_now(self, key: str, *, may_block: bool) -> Info | None:
        return self.target.info_now(key, may_block=may_block)

    async def head_object(self, key: str) -> ObjectInfo:
        return await self.target.info(key)

    async def get_object(
        self, key: str, start: int | None, end: int | None, *, if_match: str | None = None
    ) -> bytes:
        if if_match is None:
            return await self.target.cat_file(key, start, end)
        return cast("bytes", await self.fs._call("get_object", key, start, end, if_match=if_match))

    async def put_object(
        self,
        key: str,
        value: bytes,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> None:
        if if_match is not None:
            await self.fs._call("put_object", key, value, if_match=if_match)
            return
        await self.target.pipe_file(key, value, create=if_none_match)

    async def put_path(
        self, key: str, local: str, *, if_none_match: bool, if_match: str | None
    ) -> None:
        if if_match is not None:
            await self.fs._put_local(key, local, if_none_match=False, if_match=if_match)
            return
        await self.target.put_file(local, key, create=if_none_match)

    async def get_path(self, key: str, local: str) -> None:
        await self.target.get_file(key, local)

    async def delete_object(self, key: str) -> None:
        await self.target.remove(key)

    async def list_directory(self, key: str) -> list[ObjectInfo]:
        return await self.target.children(key)

    async def copy_object(self, source: str, target: str) -> None:
        try:
            await self.target.call("cp_file", source, target)
        except FileNotFoundError:
            # Object stores know no directories; the caller then makes the one it wants.
            if self.target.ours or (await self.target.info(source)).kind != "directory":
                raise
            raise is_a_directory(source) from None

    async def move_object(self, source: str, target: str) -> None:
        if self.target.ours:
            await self.target.call("mv_file", source, target)
            return
        await self.target.call("cp_file", source, target)
        await self.target.call("rm_file", source)

    async def make_directory(self, key: str) -> None:
        await self.target.call("makedirs", key, exist_ok=True)

    async def remove_directory(self, key: str) -> None:
        await self.target.call("rmdir", key)

    async def _tree(self, key: str, maxdepth: int | None) -> dict[str, Info]:
        if self.loop_bound:
            return await hop(self.target.tree, key, maxdepth)
        return await self.target.tree(key, maxdepth)

    async def _delete_many(self, keys: list[str]) -> None:
        if self.loop_bound:
            await hop(self.target.remove_many, keys)
        else:
            await gather([lambda: self.target.remove_many(keys)])

    def sign(self, path: str, expiration: int = 100, **kwargs: Any) -> str:
        """Return what the inner filesystem signs."""
        key = self._key(path)
        return cast("str", self.fs.sign(key, expiration=expiration, **kwargs))
