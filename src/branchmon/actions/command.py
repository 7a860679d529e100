"""``run=COMMAND``: the evidence as JSON on a command's stdin, while the watched program goes on."""

import queue
import subprocess
import threading

QUEUE_LENGTH = 100
TIME_LIMIT = 30.0
"""Seconds a command may take; then it is killed."""


class CommandRunner:
    """Runs shell commands one after the other, on a thread of its own.

    A command's output goes to branchmon's stderr, so that the program's stdout stays its own.
    """

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[str, bytes] | None] = queue.Queue(QUEUE_LENGTH)
        self.lost = 0
        """Commands not run because too many waited."""
        self.failures: list[str] = []
        # Children are of the thread that starts them: the driving thread's waitpid does not see these.
        self._thread = threading.Thread(target=self._work, name="branchmon-commands", daemon=True)
        self._thread.start()

    def run(self, command: str, record: bytes) -> None:
        """Have `command` run with `record` on its stdin; returns at once."""
        try:
            self._queue.put_nowait((command, record))
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Wait for the commands that were handed over."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            command, record = item
            try:
                done = subprocess.run(
                    ["/bin/sh", "-c", command], input=record, stdout=2, timeout=TIME_LIMIT, check=False
                )
                if done.returncode:
                    self._note(f"run={command}: exit code {done.returncode}")
            except (OSError, subprocess.TimeoutExpired) as error:
                self._note(f"run={command}: {error}")

    def _note(self, failure: str) -> None:
        if failure not in self.failures:
            self.failures.append(failure)
