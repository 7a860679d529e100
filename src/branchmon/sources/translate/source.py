"""The translating source as others see it: the single-stepper, with an engine that spares it nearly every step."""

import platform

from branchmon.driver.tasks import Tasks
from branchmon.sources import ptrace
from branchmon.sources.base import BranchSink, Capabilities
from branchmon.sources.step.source import OPTIONS, StepSource


class TranslateSource(StepSource):
    """Executes programs as translated code that counts by itself.

    :param vector: count in zmm31; None: where the processor can.
    """

    options = OPTIONS | ptrace.O_EXITKILL

    def __init__(self, tasks: Tasks, sink: BranchSink | None = None, *, vector: bool | None = None) -> None:
        super().__init__(tasks, sink)
        from branchmon.sources.translate.engine import Engine

        if sink is None:
            self._stepper.engine = Engine(self._stepper, vector=vector)

    @classmethod
    def capabilities(cls) -> Capabilities:
        """What translation can do here."""
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            return Capabilities("translate", False, "translation needs Linux on x86-64")
        return Capabilities(
            "translate", True, "executes translated code that counts by itself: fast, exact", survives=False
        )
