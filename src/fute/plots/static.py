"""The map as a PNG or SVG, with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fute.core.files import write_atomically
from fute.core.runtime import require
from fute.plots.points import LEGENDS, SHAPES, Legends, Point, Shape, colours_of

_MANY = 40  # points; more are drawn smaller


def write_picture(
    all_points: Sequence[Point],
    path: Path,
    title: str,
    shapes: Mapping[str, Shape] = SHAPES,
    legends: Legends = LEGENDS,
) -> None:
    """Write the map to `path`; its ending (.png, .svg, .pdf) tells the format."""
    require("matplotlib", "plot", "the map")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # measures texts; the file's own format is drawn by savefig
    axes = figure.add_subplot()
    colours = colours_of(all_points)
    share = 1.0 if len(all_points) <= _MANY else 0.7
    for point in all_points:
        axes.scatter(
            point.x,
            point.y,
            marker=shapes[point.kind][1],
            s=(share * _diameter(point)) ** 2,
            c=colours[point.task],
            edgecolors="white",
            linewidths=0.8,
            zorder=3,
        )
    _spread_limits(axes, all_points)
    _legends(axes, all_points, colours, shapes, legends)
    axes.set_title(verbatim(title), loc="left", fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_color("#DDDDDD")
    figure.draw_without_rendering()  # what is beside the axes decides their size, and so where labels fit
    _label(axes, all_points, share)
    save(figure, path)


def _diameter(point: Point) -> float:
    """Of its marker, in points."""
    return 16.0 if point.kind == "dataset" else 9.0


def save(figure: Any, path: Path) -> None:
    """Write a picture in the format of the path's ending. Equal pictures are equal files: without a date, and
    with equal names for equal shapes.
    """
    import matplotlib

    kind, buffer = path.suffix.lstrip(".").lower() or "png", io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "fute"}):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_atomically(path, buffer.getvalue())


def verbatim(text: str) -> str:
    """Text that matplotlib doesn't take for a formula."""
    return text.replace("$", r"\$")


def _spread_limits(axes: Any, all_points: Sequence[Point]) -> None:
    for setter, values in (
        (axes.set_xlim, [p.x for p in all_points]),
        (axes.set_ylim, [p.y for p in all_points]),
    ):
        margin = 0.12 * (max(values) - min(values)) or 1.0
        setter(min(values) - margin, max(values) + margin)


def _label(axes: Any, all_points: Sequence[Point], share: float) -> None:
    """Put each name beside its point where it covers no other name and no point; else the least bad place. A
    line leads to a name that is far from its point.
    """
    from matplotlib.text import Text

    renderer = axes.figure.canvas.get_renderer()
    transform = axes.transData
    taken = []
    for point in all_points:
        x, y = transform.transform((point.x, point.y))
        radius = share * _diameter(point) / 2 * axes.figure.dpi / 72
        taken.append((x - radius, y - radius, x + radius, y + radius))
    frame = axes.get_window_extent(renderer)
    named = [point for point in all_points if point.written]
    for point in sorted(named, key=lambda p: (p.kind != "dataset", p.x)):
        best = None
        for dx, dy, ha, va in _OFFSETS:
            text = axes.annotate(
                verbatim(point.written),
                (point.x, point.y),
                (dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                zorder=4,
                fontsize=7.5,
                fontweight="bold" if point.kind == "dataset" else "normal",
                color="#222222",
                arrowprops=_LEADER if max(abs(dx), abs(dy)) > _BESIDE else None,
            )
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # without the line
            extent = (box.x0, box.y0, box.x1, box.y1)
            cost = sum(_overlap(extent, other) for other in taken)
            cost += 1e4 * (box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1)
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, text, extent)
            else:
                text.remove()
            if cost == 0:
                break
        if best is not None:
            taken.append(best[2])


_BESIDE = 8  # points from the middle of a marker to its name
_LEADER = {"arrowstyle": "-", "color": "#AAAAAA", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
_OFFSETS = tuple(
    (reach * dx, reach * dy, ha, va)
    for reach in (_BESIDE, 14, 22, 32, 44, 58)
    for dx, dy, ha, va in (
        (1, 0, "left", "center"),
        (-1, 0, "right", "center"),
        (0, 1, "center", "bottom"),
        (0, -1, "center", "top"),
        (0.7, 0.7, "left", "bottom"),
        (-0.7, 0.7, "right", "bottom"),
        (0.7, -0.7, "left", "top"),
        (-0.7, -0.7, "right", "top"),
    )
)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _legends(
    axes: Any,
    all_points: Sequence[Point],
    colours: dict[str, str],
    shapes: Mapping[str, Shape],
    legends: Legends,
) -> None:
    from matplotlib.lines import Line2D

    def handle(label: str, marker: str, colour: str) -> Any:
        return Line2D([], [], linestyle="", marker=marker, color=colour, label=verbatim(label), markersize=8)

    tasks = [handle(task, "o", colour) for task, colour in colours.items()]
    kinds = [
        handle(label, marker, "#555555")
        for kind, (label, marker, _) in shapes.items()
        if any(point.kind == kind for point in all_points)
    ]
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "title_fontsize": 8, "alignment": "left"}
    axes.figure.legend(handles=tasks, title=legends[0], loc="outside right upper", **style)
    axes.figure.legend(handles=kinds, title=legends[1], loc="outside right lower", **style)
