"""Bytes a branch of a trace, against a Parquet file of the same columns (pyarrow's default, and with zstd).

    python benchmarks/trace_size.py [SECONDS]

Records gzip and python3 by single steps for so many seconds (30) each.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BRANCHMON = [sys.executable, "-m", "branchmon"]
BAR = 4.0
"""Bytes a branch, at most."""


def programs(directory: Path) -> dict[str, list[str]]:
    text = directory / "input"
    text.write_bytes(b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.glob("*.py"))[:40]))
    code = "import json; print(len(json.dumps([{str(i): [i] * 3} for i in range(10**6)])))"
    return {"gzip": ["gzip", "-c", str(text)], "python3": ["python3", "-c", code]}


def record(path: Path, argv: list[str], seconds: float) -> None:
    command = [*BRANCHMON, "record", "-q", "--source", "step", "--kill-on-exit", "-o", str(path), "--", *argv]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    good = True
    print(f"{'program':8} {'branches':>10} {'trace':>7} {'parquet':>8} {'parquet zstd':>13}   bytes a branch")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for program, argv in programs(directory).items():
            path = directory / f"{program}.arrows"
            record(path, argv, seconds)
            table = pa.ipc.open_stream(str(path)).read_all()
            branches = table.num_rows
            sizes = [path.stat().st_size / branches]
            for options in ({}, {"compression": "zstd"}):
                pq.write_table(table, directory / "parquet", **options)
                sizes.append((directory / "parquet").stat().st_size / branches)
            good = good and sizes[0] <= BAR
            print(f"{program:8} {branches:>10,} {sizes[0]:>7.2f} {sizes[1]:>8.2f} {sizes[2]:>13.2f}")
    print(f"bar: at most {BAR:.0f}: {'met' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
