"""Where code runs: the one I/O loop, the hop onto it, and the threads for blocking calls.

What lives here: the loop rule of the library. Answers that need no waiting are given on the
caller's own thread or loop; everything that may wait on a network runs on fsspec's I/O loop, so
that one client, one connection pool and one in-flight table serve a whole process. What must
not: any knowledge of filesystems.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from fsspec.asyn import get_loop
from fsspec.asyn import sync as _fsspec_sync

from vfs.types import Progress

__all__ = [
    "clean_up_in_thread",
    "drive",
    "driven",
    "gather",
    "hop",
    "io_loop",
    "run_in_thread",
    "wait",
    "wait_or_cancel",
]

P = ParamSpec("P")
T = TypeVar("T")

#: Threads for calls that may block on a local disk or a synchronous client. 16 keeps a laptop
#: SSD's queue filled (zarr asks 10 at a time) and is what obstore and s5cmd use per host.
_THREADS: Final = 16

#: Calls of one ``gather`` in flight together; the same bound as above, so that a wide directory
#: tree does not queue thousands of coroutines behind 16 threads.
_CONCURRENCY: Final = 32

#: Tasks whose cancellation waits for their next await.
_to_cancel: Final[weakref.WeakSet[asyncio.Task[Any]]] = weakref.WeakSet()

_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


class _Mode(threading.local):
    """Whether this thread is inside :func:`drive`."""

    driving: bool = False


_mode = _Mode()


def io_loop() -> asyncio.AbstractEventLoop:
    """Return fsspec's I/O loop of this process, started if need be (also after a fork)."""
    loop: asyncio.AbstractEventLoop = get_loop()
    return loop


def _thread_pool() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603 - one pool a process, rebuilt after fork
    if _pool is None:
        with _pool_lock:
            if _pool is None:
                _pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="vfs-io")
    return _pool


def _forget_after_fork() -> None:
    """Drop what the child inherited: its threads do not exist and the lock may be held."""
    global _pool, _pool_lock  # noqa: PLW0603
    _pool = None
    _pool_lock = threading.Lock()
    _mode.driving = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


async def run_in_thread(func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call in the library's thread pool and await its result.

    Parameters
    ----------
    func : callable
        May block; must not wait for another call of this pool.

    Raises
    ------
    asyncio.CancelledError
        Before the call begins, or after its end: a thread cannot be stopped, and would go on
        without the locks of its caller, with files that are closed beside it. On the I/O loop the
        task gets the result first, and is cancelled at its next await, or next call of this.

    Notes
    -----
    INVARIANT: nothing that a call has taken is lost to its caller.
    (tests/unit/test_loop.py::test_cancelled_call_gives_its_result_first)

    Cost: about 25 µs for the two switches, so never used when the answer is in the page cache.
    Under :func:`drive` the call is made at once on the caller's thread.

    References
    ----------
    ``anyio.to_thread.run_sync``, whose calls are not abandoned either.
    """
    if _mode.driving:
        return func(*args, **kwargs)
    task = asyncio.current_task()
    if task is not None and task in _to_cancel:
        _to_cancel.discard(task)
        await asyncio.sleep(0)  # raises, unless another await was cancelled meanwhile
    return await _to_its_end(_thread_pool().submit(func, *args, **kwargs), may_drop=True)


async def clean_up_in_thread(func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what :func:`run_in_thread` does, also in a task that is about to be cancelled.

    For what gives back what was taken: it is called, whatever happens.
    """
    if _mode.driving:
        return func(*args, **kwargs)
    return await _to_its_end(_thread_pool().submit(func, *args, **kwargs), may_drop=False)


async def _to_its_end(job: Future[T], *, may_drop: bool) -> T:
    """Await a call, and only then let the task be cancelled."""
    done = asyncio.wrap_future(job)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError as error:
        if may_drop and job.cancel():
            raise  # it has not begun
        cancelled = error
    await _end_of(done)
    if asyncio.get_running_loop() is not io_loop():
        raise cancelled  # a task of the user's, whose time-out has to see it
    _cancel_later(cancelled)
    return done.result()


async def _end_of(done: asyncio.Future[Any]) -> None:
    while not done.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([done])


def _cancel_later(cancelled: asyncio.CancelledError) -> None:
    """Cancel this task at its next await, as it was already."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()  # so that there are as many requests as there were
        task.cancel(*cancelled.args)
        _to_cancel.add(task)


async def hop(func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Await ``func(...)`` on the I/O loop, from whichever loop the caller runs on.

    Notes
    -----
    INVARIANT: who is cancelled goes on when the call has ended, not while it still works with what
    is given back then. (tests/unit/test_loop.py::test_cancelled_hop_ends_after_its_call)

    Cost: nothing on the I/O loop itself, about 150 µs from another one. Cancelling the awaiting
    task cancels the call.
    """
    loop = io_loop()
    if asyncio.get_running_loop() is loop:
        return await func(*args, **kwargs)
    tasks: list[asyncio.Task[T]] = []
    ended: Future[T] = Future()

    def start() -> None:
        task = asyncio.ensure_future(func(*args, **kwargs))
        tasks.append(task)
        task.add_done_callback(lambda task: _hand_over(task, ended))

    def cancel() -> None:
        tasks[0].cancel()

    loop.call_soon_threadsafe(start)
    done = asyncio.wrap_future(ended)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        loop.call_soon_threadsafe(cancel)
        await _end_of(done)
        raise


def _hand_over(task: asyncio.Task[T], ended: Future[T]) -> None:
    if task.cancelled():
        ended.cancel()
        ended.set_running_or_notify_cancel()
    elif (error := task.exception()) is not None:
        ended.set_exception(error)
    else:
        ended.set_result(task.result())


def wait(func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``func(...)`` on the I/O loop and block the calling thread until it is done.

    Notes
    -----
    Cost: about 20 µs. Interruptible by signals. Calling it on the I/O loop's own thread raises
    ``NotImplementedError``, since it would wait for itself.
    """
    result: T = _fsspec_sync(io_loop(), func, *args, **kwargs)
    return result


def wait_or_cancel(
    func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Do what :func:`wait` does, and end the call if the thread is interrupted.

    Notes
    -----
    For calls that may last for hours; :func:`wait` would leave them to go on unseen.
    """
    tasks: list[asyncio.Task[Any] | None] = []

    async def run() -> T:
        tasks.append(asyncio.current_task())
        return await func(*args, **kwargs)

    try:
        return wait(run)
    except BaseException:
        for task in tasks:
            if task is not None:
                io_loop().call_soon_threadsafe(task.cancel)
        raise


def driven() -> bool:
    """Say whether this thread runs a coroutine by :func:`drive`, so that blocking is allowed."""
    return _mode.driving


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on the calling thread, without any loop.

    Parameters
    ----------
    coroutine : coroutine
        Must wait for nothing but :func:`run_in_thread`, which calls directly in here.

    Returns
    -------
    object
        What the coroutine returned.

    Notes
    -----
    This lets one ``async def`` serve a synchronous caller of a local backend at the price of a
    function call (about 0.3 µs) where a loop costs 20 µs or more.
    """
    before = _mode.driving
    _mode.driving = True
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        _mode.driving = before
        coroutine.close()
    message = f"{coroutine!r} waited for a loop; its class must set loop_bound"
    raise RuntimeError(message)


async def gather(
    calls: Iterable[Callable[[], Awaitable[T]]],
    *,
    limit: int = _CONCURRENCY,
    return_exceptions: bool = False,
    progress: Progress | None = None,
) -> list[T | BaseException]:
    """Await many calls, at most ``limit`` at once, results in order.

    Parameters
    ----------
    calls : iterable of callables without arguments
        Each makes one awaitable when its turn comes, so a million cost no million coroutines.
    limit : int
        How many are in flight together.
    return_exceptions : bool
        Put errors in the result instead of raising the first one.
    progress : callable, optional
        Called after each: how many are done, and of how many.

    Notes
    -----
    When one fails the others are cancelled and awaited before the error is raised. Under
    :func:`drive` the calls are made one after the other.
    """
    pending = list(calls)
    results: list[T | BaseException] = [None] * len(pending)  # type: ignore[list-item]
    queue, done = iter(enumerate(pending)), 0

    async def worker() -> None:
        nonlocal done
        for index, call in queue:
            try:
                results[index] = await call()
            except Exception as error:
                if not return_exceptions:
                    raise
                results[index] = error
            done += 1
            if progress is not None:
                progress(done, len(pending))

    if driven() or len(pending) <= 1:
        await worker()
        return results
    tasks = [asyncio.ensure_future(worker()) for _ in range(min(limit, len(pending)))]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return results
