"""``readonly::``: refuse every write to a filesystem.

What lives here: that one concern. What must not: permissions of any other kind.
"""

from __future__ import annotations

from vfs.config.options import check_known
from vfs.core.chained import WrapperFileSystem
from vfs.core.readonly import ReadOnly

__all__ = ["ReadOnlyFileSystem"]


class ReadOnlyFileSystem(ReadOnly, WrapperFileSystem):
    """Any filesystem, without its writes.

    Parameters
    ----------
    target_protocol, target_options, fs, fo, engine
        See :class:`~vfs.core.chained.WrapperFileSystem`.

    Notes
    -----
    Place it innermost, right over the backend, so that no layer above can write either. Cost:
    under 5 µs a call.

    Examples
    --------
    >>> import fsspec
    >>> fs = fsspec.filesystem("readonly", target_protocol="mem")
    >>> fs.pipe_file("a", b"")
    Traceback (most recent call last):
        ...
    vfs.errors.ReadOnlyError: [Errno 30] write refused: this filesystem is read-only: 'a'
    """

    protocol = "readonly"

    def __init__(self, *args: object, **kwargs: object) -> None:
        known = ("target_protocol", "target_options", "fs", "fo", "engine")
        check_known("readonly", kwargs, known)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
