"""Candidates that were trained on rows of the dataset they are chosen for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fute.core.errors import listing
from fute.core.types import Input
from fute.data.corpus import Corpus
from fute.data.overlap import overlapping
from fute.models.section import TrainedOn
from fute.project import Project


def leaks(project: Project, dataset: str, models: list[str]) -> list[str]:
    """For models whose training data `trained_on` gives, how many rows of the dataset are in it: a sentence
    for those that have the same, none where no row is.

    Raises:
        DataError: a file can't be read.
    """
    trained: dict[tuple[TrainedOn, ...], list[str]] = defaultdict(list)
    for section in project.sections:
        if section.name in models and section.trained_on:
            trained[tuple(section.trained_on)].append(section.name)
    train, held_out = project.datasets[dataset]
    found = []
    for files, names in trained.items():
        seen = overlapping([*train.inputs, *held_out.inputs], texts_of(project, files))
        if seen.any():
            rows = f"{np.count_nonzero(seen)} of the {len(seen)} rows of {dataset}"
            apart = f", {np.count_nonzero(seen[len(train) :])} of them held out" if len(held_out) else ""
            found.append(f"{listing(names)}: trained on {rows}{apart}.")
    return found


def texts_of(project: Project, files: Sequence[TrainedOn]) -> list[Input]:
    """The texts of training data, those of a file each once. Raises DataError where a file can't be read."""
    found: list[Input] = []
    for file in files:
        columns = file.model_dump(exclude={"path"})
        found += Corpus.from_file(project.folder / file.path, drop_empty=True, **columns).inputs
    return found
