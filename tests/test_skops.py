"""Estimators from files: skops, and pickles only where they are trusted."""

import pickle

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from fute.core.errors import ConfigError
from fute.core.types import Input
from fute.models.section import Here
from fute.models.sklearn import SklearnSection
from tests.helpers import refused, write
from tests.reviews import REVIEWS

TEXTS, CLASSES = [t for t, _ in REVIEWS], ["good" if c else "bad" for _, c in REVIEWS]
INPUTS = [Input(text) for text in TEXTS]


def pipeline(last):
    return make_pipeline(CountVectorizer(), last).fit(TEXTS, CLASSES)


def build(folder, file, trust=False, **options):
    return SklearnSection(name="m", sklearn=file, **options).build(Here(folder, trust=trust))


@pytest.mark.parametrize("last", [LogisticRegression(), DecisionTreeClassifier(random_state=0)])
def test_a_skops_file_answers_as_what_was_saved(tmp_path, last):
    io = pytest.importorskip("skops.io")
    made = pipeline(last)
    io.dump(made, tmp_path / "model.skops")
    box = build(tmp_path, "model.skops")
    assert box.labels == ("bad", "good")
    assert np.asarray(box.predict(INPUTS)) == pytest.approx(made.predict_proba(TEXTS), abs=1e-6)


def test_an_svm_without_probabilities_gives_hard_labels(tmp_path):
    io = pytest.importorskip("skops.io")
    made = pipeline(LinearSVC())
    io.dump(made, tmp_path / "svm.skops")
    found = np.asarray(build(tmp_path, "svm.skops").predict(INPUTS))
    assert sorted(np.unique(found)) == [0, 1]
    assert [("bad", "good")[i] for i in found.argmax(1)] == list(made.predict(TEXTS))


def shout(texts):
    return [text.upper() for text in texts]


def test_types_that_nobody_trusts_are_named(tmp_path):
    io = pytest.importorskip("skops.io")
    made = make_pipeline(FunctionTransformer(shout), CountVectorizer(), LogisticRegression()).fit(
        TEXTS, CLASSES
    )
    io.dump(made, tmp_path / "own.skops")
    with refused(ConfigError, "doesn't know to be safe", "test_skops.shout", "trusted: ["):
        build(tmp_path, "own.skops")
    trusted = build(tmp_path, "own.skops", trusted=["tests.test_skops.shout"])
    assert np.asarray(trusted.predict(INPUTS)) == pytest.approx(made.predict_proba(TEXTS), abs=1e-6)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("ending", [".pkl", ".pickle", ".joblib"])
def test_a_pickle_runs_nothing_without_trust(tmp_path, ending):
    file = tmp_path / f"model{ending}"
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with refused(ConfigError, "runs any code", "skops", "--trust"):
        build(tmp_path, file.name)
    assert not (tmp_path / "exploded").exists()
    file.write_bytes(pickle.dumps(pipeline(LogisticRegression())))
    assert build(tmp_path, file.name, trust=True).labels == ("bad", "good")


def test_a_file_that_is_missing_or_damaged_is_told(tmp_path):
    with refused(ConfigError, "there is no file"):
        build(tmp_path, "model.skops")
    write(tmp_path / "model.pkl", b"no pickle")
    with refused(ConfigError, "can't be loaded"):
        build(tmp_path, "model.pkl", trust=True)
