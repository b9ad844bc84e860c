"""Choosing among prompts and source models on real grids, in which the truth is known.

`fute reproduce table1 --out benchmarks/results` (and table3) makes the grids in hours; the figures read what
it has saved, in seconds. All tables: `fute reproduce report --out benchmarks/results`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure
from fute.reproduce.report import AIMS
from fute.selection.racing import race

_RESULTS = Path(__file__).parent / "results"
_DRAWS = 50


def measure(name: str) -> Figure:
    if name == "racing":
        return Figure(name, _racing(), "performance rate with a third of the evaluations", 0.99, "higher")
    aim = AIMS[name](_RESULTS)
    if aim.unseen is not None:
        print(f"{name}, where it was not made: {aim.unseen.value:+.4f} ({aim.unseen_over})", file=sys.stderr)
    return Figure(name, aim.lead.value, f"least lead: {aim.what}; {aim.over}", 0.0, "higher")


def _racing() -> float:
    rates = []
    for file in sorted(_RESULTS.glob("prompts-*.npz")):
        saved = np.load(file)
        for dataset in [key.removeprefix("right/") for key in saved if key.startswith("right/")]:
            right, prior = saved[f"right/{dataset}"], saved[f"score/{dataset}"]
            k, rows = right.shape
            accuracies = right.mean(axis=1)
            here = []
            for seed in range(_DRAWS):
                raced = race(prior, rows, k * rows // 3, lambda c, r, of=right: of[np.ix_(c, r)], seed)
                here.append(accuracies[raced.scores.argmax()] / accuracies.max())
            print(f"{file.stem} {dataset}: performance rate {np.mean(here):.4f}", file=sys.stderr)
            rates.append(np.mean(here))
    return float(np.mean(rates))
