"""What the runner costs beside the models: time over a bare model, a cached re-run, and memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.figure import Figure
from fute.core.types import Floats, Input
from fute.labelling.budget import Budget
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.base import BlackBox

_MIB = 2**20
# A millisecond an item: a tenth of what the smallest LLM takes for a short text on two cores.
_SECONDS_AN_ITEM = 0.001


class Waiting(BlackBox):
    """A model that takes a fixed time for an item and no processor: all else is the runner's."""

    name, kind, labels = "waiting", "llm", ("no", "yes")
    batch = 32
    fingerprint = "waiting 1"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def predict(self, inputs: Sequence[Input]) -> Floats:
        until = time.perf_counter() + self.seconds * len(inputs)
        while (left := until - time.perf_counter()) > 0:
            time.sleep(left)
        yes = np.array([len(item.text) % 97 / 97 for item in inputs], dtype=np.float32)
        return np.column_stack([1 - yes, yes])


def _inputs(n: int) -> list[Input]:
    """Texts of about 500 characters, all different."""
    return [Input(f"{i} " + "a text of some length, as reviews are " * 13) for i in range(n)]


def measure(name: str) -> Figure:
    if name == "runner-memory":
        return _memory(name)
    with tempfile.TemporaryDirectory() as folder:
        if name == "runner-overhead":
            return _overhead(name, Path(folder))
        return _cached(name, Path(folder))


def _overhead(name: str, folder: Path) -> Figure:
    """Bare model and runner take turns over 10,000 items; the median of the ratios."""
    inputs, model = _inputs(10_000), Waiting(_SECONDS_AN_ITEM)
    ratios = []
    for turn in range(3):
        began = time.perf_counter()
        for start in range(0, len(inputs), model.batch):
            model.predict(inputs[start : start + model.batch])
        bare = time.perf_counter() - began
        began = time.perf_counter()
        cache, budget = PredictionCache(folder / f"{turn}.sqlite"), Budget(folder / f"spent{turn}.sqlite")
        label([model], inputs, cache, budget=budget)
        ratios.append((time.perf_counter() - began) / bare - 1)
    return Figure(name, 100 * median(ratios), "% over the bare model", 5, "lower")


def _cached(name: str, folder: Path) -> Figure:
    inputs, model = _inputs(100_000), Waiting(0)
    label([model], inputs, PredictionCache(folder / "predictions.sqlite"))
    began = time.perf_counter()
    again = label([model], inputs, PredictionCache(folder / "predictions.sqlite"))
    seconds = time.perf_counter() - began
    assert (again.asked, len(again.predictions["waiting"])) == (0, len(inputs))
    return Figure(name, seconds, "s", 5, "lower")


def _memory(name: str) -> Figure:
    """The peak of a process of its own that labels 100,000 texts, less that of one that labels a hundred."""
    peaks = [
        int(subprocess.run(
            [sys.executable, "-m", "benchmarks.runner", str(n)], check=True, capture_output=True, text=True
        ).stdout)
        for n in (100, 100_000)
    ]  # fmt: skip
    return Figure(name, (peaks[1] - peaks[0]) / _MIB, "MiB", 500, "lower")


def _label_and_print_peak(n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        label([Waiting(0)], _inputs(n), PredictionCache(Path(folder) / "predictions.sqlite"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    _label_and_print_peak(int(sys.argv[1]))
