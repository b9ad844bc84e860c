"""Answers as others say them: a Python function, or in JSON a program or an HTTP endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from fute.core.errors import ConfigError, ModelError, did_you_mean, listing
from fute.core.types import Answer, Answers, Failure, Floats, Input, Output, Span
from fute.models.base import MANY, BlackBox, brief, check_answers, check_labels

EXPECTED: dict[Output, str] = {
    "class": '{"label": "good"} or {"probabilities": {"bad": 0.2, "good": 0.8}}',
    "score": '{"score": 0.7}',
    "text": '{"text": "an answer"}',
    "span": '{"span": {"text": "an answer", "start": 12}}; no answer: {"span": {"text": "", "start": -1}}',
}


def labels_for(name: str, output: Output, labels: list[str] | None) -> tuple[str, ...]:
    """The labels of a model with this output. Raises ConfigError where they don't fit it."""
    if output == "class":
        return check_labels(name, labels or [])
    if output == "score" and len(labels or ["score"]) == 1:
        return tuple(labels or ["score"])
    if labels:
        raise ConfigError(f"model {name}: `output: {output}` takes no such labels", found=", ".join(labels))
    return ()


def as_json(item: Input) -> dict[str, Any]:
    """An input as it is sent: `text`, and `text_pair` and `options` where it has them."""
    content: dict[str, Any] = {"text": item.text}
    if item.text_pair is not None:
        content["text_pair"] = item.text_pair
    if item.options:
        content["options"] = list(item.options)
    return content


class Reader:
    """Reads what one box says in one run. What can't be read is that item's failure; where so many can't be,
    and there never was a good answer, it is the box that doesn't speak this language.

    Args:
        box: whose answers are read.
        read: reads them (`read_said`, `read_returned`).
    """

    def __init__(self, box: BlackBox, read: Callable[[BlackBox, Sequence[Any]], Answers]) -> None:
        self._box, self._read, self.any_good, self._unreadable = box, read, False, 0

    def __call__(self, said: Sequence[Any]) -> Answers:
        """The answers, or why there are none. Raises ModelError where the box can't be used."""
        faults: list[ModelError] = []
        answers: Answers
        try:
            answers = self._read(self._box, said)
        except ModelError:
            answers = [self._alone(one, faults) for one in said]
        self.any_good = self.any_good or any(not isinstance(answer, Failure) for answer in answers)
        self._unreadable += len(faults)
        if faults and not self.any_good and self._unreadable >= MANY:
            raise faults[0]
        return answers

    def _alone(self, said: Any, faults: list[ModelError]) -> Answer | Failure:
        try:
            return self._read(self._box, [said])[0]
        except ModelError as error:
            faults.append(error)
            return Failure("unparsed", brief(error))


def read_said(box: BlackBox, said: Sequence[Any]) -> Answers:
    """The answers that JSON objects hold; `{"error": "…"}` is a failure.

    Raises:
        ModelError: one holds none of the kind that the box gives.
    """
    return check_answers(box, [_read(box, one) for one in said], len(said))


@np.errstate(over="ignore")  # to infinity, which is refused
def _read(box: BlackBox, said: Any) -> Answer | Failure:
    if not isinstance(said, Mapping):
        raise _unreadable(box, said)
    if said.get("error"):
        return Failure("error", str(said["error"]))
    try:
        answer: Answer
        if box.output == "class":
            given = said["label"] if "label" in said else said["probabilities"]
            answer = answers_to_probabilities(box, [given])[0]
        elif box.output == "score":
            answer = np.asarray(said["score"], dtype=np.float32).reshape(1)
        elif box.output == "span":
            answer = Span(str(said["span"]["text"]), int(said["span"]["start"]))
        else:
            answer = said["text"]
    except (LookupError, TypeError, ValueError, OverflowError):
        raise _unreadable(box, said) from None
    return answer


def _unreadable(box: BlackBox, said: Any) -> ModelError:
    return ModelError(
        f"model {box.name}: an answer fute can't read", expected=EXPECTED[box.output], found=f"{said!r:.80}"
    )


def read_returned(box: BlackBox, rows: Sequence[Any]) -> Answers:
    """What a function returned for some inputs, as a box answers it: for classes as
    `answers_to_probabilities` takes it; else each answer may be a score, a text or (text, start), or a
    mapping as for `read_said`. None, and {"error": "why"} unless a label is called "error", are failures.

    Raises:
        ModelError: one isn't of the kind that the box gives.
    """
    failed = [_failure(box, row) for row in rows]
    good = [row for row, failure in zip(rows, failed, strict=True) if failure is None]
    read: Answers
    if box.output == "class":
        read = answers_to_probabilities(box, good)
        check_answers(box, read, len(good))
    else:
        read = check_answers(box, [_read(box, _as_said(box.output, row)) for row in good], len(good))
    if len(good) == len(rows):
        return read
    rest = iter(read)
    return [next(rest) if failure is None else failure for failure in failed]


def _failure(box: BlackBox, answer: Any) -> Failure | None:
    if answer is None:
        return Failure("empty", "the function gave None")
    if isinstance(answer, Mapping) and "error" in answer and "error" not in box.labels:
        return Failure("error", str(answer["error"]))
    return None


def _as_said(output: Output, answer: Any) -> Any:
    """A function's answer in the form of a program's."""
    if isinstance(answer, Mapping) and (output in answer or "error" in answer):
        return answer
    if output == "span" and isinstance(answer, tuple | list) and len(answer) == 2:
        return {"span": {"text": answer[0], "start": answer[1]}}
    return {output: answer}


def listed(box: BlackBox, answers: Any, n: int) -> list[Any]:
    """What a function returned for n inputs, as a list. Raises ModelError where it isn't one, or isn't as
    long.
    """
    # These have a length too, but not of answers: characters, keys, or no order.
    unlisted = isinstance(answers, str | bytes | Mapping | Set) or hasattr(answers, "columns")
    try:
        rows = [] if unlisted else list(answers)
    except TypeError:
        rows, unlisted = [], True
    if unlisted:
        raise ModelError(
            f"model {box.name} answered with a {type(answers).__name__}, not with a list",
            expected=f"a list of {n} answers, one per input",
            found=f"{answers!r:.100}",
        )
    if len(rows) != n:
        raise ModelError(
            f"model {box.name} answered {len(rows)} times to {n} inputs",
            expected="one answer per input",
            found=f"a {type(answers).__name__} of length {len(rows)}",
            fix="the function takes a list of texts and returns a list of the same length",
        )
    return rows


@np.errstate(over="ignore")
def answers_to_probabilities(box: BlackBox, answers: Sequence[Any]) -> Floats:
    """Labels, mappings or probability rows as float32 (n, C).

    Raises:
        ModelError: an answer that names no label.
    """
    position = {label: i for i, label in enumerate(box.labels)}

    def column(label: Any, answer: Any) -> int:
        if str(label) not in position:
            raise ModelError(
                f'model {box.name} answered "{label!s:.80}", which is none of its labels.'
                f"{did_you_mean(f'{label!s:.80}', position)}",
                expected=f"one of {listing(position)}",
                found=f"{answer!r:.80}",
                fix="correct the function, or `labels`",
            )
        return position[str(label)]

    def unreadable(answer: Any) -> ModelError:
        return ModelError(
            f"model {box.name}: an answer fute can't read",
            expected=f"a label, a mapping to probabilities, or {len(box.labels)} probabilities",
            found=f"{answer!r:.80}",
        )

    result = np.zeros((len(answers), len(box.labels)), dtype=np.float32)
    for row, answer in zip(result, answers, strict=True):
        if isinstance(answer, Mapping):
            for label, probability in answer.items():
                try:
                    row[column(label, answer)] = probability
                except (TypeError, ValueError, OverflowError):
                    raise unreadable(answer) from None
        elif isinstance(answer, str | int | bool | np.integer):
            row[column(answer, answer)] = 1.0
        else:
            try:
                values = np.asarray(answer, dtype=np.float32)
            except (TypeError, ValueError, OverflowError):
                values = np.empty(0, dtype=np.float32)
            if values.shape != row.shape:
                raise unreadable(answer)
            row[:] = values
    return result
