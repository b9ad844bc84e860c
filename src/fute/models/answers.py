"""Answers as JSON: what a subprocess or an HTTP endpoint says about one input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fute.core.errors import ConfigError, ModelError
from fute.core.types import Answer, Failure, Input, Output, Span
from fute.models.base import MANY, BlackBox, brief, check_answers, check_labels
from fute.models.callable import answers_to_probabilities

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
    if not isinstance(said, Mapping):
        raise _unreadable(box, said)
    if said.get("error"):
        return Failure("error", str(said["error"])[:500])
    try:
        answer: Any
        if box.output == "class":
            given = said["label"] if "label" in said else said["probabilities"]
            answer = answers_to_probabilities(box, [given], 1)[0]
        elif box.output == "score":
            answer = np.array([said["score"]], dtype=np.float32)
        elif box.output == "span":
            answer = Span(str(said["span"]["text"]), int(said["span"]["start"]))
        else:
            answer = said["text"]
    except (LookupError, TypeError, ValueError):
        raise _unreadable(box, said) from None
    return check_answers(box, [answer], 1)[0]


def _unreadable(box: BlackBox, said: Any) -> ModelError:
    return ModelError(
        f"model {box.name}: an answer fute can't read", expected=EXPECTED[box.output], found=f"{said!r:.200}"
    )
