"""Asking the boxes of a group for what is missing, and saving their answers as they come."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from fute.core.errors import BudgetError, FuteError, ModelError, StorageError
from fute.core.types import Answer, Answers, Failure, Input
from fute.labelling.budget import BoxMeter, Budget
from fute.labelling.cache import PredictionCache
from fute.models.base import MANY, TICK, BlackBox, Usage, brief, check_answers, usable

# Streamed answers are saved when so many wait, or after a tick: what `kill -9` can lose.
_SAVE_AT = 256
# Of batches that are fitted to their time: the inputs of the first, too few to judge a box by; how many times
# as many the next may have; and the fewest. Not one: functions that squeeze what they return get one wrong.
_FIRST, _GROWTH, _FEWEST = MANY - 1, 100, 2


@dataclass(eq=False)
class Job:
    """One model's share of the work. One with an error from the start is not asked.

    Attributes:
        keys: where the answers to `inputs` are kept; jobs of one fingerprint have the same.
        known, failed: by key, what is answered, and what has failed for good.
        before: by key, what failed in earlier runs.
        missing: by key, what it is to be asked for; what failed before comes last, so that it keeps nothing
            else from being asked.
        asked: how many it was asked for.
        size: how many inputs it is asked for at a time, at most (`BlackBox.batch_seconds`).
    """

    box: BlackBox
    inputs: list[Input]
    keys: list[str]
    known: dict[str, Answer] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    before: Mapping[str, Failure] = field(default_factory=dict)
    fingerprint: str = ""
    error: FuteError | None = None
    missing: dict[str, Input] = field(init=False)
    asked: int = 0
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.inputs) if self.box.batch_seconds is None else _FIRST
        absent = dict(zip(self.keys, self.inputs, strict=True))
        self.missing = {key: absent[key] for key in sorted(absent, key=lambda key: key in self.before)}
        self._strike()

    @cached_property
    def key_of(self) -> dict[Input, str]:
        return dict(zip(self.inputs, self.keys, strict=True))

    def look(self, cache: PredictionCache, others: Sequence[Job]) -> None:
        """Take what was answered, or failed, since this job began: by another process, or under another name
        of the same model.
        """
        for twin in [job for job in others if job.fingerprint == self.fingerprint]:
            self.known |= {key: twin.known[key] for key in self.missing if key in twin.known}
            self.failed |= {key: twin.failed[key] for key in self.missing if key in twin.failed}
        self.known |= cache.get(list(self.missing), self.box.output)
        failures = cache.failures(list(self.missing))
        self.failed |= {key: f for key, f in failures.items() if f != self.before.get(key)}
        self._strike()

    def excuse(self) -> None:
        """A box that answers isn't at fault where only what failed before is missing, and fails again."""
        left = [key for key in self.missing if key not in self.known and key not in self.failed]
        if self.error is not None and self.known and all(key in self.before for key in left):
            self.failed |= dict.fromkeys(left, Failure("error", brief(self.error)))
            self.error = None

    def pace(self, inputs: int, seconds: float) -> None:
        """Fit `size` to the time that so many inputs took."""
        if self.box.batch_seconds is not None:
            fitting = int(inputs * self.box.batch_seconds / max(seconds, 1e-9))
            self.size = max(_FEWEST, min(fitting, _GROWTH * self.size))

    def _strike(self) -> None:
        for key in [key for key in self.missing if key in self.known or key in self.failed]:
            del self.missing[key]

    def take(self, key: str, answer: Answer | Failure) -> None:
        if isinstance(answer, Failure):
            self.failed[key] = answer
        else:
            self.known[key] = answer


def _batches(group: Sequence[Job]) -> list[tuple[list[Job], list[Input]]]:
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


def ask_batches(group: Sequence[Job], cache: PredictionCache, budget: Budget) -> Iterator[None]:
    """Ask a group for what it misses; yields now and then. Raises BudgetError where a cap is reached."""
    for jobs, batch in _batches(group):
        yield from _ask(jobs, batch, cache, budget)


def _ask(
    jobs: Sequence[Job], batch: Sequence[Input], cache: PredictionCache, budget: Budget
) -> Iterator[None]:
    """Ask for a batch, in parts that the budget lets be asked and that don't take too long. Boxes that fail
    together are asked alone.
    """
    rest = list(batch)
    while rest and (running := [job for job in jobs if job.error is None]):
        began = time.monotonic()
        part, faults = _try(running, rest[: min(job.size for job in running)], cache, budget)
        for job in running:
            job.pace(len(part), time.monotonic() - began)
        for job, fault in faults:
            if len(running) > 1:
                yield from _ask([job], part, cache, budget)
                continue
            if not job.known:  # a box that fails on a small part may answer the others
                part = rest
            yield from _narrow(job, part, fault, cache, budget)
        rest = rest[len(part) :]
        yield


def _narrow(
    job: Job, batch: Sequence[Input], fault: Exception, cache: PredictionCache, budget: Budget
) -> Iterator[None]:
    """Where a box fails on a batch, find the inputs that it fails on. If it never answered any, some of the
    batch are asked first, one by one: where it fails on these too, the box has failed.
    """
    alone = {batch[0]: fault} if len(batch) == 1 else {}
    rest = list(batch[1:]) if alone else list(batch)
    if not job.known and not alone:
        some = rest[:: -(-len(rest) // MANY)]
        rest = [item for item in rest if item not in some]
        for item in some:
            alone.update((item, found) for _, found in _try([job], [item], cache, budget)[1])
    if not job.known:
        job.error = as_fute_error(fault, job.box, f"on a batch of {len(batch)} inputs")
        return
    _save({job: [(item, Failure("error", brief(found))) for item, found in alone.items()]}, cache)
    middle = (len(rest) + 1) // 2
    yield from _ask([job], rest[:middle], cache, budget)
    yield from _ask([job], rest[middle:], cache, budget)


def _try(
    jobs: Sequence[Job], batch: list[Input], cache: PredictionCache, budget: Budget
) -> tuple[list[Input], list[tuple[Job, Exception]]]:
    """Ask boxes together, once, for as much of a batch as the budget lets be asked, and save their answers.
    What is asked of boxes on this machine in vain is put back.

    Returns:
        the part of the batch, and the jobs that have no answers to it, with the reason.

    Raises:
        BudgetError: not even one input may be asked.
    """
    part, wanted, faults = _reserve(jobs, batch, budget)
    if not wanted:
        return part, faults
    boxes = [job.box for job, _ in wanted]
    try:
        answers = type(boxes[0]).predict_together(boxes, part)
        checked = [check_answers(box, rows, len(part)) for box, rows in zip(boxes, answers, strict=True)]
    except BaseException as error:  # a box of the user's own raises what it likes, and who waits may stop it
        budget.put_back([(job.box, usage) for job, usage in wanted if not job.box.is_remote])
        if isinstance(error, StorageError) or not isinstance(error, Exception):
            raise
        return part, [*faults, *((job, error) for job, _ in wanted)]
    _save({j: list(zip(part, r, strict=True)) for (j, _), r in zip(wanted, checked, strict=True)}, cache)
    return part, faults


def _reserve(
    jobs: Sequence[Job], batch: list[Input], budget: Budget
) -> tuple[list[Input], list[tuple[Job, Usage]], list[tuple[Job, Exception]]]:
    """As much of the batch as the budget lets be asked, what it takes, and the jobs whose boxes can't say.

    Raises:
        BudgetError: not even one input.
    """
    while True:
        wanted: list[tuple[Job, Usage]] = []
        faults: list[tuple[Job, Exception]] = []
        for job in jobs:
            try:
                with faults_of(job.box, f"to count what a batch of {len(batch)} inputs takes"):
                    wanted.append((job, job.box.usage(batch)))
            except StorageError:
                raise
            except FuteError as error:
                faults.append((job, error))
        if not wanted:
            return batch, wanted, faults
        try:
            budget.reserve([(job.box, usage) for job, usage in wanted])
        except BudgetError:
            if len(batch) == 1:
                raise
            batch = batch[: len(batch) // 2]
        else:
            return batch, wanted, faults


def _save(said: Mapping[Job, Sequence[tuple[Input, Answer | Failure]]], cache: PredictionCache) -> None:
    """Save what boxes said to some of the inputs that were missing."""
    fresh: dict[str, Answer | Failure] = {}
    for job, pairs in said.items():
        for item, answer in pairs:
            key = job.key_of[item]
            fresh[key] = usable(item, answer)
            job.take(key, fresh[key])
        job.asked += len(pairs)
    _put(list(said), fresh, cache)


def _put(jobs: Sequence[Job], fresh: Mapping[str, Answer | Failure], cache: PredictionCache) -> None:
    """Save answers; where others are kept already, these are taken instead."""
    if not cache.put(fresh):
        for job in jobs:
            job.known |= cache.get([key for key in fresh if key in job.known], job.box.output)


def ask_streaming(group: Sequence[Job], cache: PredictionCache, budget: Budget) -> Iterator[None]:
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
                _put(group, fresh, cache)
                fresh, saved = {}, time.monotonic()
                yield
    except StorageError:
        raise
    except Exception as error:  # there is no asking any of them: no key, no such program
        for job in group:
            job.error = job.error or as_fute_error(error, job.box, "on a batch of 1 inputs")
    finally:
        close = getattr(answers, "close", None)
        if close is not None:
            close()
        _put(group, fresh, cache)
    yield
    if stopped is not None:
        raise stopped


def _keep(job: Job, key: str, answer: Answers | Exception, fresh: dict[str, Answer | Failure]) -> None:
    """Take a streamed answer, to be saved with the `fresh` ones, or what stops its job."""
    try:
        if isinstance(answer, Exception):
            raise answer
        fresh[key] = usable(job.missing[key], check_answers(job.box, answer, 1)[0])
    except StorageError:
        raise
    except Exception as error:
        if isinstance(answer, Exception) or not job.known:
            job.error = job.error or as_fute_error(error, job.box, "on a batch of 1 inputs")
            return
        fresh[key] = Failure("error", brief(error))
    job.take(key, fresh[key])
    job.asked += 1


@contextmanager
def faults_of(box: BlackBox, when: str) -> Iterator[None]:
    """Turn what the block raises into a FuteError: a box of the user's own raises what it likes."""
    try:
        yield
    except Exception as error:
        raise as_fute_error(error, box, when) from error


def as_fute_error(error: Exception, box: BlackBox, when: str) -> FuteError:
    if isinstance(error, FuteError):
        return error
    failure = ModelError(f"model {box.name} failed {when}", found=f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
