"""A fitted scikit-learn estimator or pipeline as a black box."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fute.core.errors import ConfigError, FuteError, ModelError, listing
from fute.core.hashing import digest, digest_object
from fute.core.runtime import require
from fute.core.types import Floats, Input
from fute.models.base import BlackBox, check_labels
from fute.models.callable import import_object
from fute.models.section import Here, LabelsSection
from fute.models.users_code import users_code

# scikit-learn's own, which skops leaves to be named: a fitted decision tree is arrays and nothing that runs.
_KNOWN = ["sklearn.tree._tree.Tree"]
_PICKLES = {".pkl", ".pickle", ".joblib"}


class SklearnModel(BlackBox):
    """A fitted classifier or regressor that takes raw texts, usually a pipeline that begins with a
    vectoriser.

    A classifier's probabilities come from `predict_proba` where there is one; else the prediction is a hard
    label. A regressor's answers are scores.

    Args:
        estimator: fitted; has `predict`, and a classifier `classes_`.
        name: what rankings call it.
        labels: label names in the order of `classes_`, by default the classes themselves; of a regressor the
            name of its score, by default "score".
        pair: whether it reads pairs; then it gets a list of `(text, text_pair)`.

    Raises:
        ConfigError: not fitted, no classifier, not two or more different labels, or another number of them
            than classes.
    """

    kind = "sklearn"
    batch_seconds = 1.0

    def __init__(
        self, estimator: Any, *, name: str, labels: Sequence[str] | None = None, pair: bool = False
    ) -> None:
        self.estimator, self.name = estimator, name
        self.shape = "pair" if pair else "text"
        if _is_regressor(estimator):
            self.output = "score"
            self.labels = tuple(map(str, labels)) if labels is not None else ("score",)
            if len(self.labels) != 1:
                raise ConfigError(f"model {name}: a regressor has one score", found=listing(self.labels))
            return
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
            with users_code():
                if hasattr(self.estimator, "predict_proba"):
                    return np.asarray(self.estimator.predict_proba(texts), dtype=np.float32)
                answers = np.asarray(self.estimator.predict(texts))
            if self.output == "score":
                return np.asarray(answers, dtype=np.float32).reshape(len(texts), 1)
        except Exception as error:  # estimators raise whatever their steps raise
            raise ModelError(
                f"model {self.name} failed on a batch of {len(inputs)} inputs",
                found=f"{type(error).__name__}: {error}"[:300],
                fix="the estimator must take a list of texts: put its vectoriser into the pipeline",
            ) from error
        return np.asarray(answers[:, None] == np.asarray(self.estimator.classes_)[None, :], dtype=np.float32)


def _is_regressor(estimator: Any) -> bool:
    from sklearn.base import is_regressor

    try:
        return bool(is_regressor(estimator))
    except (AttributeError, TypeError):  # something that only looks like an estimator
        return False


class SklearnSection(LabelsSection):
    """`sklearn:` a file (`model.skops`, or with trust a pickle) or "module:name", a fitted estimator or a
    function that makes one.

    Attributes:
        trusted: types beside scikit-learn's own that a skops file may hold; you have looked at them.
    """

    KEY: ClassVar[str] = "sklearn"

    sklearn: str
    pair: bool = False
    trusted: list[str] = Field(default_factory=list)

    def build(self, here: Here) -> BlackBox:
        path = here.folder / self.sklearn
        if path.suffix in {".skops", *_PICKLES}:
            estimator = _load(path, here.trust, self.trusted)
        else:
            estimator = _fitted(import_object(self.sklearn, here.folder))
        in_order = None if isinstance(self.labels, dict) else self.labels
        return SklearnModel(estimator, name=self.name, labels=in_order, pair=self.pair)


def _load(path: Path, trust: bool, trusted: Sequence[str]) -> Any:
    """The estimator in a file.

    Raises:
        ConfigError: no such file, a pickle without trust, or types that nobody has said are safe.
        MissingError: skops isn't installed.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    if path.suffix in _PICKLES and not trust:
        raise ConfigError(
            f"{path} is a pickle, and loading a pickle runs any code that is in it",
            fix="save it with skops: skops.io.dump(model, 'model.skops'); or pass --trust, if it is your own",
        )
    try:
        with users_code():
            return _read(path, trusted)
    except FuteError:
        raise
    except Exception as error:  # a damaged file raises what it likes
        raise ConfigError(
            f"{path} can't be loaded", found=f"{type(error).__name__}: {error}"[:300]
        ) from error


def _read(path: Path, trusted: Sequence[str]) -> Any:
    if path.suffix == ".joblib":
        import joblib

        return joblib.load(path)
    if path.suffix in _PICKLES:
        with path.open("rb") as file:
            return pickle.load(file)
    require("skops", "sklearn", f"loading {path.name}")
    from skops.io import get_untrusted_types, load

    allowed = [*_KNOWN, *trusted]
    unknown = sorted(set(get_untrusted_types(file=path)) - set(allowed))
    if unknown:
        raise ConfigError(
            f"{path} holds types that fute doesn't know to be safe",
            found=listing(unknown),
            fix="if you know them, name them: trusted: [" + ", ".join(unknown) + "]",
        )
    return load(path, trusted=allowed)


def _fitted(target: Any) -> Any:
    """The estimator that "module:name" names: an object, or a function that makes one."""
    if hasattr(target, "predict") and not isinstance(target, type):
        return target
    if not callable(target) or isinstance(target, type):
        raise ConfigError(
            "`sklearn` names no fitted estimator and no function that makes one", found=f"{target!r:.100}"
        )
    try:
        with users_code():
            return target()
    except FuteError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise ConfigError(
            "the function that makes the estimator failed", found=f"{type(error).__name__}: {error}"[:300]
        ) from error
