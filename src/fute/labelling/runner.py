"""Labelling: what is cached is read, what is missing is asked for within the budget and saved at once."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import BudgetError, ConfigError, FuteError, ModelError, StorageError, listing
from fute.core.labels import matching
from fute.core.progress import Progress, silent
from fute.core.types import Answer, Failure, Floats, Input
from fute.data.corpus import fit
from fute.labelling.asking import Job, ask_batches, ask_streaming, faults_of
from fute.labelling.budget import Budget
from fute.labelling.cache import PredictionCache
from fute.models.base import TICK, BlackBox, check_answers

log = logging.getLogger("fute")

# Models that a run claims at once: each is an open file.
_MOST_CLAIMS = 200
# What a run reads of a box before and after it asks: one that can't say them is not asked.
_SAID = ("shape", "output", "labels", "kind", "group", "price", "is_remote", "fingerprint")


@dataclass(frozen=True)
class Answered:
    """One model's answers to n inputs.

    Attributes:
        inputs: the n inputs in the shape it reads.
        rows: which of them have an answer, ascending (m,).
        answers: those m answers.
        failed: of the others, those that were asked and why they have none.
        box: the model.
    """

    inputs: Sequence[Input]
    rows: NDArray[np.intp]
    answers: Sequence[Answer]
    failed: Mapping[int, Failure]
    box: BlackBox

    @cached_property
    def predictions(self) -> Floats:
        """Class probabilities (m, C), calibrated, or scores (m, 1). Raises ValueError for texts and spans,
        ModelError where the box can't finish them.
        """
        rows = np.array(self.answers, dtype=np.float32).reshape(len(self.rows), len(self.box.labels))
        if not len(rows):
            return rows
        try:
            checked = check_answers(self.box, self.box.finish(rows), len(rows))
        except StorageError:
            raise
        except Exception as error:  # a box of the user's own raises what it likes
            own = isinstance(error, FuteError)
            raise ModelError(
                f"model {self.box.name} can't finish its answers to {len(rows)} inputs",
                found=str(error).replace("\n ", ";") if own else f"{type(error).__name__}: {error}",
                fix="correct its `finish` and run again: its answers are kept",
            ) from error
        return np.array(checked, dtype=np.float32)

    @cached_property
    def named(self) -> Floats:
        """The predictions with a column for each of the model's `names`: of labels that are called the same,
        the sum.
        """
        aliases, names = self.box.aliases, self.box.names
        if not aliases:
            return self.predictions
        columns = [names.index(aliases.get(label, label)) for label in self.box.labels]
        return self.predictions @ np.eye(len(names), dtype=np.float32)[columns]

    def probabilities_of(self, labels: Sequence[str]) -> Floats:
        """The probabilities of a dataset's labels, in their order: (m, C).

        Raises:
            ModelError: the model answers others.
        """
        places = matching(self.box.names, labels)
        if places is None:
            raise ModelError(
                f"model {self.box.name} answers other labels",
                expected=", ".join(labels),
                found=", ".join(self.box.names),
            )
        return self.named[:, places]

    @property
    def asked(self) -> NDArray[np.intp]:
        """The rows that it was asked for, ascending: those with an answer, and those that failed."""
        return np.array(sorted({*self.rows.tolist(), *self.failed}), dtype=np.intp)

    @property
    def answered_inputs(self) -> list[Input]:
        return [self.inputs[row] for row in self.rows]


@dataclass(frozen=True)
class Labelled:
    """What a run of the runner gives.

    Attributes:
        answered: for each model that works, its answers.
        failures: for each model that does not, why. What it answered before is kept.
        stopped: the cap that was reached, if one was; then some questions were not asked.
        asked: number of questions asked.
        cached: number of answers that were there before.
        left: number of questions that were not asked: a cap was reached, or their model failed.
        rates: questions per second of each model that was asked; models asked together share the time.
    """

    answered: Mapping[str, Answered]
    failures: Mapping[str, FuteError]
    stopped: BudgetError | None
    asked: int
    cached: int
    left: int
    rates: Mapping[str, float]

    @property
    def inputs(self) -> dict[str, list[Input]]:
        """For each model that works, the inputs that it answered."""
        return {name: one.answered_inputs for name, one in self.answered.items()}

    @property
    def predictions(self) -> dict[str, Floats]:
        """For each model that works and answers numbers, these (m, C)."""
        return {
            name: one.predictions
            for name, one in self.answered.items()
            if one.box.output in ("class", "score")
        }

    def failed_answers(self) -> dict[str, list[tuple[Input, Failure]]]:
        """For each model with items that failed, these and why."""
        pairs = {
            name: [(one.inputs[i], f) for i, f in one.failed.items()] for name, one in self.answered.items()
        }
        return {name: those for name, those in pairs.items() if those}

    def failed_items(self) -> dict[str, Counter[str]]:
        """For each model with items that failed, how many of each kind."""
        return {name: Counter(f.kind for _, f in those) for name, those in self.failed_answers().items()}


def pending(
    boxes: Sequence[BlackBox], inputs: Sequence[Input], cache: PredictionCache, retry: bool = False
) -> dict[str, list[Input] | FuteError]:
    """For each model, the inputs it would be asked for, or why it can't be; of a model under two names, the
    second is asked for nothing. Arguments as for `label`.
    """
    found: dict[str, list[Input] | FuteError] = {}
    seen: set[str] = set()
    for job in _jobs(boxes, inputs, cache, retry):
        found[job.box.name] = job.error or [item for key, item in job.missing.items() if key not in seen]
        seen |= job.missing.keys()
    return found


def known(
    boxes: Sequence[BlackBox], inputs: Sequence[Input], cache: PredictionCache
) -> Mapping[str, Answered]:
    """For each model that works, the answers that are kept. Asks nothing."""
    return _finish(_jobs(boxes, inputs, cache, False))


def label(
    boxes: Sequence[BlackBox],
    inputs: Sequence[Input],
    cache: PredictionCache,
    progress: Progress = silent,
    *,
    budget: Budget | None = None,
    retry: bool = False,
    offline: bool = False,
) -> Labelled:
    """The answers of every box to every input.

    Each answer is checked, then saved with its batch. Where answers come one by one, those of 0.2 seconds are
    saved together. So stopping at any moment loses little. One process at a time asks a model; others ask
    other models meanwhile, then wait for its answers. A box that fails never stops the others. An item
    that fails has no answer; it is asked again where it got none at all (`Failure.kind` "error"), and where
    the model answered, but nothing that can be used, only with `retry`.

    Args:
        boxes: models with names of their own.
        inputs: n inputs; each is given to a box in the shape it reads (`data.corpus.fit`).
        cache: where answers are kept.
        progress: told how many questions are done of those that were to be asked.
        budget: what may be spent; without one, anything.
        retry: ask again for items whose answer could not be used.
        offline: fail boxes that would open a connection, instead of asking them.

    Raises:
        StorageError: answers can't be saved.
    """
    jobs = _jobs(boxes, inputs, cache, retry)
    budget = budget or Budget()
    stopped: BudgetError | None = None
    rates: dict[str, float] = {}

    def tell() -> None:
        done = sum(job.asked if job.error is None else len(job.missing) for job in jobs)
        progress("labelling", done, sum(len(job.missing) for job in jobs))

    for job in [job for job in jobs if job.error is None]:
        try:
            budget.check(job.box)
            if offline and job.box.is_remote and job.missing:
                raise _offline(job.box)
        except (ConfigError, ModelError) as error:
            job.error = error
    with closing(_turns(jobs, cache)) as turns:
        for group in turns:
            if not group:
                if stopped is not None:  # what others may still answer isn't awaited
                    break
                continue
            ask = ask_streaming if group[0].box.batch is None else ask_batches
            began = time.monotonic()
            try:
                for _ in ask(group, cache, budget):
                    tell()
            except BudgetError as error:
                stopped = error
            rate = sum(job.asked for job in group if job.error is None) / (time.monotonic() - began)
            rates.update({job.box.name: rate for job in group if job.error is None and job.asked})
    for job in jobs:
        job.excuse()
    answered = _finish(jobs)
    asked = sum(job.asked for job in jobs)
    return Labelled(
        answered=answered,
        failures={job.box.name: job.error for job in jobs if job.error is not None},
        stopped=stopped,
        asked=asked,
        cached=sum(len(job.keys) - len(job.missing) for job in jobs),
        left=sum(len(job.missing) for job in jobs) - asked,
        rates=rates,
    )


def _jobs(
    boxes: Sequence[BlackBox], inputs: Sequence[Input], cache: PredictionCache, retry: bool
) -> list[Job]:
    fitted: dict[str, list[Input]] = {}
    addresses: dict[str, list[str]] = {}  # boxes that read one shape share its inputs and their keys
    jobs = []
    for box in boxes:
        try:
            with faults_of(box, "before it was asked"):
                said = {name: getattr(box, name) for name in _SAID}
                shape = said["shape"]
                if shape not in fitted:
                    fitted[shape] = [fit(item, shape) for item in inputs]
                    addresses[shape] = [item.key for item in fitted[shape]]
        except StorageError:
            raise
        except FuteError as error:
            jobs.append(Job(box, list(inputs), [item.key for item in inputs], error=error))
            continue
        keys = [cache.key(said["fingerprint"], address) for address in addresses[shape]]
        known = cache.get(keys, said["output"])
        before = cache.failures([key for key in keys if key not in known])
        final = {key: f for key, f in before.items() if f.kind != "error" and not retry}
        jobs.append(Job(box, fitted[shape], keys, known, final, before, said["fingerprint"]))
    return jobs


def _finish(jobs: Sequence[Job]) -> dict[str, Answered]:
    """What each job without an error has answered. One whose answers can't be finished gets an error."""
    answered: dict[str, Answered] = {}
    for job in [job for job in jobs if job.error is None]:
        found = _result(job)
        try:
            if job.box.output in ("class", "score"):
                _ = found.predictions  # which keeps them
        except ModelError as error:
            job.error = error
        else:
            answered[job.box.name] = found
    return answered


def _result(job: Job) -> Answered:
    rows = [i for i, key in enumerate(job.keys) if key in job.known]
    failed = {i: job.failed[key] for i, key in enumerate(job.keys) if key in job.failed}
    answers = [job.known[job.keys[i]] for i in rows]
    return Answered(job.inputs, np.array(rows, dtype=np.intp), answers, failed, job.box)


def _offline(box: BlackBox) -> ModelError:
    return ModelError(
        f"model {box.name} would open a connection, and `--offline` forbids it",
        fix="run without --offline; what is labelled already is kept",
    )


def _turns(jobs: Sequence[Job], cache: PredictionCache) -> Generator[list[Job]]:
    """Groups of jobs to be asked now for what they miss. A job whose model another process is asking comes
    later, for what is missing then; where all that are left are such, an empty group comes before each wait.
    So does a job that is another one's under a second name.
    """
    todo = [job for job in jobs if job.error is None and job.missing]
    waits = False
    while todo:
        done: list[Job] = []
        for group in _groups(todo):
            with ExitStack() as claims:
                claimed: dict[str, Job] = {}
                for job in group:
                    if len(claimed) == _MOST_CLAIMS or job.fingerprint in claimed:
                        continue
                    if release := cache.claim(job.fingerprint):
                        claims.callback(release)
                        claimed[job.fingerprint] = job
                        job.look(cache, jobs)
                done += claimed.values()
                if able := [job for job in claimed.values() if job.missing]:
                    yield able
        todo = [job for job in todo if job not in done]
        if todo and not done:
            if not waits:
                names = listing(job.box.name for job in todo)
                log.info("Another run is asking %s: waiting for its answers.", names)
            waits = True
            yield []
            time.sleep(TICK)


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that have something to ask; those whose boxes can be asked together stand in one group."""
    groups: dict[tuple[object, ...], list[Job]] = defaultdict(list)
    for number, job in enumerate(jobs):
        if job.missing:
            alone = () if job.box.group is not None else (number,)
            groups[(type(job.box), job.box.group, job.box.shape, *alone)].append(job)
    return list(groups.values())
