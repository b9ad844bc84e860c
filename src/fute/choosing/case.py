"""What a way to choose is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import ConfigError, FuteError, StorageError, listing
from fute.core.progress import Progress
from fute.data.corpus import Corpus
from fute.data.dataset import Dataset
from fute.labelling.runner import Answered
from fute.models.base import BlackBox
from fute.project import Project


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

    def ask(self, boxes: Sequence[BlackBox], data: Dataset | Corpus) -> Mapping[str, Answered]:
        """The answers to the texts, by model.

        Raises:
            FuteError: the failure of the first that fails.
        """
        labelled = self.project.ask(boxes, data, self.progress, offline=self.offline)
        for failure in labelled.failures.values():
            raise failure
        return labelled.answered


@dataclass(frozen=True)
class Scored:
    """Scores (k,) of the candidates, higher is better, NaN for those without one; and what to know."""

    scores: NDArray[np.float64]
    notes: tuple[str, ...] = ()


# A way to choose. Raises FuteError where it can score no candidate.
Way = Callable[[Case], Scored]


def scored(name: str, way: Callable[[], Scored], k: int) -> Scored:
    """What the way gives k candidates; where it can't, no scores and a note that says why."""
    try:
        return way()
    except StorageError:
        raise
    except FuteError as error:
        why = f" ({error.found})." if error.found else "."
        return Scored(np.full(k, np.nan), (f"{name} can't choose: {error.problem}{why}",))


def some(name: str, case: Case, places: Sequence[int], scores: NDArray[Any], needs: str) -> Scored:
    """Scores of the candidates at these places, and a note on the others, which lack what it needs."""
    whole = np.full(len(case.boxes), np.nan)
    whole[list(places)] = scores
    others = [box.name for i, box in enumerate(case.boxes) if i not in places]
    return Scored(whole, (f"{name} needs {needs}: it has no score for {listing(others)}.",) if others else ())


def common_rows(answered: Sequence[Answered], data: Dataset) -> NDArray[np.intp]:
    """The rows that all have answered, ascending.

    Raises:
        ConfigError: there is none.
    """
    kept = np.array(sorted(set.intersection(*(set(a.rows) for a in answered))), dtype=np.intp)
    if not len(kept):
        raise ConfigError(
            f"there is no row of {data.name} that all candidates have answered",
            fix="run again: the caps of `budget:` may have stopped it",
        )
    return kept
