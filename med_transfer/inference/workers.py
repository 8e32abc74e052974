"""Several workers, each in a thread of its own, on a stream of jobs, few of which are under way at a time."""

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
AHEAD = 2  # jobs a worker, done or under way, that wait for whoever takes the results


class Worker(Protocol[Taken, Result]):
    """One of several; only its own thread calls it, but for ``close``."""

    def __call__(self, job: Taken) -> Result:
        """Do it."""
        ...

    def close(self) -> None:
        """End it, also in the middle of a job."""
        ...


def in_turn(workers: Sequence[Worker[Job, Result]], jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, in the order in which they are done; what a worker raises ends it all.

    Few are under way at a time, however many there are and however slowly the results are taken.
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
            worker.close()  # of one that had just begun


_END = object()


def _work(worker: Worker, todo: SimpleQueue, done: SimpleQueue, ended: threading.Event) -> None:
    while (job := todo.get()) is not _END and not ended.is_set():
        try:
            done.put((job, (worker(job),)))
        except BaseException as error:
            done.put((job, error))
            return


class Reader(Generic[Job, Result]):
    """A worker that does its job in a process of its own."""

    def __init__(self, read: Callable[[Job, Callable], Result], process: ScanWorker) -> None:
        """``read`` is given the job, and what calls a function in the process."""
        self._read, self._process = read, process

    def __call__(self, job: Job) -> Result:
        """The result; a process that ends is an error of its scan, and the next scan gets another."""
        return self._read(job, self._process.call)

    def close(self) -> None:
        """End the process."""
        self._process.close()
