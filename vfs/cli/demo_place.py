"""Where the demonstration happens: hot directory, cold store, and who counts requests.

What lives here: making both places and leaving nothing behind. What must not: reading or writing
through the tier.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vfs.config.secrets import redact_url, reveal
from vfs.errors import ConfigError

__all__ = ["Place", "cold_options", "demo_place"]

_MAX_BYTES: Final = "1 GiB"  # of the hot directory; all samples are 19 MB
_BUCKET: Final = "vfs-demo"
_PREFIX: Final = "vfs-demo-"

#: Wait for writers that were interrupted, so that nothing reappears after it was removed.
_REMOVE_ATTEMPTS: Final = 40
_REMOVE_PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Place:
    """A hot directory over a cold store.

    Attributes
    ----------
    hot : Path
        The hot directory, empty at first.
    cold : str
        URL of a cold directory of its own, empty at first.
    options : dict
        Of the cold store's filesystem.
    server_requests : callable, optional
        Counts the requests a server saw, where the demonstration runs one.
    """

    hot: Path
    cold: str
    options: dict[str, Any] = field(repr=False)
    server_requests: Callable[[], int] | None = None

    @property
    def tier_options(self) -> dict[str, Any]:
        """What pandas, xarray and zarr are to pass as ``storage_options``."""
        return {
            "hot": str(self.hot),
            "cold": self.cold,
            "cold_options": self.options,
            "max_bytes": _MAX_BYTES,
        }

    @property
    def shown(self) -> str:
        """The cold URL for people."""
        return redact_url(self.cold)

    def plain(self) -> tuple[Any, str]:
        """Open the cold store past the tier.

        Returns
        -------
        tuple of AbstractFileSystem and str
            fsspec's own filesystem, sharing nothing with the tier's, and the root in it.

        Raises
        ------
        ConfigError
            Unknown protocol, missing package, or an option it does not take.
        """
        from fsspec.core import url_to_fs

        try:
            # A new instance: neither a client nor a listing is shared with the tier.
            fs, root = url_to_fs(self.cold, skip_instance_cache=True, **reveal(self.options))
        except ConfigError:
            raise
        except ImportError as error:
            raise ConfigError(
                f"--cold {self._asked} needs a package that is not installed: {error}"
            ) from error
        except (TypeError, ValueError) as error:
            raise self._wrong(error) from error
        _kept.append(fs)
        return fs, str(root)

    @property
    def _asked(self) -> str:
        return self.shown.rpartition(f"/{_PREFIX}")[0] or self.shown

    def _wrong(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"--cold {self._asked} cannot be opened: {error}; give a directory or an fsspec URL "
            f"such as s3://bucket/prefix, and its options by --cold-option"
        )

    def probe(self) -> None:
        """Write and remove an object past the tier.

        Raises
        ------
        ConfigError
            The URL or an option of it is wrong.
        OSError
            The cold store cannot be reached, or not be written.
        """
        from vfs.core.loop import wait
        from vfs.core.target import Target

        fs, root = self.plain()
        target = Target(fs)
        try:
            wait(target.pipe_file, f"{root}/probe", b"vfs demo")
            wait(target.call, "rm_file", f"{root}/probe")
        except OSError as error:
            error.add_note(f"--cold {self._asked} was to be written")
            raise
        except (TypeError, ValueError) as error:
            raise self._wrong(error) from error

    def read_plain(self) -> dict[str, bytes]:
        """Read every object of the cold store past the tier.

        Returns
        -------
        dict of str to bytes
            Key, as the tier names it, to content.
        """
        fs, root = self.plain()
        paths = [path for path in fs.find(root) if path != root]
        found = fs.cat(paths) if len(paths) != 1 else {paths[0]: fs.cat_file(paths[0])}
        return {str(path)[len(root) :].strip("/"): bytes(data) for path, data in found.items()}


#: s3fs closes the client of an instance that is collected on whatever loop runs in that thread at
#: that moment, which fails on any loop but its own: so none is collected before the end.
_kept: Final[list[Any]] = []


@contextlib.contextmanager
def demo_place(
    *,
    cold: str | None = None,
    options: Mapping[str, Any] | None = None,
    s3: bool = False,
    keep: Path | None = None,
    warn: Callable[[str], None] = print,
) -> Iterator[Place]:
    """Make a hot directory and a cold store; remove both at the end, whatever happens.

    Parameters
    ----------
    cold : str, optional
        URL below which a new directory is made; by default one beside the hot directory.
    options : mapping, optional
        Of ``cold``'s filesystem.
    s3 : bool
        Start an S3 server on loopback instead.
    keep : Path, optional
        Put everything there, and leave it.
    warn : callable
        Told what could not be removed.

    Yields
    ------
    Place
        Both, ready.

    Raises
    ------
    ConfigError
        Before anything is written: a URL that cannot be opened, a directory in use.
    """
    with contextlib.ExitStack() as stack:
        top = stack.enter_context(_directory(keep, warn))
        if s3:
            place = stack.enter_context(_s3_place(top))
        else:
            place = Place(top / "hot", _cold_url(cold, top), dict(options or {}))
            if cold is not None:
                place.probe()  # what is wrong with it is found before anything is done
            if cold is not None and keep is None:
                stack.callback(_remove_cold, place, warn)
        yield place


def _cold_url(cold: str | None, top: Path) -> str:
    if cold is None:
        return f"file://{top / 'cold'}"
    if "://" not in cold and "::" not in cold:
        protocol, colon, rest = cold.partition(":")
        if colon:
            meant = f"{protocol}://{rest.lstrip('/')}"
            raise ConfigError(f"--cold {cold} is neither a URL nor a directory; {meant}?")
        cold = os.path.abspath(os.path.expanduser(cold))
    # A directory of its own: whatever else is there is neither read nor removed.
    return f"{cold.rstrip('/')}/{_PREFIX}{secrets.token_hex(8)}"


@contextlib.contextmanager
def _directory(keep: Path | None, warn: Callable[[str], None]) -> Iterator[Path]:
    if keep is None:
        top = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # What is interrupted leaves calls on other threads, which make the directories they write
        # to: the last look comes after these threads, as the first to be registered.
        atexit.register(shutil.rmtree, top, ignore_errors=True)
        try:
            yield top
        finally:
            _remove_directory(top, warn)
        return
    top = keep.expanduser().absolute()
    if top.exists() and (not top.is_dir() or any(top.iterdir())):
        raise ConfigError(f"--keep {top} is not an empty directory; name a new one")
    top.mkdir(parents=True, exist_ok=True)
    yield top


def _remove_directory(top: Path, warn: Callable[[str], None]) -> None:
    for _ in range(_REMOVE_ATTEMPTS):
        shutil.rmtree(top, ignore_errors=True)
        if not top.exists():
            return
        time.sleep(_REMOVE_PAUSE_S)
    warn(f"could not remove {top}")


def _remove_cold(place: Place, warn: Callable[[str], None]) -> None:
    try:
        fs, root = place.plain()
        for _ in range(_REMOVE_ATTEMPTS):
            if not fs.exists(root):
                return
            fs.rm(root, recursive=True)
            fs.invalidate_cache()
        warn(f"could not remove all of {place.shown}: it is still written to")
    except Exception as error:  # noqa: BLE001 - must not hide what ended the demonstration
        warn(f"could not remove {place.shown}: {redact_url(str(error))}")


@contextlib.contextmanager
def _s3_place(top: Path) -> Iterator[Place]:
    from vfs.testing.servers import s3_server

    with s3_server() as server:
        cold = f"s3://{server.make_bucket(_BUCKET)}/cold"
        yield Place(top / "hot", cold, server.storage_options, lambda: len(server.requests()))


def cold_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` pairs.

    Parameters
    ----------
    pairs : tuple of str
        Values are JSON where they can be, else text; dots in a key nest.

    Returns
    -------
    dict
        Options of a filesystem.

    Raises
    ------
    ConfigError
        A pair without ``=``; only its position is told, it may hold a secret.

    Examples
    --------
    >>> cold_options(("anon=true", "client_kwargs.region_name=eu-west-1"))
    {'anon': True, 'client_kwargs': {'region_name': 'eu-west-1'}}
    """
    options: dict[str, Any] = {}
    for position, pair in enumerate(pairs, 1):
        key, equals, text = pair.partition("=")
        *outer, last = key.split(".")
        if not equals or not all((*outer, last)):
            raise ConfigError(f"--cold-option number {position} is not KEY=VALUE")
        inner = options
        for name in outer:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--cold-option {key}: {name} is both a value and a group")
        inner[last] = _value(text)
    return options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
