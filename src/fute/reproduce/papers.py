"""What the paper's own task embeddings say of prompts, beside fute's: rows of table 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fute.core.progress import Progress, silent
from fute.core.types import TaskEmbedding
from fute.project import Project
from fute.reproduce.ways import PAPERS, Way, drawn, embedded
from fute.space.similarity import cosine
from fute.space.space import Space


def papers_scores(
    project: Project,
    candidates: Mapping[str, Sequence[str]],
    rows: int | None = None,
    progress: Progress = silent,
    draw: int = 0,
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """For each of `PAPERS` the cosines of prompts' embeddings and a dataset's. Embeddings are made from the
    answers that are kept, and kept in turn: a run that is stopped goes on.

    Args:
        project: after `run`.
        candidates: dataset → the names of its k prompts.
        rows: in place of the ways' own.
        draw: another number takes other rows, where there are more, and starts from other noise.

    Returns:
        {dataset: {way: scores (k,)}}, higher is better.
    """
    found: dict[str, dict[str, NDArray[np.float64]]] = {dataset: {} for dataset in candidates}
    for name, way in PAPERS.items():
        way = way if rows is None else replace(way, rows=rows)
        names = dict.fromkeys([*candidates, *(one for several in candidates.values() for one in several)])
        made = embedded_in(project, way, list(names), progress, draw)
        for dataset, several in candidates.items():
            found[dataset][name] = np.array([cosine(made[dataset], made[one]) for one in several])
    return found


def embedded_in(
    project: Project, way: Way, names: Sequence[str], progress: Progress = silent, draw: int = 0
) -> dict[str, TaskEmbedding]:
    """The embeddings of that kind of a project's datasets and models, by name; those that are missing, or of
    other answers than are kept now, are made first.
    """
    embedder = project.embedder_of(way.method, options=way.options)
    embedder = replace(embedder, seed=embedder.seed + draw)
    space = Space(project.state / "papers" / f"{embedder.spec.fingerprint}-{way.rows}")
    held = {e.name: e for e in space.embeddings()}
    for done, name in enumerate(names):
        progress(f"{way.method}, {way.rows} rows, draw {draw} ({project.folder.name})", done, len(names))
        work = drawn(way, project.work(name), embedder.seed)
        content = embedder.content(work.examples, work.kind)
        if name not in held or held[name].provenance.get("content") != content:
            held[name] = embedded(way, embedder, work)
            space.add(held[name])
    return {name: held[name] for name in names}
