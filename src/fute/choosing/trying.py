"""Ways that try the candidates on labelled rows: a race, and direct evaluation on a few."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fute.api import right
from fute.choosing.case import Case, Scored, Way, at, without
from fute.core.errors import BudgetError, ConfigError, FuteError
from fute.data.dataset import Dataset
from fute.labelling.runner import pending
from fute.models.base import BlackBox
from fute.selection.baselines.direct import drawn_rows
from fute.selection.racing import Raced, race

T = TypeVar("T")


class _FailedError(FuteError):
    """Candidates that can't be tried."""

    def __init__(self, failures: Mapping[str, FuteError]) -> None:
        super().__init__("candidates failed")
        self.failures = failures


def _tried(case: Case, boxes: Sequence[BlackBox], rows: Sequence[int]) -> NDArray[np.bool_]:
    """Whether each of k boxes is right on each of m of these rows of `case.train`: (k, m), with m less than
    asked for where a cap of the budget keeps some box from some row. A row without an answer is wrong.

    Raises:
        _FailedError: some boxes fail.
    """
    part = case.train.take(np.asarray(rows, dtype=np.int64))
    part = part.take(np.arange(_affordable(case, boxes, part)))
    labelled = case.ask(boxes, part)
    if labelled.failures:
        raise _FailedError(labelled.failures)
    answered = [labelled.answered[box.name] for box in boxes]
    asked = sorted(set.intersection(*(set(one.asked.tolist()) for one in answered)))
    return np.stack([right(box, part, one)[asked] for box, one in zip(boxes, answered, strict=True)])


def _affordable(case: Case, boxes: Sequence[BlackBox], part: Dataset) -> int:
    """Of how many of the rows, from the first, all boxes can be asked with the calls that are left: else the
    first boxes would use them up, and no row be known of all.
    """
    budget = case.project.budget
    if budget.caps.max_calls is None:
        return len(part)
    left = budget.caps.max_calls - budget.spent.calls

    def calls(rows: int) -> int:
        missing = pending(boxes, part.inputs[:rows], case.project.embedder.predictions)
        return sum(len(inputs) for inputs in missing.values() if not isinstance(inputs, FuteError))

    sizes = range(len(part) + 1)
    return max(0, sizes[bisect.bisect_right(sizes, left, key=calls) - 1])


def _of_working(
    case: Case, attempt: Callable[[Sequence[BlackBox]], T]
) -> tuple[T, NDArray[np.intp], Mapping[str, FuteError]]:
    """What comes of an attempt without the candidates that fail, their places, and the failures. Each time
    one fails it begins again, from the answers that are kept.

    Raises:
        FuteError: all fail.
    """
    boxes, failures = list(case.boxes), dict[str, FuteError]()
    while boxes:
        try:
            found = attempt(boxes)
        except _FailedError as error:
            failures |= error.failures
            boxes = [box for box in boxes if box.name not in failures]
        else:
            places = [i for i, box in enumerate(case.boxes) if box.name not in failures]
            return found, np.array(places, dtype=np.intp), failures
    raise next(iter(failures.values()))


def racing(
    case: Case, prior: NDArray[np.float64], budget: int, other: NDArray[np.float64] | None = None
) -> list[Scored]:
    """A race of so many evaluations on the rows whose labels may be seen; and where there is an `other`
    prior, what the same evaluations say with that one, in which who has none stands last.

    Raises:
        FuteError: no candidate works, or a cap keeps all from being asked.
    """
    priors = dict(zip((box.name for box in case.boxes), prior, strict=True))

    def attempt(boxes: Sequence[BlackBox]) -> Raced:
        def evaluate(candidates: Sequence[int], rows: Sequence[int]) -> NDArray[np.bool_]:
            return _tried(case, [boxes[i] for i in candidates], rows)

        own = [priors[box.name] for box in boxes]
        return race(own, len(case.train), budget, evaluate, case.project.config.seed)

    raced, places, failures = _of_working(case, attempt)
    if not raced.evaluations:
        raise BudgetError("a cap of `budget:` keeps the candidates from being asked")
    notes = (_spent(raced, budget), *without("race", failures))
    evaluated = np.zeros(len(case.boxes), dtype=np.int64)
    evaluated[places] = raced.seen
    made = [Scored(at(places, raced.scores, case), notes, evaluated)]
    if other is not None:
        whole = np.where(np.isnan(other), np.nanmin(other), other)
        made.append(Scored(at(places, raced.with_prior(whole[places]), case), (), evaluated))
    return made


def _spent(raced: Raced, budget: int) -> str:
    ran = raced.seen[raced.seen > 0]
    rows = f"{ran.min()} to {ran.max()}" if ran.min() < ran.max() else f"{ran.min()}"
    line = f"race: {raced.evaluations} evaluations, on {rows} labelled rows for each"
    line += f" of the {len(ran)} candidates that fute scores highest" if len(ran) < len(raced.seen) else ""
    return f"{line}; of {budget}, since a cap of `budget:` ended it." if raced.short else f"{line}."


def _direct(n: int, case: Case) -> Scored:
    """The accuracy on n drawn rows, all the same for all candidates."""
    if case.train.targets is None:
        raise ConfigError("it needs labels")
    rows = drawn_rows(len(case.train), n, case.project.config.seed).tolist()
    found, places, failures = _of_working(case, lambda boxes: _tried(case, boxes, rows))
    seen = found.shape[1]
    if not seen:
        raise BudgetError("a cap of `budget:` keeps the candidates from being asked")
    notes = without(f"direct-{n}", failures)
    if seen < n:
        notes.append(f"direct-{n} saw {seen} rows: a cap of `budget:` ended it.")
    evaluated = np.zeros(len(case.boxes), dtype=np.int64)
    evaluated[places] = seen
    return Scored(at(places, found.mean(axis=1), case), tuple(notes), evaluated)


DIRECT: Mapping[str, Way] = {f"direct-{n}": partial(_direct, n) for n in (8, 16, 32, 64, 128)}
