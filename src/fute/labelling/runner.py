"""Labelling: what is cached is read, what is missing is asked for, in batches that are saved at once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fute.core.errors import FuteError, ModelError, StorageError
from fute.core.progress import Progress, silent
from fute.core.types import Floats, Input
from fute.data.corpus import fit_arity
from fute.labelling.cache import PredictionCache
from fute.models.base import BlackBox, check_predictions

# Inputs asked for, then saved, at a time: what `kill -9` can lose. Small for LLMs, which take seconds
# for so many; large for the others, which take none.
_BATCH = {"llm": 32}
_OTHER_BATCH = 512


@dataclass(frozen=True)
class Labelled:
    """What a run of the runner gives.

    Attributes:
        inputs: for each model that answered, the inputs in the shape it read them.
        predictions: for each model that answered, float32 (n, C).
        failures: for each model that did not, why.
        asked: number of answers that were not in the cache.
        cached: number that were.
        rates: answers per second of each model that was asked and answered; models asked together share
            the time.
    """

    inputs: Mapping[str, Sequence[Input]]
    predictions: Mapping[str, Floats]
    failures: Mapping[str, FuteError]
    asked: int
    cached: int
    rates: Mapping[str, float]


@dataclass
class _Job:
    """One model's share of the work."""

    box: BlackBox
    inputs: list[Input]
    keys: list[str]
    known: dict[str, Floats]
    missing: list[Input] = field(init=False)

    def __post_init__(self) -> None:
        absent = {k: i for k, i in zip(self.keys, self.inputs, strict=True) if k not in self.known}
        self.missing = list(absent.values())


def pending(
    boxes: Sequence[BlackBox], inputs: Sequence[Input], cache: PredictionCache
) -> dict[str, list[Input]]:
    """For each model, the inputs it would be asked for: those without a cached prediction."""
    return {box.name: _job(box, inputs, cache).missing for box in boxes}


def label(
    boxes: Sequence[BlackBox],
    inputs: Sequence[Input],
    cache: PredictionCache,
    progress: Progress = silent,
) -> Labelled:
    """Predictions of every box for every input.

    Each prediction is checked, then saved with its batch before the next one is asked for, so stopping
    at any moment loses at most the batch in flight. A box that fails never stops the others.

    Args:
        boxes: models with names of their own.
        inputs: n inputs; each is given to a box in the shape it reads (`fit_arity`).
        cache: where predictions are kept.
        progress: told how many answers there are of those that were missing.

    Raises:
        StorageError: predictions can't be saved.
    """
    jobs = [_job(box, inputs, cache) for box in boxes]
    failures: dict[str, FuteError] = {}
    total = sum(len(job.missing) for job in jobs)
    done = 0
    rates: dict[str, float] = {}
    for group in _groups(jobs):
        began = time.monotonic()
        for batch_jobs, batch in _batches(group):
            running = [job for job in batch_jobs if job.box.name not in failures]
            _ask(running, batch, cache, failures)
            done += len(batch) * len(batch_jobs)
            progress("labelling", done, total)
        seconds = time.monotonic() - began
        able = [job for job in group if job.missing and job.box.name not in failures]
        answers = sum(len(job.missing) for job in able)
        rates.update({job.box.name: answers / seconds for job in able})
    answered = [job for job in jobs if job.box.name not in failures]
    return Labelled(
        inputs={job.box.name: job.inputs for job in answered},
        predictions={job.box.name: _rows(job) for job in answered},
        failures=failures,
        asked=total,
        cached=sum(len(job.keys) for job in jobs) - total,
        rates=rates,
    )


def _job(box: BlackBox, inputs: Sequence[Input], cache: PredictionCache) -> _Job:
    fitted = [fit_arity(item, box.is_pair) for item in inputs]
    keys = [cache.key(box.fingerprint, item) for item in fitted]
    return _Job(box, fitted, keys, cache.get(keys))


def _rows(job: _Job) -> Floats:
    rows = [job.known[key] for key in job.keys]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(job.box.labels))


def _groups(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Jobs whose boxes can be asked together; others stand alone."""
    groups: dict[tuple[object, ...], list[_Job]] = defaultdict(list)
    for number, job in enumerate(jobs):
        alone = () if job.box.group is not None else (number,)
        groups[(type(job.box), job.box.group, job.box.is_pair, *alone)].append(job)
    return list(groups.values())


def _batches(group: Sequence[_Job]) -> list[tuple[list[_Job], list[Input]]]:
    """Batches of inputs of similar length, each with the jobs that miss just these."""
    missing_in: dict[Input, list[int]] = defaultdict(list)
    for number, job in enumerate(group):
        for item in job.missing:
            missing_in[item].append(number)
    same: dict[tuple[int, ...], list[Input]] = defaultdict(list)
    for item, numbers in missing_in.items():
        same[tuple(numbers)].append(item)
    size = _BATCH.get(group[0].box.kind, _OTHER_BATCH)
    return [
        ([group[i] for i in numbers], ordered[start : start + size])
        for numbers, items in same.items()
        for ordered in [sorted(items, key=len)]
        for start in range(0, len(ordered), size)
    ]


def _ask(
    jobs: Sequence[_Job], batch: Sequence[Input], cache: PredictionCache, failures: dict[str, FuteError]
) -> None:
    """Ask the boxes of `jobs` for one batch and save the answers; put those that fail into `failures`."""
    if not jobs:
        return
    boxes = [job.box for job in jobs]
    try:
        answers = type(boxes[0]).predict_together(boxes, batch)
        checked = [check_predictions(box, rows, len(batch)) for box, rows in zip(boxes, answers, strict=True)]
    except StorageError:
        raise
    except Exception as error:  # a box of the user's own raises what it likes
        if len(jobs) == 1:
            failures[boxes[0].name] = _as_fute_error(error, boxes[0], len(batch))
        for job in jobs if len(jobs) > 1 else []:  # find out which one it was
            _ask([job], batch, cache, failures)
        return
    fresh: dict[str, Floats] = {}
    for job, rows in zip(jobs, checked, strict=True):
        own = {cache.key(job.box.fingerprint, item): row for item, row in zip(batch, rows, strict=True)}
        job.known.update(own)
        fresh.update(own)
    cache.put(fresh)


def _as_fute_error(error: Exception, box: BlackBox, n: int) -> FuteError:
    if isinstance(error, FuteError):
        return error
    failure = ModelError(
        f"model {box.name} failed on a batch of {n} inputs", found=f"{type(error).__name__}: {error}"
    )
    failure.__cause__ = error
    return failure
