"""What the paper's own task embeddings say of prompts, beside fute's: rows of table 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fute.api import Work
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
    names = dict.fromkeys([*candidates, *(one for several in candidates.values() for one in several)])
    works = [project.work(name) for name in names]
    for name, way in PAPERS.items():
        way = way if rows is None else replace(way, rows=rows)
        made = embedded_in(project, way, works, progress, draw)
        for dataset, several in candidates.items():
            found[dataset][name] = np.array([cosine(made[dataset], made[one]) for one in several])
    return found


def embedded_in(
    project: Project, way: Way, works: Sequence[Work], progress: Progress = silent, draw: int = 0
) -> dict[str, TaskEmbedding]:
    """The embeddings of that kind of a project's works, by name; those that are missing, or of other answers
    than are kept now, are made first.
    """
    embedder = project.embedder_of(way.method, options=way.options)
    embedder = replace(embedder, seed=embedder.seed + draw)
    space = Space(project.state / "papers" / f"{embedder.spec.fingerprint}-{way.rows}")
    held = {e.name: e for e in space.embeddings()}
    for done, whole in enumerate(works):
        progress(f"{way.method}, {way.rows} rows, draw {draw} ({project.folder.name})", done, len(works))
        work = drawn(way, whole, embedder.seed)
        content = embedder.content(work.examples, work.kind)
        if work.name not in held or held[work.name].provenance.get("content") != content:
            held[work.name] = embedded(way, embedder, work)
            space.add(held[work.name])
    return {work.name: held[work.name] for work in works}
