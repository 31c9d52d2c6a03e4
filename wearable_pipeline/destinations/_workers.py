"""Requests side by side, for clients that wait for each answer."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

_Key = TypeVar("_Key")
_Result = TypeVar("_Result")
_Error = TypeVar("_Error", bound=Exception)


def run_jobs(
    pool: ThreadPoolExecutor,
    jobs: Sequence[tuple[_Key, Callable[[], _Result]]],
    concurrency: int,
    is_over: Callable[[], bool],
    *caught: type[_Error],
) -> Iterator[tuple[_Key, _Result | _Error | None]]:
    """What became of each job, as soon as it is known; None: not begun because `is_over` said so.

    Exceptions of the types `caught` are results, any other is raised. Between two jobs the caller has
    the word, so what it learns from one may end the rest.
    """
    waiting = deque(jobs)
    running: dict[Future[_Result], _Key] = {}
    # Not `wait`: it looks at all that run each time one of them ends.
    ended: SimpleQueue[Future[_Result]] = SimpleQueue()
    try:
        while True:
            while waiting and len(running) < concurrency and not is_over():
                key, job = waiting.popleft()
                future = pool.submit(job)
                running[future] = key
                future.add_done_callback(ended.put)
            if not running:
                break
            future = ended.get()
            key = running.pop(future)
            try:
                result: _Result | _Error = future.result()
            except caught as error:
                result = error
            yield key, result
    finally:
        for future in running:
            future.cancel()
    for key, _ in waiting:
        yield key, None
