"""`fute demo` as a whole process in an empty folder, with an empty cache of converted weights."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time

from benchmarks.figure import Figure


def measure(name: str) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "FUTE_CACHE": f"{folder}/cache"}

        def run() -> float:
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "fute", "demo", "--out", f"{folder}/demo"], check=True, env=environment
            )
            return time.perf_counter() - began

        first = run()
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # KiB on Linux
        if name == "demo-first":
            return Figure(name, first, "s", 150, "lower")
        if name == "demo-memory":
            return Figure(name, peak, "GiB", 3, "lower")
        return Figure(name, run(), "s", 15, "lower")
