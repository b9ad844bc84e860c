"""The paper's maps: task embeddings of source models (figures 3 and A1) and of prompts (figures 4 and A2).

What they are drawn from, the cosines of all pairs, is saved: the pictures can be made again without the
embeddings, which are hundreds of times as large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fute.core.errors import ConfigError
from fute.core.files import write_atomically
from fute.core.progress import Progress, silent
from fute.core.section import Section
from fute.core.types import TaskEmbedding
from fute.plots.interactive import write_page
from fute.plots.points import Point, Shape
from fute.plots.static import write_picture
from fute.project import Project
from fute.reproduce.evidence import FUTE, Evidence
from fute.reproduce.papers import embedded_in
from fute.reproduce.prompts import complete_grids
from fute.reproduce.ways import PAPERS
from fute.space.layout import Faith, faith, layout_of
from fute.space.similarity import Similarity, cosine_matrix

_MARKERS = (("o", "circle"), ("s", "square"), ("D", "diamond"), ("^", "triangle-up"))
_DATASET = "dataset"
_GROUPS = {
    "cr": "classification or regression",
    "qa": "question answering",
    "domain": "other domains",
    "nli": "natural language inference",
}
_DIGITS = 5  # of a cosine

Of = Literal["models", "prompts"]


class By(NamedTuple):
    """Task embeddings of one kind.

    Attributes:
        title: what they are called.
        method: of a project.
        way: of `evidence.WAYS`.
        similarity: of source models, whose labels differ.
        ending: of the files' names.
    """

    title: str
    method: str
    way: str
    similarity: Similarity
    ending: str


# fute's default, which is there at once, and the paper's own.
BY = (
    By("fute's linear probes", "linear-probe", FUTE, "inputs", "-fute"),
    By("FUTE with TuPaTE", "tupate", "FUTE+TuPaTE", "map", ""),
)


class Figure(NamedTuple):
    """What a figure shows; `detailed` has names, and the datasets beside the models trained on them."""

    of: Of
    detailed: bool


FIGURES: Mapping[str, Figure] = {
    "figure3": Figure("models", detailed=False),
    "figureA1": Figure("models", detailed=True),
    "figure4": Figure("prompts", detailed=False),
    "figureA2": Figure("prompts", detailed=True),
}


class Shown(Section):
    """One embedding: its name, what is written beside it, its category of tasks, and the model that it is of,
    or "dataset".
    """

    name: str
    label: str
    group: str
    model: str


class Map(Section):
    """Embeddings and the cosines of all pairs (n, n): `map-OF-METHOD-SCALE.json`."""

    shown: list[Shown]
    cosines: list[list[float]]

    @classmethod
    def of(
        cls, shown: Sequence[Shown], embeddings: Sequence[TaskEmbedding], similarity: Similarity = "map"
    ) -> Map:
        cosines = cosine_matrix(embeddings, similarity) if embeddings else np.empty((0, 0))
        return cls(shown=list(shown), cosines=cosines.round(_DIGITS).tolist())

    def without_datasets(self) -> Map:
        kept = [i for i, one in enumerate(self.shown) if one.model != _DATASET]
        cosines = np.array(self.cosines)[np.ix_(kept, kept)]
        return Map(shown=[self.shown[i] for i in kept], cosines=cosines.tolist())


def source_models(evidence: Evidence, by: By) -> Map:
    """MTEs of the source models, and DTEs of all tasks, that were made for the tables."""
    groups = {task.name: _GROUPS.get(task.group, task.group) for task in evidence.grid.tasks}
    pairs = []
    for e in evidence.embeddings(by.way):
        kind, _, name = e.name.partition(" ")
        model, _, task = name.rpartition("/")
        if kind == "model":
            pairs.append((Shown(name=name, label=task, group=groups[task], model=model), e))
        elif kind == "target":
            pairs.append((Shown(name=name, label=task, group=groups[task], model=_DATASET), e))
    return Map.of([shown for shown, _ in pairs], [e for _, e in pairs], by.similarity)


def prompts(work: Path, scale: str, by: By, progress: Progress = silent) -> Map:
    """MTEs of all prompts of the grids in this folder that are complete. Those that another method than the
    grid's own gives are made first, from the answers that are kept: seconds each.
    """
    shown, embeddings = [], []
    for folder in complete_grids(work, scale):
        task, _, llm = folder.name.partition("-")
        for e in _embedded(Project(folder), by, progress):
            label, group = _number(e.name), _GROUPS.get(task, task)
            shown.append(Shown(name=f"{e.name} ({llm})", label=label, group=group, model=llm))
            embeddings.append(e)
    return Map.of(shown, embeddings)


def _embedded(project: Project, by: By, progress: Progress) -> list[TaskEmbedding]:
    names = [section.name for section in project.sections]
    if by.way in PAPERS:
        works = [project.work(name) for name in names]
        return list(embedded_in(project, PAPERS[by.way], works, progress).values())
    return [e for e in project.space.embeddings("model") if e.name in names]


def _number(name: str) -> str:
    """The number of a prompt in the paper's tables A1 and A2; nothing for others."""
    family, _, prompt = name.partition("/")
    if not prompt.isdigit():
        return ""
    return f"{prompt} chat" if family.endswith("chat") else prompt


def fullest_map(fresh: Callable[[], Map | None], out: Path, of: Of, by: By, scale: str) -> Map | None:
    """The map that shows the most: what this machine has embedded, which is saved, or what was saved before;
    None where there are fewer than three embeddings.
    """
    file = out / f"map-{of}-{by.method}-{scale}.json"
    saved = Map.model_validate_json(file.read_text("utf-8")) if file.is_file() else None
    made = fresh()
    if made is not None and len(made.shown) >= max(3, len(saved.shown) if saved else 0):
        write_atomically(file, made.model_dump_json() + "\n")
        return made
    return saved


def draw(shown: Map, figure: Figure, to: Path, by: By) -> Faith:
    """Write `to`.svg, .png and .html: t-SNE of the cosines, the colour for the category of tasks, the shape
    for the model, as in the paper. Says how faithful the map is.

    Raises:
        ConfigError: fewer than three embeddings.
    """
    found = shown if figure.detailed else shown.without_datasets()
    if len(found.shown) < 3:
        raise ConfigError("there are too few task embeddings for a map", fix="run the tables first")
    cosines = np.array(found.cosines)
    places = layout_of(cosines)
    points = [
        Point(one.name, float(x), float(y), one.group, one.model, (), one.label if figure.detailed else "")
        for one, (x, y) in zip(found.shown, places, strict=True)
    ]
    of = "model" if figure.of == "models" else "LLM"
    arguments: dict[str, Any] = {"shapes": _shapes(found), "legends": ("task", of)}
    faithful = faith(cosines, places)
    recall = f"neighbour recall {faithful.neighbour_recall:.2f} (k = {faithful.k})"
    datasets = sum(one.model == _DATASET for one in found.shown)
    title = f"{len(points) - datasets} task embeddings of {figure.of}"
    title += f" and {datasets} of datasets, by {by.title}\n" if datasets else f", by {by.title}\n"
    title += f"trustworthiness {faithful.trustworthiness:.2f}, {recall}"
    for ending in (".svg", ".png"):
        write_picture(points, to.with_suffix(ending), title, **arguments)
    write_page(points, to.with_suffix(".html"), title, **arguments)
    return faithful


def _shapes(shown: Map) -> dict[str, Shape]:
    models = sorted({one.model for one in shown.shown} - {_DATASET})
    shapes: dict[str, Shape] = {_DATASET: (_DATASET, "*", "star")}
    return shapes | {name: (name, *_MARKERS[i % len(_MARKERS)]) for i, name in enumerate(models)}
