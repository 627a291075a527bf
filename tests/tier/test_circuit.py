"""Uploads while cold is down: few requests, nothing lost, all of it sent when cold is back."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tier_tools import GatedFileSystem, open_gated, open_tier, wait_until

from vfs.core.engine import close_engines
from vfs.errors import CircuitOpenError, ThrottledError, UnavailableError
from vfs.observe import Event, subscribe
from vfs.policies.circuit import Circuit
from vfs.testing.faultproxy import FaultProxy
from vfs.testing.servers import S3Server
from vfs.tier.breaker import Breaker, outage_of
from vfs.tier.filesystem import TierFileSystem

PATIENCE_S = 120.0

#: Uploads under way together; so many may fail before the first pause besides those that open it.
PARALLEL = 16


class Clock:
    """Time that a test moves."""

    now = 1000.0

    def wall_s(self) -> float:
        return self.now

    def monotonic_s(self) -> float:
        return self.now


def breaker_of(tier: TierFileSystem) -> Breaker:
    assert tier._engine.uploader is not None
    return tier._engine.uploader.breaker


def held_locks(tier: TierFileSystem) -> int:
    """Return how many attempts are under way, by the locks they hold."""
    uploader = tier._engine.uploader
    assert uploader is not None
    return len(tier._engine.locks._held - {uploader._lease, *tier._engine._lives})


class Down:
    """A hook of a cold store that cannot be reached, and counts who tries."""

    def __init__(self, error: OSError | None = None) -> None:
        self.calls = 0
        self.error = error or UnavailableError("unplugged")
        self._lock = threading.Lock()

    def __call__(self, key: str) -> None:
        with self._lock:
            self.calls += 1
        raise self.error


def test_outage_costs_few_requests(tmp_path: Path) -> None:
    """Hundreds wait, and cold is asked by the first of them, then once a pause."""
    tier = open_gated(tmp_path)
    clock = breaker_of(tier).clock = Clock()
    down = Down()
    seen: list[Event] = []
    with subscribe(seen.append):
        GatedFileSystem.before_put = down
        for number in range(300):
            tier.pipe_file(f"k{number}", b"%d" % number)
        wait_until(lambda: breaker_of(tier).is_open)
        wait_until(lambda: tier.stats().paused_why)
        wait_until(lambda: held_locks(tier) == 0)
        settled = down.calls
        assert 8 <= settled <= 8 + PARALLEL
        for failures in range(9, 14):
            clock.now += 60.0
            wait_until(lambda: breaker_of(tier).circuit.failures == failures)  # noqa: B023
            assert down.calls == settled + failures - 8
        GatedFileSystem.before_put = None
        clock.now += 60.0
        assert tier.flush(timeout_s=PATIENCE_S) == 0
    cold = fsspec.filesystem("gated", store=tmp_path.as_posix())
    assert cold.cat("", recursive=True) == {f"k{n}": b"%d" % n for n in range(300)}
    assert [event.kind for event in seen if event.kind in {"paused", "resumed"}] == [
        "paused",
        "resumed",
    ]
    assert (tier.stats().paused_s, tier.stats().paused_why) == (0.0, "")


def test_pause_is_told_wherever_one_asks(tmp_path: Path) -> None:
    tier = open_gated(tmp_path)
    breaker_of(tier).clock = Clock()
    GatedFileSystem.before_put = Down()
    for number in range(50):
        tier.pipe_file(f"k{number}", b"1")
    wait_until(lambda: tier.stats().paused_why)
    assert "unplugged" in tier.stats().paused_why
    assert all("unplugged" in change.error for change in tier.pending()), "tried or not"
    assert "unplugged" in tier.status("k49").error
    assert "uploads paused" in tier._repr_html_()
    GatedFileSystem.before_put = None


def test_next_process_goes_on_with_the_pause(tmp_path: Path) -> None:
    """A program that is started again and again must not begin each time with many requests."""
    tier = open_gated(tmp_path)
    clock = breaker_of(tier).clock = Clock()  # which stands: no probe is made
    GatedFileSystem.before_put = down = Down()
    for number in range(50):
        tier.pipe_file(f"k{number}", b"1")
    wait_until(lambda: tier.stats().paused_why)
    wait_until(lambda: held_locks(tier) == 0)
    failures, calls = breaker_of(tier).circuit.failures, down.calls
    TierFileSystem.clear_instance_cache()
    close_engines()
    again = open_gated(tmp_path)
    breaker_of(again).clock = clock
    assert again.stats().dirty_objects == 50
    for probes in range(1, 4):
        clock.now += 60.0
        wait_until(lambda: breaker_of(again).circuit.failures == failures + probes)  # noqa: B023
        assert down.calls == calls + probes, "a probe, not a turn"
    assert breaker_of(again).is_open
    GatedFileSystem.before_put = None
    clock.now += 60.0
    assert again.flush(timeout_s=PATIENCE_S) == 0


def test_flush_does_not_wait_for_the_end_of_a_pause(tmp_path: Path) -> None:
    tier = open_gated(tmp_path)
    GatedFileSystem.before_put = Down()
    tier.pipe_file("k", b"1")
    breaker = breaker_of(tier)
    now = time.time()
    breaker.circuit = Circuit(30, now, now + 1e6, "unplugged")
    GatedFileSystem.before_put = None
    assert tier.flush(timeout_s=PATIENCE_S) == 0
    assert not breaker.is_open


def test_refusals_do_not_open_it(tmp_path: Path) -> None:
    tier = open_gated(tmp_path)
    GatedFileSystem.before_put = Down(PermissionError(errno.EACCES, "not yours"))
    for number in range(50):
        tier.pipe_file(f"k{number}", b"1")
    with pytest.raises(OSError, match="not yours"):
        tier.flush()
    assert not breaker_of(tier).is_open
    assert tier.stats().paused_why == ""
    GatedFileSystem.before_put = None
    assert tier.flush() == 0


def test_store_says_how_long_to_wait(tmp_path: Path) -> None:
    tier = open_gated(tmp_path)
    breaker_of(tier).clock = Clock()
    GatedFileSystem.before_put = Down(ThrottledError("slow down", retry_after_s=20.0))
    for number in range(50):
        tier.pipe_file(f"k{number}", b"1")
    wait_until(lambda: breaker_of(tier).is_open)
    assert breaker_of(tier).pause_s() == 20.0
    GatedFileSystem.before_put = None


def test_write_straight_to_cold_is_refused_at_once_while_paused(tmp_path: Path) -> None:
    """It would have to send first what waits for the same key."""
    back, through = open_gated(tmp_path), open_gated(tmp_path, write="through")
    clock = breaker_of(back).clock = Clock()
    GatedFileSystem.before_put = down = Down()
    back.pipe_file("k", b"old")
    wait_until(lambda: down.calls)
    breaker_of(back).circuit = Circuit(20, clock.now, clock.now + 30.0, "unplugged")
    before = down.calls
    with pytest.raises(CircuitOpenError) as caught:
        through.pipe_file("k", b"new")
    assert caught.value.errno == errno.EHOSTUNREACH
    assert caught.value.filename == "k"
    assert down.calls == before
    assert back.cat_file("k") == b"old"
    clock.now += 2.0  # whoever asks by name may try each second
    GatedFileSystem.before_put = None
    through.pipe_file("k", b"new")
    assert back.cat_file("k") == b"new"
    assert back.pending() == []


def test_folder_that_cannot_be_removed_is_no_busy_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = open_tier(tmp_path, write="back")
    tier.pipe_file("d/k", b"1")
    tier.flush()
    calls = [0]
    real = tier._mover.uploader.remote.remove_directory

    async def fail(key: str) -> None:
        calls[0] += 1
        raise UnavailableError("unplugged", key)

    monkeypatch.setattr(tier._mover.uploader.remote, "remove_directory", fail)
    tier.rm("d", recursive=True)
    wait_until(lambda: breaker_of(tier).is_open)
    assert tier.flush(timeout_s=0.1) > 0
    assert calls[0] < 8 + 5
    monkeypatch.setattr(tier._mover.uploader.remote, "remove_directory", real)
    assert tier.flush(timeout_s=PATIENCE_S) == 0
    assert not (tmp_path / "cold/d").exists()


@pytest.mark.server
@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ["s3fs", "obstore"])
def test_s3_server_that_goes_down_and_comes_back(s3: S3Server, tmp_path: Path, engine: str) -> None:
    bucket, count = s3.make_bucket(f"circuit-{engine}"), 200
    with FaultProxy(s3.endpoint_url) as proxy:
        options = s3.storage_options
        options["client_kwargs"]["endpoint_url"] = proxy.endpoint_url
        if engine == "s3fs":  # else it repeats a request for half a minute
            options["config_kwargs"] = {"retries": {"max_attempts": 0}}
        tier: Any = fsspec.filesystem(
            "tier",
            target_protocol="s3",
            target_options=options,
            hot=str(tmp_path / "hot"),
            write="back",
            engine=engine,
        )
        tier.pipe_file(f"{bucket}/before", b"1")
        assert tier.flush(timeout_s=PATIENCE_S) == 0
        breaker_of(tier).clock = clock = Clock()
        proxy.reset()
        proxy.fail_next(503, times=10**9)
        for number in range(count):
            tier.pipe_file(f"{bucket}/k{number}", b"%d" % number)
        wait_until(lambda: breaker_of(tier).is_open)
        # Those under way end, and the clients' own repetitions with them.
        wait_until(lambda: held_locks(tier) == 0)
        down = len(proxy.requests())
        tried = len({record.path for record in proxy.requests()})
        assert tried <= 8 + PARALLEL
        assert tier.flush(timeout_s=1.0) == count
        assert len({record.path for record in proxy.requests()}) <= tried + 1
        proxy.reset()
        clock.now += 60.0
        assert tier.flush(timeout_s=PATIENCE_S) == 0
        assert down > 0
    assert all(s3.get(f"{bucket}/k{n}") == b"%d" % n for n in range(count))


def test_what_is_recorded_is_gone_when_cold_answers(tmp_path: Path) -> None:
    tier = open_gated(tmp_path)
    GatedFileSystem.before_put = Down()
    for number in range(50):
        tier.pipe_file(f"k{number}", b"1")
    journal = tier._engine.owing().journal
    wait_until(lambda: outage_of(journal).why)
    GatedFileSystem.before_put = None
    assert tier.flush(timeout_s=PATIENCE_S) == 0
    assert outage_of(journal) == (0.0, "")
