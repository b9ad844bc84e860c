"""A CNN, an LSTM and a spaCy pipeline, each really trained, as black boxes behind a Python function."""

import numpy as np
import pytest
import torch

from fute.core.types import Input
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.callable import CallableModel
from tests.reviews import REVIEWS

TEXTS = [text for text, _ in REVIEWS]
LABELS = ("negative", "positive")
VOCABULARY = {word: i + 1 for i, word in enumerate(sorted({w for t in TEXTS for w in t.lower().split()}))}


def encode(texts):
    rows = [[VOCABULARY.get(w, 0) for w in t.lower().split()][:30] for t in texts]
    return torch.tensor([row + [0] * (30 - len(row)) for row in rows])


class CNN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(len(VOCABULARY) + 1, 16, padding_idx=0)
        self.convolve = torch.nn.Conv1d(16, 16, 3, padding=1)
        self.head = torch.nn.Linear(16, 2)

    def forward(self, ids):
        return self.head(self.convolve(self.embed(ids).transpose(1, 2)).relu().amax(2))


class LSTM(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(len(VOCABULARY) + 1, 16, padding_idx=0)
        self.lstm = torch.nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.head = torch.nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.lstm(self.embed(ids))[0].amax(1))


def trained(kind):
    torch.manual_seed(0)
    model = kind()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    ids, classes = encode(TEXTS), torch.tensor([c for _, c in REVIEWS])
    for _ in range(60):
        torch.nn.functional.cross_entropy(model(ids), classes).backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


@pytest.mark.parametrize("kind", [CNN, LSTM])
def test_a_neural_network_is_a_black_box(kind):
    model = trained(kind)

    def network(texts):
        with torch.inference_mode():
            return model(encode(texts)).softmax(-1).numpy()

    box = CallableModel(network, LABELS, name="network")
    found = label([box], [Input(t) for t in TEXTS], PredictionCache(None)).predictions["network"]
    assert found == pytest.approx(np.concatenate([network([t]) for t in TEXTS]), abs=1e-5)
    assert (found.argmax(1) == [c for _, c in REVIEWS]).mean() > 0.9
    before = box.fingerprint
    with torch.no_grad():
        model.head.bias += 1
    assert CallableModel(network, LABELS, name="network").fingerprint != before, (
        "other weights, another model"
    )


def test_a_spacy_pipeline_is_a_black_box():
    spacy = pytest.importorskip("spacy")
    from spacy.training import Example

    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    classifier = nlp.add_pipe("textcat")
    for name in LABELS:
        classifier.add_label(name)
    examples = [
        Example.from_dict(nlp.make_doc(t), {"cats": {"positive": float(c), "negative": 1.0 - c}})
        for t, c in REVIEWS
    ]
    optimiser = nlp.initialize(lambda: examples)
    for _ in range(10):
        nlp.update(examples, sgd=optimiser)

    def pipeline(texts):
        return [doc.cats for doc in nlp.pipe(texts)]

    box = CallableModel(pipeline, LABELS, name="spacy", version="1")
    found = label([box], [Input(t) for t in TEXTS], PredictionCache(None)).predictions["spacy"]
    expected = [[nlp(t).cats[name] for name in LABELS] for t in TEXTS]
    assert found == pytest.approx(np.array(expected), abs=1e-5)
    assert (found.argmax(1) == [c for _, c in REVIEWS]).mean() > 0.9
