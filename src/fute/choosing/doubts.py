"""Candidates to doubt, whatever the dataset: those that say one thing of all texts, or say what others do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from fute.core.errors import listing
from fute.labelling.runner import Answered, known
from fute.project import Project
from fute.space.similarity import cosine_matrix

# A label that so many texts get leaves nothing to tell them apart by.
_CONSTANT = 0.98
# A cosine of two models above this: they are one model under two names, or nearly.
_ALIKE = 0.999


def doubts(
    project: Project, models: Sequence[str], answered: Mapping[str, Answered] | None = None
) -> list[str]:
    """For models of the space, a sentence on those whose kept answers to U are nearly all one and the same,
    and on each that answers U like others before it. Asks nothing.

    Args:
        answered: the kept answers to U (`labelling.runner.known`), where they have been read already.

    Raises:
        SpaceError: the space has no such model.
    """
    if answered is None:
        boxes = [box for box in project.models if box.name in models]
        answered = known(boxes, project.corpus.inputs, project.embedder.predictions)
    constant = [name for name in models if name in answered and _most(answered[name]) >= _CONSTANT]
    found = [f"Nearly all texts of U get the same answer from {listing(constant)}."] if constant else []
    similar = cosine_matrix([project.space.get(name) for name in models])
    for i, name in enumerate(models):
        twins = [models[j] for j in range(i) if similar[i, j] > _ALIKE]
        if twins:
            found.append(f"{name} answers U like {listing(twins)}.")
    return found


def _most(answered: Answered) -> float:
    """The share of the answers that the most frequent one is, 0 to 1; of classes, of the most probable."""
    said: Iterable[object] = map(str, answered.answers)
    if answered.box.output == "class":
        said = answered.named.argmax(axis=1).tolist()
    elif answered.box.output == "score":
        said = answered.predictions[:, 0].tolist()
    counts = Counter(said)
    return max(counts.values()) / counts.total() if counts else 0.0
