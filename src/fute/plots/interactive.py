"""The map as one HTML file that opens offline, with plotly."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from fute.core.files import write_atomically
from fute.core.runtime import require
from fute.plots.points import LEGENDS, SHAPES, Legends, Point, Shape, colours_of


def write_page(
    all_points: Sequence[Point],
    path: Path,
    title: str,
    shapes: Mapping[str, Shape] = SHAPES,
    legends: Legends = LEGENDS,
) -> None:
    """Write a page with everything inside: hover shows name, kind and provenance; the legend toggles."""
    require("plotly", "plot", "the interactive map")
    import plotly.graph_objects as go

    figure = go.Figure()
    colours = colours_of(all_points)
    for task, colour in colours.items():
        for kind, (kind_name, _, symbol) in shapes.items():
            shown = [p for p in all_points if (p.task, p.kind) == (task, kind)]
            if shown:
                figure.add_trace(
                    go.Scatter(
                        x=[p.x for p in shown],
                        y=[p.y for p in shown],
                        text=[html.escape(p.written) for p in shown],
                        customdata=[_hover(p, kind_name, legends) for p in shown],
                        hovertemplate="%{customdata}<extra></extra>",
                        mode="markers+text",
                        textposition="top center",
                        textfont={"size": 11, "color": "#222222"},
                        marker={
                            "symbol": symbol,
                            "size": 20 if kind == "dataset" else 12,
                            "color": colour,
                            "line": {"color": "white", "width": 1},
                        },
                        name=html.escape(f"{task} · {kind_name}"),
                    )
                )
    blank = {"showgrid": False, "zeroline": False, "showticklabels": False, "title": None}
    figure.update_layout(
        title={"text": html.escape(title).replace("\n", "<br>"), "font": {"size": 15}},
        template="plotly_white",
        xaxis=blank,
        yaxis=blank,
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"size": 12}},
        legend={"itemsizing": "constant"},
        margin={"l": 20, "r": 20, "t": 60, "b": 20},
    )
    write_atomically(
        path,
        figure.to_html(
            include_plotlyjs=True, full_html=True, default_height="96vh", config={"displaylogo": False}
        ),
    )


def _hover(point: Point, kind_name: str, legends: Legends) -> str:
    about = zip(legends[::-1], (kind_name, point.task), strict=True)
    lines = [f"<b>{html.escape(point.name)}</b>", *(f"{what}: {html.escape(said)}" for what, said in about)]
    return "<br>".join(lines + [html.escape(line).replace("\n", "⏎") for line in point.details])
