"""Processes that work for this one: tasks out, results back as they come. Not aware of what a task is."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from dualpath.core.errors import WorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")


def results_of(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Generator[Result]:
    """What `work` makes of each task, in the order in which it is done. One worker is this process itself.

    Closing the generator ends the workers at once. Raises WorkerError where one died.
    """
    if workers == 1 or len(tasks) < 2:
        yield from map(work, tasks)
        return
    with _pool(min(workers, len(tasks))) as pool:
        for future in as_completed([pool.submit(work, task) for task in tasks]):
            try:
                yield future.result()
            except BrokenProcessPool:
                raise WorkerError(
                    "a worker process died, perhaps for want of memory; what it had finished is kept: run again with "
                    "fewer --jobs or --agents"
                ) from None


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    """Spawned, because this process has threads. They do not see Ctrl-C: who leaves early ends them."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _ignore_interrupts)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
