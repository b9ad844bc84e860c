"""From how many datasets on fute costs less than another way: in numbers, in words and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fute.plots.lines import Panel, write_lines
from fute.reproduce.efficiency import COSTS, FUTE, LABEL_FREE, Cost, Measured, What

COLUMNS = ("way", "labels", *(f"{what}: once + a dataset" for what in COSTS), "fute costs no more from d =")
_MOST = 1000  # datasets drawn


def crossing(fute: Cost, other: Cost, what: What) -> int | None:
    """The least number of datasets from which on fute costs no more; None if there is none."""
    once: float = getattr(fute.once, what) - getattr(other.once, what)
    each: float = getattr(fute.each, what) - getattr(other.each, what)
    if each >= 0:
        return 1 if each == 0 and once <= 0 else None
    return max(1, math.ceil(once / -each))


def lines(measured: Measured) -> list[list[str]]:
    """A line of `COLUMNS` for each way, for all prompts."""
    ways = measured.ways()
    return [
        [
            way,
            f"{cost.labels:,.0f}",
            *(f"{_amount(getattr(cost.once, what))} + {_amount(getattr(cost.each, what))}" for what in COSTS),
            "" if way == FUTE else _since(ways[FUTE], cost),
        ]
        for way, cost in ways.items()
    ]


def _amount(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def _since(fute: Cost, other: Cost) -> str:
    found = {what: _number(crossing(fute, other, what)) for what in COSTS}
    if len(set(found.values())) == 1:
        return found[COSTS[0]]
    return ", ".join(f"{d} ({what})" for what, d in found.items())


def _number(d: int | None) -> str:
    return "never" if d is None else f"{d:,}"


def sentences(measured: Measured) -> Iterator[str]:
    """What the numbers say."""
    rows = sorted(measured.rows.values())
    texts = " to ".join(str(n) for n in dict.fromkeys((rows[0], rows[-1])))
    datasets = "a dataset" if len(rows) == 1 else f"{len(rows)} datasets"
    yield (
        f"{measured.sizes[-1]} prompts, U of {measured.corpus} texts, {datasets} of {texts} texts, "
        f"{measured.cores} cores."
    )
    for k in measured.sizes:
        ways = measured.ways(k)
        since = _since(ways[FUTE], ways[LABEL_FREE])
        yield (
            f"Of {k} prompts fute is cheaper than label-free ways that read answers from so many datasets on:"
            f" {since}."
        )


def draw(measured: Measured, folder: Path) -> list[Path]:
    """Write `efficiency-GRID.svg` and `.png`: costs against d, with the points from which on fute is cheaper,
    and against k for as many datasets as were measured. Returns their paths.
    """
    k, d = measured.sizes[-1], len(measured.rows)
    rows = [[_over_datasets(measured, what) for what in COSTS]]
    if len(measured.sizes) > 1:
        rows.append([_over_prompts(measured, what, d) for what in COSTS])
    title = f"{measured.grid}: what choosing among {k} prompts costs"
    written = [folder / f"efficiency-{measured.grid}{ending}" for ending in (".svg", ".png")]
    for path in written:
        write_lines(rows, path, title)
    return written


def _over_datasets(measured: Measured, what: What) -> Panel:
    ways = measured.ways()
    over = np.unique(np.geomspace(1, _MOST, 60).round()).tolist()
    others = [cost for way, cost in ways.items() if way != FUTE]
    # Of several that are met in one place, the first.
    met = {since: cost.way for cost in reversed(others) if (since := crossing(ways[FUTE], cost, what))}
    marks = {way: (float(d), ways[FUTE].of(what, d), f"{d}") for d, way in met.items() if 1 < d <= _MOST}
    drawn = {way: [cost.of(what, int(d)) for d in over] for way, cost in ways.items()}
    return Panel("datasets d", what, over, drawn, marks)


def _over_prompts(measured: Measured, what: What, datasets: int) -> Panel:
    sizes = measured.sizes
    drawn = {
        way: [measured.ways(k)[way].of(what, datasets) for k in sizes]
        for way in measured.ways()
        if all(way in measured.ways(k) for k in sizes)
    }
    return Panel(f"prompts k, for {datasets} datasets", what, sizes, drawn, {})
