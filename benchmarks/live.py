"""Whole programs under ``--source translate``, against themselves alone, and valgrind if it is installed.

    python benchmarks/live.py [ROUNDS]

Alternating; medians of the wall time. Two events are open, as the unit has two counters.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIB = "int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }\nint main(void) { return fib(40) & 1; }\n"
MONITOR = [sys.executable, "-m", "branchmon", "stat", "-e", "rets,call-ret", "-o", "/dev/null", "--source"]


def programs(directory: Path) -> dict[str, list[str]]:
    """What is run: about two seconds each."""
    (directory / "fib.c").write_text(FIB)
    subprocess.run(["gcc", "-O1", "-fno-inline", directory / "fib.c", "-o", directory / "fib"], check=True)
    text = directory / "text"
    text.write_bytes(b"".join(b"%d line of text %d\n" % (i, i * i % 9973) for i in range(1_500_000)))
    loop = "s=0\nfor i in range(30000000): s+=i*i%7\nprint(s)"
    return {
        "true": ["true"],
        "fib": [str(directory / "fib")],
        "gzip": ["gzip", "-c", str(text)],
        "bzip2": ["bzip2", "-c", str(text)],
        "python3": [str(Path(sys.executable).resolve()), "-I", "-S", "-c", loop],
        "perl": ["perl", "-e", "$s += $_ * 2 % 7 for 1..30000000; print $s"],
    }


def seconds(argv: list[str]) -> float:
    """Wall time of a command that must succeed, or say so as the bare one does."""
    began = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def main() -> int:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    peers = {"native": [], "translate": [*MONITOR, "translate", "--"], "memory": [*MONITOR, "translate-memory", "--"]}
    if shutil.which("valgrind"):
        peers["valgrind"] = ["valgrind", "--tool=none", "-q"]
    print(f"{'':10}" + "".join(f"{name:>12}" for name in peers))
    ratios = []
    with tempfile.TemporaryDirectory() as directory:
        for name, argv in programs(Path(directory)).items():
            if shutil.which(argv[0]) is None:
                print(f"{name:10} is not installed")
                continue
            times = [[seconds([*prefix, *argv]) for prefix in peers.values()] for _ in range(rounds)]
            medians = [statistics.median(column) for column in zip(*times, strict=True)]
            print(f"{name:10}" + "".join(f"{value:10.2f} s" for value in medians))
            if medians[0] > 1:
                ratios.append([value / medians[0] for value in medians])
    means = [statistics.geometric_mean(column) for column in zip(*ratios, strict=True)]
    print(f"{'geomean of ratios':18}" + " ".join(f"{value:.2f}" for value in means))
    return 0


if __name__ == "__main__":
    sys.exit(main())
