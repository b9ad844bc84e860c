"""Choosing among prompts on real grids: every prompt on every dataset is the truth.

`fute reproduce table3` labels the grids (some 40 minutes each on two cores from nothing) and writes
`benchmarks/results/prompts-*`: the scores of every way to choose, and of each prompt and row whether it was
right. The figures read these, in seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure
from fute.choosing import HYBRID, OURS
from fute.reproduce.prompts import saved_grids, table_of
from fute.selection.racing import race

_RESULTS = Path(__file__).parent / "results"
_SHOWN = ("performance_rate", "ndcg_linear", "spearman", "regret@1")
_DRAWS = 50


def measure(name: str) -> Figure:
    if name == "racing":
        return Figure(name, _racing(), "performance rate with a third of the evaluations", 0.99, "higher")
    table = table_of([found for grid in saved_grids(_RESULTS) for found in grid["comparisons"]])
    print_table(table)
    # How far the default is ahead of the best of the baselines, by the metric where it is least so.
    ahead = min(
        table[OURS][metric] - max(row[metric] for way, row in table.items() if way not in (OURS, HYBRID))
        for metric in ("performance_rate", "ndcg_linear")
    )
    return Figure(name, ahead, "least lead over the best baseline, of rate and NDCG", 0.0, "higher")


def print_table(table: dict[str, dict[str, float]]) -> None:
    print(f"{'':16}" + "".join(f"{name:>18}" for name in _SHOWN), file=sys.stderr)
    for way, row in table.items():
        print(f"{way:16}" + "".join(f"{row[name]:18.3f}" for name in _SHOWN), file=sys.stderr)


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
