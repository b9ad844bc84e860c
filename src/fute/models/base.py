"""What a black box is, and the check that every answer of every black box goes through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from fute.core.errors import ConfigError, ModelError, listing
from fute.core.types import Floats, Input


class BlackBox(ABC):
    """Θ_M: reads inputs, answers class probabilities.

    Attributes:
        name: what rankings call it.
        kind: "llm", "python", "sklearn": what it is made of, for maps.
        labels: the C label names, in the order of the columns of `predict`.
        is_pair: whether it reads two texts.
        group: boxes of one class with equal groups can be asked together, faster; None for none.
        cut: how many of the texts that it was asked for were too long for it and lost their end.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    is_pair: bool = False
    group: str | None = None
    cut: int = 0

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Content address of all that decides the answers: the cache forgets nothing and mixes nothing."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How it was made, for people."""
        return {}

    @abstractmethod
    def predict(self, inputs: Sequence[Input]) -> Floats:
        """Class probabilities, float32 (n, C), rows sum to 1."""

    def plain(self, inputs: Sequence[Input]) -> list[Any]:
        """The inputs as a function or an estimator takes them: texts, or `(text, text_pair)` tuples."""
        return [(i.text, i.text_pair) if self.is_pair else i.text for i in inputs]

    @classmethod
    def predict_together(cls, boxes: Sequence[Self], inputs: Sequence[Input]) -> list[Floats]:
        """`predict` of each box; a class whose boxes share work does it once."""
        return [box.predict(inputs) for box in boxes]

    def count_tokens(self, inputs: Sequence[Input]) -> int | None:
        """How many tokens `predict` would read, or None where that has no meaning."""
        return None


def check_labels(name: str, labels: Sequence[Any]) -> tuple[str, ...]:
    """The labels of model `name` as text, or a `ConfigError` unless they are two or more, all different."""
    names = tuple(map(str, labels))
    if len(set(names)) != len(names) or len(names) < 2:
        raise ConfigError(f"model {name} needs at least two different labels", found=listing(names) or "none")
    return names


def check_predictions(box: BlackBox, predictions: Any, n: int) -> Floats:
    """The predictions as float32 (n, C), or a `ModelError` that says which row is wrong and how.

    Raises:
        ModelError: wrong number of rows or columns, NaN or infinity, negative, or rows that don't sum to 1.
    """
    expected = f"an array of shape ({n}, {len(box.labels)}): a row per input, a column per label"
    try:
        array = np.asarray(predictions, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"model {box.name} answered no array of numbers", expected=expected, found=str(error)
        ) from error
    if array.shape != (n, len(box.labels)):
        raise ModelError(
            f"model {box.name} answered with the wrong shape",
            expected=expected,
            found=f"shape {array.shape}",
            fix="return one answer per input, in the same order",
        )
    for wrong, what in (
        (~np.isfinite(array).all(axis=1), "NaN or infinity"),
        ((array < 0).any(axis=1), "a negative probability"),
        (np.abs(array.sum(axis=1) - 1) > 1e-3, "probabilities that don't sum to 1"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ModelError(
                f"model {box.name} answered {what}",
                expected=f"probabilities of {', '.join(box.labels)}",
                found=f"{array[row].tolist()} for input {row + 1} of {n}",
            )
    return array
