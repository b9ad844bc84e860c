"""A fitted scikit-learn estimator or pipeline as a black box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from fute.core.errors import ConfigError, ModelError, listing
from fute.core.hashing import digest, digest_object
from fute.core.types import Floats, Input
from fute.models.base import BlackBox, check_labels


class SklearnModel(BlackBox):
    """A fitted classifier that takes raw texts, usually a pipeline that begins with a vectoriser.

    Probabilities come from `predict_proba` where there is one; else the prediction is a hard label.

    Args:
        estimator: fitted; has `classes_` and `predict`.
        name: what rankings call it.
        labels: label names in the order of `classes_`; by default the classes themselves.
        pair: whether it reads pairs; then it gets a list of `(text, text_pair)`.

    Raises:
        ConfigError: not fitted, no classifier, not two or more different labels, or another number of them
            than classes.
    """

    kind = "sklearn"

    def __init__(
        self, estimator: Any, *, name: str, labels: Sequence[str] | None = None, pair: bool = False
    ) -> None:
        self.estimator, self.name = estimator, name
        self.shape = "pair" if pair else "text"
        try:
            classes = estimator.classes_
        except AttributeError:
            raise ConfigError(
                f"model {name}: a {type(estimator).__name__} without `classes_`",
                expected="a fitted scikit-learn classifier or pipeline",
                fix="call .fit(texts, labels) first",
            ) from None
        self.labels = check_labels(name, labels if labels is not None else classes)
        if len(self.labels) != len(classes):
            raise ConfigError(
                f"model {name}: {len(self.labels)} labels for {len(classes)} classes",
                expected=f"names for {listing(map(str, classes))}, in this order",
                found=listing(self.labels),
            )

    @cached_property
    def fingerprint(self) -> str:
        try:
            fitted = digest_object(self.estimator)
        except Exception as error:  # pickling raises what it likes
            raise ConfigError(
                f"model {self.name}: a {type(self.estimator).__name__} that can't be pickled",
                found=f"{type(error).__name__}: {error}"[:300],
                fix="leave out what belongs to one process, such as locks and open files",
            ) from error
        return digest(["sklearn", 1, fitted, list(self.labels), self.is_pair])

    @property
    def provenance(self) -> Mapping[str, Any]:
        steps = [type(step).__name__ for _, step in getattr(self.estimator, "steps", [])]
        return {"estimator": " → ".join(steps) or type(self.estimator).__name__}

    def predict(self, inputs: Sequence[Input]) -> Floats:
        texts = self.plain(inputs)
        try:
            if hasattr(self.estimator, "predict_proba"):
                return np.asarray(self.estimator.predict_proba(texts), dtype=np.float32)
            answers = np.asarray(self.estimator.predict(texts))
        except Exception as error:  # estimators raise whatever their steps raise
            raise ModelError(
                f"model {self.name} failed on a batch of {len(inputs)} inputs",
                found=f"{type(error).__name__}: {error}"[:300],
                fix="the estimator must take a list of texts: put its vectoriser into the pipeline",
            ) from error
        return np.asarray(answers[:, None] == np.asarray(self.estimator.classes_)[None, :], dtype=np.float32)
