"""Ranking candidates for a dataset by the similarity of their task embeddings to its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import SpaceError, listing
from fute.core.types import TaskEmbedding
from fute.selection.uncertainty import (
    EQUAL,
    chances_of_best,
    chances_to_beat,
    interval,
    limits,
    score_deviations,
    times_as_many_texts,
)
from fute.space.similarity import Similarity, cosines, resampled_products

TIED = "All scores are equal: this method can't tell these models apart."


# Below this chance to be at least as good as the first, a candidate is out.
_CHANCE = 0.05
# More texts than this are no advice.
_MOST_TIMES = 100.0


class Candidate(NamedTuple):
    """One line of a ranking. A tuple, for there may be very many.

    Attributes:
        rank: 1 is best.
        score: with the texts that there are; higher is better, -1 to 1. It decides the rank.
        limit: what the score would come to with ever more texts (`uncertainty.limits`), and `low` to `high`,
            which hold it in 90 of 100 cases; None without replicates, as are the chances.
        p_best: how likely this is the candidate that scores highest, 0 to 1.
        p_beats_first: how likely it scores at least as high as the first, 0 to 1.
    """

    rank: int
    name: str
    score: float
    limit: float | None = None
    low: float | None = None
    high: float | None = None
    p_best: float | None = None
    p_beats_first: float | None = None


@dataclass(frozen=True)
class Ranking:
    """The candidates for a dataset, best first.

    Attributes:
        more_texts: how many times as many texts, of U and of the dataset, would tell the first from all other
            contenders but the inseparable; None where there are none, as without replicates.
        inseparable: the contenders that not even 100 times as many would tell from it: their scores are
            equal, or nearly.
    """

    dataset: str
    space: str
    candidates: tuple[Candidate, ...]
    more_texts: float | None = None
    inseparable: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    @property
    def contenders(self) -> tuple[Candidate, ...]:
        """The first, and all that score at least as high in more than 5 % of the resamples: any of them may
        be the best. Without replicates, the first alone.
        """
        others = [c for c in self.candidates[1:] if (c.p_beats_first or 0) > _CHANCE]
        return (self.best, *others)

    @property
    def too_close(self) -> bool:
        """Whether another may be as good as the first: then the first is not surely the best."""
        return len(self.contenders) > 1

    @property
    def verdict(self) -> str | None:
        """What to know before taking the first, in a sentence; None where it is surely the first."""
        if self.tied:
            return TIED
        if not self.too_close:
            return None
        names = [c.name for c in self.contenders]
        line = f"Too close to call: {listing(names)}."
        if self.more_texts is not None:
            others = [name for name in names[1:] if name not in self.inseparable]
            times = f"{float(f'{self.more_texts:.2g}'):g}"  # 100, where two digits alone make it 1e+02
            many = "A few more" if times == "1" else f"About {times} × as many"
            line += f" {many} texts would tell {names[0]} from {listing(others)}."
        if self.inseparable:
            much = f"{_MOST_TIMES:.0f} × as many texts"
            line += f" Not even {much} would tell {names[0]} from {listing(self.inseparable)}."
        return line

    @property
    def tied(self) -> bool:
        """Whether several candidates have one score, to within 0.001: the method can't tell them apart."""
        return len(self.candidates) > 1 and self.best.score - self.candidates[-1].score <= EQUAL

    def as_dict(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "space": self.space,
            "too_close_to_call": self.too_close,
            "more_texts": self.more_texts,
            "inseparable": list(self.inseparable),
            "ranking": [candidate._asdict() for candidate in self.candidates],
        }

    def __str__(self) -> str:
        lines = [f"{'rank':>4}  {'score':>6}  {'with more texts':<16}  {'P(best)':>7}  name"]
        for c in self.candidates:
            bounds = "no interval" if c.low is None else f"{c.low:+.3f} … {c.high:+.3f}"
            chance = "" if c.p_best is None else f"{c.p_best:.2f}"
            lines.append(f"{c.rank:>4}  {c.score:+.3f}  {bounds:<16}  {chance:>7}  {c.name}")
        return "\n".join([*lines, self.verdict] if self.verdict else lines)


def rank(
    dataset: TaskEmbedding, candidates: Sequence[TaskEmbedding], similarity: Similarity = "map"
) -> Ranking:
    """Rank by `cos(e_D, e_M)`, with what a bootstrap says of it; equal scores by name. `similarity`: of the
    whole "map" from inputs to label meanings, or of its "inputs" alone, which needs no shared label names.

    Raises:
        SpaceError: no candidates, or one from another space.
    """
    if not candidates:
        raise SpaceError("there are no models to rank", fix="`fute run` labels and embeds those of fute.yaml")
    names = [c.name for c in candidates]
    if not any(len(e.replicates) for e in (dataset, *candidates)):
        scores = cosines(dataset, candidates, similarity)
        order = _in_order(scores, names)
        lines = map(Candidate, range(1, len(names) + 1), [names[i] for i in order], scores[order].tolist())
        return Ranking(dataset.name, dataset.spec.fingerprint, tuple(lines))
    products = resampled_products(dataset, candidates, similarity)
    scores, drawn = products.cosines, score_deviations(products)
    limit, limit_drawn = limits(products)
    order = _in_order(scores, names)
    best, ends = chances_of_best(scores, drawn), interval(limit, limit_drawn, least=products.least)
    columns = [scores, limit]
    if best is not None and ends is not None:
        columns += [*ends, best, chances_to_beat(order[0], scores, drawn)]
    rows = np.stack(columns, axis=1)[order].tolist()
    some = [Candidate(number, names[order[number - 1]], *row) for number, row in enumerate(rows, start=1)]
    ranking = Ranking(dataset.name, dataset.spec.fingerprint, tuple(some))
    return _with_advice(ranking, scores[order], drawn[order]) if ranking.too_close else ranking


def _with_advice(ranking: Ranking, scores: NDArray[np.float64], drawn: NDArray[np.float64]) -> Ranking:
    """The ranking with what would tell the first from the others, whose scores and deviations are in its
    order.
    """
    others = [c.rank - 1 for c in ranking.contenders[1:]]
    times = times_as_many_texts(scores[0] - scores[others], drawn[0] - drawn[others], _CHANCE)
    within = times <= _MOST_TIMES
    beyond = [ranking.candidates[i].name for i, can in zip(others, within, strict=True) if not can]
    more = float(times[within].max()) if within.any() else None
    return replace(ranking, more_texts=more, inseparable=tuple(beyond))


def _in_order(scores: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.intp]:
    """The places of the candidates, highest score first, equal ones by name."""
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__))
    return by_name[np.argsort(-scores[by_name], kind="stable")]
