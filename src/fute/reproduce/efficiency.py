"""What choosing among k prompts for d datasets costs, by each way: counted, timed, saved."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fute.choosing.asked import question
from fute.choosing.case import Case, why
from fute.core.errors import ConfigError, FuteError
from fute.core.files import write_atomically
from fute.core.progress import Progress, silent
from fute.core.section import Section
from fute.core.types import Input
from fute.data.dataset import Dataset
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label, pending
from fute.models.asides import Familiarity, Reply
from fute.models.base import BlackBox
from fute.models.prompted import PromptedLLM
from fute.project import Project
from fute.selection.baselines.direct import drawn_rows
from fute.selection.racing import race

log = logging.getLogger("fute")

FUTE, LABEL_FREE = "fute", "label-free, as it is or + CBM"
CONTENT_FREE = "label-free + content-free calibration"
LABELLED = (32, 128)  # rows that direct evaluation asks for
RACE = 16  # evaluations of a race, for each prompt
_TIMED = 32  # texts, asked of all prompts anew
_TIMED_ALONE = 8  # where each prompt reads each text by itself, so that fewer say as much
_FEWEST = 4  # prompts

What = Literal["calls", "tokens", "seconds"]
COSTS: tuple[What, ...] = ("calls", "tokens", "seconds")


class Amount(Section):
    """Questions to the LLM; tokens that it reads and writes for them, at most, as the ledger counts them; and
    seconds: the LLM's, and fute's own for embeddings.
    """

    calls: float = 0
    tokens: float = 0
    seconds: float = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(**{what: getattr(self, what) + getattr(other, what) for what in COSTS})

    def times(self, share: float) -> Amount:
        return Amount(**{what: share * getattr(self, what) for what in COSTS})


class Cost(Section):
    """What one way takes for so many prompts: `once + d · each` for d datasets, and labels of each.

    Attributes:
        labels: rows of a dataset that must have one.
    """

    way: str
    prompts: int
    once: Amount = Amount()
    each: Amount
    labels: float = 0

    def of(self, what: What, datasets: int) -> float:
        return float(getattr(self.once, what) + datasets * getattr(self.each, what))


class Measured(Section):
    """The costs on one grid of prompts.

    Attributes:
        corpus: texts of U.
        rows: dataset → its texts that ways without labels ask for.
        cores: of the machine that was timed.
        costs: of each way, for all prompts and for parts of them.
    """

    grid: str
    corpus: int
    rows: dict[str, int]
    cores: int
    costs: list[Cost]

    @property
    def sizes(self) -> list[int]:
        """How many prompts were measured, fewest first."""
        return sorted({cost.prompts for cost in self.costs})

    def ways(self, prompts: int | None = None) -> dict[str, Cost]:
        """Way → its cost for so many prompts, by default all; fute first."""
        k = prompts or self.sizes[-1]
        return {cost.way: cost for cost in self.costs if cost.prompts == k}


class Efficiency(Section):
    """`efficiency-SCALE.json`."""

    scale: str
    grids: list[Measured]

    @classmethod
    def load(cls, folder: Path, scale: str) -> Efficiency:
        """Raises ConfigError where nothing is saved."""
        file = folder / f"efficiency-{scale}.json"
        if not file.is_file():
            raise ConfigError(
                f"{folder} holds no measured costs, and no grid of prompts has run here",
                fix=f"`fute reproduce table3 --scale {scale} --data DIR`, then `fute reproduce efficiency`",
            )
        return cls.read(file)

    @classmethod
    def read(cls, file: Path) -> Efficiency:
        return cls.model_validate_json(file.read_text("utf-8"))

    def save(self, folder: Path) -> None:
        """Write these grids' costs in the place of what is saved of them, beside those of others."""
        file = folder / f"efficiency-{self.scale}.json"
        kept = {one.grid: one for one in (self.read(file).grids if file.is_file() else [])}
        grids = kept | {one.grid: one for one in self.grids}
        whole = Efficiency(scale=self.scale, grids=[grids[name] for name in sorted(grids)])
        write_atomically(file, whole.model_dump_json(indent=1) + "\n")


def measured(grid: str, project: Project, progress: Progress = silent) -> Measured:
    """The costs of a grid that is complete (`prompts.complete_grids`), from its own prompts, U and datasets.

    Calls and tokens are counted on all texts, each prompt by itself; prompts and texts that are there twice
    count once. The time is measured on some of U and of each dataset, each asked of all prompts at once and
    not from the cache, and goes by tokens; that of embeddings is measured on all. Loading weights is left
    out. Ways without labels ask for the rows that are held out, where there are such; direct evaluation and
    a race for the others.
    """
    boxes, k = project.models, len(project.models)
    sizes = [k]
    while sizes[-1] // 2 >= _FEWEST:
        sizes.append(sizes[-1] // 2)
    parts = [[boxes[i] for i in np.linspace(0, k - 1, size).round().astype(int)] for size in sizes]
    return Measured(
        grid=grid,
        corpus=len(project.corpus),
        rows={name: len(_seen(*both)) for name, both in project.datasets.items()},
        cores=os.cpu_count() or 1,
        costs=[cost for part in parts for cost in _costs(project, part, progress)],
    )


def _seen(train: Dataset, held_out: Dataset) -> Dataset:
    return held_out if len(held_out) else train


def _mean(amounts: Sequence[Amount]) -> Amount:
    return sum(amounts, Amount()).times(1 / len(amounts))


def _costs(project: Project, boxes: Sequence[BlackBox], progress: Progress) -> Iterator[Cost]:
    k = len(boxes)
    inputs = project.corpus.inputs
    speed = _seconds_a_token(boxes, inputs, progress)
    of_u = _asked(boxes, inputs, speed)
    mtes, dte = _embedding(project, boxes)
    cases = [
        Case(project, boxes, train, _seen(train, held_out), progress, False)
        for train, held_out in project.datasets.values()
    ]
    speeds = [_seconds_a_token(boxes, case.seen.inputs, progress) for case in cases]

    def mean(of: Callable[[Case, float], Amount]) -> Amount:
        return _mean([of(case, own) for case, own in zip(cases, speeds, strict=True)])

    def labels(most: int) -> float:
        return float(np.mean([min(most, len(case.train)) for case in cases]))

    fute = Cost(way=FUTE, prompts=k, once=of_u + mtes, each=dte, labels=labels(10**9))
    yield fute
    plain = mean(lambda case, speed: _asked(boxes, case.seen.inputs, speed))
    yield Cost(way=LABEL_FREE, prompts=k, each=plain)
    neutral = _content_free(boxes, speed)
    if neutral is not None:
        yield Cost(way=CONTENT_FREE, prompts=k, once=neutral, each=plain)
    yield from _asking_the_llm(cases, k)
    for n in LABELLED:
        each = mean(partial(_direct, n))
        yield Cost(way=f"direct evaluation, {n} labels", prompts=k, each=each, labels=labels(n))
    raced = mean(_raced)
    yield Cost(way="fute + race", prompts=k, once=fute.once, each=fute.each + raced, labels=fute.labels)


def _seconds_a_token(
    boxes: Sequence[BlackBox], inputs: Sequence[Input], progress: Progress, timed: int = _TIMED
) -> float:
    """Of some of the inputs, spread evenly, asked of all boxes anew."""
    some = inputs[:: max(1, len(inputs) // timed)]
    _answer(boxes, some[:1], silent)  # loads the weights
    began = time.perf_counter()
    _answer(boxes, some, progress)
    return (time.perf_counter() - began) / max(1, _asked(boxes, some, 0).tokens)


def _answer(boxes: Sequence[BlackBox], inputs: Sequence[Input], progress: Progress) -> None:
    """Raises the failure of the first box that fails."""
    for failure in label(boxes, inputs, PredictionCache(None), progress).failures.values():
        raise failure


def _asked(boxes: Sequence[BlackBox], inputs: Sequence[Input], seconds_a_token: float) -> Amount:
    """What the runner asks for where nothing is kept."""
    total = Amount()
    todo = pending(boxes, inputs, PredictionCache(None))
    for box in boxes:
        missing = todo[box.name]
        if isinstance(missing, FuteError):
            raise missing
        if missing:
            usage = box.usage(missing)
            total += Amount(calls=usage.calls, tokens=usage.tokens_in + usage.tokens_out)
    return total + Amount(seconds=total.tokens * seconds_a_token)


def _embedding(project: Project, boxes: Sequence[BlackBox]) -> tuple[Amount, Amount]:
    """Seconds for the MTEs of all boxes, and for a DTE; features are made anew."""
    fresh = replace(project.embedder, folder=None)
    fresh.features(project.corpus.inputs[:1])  # loads the weights
    works = [project.work(box.name) for box in boxes]
    began = time.perf_counter()
    for group in fresh.together(works):
        fresh.embed_many(group)
    mtes = time.perf_counter() - began
    began = time.perf_counter()
    for train, _ in project.datasets.values():
        fresh.embed_dataset(train)
    dte = (time.perf_counter() - began) / len(project.datasets)
    return Amount(seconds=mtes), Amount(seconds=dte)


def _content_free(boxes: Sequence[BlackBox], seconds_a_token: float) -> Amount | None:
    """What the prompts without content take (`calibrate: contextual`); None where it can't be used."""
    total = Amount()
    for box in boxes:
        if not isinstance(box, PromptedLLM) or box.answer != "score" or box.prompt.reasoning is not None:
            return None
        calibrated = copy.copy(box)
        calibrated.calibrate = "contextual"
        usage = calibrated.usage([])
        total += Amount(calls=usage.calls, tokens=usage.tokens_in)
    return total + Amount(seconds=total.tokens * seconds_a_token)


def _asking_the_llm(cases: Sequence[Case], k: int) -> Iterator[Cost]:
    """SPELL and Self-Select, where they can be asked; else a remark says why not."""
    for way, asking in (("SPELL", _spell), ("Self-Select", _self_select)):
        try:
            asked = [asking(case) for case in cases]
            amounts = [_asked(*one, _seconds_a_token(*one, silent, _TIMED_ALONE)) for one in asked]
        except FuteError as error:
            log.warning("%s is left out: %s", way, why(error))
            continue
        if asking is _self_select and all(inputs == asked[0][1] for _, inputs in asked):
            # One question for all datasets of a task.
            yield Cost(way=way, prompts=k, once=amounts[0], each=Amount())
        else:
            yield Cost(way=way, prompts=k, each=_mean(amounts))


def _spell(case: Case) -> tuple[list[BlackBox], Sequence[Input]]:
    return [Familiarity(box) for box in case.boxes if isinstance(box, PromptedLLM)], case.seen.inputs


def _self_select(case: Case) -> tuple[list[BlackBox], Sequence[Input]]:
    return [Reply(box) for box in case.boxes[:1] if isinstance(box, PromptedLLM)], [question(case)]


def _direct(n: int, case: Case, seconds_a_token: float) -> Amount:
    """Asking for n drawn rows, or for all where there are fewer."""
    rows = drawn_rows(len(case.train), min(n, len(case.train)), case.project.config.seed)
    return _asked(case.boxes, [case.train.inputs[row] for row in rows], seconds_a_token)


def _raced(case: Case, seconds_a_token: float) -> Amount:
    """A race's evaluations, each of the mean length: who runs on depends on the answers, how many doesn't."""

    def nobody_is_right(candidates: Sequence[int], drawn: Sequence[int]) -> NDArray[np.bool_]:
        return np.zeros((len(candidates), len(drawn)), dtype=bool)

    k, rows = len(case.boxes), len(case.train)
    ran = race(np.zeros(k), rows, RACE * k, nobody_is_right).evaluations
    return _asked(case.boxes, case.train.inputs, seconds_a_token).times(ran / (k * rows))
