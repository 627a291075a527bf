"""Calls in threads, and tasks that are cancelled meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from vfs.core.loop import _THREADS, clean_up_in_thread, hop, io_loop, run_in_thread


class Held:
    """A blocking call that ends when the test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.error = error

    def __call__(self) -> str:
        self.begun.set()
        assert self.go_on.wait(30)
        if self.error is not None:
            raise self.error
        return "taken"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for is a thread's
            await asyncio.sleep(0.001)


async def ours(work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """Make a task of the I/O loop, as all of the library's are, and await it from here."""
    tasks: list[asyncio.Task[None]] = []

    async def begin() -> None:
        tasks.append(asyncio.ensure_future(work()))

    await hop(begin)
    return tasks[0]


async def end_of(task: asyncio.Task[None]) -> None:
    async def done() -> None:
        await asyncio.wait([task])

    await hop(done)
    assert task.cancelled()


def cancel(task: asyncio.Task[None]) -> None:
    io_loop().call_soon_threadsafe(task.cancel)


async def test_cancelled_call_gives_its_result_first() -> None:
    held, taken, given_back = Held(), list[str](), list[str]()

    async def work() -> None:
        found = await run_in_thread(held)
        taken.append(found)
        try:
            await run_in_thread(taken.append, "not begun")
        finally:
            await clean_up_in_thread(given_back.append, found)

    task = await ours(work)
    await until(held.begun.is_set)
    cancel(task)
    await hop(nothing)
    assert not task.done()
    cancel(task)  # impatience changes nothing
    held.go_on.set()
    await end_of(task)
    assert (taken, given_back) == (["taken"], ["taken"])


async def nothing() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_cancelled_call_of_a_users_task_ends_first() -> None:
    held, seen = Held(), list[str]()

    async def work() -> None:
        try:
            seen.append(await run_in_thread(held))
        finally:
            seen.append("after" if held.go_on.is_set() else "before")

    task = asyncio.ensure_future(work())
    await until(held.begun.is_set)
    task.cancel()
    await nothing()
    held.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["after"]


async def test_task_that_ends_with_the_call_is_cancelled() -> None:
    held = Held()

    async def work() -> None:
        await run_in_thread(held)

    task = await ours(work)
    await until(held.begun.is_set)
    cancel(task)
    held.go_on.set()
    await end_of(task)


async def test_what_is_given_back_is_given_back_by_a_cancelled_task() -> None:
    """It is cancelled while its last call but one is under way, and again in the last."""
    held, last = Held(), Held()

    async def work() -> None:
        try:
            await run_in_thread(held)
        finally:
            await clean_up_in_thread(last)

    task = await ours(work)
    for call in (held, last):
        await until(call.begun.is_set)
        cancel(task)
        await hop(nothing)
        call.go_on.set()
    await end_of(task)


async def test_loop_of_calls_can_be_cancelled() -> None:
    made: list[int] = []

    async def work() -> None:
        while True:
            await run_in_thread(made.append, 1)

    task = await ours(work)
    await until(lambda: len(made) > 3)
    cancel(task)
    await asyncio.wait_for(end_of(task), 30)


async def test_timeout_is_told_from_a_cancellation() -> None:
    held = Held()

    async def work() -> None:
        async with asyncio.timeout(None) as limit:
            loop = asyncio.get_running_loop()
            limit.reschedule(loop.time() + 0.01)
            loop.call_later(0.05, held.go_on.set)
            await run_in_thread(held)

    with pytest.raises(TimeoutError):
        await work()
    await asyncio.sleep(0)  # nothing is left of it
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await run_in_thread(str, 1) == "1"


async def test_call_that_fails_after_a_cancellation_says_so() -> None:
    held = Held(OSError("disk"))
    seen: list[Exception] = []

    async def work() -> None:
        try:
            await run_in_thread(held)
        except OSError as error:
            seen.append(error)
        await asyncio.sleep(30)

    task = await ours(work)
    await until(held.begun.is_set)
    cancel(task)
    await hop(nothing)
    held.go_on.set()
    await end_of(task)
    assert seen == [held.error]


async def test_call_that_waits_for_a_thread_is_never_made() -> None:
    busy = [Held() for _ in range(_THREADS)]
    tasks = [asyncio.ensure_future(run_in_thread(call)) for call in busy]
    made: list[Any] = []
    try:
        await until(lambda: all(call.begun.is_set() for call in busy))
        task = asyncio.ensure_future(run_in_thread(made.append, 1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        for call in busy:
            call.go_on.set()
    await asyncio.gather(*tasks)
    assert made == []


async def test_cancelled_hop_ends_after_its_call() -> None:
    held, seen = Held(), list[str]()

    async def call() -> None:
        try:
            await run_in_thread(held)
            await asyncio.sleep(30)
        finally:
            seen.append("call")

    async def work() -> None:
        try:
            await hop(call)
        finally:
            seen.append("caller")

    task = asyncio.ensure_future(work())
    await until(held.begun.is_set)
    task.cancel()
    await nothing()
    task.cancel()
    held.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["call", "caller"]


async def test_hop_that_is_cancelled_at_once_is_never_made() -> None:
    made: list[int] = []

    async def call() -> None:
        made.append(1)

    task = asyncio.ensure_future(hop(call))
    held = Held()
    io_loop().call_soon_threadsafe(held)  # so that nothing is begun there
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    held.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made == []


async def test_hop_hands_over_results_and_errors() -> None:
    async def add(a: int, *, b: int) -> int:
        return a + b

    async def fail() -> None:
        raise OSError("why")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    assert await hop(add, 1, b=2) == 3
    with pytest.raises(OSError, match="why"):
        await hop(fail)
    with pytest.raises(asyncio.CancelledError):
        await hop(cancelled)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
