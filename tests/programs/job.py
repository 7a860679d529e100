"""A shell's job control for one job: runs argv in a foreground process group of its own, continues it when it stopped.

Run on a terminal of its own; says "stopped" when the job stopped, and its exit code at the end.
"""

import os
import signal
import sys


def main() -> None:
    """Run the job to its end."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execvp(sys.argv[1], sys.argv[1:])
    while True:
        _, status = os.waitpid(job, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            break
        os.tcsetpgrp(0, os.getpid())
        print("stopped", flush=True)
        sys.stdin.readline()
        os.tcsetpgrp(0, job)
        os.killpg(job, signal.SIGCONT)
        print("continued", flush=True)
    print("code", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
