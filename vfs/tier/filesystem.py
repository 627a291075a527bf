"""``tier::`` and ``tier://``: hot over cold as one filesystem.

What lives here: routing of filesystem calls to the pure state and to the mover. What must not:
the order of steps (``state.py``), their I/O (``mover.py``), the verbs (``verbs.py``).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, cast

from fsspec.utils import stringify_path

from vfs.config.options import check_known
from vfs.config.secrets import reveal
from vfs.core.chained import WrapperFileSystem
from vfs.core.engine import get_engine
from vfs.core.file import LocalSource, ObjectReader
from vfs.core.localread import WAIT_FOR_DISK, WaitForDisk
from vfs.core.loop import run_in_thread, wait
from vfs.core.path import clean_key, strip_protocol
from vfs.core.ranges import resolve
from vfs.core.storename import store_name
from vfs.errors import ConfigError, invalid_path, os_error, replaced
from vfs.tier.changes import TierChanges
from vfs.tier.claim import hot_name_allowed
from vfs.tier.cold import check_apart, is_local, open_cold, options_of_cold
from vfs.tier.engine import TierEngine, Version
from vfs.tier.freshness import Freshness
from vfs.tier.hot import read_hot, slot_of, touch
from vfs.tier.journal import Kind
from vfs.tier.listings import TierListings
from vfs.tier.mover import Mover
from vfs.tier.options import OPTION_NAMES, TierOptions
from vfs.tier.overlay import info_of
from vfs.tier.place import Place
from vfs.tier.promotions import TierPromotions
from vfs.tier.stack import StackVerbs
from vfs.tier.stackoptions import Places, cold_url
from vfs.tier.state import Action, ObjectState, Promote, Read, actions_for
from vfs.tier.versionnotes import note_version
from vfs.types import Info, ObjectInfo

__all__ = ["TierFileSystem"]


#: How often a read begins again because its object is written or evicted in between.
_LOOKS: Final = 100


class TierFileSystem(
    StackVerbs,
    TierChanges,
    TierListings,
    TierPromotions,
    WrapperFileSystem,
):
    """A small fast store over a large slow one.

    Two forms: ``tier::s3://bucket/key`` puts a hot tier before any URL; ``tier://key`` takes
    both places as options, and keys are relative to ``cold``.

    Parameters
    ----------
    hot : str
        The hot directory: a path, ``file://`` or ``disk://``. It must be empty at first use and
        belongs to the tier from then on.
    cold : str, optional
        URL of the cold store's root, for the ``tier://`` form; any fsspec URL, also chained.
    cold_options : dict, optional
        Options of ``cold``; those of its protocol may also stand under the protocol's name.
    max_bytes : int or str, optional
        Limit of the hot tier, over all processes, as ``"500 GiB"``. Default: the limit recorded
        in the hot directory, else half of its disk. The last one given wins.
    write : {"through", "around", "back"}, default "through"
        Acknowledged after both tiers have the object; stored in cold only; or acknowledged once
        hot has it durably, and sent to cold behind the writer's back.
    promote : {"always", "second", "never"}, default "always"
        Whether the first read of a cold object, the second, or none leaves a hot copy.
    promote_max_bytes : int or str, default "64 MiB"
        Larger objects are read from cold by range; ``promote(path)`` copies them nevertheless.
    pin : list of str, optional
        Globs over keys that are never evicted, as ``"**/zarr.json"``.
    durability : {"power", "process"}, default "power"
        With ``write="back"``, what an acknowledged write survives before cold has it: a power cut,
        or a kill of the process only.
    max_dirty_bytes : int or str, optional
        With ``write="back"``, limit of what cold does not have yet; half of ``max_bytes`` by
        default. Writers slow down before it, and get ENOSPC at it.
    max_lag_s : float, optional
        With ``write="back"``, the same for the age of the oldest unsent change, in seconds.
    quiet_s : float, default 2.0
        With ``write="back"``, metadata of a zarr node is sent when nothing was written below it for
        so many seconds, or on ``flush``.
    delay_s : float, default 1.0
        With ``write="back"``, an object is sent when it was not written to for so many seconds, on
        ``flush``, or when room is needed. What is overwritten meanwhile is sent once.
    consistency : {'exclusive', 'ttl', 'open'}, default 'exclusive'
        What others may do to the cold store. ``exclusive``: only users of this hot directory write
        there, and a hot hit asks nobody. ``open``: a copy is compared with cold at each read, and
        each opening. ``ttl``: at most every ``ttl_s`` seconds, 60 by default.
    ttl_s : float, optional
        See there.
    rules : list of dict, optional
        What holds for some objects instead. Each has a glob ``match`` and may set ``write``,
        ``promote``, ``promote_max_bytes``, ``pin`` and ``demote``; the first that matches decides.
    prices : dict, optional
        What the cold store charges, for :meth:`plan`: ``get_request``, ``put_request``,
        ``read_gb``, ``write_gb``, ``currency``.
    tiers : list, optional
        Several directories over one cold store, fastest first, instead of ``hot`` and ``cold``:
        each a path, or a dict of ``hot`` and its own ``max_bytes``, ``promote``,
        ``promote_max_bytes``, ``pin`` (those given beside ``tiers`` hold for every other one);
        the last one the cold store, a URL or a dict of ``cold``, ``options``, ``engine``. ``write``
        and what belongs to it, ``rules`` and ``prices`` are those of the last directory, and
        everything above it writes through.
    under : str, optional
        The directory above; filled in by ``tiers``.
    target_protocol, target_options, fs, fo, engine
        See :class:`~vfs.core.chained.WrapperFileSystem`.

    Raises
    ------
    ConfigError
        Unknown or wrong options, hot equal to cold or inside it; at first use, a hot directory
        of another cold store or with files no tier put there.

    Notes
    -----
    A hot hit is open, fstat, pread, close on the caller's thread: no lock, no index, no request.
    A cold read fetches once for all threads, loops and processes of the machine. Writes and
    removals are seen at once by every instance and process that uses the same hot directory;
    these must be the only writers of the cold store. Thread-safe, fork-safe, picklable.
    Durability: what the cold store promises, since nothing is acknowledged before it has it; with
    ``write="back"`` what ``durability`` says, until ``flush`` has returned.

    Examples
    --------
    >>> import tempfile, fsspec
    >>> top = tempfile.mkdtemp()
    >>> fs = fsspec.filesystem("tier", hot=f"{top}/hot", cold=f"disk://{top}/cold")
    >>> fs.pipe_file("a/b", b"hello")
    >>> fs.cat_file("tier://a/b"), fs.status("a/b").state
    (b'hello', 'HOT')
    """

    protocol = "tier"
    always_on_loop = True

    def __init__(
        self,
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        fs: Any = None,
        fo: str | None = None,
        *,
        hot: Any = None,
        cold: str | None = None,
        cold_options: Mapping[str, Any] | None = None,
        max_bytes: Any = None,
        write: str = "through",
        promote: str = "always",
        promote_max_bytes: Any = None,
        pin: Any = (),
        durability: str | None = None,
        max_dirty_bytes: Any = None,
        max_lag_s: float | None = None,
        quiet_s: float | None = None,
        delay_s: float | None = None,
        rules: Any = None,
        prices: Mapping[str, Any] | None = None,
        engine: str = "auto",
        consistency: str = "exclusive",
        ttl_s: float | None = None,
        tiers: Any = None,
        under: str | None = None,
        **kwargs: Any,
    ) -> None:
        own = options_of_cold(cold if tiers is None else cold_url(tiers), kwargs)
        check_known("tier", kwargs, OPTION_NAMES)
        each = {"max_bytes": max_bytes, "pin": pin, "promote": promote}
        last = {"write": write, "rules": rules, "prices": prices, "durability": durability}
        last |= {"consistency": consistency, "ttl_s": ttl_s}
        chain = {"target_protocol": target_protocol, "target_options": target_options}
        waits = {"max_lag_s": max_lag_s, "quiet_s": quiet_s, "delay_s": delay_s}
        places = Places.parse(
            tiers=tiers,
            named={"hot": hot, "cold": cold, "fs": fs, **chain},
            cold_options={**own, **(cold_options or {})},
            engine=engine,
            each={**each, "promote_max_bytes": promote_max_bytes},
            last={**last, **waits, "max_dirty_bytes": max_dirty_bytes},
        )
        self._below = None if places.below is None else type(self)(**places.below)
        fs = fs if self._below is None else self._below
        chained = target_protocol is not None or fs is not None
        if chained == (places.cold is not None):
            message = "tier: name the cold store once, as tier::s3://bucket or with cold='s3://…'"
            raise ConfigError(message)
        cold_root = ""
        if places.cold is not None:
            cold = str(reveal(places.cold, name="cold"))
            fs, cold_root = open_cold(cold, places.cold_options, places.engine)
            super().__init__(fs=fs, **kwargs)
            self.root_marker = ""
        else:
            super().__init__(target_protocol, target_options, fs, fo, places.engine, **kwargs)
        self._stand(places.options, cold_root, fo or "", under)

    def _stand(self, options: TierOptions, cold_root: str, fo: str, under: str | None) -> None:
        """Take the place between what is above and what is below."""
        self._cold_root = cold_root
        #: Whether keys are relative to the cold store's root.
        self._relative = bool(cold_root) or self._below is not None
        self._local_cold = self._below is None and is_local(self.fs)
        check_apart(options.hot, cold_root or fo, local=self._local_cold)
        last = self._last
        if last is not self:
            check_apart(options.hot, last._cold_root, local=last._local_cold)
        self._options = options
        self._absolute = not self._relative and self.root_marker == "/"
        self._prefix = options.hot if self._absolute else f"{options.hot}/"
        self._under = under
        if options.consistency != "exclusive" and (under is not None or self._below is not None):
            message = "tier: consistency is 'exclusive' where there are several directories"
            raise ConfigError(message)
        self._mover = self._connect(options)

    def _connect(self, options: TierOptions) -> Mover:
        """Join what the instances of this process share for the hot directory."""
        name = f"{os.path.realpath(options.hot)} over {self._identity()} under {self._under}"
        self._engine = get_engine(TierEngine, name, self._make_engine)
        self._engine.configure(
            options.max_bytes, options.pins.patterns, options.back, options.rules
        )
        # One count a process: zarr's instance is another one than pandas'.
        self.target.requests = self._engine.cold_requests
        flat = self.flat or self.target.tells_versions
        # A write compares the current version under the key's lock, which excludes every user of
        # this tier; reads are pinned by comparing versions afterwards.
        self.writes_conditionally = True
        self.reads_conditionally = False
        mover = Mover(self._engine, self.target, self._cold_root, flat=flat)
        if options.consistency != "exclusive":
            mover.freshness = Freshness(mover, options.consistency, options.ttl_s)
        self._freshness = mover.freshness
        return mover

    def _make_engine(self) -> TierEngine:
        place = Place(self._under, None if self._below is None else self._below._engine)
        return TierEngine(
            self._options.hot, self._identity(), absolute_keys=self._absolute, place=place
        )

    def _identity(self) -> str:
        """Name what is below, without secrets, the same in every process."""
        if self._below is None:
            return store_name(self.fs, self._cold_root)
        # Not by its options, which may change: by the place of its copies, and what they are of.
        return f"{os.path.realpath(self._below._options.hot)} over {self._below._identity()}"

    # ---------------------------------------------------------------- names

    def _strip_through(self, path: Any) -> Any:
        if not self._relative:
            return super()._strip_through(path)
        if isinstance(path, list):
            return [self._strip_through(item) for item in path]
        return strip_protocol(stringify_path(path), self._protocols()).strip("/")

    def _key(self, path: Any) -> str:
        key = clean_key(self._strip_protocol(path)) if self._relative else super()._key(path)
        if self._local_cold:
            self._refuse_hot_paths(key)
        return key

    def _refuse_hot_paths(self, key: str) -> None:
        local = self._mover.cold_path(key)
        hot = self._options.hot
        if local == hot or local.startswith(f"{hot}/"):
            raise invalid_path(key, "it lies in the hot directory of this tier")

    def _parent_through(self, path: str) -> str:
        if not self._relative:
            return super()._parent_through(path)
        return cast("str", self._strip_protocol(path)).rpartition("/")[0]

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""
        if not self._relative:
            return super().unstrip_protocol(name)
        return f"tier://{self._strip_protocol(name)}"

    def _from_cold(self, info: ObjectInfo) -> ObjectInfo:
        """Name an entry of the cold store as this filesystem does."""
        if not self._cold_root:
            return info
        key = info.key[len(self._cold_root) :].strip("/")
        return ObjectInfo(key, info.size, info.mtime, info.etag, info.kind, info.extra)

    # ---------------------------------------------------------------- read

    def get_now(
        self, key: str, start: int | None, end: int | None, *, may_block: bool
    ) -> bytes | WaitForDisk | None:
        engine = self._engine
        if not (engine.ready or engine.usable()) or not hot_name_allowed(key):
            return None
        if self._freshness is not None and not self._freshness.is_fresh(key):
            return None  # cold is asked first, on the I/O loop
        try:
            data = read_hot(self._prefix + key, start, end, engine.heat, may_block=may_block)
        except OSError:
            return None  # no copy, or a name the local disk cannot hold
        if data is not WAIT_FOR_DISK:
            engine.hits += 1
        return data

    async def get_object(
        self, key: str, start: int | None, end: int | None, *, if_match: str | None = None
    ) -> bytes:
        del if_match  # reads_conditionally is False
        try:
            with self._naming_archived(key):
                return await self._read_object(key, start, end)
        except FileNotFoundError:
            await self._mover.refuse_directory(key)
            raise
        except (IsADirectoryError, NotADirectoryError):
            await self._refuse_removed_directory(key)
            raise

    async def _read_object(self, key: str, start: int | None, end: int | None) -> bytes:
        if not (self._engine.usable() and hot_name_allowed(key)):
            return await self._get_cold(key, start, end)
        promoted = False
        for _ in range(_LOOKS):
            may_answer = await self._compare(key)
            data = await self._mover.read_hot(key, start, end) if may_answer else None
            if data is not None:
                self._engine.hits += 1
                return data
            if await self._mover.has_unsent(key):
                continue  # it has just got its name
            if promoted:  # and was evicted again, or had no room
                return await self._get_cold(key, start, end)
            data, promoted = await self._read_cold_object(key, start, end), True
            if data is not None:
                return data
        raise self._unreadable(key)

    async def _compare(self, key: str, *, held: bool = False) -> bool:
        """Say whether a copy may answer; one that others have outdated in cold is dropped."""
        return self._freshness is None or await self._freshness.check(key, held=held)

    def _open_copy(self, key: str) -> LocalSource | None:
        """Open a copy that may answer; for synchronous callers."""
        freshness = self._freshness
        if not (freshness is None or freshness.is_fresh(key) or wait(freshness.check, key)):
            return None
        try:
            return LocalSource(self._prefix + key)
        except OSError:
            return None

    def _unreadable(self, key: str) -> OSError:
        message = "what is not in the cold store yet cannot be read from the hot disk; see its log"
        return os_error(errno.EIO, key, message)

    async def _read_cold_object(self, key: str, start: int | None, end: int | None) -> bytes | None:
        """Read what only cold has; None where hot has got a copy meanwhile."""
        self._engine.misses += 1
        promote, size = await self._wants_promotion(key, whole=start is None and end is None)
        steps = actions_for(ObjectState(hot=False), Read(promote))
        if Action.SERVE_COLD in steps:
            data = await self._get_cold(key, start, end)
            await self._note_cold_read(key, len(data) if start is None and end is None else None)
            return data
        limit_bytes = self._options.promotion_of(key).max_bytes
        fetched = await self._mover.fetch_and_install(key, size, limit_bytes)
        if fetched is not None:
            await self._note_cold_read(key, len(fetched))
            return fetched if start is None and end is None else fetched[start:end]
        return None

    async def _get_cold(self, key: str, start: int | None, end: int | None) -> bytes:
        return await self.target.cat_file(self._mover.cold_path(key), start, end)

    async def get_path(self, key: str, local: str) -> None:
        with self._naming_archived(key):
            await self._get_path(key, local)

    async def _get_path(self, key: str, local: str) -> None:
        if self._engine.usable() and hot_name_allowed(key):
            for _ in range(_LOOKS):
                if not await self._compare(key) or not self._has_copy(key):
                    await self._promote_as_read(key)
                    if not await self._compare(key):
                        break
                if await run_in_thread(self._engine.hot.copy_out, key, local):
                    self._engine.hits += 1
                    return
                if not await self._mover.has_unsent(key):
                    break
            else:
                raise self._unreadable(key)
        await self.target.get_file(self._mover.cold_path(key), local)

    def _open_reader(self, key: str) -> Any:
        """Open the hot copy, made first if the policy wants one, or ranges of the cold object."""
        if self._engine.usable() and hot_name_allowed(key):
            for attempt in range(2):
                raw = self._open_copy(key)
                if raw is None:
                    if attempt == 0 and not wait(self._promote_as_read, key):
                        break
                    continue
                self._engine.hits += 1
                facts = os.fstat(raw.fileno())
                touch(raw.fileno(), facts, self._engine.heat)
                info = ObjectInfo(key, facts.st_size).to_info()
                return ObjectReader(self, key, info, raw)
        return super()._open_reader(key)

    # ---------------------------------------------------------------- facts

    def info_now(self, key: str, *, may_block: bool) -> Info | None:
        engine = self._engine
        if not (engine.ready or engine.usable()) or not hot_name_allowed(key):
            return None
        known = engine.known_version(key)
        if known is None or known.mtime is None:
            return None
        if self._freshness is not None and not self._freshness.is_fresh(key):
            return None
        try:
            facts = os.stat(self._prefix + key)
        except OSError:
            return None
        return ObjectInfo(key, facts.st_size, known.mtime, known.etag).to_info()

    async def head_object(self, key: str) -> ObjectInfo:
        return await self._facts_of(key, held=False)

    async def _facts_of(self, key: str, *, held: bool) -> ObjectInfo:
        engine = self._engine
        if not (engine.usable() and hot_name_allowed(key)):
            return self._from_cold(await self.target.info(self._mover.cold_path(key)))
        await self._compare(key, held=held)
        generation = engine.generations.get(slot_of(key))
        row = await run_in_thread(engine.catalog.row, key)
        if row is not None and row.mtime is not None:
            engine.remember_version(key, Version(generation, row.etag, row.mtime, row.size))
            return ObjectInfo(key, row.size, row.mtime, row.etag)
        store = engine.dirty()
        change = None if store is None else await run_in_thread(store.journal.get, key)
        if store is not None and change is not None and change.kind is Kind.PUT:
            if row is None or not await run_in_thread(store.needs_redo, change):
                return info_of(change)
            return await self._head_unnamed(key, change)
        info = await self._head_cold(key, removed=change is not None)
        if info.kind == "file":
            version = Version(generation, info.etag, info.mtime, info.size)
            engine.remember_version(key, version)
            if row is not None and self._freshness is None:
                # INVARIANT: a version is recorded only for the object it was asked for.
                # (tests/tier/test_races.py::test_version_asked_before_a_write_is_not_recorded)
                noted = partial(note_version, engine.catalog, key, info.etag, info.mtime)
                await run_in_thread(noted, lambda: engine.known_version(key) == version)
        return info

    async def _read_pinned(self, key: str, start: int, end: int, info: Info) -> bytes:
        """Read a range of one version, as far as the tier knows versions.

        Whether the object is still the one is asked of the catalogue, which knows every change
        made through this tier, and of the cold store for what has no hot copy.
        """
        known = self._engine.known_version(key) if self._engine.usable() else None
        if known is None or known.etag != info.get("etag"):
            return await super()._read_pinned(key, start, end, info)
        data: bytes = await self._cat_file(key, start, end)
        low, high = resolve(start, end, info["size"])
        if len(data) != high - low or not await self._is_still(key, known):
            raise replaced(key)
        return data

    # ---------------------------------------------------------------- copies

    def _has_copy(self, key: str) -> bool:
        return hot_name_allowed(key) and os.path.isfile(self._prefix + key)

    async def _promote_one(self, key: str) -> None:
        steps = actions_for(ObjectState(hot=self._has_copy(key)), Promote())
        if Action.FETCH_AND_INSTALL in steps:
            size = (await self.head_object(key)).size
            await self._mover.fetch_and_install(key, size, size)
