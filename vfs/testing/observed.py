"""What a server saw and how it is to misbehave, the same for servers and for the proxy.

The questions and the verbs live here; where records are kept and faults are
done is in ``traffic`` for servers of our own and in ``faultproxy`` for others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, NamedTuple

from vfs.testing.traffic import Record

__all__ = ["Observed", "RequestKind"]


class RequestKind(NamedTuple):
    """What requests are counted by."""

    method: str
    path: str
    ranged: bool
    kind: str


class Observed(ABC):
    """Requests that are recorded, and spoilt as told."""

    @abstractmethod
    def _seen(self) -> list[Record]:
        """Return all records, in order of arrival."""

    @abstractmethod
    def _add_fault(self, action: Any, which: dict[str, Any]) -> None:
        """Let ``action`` happen to requests; ``which`` are fields of ``Fault``."""

    @abstractmethod
    def most_in_flight(self) -> int:
        """Return the largest number of requests that were under way at one time."""

    @abstractmethod
    def faults_left(self) -> int:
        """Count the faults that still wait for a request."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the requests and the faults."""

    # -- what it saw ---------------------------------------------------------

    def requests(
        self, method: str | None = None, path: str = "", kind: str | None = None
    ) -> list[Record]:
        """List the requests since the last `reset`, in order of arrival.

        Parameters
        ----------
        method, kind : str, optional
            Only these.
        path : str, default ""
            Only paths that begin so, a leading slash left out or not.

        Returns
        -------
        list[Record]
            Those under way have ``ended_s == 0``.
        """
        prefix = "/" + path.lstrip("/")
        return [
            record
            for record in self._seen()
            if method in (None, record.method)
            and kind in (None, record.kind)
            and record.path.startswith(prefix)
        ]

    def counts(self) -> Counter[RequestKind]:
        """Count the requests by method, path, presence of a range, and kind."""
        return Counter(
            RequestKind(record.method, record.path, record.ranged, record.kind)
            for record in self.requests()
        )

    def gets(self, path: str = "") -> int:
        """Count the GET requests for objects under ``path``."""
        return len(self.requests("GET", path, "object"))

    def sent_bytes(self, path: str = "") -> int:
        """Count the body bytes sent for ``path`` and below."""
        return sum(record.sent_bytes for record in self.requests(path=path))

    # -- how it misbehaves ---------------------------------------------------

    def fail_next(self, status: int = 503, retry_after_s: int | None = None, **which: Any) -> None:
        """Answer ``status`` to the next matching request, without doing anything.

        Parameters
        ----------
        status : int, default 503
            For instance 403, 404, 412, 429, 500, 503.
        retry_after_s : int, optional
            Sent as ``Retry-After``.
        **which
            ``method``, ``prefix``, ``pattern``, ``kind``, ``ranged``, ``skip``
            and ``times`` of `vfs.testing.traffic.Fault`.
        """
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        self._fail("status", which, status=status, headers=headers)

    def cut_next(self, after_bytes: int = 0, **which: Any) -> None:
        """Close the connection after so many bytes of the next matching body."""
        self._fail("cut", which, n_bytes=after_bytes)

    def shorten_next(self, n_bytes: int, **which: Any) -> None:
        """Send only so many bytes of the next matching body, as if that were all."""
        self._fail("short", which, n_bytes=n_bytes)

    def lose_next(self, **which: Any) -> None:
        """Do what the next matching request asks, then close without an answer."""
        self._fail("lose", which)

    def stall_next(self, seconds: float, **which: Any) -> None:
        """Let the next matching request wait so long."""
        self._fail("stall", which, seconds=seconds)

    def _fail(self, action: Any, which: dict[str, Any], **more: Any) -> None:
        if which.get("prefix"):
            which["prefix"] = "/" + which["prefix"].lstrip("/")
        self._add_fault(action, {**which, **more})
