"""The driving thread: the one that owns ptrace, tasks and the driver, and does for the others what touches these.

Source: :mod:`branchmon.sources.base` (Threads).
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from branchmon.driver.tasks import Tasks
from branchmon.sources.base import LiveSource

T = TypeVar("T")


class _Call:
    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error
        self.done.set()


class Driving:
    """Runs a live source on a thread of its own, whenever there are tasks to follow.

    :param make_source: makes the source, on the thread, when it is first needed.
    """

    def __init__(self, tasks: Tasks, make_source: Callable[[], LiveSource]) -> None:
        self.tasks = tasks
        self._make_source = make_source
        self._source: LiveSource | None = None
        self._calls: deque[_Call] = deque()
        self._wanted = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._drive, name="driving", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def source(self) -> LiveSource:
        """The source; only on the driving thread."""
        if self._source is None:
            self._source = self._make_source()
        return self._source

    @property
    def warnings(self) -> list[str]:
        """What the source could not count exactly; read when it has been closed."""
        return list(self._source.warnings) if self._source is not None else []

    def prepare(self) -> None:
        """Make the source soon, so that the first event need not wait for it. Returns at once."""
        if self._source is None:
            self._post(_Call(lambda: self.source))

    def call(self, function: Callable[[], T]) -> T:
        """From another thread: run `function` on the driving thread, return what it returns, raise what it raises."""
        call = _Call(function)
        self._post(call)
        call.done.wait()
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result

    def close(self) -> None:
        """Detach from everything and end the thread."""
        if self._thread.is_alive():
            self._closing = True
            self._wake()
            self._thread.join()

    def _post(self, call: _Call) -> None:
        self._calls.append(call)
        self._wake()

    def _wake(self) -> None:
        self._wanted.set()
        if self._source is not None:
            self._source.interrupt()

    def _drive(self) -> None:
        while True:
            self._wanted.clear()
            while self._calls:
                self._calls.popleft().run()
            if self._closing:
                break
            if len(self.tasks):
                self.source.run()
            else:
                self._wanted.wait()
        if self._source is not None:
            self._source.close()
