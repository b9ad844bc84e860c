"""Label sets that disagree: alike but for how they are written, mapped in fute.yaml, or refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute import CallableModel, Dataset, Input, Project, embed_dataset
from fute.api import about_labels, accuracy, answers_labels
from fute.choosing import choose
from fute.core.errors import ConfigError, ModelError
from fute.core.labels import matching
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from tests.helpers import refused
from tests.reviews import REVIEWS


@pytest.mark.parametrize(
    ("own", "wanted", "places"),
    [
        (["neg", "pos"], ["pos", "neg"], [1, 0]),
        (["Positive", " negative"], ["negative", "positive"], [1, 0]),
        (["Not_Entailment", "entailment"], ["entailment", "not  entailment"], [1, 0]),
        (["A", "a"], ["a", "A"], [1, 0]),
        (["A", "a"], ["a", "B"], None),
        (["neg", "pos"], ["A", "a"], None),
        (["neg", "neutral", "pos"], ["neg", "pos"], None),
        (["neg", "pos"], ["negative", "positive"], None),
        (["world news", "sport"], ["worldnews", "sport"], None),
    ],
)
def test_names_that_are_alike(own, wanted, places):
    assert matching(own, wanted) == places


@given(
    st.lists(st.text("abAB -_", min_size=1, max_size=3), min_size=2, max_size=4, unique=True), st.randoms()
)
def test_any_order_matches_and_both_ways(names, random):
    turned = random.sample(names, len(names))
    assert [names[i] for i in matching(names, turned)] == turned
    assert matching(turned, names) is not None


STARS = [[0.5, 0.2, 0.1, 0.1, 0.1], [0.0, 0.1, 0.1, 0.4, 0.4]]


def stars(names=("1", "2", "3", "4", "5"), **options):
    rows = {"a": STARS[0], "b": STARS[1]}
    return CallableModel(lambda texts: [rows[t] for t in texts], names, name="stars", version="1", **options)


def answered(model):
    return label([model], [Input("a"), Input("b")], PredictionCache(None)).answered[model.name]


def test_labels_that_are_called_the_same_are_summed():
    model = stars()
    model.aliases = {"1": "bad", "2": "bad", "3": "good", "4": "good", "5": "good"}
    assert model.names == ("bad", "good")
    assert answered(model).probabilities_of(["Good", "Bad"]) == pytest.approx(
        np.array([[0.3, 0.7], [0.9, 0.1]]), abs=1e-6
    )
    d = Dataset("d", [Input("a"), Input("b")], np.array([1, 1]), ("Good", "Bad"))
    assert accuracy(model, d, answered(model)) == 0.5
    model.aliases = {"1": "bad", "2": "bad"}
    assert model.names == ("bad", "3", "4", "5")
    assert not answers_labels(model, d)


def test_what_labels_are_called_decides_no_answer():
    plain, called = stars(), stars()
    called.aliases = {"1": "bad"}
    assert plain.fingerprint == called.fingerprint


def test_other_labels_are_refused_with_a_way_out():
    d = Dataset.unlabelled(["a", "b"], ["bad", "good"], name="d")
    with refused(ModelError, "stars answers other labels", "expected: bad, good", "labels: {theirs: ours}"):
        embed_dataset(d, models=[stars()])
    with refused(ModelError, "stars answers other labels", "bad, good"):
        answered(stars()).probabilities_of(["bad", "good"])


def test_what_is_known_of_labels_is_said_once_for_all_alike():
    d = Dataset.unlabelled(["a"], ["bad", "so-so", "good"], name="d")
    models = []
    for name, labels in [
        ("m", "Bad,so so,Good"),
        ("n", "Bad,so so,Good"),
        ("o", "bad,good"),
        ("p", "yes,no"),
    ]:
        models.append(CallableModel(len, labels.split(","), name=name, version="1"))
    models.append(CallableModel(len, ["good", "bad", "so-so"], name="same", version="1"))
    assert about_labels(models, d) == [
        "m, n: Bad, so so, Good are taken for bad, so-so, good.",
        "o: left out, for bad, good aren't just bad, so-so, good.",
    ]


MODELS = """
def shouts(texts):
    return [{"NEGATIVE": 0.1, "POSITIVE": 0.9} if "o" in t else "NEGATIVE" for t in texts]
def short(texts):
    return ["pos" if "o" in t else "neg" for t in texts]
def stars(texts):
    return ["45"[len(t) % 2] if "o" in t else "12"[len(t) % 2] for t in texts]
def three(texts):
    return ["neutral" for t in texts]
def plain(texts):
    return ["positive" if "o" in t else "negative" for t in texts]
class Fitted:
    classes_ = [0, 1]
    def predict(self, texts):
        import numpy
        return numpy.array([int("o" in t) for t in texts])
fitted = Fitted()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mymodels.py").write_text(MODELS)
    rows = [{"text": text, "label": ["negative", "positive"][label]} for text, label in REVIEWS]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "u.jsonl").write_text(
        "\n".join(json.dumps({"text": f"I say: {text}"}) for text, _ in REVIEWS)
    )
    labels = {
        "plain": "[negative, positive]",
        "shouts": "[POSITIVE, NEGATIVE]",
        "short": "{neg: negative, pos: positive}",
        "stars": '{"1": negative, "2": negative, "4": positive, "5": positive}',
        "three": "[negative, neutral, positive]",
    }
    content = ["corpus: {path: u.jsonl}", "method: {name: linear-probe, replicates: 0}"]
    content += ["datasets: [{name: d, path: d.jsonl, test: 0.5}]", "models:"]
    content += [f'  - {{name: {n}, python: "mymodels:{n}", labels: {given}}}' for n, given in labels.items()]
    content += ['  - {name: fitted, sklearn: "mymodels:fitted", labels: {"0": negative, "1": positive}}']
    (tmp_path / "fute.yaml").write_text("\n".join(content))
    return tmp_path


def test_models_that_call_the_classes_otherwise_are_ranked_and_chosen_from(folder):
    project = Project(folder)
    assert project.run().failures == {}
    truth = project.accuracies("d")
    assert set(truth) == {"plain", "shouts", "short", "stars", "fitted"}
    assert len(set(truth.values())) == 1, "all say the same in their own words"
    found = choose(project, "d", "model", against=["MI_G"], truth=True)
    assert found.candidates == ("plain", "shouts", "short", "stars", "fitted")
    assert found.performances == (truth["plain"],) * 5
    assert found.warnings[:2] == (
        "shouts: POSITIVE, NEGATIVE are taken for negative, positive.",
        "three: left out, for negative, neutral, positive aren't just negative, positive.",
    )
    scores = dict(zip(found.candidates, found.ways[0].scores, strict=True))
    same = [scores[name] for name in ("plain", "short", "stars", "fitted")]
    assert same == pytest.approx([same[0]] * 4), "what it is called is what it means"
    assert project.space.get("stars").labels == ("negative", "positive")


def test_a_mapping_from_labels_that_are_not_there_is_refused(folder):
    config = (folder / "fute.yaml").read_text()
    (folder / "fute.yaml").write_text(config.replace('"0": negative', '"O": negative'))
    with refused(ConfigError, "model fitted", 'no label "O"', "0, 1"):
        raise Project(folder).broken["fitted"]
    (folder / "fute.yaml").write_text(config.replace("pos: positive}", "pos: negative}"))
    with refused(ConfigError, "model short needs at least two different labels", "negative"):
        raise Project(folder).broken["short"]
