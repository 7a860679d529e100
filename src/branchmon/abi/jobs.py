"""Work on event descriptors that has to wait for the driving thread, kept off the thread that answers FUSE requests.

Two things must never wait for each other: a task that is to stop (attaching, detaching) and a task that a request of
ours holds in the kernel. So whatever stops tasks runs under :attr:`Jobs.turn`, one at a time, with no perf_event_open
call taken from its caller but the one that is being served; and requests of tasks that are to stop are given up.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from branchmon.sources.maps import process_of


class Job:
    """One piece of work.

    :param tid: the task that waits for it in the kernel; 0 if none does.
    :param work: does it and answers the request.
    :param give_up: answers the request without it; None if nobody waits.
    """

    def __init__(self, tid: int, work: Callable[[], None], give_up: Callable[[], None] | None = None) -> None:
        self.tid = tid
        self.work = work
        self.give_up = give_up


class Jobs:
    """A queue, worked off in order by a thread of its own.

    :param idle: called under the turn when the queue has run empty; may stop tasks.
    """

    def __init__(self, idle: Callable[[], None]) -> None:
        self.turn = threading.Lock()
        self._idle = idle
        self._queue: deque[Job] = deque()
        self._lock = threading.Lock()
        self._there = threading.Event()
        self._stopping: set[int] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Have a job done. Never blocks."""
        with self._lock:
            given_up = bool(self._stopping) and self._waits_for_stopping(job)
            if not given_up:
                self._queue.append(job)
        if given_up and job.give_up is not None:
            job.give_up()
        self._there.set()

    def drain(self) -> None:
        """Do now what has been submitted; the caller has the turn."""
        while True:
            with self._lock:
                if not self._queue:
                    return
                job = self._queue.popleft()
            job.work()

    @contextmanager
    def stopping(self, pids: set[int]) -> Iterator[None]:
        """While tasks of these processes are made to stop: give up what they wait for. The caller has the turn."""
        with self._lock:
            self._stopping = pids
            given_up = [job for job in self._queue if self._waits_for_stopping(job)]
            for job in given_up:
                self._queue.remove(job)
        for job in given_up:
            if job.give_up is not None:
                job.give_up()
        try:
            yield
        finally:
            with self._lock:
                self._stopping = set()

    def close(self) -> None:
        """End the thread when what it does now is done."""
        if self._thread.is_alive():
            self._closing = True
            self._there.set()
            self._thread.join()

    def _waits_for_stopping(self, job: Job) -> bool:
        return job.give_up is not None and bool(job.tid) and process_of(job.tid) in self._stopping

    def _work(self) -> None:
        while True:
            self._there.wait()
            self._there.clear()
            if self._closing:
                return
            with self.turn:
                self.drain()
                self._idle()
