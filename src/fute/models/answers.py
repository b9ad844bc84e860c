"""Answers as others say them: a Python function, or in JSON a program or an HTTP endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Set
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
    """

    def __init__(self, box: BlackBox) -> None:
        self._box, self.any_good, self._unreadable = box, False, 0

    def __call__(self, said: Any) -> Answer | Failure:
        """The answer, or why there is none. Raises ModelError where the box can't be used."""
        try:
            answer = read_answer(self._box, said)
        except ModelError as error:
            self._unreadable += 1
            if not self.any_good and self._unreadable >= MANY:
                raise
            return Failure("unparsed", brief(error))
        self.any_good = self.any_good or not isinstance(answer, Failure)
        return answer


def read_answer(box: BlackBox, said: Any) -> Answer | Failure:
    """The answer that a JSON object holds; `{"error": "…"}` is a failure.

    Raises:
        ModelError: it holds none of the kind that the box gives.
    """
    return check_answers(box, [_read(box, said)], 1)[0]


def _read(box: BlackBox, said: Any) -> Answer | Failure:
    if not isinstance(said, Mapping):
        raise _unreadable(box, said)
    if said.get("error"):
        return Failure("error", str(said["error"])[:500])
    try:
        answer: Answer
        if box.output == "class":
            given = said["label"] if "label" in said else said["probabilities"]
            answer = answers_to_probabilities(box, [given], 1)[0]
        elif box.output == "score":
            answer = np.asarray(said["score"], dtype=np.float32).reshape(1)
        elif box.output == "span":
            answer = Span(str(said["span"]["text"]), int(said["span"]["start"]))
        else:
            answer = said["text"]
    except (LookupError, TypeError, ValueError):
        raise _unreadable(box, said) from None
    return answer


def _unreadable(box: BlackBox, said: Any) -> ModelError:
    return ModelError(
        f"model {box.name}: an answer fute can't read", expected=EXPECTED[box.output], found=f"{said!r:.200}"
    )


def read_answers(box: BlackBox, answers: Any, n: int) -> Answers:
    """What a function returned for n inputs, as a box answers it: for classes as `answers_to_probabilities`
    takes it; else each answer may be a score, a text or (text, start), or a mapping as for `read_answer`.
    None, and {"error": "why"} unless a label is called "error", are failures.

    Raises:
        ModelError: another number of answers, or one that isn't of the kind that the box gives.
    """
    rows = _listed(box, answers, n)
    failed = [_failure(box, row) for row in rows]
    good = [row for row, failure in zip(rows, failed, strict=True) if failure is None]
    read: Answers
    if box.output == "class":
        read = answers_to_probabilities(box, good, len(good))
    else:
        read = [_read(box, _as_said(box.output, row)) for row in good]
    if len(good) == n:
        return read
    rest = iter(read)
    return [next(rest) if failure is None else failure for failure in failed]


def _failure(box: BlackBox, answer: Any) -> Failure | None:
    if answer is None:
        return Failure("empty", "the function gave None")
    if isinstance(answer, Mapping) and "error" in answer and "error" not in box.labels:
        return Failure("error", str(answer["error"])[:500])
    return None


def _as_said(output: Output, answer: Any) -> Any:
    """A function's answer in the form of a program's."""
    if isinstance(answer, Mapping) and (output in answer or "error" in answer):
        return answer
    if output == "span" and isinstance(answer, tuple | list) and len(answer) == 2:
        return {"span": {"text": answer[0], "start": answer[1]}}
    return {output: answer}


def _listed(box: BlackBox, answers: Any, n: int) -> list[Any]:
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


def answers_to_probabilities(box: BlackBox, answers: Any, n: int) -> Floats:
    """Labels, mappings or probability rows as float32 (n, C).

    Raises:
        ModelError: another number of answers, or an answer that names no label.
    """
    rows = _listed(box, answers, n)
    position = {label: i for i, label in enumerate(box.labels)}

    def column(label: Any, row: int) -> int:
        if str(label) not in position:
            raise ModelError(
                f'model {box.name} answered "{label}", which is none of its labels.'
                f"{did_you_mean(str(label), position)}",
                expected=f"one of {listing(position)}",
                found=f"{rows[row]!r:.100} for input {row + 1} of {n}",
                fix="correct the function, or `labels`",
            )
        return position[str(label)]

    def unreadable(row: int) -> ModelError:
        return ModelError(
            f"model {box.name}: an answer fute can't read",
            expected=f"a label, a mapping to probabilities, or {len(box.labels)} probabilities",
            found=f"{rows[row]!r:.100} for input {row + 1} of {n}",
        )

    result = np.zeros((n, len(box.labels)), dtype=np.float32)
    for i, answer in enumerate(rows):
        if isinstance(answer, Mapping):
            for label, probability in answer.items():
                try:
                    result[i, column(label, i)] = probability
                except (TypeError, ValueError):
                    raise unreadable(i) from None
        elif isinstance(answer, str | int | bool | np.integer):
            result[i, column(answer, i)] = 1.0
        else:
            try:
                values = np.asarray(answer, dtype=np.float32)
            except (TypeError, ValueError):
                values = np.empty(0, dtype=np.float32)
            if values.shape != (len(box.labels),):
                raise unreadable(i)
            result[i] = values
    return result
