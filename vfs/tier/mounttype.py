"""Which filesystems are fit to hold what cold does not have yet.

What lives here: the refusal of those whose locks or renames cannot be relied on. What must not:
anything else about mounts (``claim.py``).
"""

from __future__ import annotations

import os
import re
from typing import Final

from vfs.core.filelock import LockFile
from vfs.errors import ConfigError

__all__ = ["check_fit_for_write_back", "filesystem_type", "why_unfit"]

#: Types of ``/proc/self/mountinfo`` that several machines share, or that a daemon emulates. On
#: all of them a lock may be local to one client, be lost with the connection, or not exist.
_UNFIT: Final = re.compile(
    r"nfs4?|cifs|smb3|smbfs|9p|afs|ceph|glusterfs|lustre|gpfs|beegfs|orangefs|pvfs2|ocfs2|gfs2|"
    r"davfs|virtiofs|vboxsf|vmhgfs|prl_fs|fuse(\..*)?|fuseblk"
)


def filesystem_type(path: str, mountinfo: str) -> str | None:
    """Return the type of the filesystem a path is on.

    Parameters
    ----------
    path : str
        Absolute, without symbolic links.
    mountinfo : str
        What ``/proc/self/mountinfo`` says.
    """
    best, found = -1, None
    for line in mountinfo.splitlines():
        fields, separator, rest = line.partition(" - ")
        if not separator:
            continue
        where = _unescape(fields.split(" ")[4])
        inside = where in {"/", path} or path.startswith(f"{where}/")
        if inside and len(where) >= best:  # of several mounts on one place the last is seen
            best, found = len(where), rest.split(" ", 1)[0]
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def why_unfit(kind: str | None) -> str | None:
    """Return why a type of filesystem cannot hold the only copy of something, or None.

    Examples
    --------
    >>> why_unfit("ext4") is None, why_unfit("nfs4")
    (True, 'it is on nfs4, whose locks do not exclude other machines reliably')
    """
    if kind is None or not _UNFIT.fullmatch(kind):
        return None
    return f"it is on {kind}, whose locks do not exclude other machines reliably"


def check_fit_for_write_back(root: str, locks: LockFile, byte: int) -> None:
    """Refuse write-back where two uploaders, or two writers, could not exclude each other.

    Raises
    ------
    ConfigError
        A network or user-space filesystem, or one whose locks do not lock.
    """
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            reason = why_unfit(filesystem_type(os.path.realpath(root), file.read()))
    except OSError:
        reason = None  # no Linux: the trial below decides
    if reason is None and not _locks_exclude(locks, byte):
        reason = "a lock in it does not exclude a second holder"
    if reason is not None:
        message = (
            f"tier: write='back' refused for hot={root!r}: {reason}; "
            f"use a local disk, or write='through'"
        )
        raise ConfigError(message)


def _locks_exclude(locks: LockFile, byte: int) -> bool:
    first = locks.acquire_now(byte)
    if first is None:
        return True  # somebody has it, so they do
    try:
        second = locks.acquire_now(byte)
        if second is not None:
            locks.release(second)
        return second is None
    finally:
        locks.release(first)
