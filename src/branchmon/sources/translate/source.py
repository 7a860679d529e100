"""The translating source as others see it: the single-stepper, with an engine that spares it nearly every step."""

import platform

from branchmon.driver.tasks import Tasks
from branchmon.sources import ptrace
from branchmon.sources.base import BranchSink, Capabilities
from branchmon.sources.step.source import OPTIONS, StepSource


class TranslateSource(StepSource):
    """Executes programs as translated code that counts by itself.

    It counts in zmm31 where the processor has AVX-512VL, else in memory. With a sink every instruction is stepped.
    """

    options = OPTIONS | ptrace.O_EXITKILL
    name = "translate"
    what = "executes translated code that counts by itself: fast, exact; the program is killed if branchmon is"
    vector: bool | None = None
    """Count in zmm31; None: where the processor can."""

    def __init__(self, tasks: Tasks, sink: BranchSink | None = None) -> None:
        super().__init__(tasks, sink)
        from branchmon.sources.translate.engine import Engine

        if sink is None:
            self._stepper.engine = Engine(self._stepper, vector=self.vector)

    @classmethod
    def capabilities(cls) -> Capabilities:
        """What translation can do here."""
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            return Capabilities(cls.name, False, "translation needs Linux on x86-64")
        return Capabilities(cls.name, True, cls.what, survives=False)


class MemoryTranslateSource(TranslateSource):
    """The same, counting in memory whatever the processor has."""

    name = "translate-memory"
    what = "the same, counting in memory as on processors without AVX-512"
    vector = False
