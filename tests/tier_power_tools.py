"""What the tier's power-cut tests share: a cold store in the log, runs, recovery, the oracle."""

from __future__ import annotations

import contextlib
import itertools
import marshal
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import fsspec
import pytest
import xxhash
from tier_tools import AT_ONCE, forget

import vfs.tier.engine as engine_module
from vfs.backends.mem import MemFileSystem, _Objects
from vfs.core.clock import SYSTEM_CLOCK
from vfs.core.loop import drive, wait
from vfs.errors import ConfigError
from vfs.testing.crash import Crash, Simulation, Tally, empty
from vfs.testing.crashlog import Log, Mark, Recorder
from vfs.testing.crashmodels import MODELS, DiskModel, Kill
from vfs.tier.catalog import Reservation
from vfs.tier.engine import TierEngine
from vfs.tier.filesystem import TierFileSystem
from vfs.tier.group import Intent
from vfs.tier.journal import Draft, Kind
from vfs.tier.mover import Content
from vfs.types import ObjectInfo

KEYS: Final = ("a", "d/b", "d/e/c", "moved")

#: Room for everything of a run, and little more.
LIMIT_BYTES: Final = 20_000

#: Images of one moment at most.
IMAGES: Final = 48

#: The same of two directories, each image of which takes three times as long.
TWO_IMAGES: Final = 16

#: Failures after which the rest of a run is not looked at.
ENOUGH: Final = 100

#: What a run's :meth:`Run.apply` goes by.
RULES: Final = ({"match": "**", "demote": {"age_s": 1}, "promote": "always"},)

#: The models in which what was not synced may be gone.
POWER_CUTS: Final = tuple(model for model in MODELS if model.new_boot)

#: What somebody else writes while the machine is down.
NIGHT: Final = b"foreign at night"

#: What is written after some recoveries, before anything is sent.
LATER: Final = b"later"

#: Files whose rows are compared, or that recovery does not ask: the heat of objects is a map of
#: 8 MiB, which only promotions and demotions read, and there are none.
_TOLD_BY_ROWS: Final = (".vfs/catalog", ".vfs/journal", ".vfs/generations", ".vfs/heat")

#: Calls of a run in which the tier is made, some of which come only once.
_MAKING: Final = 16

#: Turns of the uploader that send everything a run can leave, and then some.
_TURNS: Final = 40


class LoggedCold(MemFileSystem):
    """``mem``, with conditional writes, whose changes are part of the log."""

    protocol = "loggedcold"
    blocking = True  # so that a write may be made while one is under way
    reads_conditionally = False
    objects: ClassVar[_Objects] = _Objects()
    recorder: ClassVar[Recorder | None] = None
    during_put: ClassVar[Callable[[], object] | None] = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._objects = self.objects

    def put_object(self, key: str, value: bytes, **kwargs: Any) -> ObjectInfo:
        hook, LoggedCold.during_put = LoggedCold.during_put, None
        if hook is not None:
            hook()
        found: list[ObjectInfo] = []
        self._change(lambda: found.append(super(LoggedCold, self).put_object(key, value, **kwargs)))
        return found[0]

    def get_now(self, *args: Any, **kwargs: Any) -> bytes | None:
        return None

    def get_whole(self, key: str) -> tuple[ObjectInfo, bytes]:
        """Tell the version with the bytes, as object stores do."""
        value, info = self._entry(key)
        return info, value

    def delete_object(self, key: str) -> None:
        self._change(lambda: super(LoggedCold, self).delete_object(key))

    def _change(self, change: Callable[[], object]) -> None:
        if self.recorder is None:
            change()
            return

        def run() -> object:
            change()
            return dict(self.objects.values)

        self.recorder.remote(run)

    @classmethod
    def restore(cls, values: Mapping[str, Any]) -> None:
        """Be in a state of the log; etags of later writes are new ones nevertheless."""
        cls.objects.values = dict(values)
        cls.objects.order = sorted(values)


class Seen(NamedTuple):
    """What a recovery came to; hashable."""

    read: tuple[tuple[str, bytes | str | None], ...]  # right after it
    faults: tuple[str, ...]  # wrong whatever was acknowledged
    cold: tuple[tuple[str, bytes], ...]  # after everything was sent
    left: tuple[tuple[str, str], ...]  # what could not be sent, and why
    above: tuple[str, ...] = ()  # copies that are not what the directory below has
    foreign: str = ""  # the key somebody else has changed while the machine was down


# -------------------------------------------------------------------- recording


@dataclass(slots=True)
class Run:
    """A tier that is used while it is recorded."""

    tier: TierFileSystem
    recorder: Recorder
    values: random.Random

    def change(self, call: Callable[[], object], sets: dict[str, bytes | None]) -> None:
        """Make a change; note it before, and that it was acknowledged."""
        self.overtake(sets)
        self.recorder.mark(("begin", tuple(sets.items())))
        try:
            call()
        except FileNotFoundError:
            self.recorder.mark(("nothing",))
            return
        self.recorder.mark(("done",))

    def payload(self) -> bytes:
        """Return new bytes, some of one size."""
        return self.values.randbytes(self.values.choice([300, 300, 1500]))

    def put(self, key: str, value: bytes | None = None, *, create: bool = False) -> None:
        data = self.payload() if value is None else value
        mode = {"mode": "create"} if create else {}
        self.change(lambda: self.tier.pipe_file(key, data, **mode), {key: data})

    def remove(self, key: str) -> None:
        self.change(lambda: self.tier.rm_file(key), {key: None})

    def move(self, source: str, target: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            data = self.tier.cat_file(source)
            self.change(lambda: self.tier.mv(source, target), {source: None, target: data})

    def put_many(self, keys: tuple[str, ...]) -> None:
        """Write several objects in one commit."""
        values = {key: self.payload() for key in keys}
        self.overtake(values)
        self.recorder.mark(("begin", *(((key, data),) for key, data in values.items())))
        self.tier.pipe(values)
        self.recorder.mark(("done",))

    @property
    def last(self) -> TierFileSystem:
        """The directory that owes cold what was written: the lower one, where there are two."""
        found: TierFileSystem = self.tier._last  # type: ignore[assignment]
        return found

    def overtake(self, sets: Mapping[str, bytes | None]) -> None:
        """Note whose last write a change is not based on an older version than: it may replace it.

        So it is where somebody's write was read before, or no version was known at all.
        """
        for key, value in sets.items():
            found = LoggedCold.objects.values.get(f"cold/{key}")
            base = base_of(self.last, key, removes=value is None)
            if found is not None and base in {None, LoggedCold().info(f"cold/{key}")["etag"]}:
                self.recorder.mark(("overtaken", key))

    def flush(self) -> None:
        """Send everything."""
        self.sending(self.tier.flush)

    def demote(self) -> None:
        """Send everything, see that cold has it, and drop the copies."""
        self.sending(lambda: self.tier.demote("", recursive=True))

    def apply(self) -> None:
        """Do what the rules ask for."""
        self.sending(lambda: self.tier.apply(self.tier.plan(now=time.time() + 10.0)))

    def sending(self, call: Callable[[], object]) -> None:
        """Do something while the uploader works."""
        uploader = self.last._mover.uploader
        uploader._stopping = False
        with contextlib.suppress(OSError):
            call()
        rest(uploader)

    def put_while_sending(self, key: str) -> None:
        """Overwrite an object while its upload is under way."""
        self.put(key)
        LoggedCold.during_put = lambda: self.put(key)
        self.flush()
        LoggedCold.during_put = None

    def foreign(self, key: str) -> None:
        """Let somebody else change an object of cold whose version the tier has seen."""
        if base_of(self.last, key):
            data = b"foreign" + self.payload()
            self.recorder.mark(("foreign comes", key, data))
            LoggedCold().pipe_file(f"cold/{key}", data)
            self.recorder.mark(("foreign", key, data))

    def evict(self) -> None:
        self.tier.evict("", recursive=True)

    def evict_from(self, number: int) -> None:
        """Drop the copies of one directory."""
        with contextlib.suppress(OSError):
            self.tier.evict("", recursive=True, tier=self.tier._directories()[number])

    def promote(self, key: str) -> None:
        """Let cold have the only copy, and read it."""
        self.flush()
        self.evict()
        self.read(key)

    def read(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.tier.cat_file(key)


def base_of(tier: TierFileSystem, key: str, *, removes: bool = False) -> str | None:
    """Return the version of a key's object in cold that a change is to be based on.

    What was only read, and not written here, is removed without a condition.
    """
    store = tier._engine.dirty()
    change = None if store is None else store.journal.get(key)
    if change is not None:
        return change.base
    row = tier._engine.catalog.row(key)
    if row is None or (removes and row.etag is None):
        return None
    return row.cold_etag


def rest(uploader: Any) -> None:
    """Stop sending in the background, and wait until it has."""
    uploader.stop()


def scenario(run: Run, seed: int, steps: int = 7) -> None:
    """Do a few things, chosen by the seed, so that each verb meets each."""
    choose = random.Random(f"steps/{seed}")
    verbs: list[Callable[[str], object]] = [
        *[run.put] * 4,
        lambda key: run.put(key, create=True),
        run.remove,
        run.remove,
        lambda key: run.move(key, "moved"),
        lambda _: run.put_many(("a", "d/b", "d/e/c")),
        lambda _: run.flush(),
        lambda _: run.flush(),
        lambda _: run.evict(),
        lambda _: run.demote(),
        lambda _: run.apply(),
        run.read,
        run.promote,
        run.foreign,
        run.foreign,
        run.put_while_sending,
    ]
    if run.last is not run.tier:
        verbs += [lambda _: run.evict_from(0), lambda _: run.evict_from(1), run.read]
    for _ in range(steps):
        key = choose.choice(KEYS[:3])
        with contextlib.suppress(FileExistsError):
            choose.choice(verbs)(key)
    if choose.random() < 0.7:
        run.flush()


def open_logged(top: Path | str, *, two: bool = False, **options: Any) -> TierFileSystem:
    """Open the tier of a directory, or of two, over the logged cold store."""
    fsspec.register_implementation("loggedcold", LoggedCold, clobber=True)
    given = {"write": "back", "max_bytes": LIMIT_BYTES, "quiet_s": 0.0, **AT_ONCE, **options}
    if two:
        given["tiers"] = [f"{top}/hot/above", f"{top}/hot/below", "loggedcold://cold"]
    else:
        given |= {"hot": f"{top}/hot", "cold": "loggedcold://cold"}
    found: TierFileSystem = fsspec.filesystem("tier", **given)
    return found


@contextlib.contextmanager
def booted(name: str) -> Iterator[None]:
    """Let the machine have started anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "boot_id", lambda: name)
        yield


def record(
    top: Path,
    act: Callable[[Run], None],
    seed: int,
    durability: str = "power",
    *,
    two: bool = False,
) -> Log:
    """Run something on a new tier, from its first use on, and return the log."""
    LoggedCold.restore({})
    recorder = Recorder(f"{top}/hot")
    recorder.log.remotes.append({})
    LoggedCold.recorder = recorder
    try:
        with booted("boot 0"), recorder.recording():
            tier = open_logged(top, two=two, durability=durability, rules=list(RULES))
            tier._last._mover.uploader.rest()
            tier._engine.usable()
            act(Run(tier, recorder, random.Random(f"values/{seed}")))
    finally:
        LoggedCold.recorder = LoggedCold.during_put = None
        forget()
    return recorder.log


# -------------------------------------------------------------------- recovering


class Reopened:
    """One tier, opened again and again on what crashes have left; everything on this thread.

    The coroutines are those of every other user; only loop and threads, which crashes do not
    concern, are left out: they cost ten times as much as recovery itself. Of two directories the
    upper one asks the lower one by way of the loop, as it always does.
    """

    def __init__(self, top: Path | str, durability: str = "power", *, two: bool = False) -> None:
        self.place = f"{top}/hot"
        os.makedirs(self.place, exist_ok=True)
        # Reads leave no copies: those would hide what recovery has made of a key.
        self.tier = open_logged(top, two=two, durability=durability, promote="never")
        self.last: Any = self.tier._last
        self.engine: TierEngine = self.last._engine
        self.engines = list(dict.fromkeys([self.tier._engine, self.engine]))
        self.boot = 0
        self._run: Callable[..., Any] = wait if two else lambda f, *args: drive(f(*args))
        # Nothing is sent behind our back: the I/O loop need not even be woken.
        self.last._mover.uploader.start_soon = lambda: None  # type: ignore[method-assign]
        self._known: dict[bytes, Seen] = {}

    def open(self, crash: Crash) -> dict[int, int]:
        """Lay a crash out and come back after it, all but the opening itself."""
        self.close()
        empty(self.place)
        numbers = crash.lay_out(self.place)
        for engine in self.engines:
            _tell_inodes(f"{engine.root}/.vfs/catalog.sqlite", numbers)
        LoggedCold.restore(crash.log.remotes[crash.image.remote])
        return numbers

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
            engine._reset()
        self.last._mover.uploader.rest()

    def recover(self) -> None:
        """Open the tier, which recovers."""
        self.tier._engine.usable()

    def send(self) -> tuple[tuple[str, str], ...]:
        """Send everything, as a flush does; return what could not be sent."""
        store, uploader = self.engine.owing(), self.last._mover.uploader
        store.journal.ask_for_flush()
        for _ in range(_TURNS):
            turn = uploader._schedule(store).next_turn(SYSTEM_CLOCK.wall_s())
            if not turn:
                break
            self._run(uploader._take, store, turn)
        return tuple((c.key, c.state.name) for c in store.journal.select("1"))

    def read(self) -> tuple[tuple[str, bytes | str | None], ...]:
        found: list[tuple[str, bytes | str | None]] = []
        for key in KEYS:
            try:
                found.append((key, self._run(self.tier.get_object, key, None, None)))
            except FileNotFoundError:
                found.append((key, None))
            except OSError as error:
                found.append((key, type(error).__name__))
            except RuntimeError as error:
                # It waits for another process to finish a change; after a crash there is none.
                found.append((key, f"waits for ever: {error}"))
        return tuple(found)

    def look(self, crash: Crash) -> Seen:
        """Come back after a crash; read, send everything, read again, and compare.

        After some, told by their digest, somebody else has changed an object meanwhile; after
        others one is overwritten before anything is sent.
        """
        self.open(crash)
        with booted(f"boot {self.boot + crash.new_boot}"):
            try:
                self.recover()
            except (OSError, ConfigError) as error:
                return Seen((), (f"cannot be opened: {error}",), (), ())
            foreign = later = ""
            if crash.digest[0] % 4 == 0:
                foreign = self._pending_key("base IS NOT NULL")
            elif crash.digest[0] % 4 == 1:
                later = self._pending_key("kind=0 AND state<2")
            state = self._state(crash.image.remote, foreign, later)
            if state not in self._known:
                self._known[state] = self._use(foreign, later)
        return self._known[state]

    def _pending_key(self, condition: str) -> str:
        found = self.engine.owing().journal.select(condition, limit=1)
        return found[0].key if found else ""

    def _use(self, foreign: str, later: str) -> Seen:
        """Do what follows recovery, which depends on nothing but the state recovered."""
        faults: list[str] = []
        if foreign:
            LoggedCold().put_object(f"cold/{foreign}", NIGHT)
        read = self.read()
        listed, shown = self._listed(), {key for key, data in read if data is not None}
        if listed != shown and not foreign:
            faults.append(f"listed {sorted(listed)}, read {sorted(shown)}")
        if later:
            self.overwrite(later, LATER)
        above = tuple(self._compare_directories())
        left = self.send()
        again = dict(self.read())
        if again != {**dict(read), **({later: LATER} if later else {})}:
            faults.append(f"what was read has changed: {_short(read)}, then {again}")
        values = LoggedCold.objects.values
        cold = tuple(sorted((k.removeprefix("cold/"), v) for k, (v, _) in values.items()))
        faults += self._compare(again, dict(cold), {key for key, _ in left})
        return Seen(read, tuple(faults), cold, left, above, foreign)

    def overwrite(self, key: str, value: bytes) -> None:
        """Write an object, as one who writes back does."""
        if self.last is not self.tier:
            self.tier.pipe_file(key, value)
            return
        store, content = self.engine.owing(), Content(value)
        reservation = self.engine.catalog.reserve(self.engine.hot.owner, key, len(value))
        assert isinstance(reservation, Reservation)
        base = self.tier._mover.back._base(key, self.engine.known_version(key))
        name, digest = store.stage(reservation, content)
        draft = Draft(key, Kind.PUT, SYSTEM_CLOCK.wall_s(), base, name, len(value), digest)
        intent = Intent([draft], {key: reservation})
        store.commit([intent])
        assert intent.error is None

    def _state(self, *more: str | int) -> bytes:
        """Return a digest of all that recovery has left: files, rows, and the cold store."""
        place = {}
        files = []
        for path, facts in _walk(self.place):
            place[facts.st_ino] = path
            if not path[path.find(".vfs/") :].startswith(_TOLD_BY_ROWS):
                files.append((path, facts.st_ino, Path(self.place, path).read_bytes()))
        named = [(path, place[inode], data) for path, inode, data in files]
        journal = self.engine.owing().journal._db
        catalogs = [engine.catalog._db for engine in self.engines]
        copies = [
            (key, place.get(inode), *facts)
            for catalog in catalogs
            for key, inode, *facts in catalog.execute(
                "SELECT key, inode, size, etag, mtime, dirty, base FROM objects"
            )
        ]
        rows = [
            *(
                c.execute("SELECT name, value FROM meta WHERE name='used'").fetchall()
                for c in catalogs
            ),
            *(c.execute("SELECT key, size FROM reservations").fetchall() for c in catalogs),
            journal.execute("SELECT * FROM changes").fetchall(),
            journal.execute("SELECT * FROM folders").fetchall(),
            journal.execute("SELECT * FROM meta").fetchall(),
        ]
        everything: Any = (named, copies, rows, more)
        return xxhash.xxh3_128_digest(marshal.dumps(everything, 2))

    def _listed(self) -> set[str]:
        found = self._run(self.tier._tree_on_loop, "", None)
        return {key for key, info in found.items() if info["type"] == "file"}

    def _compare(
        self, read: Mapping[str, object], cold: Mapping[str, bytes], stuck: set[str]
    ) -> Iterator[str]:
        """Yield what is wrong with both tiers after everything was sent."""
        for engine in self.engines:
            yield from self._compare_one(engine, read, cold, stuck)

    def _compare_directories(self) -> Iterator[str]:
        """Yield the copies that are not what the directory below them has."""
        for above in self.engines[:-1]:
            for key, data in copies_of(above).items():
                try:
                    below = self._run(self.last.get_object, key, None, None)
                except OSError as error:
                    below = type(error).__name__
                # As in _compare_one: evicted below first, it is read from cold there.
                foreign = isinstance(below, bytes) and below.startswith(b"foreign")
                if data != below and not foreign:
                    yield f"the copy of {key} above is not what the directory below has"

    def _compare_one(
        self,
        engine: TierEngine,
        read: Mapping[str, object],
        cold: Mapping[str, bytes],
        stuck: set[str],
    ) -> Iterator[str]:
        hot = copies_of(engine)
        # What somebody else has written under a clean copy is not looked for: only this tier's
        # users may write there. It must stay, no more.
        others = {key for key, data in cold.items() if data.startswith(b"foreign")}
        for key in {*read, *hot} - stuck - others:
            if key in hot and hot[key] != cold.get(key):
                yield f"the hot copy of {key} is not what cold has"
            if key in read and read[key] != cold.get(key) and not isinstance(read[key], str):
                yield f"{key} reads other bytes than cold has"
        # A kill amid an eviction may leave a row too many, which is the first to be evicted.
        if engine.catalog.used() < sum(map(len, hot.values())):
            yield f"{engine.catalog.used()} bytes counted, there is more in {sorted(hot)}"
        if garbage := os.listdir(engine.hot.temporary):
            yield f"left for ever: {garbage}"


def copies_of(engine: TierEngine) -> dict[str, bytes]:
    """Return what lies in a hot directory, by key."""
    found = engine.hot.walk(absolute_keys=False)
    return {key: Path(engine.hot.path(key)).read_bytes() for key, _ in found}


def _walk(top: str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(f"{top}/{prefix}") as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(top, f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", entry.stat(follow_symlinks=False)


def _short(read: tuple[tuple[str, bytes | str | None], ...]) -> dict[str, object]:
    return {k: v[:4].hex() if isinstance(v, bytes) else v for k, v in read}


def _tell_inodes(path: str, numbers: Mapping[int, int]) -> None:
    """Bring the numbers of files in a catalogue up to date; the laid out files have others."""
    if not os.path.exists(path):
        return
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        try:
            rows = db.execute("SELECT key, inode FROM objects").fetchall()
        except sqlite3.DatabaseError:
            return
        if rows:
            db.execute("PRAGMA journal_mode=OFF")
            db.execute("PRAGMA synchronous=OFF")
            db.execute("BEGIN")
            # A number of no file there is now must not meet one of another file by chance.
            db.executemany(
                "UPDATE objects SET inode=? WHERE key=?",
                [(numbers.get(inode, -inode), key) for key, inode in rows],
            )
            db.execute("COMMIT")


# -------------------------------------------------------------------- judging


@dataclass(slots=True)
class Truth:
    """What was acknowledged, and what may have happened; the oracle.

    Parameters
    ----------
    durability : str
        Of the run. With "process" a power cut may undo what was acknowledged, never tear it.
    """

    durability: str = "power"
    settled: dict[str, bytes | None] = field(default_factory=dict)
    begun: tuple[tuple[tuple[str, bytes | None], ...], ...] = ()  # groups, each all or nothing
    foreign: dict[str, bytes] = field(default_factory=dict)
    coming: dict[str, bytes] = field(default_factory=dict)
    ever: dict[str, set[bytes | None]] = field(default_factory=dict)
    unsure: dict[str, set[bytes | None]] = field(default_factory=dict)  # cut by a kill

    def note(self, note: Any) -> None:
        match note:
            case ("begin", *groups):
                self.begun = tuple(groups)
                for key, value in itertools.chain(*groups):
                    self.ever.setdefault(key, {None}).add(value)
            case ("nothing",):
                self.begun = ()
            case ("done" | "killed" as how,):
                self._end(acknowledged=how == "done")
            case ("foreign comes", key, value):
                self.ever.setdefault(key, {None}).add(value)
                self.coming[key] = value
            case ("foreign", key, value):
                self.foreign[key] = value
            case ("overtaken", key):
                self.foreign.pop(key, None)

    def _end(self, *, acknowledged: bool) -> None:
        """Let what was begun be done, or cut by a kill: done or not, from then on."""
        for key, value in itertools.chain(*self.begun):
            if acknowledged:
                self.settled[key] = value
                self.unsure.pop(key, None)
            else:
                self.unsure[key] = {value, self.settled.get(key)}
        self.begun = ()

    def faults(self, seen: Seen, model: str) -> list[str]:
        if seen.above:
            return list(seen.above)  # whatever was promised
        may_lose = self.durability == "process" and model != "kill"
        if seen.faults and not may_lose:
            return list(seen.faults)
        if not seen.read:
            return [] if may_lose else list(seen.faults)
        return [*self._read(seen, may_lose), *self._cold(seen, may_lose)]

    def _read(self, seen: Seen, may_lose: bool) -> Iterator[str]:
        read = dict(seen.read)
        if may_lose:
            for key, data in read.items():
                if data not in self.ever.get(key, {None}) and data != "IntegrityError":
                    yield f"{key} is torn"
            return
        outside = dict(self.coming)
        if seen.foreign:
            outside[seen.foreign] = NIGHT
        open_keys = {key for group in self.begun for key, _ in group}
        for key, data in read.items():
            known = {self.settled.get(key), outside.get(key, self.settled.get(key))}
            known |= self.unsure.get(key, set())
            if key not in open_keys and data not in known:
                yield f"{key} is not what was acknowledged: {_kind(data)}"
        for group in self.begun:
            new = [read[key] == value for key, value in group]
            old = [
                read[key]
                in {self.settled.get(key), outside.get(key, b"?"), *self.unsure.get(key, ())}
                for key, _ in group
            ]
            if not (all(new) or all(old)):
                yield f"a change is half done: {[key for key, _ in group]}"

    def _cold(self, seen: Seen, may_lose: bool) -> Iterator[str]:
        cold = dict(seen.cold)
        for key, why in seen.left:
            if not may_lose and key not in {*self.coming, seen.foreign}:
                yield f"{key} cannot be sent: {why}"
        if seen.foreign and cold.get(seen.foreign) != NIGHT:
            yield f"somebody's write of {seen.foreign} while the machine was down is gone"
        for key, value in self.foreign.items():
            if cold.get(key) not in {value, self.coming[key]} and key != seen.foreign:
                yield f"somebody's write of {key} is gone"


def _kind(data: object) -> str:
    return f"{len(data)} bytes" if isinstance(data, bytes) else str(data)


def simulate(
    log: Log,
    reopened: Reopened,
    *,
    truth: Callable[[], Truth] = Truth,
    models: tuple[type[DiskModel], ...] = MODELS,
    limit: int = IMAGES,
    seed: int = 0,
    enough: int = ENOUGH,
) -> dict[str, Tally]:
    """Recover from every crash of a log, and judge."""
    reopened._known.clear()
    simulation = Simulation(log, models, reopened.look, limit=limit, seed=seed, enough=enough)
    return simulation.run(truth)


def record_recovery(reopened: Reopened, crash: Crash) -> Log:
    """Recover from a crash, send everything, and return the log of that."""
    reopened.open(crash)
    recorder = Recorder(reopened.place)
    recorder.log.remotes.append(crash.log.remotes[crash.image.remote])
    LoggedCold.recorder = recorder
    try:
        with booted(f"boot {reopened.boot + crash.new_boot}"), recorder.recording():
            reopened.recover()
            reopened.send()
    finally:
        LoggedCold.recorder = None
    return recorder.log


def simulate_twice(
    log: Log, reopened: Reopened, durability: str, count: int, seed: int
) -> dict[str, Tally]:
    """Crash, and crash recovery at each of its calls, for some crashes of a log."""
    total: dict[str, Tally] = {}
    choose = random.Random(f"twice/{seed}")
    for _ in range(count):
        model = choose.choice(MODELS)
        moment = choose.randrange(len(log.ops) // 4, len(log.ops) + 1)
        crash: Crash | None = None
        for later in Simulation(log, [model], reopened.look, limit=4, seed=seed).crashes(
            model, Truth(durability)
        ):
            if later.moment > moment:
                break
            crash = later  # in the end the last of its moment, which has lost something
        assert crash is not None
        # What was acknowledged before the first crash is told by a second look at the log.
        truth = Truth(durability)
        for op in log.ops[: crash.moment]:
            if isinstance(op, Mark):
                truth.note(op.note)
        if model.new_boot and durability == "process":
            continue  # what is lost already is not to be found by a second crash
        second = record_recovery(reopened, crash)
        reopened.boot = int(model.new_boot)
        try:
            again = simulate(second, reopened, truth=lambda t=truth: t, limit=8, seed=seed)  # type: ignore[misc]
        finally:
            reopened.boot = 0
        for name, tally in again.items():
            total.setdefault(f"{name} twice", Tally()).add(tally)
    return total


def record_after_kill(reopened: Reopened, log: Log, moment: int) -> Log:
    """Kill a run, come back, write every object and send; return the log of all of it.

    What the dead process had not synced is on the disk no more for that.
    """
    kill = Simulation(log, [Kill], reopened.look, limit=1, start=moment)
    crash = next(kill.crashes(Kill, Truth()))
    recorder = Recorder(reopened.place)
    recorder.go_on(log, moment, reopened.open(crash))
    LoggedCold.recorder = recorder
    run = Run(reopened.tier, recorder, random.Random())
    try:
        with booted(f"boot {reopened.boot}"), recorder.recording():
            recorder.mark(("killed",))
            reopened.recover()
            for key in KEYS:
                value = f"after the kill: {key}".encode()
                run.change(partial(reopened.overwrite, key, value), {key: value})
            reopened.send()
    finally:
        LoggedCold.recorder = None
    return recorder.log


def simulate_after_kill(
    log: Log, reopened: Reopened, count: int, seed: int, *, enough: int = ENOUGH
) -> dict[str, Tally]:
    """Cut the power of those who came back after a kill, for some kills of a run."""
    total: dict[str, Tally] = {}
    choose = random.Random(f"killed/{seed}")
    for _ in range(count):
        most = choose.choice([_MAKING, len(log.ops) + 1])
        moment = choose.randrange(min(most, len(log.ops) + 1))
        longer = record_after_kill(reopened, log, moment)
        reopened._known.clear()
        simulation = Simulation(
            longer, POWER_CUTS, reopened.look, limit=8, seed=seed, enough=enough, start=moment
        )
        for name, tally in simulation.run(Truth).items():
            total.setdefault(f"{name} after a kill", Tally()).add(tally)
    return total


def explore(
    place: Path,
    seed: int,
    durability: str,
    *,
    twice: int = 2,
    enough: int = ENOUGH,
    two: bool = False,
) -> Tally:
    """Record a run, on one directory or two, and recover from every crash of it.

    And from some crashes of recoveries, and from power cuts after some kills.
    """
    here = place / f"run-{seed}"
    log = record(here, lambda run: scenario(run, seed), seed, durability, two=two)
    # Reopened with the stronger promise: what a power cut has spared is not trusted more for it.
    # Of two directories each knows the path of the other, so they come back in the same place.
    reopened = Reopened(here if two else place / "again", two=two)
    total = Tally()
    limit = TWO_IMAGES if two else IMAGES
    try:
        found = [
            simulate(
                log,
                reopened,
                truth=lambda: Truth(durability),
                limit=limit,
                seed=seed,
                enough=enough,
            ),
            simulate_twice(log, reopened, durability, twice, seed),
        ]
        if durability == "power":
            found.append(simulate_after_kill(log, reopened, twice, seed))
        for tallies in found:
            for tally in tallies.values():
                total.add(tally)
    finally:
        reopened.close()
        forget()
    return total
