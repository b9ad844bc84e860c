"""How well each way ranked the source models of a transfer grid, from the grid's saved results."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fute.choosing.states import LOG_ME_OF_LAYERS
from fute.choosing.transfer import together
from fute.core.errors import DataError
from fute.core.files import write_atomically
from fute.reproduce.evidence import FUTE, OF_DATASETS, RELATIONS, Evidence, Scores
from fute.reproduce.prompt_table import RANDOM, Estimate
from fute.reproduce.tasks import Task
from fute.reproduce.transfer import NOTHING, BaseConfig, Pair, Transfer
from fute.selection.metrics import ndcg, rank_of_best, regret, spearman

# name → (the targets' groups, whether only sources of the target's own group are candidates)
SETTINGS = {
    "CR, in class": (("cr",), True),
    "CR, all classes": (("cr",), False),
    "QA, in class": (("qa",), True),
    "QA, all classes": (("qa",), False),
    "cross-domain": (("domain",), False),
    "in class": (("cr", "qa"), True),
    "all classes": (("cr", "qa"), False),
}
CHOOSES = "fute select --transfer"  # made of others' scores, among the candidates of a setting
_FEWEST = 3  # sources: fewer make no ranking
_RESAMPLES = 2000


@dataclass(frozen=True)
class Cell:
    """One base's source models for one target.

    Attributes:
        base, target: their names.
        alone: the performance without a source; None where it isn't known yet.
        reached: source → performance, of those pairs that were run, 0 to 1, higher is better.
        scores: way → source → score, higher is better.
        seeds: so many fine-tunings of each pair `alone` and `reached` are the means of.
    """

    base: str
    target: str
    alone: float | None
    reached: Mapping[str, float]
    scores: Mapping[str, Scores]
    seeds: int = 1


@dataclass(frozen=True)
class TransferResults:
    """What a grid has shown so far.

    Attributes:
        groups: task → its group.
        cells: one for each base and target.
    """

    scale: str
    groups: Mapping[str, str]
    cells: list[Cell]

    @classmethod
    def gather(cls, scale: str, grid: Transfer, evidence: Evidence) -> TransferResults:
        """The results of the pairs that were run: means over the seeds that all sources of a target have."""
        begun = []
        for base in grid.recipe.bases:
            for target in filter(base.takes, grid.tasks):
                runs = _runs(grid, base, target)
                known = {source: float(np.mean([run[source] for run in runs])) for source in runs[0]}
                alone = known.pop(NOTHING, None)
                if len(known) >= _FEWEST:
                    of = [source for source in grid.sources if source.name in known]
                    begun.append((base, target, of, alone, known, len(runs)))
        evidence.make((base, target, of) for base, target, of, *_ in begun)
        cells = [
            Cell(base.name, target.name, alone, known, evidence.scores(base, target, of), seeds)
            for base, target, of, alone, known, seeds in begun
        ]
        return cls(scale, {task.name: task.group for task in grid.tasks}, cells)

    def save(self, folder: Path) -> None:
        """Write `transfer-SCALE.json`."""
        content = {
            "scale": self.scale,
            "groups": self.groups,
            "cells": [_rounded(vars(cell)) for cell in self.cells],
        }
        write_atomically(folder / f"transfer-{self.scale}.json", json.dumps(content) + "\n")

    @classmethod
    def load(cls, file: Path) -> TransferResults:
        content = json.loads(file.read_text(encoding="utf-8"))
        return cls(content["scale"], content["groups"], [Cell(**cell) for cell in content["cells"]])


def _runs(grid: Transfer, base: BaseConfig, target: Task) -> list[dict[str, float]]:
    """Source, or `NOTHING`, → performance, with each of those seeds that all have which were run at all."""
    sources = [NOTHING, *(s.name for s in grid.sources_of(base) if s.name != target.name)]
    runs = [
        {source: run[0] for source in sources if (run := grid.reached(Pair(base, source, target, seed)))}
        for seed in range(base.times(target))
    ]
    known = set().union(*runs)
    return [run for run in runs if run.keys() == known] or runs[:1]


class Line(NamedTuple):
    """One way in one setting: means over targets and bases.

    Attributes:
        rho: rank of the best source, lower is better.
        ndcg: linear gain of performances that are scaled to 0 (worst source) to 1 (best); higher is better.
        ndcg_raw: linear gain of the performances themselves, all near 1.
        regret: regret@1, lower is better.
        spearman: higher is better.
        cells: how many targets and bases it could say something of.
        lead: fute's `ndcg` less its own, over the same cells, and a 90 % interval of that.
    """

    rho: float
    ndcg: float
    ndcg_raw: float
    regret: float
    spearman: float
    cells: int
    lead: Estimate


# A line's field → its heading.
COLUMNS = {
    "rho": "ρ ↓",
    "ndcg": "NDCG (linear) ↑",
    "ndcg_raw": "unscaled NDCG (linear) ↑",
    "regret": "regret@1 ↓",
    "spearman": "Spearman ↑",
    "cells": "targets",
    "lead": "fute leads by",
}


def shown(line: Mapping[str, Any]) -> list[str]:
    """A `Line`, by field, as people read it: a text for each of `COLUMNS`."""
    numbers = [f"{line[name]:.3f}" for name in ("ndcg", "ndcg_raw", "regret", "spearman")]
    lead = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*line["lead"])
    return [f"{line['rho']:.2f}", *numbers, str(line["cells"]), lead]


def table(results: TransferResults, setting: str) -> dict[str, Line]:
    """Each way's line, best NDCG first.

    NDCG is of performances scaled within each target, since all sources reach nearly the same there: with the
    performances themselves any order scores above 0.9.
    """
    measured: dict[str, dict[tuple[str, str], tuple[float, ...]]] = {}
    for cell, sources in _candidates(results, setting):
        reached = np.array([cell.reached[s] for s in sources])
        spread = np.ptp(reached)
        if spread == 0:
            continue  # every order is right
        made = {CHOOSES: _chooses(cell, sources), RANDOM: dict.fromkeys(sources, 0.0)}
        for way, scores in {**cell.scores, **made}.items():
            if not all(s in scores for s in sources):
                continue
            given = np.array([scores[s] for s in sources])
            measured.setdefault(way, {})[cell.base, cell.target] = (
                rank_of_best(given, reached),
                ndcg(given, (reached - reached.min()) / spread),
                ndcg(given, reached),
                regret(given, reached),
                spearman(given, reached),
            )
    ours = measured.get(CHOOSES, measured.get(FUTE, {}))
    lines = {way: _line(own, ours) for way, own in measured.items()}
    return dict(sorted(lines.items(), key=lambda item: -item[1].ndcg))


def of_bases(results: TransferResults, bases: Collection[str]) -> TransferResults:
    """The same of these bases only."""
    return replace(results, cells=[cell for cell in results.cells if cell.base in bases])


def _chooses(cell: Cell, sources: Sequence[str]) -> Scores:
    """What `choose` goes by for `transfer`, where similarities are known."""
    ways = [cell.scores.get(way, {}) for way in (RELATIONS, OF_DATASETS, LOG_ME_OF_LAYERS)]
    if not all(source in ways[0] for source in sources):
        return {}
    scores = together(*([of.get(source, np.nan) for source in sources] for of in ways))
    return dict(zip(sources, scores.tolist(), strict=True))


def _candidates(results: TransferResults, setting: str) -> Iterator[tuple[Cell, list[str]]]:
    groups, within = SETTINGS[setting]
    for cell in results.cells:
        group = results.groups[cell.target]
        if group in groups:
            sources = [s for s in cell.reached if not within or results.groups[s] == group]
            whole = within or any(results.groups[s] != group for s in sources)
            if len(sources) >= _FEWEST and whole:
                yield cell, sources


def least_lead(
    results: TransferResults, settings: Sequence[str], baselines: Sequence[str]
) -> tuple[str, Estimate]:
    """How far fute's NDCG is ahead of the best of these baselines, in the setting where it is least so; each
    compared over the targets of which it can say something. Below 0 where fute loses. And which these are.

    Raises:
        DataError: a setting has no results of a baseline.
    """
    leads = {}
    for setting in settings:
        lines = table(results, setting)
        for baseline in baselines:
            if baseline not in lines:
                raise DataError(f"the {results.scale} grid has no results of {baseline} for: {setting}")
            leads[f"{baseline}, {setting}"] = lines[baseline].lead
    return min(leads.items(), key=lambda lead: lead[1].value)


def _line(
    own: Mapping[tuple[str, str], tuple[float, ...]], fute: Mapping[tuple[str, str], tuple[float, ...]]
) -> Line:
    means = np.mean(list(own.values()), axis=0)
    leads = np.array([fute[cell][1] - metrics[1] for cell, metrics in own.items() if cell in fute])
    draws = np.random.default_rng(0).integers(0, len(leads), (_RESAMPLES, len(leads)))
    low, high = np.quantile(leads[draws].mean(axis=1), [0.05, 0.95])
    rho, scaled, raw, lost, correlation = map(float, means)
    lead = Estimate(float(leads.mean()), float(low), float(high))
    return Line(rho, scaled, raw, lost, correlation, len(own), lead)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 5) if isinstance(value, float) else value
