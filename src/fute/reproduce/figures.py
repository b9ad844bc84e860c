"""The paper's maps: task embeddings of source models (figures 3 and A1) and of prompts (figures 4 and A2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fute.core.errors import ConfigError
from fute.core.types import TaskEmbedding
from fute.plots.interactive import write_page
from fute.plots.points import Point, Shape
from fute.plots.static import write_picture
from fute.project import Project
from fute.reproduce.evidence import Evidence
from fute.reproduce.prompts import GRIDS
from fute.space.layout import Faith, faith, layout

_MARKERS = (("o", "circle"), ("s", "square"), ("D", "diamond"), ("^", "triangle-up"))
_DATASET: Shape = ("dataset", "*", "star")


class Shown(NamedTuple):
    """An embedding, and what its point shows.

    Attributes:
        name: beside the point; may be empty.
        colour, shape: what the point's colour and shape stand for; "dataset" is a star.
    """

    embedding: TaskEmbedding
    name: str
    colour: str
    shape: str


def source_models(evidence: Evidence, way: str, *, datasets: bool) -> list[Shown]:
    """MTEs of the source models, by group; with the DTEs of all tasks, by task."""
    groups = {task.name: task.group for task in evidence.grid.tasks}
    shown = []
    for e in evidence.embeddings(way):
        kind, _, name = e.name.partition(" ")
        if kind == "model":
            base, _, task = name.partition("/")
            shown.append(Shown(e, task, task if datasets else groups[task], base))
        elif kind == "target" and datasets:
            shown.append(Shown(e, name, name, "dataset"))
    return shown


def prompts(work: Path, scale: str, *, names: bool) -> list[Shown]:
    """MTEs of all prompts of all grids that were run, by task and LLM."""
    shown = []
    for grid in GRIDS[scale]:
        task, _, llm = grid.partition("-")
        if (work / grid / ".fute").is_dir():
            found = Project(work / grid).space.embeddings("model")
            shown += [Shown(e, e.name.replace("paper-", "") if names else "", task, llm) for e in found]
    return shown


def draw(shown: Sequence[Shown], to: Path, title: str) -> Faith:
    """Write `to`.svg, .png and .html, and say how faithful the map is.

    Raises:
        ConfigError: fewer than three embeddings.
    """
    if len(shown) < 3:
        raise ConfigError("there are too few task embeddings for a map", fix="run the tables first")
    embeddings = [one.embedding for one in shown]
    places = layout(embeddings)
    points = [
        Point(one.name, float(x), float(y), one.colour, one.shape, (one.embedding.name,))
        for one, (x, y) in zip(shown, places, strict=True)
    ]
    models = sorted({one.shape for one in shown} - {"dataset"})
    shapes = {"dataset": _DATASET}
    shapes |= {name: (name, *_MARKERS[i % len(_MARKERS)]) for i, name in enumerate(models)}
    for ending in (".svg", ".png"):
        write_picture(points, to.with_suffix(ending), title, shapes)
    write_page(points, to.with_suffix(".html"), title, shapes)
    return faith(embeddings, np.asarray(places))
