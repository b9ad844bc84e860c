"""How well each way chose among the prompts of saved grids, and how far that may be off."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fute.choosing.candidates import HYBRID, OURS, SIMILAR
from fute.reproduce.ways import PAPERS
from fute.selection.metrics import mean_over_targets, measure
from fute.selection.uncertainty import interval

RANDOM = "a random order"  # what can be expected of it: equal scores share their places
Doubles = NDArray[np.float64]
_RESAMPLES = 2000
_DRAWS = 100
_METRICS = ("performance_rate", "ndcg_linear")  # those with an interval


@dataclass(frozen=True)
class Cell:
    """One grid's prompts on one dataset.

    Attributes:
        grid, dataset: their names.
        right: (k, n), whether each of k prompts is right on each of the n rows held out.
        ways: way → scores (k,), higher is better; only those that score some prompt. Who has no score stands
            last.
        draws: way → scores (S, k) from S draws of U's texts and the dataset's rows; empty where none were
            made.
    """

    grid: str
    dataset: str
    right: NDArray[np.bool_]
    ways: Mapping[str, Doubles]
    draws: Mapping[str, Doubles]

    @property
    def performances(self) -> Doubles:
        """(k,), accuracies."""
        return np.asarray(self.right.mean(axis=1))

    @cached_property
    def resampled(self) -> Doubles:
        """(B, k), accuracies on resamples of the rows: the same in all grids that share the rows."""
        n = self.right.shape[1]
        counts = np.random.default_rng(list(self.dataset.encode())).multinomial(n, [1 / n] * n, _RESAMPLES)
        return np.asarray(counts @ self.right.T / n)


def saved_cells(out: Path) -> list[Cell]:
    """What `fute.reproduce.prompts.run_grid` has saved in a folder, by the grids' names."""
    cells = []
    for file in sorted(out.glob("prompts-*.json")):
        grid = json.loads(file.read_text(encoding="utf-8"))
        with np.load(file.with_suffix(".npz")) as arrays:
            cells += [_cell(grid["grid"], found, arrays) for found in grid["comparisons"]]
    return [cell for cell in cells if cell.right.any()]  # where nobody is ever right all orders are


def _cell(grid: str, found: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Cell:
    name = found["dataset"]
    given = {way["name"]: np.array(way["scores"], dtype=np.float64) for way in found["ways"]}
    given[RANDOM] = np.zeros(len(found["candidates"]))
    ways = {way: _whole(scores) for way, scores in given.items() if not np.isnan(scores).all()}
    drawn = {way: arrays[f"draw/{name}/{way}"] for way in ways if f"draw/{name}/{way}" in arrays}
    draws = {way: np.stack([_whole(one) for one in several]) for way, several in drawn.items()}
    return Cell(grid, name, arrays[f"right/{name}"], ways, draws)


def _whole(scores: NDArray[Any]) -> Doubles:
    """The scores, with one below all others for who has none."""
    known = np.where(np.isnan(scores), np.inf, scores).min()
    return np.where(np.isnan(scores), known - 1, scores).astype(np.float64)


def parts_of(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Those of all grids, where there are several, and of each."""
    grids = dict.fromkeys(cell.grid for cell in cells)
    whole = {"all grids": list(cells)} if len(grids) > 1 else {}
    return whole | {grid: [cell for cell in cells if cell.grid == grid] for grid in grids}


class Estimate(NamedTuple):
    """A mean over datasets with its 90 % interval, from resamples of datasets and of their rows."""

    value: float
    low: float
    high: float


class Line(NamedTuple):
    """One way: means over the comparisons of which it can say something.

    Attributes:
        performance: accuracy of the prompt that it picks.
        performance_rate: that, over the best prompt's; regret@1 is what it lacks of 1.
        ndcg_linear: linear gain of accuracies.
        spearman: with the accuracies.
        comparisons: how many; a prompt grid has one for each dataset.
        rate_lead, ndcg_lead: fute's less its own, over the same comparisons.
        rate_spread, ndcg_spread: the standard deviation over draws of U's texts and the datasets' rows; None
            where there are no draws.
    """

    performance: float
    performance_rate: Estimate
    ndcg_linear: Estimate
    spearman: float
    comparisons: int
    rate_lead: Estimate
    ndcg_lead: Estimate
    rate_spread: float | None
    ndcg_spread: float | None


# A line's heading, and what stands under it.
COLUMNS = {
    "performance": "performance",
    "performance_rate": "rate [90 %]",
    "rate_spread": "± draws",
    "ndcg_linear": "NDCG (linear) [90 %]",
    "ndcg_spread": "± draws of it",
    "spearman": "Spearman",
    "rate_lead": "fute's rate leads by",
    "ndcg_lead": "fute's NDCG (linear) leads by",
    "comparisons": "comparisons",
}


def shown(line: Mapping[str, Any]) -> list[str]:
    """A `Line`, by field, as people read it: a text for each of `COLUMNS`."""
    return [_shown(line[name], "+" if name.endswith("lead") else "") for name in COLUMNS]


def _shown(value: Any, sign: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return str(value)
    one, *ends = [f"{v:{sign}.3f}" for v in np.atleast_1d(value)]
    return f"{one} [{', '.join(ends)}]" if ends else one


def lines_of(cells: Sequence[Cell]) -> dict[str, Line]:
    """Each way's line, best performance rate first.

    The bootstrap draws datasets, each with all of its grids, and within each its rows. An interval is
    `mean + quantiles of how far resamples are from their mean`: a best accuracy is higher on resampled rows,
    so all rates are lower there.
    """
    ways = dict.fromkeys(way for cell in cells for way in cell.ways)
    made = {way: _line(way, [cell for cell in cells if way in cell.ways]) for way in ways}
    return dict(sorted(made.items(), key=lambda item: -item[1].performance_rate.value))


def least_lead(cells: Sequence[Cell]) -> tuple[str, Estimate]:
    """How far fute is ahead of the label-free baseline that is nearest to it, by the metric by which it is
    least so; and which these are.
    """
    ours = (OURS, SIMILAR, HYBRID, *PAPERS)  # these see the dataset's labels
    baselines = {way: line for way, line in lines_of(cells).items() if way not in ours}
    leads = {f"{way}, rate": line.rate_lead for way, line in baselines.items()}
    leads |= {f"{way}, NDCG": line.ndcg_lead for way, line in baselines.items()}
    return min(leads.items(), key=lambda lead: lead[1].value)


class Evaluated(NamedTuple):
    """What the prompts' accuracies on some labelled rows pick, on the other rows: means over comparisons and
    draws of the rows.

    Attributes:
        rate, ndcg: of this direct evaluation, higher is better.
        rate_lead, ndcg_lead: fute's on the same other rows, less these.
    """

    rate: float
    ndcg: float
    rate_lead: float
    ndcg_lead: float


def evaluated(cells: Sequence[Cell], labels: int) -> Evaluated | None:
    """With so many of the rows held out, where there are twice as many or more; None where nowhere."""
    rng, measured = np.random.default_rng(0), []
    for cell in cells:
        orders = rng.permuted(np.tile(np.arange(cell.right.shape[1]), (_DRAWS, 1)), axis=1)
        for some, rest in ((order[:labels], order[labels:]) for order in orders if len(order) >= 2 * labels):
            truth = cell.right[:, rest].mean(axis=1)[None]
            direct = rate_and_gain(cell.right[:, some].mean(axis=1), truth)[:, 0]
            measured.append([*direct, *(rate_and_gain(cell.ways[OURS], truth)[:, 0] - direct)])
    return Evaluated(*np.mean(measured, axis=0).tolist()) if measured else None


def _line(way: str, cells: Sequence[Cell]) -> Line:
    means = mean_over_targets([measure(cell.ways[way], cell.performances) for cell in cells])
    resampled = _resampled(way, cells)
    leads = _resampled(OURS, cells) - resampled
    ours = mean_over_targets([measure(cell.ways[OURS], cell.performances) for cell in cells])
    rate, gain = (_estimate(means[m], draws) for m, draws in zip(_METRICS, resampled, strict=True))
    rate_lead, lead = (_estimate(ours[m] - means[m], draws) for m, draws in zip(_METRICS, leads, strict=True))
    spreads = _spreads(way, cells)
    return Line(means["performance"], rate, gain, means["spearman"], len(cells), rate_lead, lead, *spreads)


def _resampled(way: str, cells: Sequence[Cell]) -> Doubles:
    """(2, B): means of `_METRICS` on resamples of datasets and rows."""
    names = sorted({cell.dataset for cell in cells})
    counts = np.random.default_rng(0).multinomial(len(names), [1 / len(names)] * len(names), _RESAMPLES)
    weights = counts[:, [names.index(cell.dataset) for cell in cells]].T
    measured = np.stack([rate_and_gain(cell.ways[way], cell.resampled) for cell in cells])
    return np.asarray((measured * weights[:, None]).sum(axis=0) / weights.sum(axis=0))


def _spreads(way: str, cells: Sequence[Cell]) -> tuple[float | None, float | None]:
    if not all(way in cell.draws for cell in cells):
        return None, None
    several = [
        [rate_and_gain(scores, cell.performances[None])[:, 0] for scores in cell.draws[way]] for cell in cells
    ]
    rate, gain = np.mean(several, axis=0).std(axis=0, ddof=1).tolist()
    return rate, gain


def _estimate(value: float, draws: Doubles) -> Estimate:
    ends = interval(value, draws - draws.mean())
    assert ends is not None
    return Estimate(float(value), *map(float, ends))


def rate_and_gain(scores: ArrayLike, performances: ArrayLike) -> Doubles:
    """Performance rate and NDCG (linear), as in `selection.metrics`, of one ranking by many performances at a
    time: (2, B) from scores (k,) and performances (B, k).
    """
    s, p = np.asarray(scores), np.asarray(performances)
    best = p.max(axis=1)
    rate = p[:, s == s.max()].mean(axis=1) / np.where(best > 0, best, 1)
    discounts = 1 / np.log2(np.arange(len(s)) + 2)
    _, group = np.unique(-s, return_inverse=True)  # candidates with equal scores share their places
    shared = np.bincount(np.sort(group), discounts) / np.bincount(group)
    dcg = p @ shared[group]
    ideal = np.sort(p, axis=1)[:, ::-1] @ discounts
    return np.stack([rate, np.where(ideal > 0, dcg / np.where(ideal > 0, ideal, 1), 1)])
