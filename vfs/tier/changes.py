"""What changes a tier: put, delete, copy, move, directories; routed by its write mode.

What lives here: the primitives of a filesystem that write, for every mode. What must not: the
order of steps (``state.py``), their I/O (``mover.py``, ``writeback.py``).
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any, Final

from vfs.core.loop import hop, run_in_thread
from vfs.errors import (
    ArchivedError,
    ConflictError,
    directory_not_empty,
    is_a_directory,
    not_found,
)
from vfs.policies.zarrorder import ancestors_of, node_of, rank_of
from vfs.tier.claim import hot_name_allowed
from vfs.tier.dirty import DirtyStore
from vfs.tier.group import Intent
from vfs.tier.hot import slot_of
from vfs.tier.journal import below
from vfs.tier.mover import Content
from vfs.tier.state import ObjectState, Remove, Write, actions_for

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vfs.core.target import Target
    from vfs.tier.engine import TierEngine
    from vfs.tier.mover import Mover
    from vfs.tier.options import TierOptions
    from vfs.types import ObjectInfo

__all__ = ["TierChanges"]

#: Keys whose locks one bulk removal holds together: a page of S3's DeleteObjects.
_BULK: Final = 1000

#: A cold object beyond this is copied or moved inside the cold store, not through this machine.
_BY_BYTES: Final = 64 << 20

#: What is put in one visit to a thread. Larger objects cost more to write than to commit, and are
#: written by several threads side by side.
_SMALL_BYTES: Final = 1 << 20

#: How often a move begins again because its source was replaced before it had the lock.
_MOVES: Final = 8


class TierChanges:
    """Mixin of the tier: everything that writes."""

    if TYPE_CHECKING:
        _engine: TierEngine
        _mover: Mover
        _options: TierOptions
        _prefix: str
        target: Target

        def _refuse_if_read_only(self, path: Any) -> None: ...
        def _has_copy(self, key: str) -> bool: ...
        def _naming_archived(self, key: str) -> AbstractContextManager[None]: ...
        async def head_object(self, key: str) -> ObjectInfo: ...
        async def _facts_of(self, key: str, *, held: bool) -> ObjectInfo: ...
        async def get_object(self, key: str, start: int | None, end: int | None) -> bytes: ...
        async def list_directory(self, key: str) -> list[ObjectInfo]: ...

    def _goes_back(self, key: str) -> bool:
        """Say whether cold learns of a write of this key later."""
        return self._options.write_mode(key) == "back"

    # ---------------------------------------------------------------- put

    async def put_object(
        self,
        key: str,
        value: bytes,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> None:
        content = Content(value, create=if_none_match)
        await self._write(key, content, if_match=if_match)

    async def put_path(
        self, key: str, local: str, *, if_none_match: bool, if_match: str | None
    ) -> None:
        await self._write(key, Content(local=local, create=if_none_match), if_match=if_match)

    async def _write(self, key: str, content: Content, *, if_match: str | None = None) -> None:
        self._refuse_if_read_only(key)
        if not self._goes_back(key) or content.copy_of is not None:
            await self._write_held(key, content, if_match)
            return
        if (
            content.value is not None
            and content.size <= _SMALL_BYTES
            and not content.create
            and if_match is None
            and await self._mover.back.put_small(key, content)
        ):
            return
        await self._mover.back.admitted(
            key, content, lambda: self._write_held(key, content, if_match)
        )

    async def _write_held(self, key: str, content: Content, if_match: str | None) -> None:
        async with self._mover.changing([key]):
            if if_match is not None and (await self._facts_of(key, held=True)).etag != if_match:
                message = "the object was replaced since it was read"
                raise ConflictError(message, key)
            mode = self._options.write_mode(key)
            if mode == "back":
                fits = content.reservation is not None
            else:
                fits = content.copy_of is None and hot_name_allowed(key)
            if not (mode == "back" and fits):
                await self._mover.uploader.clear_the_way(key)
            event = Write(mode, fits=fits, exclusive=content.create)
            await self._mover.perform(actions_for(await self._state(key), event), key, content)

    async def _state(self, key: str) -> ObjectState:
        return ObjectState(hot=self._has_copy(key), pending=await self._mover.pending(key))

    # ---------------------------------------------------------------- delete

    async def delete_object(self, key: str) -> None:
        self._refuse_if_read_only(key)
        back = key in await self._removed_later([key])
        async with self._mover.changing([key]):
            state = await self._state(key)
            if back:
                await self._refuse_if_missing(key, state)
            await self._mover.perform(actions_for(state, Remove(back)), key, None)

    async def _refuse_if_missing(self, key: str, state: ObjectState) -> None:
        """Raise for a removal of what is not there; cold is asked where nothing here knows."""
        if state.pending == "put" or state.hot:
            return
        if state.pending == "delete":
            raise not_found(key)
        if (await self._facts_of(key, held=True)).kind == "directory":
            raise is_a_directory(key)

    async def _delete_many(self, keys: list[str]) -> None:
        await hop(self._delete_pages, keys)

    async def _delete_pages(self, keys: list[str]) -> None:
        self._refuse_if_read_only(keys[0] if keys else "")
        # Twice: the removal of metadata that is now to wait makes what is below it wait.
        for _ in range(2):
            later = await self._removed_later(keys)
            for page in _pages([key for key in keys if key in later]):
                await self._delete_later(page)
            keys = [key for key in keys if key not in later]
        for page in _pages(keys):
            # The same steps as for one key, each for the whole page.
            async with self._mover.changing(page):
                await self._send_pending(page)
                self._mover.fence(page)
                await self._mover.drop(page)
                await self.target.remove_many([self._mover.cold_path(key) for key in page])

    async def _removed_later(self, keys: list[str]) -> set[str]:
        """Return those of the keys that cold is to lose later.

        INVARIANT: rules that mix write modes remove no chunk before the metadata above it.
        (tests/tier/test_rules.py::test_removal_waits_for_metadata_that_waits)
        """
        if self._options.back is None:
            return set()
        found = [key for key in keys if hot_name_allowed(key)]
        store = self._engine.dirty() if self._engine.usable() else None
        nodes: set[str] = set()
        if store is not None and self._options.rules.write_modes:
            waiting = await run_in_thread(store.journal.select, "kind=1 AND rank>0")
            nodes = {node_of(change.key) for change in waiting}
        return {
            key
            for key in found
            if self._goes_back(key) or (nodes and not nodes.isdisjoint(ancestors_of(key)))
        }

    async def _delete_later(self, keys: list[str]) -> None:
        async with self._mover.changing(keys):
            drafts = []
            for key in keys:
                known = self._engine.known_version(key)
                drafts += (await self._mover.back.removal(key, known)).drafts
            self._mover.fence(keys)
            await self._mover.back.commit(Intent(drafts))

    async def _send_pending(self, keys: list[str]) -> None:
        """Bring cold up to date for keys that it is about to be asked to change."""
        store = self._engine.dirty()
        if store is None or not await run_in_thread(store.journal.count):
            return
        for key in keys:
            await self._mover.uploader.clear_the_way(key)
            await self._mover.uploader.send_now(key)

    # ---------------------------------------------------------------- copy and move

    async def copy_object(self, source: str, target: str) -> None:
        info = await self.head_object(source)
        if info.kind == "directory":
            raise is_a_directory(source)
        # What waits here is not in cold yet, where it could be copied.
        waits = not self._goes_back(target) and await self._mover.pending(source) is not None
        if self._goes_back(target) or waits:
            async with self._mover.back.snapshot(source) as found:
                if found is not None:
                    await self._write(target, Content(local=found[0]))
                    return
            if (waits or rank_of(source)) and info.size <= _BY_BYTES:
                # A copy inside cold would show metadata before the chunks that wait here.
                await self._write(target, Content(await self.get_object(source, None, None)))
                return
        with self._naming_archived(source):
            try:
                await self._write(target, Content(copy_of=source))
            except ArchivedError:
                # Cold cannot copy it before it is recalled; its bytes may be here.
                async with self._mover.back.snapshot(source) as found:
                    if found is None:
                        raise
                    await self._write(target, Content(local=found[0]))

    async def move_object(self, source: str, target: str) -> None:
        self._refuse_if_read_only(source)
        if self._goes_back(source) and self._goes_back(target) and hot_name_allowed(source):
            for _ in range(_MOVES):
                if await self._move_later(source, target):
                    return
        async with self._mover.changing([source, target]):
            await self._send_pending([source, target])
            async with self._mover.back.snapshot(source) as found:
                self._mover.fence([source, target])
                await self._mover.drop([source, target])
                with self._naming_archived(source):
                    await self._move_in_cold(source, target, found and found[0])

    async def _move_in_cold(self, source: str, target: str, local: str | None) -> None:
        """Move in cold; what cold must recall first, by the bytes that were hot, if there were."""
        paths = self._mover.cold_path(source), self._mover.cold_path(target)
        try:
            if self.target.ours:
                await self.target.call("mv_file", *paths)
                return
            await self.target.call("cp_file", *paths)
        except ArchivedError:
            if local is None:
                raise
            await self.target.put_file(local, paths[1])
        await self.target.call("rm_file", paths[0])

    async def _move_later(self, source: str, target: str) -> bool:
        """Move by one commit of the journal; False where the source changed, or is too large."""
        generation = self._engine.generations.get(slot_of(source))
        async with self._mover.back.snapshot(source) as found:
            if found is not None:
                content, inode = Content(local=found[0]), found[1]
            else:
                info = await self.head_object(source)
                if info.kind == "directory":
                    raise is_a_directory(source)
                if info.size > _BY_BYTES:
                    return False
                content, inode = Content(await self.get_object(source, None, None)), 0

            async def move() -> bool:
                if content.reservation is None:
                    return False  # the hot directory cannot hold the new name
                return await self._move_held(source, target, content, inode, generation)

            return bool(await self._mover.back.admitted(target, content, move))

    async def _move_held(
        self, source: str, target: str, content: Content, inode: int, generation: int
    ) -> bool:
        back = self._mover.back
        async with self._mover.changing([source, target]):
            if inode:
                same = self._inode(source) == inode
            else:
                now = self._engine.generations.get(slot_of(source))
                same = now == generation and now % 2 == 0
            if not same:
                return False
            intent = await back.stage(target, content)
            intent.drafts += (await back.removal(source, self._engine.known_version(source))).drafts
            self._mover.fence([source, target])
            await back.commit(intent)
            return True

    def _inode(self, key: str) -> int:
        try:
            return os.stat(self._prefix + key).st_ino
        except OSError:
            return -1

    # ---------------------------------------------------------------- directories

    async def make_directory(self, key: str) -> None:
        await self.target.call("makedirs", self._mover.cold_path(key), exist_ok=True)
        store = self._engine.dirty() if self._engine.usable() else None
        if store is not None:
            await run_in_thread(store.journal.unmark_folder, key)

    async def remove_directory(self, key: str) -> None:
        store = self._engine.dirty() if self._engine.usable() else None
        try:
            if store is None or not await run_in_thread(_pending_below, store, key):
                await self.target.call("rmdir", self._mover.cold_path(key))
                return
        except OSError as error:
            if store is None or error.errno != errno.ENOTEMPTY:
                raise
            # What fills it there may have been removed here since the journal was asked.
        # Absent: all of it is removed already, here.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if await self.list_directory(key):
                raise directory_not_empty(key)
        await run_in_thread(store.journal.mark_folder, key)
        self._mover.uploader.start()


def _pages(keys: list[str]) -> list[list[str]]:
    return [keys[first : first + _BULK] for first in range(0, len(keys), _BULK)]


def _pending_below(store: DirtyStore, key: str) -> bool:
    condition, arguments = below(key)
    return store.journal.any(condition, arguments) or bool(store.journal.folders(key))
