"""What models of a project reached on its datasets, kept for what to expect on the next one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from fute.changed import fingerprints, outdated
from fute.core.errors import FuteError
from fute.core.files import write_atomically
from fute.core.labels import matching
from fute.project import Project
from fute.selection.expected import FEWEST_DATASETS, Expected, Outcome, expect
from fute.space.similarity import Similarity, cosines

# For each dataset and model, the fingerprint of what answered and the accuracy that it reached.
Known = dict[str, dict[str, tuple[str, float]]]


def remember(project: Project, dataset: str, accuracies: Mapping[str, float]) -> None:
    """Keep the accuracies (0 to 1) of models on a dataset's held-out rows, each with the fingerprint of what
    answered, so that a model that has changed since has no outcome. What is known of others stays. Where the
    space's embeddings are of other models or rows than these, nothing is kept: their scores say nothing of
    the accuracies.
    """
    try:
        old = outdated(project, {dataset, *accuracies})
    except FuteError:  # U can't be read: whether it is the old one can't be told
        return
    if dataset in old:
        return
    known = _known(_file(project))
    prints = _fingerprints(project, accuracies.keys() - old.keys())
    new = {name: (prints[name], value) for name, value in accuracies.items() if name in prints}
    known[dataset] = {**known.get(dataset, {}), **new}
    write_atomically(_file(project), json.dumps(known, indent=1) + "\n")


def expected(project: Project, dataset: str, similarity: Similarity = "map") -> dict[str, Expected] | None:
    """What accuracy to expect of each model of the space that answers a dataset's labels, from outcomes on at
    least three others (`fute.selection.expected.expect`); None without (`why_none` says what is missing).

    Args:
        project: after `run`.
        dataset: one of its space.
        similarity: of the scores, as for `fute.selection.rank.rank`.
    """
    counting, able = _counting(project, dataset), _able(project, dataset)
    if len(counting) < FEWEST_DATASETS or not able:
        return None
    models = project.space.embeddings("model")
    outcomes = []
    for other, reached in counting.items():
        some = [e for e in models if e.name in reached]
        scores = cosines(project.space.get(other), some, similarity).tolist()
        outcomes += [Outcome(other, e.name, s, reached[e.name]) for e, s in zip(some, scores, strict=True)]
    asked = [e for e in models if e.name in able]
    here = cosines(project.space.get(dataset), asked, similarity).tolist()
    return expect(outcomes, {e.name: score for e, score in zip(asked, here, strict=True)})


def why_none(project: Project, dataset: str) -> str:
    """Why there is no accuracy to expect, in a sentence."""
    if not _able(project, dataset):
        return f"No expected accuracy: no model answers the labels of {dataset}."
    n = len(_counting(project, dataset))
    return f"No expected accuracy: outcomes of {n} of the {FEWEST_DATASETS} datasets needed (`--accuracy`)."


def _able(project: Project, dataset: str) -> set[str]:
    """The models of the space that answer the labels of a dataset of it."""
    entries = project.space.entries()
    (labels,) = [entry.labels for entry in entries if entry.name == dataset]
    if len(labels) < 2:  # scores, texts or spans
        return set()
    models = [entry for entry in entries if entry.kind == "model"]
    return {entry.name for entry in models if matching(entry.labels, labels) is not None}


def _counting(project: Project, dataset: str) -> dict[str, dict[str, float]]:
    """The accuracies by other dataset and model, as far as both are in the space, of models that are still
    what answered then.
    """
    known = {other: reached for other, reached in _known(_file(project)).items() if other != dataset}
    prints = _fingerprints(project, {name for reached in known.values() for name in reached})
    kinds = {entry.name: entry.kind for entry in project.space.entries()}
    found = {
        other: {
            name: value
            for name, (fingerprint, value) in reached.items()
            if kinds.get(name) == "model" and prints.get(name) == fingerprint
        }
        for other, reached in known.items()
        if kinds.get(other) == "dataset"
    }
    return {other: reached for other, reached in found.items() if reached}


def _fingerprints(project: Project, names: Set[str]) -> dict[str, str]:
    return fingerprints([model for model in project.models if model.name in names]) if names else {}


def _file(project: Project) -> Path:
    return project.state / "outcomes.json"


def _known(file: Path) -> Known:
    """What is kept and can be read: of what can't be, the outcomes can be had again."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        dataset: {name: tuple(one) for name, one in reached.items() if _is_outcome(one)}
        for dataset, reached in (found.items() if isinstance(found, dict) else ())
        if isinstance(reached, dict)
    }


def _is_outcome(value: Any) -> bool:
    """Whether it is a fingerprint and an accuracy."""
    if not isinstance(value, list) or [type(part) for part in value] not in ([str, float], [str, int]):
        return False
    return bool(0 <= value[1] <= 1)
