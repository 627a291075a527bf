"""Who an instance is: pickles, JSON, tokens and reprs, none of which carries a secret.

What lives here: identity and serialisation of filesystem instances. What must not: anything that
touches storage.
"""

from __future__ import annotations

import hashlib
import html
import json
from typing import TYPE_CHECKING, Any

from vfs.config.secrets import redact, seal, unseal
from vfs.core.loop import io_loop
from vfs.core.storename import protocols_of

__all__ = ["Identity", "rebuild"]


def rebuild(cls: type[Any], args: Any, options: Any) -> Any:
    """Make an instance again from its sealed arguments; what pickles and copies call.

    Raises
    ------
    ConfigError
        A secret that was given as plain text in another process.
    """
    return cls(*unseal(args), **unseal(options))


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
