"""The admission duel, and what the policies miss on traces.

The traces are seeded and small; each is a way in which data is read: some blocks more than
others, that with one-off scans in between, epochs over a set larger than the cache, browsing zarr
stores, another dataset. Marked slow: they take seconds, not milliseconds.
"""

from __future__ import annotations

import doctest
from collections.abc import Callable

import pytest
from policy_traces import CACHE, CHUNK, Cache, Trace, browse, loop, shuffled, with_duel, zipf

from vfs.policies import duel
from vfs.policies.duel import AdmissionDuel
from vfs.policies.fifo import plan_fifo
from vfs.policies.lru import plan_lru
from vfs.policies.s3fifo import SMALL_OBJECT_BYTES, plan_s3fifo


def feed(duel: AdmissionDuel, trace: Trace) -> None:
    for name, size in trace:
        duel.seen(name, size)


def refused(duel: AdmissionDuel, trace: Trace) -> float:
    return sum(not duel.admits(name, size) for name, size in trace) / len(trace)


def test_admits_until_it_knows_better() -> None:
    duel = AdmissionDuel(CACHE)
    assert refused(duel, loop("a", 2)) == 0
    feed(duel, loop("a", 2))
    assert refused(duel, loop("a", 2)) == 0


def test_refuses_all_but_a_few_of_a_loop() -> None:
    duel = AdmissionDuel(CACHE)
    feed(duel, loop("a", 2, epochs=4))
    assert 0.97 < refused(duel, loop("a", 2)) < 1


def test_the_few_are_others_from_turnover_to_turnover() -> None:
    duel = AdmissionDuel(CACHE)
    feed(duel, loop("a", 2, epochs=4))
    first = {name for name, size in loop("a", 2) if duel.admits(name, size)}
    feed(duel, loop("a", 1))
    second = {name for name, size in loop("a", 2) if duel.admits(name, size)}
    assert first
    assert second
    assert not first & second


def test_small_objects_are_always_stored_and_never_followed() -> None:
    duel = AdmissionDuel(CACHE)
    feed(duel, loop("a", 2, epochs=4))
    metadata = [(f"zarr.json/{i}", SMALL_OBJECT_BYTES) for i in range(1000)]
    assert refused(duel, metadata) == 0
    followed = len(duel._open.blocks)
    feed(duel, metadata)
    assert len(duel._open.blocks) == followed


def test_another_dataset_opens_it_at_once_and_resets() -> None:
    duel = AdmissionDuel(CACHE)
    feed(duel, loop("a", 2, epochs=4))
    resets = duel.resets
    feed(duel, loop("b", 1))
    assert refused(duel, loop("b", 2)) == 0
    assert duel.resets == resets + 1


def test_a_scan_shorter_than_half_the_cache_changes_nothing() -> None:
    duel = AdmissionDuel(CACHE)
    feed(duel, loop("a", 2, epochs=4))
    resets = duel.resets
    feed(duel, loop("once", 0.4))
    assert refused(duel, loop("a", 2)) > 0.97
    assert duel.resets == resets


@pytest.mark.parametrize("times", [0.5, 0.9])
def test_what_fits_is_stored(times: float) -> None:
    duel = AdmissionDuel(CACHE)
    feed(duel, loop("a", times, epochs=20))
    assert refused(duel, loop("a", times)) == 0
    assert duel.resets == 0


def test_a_cache_of_few_blocks_never_refuses() -> None:
    duel = AdmissionDuel(100 * CHUNK)
    feed(duel, loop("a", 0.2, epochs=20))
    assert refused(duel, loop("a", 0.2)) == 0
    assert duel.resets == 0


@pytest.mark.parametrize("limit", [0, 1, CHUNK])
def test_a_cache_that_holds_next_to_nothing(limit: int) -> None:
    duel = AdmissionDuel(limit)
    feed(duel, loop("a", 1, epochs=2))
    assert refused(duel, loop("a", 1)) == 0


def test_asking_changes_nothing() -> None:
    asked, unasked = AdmissionDuel(CACHE), AdmissionDuel(CACHE)
    for name, size in loop("a", 2, epochs=4):
        asked.seen(name, size)
        unasked.seen(name, size)
        asked.admits(name, size)
    answers = [d.admits(name, size) for d in (asked, unasked) for name, size in loop("a", 2)]
    assert answers[:2000] == answers[2000:]


def test_names_that_are_no_text_are_names() -> None:
    AdmissionDuel(CACHE).seen("a\udcff", CHUNK)


def test_memory_is_bounded_and_the_verdict_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duel, "_MAX_BLOCKS", 100)
    thin = AdmissionDuel(8 * CACHE)
    most = 0
    for name, size in loop("a", 16, epochs=4):
        thin.seen(name, size)
        most = max(most, len(thin._open.blocks), len(thin._frozen.blocks if thin._frozen else ()))
    assert most <= 101
    assert len(thin._missed_before) <= 1000
    assert refused(thin, loop("a", 16)) > 0.97


def test_examples() -> None:
    failed, attempted = doctest.testmod(duel)
    assert failed == 0
    assert attempted > 0


# Traces: every figure in a comment was measured with this simulator and these seeds.


@pytest.mark.slow
@pytest.mark.parametrize(
    "scanned, share, gain",
    [
        pytest.param(0.0, 0.05, 0.85, id="zipf, cache of 5 %"),
        pytest.param(0.0, 0.20, 0.90, id="zipf, cache of 20 %"),
        pytest.param(0.35, 0.05, 0.90, id="with scans, cache of 5 %"),
        pytest.param(0.35, 0.20, 0.90, id="with scans, cache of 20 %"),
    ],
)
def test_s3fifo_misses_less_than_lru_and_lru_less_than_fifo(
    scanned: float, share: float, gain: float
) -> None:
    trace, total = zipf(scanned)
    limit = int(total * share)
    caches = {
        "s3fifo": Cache(limit, plan_s3fifo),
        "duel": with_duel(limit),
        "lru": Cache(limit, plan_lru),
        "fifo": Cache(limit, plan_fifo),
    }
    missed = {name: cache.run(trace) for name, cache in caches.items()}
    assert missed["s3fifo"] < gain * missed["lru"]
    assert missed["lru"] < missed["fifo"]
    assert caches["s3fifo"].missed_bytes < caches["lru"].missed_bytes
    # Where nothing is read in turns the duel stays out of it.
    assert missed["duel"] < 1.01 * missed["s3fifo"]


@pytest.mark.slow
def test_reserve_keeps_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    trace, total = browse()
    limit = int(0.02 * total)
    unknown = len({name for name, size in trace if size <= SMALL_OBJECT_BYTES})
    reserve, lru = with_duel(limit), Cache(limit, plan_lru)
    assert reserve.run(trace) < lru.run(trace)
    assert lru.small_misses > 3 * reserve.small_misses
    assert reserve.small_misses == unknown  # each was fetched once
    # What it costs the others is less than what the rest of the policy gains.
    assert reserve.missed_bytes < lru.missed_bytes


@pytest.mark.slow
@pytest.mark.parametrize("times", [1.5, 2, 3])
@pytest.mark.parametrize("make", [loop, shuffled])
def test_duel_earns_what_can_be_earned_on_loops(
    make: Callable[[str, float, int], Trace], times: float
) -> None:
    trace = make("a", times, 12)
    settled = len(trace) // 3
    cache, lru, fifo = with_duel(), Cache(CACHE, plan_lru), Cache(CACHE, plan_fifo)
    for other in (cache, lru, fifo):
        other.run(trace[:settled])
    missed = cache.run(trace[settled:])
    # Nobody can miss less than what does not fit.
    assert missed < 1 - 1 / times + 0.05
    assert missed < 0.8 * min(lru.run(trace[settled:]), fifo.run(trace[settled:]))


@pytest.mark.slow
def test_duel_beats_lru_by_a_third_on_twelve_epochs_of_twice_the_cache() -> None:
    for trace in (loop("a", 2, 12), shuffled("a", 2, 12)):
        cache, lru = with_duel(), Cache(CACHE, plan_lru)
        assert cache.run(trace) < 0.7 * lru.run(trace)


@pytest.mark.slow
@pytest.mark.parametrize("phase", [0, 0.37, 0.71])
@pytest.mark.parametrize("times", [1.5, 2, 3])
def test_duel_recovers_from_another_dataset(times: float, phase: float) -> None:
    cache, without = with_duel(), Cache(CACHE, plan_s3fifo)
    before = loop("a", times, 8)
    before += before[: int(phase * times * 1000)]
    for other in (cache, without):
        other.run(before)
    passes = [cache.run(loop("b", times)) for _ in range(6)]
    assert passes[0] > 0.98
    assert max(passes[2:]) < 1 - 1 / times + 0.1
    # Neither of its parts does it alone.
    assert without.run(loop("b", times, 6)) > 0.95


@pytest.mark.slow
def test_duel_settles_again_and_again() -> None:
    cache, lru = with_duel(), Cache(CACHE, plan_lru)
    zipf_trace = [(name, CHUNK) for name, _ in zipf(objects=8000, reads=20_000)[0]]
    for first, then, most in (
        (loop("a", 2, 2), loop("a", 2, 8), 0.56),
        (shuffled("b", 2, 2), shuffled("b", 2, 8, seed=2), 0.56),
        (zipf_trace[:4000], zipf_trace[4000:], 0.42),
        (loop("a", 2, 2), loop("a", 2, 8), 0.56),
    ):
        cache.run(first)
        lru.run(first)
        missed = cache.run(then)
        assert missed < most
        assert missed < lru.run(then)


@pytest.mark.slow
@pytest.mark.parametrize("before", [loop("hot", 0.5, 20), loop("hot", 2, 10)])
def test_a_new_set_that_fits_is_kept_in_the_end(before: Trace) -> None:
    cache = with_duel()
    cache.run(before)
    passes = [cache.run(loop("new", 0.9)) for _ in range(10)]
    assert passes[-1] == 0
    assert sum(passes) < 4
