"""What models of a project reached on its datasets, kept for what to expect on the next one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fute.core.files import write_atomically
from fute.project import Project
from fute.selection.expected import FEWEST_DATASETS, Expected, Outcome, expect
from fute.space.similarity import cosines


def remember(project: Project, dataset: str, accuracies: Mapping[str, float]) -> None:
    """Keep the accuracies (0 to 1) of models on a dataset's held-out rows, each with the fingerprint of what
    answered, so that a model that has changed since has no outcome. What is known of others stays.
    """
    known = _known(_file(project))
    prints = {model.name: model.fingerprint for model in project.models}
    new = {name: [prints[name], value] for name, value in accuracies.items()}
    known[dataset] = {**known.get(dataset, {}), **new}
    write_atomically(_file(project), json.dumps(known, indent=1) + "\n")


def expected(project: Project, dataset: str) -> dict[str, Expected] | None:
    """What accuracy to expect of each model of the space on a dataset, from outcomes on at least three others
    (`fute.selection.expected.expect`); None with fewer.
    """
    known = _known(_file(project))
    if len(known.keys() - {dataset}) < FEWEST_DATASETS:
        return None  # and no model has to be built
    prints = {model.name: model.fingerprint for model in project.models}
    models = [e for e in project.space.embeddings("model") if e.name in prints]
    outcomes = []
    for other, reached in known.items():
        if other == dataset or other not in project.space:
            continue
        scores = dict(zip([m.name for m in models], cosines(project.space.get(other), models), strict=True))
        outcomes += [
            Outcome(other, name, float(scores[name]), float(value))
            for name, (fingerprint, value) in reached.items()
            if name in scores and fingerprint == prints[name]
        ]
    here = cosines(project.space.get(dataset), models)
    return expect(outcomes, {m.name: float(score) for m, score in zip(models, here, strict=True)})


def _file(project: Project) -> Path:
    return project.state / "outcomes.json"


def _known(file: Path) -> dict[str, dict[str, Any]]:
    """What is kept; nothing where there is no file, or one that can't be read: outcomes can be had again."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
