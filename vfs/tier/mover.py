"""The steps of a tier, performed: fetch, install, fence, drop, write, remove.

What lives here: I/O in the order ``state.py`` gave. What must not: deciding the order.

Everything here runs on the I/O loop. Blocking file work goes to threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Hashable, Iterable
from typing import Any, Final, Literal, cast

import xxhash

from vfs.core.loop import clean_up_in_thread, run_in_thread
from vfs.core.target import Target
from vfs.errors import IntegrityError, UnavailableError, exists_already, is_a_directory, not_found
from vfs.observe import Event, emit, logger
from vfs.tier.catalog import Reservation
from vfs.tier.claim import hot_name_allowed
from vfs.tier.dirty import digest_of
from vfs.tier.engine import FETCH_LOCKS, WRITE_LOCKS, TierEngine, Version
from vfs.tier.freshness import NOT_FETCHED, TURNS, Fetched, Freshness, Mark
from vfs.tier.group import Intent
from vfs.tier.hot import read_hot, slot_of
from vfs.tier.journal import Kind, State, below
from vfs.tier.recover import redo_one
from vfs.tier.remote import Remote
from vfs.tier.state import Action
from vfs.tier.uploader import Uploader
from vfs.tier.writeback import WriteBack
from vfs.types import ObjectInfo

__all__ = ["Content", "Mover", "hot_name_allowed"]

#: Objects larger than this are fetched into a file by the cold client's own streaming download,
#: smaller ones through memory: one merged request (see ``core/ranges.py``).
_THROUGH_MEMORY_BYTES: Final = 16 << 20

#: How often room is made for one object before it is served from cold instead: other processes
#: may take what was freed.
_ROOM_ATTEMPTS: Final = 4

#: How long a commit takes to give a file its name, once its row is there: some renames.
_PUBLISHED_S: Final = 0.001

#: A failed download with one of these means the hot disk, not the cold store.
_DISK_ERRNO: Final = frozenset({errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS})


class Content:
    """What is to be written: bytes, a local file, or a copy of another key.

    Parameters
    ----------
    value : bytes-like, optional
        The bytes.
    local : str, optional
        Path of a local file.
    copy_of : str, optional
        Key of the object to copy inside the cold store.
    create : bool
        Fail if the object exists.
    """

    def __init__(
        self,
        value: Any = None,
        *,
        local: str | None = None,
        copy_of: str | None = None,
        create: bool = False,
    ) -> None:
        self.value = value
        self.local = local
        self.copy_of = copy_of
        self.create = create
        #: Bytes set aside in the hot tier, where the write is to be acknowledged by it.
        self.reservation: Reservation | None = None
        self.size = 0
        if local is not None:
            self.size = os.path.getsize(local)
        elif value is not None:
            self.size = memoryview(value).nbytes


class Mover:
    """Performs actions on one key at a time.

    Parameters
    ----------
    engine : TierEngine
        The hot side.
    cold : Target
        The cold side.
    cold_root : str
        Prefix of keys in the cold store; empty where keys are the cold store's own.
    flat : bool
        Whether ``a`` and ``a/b`` may both be objects there.
    """

    def __init__(
        self, engine: TierEngine, cold: Target, cold_root: str, *, flat: bool = False
    ) -> None:
        self.engine = engine
        self.cold = cold
        self.cold_root = cold_root
        self.flat = flat
        self.remote = Remote(cold, self.cold_path)
        self.back = WriteBack(self)
        self.disk_failures = 0
        #: Compares copies with cold; None where nobody else writes there.
        self.freshness: Freshness | None = None
        if engine.uploader is None:
            engine.uploader = Uploader(engine, self.remote)
        self.uploader = engine.uploader

    def cold_path(self, key: str) -> str:
        """Return the cold store's name of a key."""
        if not self.cold_root:
            return key
        return f"{self.cold_root.rstrip('/')}/{key}" if key else self.cold_root

    # ---------------------------------------------------------------- promotion

    async def fetch_and_install(self, key: str, size: int | None, limit_bytes: int) -> bytes | None:
        """Fetch a whole object once, whoever asks, and leave a hot copy.

        Parameters
        ----------
        key : str
            Which.
        size : int or None
            Its size in bytes if known. Large objects of known size never pass through memory.
        limit_bytes : int
            Larger objects get no hot copy.

        Returns
        -------
        bytes or None
            The object, unless it was streamed into the hot copy.
        """

        async def join(apart: Hashable, mark: Mark | None) -> Fetched:
            # Whoever comes after a change must not be told what was fetched before it.
            generation = self.engine.generations.get(slot_of(key))
            flight = (key, generation, self.freshness is None, apart)
            found: Fetched = await self.engine.flights.run(
                flight, lambda: self._fetch_alone(key, size, limit_bytes, mark)
            )
            return found

        if self.freshness is None:
            return (await join(None, None)).data
        return await self.freshness.fetch(key, join)

    async def _fetch_alone(
        self, key: str, size: int | None, limit_bytes: int, mark: Mark | None
    ) -> Fetched:
        """Be the only fetcher of a key on this machine."""
        slot = slot_of(key)
        async with self.engine.locks.hold([FETCH_LOCKS + slot], line="fetches"):
            # Another process may have fetched it while this one waited for the lock.
            if os.path.isfile(self.engine.hot.path(key)):
                return NOT_FETCHED
            generation = self.engine.settled_generation(slot)
            # INVARIANT: what was removed here is not fetched again from a cold store that has
            # not heard of it; asked after the generation, so that a later removal fences this.
            # (tests/tier/test_writeback.py::test_fetch_begun_after_a_removal_finds_the_tombstone)
            if await self.has_unsent(key):
                return NOT_FETCHED
            turn = next(TURNS)
            began_s = self.freshness.clock.monotonic_s() if self.freshness else 0.0
            info, data = await self._fetch(key, size, limit_bytes, generation)
            if self.freshness is not None and info is not None:
                await self.freshness.note(key, info, generation, began_s)
            elif self.freshness is not None:
                await self.freshness.label(key, mark, generation)
            if self.freshness is not None and data is not None:
                self.freshness.tells = info is not None
            return Fetched(turn, began_s, info, data)

    async def _fetch(
        self, key: str, size: int | None, limit_bytes: int, generation: int | None
    ) -> tuple[ObjectInfo | None, bytes | None]:
        """Fetch an object; return what it is, where the answer tells, and the bytes it has."""
        if size is not None and size > _THROUGH_MEMORY_BYTES:
            return await self._stream(key, size, generation), None
        info, data = await self.cold.cat_whole(self.cold_path(key))
        if len(data) <= limit_bytes:
            base = None if info is None else info.etag
            await self.install(key, Content(data), generation, base)
        return info, data

    async def _stream(self, key: str, size: int, generation: int | None) -> ObjectInfo | None:
        """Fetch a large object into a staged file, without holding it in memory."""
        if generation is None:
            return None
        info: ObjectInfo | None = None
        try:
            reservation = await self.reserve(key, size)
            if reservation is None:
                return None
            async with self._staged(reservation) as staging:
                info = await self.cold.get_file(self.cold_path(key), staging.path)
                # The download may have replaced the file: look at the name, not the descriptor.
                os.close(staging.fd)
                staging.fd = os.open(staging.path, os.O_RDWR)
                got = os.fstat(staging.fd).st_size
                if got != size:
                    message = f"{got} bytes came from the cold store instead of {size}"
                    raise IntegrityError(message, key)
                digest = await run_in_thread(digest_of, staging.path)
                base = None if info is None else info.etag
                await self._install_if_unchanged(staging, reservation, generation, digest, base)
        except OSError as error:
            if error.errno not in _DISK_ERRNO:
                raise  # from cold
            self._note_failure(key, size, error)
        return info

    async def install(
        self, key: str, content: Content, generation: int | None, base: str | None = None
    ) -> bool:
        """Publish bytes as the hot copy if no change has begun since ``generation``.

        ``base`` is cold's etag of these very bytes, if it is known.

        Returns
        -------
        bool
            False when there was no room, a writer was faster, or the disk failed: the cold store
            has the object, so none of that concerns the caller.
        """
        if generation is None:
            return False  # fetched while the object was being changed
        try:
            reservation = await self.reserve(key, content.size)
            if reservation is None:
                return False
            async with self._staged(reservation) as staging:
                digest = await run_in_thread(self._fill, staging, content)
                return await self._install_if_unchanged(
                    staging, reservation, generation, digest, base
                )
        except OSError as error:
            self._note_failure(key, content.size, error)
            return False

    def _note_failure(self, key: str, size: int, error: Exception) -> None:
        self.disk_failures += 1
        logger.warning("no hot copy of %s: %s", key, error)
        emit(Event("not_promoted", key, size, str(error)))

    def _fill(self, staging: Any, content: Content) -> str:
        """Write the bytes of a copy; return their xxh3."""
        if content.local is None:
            staging.write(content.value)
            return xxhash.xxh3_64_hexdigest(content.value)
        self.engine.hot.fill(staging, content.local)
        return digest_of(staging.path)

    async def _install_if_unchanged(
        self,
        staging: Any,
        reservation: Reservation,
        generation: int,
        digest: str,
        base: str | None,
    ) -> bool:
        slot = slot_of(reservation.key)
        # A writer that holds the lock is about to install its own bytes: do not wait for it.
        fd = self.engine.locks.acquire_now(WRITE_LOCKS + slot)
        if fd is None:
            return False
        try:
            return await self._install_held(staging, reservation, generation, digest, base)
        finally:
            self.engine.locks.release(fd)

    async def _install_held(
        self,
        staging: Any,
        reservation: Reservation,
        generation: int,
        digest: str,
        base: str | None,
    ) -> bool:
        """Install under the key's writer lock; ``base`` is cold's etag of these very bytes.

        INVARIANT: bytes fetched before or during a change are never installed after it.
        (tests/interop/test_staleness.py::test_fetch_begun_during_a_change_is_not_installed)
        """
        if self.engine.generations.get(slot_of(reservation.key)) != generation:
            return False
        await run_in_thread(self.engine.hot.install, staging, reservation, base, digest)
        self.engine.promotions += 1
        emit(Event("promoted", reservation.key, reservation.size))
        return True

    async def reserve(self, key: str, size: int) -> Reservation | None:
        engine = self.engine
        for _ in range(_ROOM_ATTEMPTS):
            found = await run_in_thread(engine.catalog.reserve, engine.hot.owner, key, size)
            if isinstance(found, Reservation):
                return found
            if size > (engine.catalog.limit() or 0):
                break
            if not await run_in_thread(engine.make_room, found):
                await run_in_thread(engine.bury_the_dead)
                found = await run_in_thread(engine.catalog.reserve, engine.hot.owner, key, size)
                return found if isinstance(found, Reservation) else None
        emit(Event("not_promoted", key, size, "no room within the limit"))
        return None

    @contextlib.asynccontextmanager
    async def _staged(self, reservation: Reservation) -> AsyncIterator[Any]:
        """Open the reservation's file; remove it and give the bytes back at the end."""
        engine = self.engine
        try:
            staging = await run_in_thread(engine.hot.stage, reservation)
            try:
                yield staging
            finally:
                await clean_up_in_thread(staging.discard)
        finally:
            # After an installation the reservation is the copy itself and this does nothing.
            await clean_up_in_thread(engine.catalog.release, reservation)

    # ---------------------------------------------------------------- change

    @contextlib.asynccontextmanager
    async def changing(self, keys: Iterable[str]) -> AsyncIterator[None]:
        """Be the only one on this machine that changes these keys.

        Raises
        ------
        UnavailableError
            [EHOSTUNREACH] the hot directory cannot be used: a copy in it could not be dropped,
            and would answer with old bytes when the directory comes back.
        """
        keys = list(keys)
        if not self.engine.usable():
            message = f"write refused: hot tier {self.engine.root} cannot be used, see the log"
            raise UnavailableError(message, keys[0] if keys else None)
        slots = {WRITE_LOCKS + slot_of(key) for key in keys}
        async with self.engine.locks.hold(slots, line="changes"):
            try:
                yield
            finally:
                for slot in slots:
                    self.engine.generations.end(slot - WRITE_LOCKS)

    def fence(self, keys: Iterable[str]) -> int:
        """Make every fetch of these keys that is under way useless; return the last number."""
        generation = 0
        for slot in {slot_of(key) for key in keys}:
            generation = self.engine.generations.begin(slot)
        return generation

    async def has_unsent(self, key: str) -> bool:
        """Say whether hot has an object that cold has not, and raise if cold's was removed here.

        Called where no hot copy was found. A pending write without one is about to get its name,
        or its process died: then it is finished here.

        INVARIANT: cold is not read for what it has not: it may be several versions behind.
        (tests/tier/test_writeback.py::test_read_between_commit_and_publication_waits)

        Raises
        ------
        FileNotFoundError
            [ENOENT] its removal waits to be sent.
        IntegrityError
            [EBADMSG] what was to be sent is damaged.
        """
        store = self.engine.dirty()
        while store is not None:
            change = await run_in_thread(store.journal.get, key)
            if change is None:
                break
            if change.kind is Kind.DELETE:
                raise not_found(key)
            if change.state is State.CORRUPT:
                message = f"its bytes were damaged before the cold store had them: {change.error}"
                raise IntegrityError(message, key)
            if not store.needs_redo(change) and os.path.isfile(self.engine.hot.path(key)):
                return True
            if not await run_in_thread(redo_one, self.engine, change):
                await asyncio.sleep(_PUBLISHED_S)
        return False

    async def refuse_directory(self, key: str) -> None:
        """Raise what a directory raises, if an absent key is one by what cold does not have yet."""
        store = self.engine.dirty()
        condition, arguments = below(key)
        if store is not None and await run_in_thread(
            store.journal.any, f"kind=0 AND {condition}", arguments
        ):
            raise is_a_directory(key)

    async def pending(self, key: str) -> Literal["put", "delete"] | None:
        """Say what cold does not know yet of a key."""
        store = self.engine.dirty()
        change = None if store is None else await run_in_thread(store.journal.get, key)
        if change is None:
            return None
        return "put" if change.kind is Kind.PUT else "delete"

    async def perform(self, steps: tuple[Action, ...], key: str, content: Content | None) -> None:
        """Perform the steps of a change; the caller holds :meth:`changing`."""
        generation = 0
        etag: str | None = None
        intent: Intent | None = None
        known = self.engine.known_version(key)
        for step in steps:
            match step:
                case Action.REFUSE_EXISTS:
                    raise exists_already(key)
                case Action.FENCE:
                    generation = self.fence([key])
                case Action.DROP_HOT:
                    await self.drop([key])
                case Action.WRITE_COLD if content is not None:
                    etag = await self._write_cold(key, content)
                case Action.REMOVE_COLD:
                    await self.cold.remove(self.cold_path(key))
                case Action.INSTALL_HOT if content is not None:
                    await self._install_written(key, content, generation, etag)
                case Action.SEND_PENDING:
                    await self.uploader.send_now(key)
                case _:
                    intent = await self._perform_back(step, key, content, intent, known)

    async def _perform_back(
        self,
        step: Action,
        key: str,
        content: Content | None,
        intent: Intent | None,
        known: Version | None,
    ) -> Intent | None:
        """Perform a step of a change that cold learns of later."""
        if step is Action.STAGE and content is not None:
            return await self.back.stage(key, content)
        if step is not Action.COMMIT:
            message = f"{step} is no step of a change"
            raise AssertionError(message)
        await self.back.commit(intent or await self.back.removal(key, known))
        if content is not None:
            content.reservation = None  # it is the hot copy now
        return None

    async def _write_cold(self, key: str, content: Content) -> str | None:
        """Write to cold; return the etag, where the answer told."""
        path = self.cold_path(key)
        if content.copy_of is not None:
            await self.cold.call("cp_file", self.cold_path(content.copy_of), path)
        elif content.local is not None:
            return await self.cold.put_file(content.local, path, create=content.create)
        else:
            return await self.cold.pipe_file(path, content.value, create=content.create)
        return None

    async def _install_written(
        self, key: str, content: Content, generation: int, etag: str | None
    ) -> None:
        """Install what was just written; failures leave the object cold, which is no error."""
        try:
            reservation = await self.reserve(key, content.size)
            if reservation is None:
                return
            async with self._staged(reservation) as staging:
                digest = await run_in_thread(self._fill, staging, content)
                await self._install_held(staging, reservation, generation, digest, etag)
        except OSError as error:
            self._note_failure(key, content.size, error)

    async def drop(self, keys: list[str]) -> int:
        """Remove hot copies durably; return their bytes."""
        for key in keys:
            self.engine.versions.pop(key, None)
        paths = [(key, self.engine.hot.path(key)) for key in keys if hot_name_allowed(key)]
        if not paths:
            return 0
        return await run_in_thread(self.engine.hot.drop, paths)

    async def read_hot(self, key: str, start: int | None, end: int | None) -> bytes | None:
        """Read the hot copy in a thread; None if there is none."""
        try:
            path = self.engine.hot.path(key)
            heat = self.engine.hot.heat
            data = await run_in_thread(read_hot, path, start, end, heat, may_block=True)
            return cast("bytes", data)
        except OSError:
            return None
