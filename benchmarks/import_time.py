"""`import fute` in a fresh interpreter, less the interpreter's own start: the median of nine pairs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.figure import Figure


def measure(name: str) -> Figure:
    def seconds(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began

    seconds("import fute")  # compiles the byte code
    pairs = [seconds("import fute") - seconds("pass") for _ in range(9)]
    return Figure(name, statistics.median(pairs), "s", 0.3, "lower")
