"""Reading a version of an object through blocks: what is here, what is under way, what is asked.

What lives here: the plan of a read and its single flight. What must not: which version is to be
read (``filesystem.py``), files (``engine.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from vfs.cache.block import PAGE_BYTES, block_name
from vfs.cache.ends import (
    HEAD,
    WHOLE,
    Piece,
    Placed,
    Span,
    completed,
    contiguous,
    piece_of,
    read_any_soon,
    spans_of,
)
from vfs.cache.engine import FETCH_SLOTS, CacheEngine
from vfs.cache.facts import NO_OBJECT, Facts
from vfs.cache.options import CacheOptions
from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.loop import gather
from vfs.core.target import Target
from vfs.errors import not_found
from vfs.types import ObjectInfo

if TYPE_CHECKING:
    from vfs.cache.versions import Versions

__all__ = ["Fetcher", "Version"]

#: Bytes of blocks, by their numbers.
Found: TypeAlias = dict[int, Placed]

#: Names of blocks a version remembers: 1 µs each to make, 100 bytes each to keep.
_NAMES_KEPT: Final = 64

#: Flights a reader waits for that may carry less of a block than it wants: of each end, and of all.
_FLIGHTS: Final = 3

#: Blocks of one object that are looked for in the directory at a time.
_LOOKUPS: Final = 8


class Version:
    """One version of one object, cut into blocks.

    Parameters
    ----------
    key : str
        Of the object.
    digest : bytes
        Of store and key.
    facts : Facts
        What the store said of this version.
    grain_bytes : int
        Size of its blocks.
    keep : bool
        False where it cannot be told from the next version.
    """

    __slots__ = ("_names", "digest", "facts", "found_as", "grain_bytes", "keep", "key")

    def __init__(
        self, key: str, digest: bytes, facts: Facts, grain_bytes: int, *, keep: bool
    ) -> None:
        self.key = key
        self.digest = digest
        self.facts = facts
        self.grain_bytes = grain_bytes
        self.keep = keep
        self._names: dict[tuple[int, str], str] = {}
        #: Blocks whose one end gave what was wanted of them, and which.
        self.found_as: dict[int, str] = {}

    def name(self, number: int, end: str = WHOLE) -> str:
        """Return the name of a block, or of one end of it."""
        name = self._names.get((number, end))
        if name is None:
            name = block_name(self.digest, self.facts.validator, self.grain_bytes, number, end)
            if len(self._names) < _NAMES_KEPT:
                self._names[number, end] = name
        return name

    def remember_end(self, number: int, end: str) -> None:
        """Note which end of a block to look for first."""
        if number in self.found_as or len(self.found_as) < _NAMES_KEPT:
            self.found_as[number] = end

    def length(self, number: int) -> int:
        """Return the payload of a block, in bytes."""
        return min(self.grain_bytes, self.facts.size - number * self.grain_bytes)


class Fetcher:
    """Reads of one target through one cache directory, on the I/O loop.

    Parameters
    ----------
    engine : CacheEngine
        Shared by the process.
    target : Target
        Where missing blocks come from.
    options : CacheOptions
        Sizes and limits.
    """

    def __init__(self, engine: CacheEngine, target: Target, options: CacheOptions) -> None:
        self._engine = engine
        self._target = target
        self._options = options

    async def read(self, version: Version, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return ranges of one version.

        Parameters
        ----------
        version : Version
            What to read.
        ranges : sequence of (low, high)
            Inside the object; empty ones give nothing.

        Raises
        ------
        ConflictError
            [ESTALE] the object is another one now.
        IntegrityError
            [EBADMSG] fewer bytes came than it has.
        """
        grain = version.grain_bytes
        found = await self._blocks(version, spans_of(version, ranges))
        return [_cut(found, grain, low, high) for low, high in ranges]

    async def open_by_reading(self, key: str, versions: Versions) -> bytes | None:
        """Read a whole object of which nothing is known, by the request that tells what it is.

        Returns
        -------
        bytes or None
            None where that cannot be done, or somebody else has done it by now: the caller then
            asks for the version as always.

        Raises
        ------
        FileNotFoundError
            [ENOENT] no object; of a directory too.

        Notes
        -----
        Half the requests of a cold read of a small object. Of a large one the first blocks come
        this way, and the rest as always.
        """
        engine, digest = self._engine, versions.digest(key)
        if not (self._target.reads_with_facts and engine.usable() and self._options.small_bytes):
            return None
        if not _unknown(engine.facts.get(digest)):
            return None
        believed = versions.believed(key)
        if believed is not None and believed.facts.size == NO_OBJECT:
            raise not_found(key)
        opening = engine.openings.get(digest)
        if opening is not None:
            # It may have been asked before this reader came, so its answer is not taken.
            with contextlib.suppress(OSError):
                await asyncio.shield(opening)
            return None
        task = asyncio.ensure_future(self._open_by_reading(key, digest, versions))
        engine.openings[digest] = task
        task.add_done_callback(lambda done: self._opened(digest, done))
        return await asyncio.shield(task)

    def _opened(self, digest: bytes, task: asyncio.Task[bytes | None]) -> None:
        self._engine.openings.pop(digest, None)
        if not task.cancelled():
            task.exception()

    async def _open_by_reading(self, key: str, digest: bytes, versions: Versions) -> bytes | None:
        engine = self._engine
        try:
            lock = engine.locks.hold([_slot_of(digest)], line="fetches")
            await lock.__aenter__()
        except OSError:
            return None
        stamp, asked_at = engine.facts.stamp(digest), SYSTEM_CLOCK.wall_s()
        try:
            if not _unknown(engine.facts.get(digest)):
                return None  # whoever held the lock has read it
            async with engine.request_slot(self._options.concurrency):
                answer = await self._target.cat_start(key, self._options.small_bytes)
            if answer is None:
                return None
            info, data = answer
            engine.counts["misses"] += 1
            engine.counts["bytes_fetched"] += len(data)
            facts = Facts(info.size, info.etag, info.mtime, asked_at, stamp)
            engine.facts.remember(digest, facts)
            await self._install_start(versions.of(key, facts), memoryview(data))
            return data if len(data) == info.size else None
        except FileNotFoundError:
            # Perhaps a directory; to tell would cost a listing for each of the many keys that
            # zarr asks for and that are absent.
            engine.facts.remember(digest, Facts(NO_OBJECT, None, None, asked_at, stamp))
            raise
        finally:
            await lock.__aexit__(None, None, None)

    async def _install_start(self, version: Version, data: memoryview) -> None:
        """Keep the blocks that lie in the first bytes of an object; of the last what there is."""
        if not version.keep:
            return
        for number in range(-(-len(data) // version.grain_bytes)):
            low = number * version.grain_bytes
            payload, kind = data[low : low + version.length(number)], WHOLE
            if len(payload) < version.length(number):
                payload, kind = payload[: len(payload) // PAGE_BYTES * PAGE_BYTES], HEAD
            if payload:
                name = version.name(number, kind)
                await self._engine.install(name, payload, may_evict=self._options.may_evict)

    async def _blocks(self, version: Version, spans: dict[int, Span]) -> Found:
        """Return for each block a piece of its payload that covers what is wanted of it."""
        opening = self._engine.openings.get(version.digest)
        if opening is not None:
            with contextlib.suppress(OSError):
                await asyncio.shield(opening)
        found = await self._look(version, spans)
        self._engine.hits += len(found)
        self._engine.counts["misses"] += len(spans) - len(found)
        for _ in range(_FLIGHTS):
            if len(found) == len(spans):
                return found
            missing = {number: span for number, span in spans.items() if number not in found}
            for number, got in (await self._fetch(version, missing)).items():
                verify, span = self._options.verify, spans[number]
                placed = await completed(self._engine, version, number, span, got, verify)
                if placed is not None:
                    found[number] = placed
        # Others fetch less of these blocks than is wanted, and nothing of it stays.
        missing = {number: span for number, span in spans.items() if number not in found}
        whole = [Piece(n, 0, version.length(n), version.length(n)) for n in missing]
        return {**found, **await self._fetch_alone(version, whole)}

    async def _look(self, version: Version, spans: dict[int, Span]) -> Found:
        """Return what is here."""
        found: Found = {}
        if not (self._engine.ready and version.keep):
            return found

        async def look(number: int, span: Span) -> None:
            verify = self._options.verify
            data = await read_any_soon(self._engine, version, number, span.low, span.high, verify)
            if data is not None:
                found[number] = (span.low, data)

        await gather([lambda n=n, s=s: look(n, s) for n, s in spans.items()], limit=_LOOKUPS)  # type: ignore[misc]
        return found

    async def _fetch(self, version: Version, wanted: dict[int, Span]) -> Found:
        """Join the flights that carry missing blocks, and start those that nobody has started.

        What others have asked for may be less of a block than is wanted.
        """
        engine = self._engine
        if not version.keep:
            # Who cannot tell versions apart must not share one that somebody asked for earlier.
            alone = [piece_of(engine, version, number, span) for number, span in wanted.items()]
            return await self._fetch_alone(version, alone)
        carriers = {n: engine.flights.get(version.name(n)) for n in wanted}
        mine = [
            piece_of(engine, version, number, span)
            for number, span in wanted.items()
            if carriers[number] is None
        ]
        engine.counts["waits"] += len(wanted) - len(mine)
        for run in self._requests(version, mine):
            task = asyncio.ensure_future(self._fly(version, run))
            names = [version.name(piece.number) for piece in run]
            engine.flights.update(dict.fromkeys(names, task))
            carriers.update((piece.number, task) for piece in run if piece.number in wanted)
            task.add_done_callback(lambda done, names=names: self._landed(names, done))  # type: ignore[misc]
        # A reader that is cancelled leaves the flights to the others.
        tasks = {task for task in carriers.values() if task is not None}
        results = await asyncio.gather(*map(asyncio.shield, tasks), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return {n: task.result()[n] for n, task in carriers.items() if task is not None}

    async def _fetch_alone(self, version: Version, pieces: list[Piece]) -> Found:
        async def ask(run: list[Piece]) -> None:
            found.update(await self._ask(version, run))

        found: Found = {}
        self._engine.counts["not_kept"] += len(pieces)
        await gather([lambda r=r: ask(r) for r in self._requests(version, pieces)])  # type: ignore[misc]
        return found

    def _landed(self, names: Iterable[str], task: asyncio.Task[Found]) -> None:
        for name in names:
            self._engine.flights.pop(name, None)
        if not task.cancelled():
            task.exception()  # seen: nobody may be left to await it

    def _requests(self, version: Version, pieces: list[Piece]) -> list[list[Piece]]:
        """Plan requests for blocks, as runs of pieces that follow each other.

        Blocks between two wanted ones are fetched too where the gap is small and nobody is
        fetching them; runs that are too long for one request are split at aligned places.
        """
        grain = version.grain_bytes
        most = max(1, self._options.request_bytes // grain)
        part = max(1, most // 2)
        runs: list[list[Piece]] = []
        for run in contiguous(self._with_gaps(version, pieces)):
            if len(run) <= most:
                runs.append(run)
                continue
            first, last = run[0].number, run[-1].number + 1
            edges = [first, *range((first // part + 1) * part, last, part), last]
            runs.extend(run[a - first : b - first] for a, b in itertools.pairwise(edges))
        return runs

    def _with_gaps(self, version: Version, pieces: list[Piece]) -> list[Piece]:
        """Return pieces, and the blocks in small gaps between them that nobody is fetching.

        A gap beside the end of a long read is none: what lies in it was not wanted.
        """
        gap, flights = self._options.gap_bytes // version.grain_bytes, self._engine.flights
        filled: list[Piece] = []
        for piece in pieces:
            before = filled[-1] if filled else None
            if before is not None and before.high == before.length and piece.low == 0:
                between = range(before.number + 1, piece.number)
                if len(between) <= gap:
                    for number in between:
                        if version.name(number) not in flights:
                            length = version.length(number)
                            filled.append(Piece(number, 0, length, length))
            filled.append(piece)
        return filled

    async def _fly(self, version: Version, run: list[Piece]) -> Found:
        """Fetch a run of blocks once for the whole machine, keep them, and return them."""
        engine = self._engine
        if not (engine.ready and version.keep):
            return await self._ask(version, run)
        slots = {int(version.name(piece.number)[:8], 16) % FETCH_SLOTS for piece in run}
        try:
            if run[0].number == 0 and self._target.reads_with_facts:
                # Another process may be reading it with the question what it is. Not held any
                # longer: a stalled fetch of an old version must not keep readers of a new one.
                async with engine.locks.hold([_slot_of(version.digest)], line="looks"):
                    pass
            lock = engine.locks.hold(slots, line="fetches")
            await lock.__aenter__()
        except OSError as error:  # the directory is gone, or no descriptors are left
            engine.degrade(str(error))
            return await self._ask(version, run)
        try:
            # Whoever held the lock before may have fetched them.
            # INVARIANT: looked for again under the lock.
            # (tests/cache/test_single_flight.py::test_processes_ask_once)
            here: Found = {}
            absent: list[Piece] = []
            for piece in run:
                number, low, high, _ = piece
                verify, span = self._options.verify, Span(low, high, piece.kind != WHOLE)
                data = await read_any_soon(engine, version, number, low, high, verify)
                if data is None:
                    absent.append(piece_of(engine, version, number, span))
                else:
                    here[number] = (low, memoryview(data))
            for pieces in contiguous(absent):
                fetched = await self._ask(version, pieces)
                here.update(fetched)
                for piece in pieces:
                    name, payload = version.name(piece.number, piece.kind), fetched[piece.number][1]
                    may_evict = self._options.may_evict
                    await engine.install(name, memoryview(payload), may_evict=may_evict)
            return here
        finally:
            await lock.__aexit__(None, None, None)

    async def _ask(self, version: Version, run: list[Piece]) -> Found:
        """Ask the target for a run of blocks by one request."""
        facts, grain = version.facts, version.grain_bytes
        low = run[0].number * grain + run[0].low
        high = run[-1].number * grain + run[-1].high
        known = ObjectInfo(version.key, facts.size, facts.mtime, facts.etag)
        async with self._engine.request_slot(self._options.concurrency):
            data = await self._target.cat_version(version.key, low, high, known)
        self._engine.counts["bytes_fetched"] += len(data)
        view = memoryview(data)
        found: Found = {}
        for number, start, end, _ in run:
            base = number * grain - low
            found[number] = (start, view[base + start : base + end])
        return found


def _unknown(facts: Facts | None) -> bool:
    return facts is None or facts.size == NO_OBJECT


def _slot_of(digest: bytes) -> int:
    return int.from_bytes(digest[:4], "little") % FETCH_SLOTS


def _cut(parts: Found, grain: int, low: int, high: int) -> bytes:
    """Return a range from pieces of blocks."""
    if high <= low:
        return b""
    pieces: list[bytes | memoryview] = []
    for number in range(low // grain, -(-high // grain)):
        offset, data = parts[number]
        base = number * grain + offset
        start, end = max(low - base, 0), high - base
        whole = start == 0 and end >= len(data)
        pieces.append(data if whole else data[start:end])
    if len(pieces) == 1:
        return pieces[0] if isinstance(pieces[0], bytes) else bytes(pieces[0])
    return b"".join(pieces)
