"""Labelling: what is cached is read, what is missing is asked for within the budget and saved at once."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import BudgetError, ConfigError, FuteError, ModelError, StorageError
from fute.core.labels import matching
from fute.core.progress import Progress, silent
from fute.core.types import Answer, Answers, Failure, Floats, Input
from fute.data.corpus import fit
from fute.labelling.budget import BoxMeter, Budget
from fute.labelling.cache import PredictionCache
from fute.models.base import TICK, BlackBox, Usage, check_answers, usable

# What a run reads of a box before and after it asks: one that can't say them is not asked.
_SAID = ("shape", "output", "labels", "kind", "group", "price", "is_remote", "fingerprint")

# Streamed answers are saved when so many wait, or after a tick: what `kill -9` can lose.
_SAVE_AT = 256


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

    def failed_items(self) -> dict[str, Counter[str]]:
        """For each model with items that failed, how many of each kind."""
        counts = {
            name: Counter(str(f.kind) for f in one.failed.values()) for name, one in self.answered.items()
        }
        return {name: kinds for name, kinds in counts.items() if kinds}


@dataclass
class _Job:
    """One model's share of the work. One with an error from the start is not asked."""

    box: BlackBox
    inputs: list[Input]
    keys: list[str]
    known: dict[str, Answer]
    failed: dict[str, Failure]
    error: FuteError | None = None
    missing: dict[str, Input] = field(init=False)
    asked: int = 0

    def __post_init__(self) -> None:
        absent = dict(zip(self.keys, self.inputs, strict=True))
        self.missing = {k: i for k, i in absent.items() if k not in self.known and k not in self.failed}

    def take(self, key: str, answer: Answer | Failure) -> None:
        if isinstance(answer, Failure):
            self.failed[key] = answer
        else:
            self.known[key] = answer

    def result(self) -> Answered:
        rows = [i for i, key in enumerate(self.keys) if key in self.known]
        failed = {i: self.failed[key] for i, key in enumerate(self.keys) if key in self.failed}
        answers = [self.known[self.keys[i]] for i in rows]
        return Answered(self.inputs, np.array(rows, dtype=np.intp), answers, failed, self.box)


def pending(
    boxes: Sequence[BlackBox], inputs: Sequence[Input], cache: PredictionCache, retry: bool = False
) -> dict[str, list[Input] | FuteError]:
    """For each model, the inputs it would be asked for, or why it can't be; arguments as for `label`."""
    return {
        job.box.name: job.error or list(job.missing.values()) for job in _jobs(boxes, inputs, cache, retry)
    }


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
    saved together. So stopping at any moment loses little. A box that fails never stops the others. An item
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
    total = sum(len(job.missing) for job in jobs)
    stopped: BudgetError | None = None
    rates: dict[str, float] = {}

    def tell() -> None:
        done = sum(job.asked if job.error is None else len(job.missing) for job in jobs)
        progress("labelling", done, total)

    for job in [job for job in jobs if job.error is None]:
        try:
            budget.check(job.box)
        except ConfigError as error:
            job.error = error
    for group in _groups([job for job in jobs if job.error is None]):
        if offline and group[0].box.is_remote:
            for job in group:
                job.error = _offline(job.box)
            tell()
            continue
        ask = _ask_streaming if group[0].box.batch is None else _ask_batches
        began = time.monotonic()
        try:
            for _ in ask(group, cache, budget):
                tell()
        except BudgetError as error:
            stopped = error
        rate = sum(job.asked for job in group if job.error is None) / (time.monotonic() - began)
        rates.update({job.box.name: rate for job in group if job.error is None and job.asked})
    answered = _finish(jobs)
    asked = sum(job.asked for job in jobs)
    return Labelled(
        answered=answered,
        failures={job.box.name: job.error for job in jobs if job.error is not None},
        stopped=stopped,
        asked=asked,
        cached=sum(len(job.keys) - len(job.missing) for job in jobs),
        left=total - asked,
        rates=rates,
    )


def _jobs(
    boxes: Sequence[BlackBox], inputs: Sequence[Input], cache: PredictionCache, retry: bool
) -> list[_Job]:
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
            jobs.append(_Job(box, list(inputs), [item.key for item in inputs], {}, {}, error))
            continue
        keys = [cache.key(said["fingerprint"], address) for address in addresses[shape]]
        known = cache.get(keys, said["output"])
        failed = {} if retry else cache.failures([key for key in keys if key not in known])
        final = {key: f for key, f in failed.items() if f.kind != "error"}
        jobs.append(_Job(box, fitted[shape], keys, known, final))
    return jobs


def _finish(jobs: Sequence[_Job]) -> dict[str, Answered]:
    """What each job without an error has answered. One whose answers can't be finished gets an error."""
    answered: dict[str, Answered] = {}
    for job in [job for job in jobs if job.error is None]:
        found = job.result()
        try:
            if job.box.output in ("class", "score"):
                _ = found.predictions  # which keeps them
        except ModelError as error:
            job.error = error
        else:
            answered[job.box.name] = found
    return answered


def _offline(box: BlackBox) -> ModelError:
    return ModelError(
        f"model {box.name} would open a connection, and `--offline` forbids it",
        fix="run without --offline; what is labelled already is kept",
    )


def _groups(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Jobs that have something to ask; those whose boxes can be asked together stand in one group."""
    groups: dict[tuple[object, ...], list[_Job]] = defaultdict(list)
    for number, job in enumerate(jobs):
        if job.missing:
            alone = () if job.box.group is not None else (number,)
            groups[(type(job.box), job.box.group, job.box.shape, *alone)].append(job)
    return list(groups.values())


def _batches(group: Sequence[_Job]) -> list[tuple[list[_Job], list[Input]]]:
    """Batches of inputs of similar length, each with the jobs that miss just these."""
    missing_in: dict[Input, list[int]] = defaultdict(list)
    for number, job in enumerate(group):
        for item in job.missing.values():
            missing_in[item].append(number)
    same: dict[tuple[int, ...], list[Input]] = defaultdict(list)
    for item, numbers in missing_in.items():
        same[tuple(numbers)].append(item)
    kind = type(group[0].box)
    return [
        ([group[i] for i in numbers], batch) for numbers, items in same.items() for batch in cut(items, kind)
    ]


def cut(items: Sequence[Input], kind: type[BlackBox]) -> list[list[Input]]:
    """The items, shortest first, in batches of at most `kind.batch` items and, but for the first of each,
    `kind.batch_characters` characters.
    """
    size = kind.batch or len(items)
    most = kind.batch_characters
    batches: list[list[Input]] = []
    characters = 0
    for item in sorted(items, key=len):
        if batches and len(batches[-1]) < size and (most is None or characters + len(item) <= most):
            batches[-1].append(item)
        else:
            batches.append([item])
            characters = 0
        characters += len(item)
    return batches


def _ask_batches(group: Sequence[_Job], cache: PredictionCache, budget: Budget) -> Iterator[None]:
    keys = {job.box.name: {item: key for key, item in job.missing.items()} for job in group}
    for jobs, batch in _batches(group):
        rest = list(batch)
        while rest and (running := [job for job in jobs if job.error is None]):
            part = _reserve(running, rest, budget)
            if able := [job for job in running if job.error is None]:
                _ask(able, part, keys, cache)
                rest = rest[len(part) :]
            yield


def _reserve(jobs: Sequence[_Job], batch: list[Input], budget: Budget) -> list[Input]:
    """As much of the batch as the budget lets be asked, taken out of it. A box that can't count it fails.

    Raises:
        BudgetError: not even one input.
    """
    while True:
        wanted: list[tuple[BlackBox, Usage]] = []
        for job in [job for job in jobs if job.error is None]:
            try:
                with faults_of(job.box, f"to count what a batch of {len(batch)} inputs takes"):
                    wanted.append((job.box, job.box.usage(batch)))
            except StorageError:
                raise
            except FuteError as error:
                job.error = error
        if not wanted:
            return batch
        try:
            budget.reserve(wanted)
        except BudgetError:
            if len(batch) == 1:
                raise
            batch = batch[: len(batch) // 2]
        else:
            return batch


def _ask(
    jobs: Sequence[_Job],
    batch: Sequence[Input],
    keys: Mapping[str, Mapping[Input, str]],
    cache: PredictionCache,
) -> None:
    """Ask the boxes of `jobs` for one batch and save the answers."""
    boxes = [job.box for job in jobs]
    try:
        answers = type(boxes[0]).predict_together(boxes, batch)
        checked = [check_answers(box, rows, len(batch)) for box, rows in zip(boxes, answers, strict=True)]
    except StorageError:
        raise
    except Exception as error:  # a box of the user's own raises what it likes
        if len(jobs) == 1:
            jobs[0].error = _as_fute_error(error, boxes[0], f"on a batch of {len(batch)} inputs")
        for job in jobs if len(jobs) > 1 else []:  # find out which one it was
            _ask([job], batch, keys, cache)
        return
    fresh: dict[str, Answer | Failure] = {}
    for job, rows in zip(jobs, checked, strict=True):
        own = keys[job.box.name]
        job.asked += len(batch)
        for item, answer in zip(batch, rows, strict=True):
            fresh[own[item]] = usable(item, answer)
            job.take(own[item], fresh[own[item]])
    cache.put(fresh)


def _ask_streaming(group: Sequence[_Job], cache: PredictionCache, budget: Budget) -> Iterator[None]:
    """Ask a group that hands over each answer when it is there; save answers as they come."""
    questions = [(job, key, item) for job in group for key, item in job.missing.items()]
    meters = {job.box.name: BoxMeter(budget, job.box) for job in group}
    fresh: dict[str, Answer | Failure] = {}
    saved = time.monotonic()
    stopped: BudgetError | None = None
    answers = type(group[0].box).stream([(job.box, item) for job, _, item in questions], meters)
    try:
        for got in answers:
            if got is not None:
                job, key, _ = questions[got[0]]
                if isinstance(got[1], BudgetError):
                    stopped = got[1]
                else:
                    _keep(job, key, got[1], fresh)
            if fresh and (len(fresh) >= _SAVE_AT or time.monotonic() - saved > TICK):
                cache.put(fresh)
                fresh, saved = {}, time.monotonic()
                yield
    except StorageError:
        raise
    except Exception as error:  # there is no asking any of them: no key, no such program
        for job in group:
            job.error = job.error or _as_fute_error(error, job.box, "on a batch of 1 inputs")
    finally:
        close = getattr(answers, "close", None)
        if close is not None:
            close()
        cache.put(fresh)
    yield
    if stopped is not None:
        raise stopped


def _keep(job: _Job, key: str, answer: Answers | Exception, fresh: dict[str, Answer | Failure]) -> None:
    """Take a streamed answer, to be saved with the `fresh` ones, or what stops its job."""
    try:
        if isinstance(answer, Exception):
            raise answer
        fresh[key] = usable(job.missing[key], check_answers(job.box, answer, 1)[0])
    except StorageError:
        raise
    except Exception as error:
        job.error = job.error or _as_fute_error(error, job.box, "on a batch of 1 inputs")
    else:
        job.take(key, fresh[key])
        job.asked += 1


@contextmanager
def faults_of(box: BlackBox, when: str) -> Iterator[None]:
    """Turn what the block raises into a FuteError: a box of the user's own raises what it likes."""
    try:
        yield
    except Exception as error:
        raise _as_fute_error(error, box, when) from error


def _as_fute_error(error: Exception, box: BlackBox, when: str) -> FuteError:
    if isinstance(error, FuteError):
        return error
    failure = ModelError(f"model {box.name} failed {when}", found=f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
