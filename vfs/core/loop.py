"""Where code runs: the one I/O loop, the hop onto it, and the threads for blocking calls.

What lives here: the loop rule of the library. Answers that need no waiting are given on the
caller's own thread or loop; everything that may wait on a network runs on fsspec's I/O loop, so
that one client, one connection pool and one in-flight table serve a whole process. What must
not: any knowledge of filesystems.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from fsspec.asyn import get_loop
from fsspec.asyn import sync as _fsspec_sync

from vfs.types import Progress

__all__ = ["drive", "driven", "gather", "hop", "io_loop", "run_in_thread", "wait", "wait_or_cancel"]

P = ParamSpec("P")
T = TypeVar("T")

#: Threads for calls that may block on a local disk or a synchronous client. 16 keeps a laptop
#: SSD's queue filled (zarr asks 10 at a time) and is what obstore and s5cmd use per host.
_THREADS: Final = 16

#: Calls of one ``gather`` in flight together; the same bound as above, so that a wide directory
#: tree does not queue thousands of coroutines behind 16 threads.
_CONCURRENCY: Final = 32

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

    Notes
    -----
    Cost: about 25 µs for the two switches, so never used when the answer is in the page cache.
    Under :func:`drive` the call is made at once on the caller's thread.
    """
    if _mode.driving:
        return func(*args, **kwargs)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_thread_pool(), lambda: func(*args, **kwargs))


async def hop(func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Await ``func(...)`` on the I/O loop, from whichever loop the caller runs on.

    Notes
    -----
    Cost: nothing on the I/O loop itself, about 150 µs from another one. Cancelling the awaiting
    task cancels the call.
    """
    loop = io_loop()
    if asyncio.get_running_loop() is loop:
        return await func(*args, **kwargs)
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(func(*args, **kwargs), loop))


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
