"""What a way to choose is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fute.core.errors import ConfigError, FuteError, StorageError, listing
from fute.core.progress import Progress
from fute.data.corpus import Corpus
from fute.data.dataset import Dataset
from fute.labelling.runner import Answered, Labelled
from fute.models.base import BlackBox
from fute.project import Project

_NONE: Mapping[str, FuteError] = MappingProxyType({})


@dataclass(frozen=True)
class Case:
    """Candidates for a dataset.

    Attributes:
        project: after `run`.
        boxes: k candidates.
        train: the dataset's rows whose labels may be seen, if it has labels.
        seen: those whose texts alone may be.
        progress, offline: as for `labelling.runner.label`.
    """

    project: Project
    boxes: Sequence[BlackBox]
    train: Dataset
    seen: Dataset
    progress: Progress
    offline: bool

    def ask(self, boxes: Sequence[BlackBox], data: Dataset | Corpus) -> Labelled:
        """What the boxes answer to the texts, within the project's budget."""
        return self.project.ask(boxes, data, self.progress, offline=self.offline)


@dataclass(frozen=True)
class Scored:
    """Scores (k,) of the candidates, higher is better, NaN for those without one; what to know; and, where
    they come from labelled rows, on how many of them each candidate was evaluated (k,).
    """

    scores: NDArray[np.float64]
    notes: tuple[str, ...] = ()
    evaluated: NDArray[np.int64] | None = None


# A way to choose. Raises FuteError where it can score no candidate.
Way = Callable[[Case], Scored]


def scored(name: str, way: Callable[[], Scored], k: int) -> Scored:
    """What the way gives k candidates; where it can't, no scores and a note that says why."""
    try:
        return way()
    except StorageError:
        raise
    except FuteError as error:
        return Scored(np.full(k, np.nan), (f"{name} can't choose: {why(error)}",))


def some(
    name: str,
    case: Case,
    places: Sequence[int],
    scores: ArrayLike,
    needs: str,
    failures: Mapping[str, FuteError] = _NONE,
) -> Scored:
    """Scores of the candidates at these places, and a note on the others: the `failures`, or those that lack
    what it needs.
    """
    others = [box.name for i, box in enumerate(case.boxes) if i not in places and box.name not in failures]
    notes = [f"{name} needs {needs}: it has no score for {listing(others)}."] if others else []
    return Scored(at(places, scores, case), (*notes, *without(name, failures)))


def at(places: ArrayLike, scores: ArrayLike, case: Case) -> NDArray[np.float64]:
    """Scores (k,) of the candidates at these places, NaN for the others."""
    whole = np.full(len(case.boxes), np.nan)
    whole[np.asarray(places, dtype=np.intp)] = scores
    return whole


def without(name: str, failures: Mapping[str, FuteError]) -> list[str]:
    """A note on each candidate that has no score because it failed."""
    return [f"{name} has no score for {box}: {why(failure)}" for box, failure in failures.items()]


def why(error: FuteError) -> str:
    """An error in a sentence."""
    return f"{error.problem} ({error.found})." if error.found else f"{error.problem}."


def answering(answered: Sequence[Answered]) -> list[int]:
    """The places of those that answered at least half of what they were asked for: who answers less has too
    few rows in common with the others.
    """
    return [i for i, one in enumerate(answered) if 2 * len(one.rows) >= len(one.asked)]


def common_rows(answered: Sequence[Answered], data: Dataset) -> NDArray[np.intp]:
    """The rows that all have answered, ascending.

    Raises:
        ConfigError: there is none.
    """
    kept = np.array(sorted(set.intersection(*(set(a.rows) for a in answered))), dtype=np.intp)
    if not len(kept):
        short = [one.box.name for one in answered if len(one.asked) < len(data)]
        raise ConfigError(
            f"there is no row of {data.name} that all candidates have answered",
            found=f"not asked for all {len(data)}: {listing(short)}" if short else "each fails on others",
            fix="run again: the caps of `budget:` may have stopped it"
            if short
            else "`fute run --retry` asks again for answers that had no label",
        )
    return kept
