"""Choosing among prompts on real grids: every prompt on every dataset is the truth.

`python -m benchmarks.prompt_selection GRID` labels a grid of `benchmarks/grids` (needs the evaluation data in
`FUTE_DATA`; some 40 minutes on two cores from nothing, resumable, seconds from its cache), and writes
`benchmarks/results/GRID.json` and `GRID.npz`: the scores of every way to choose, and of each prompt and row
whether it was right. The figures read these, in seconds.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figure import Figure
from benchmarks.texts import evaluation_data
from fute.api import right
from fute.choosing import HYBRID, OURS, choose
from fute.project import Project
from fute.selection.metrics import mean_over_targets
from fute.selection.racing import race

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results"
_SHOWN = ("performance_rate", "ndcg_linear", "spearman", "regret@1")
_DRAWS = 50


def measure(name: str) -> Figure:
    if name == "racing":
        return Figure(name, _racing(), "performance rate with a third of the evaluations", 0.99, "higher")
    table = table_of([found for grid in _saved() for found in grid["comparisons"]])
    print_table(table)
    # How far the default is ahead of the best of the baselines, by the metric where it is least so.
    ahead = min(
        table[OURS][metric] - max(row[metric] for way, row in table.items() if way not in (OURS, HYBRID))
        for metric in ("performance_rate", "ndcg_linear")
    )
    return Figure(name, ahead, "least lead over the best baseline, of rate and NDCG", 0.0, "higher")


def _saved() -> Iterator[dict[str, Any]]:
    for file in sorted(_RESULTS.glob("*.json")):
        yield json.loads(file.read_text())


def table_of(comparisons: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For each way the mean of its metrics over datasets."""
    ways = [way["name"] for way in comparisons[0]["ways"]]
    metrics = [{way["name"]: way["metrics"] for way in found["ways"]} for found in comparisons]
    return {way: mean_over_targets([one[way] for one in metrics]) for way in ways}


def print_table(table: dict[str, dict[str, float]]) -> None:
    print(f"{'':16}" + "".join(f"{name:>18}" for name in _SHOWN), file=sys.stderr)
    for way, row in sorted(table.items(), key=lambda item: -item[1]["performance_rate"]):
        print(f"{way:16}" + "".join(f"{row[name]:18.3f}" for name in _SHOWN), file=sys.stderr)


def _racing() -> float:
    rates = []
    for file in sorted(_RESULTS.glob("*.npz")):
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


def build(grid: str) -> None:
    """Label a grid, compare all ways on it, and save."""
    folder = _HERE / ".cache" / "grids" / grid
    folder.mkdir(parents=True, exist_ok=True)
    template = string.Template((_HERE / "grids" / f"{grid}.yaml").read_text())
    (folder / "fute.yaml").write_text(template.substitute(FUTE_DATA=evaluation_data().resolve()))
    project = Project(folder)
    report = project.run(_progress)
    for failure in report.failures.values():
        raise failure
    comparisons, arrays = [], {}
    for dataset, (_, held_out) in project.datasets.items():
        found = choose(project, dataset, against=None, truth=True, progress=_progress)
        comparisons.append(found.as_dict())
        arrays[f"score/{dataset}"] = np.array(found.ways[0].scores)
        boxes = [box for box in project.models if box.name in found.candidates]
        answered = project.ask(boxes, held_out).answered
        arrays[f"right/{dataset}"] = np.stack([right(box, held_out, answered[box.name]) for box in boxes])
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / f"{grid}.json").write_text(json.dumps({"grid": grid, "comparisons": comparisons}) + "\n")
    np.savez_compressed(_RESULTS / f"{grid}.npz", **arrays)
    print_table(table_of(comparisons))


def _progress(what: str, done: int, total: int) -> None:
    print(f"\r{what} {done}/{total}   ", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    build(sys.argv[1])
