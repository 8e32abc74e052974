"""Process a stream of jobs with several workers, one thread each, and a bounded number of jobs in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

from med_transfer.scans.isolation.scan_worker import ScanWorker

Job = TypeVar("Job")
Taken = TypeVar("Taken", contravariant=True)
Result = TypeVar("Result", covariant=True)
AHEAD = 2  # jobs per worker that are in progress, or done and not yet taken


class Worker(Protocol[Taken, Result]):
    """One of several workers; only its own thread calls it, except for ``close``."""

    def __call__(self, job: Taken) -> Result:
        """Do the job."""
        ...

    def close(self) -> None:
        """Stop the worker, even in the middle of a job."""
        ...


def as_completed(workers: Sequence[Worker[Job, Result]], jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result, in order of completion; an exception in a worker ends the iteration.

    At most ``AHEAD`` jobs per worker are in flight, however many jobs there are and however slowly results are taken.
    """
    jobs, todo, done = iter(jobs), SimpleQueue(), SimpleQueue()
    ended = threading.Event()
    threads = [threading.Thread(target=_work, args=(worker, todo, done, ended), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        waiting = 0
        for job in islice(jobs, AHEAD * len(workers)):
            todo.put(job)
            waiting += 1
        while waiting:
            job, result = done.get()
            waiting -= 1
            for following in islice(jobs, 1):
                todo.put(following)
                waiting += 1
            if isinstance(result, BaseException):
                raise result
            yield job, result[0]
    finally:
        ended.set()
        for worker in workers:
            todo.put(_END)
            worker.close()
        for thread in threads:
            thread.join(10.0)
        for worker in workers:
            worker.close()  # again, for one whose process had just been starting


_END = object()


def _work(worker: Worker, todo: SimpleQueue, done: SimpleQueue, ended: threading.Event) -> None:
    while (job := todo.get()) is not _END and not ended.is_set():
        try:
            done.put((job, (worker(job),)))
        except BaseException as error:
            done.put((job, error))
            return


class Reader(Generic[Job, Result]):
    """A worker that runs its jobs in a separate process."""

    def __init__(self, read: Callable[[Job, Callable], Result], process: ScanWorker) -> None:
        """``read`` gets the job, and a callable that calls a function in the process."""
        self._read, self._process = read, process

    def __call__(self, job: Job) -> Result:
        """Return the result. A crash of the process is an error of this scan; the next scan gets a new process."""
        return self._read(job, self._process.call)

    def close(self) -> None:
        """Stop the process."""
        self._process.close()
