"""What the tier's tests share: opening one, looking into it, and a cold store with gates."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec

from vfs.backends.disk import DiskFileSystem
from vfs.backends.mem import MemFileSystem
from vfs.core.engine import close_engines
from vfs.tier.filesystem import TierFileSystem
from vfs.types import ObjectInfo


class GatedFileSystem(MemFileSystem):
    """``mem`` whose reads and writes wait at a gate, in a thread, as a slow store would."""

    protocol = "gated"
    blocking = True
    reads_conditionally = False
    before_get: ClassVar[Callable[[str], None] | None] = None
    before_put: ClassVar[Callable[[str], None] | None] = None
    after_put: ClassVar[Callable[[str], None] | None] = None
    before_head: ClassVar[Callable[[str], None] | None] = None

    @classmethod
    def open_gates(cls) -> None:
        """Take every hook away."""
        cls.before_get = cls.before_put = cls.after_put = cls.before_head = None

    def get_now(self, *args: Any, **kwargs: Any) -> bytes | None:
        return None

    def head_object(self, key: str) -> ObjectInfo:
        info = super().head_object(key)
        if hook := type(self).before_head:
            hook(key)
        return info

    def get_object(self, key: str, start: int | None, end: int | None, **kwargs: Any) -> bytes:
        data = super().get_object(key, start, end)
        if hook := type(self).before_get:
            hook(key)
        return data

    def put_object(self, key: str, value: bytes, **kwargs: Any) -> ObjectInfo:
        if hook := type(self).before_put:
            hook(key)
        info = super().put_object(key, value, **kwargs)
        if hook := type(self).after_put:
            hook(key)
        return info


class BrokenCold(DiskFileSystem):
    """``disk`` whose next writes and removals fail, as a full or unreachable store does."""

    protocol = "broken"
    left: ClassVar[int] = 0
    code: ClassVar[int] = errno.EIO
    before_put: ClassVar[Callable[[str], None] | None] = None
    after_put: ClassVar[Callable[[str], None] | None] = None

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, str):
            path = path.removeprefix("broken://")
        return super()._strip_protocol(path)

    @classmethod
    def arm(cls, count: int, code: int) -> None:
        """Let so many changes fail, from now on."""
        cls.left, cls.code = count, code

    @classmethod
    def disarm(cls) -> None:
        """Work again."""
        cls.left = 0
        cls.before_put = cls.after_put = None

    def _fail(self, key: str) -> None:
        if type(self).left > 0:
            type(self).left -= 1
            raise OSError(self.code, os.strerror(self.code), key)

    def put_object(self, key: str, value: bytes, **kwargs: Any) -> ObjectInfo:
        self._fail(key)
        if hook := type(self).before_put:
            hook(key)
        info = super().put_object(key, value, **kwargs)
        if hook := type(self).after_put:
            hook(key)
        return info

    def delete_object(self, key: str) -> None:
        self._fail(key)
        super().delete_object(key)


class Gate:
    """Lets one call stop in the middle until the test says go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.calls = 0

    def __call__(self, key: str) -> None:
        self.calls += 1
        self.reached.set()
        assert self.go_on.wait(30), "the test never opened the gate"


#: Uploads begin at once, so that tests need not wait for them.
AT_ONCE: dict[str, Any] = {"delay_s": 0.0}


def given(write: str = "back", **options: Any) -> dict[str, Any]:
    """Return the options of a tier; one that writes back sends at once unless they say more."""
    options = {"write": write, **options}
    return {**AT_ONCE, **options} if options["write"] == "back" else options


def open_tier(top: Path, **options: Any) -> TierFileSystem:
    """Open the tier of a directory, as another process would."""
    found: TierFileSystem = fsspec.filesystem(
        "tier",
        hot=str(top / "hot"),
        cold=f"disk://{top}/cold",
        **given(**{"write": "through", **options}),
    )
    return found


def open_gated(top: Path, protocol: str = "gated", **options: Any) -> TierFileSystem:
    """Open a tier that writes back to a :class:`GatedFileSystem`, or one like it."""
    found: TierFileSystem = fsspec.filesystem(
        "tier",
        hot=str(top / "hot"),
        target_protocol=protocol,
        target_options={"store": top.as_posix()},
        **given(**options),
    )
    return found


def cold_of(top: Path) -> MemFileSystem:
    """Return the store of :func:`open_gated` past the tier, as another writer uses it."""
    return MemFileSystem(store=top.as_posix())


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    """Wait for what another thread or process is to bring about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def forget() -> None:
    """Let every tier be closed, as the end of a process does."""
    TierFileSystem.clear_instance_cache()
    close_engines()


def open_broken(top: Path, **options: Any) -> TierFileSystem:
    """Open a tier that writes back to a :class:`BrokenCold`."""
    cold = f"broken://{top}/cold"
    found: TierFileSystem = fsspec.filesystem(
        "tier", hot=str(top / "hot"), cold=cold, **given(**options)
    )
    return found


def open_stack(top: Path, **options: Any) -> TierFileSystem:
    """Open three tiers: the directories ``top`` and ``hot``, and :class:`BrokenCold`."""
    first = {"hot": str(top / "top"), **options.pop("first", {})}
    found: TierFileSystem = fsspec.filesystem(
        "tier", tiers=[first, str(top / "hot"), f"broken://{top}/cold"], **options
    )
    return found


def hot_files(top: Path, name: str = "hot") -> dict[str, bytes]:
    """Return what lies in a hot directory, by key."""
    hot = top / name
    files = (path for path in hot.rglob("*") if path.is_file() and ".vfs" not in path.parts)
    return {path.relative_to(hot).as_posix(): path.read_bytes() for path in files}


@contextlib.contextmanager
def descriptors(choose: Callable[[int], int]) -> Iterator[None]:
    """Let the process open as many files as ``choose`` makes of what it may open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (choose(soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_files_below(directory: Path) -> list[str]:
    """Name the open files below a directory; those of earlier tests may close at any time."""
    gc.collect()  # a map holds a descriptor, and a traceback may hold the map
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(f"{directory}/")]


def staged_files(top: Path, name: str = "hot") -> list[str]:
    """Return the names of files that are being written, or were left."""
    return sorted(path.name for path in (top / name / ".vfs/tmp").iterdir())
