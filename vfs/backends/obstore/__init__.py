"""Object stores through the Rust client ``obstore``: ``obs3://``, ``obgs://``, ``obaz://``.

What lives here: options, errors and primitives of the three. What must not: s3fs, gcsfs or adlfs,
which fsspec serves under ``s3://``, ``gs://`` and ``abfs://``.
"""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("obstore") is None:
    raise ImportError("obs3://, obgs:// and obaz:// need obstore; install fsspec-vfs[obstore]")
