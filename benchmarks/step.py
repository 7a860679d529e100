"""How fast the single-step source is, against a bare PTRACE_SINGLESTEP loop in C, built here.

    python benchmarks/step.py [ROUNDS]

All step the same program, a loop of calls without a C library, alternating; medians. The pinned loop has put its
program on its own processor for good, which a tool that changes nothing may not do; it is the C loop's best case, and
the last row's ratio to it must stay under 2.5. The bare loop leaves both processes to the scheduler.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from branchmon.driver.perf_event import PerfEventAttr
from branchmon.driver.pmu import Pmu
from branchmon.driver.tasks import Tasks
from branchmon.sources.base import LaunchOptions
from branchmon.sources.step.source import StepSource

PROGRAM = Path(__file__).parents[1] / "tests" / "programs" / "loop.s"
CALLS = 10_000
INSTRUCTIONS = 4 + 4 * CALLS
LIMIT = 2.5

C_LOOP = r"""
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    if (argc > 2) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(sched_getcpu(), &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    pid_t pid = fork();
    if (!pid) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execl(argv[1], argv[1], (char *)0);
        _exit(127);
    }
    int status;
    long steps = 0;
    waitpid(pid, &status, 0);
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (; WIFSTOPPED(status); steps++) {
        ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
        waitpid(pid, &status, 0);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.9f\n", ((end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec) / 1e9) / steps);
}
"""


def in_c(loop: Path, program: Path, *options: str) -> float:
    """Seconds a step of the C loop."""
    return float(subprocess.run([loop, program, *options], capture_output=True, check=True, text=True).stdout)


def in_branchmon(program: Path) -> float:
    """Seconds an instruction of the step source, with a rets event open."""
    pmu = Pmu()
    tasks = Tasks(pmu)
    source = StepSource(tasks)
    try:
        task = source.launch(LaunchOptions([str(program)]))
        pmu.open(PerfEventAttr(type=pmu.type, config=0, inherit=True), task)
        began = time.perf_counter()
        source.run()
        seconds = time.perf_counter() - began
    finally:
        source.close()
    assert tasks.instructions() == INSTRUCTIONS, "every instruction was counted"
    return seconds / INSTRUCTIONS


def main() -> int:
    """Print the table; 1 if the ratio is over the limit."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as directory:
        program, loop, text = (Path(directory) / name for name in ("program", "loop", "loop.c"))
        bare = ["-x", "assembler-with-cpp", "-nostdlib", "-static", "-no-pie", "-DPLACE=1", f"-DCALLS={CALLS}"]
        subprocess.run(["gcc", *bare, PROGRAM, "-o", program], check=True)
        text.write_text(C_LOOP)
        subprocess.run(["gcc", "-O2", text, "-o", loop], check=True)
        rows = [(in_c(loop, program, "pinned"), in_c(loop, program), in_branchmon(program)) for _ in range(rounds)]
    print(f"{'':18} {'us a step':>10} {'steps a second':>15} {'ratio':>6}")
    ratio = 1.0
    for i, name in enumerate(("C loop, pinned", "C loop, bare", "branchmon")):
        seconds = statistics.median(row[i] for row in rows)
        ratio = statistics.median(row[i] / row[0] for row in rows)
        print(f"{name:18} {seconds * 1e6:10.1f} {1 / seconds:15,.0f} {ratio:6.2f}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
