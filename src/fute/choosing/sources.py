"""Which dataset to train on first: the others of the project as sources for one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fute.api import Embedder
from fute.choosing.case import Scored, scored
from fute.choosing.names import named
from fute.choosing.remarks import changes
from fute.choosing.trained import SAME
from fute.core.errors import ConfigError
from fute.core.hashing import digest
from fute.core.keyvalue import KeyValue
from fute.core.progress import Progress, silent
from fute.core.types import Examples, TaskEmbedding
from fute.methods.registry import Methods
from fute.project import Project
from fute.selection.baselines.sources import curve_grad, data_size, fit_loss_curve
from fute.selection.compare import Comparison, compare
from fute.selection.rank import rank
from fute.space.similarity import Similarity, cosines
from fute.surrogates.base import DEFAULT_SURROGATE

_CHEAP = ("DataSize", "text-emb", "SEmb")


@dataclass(frozen=True)
class _Sources:
    """k datasets `names` as sources for `dataset`."""

    project: Project
    dataset: str
    names: Sequence[str]
    similarity: Similarity
    progress: Progress


def choose_source(
    project: Project,
    dataset: str,
    *,
    against: Sequence[str] = (),
    similarity: Similarity = "inputs",
    progress: Progress = silent,
) -> Comparison:
    """What each way takes among the project's other datasets, as the one to train on before `dataset`.

    "fute" are the similarities of task embeddings in the project's space. No model is asked.

    Args:
        project: after `run`.
        dataset: one of its datasets.
        against: other ways, by name. Any embedding method, such as "task-emb" or "tupate", as it is set in
            fute.yaml or else by its defaults (or the preset's), through the project's surrogate; "SEmb": the
            mean of the texts' sentence embeddings, by the default surrogate; "DataSize"; "CurveGrad", for
            which the surrogate is tuned on each source. "baselines" for those that are fast, "all" for all.
        similarity: of embeddings that are a map from inputs to labels (`linear-probe`); of vectors it is
            always their cosine.
        progress: told of embeddings that are made.

    Raises:
        ConfigError: no such dataset, no other one in the space, or an unknown way.

    Source: the ways, Vu et al. 2020, doi:10.18653/v1/2020.emnlp-main.635; SEmb, Poth et al. 2021,
    doi:10.18653/v1/2021.emnlp-main.827.
    """
    ways = _ways()
    chosen = named(against, list(ways), {"baselines": _CHEAP, "all": list(ways)})
    target = project.target(dataset)
    stored = [e for e in project.space.embeddings("dataset") if e.name in project.datasets]
    sources = [e for e in stored if e.name != dataset]
    if not sources:
        raise ConfigError(
            f"there is no other dataset that could be a source for {dataset}",
            fix="add some to `datasets:` in fute.yaml, then `fute run`",
        )
    names = [e.name for e in sources]
    case = _Sources(project, dataset, names, similarity, progress)
    ranking = rank(target, sources, _of(target, similarity))
    by_name = {line.name: line.score for line in ranking.candidates}
    scores = {"fute": np.array([by_name[name] for name in names])}
    notes = changes(project, [dataset, *names])
    for name in chosen:
        made = scored(name, partial(ways[name], case), len(names))
        scores[name] = made.scores
        notes += made.notes
    if {"text-emb", "SEmb"} <= scores.keys() and project.embedder.surrogate.id == DEFAULT_SURROGATE:
        notes.append(SAME)
    return compare(dataset, names, scores, None, 0, notes, ranking=ranking, ranked_by="fute")


def _ways() -> Mapping[str, Callable[[_Sources], Scored]]:
    methods = {name: partial(_by_method, name) for name in Methods()}
    return {"DataSize": _by_size, **methods, "SEmb": _by_sentences, "CurveGrad": _by_curves}


def _by_size(case: _Sources) -> Scored:
    return Scored(np.array([data_size(case.project.datasets[name][0]) for name in case.names]))


def _by_method(method: str, case: _Sources) -> Scored:
    return _by_embedder(case.project.embedder_of(method), case)


def _by_sentences(case: _Sources) -> Scored:
    return _by_embedder(case.project.embedder_of("text-emb", DEFAULT_SURROGATE), case)


def _by_embedder(embedder: Embedder, case: _Sources) -> Scored:
    made = case.project.embedded(embedder, (case.dataset, *case.names), case.progress)
    return Scored(_similar(made[0], made[1:], case.similarity))


def _similar(
    target: TaskEmbedding, sources: Sequence[TaskEmbedding], similarity: Similarity
) -> NDArray[np.float64]:
    return cosines(target, sources, _of(target, similarity))


def _of(target: TaskEmbedding, similarity: Similarity) -> Similarity:
    """Of a vector "inputs" would be the square of its cosine, without its sign."""
    return "map" if target.right.shape == (1, 1) else similarity


def _by_curves(case: _Sources) -> Scored:
    losses = [_losses(case, case.project.work(name).examples) for name in case.names]
    curves = [fit_loss_curve(np.arange(1, len(one) + 1), one) for one in losses]
    return Scored(curve_grad(curves))


def _losses(case: _Sources, examples: Examples) -> NDArray[np.float64]:
    """The loss curve of tuning the surrogate on a source. Made once, then kept."""
    from fute.surrogates.loss_curve import FineTuning, loss_curve

    surrogate, seed, schedule = case.project.embedder.surrogate, case.project.config.seed, FineTuning()
    kept = KeyValue(case.project.state / "curves.sqlite")
    key = digest([1, surrogate.digest, vars(schedule), seed, examples.fingerprint])
    found = kept.get([key])
    if key in found:
        return np.array(json.loads(found[key]))
    made = loss_curve(examples, surrogate, schedule, seed, case.progress)
    kept.put({key: json.dumps(made.tolist()).encode()})
    return made
