"""What both pictures of a map show: places, names, tasks and kinds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from fute.core.types import TaskEmbedding
from fute.space.layout import layout

# Okabe & Ito's colours: told apart by colour-blind eyes too, and on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C564B")

# Name in the legend, marker in matplotlib, marker in plotly.
Shape = tuple[str, str, str]
# What colours and shapes stand for.
Legends = tuple[str, str]
LEGENDS: Legends = ("task", "kind")
# By kind.
SHAPES: dict[str, Shape] = {
    "dataset": ("dataset", "*", "star"),
    "llm": ("LLM + prompt", "o", "circle"),
    "python": ("Python function", "s", "square"),
    "sklearn": ("scikit-learn", "D", "diamond"),
}


@dataclass(frozen=True)
class Point:
    """One embedding on the map. `details` are lines of its provenance, for people; `label` stands beside the
    point instead of its name, and may be empty.
    """

    name: str
    x: float
    y: float
    task: str
    kind: str
    details: tuple[str, ...]
    label: str | None = None

    @property
    def written(self) -> str:
        """What stands beside it."""
        return self.name if self.label is None else self.label


def points(embeddings: Sequence[TaskEmbedding]) -> list[Point]:
    """The embeddings laid out in two dimensions."""
    places = layout(embeddings)
    kinds = [str(e.provenance.get("model_kind")) if e.kind == "model" else "dataset" for e in embeddings]
    return [
        Point(
            name=e.name,
            x=float(x),
            y=float(y),
            task=str(e.provenance.get("task", "")),
            kind=kind if kind in SHAPES else "python",  # a BlackBox of the user's own
            details=_details(e),
        )
        for e, kind, (x, y) in zip(embeddings, kinds, places, strict=True)
    ]


def colours_of(all_points: Sequence[Point]) -> dict[str, str]:
    """A colour for each task, the same in both pictures."""
    tasks = sorted({point.task for point in all_points})
    return {task: COLOURS[i % len(COLOURS)] for i, task in enumerate(tasks)}


_SHOWN = (
    "llm",
    "template",
    "words",
    "chat",
    "system",
    "shots",
    "function",
    "estimator",
    "source",
    "corpus",
    "examples",
)


def _details(e: TaskEmbedding) -> tuple[str, ...]:
    lines = []
    for field in _SHOWN:
        value = e.provenance.get(field)
        if value not in (None, False, ""):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines.append(f"{field}: {text[:160]}")
    return tuple(lines)
