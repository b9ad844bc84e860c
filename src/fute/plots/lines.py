"""Lines on logarithmic axes, several panels of them, as a PNG or SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fute.core.runtime import require
from fute.plots.points import COLOURS
from fute.plots.static import save, verbatim

_DASHES = ("-", "--", "-.", ":")
_FEW = 6  # values of x, each of which then has a tick


class Panel(NamedTuple):
    """Lines over one x.

    Attributes:
        x, y: what the axes show.
        over: the x of all lines.
        lines: name → its y.
        marks: name of a line → where (x, y) it is met, with a word for it.
    """

    x: str
    y: str
    over: Sequence[float]
    lines: Mapping[str, Sequence[float]]
    marks: Mapping[str, tuple[float, float, str]]


def write_lines(panels: Sequence[Sequence[Panel]], path: Path, title: str) -> None:
    """Write rows of panels to `path`; its ending (.png, .svg, .pdf) tells the format. Lines of one name have
    one colour and one dash everywhere; the first name's is thick.
    """
    require("matplotlib", "plot", "the picture")
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in panels for panel in row for name in panel.lines))
    styles = {
        name: (
            COLOURS[i % len(COLOURS)],
            "-" if i == 0 else _DASHES[i % len(_DASHES)],
            2.6 if i == 0 else 1.4,
        )
        for i, name in enumerate(names)
    }
    columns = max(map(len, panels))
    figure = Figure(figsize=(3.9 * columns, 3.2 * len(panels) + 0.9), dpi=150, layout="constrained")
    grid = figure.subplots(len(panels), columns, squeeze=False)
    for row, all_axes in zip(panels, grid, strict=True):
        for panel, axes in zip(row, all_axes, strict=False):
            _draw(axes, panel, styles)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(verbatim(title), x=0.01, ha="left", fontsize=11)
    save(figure, path)


def _draw(axes: Any, panel: Panel, styles: Mapping[str, tuple[str, str, float]]) -> None:
    for name, ys in panel.lines.items():
        colour, dash, width = styles[name]
        axes.plot(panel.over, ys, dash, color=colour, linewidth=width, label=verbatim(name))
    for name, (x, y, word) in panel.marks.items():
        axes.plot([x], [y], "o", color=styles[name][0], markeredgecolor="white", markersize=7, zorder=4)
        axes.annotate(word, (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=7, zorder=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    if len(panel.over) <= _FEW:
        axes.set_xticks(panel.over)
        axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(verbatim(panel.x), fontsize=8)
    axes.set_ylabel(verbatim(panel.y), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(color="#EEEEEE")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
