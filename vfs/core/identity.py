"""Who an instance is: pickles, JSON, tokens and reprs, none of which carries a secret.

What lives here: identity and serialisation of filesystem instances. What must not: anything that
touches storage.
"""

from __future__ import annotations

import hashlib
import html
import inspect
import json
from typing import TYPE_CHECKING, Any, NoReturn

from vfs.config.secrets import redact, seal, unseal
from vfs.core.loop import io_loop
from vfs.core.storename import protocols_of
from vfs.errors import ConfigError

__all__ = ["Identity", "Unopened", "rebuild"]


def rebuild(cls: type[Any], args: Any, options: Any) -> Any:
    """Make an instance again from its sealed arguments; what pickles and copies call.

    Returns
    -------
    AbstractFileSystem or Unopened
        The latter where it cannot be made here, as for want of a secret that was given as plain
        text in another process.
    """
    try:
        return cls(*unseal(args), **unseal(options))
    except ConfigError as error:
        return Unopened(cls, args, options, error)


class Unopened:
    """Stands for an instance that could not be made in this process: every use of it says why.

    Raised while a task is unpickled the error would reach nobody: the worker of a
    ``multiprocessing.Pool`` dies of it, and so does the next that takes its place, for ever.

    Parameters
    ----------
    cls, args, options
        What :func:`rebuild` was given, and hands on to processes that may know more.
    error : ConfigError
        Why not.
    """

    def __init__(self, cls: type[Any], args: Any, options: Any, error: ConfigError) -> None:
        self._made_of = (cls, args, options)
        self._why = str(error)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = inspect.getattr_static(self._made_of[0], name, None)
        if isinstance(found, classmethod | staticmethod):
            return getattr(self._made_of[0], name)  # of names alone
        if callable(found):
            return self._refuse
        raise ConfigError(self._why)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ConfigError(self._why)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, self._made_of

    def __repr__(self) -> str:
        return f"<{self._made_of[0].__name__} that cannot be opened here: {self._why}>"


class Identity:
    """Mixin of every filesystem of this library."""

    if TYPE_CHECKING:
        protocol: Any
        storage_args: tuple[Any, ...]
        storage_options: dict[str, Any]

    @property
    def loop(self) -> Any:
        """The I/O loop of this process, whatever process made the instance."""
        return io_loop()

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), seal(self.storage_args), seal(self.storage_options))

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """Return what rebuilds the instance, with sealed secrets."""
        cls = type(self)
        options = seal(self.storage_options) if include_password else redact(self.storage_options)
        return {
            "cls": f"{cls.__module__}:{cls.__qualname__}",
            "protocol": protocols_of(self)[0],
            "args": list(seal(self.storage_args)),
            **options,
        }

    def to_json(self, *, include_password: bool = True) -> str:
        """Return :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(include_password=include_password), default=str)

    def __dask_tokenize__(self) -> str:
        # Unlike fsspec's token it holds no process id: the same URL has one name in a cluster.
        parts = (type(self).__qualname__, redact(self.storage_args), redact(self.storage_options))
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    @property
    def fsid(self) -> str:
        """An identifier of the filesystem that is the same in every process."""
        return self.__dask_tokenize__()

    def __repr__(self) -> str:
        options = {
            key: value
            for key, value in redact(self.storage_options).items()
            if key not in {"asynchronous", "loop", "skip_instance_cache"}
        }
        shown = ", ".join(f"{key}={value!r}" for key, value in options.items())
        return f"{type(self).__name__}({shown})"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"
