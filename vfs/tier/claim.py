"""Whose hot directory this is: recorded in it, and where it was mounted, recorded beside it.

What lives here: the checks that keep one store's copies from answering for another, and an empty
mount point from being taken for an empty hot directory. What must not: copies themselves.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from typing import Any, Final

import platformdirs
import xxhash

from vfs.core.durable import Staging, fsync_directory, make_directories
from vfs.errors import ConfigError, os_error
from vfs.observe import logger

__all__ = [
    "FORMAT",
    "STATE_DIRECTORY",
    "claim",
    "hot_name_allowed",
    "mount_point",
    "read_record",
    "require_tier",
    "write_record",
]

#: Inside the hot directory; everything that is not an object.
STATE_DIRECTORY: Final = ".vfs"

#: On-disk format of the state directory.
FORMAT: Final = 1


def hot_name_allowed(key: str) -> bool:
    """Say whether a key can lie in the hot directory under its own name."""
    name = key.lstrip("/")
    return bool(name) and "//" not in key and name.split("/", 1)[0] != STATE_DIRECTORY


def claim(root: str, cold_identity: str) -> None:
    """Make a directory the hot tier of a cold store, or check that it is.

    Raises
    ------
    ConfigError
        It belongs to another cold store, or holds files no tier put there.
    OSError
        [ENODEV] it was on a disk that is not mounted now; others when it cannot be used.
    """
    state = os.path.join(root, STATE_DIRECTORY)
    path = os.path.join(state, "tier.json")
    record = {"format": FORMAT, "cold": cold_identity}
    found = read_record(path)
    if found is None:
        _check_mounted(root)
        _check_empty(root)
        make_directories(state, "power")
        _sync_names(state)
        write_record(path, record)
    elif found != record:
        raise ConfigError(
            f"tier: hot={root!r} belongs to {found.get('cold')!r} "
            f"(format {found.get('format')}), not to {cold_identity!r}; "
            f"give each cold store a hot directory of its own"
        )
    _remember_mount(root)


def _sync_names(state: str) -> None:
    """Sync the names of the directories that lead to a new tier, up to where its disk begins.

    INVARIANT: also those that a process made which was killed before it could sync them.
    (tests/tier/test_powercut.py::test_hot_directory_left_by_a_killed_process_is_synced)
    """
    top = mount_point(state)
    directory = os.path.realpath(state)
    while directory != top:
        directory = os.path.dirname(directory)
        with contextlib.suppress(PermissionError):  # then it is not of our making
            fsync_directory(directory)


def require_tier(root: str) -> None:
    """Refuse a directory that is no hot tier, without making it one.

    Raises
    ------
    FileNotFoundError
        [ENOENT] no tier has used it.
    """
    path = os.path.join(root, STATE_DIRECTORY, "tier.json")
    if not os.path.exists(path):
        raise os_error(errno.ENOENT, root, "no hot tier: no tier has used this directory")


def _check_empty(root: str) -> None:
    if os.path.isdir(root) and not set(os.listdir(root)) <= {STATE_DIRECTORY}:
        raise ConfigError(
            f"tier: hot={root!r} holds files that no tier put there, which an "
            f"eviction would delete; give an empty or a new directory"
        )


def read_record(path: str) -> dict[str, Any] | None:
    """Return what :func:`write_record` has written; None where it did not, empty if damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def write_record(path: str, record: dict[str, Any], *, exclusive: bool = False) -> None:
    """Write a small file of facts, atomically and durably; ``exclusive``: only a new one."""
    with Staging(os.path.dirname(path), "power") as staging:
        staging.write(json.dumps(record).encode())
        staging.publish(path, exclusive=exclusive)


# -------------------------------------------------------------------- mounts


def mount_point(path: str) -> str:
    """Return where the filesystem is mounted that a path is, or would be, on."""
    path = os.path.realpath(path)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def _mount_record(root: str) -> str:
    name = xxhash.xxh3_64_hexdigest(os.path.realpath(root).encode())
    return str(platformdirs.user_state_path("vfs") / "hot" / f"{name}.json")


def _check_mounted(root: str) -> None:
    """Refuse to start anew under a mount point whose disk is missing.

    INVARIANT: what is written while the hot disk is not mounted cannot leave old copies on it
    that answer when it is back. (tests/tier/test_degraded.py::test_unmounted_hot_disk)
    """
    record = _mount_record(root)
    known = read_record(record)
    if known and known.get("mount") != mount_point(root):
        detail = (
            f"the disk at {known.get('mount')} that held this hot tier is not mounted; "
            f"mount it, or remove {record} if it is gone for good"
        )
        raise os_error(errno.ENODEV, root, detail)


def _remember_mount(root: str) -> None:
    """Record the mount of a hot directory, unless it is on the root disk or only temporary."""
    mount = mount_point(root)
    temporary = os.path.realpath(tempfile.gettempdir())
    if mount == "/" or os.path.realpath(root).startswith(f"{temporary}/"):
        return
    record = _mount_record(root)
    try:
        if (read_record(record) or {}).get("mount") != mount:
            make_directories(os.path.dirname(record), "power")
            write_record(record, {"hot": root, "mount": mount})
    except OSError as error:
        # Without the record an empty mount point is not noticed; the tier itself is fine.
        logger.info("cannot record the mount of hot tier %s: %s", root, error)
