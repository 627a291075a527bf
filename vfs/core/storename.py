"""What a store is called: one name for each place that may hold other bytes, without secrets.

What lives here: names made of a filesystem and its options. What must not: any I/O.
"""

from __future__ import annotations

import json
from typing import Any, Final

from vfs.config.options import GENERIC_OPTIONS
from vfs.config.secrets import redact, redact_url

__all__ = ["protocols_of", "store_name"]

#: Options that say how to talk to a store, not which one it is.
_TUNING: Final = GENERIC_OPTIONS | {
    "cache_regions",
    "config_kwargs",
    "default_block_size",
    "default_cache_type",
    "default_fill_cache",
    "durability",
    "fixed_upload_size",
    "fo",
    "fs",
    "max_concurrency",
    "requester_pays",
    "retries",
    "s3_additional_kwargs",
    "target_options",
    "engine",
    "retry_config",
    "client_options",
    "target_protocol",
    "timeout",
}


#: The same store through another client: what one copied, the other may read.
_SAME_STORE: Final = {"obs3": "s3", "s3a": "s3"}


def protocols_of(fs: Any) -> tuple[str, ...]:
    """Return the names of a filesystem or class; fsspec allows one as a string, or several."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def store_name(fs: Any, root: str) -> str:
    """Name a store so that two different ones never have the same name; no secrets.

    Layers are named with what they stand on. Every option that is not known to be mere tuning is
    part of the name: refusing a hot directory for a harmless difference costs a message, serving
    one store's bytes for another's would be a wrong byte.
    """
    protocol = protocols_of(fs)[0]
    protocol = _SAME_STORE.get(protocol, protocol)
    options = {k: v for k, v in redact(fs.storage_options).items() if k not in _TUNING and v}
    shown = (
        f"{protocol}({json.dumps(options, sort_keys=True, default=str)})" if options else protocol
    )
    inner = getattr(fs, "fs", None)
    if inner is not None:
        return f"{shown}::{store_name(inner, root)}"
    return f"{shown}://{redact_url(root)}"
