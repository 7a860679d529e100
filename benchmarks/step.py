"""How fast the single-step source is, against a bare PTRACE_SINGLESTEP loop in C, built here.

    python benchmarks/step.py [ROUNDS]

Both step the same program, a loop of calls without a C library, alternating; medians. The C loop is pinned to one
processor with its program, its best case; branchmon follows the program by itself. The last column must stay under 2.5.
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
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    sched_setaffinity(0, sizeof set, &set);
    pid_t pid = fork();
    if (!pid) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execv(argv[1], argv + 1);
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


def in_c(loop: Path, program: Path) -> float:
    """Seconds a step of the C loop."""
    return float(subprocess.run([loop, program], capture_output=True, check=True, text=True).stdout)


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
        pairs = [(in_c(loop, program), in_branchmon(program)) for _ in range(rounds)]
    c, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{'':12} {'us a step':>10} {'steps a second':>15} {'ratio':>6}")
    print(f"{'C loop':12} {c * 1e6:10.1f} {1 / c:15,.0f} {1:6.2f}")
    print(f"{'branchmon':12} {ours * 1e6:10.1f} {1 / ours:15,.0f} {ratio:6.2f}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
