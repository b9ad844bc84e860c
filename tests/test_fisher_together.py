"""Fishers of several black boxes from one pass, against those made one by one, on every family."""

from functools import partial

import numpy as np
import pytest
import torch

from fute.api import model_examples
from fute.core.types import Examples, Input
from fute.methods import task_emb
from fute.methods.task_emb import TaskEmb
from fute.project import Project
from fute.surrogates.adapters import Nothing
from fute.surrogates.base import Surrogate
from fute.surrogates.features import Features
from fute.surrogates.fisher import Fisher, add_together
from fute.surrogates.frozen import Frozen
from fute.surrogates.training import Training

from .helpers import csv_text, write
from .reviews import REVIEWS
from .surrogates import CONFIGS, make

LABELS = ("terrible", "fine", "wonderful")
INPUTS = [Input(text) for text, _ in REVIEWS[:10]]


@pytest.fixture(scope="module", params=CONFIGS)
def surrogate(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return Features(make("bert", tmp_path_factory.mktemp("bert")))


def answers(seed, labels=2, inputs=INPUTS, output="class"):
    rng = np.random.default_rng(seed)
    if output == "score":
        return Examples(inputs, rng.normal(size=(len(inputs), 1)).astype(np.float32), ("score",), "score")
    shares = rng.dirichlet(np.ones(labels), len(inputs)).astype(np.float32)
    return Examples(inputs, shares, LABELS[:labels])


def cosine(one, other):
    a, b = one.left.astype(float), other.left.astype(float)
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("many", [(2, "class"), (3, "class"), (1, "score")])
def test_one_pass_gives_what_a_pass_for_each_gives(surrogate, many):
    labels, output = many
    frozen = Frozen(surrogate, surrogate.load("float32"), 64)
    trainings = [Training(frozen, answers(s, labels, output=output), TaskEmb(), 0) for s in range(3)]
    head, rows = trainings[0].head_start, np.arange(len(INPUTS))
    together = Fisher(frozen.model, models=3)
    for some in (rows[:7], rows[7:]):
        add_together(together, trainings[0], [one.targets for one in trainings], head, some)
    assert together.examples == len(INPUTS)
    for number, training in enumerate(trainings):
        alone = Fisher(frozen.model)
        alone.add(len(rows), partial(training.losses, Nothing(), head, rows, exact=True))
        for name, found in together.squares.items():
            expected = alone.squares[name][0]
            scale = float(expected.max())
            assert torch.allclose(found[number], expected, rtol=1e-3, atol=1e-4 * scale + 1e-12), name


@pytest.mark.parametrize("labels", [2, 3])
def test_the_vectors_are_those_that_are_made_one_by_one(bert, labels):
    method = TaskEmb(adapt="none")
    many = [answers(seed, labels) for seed in range(3)]
    turned = Examples(INPUTS, many[1].targets[:, ::-1].copy(), many[1].labels[::-1])
    assert len({method.shared(one) for one in [*many, turned]}) == 1
    together = method.embed_many([*many, turned], bert, 0)
    for one, examples in zip(together, [*many, turned], strict=True):
        alone = method.embed(examples, bert, 0)
        assert one.left == pytest.approx(alone.left, abs=2e-4)
        assert cosine(one, alone) > 0.99999
    assert not np.allclose(together[0].left, together[1].left, atol=1e-3), "the targets do differ"


def test_as_many_at_once_as_memory_allows(bert, monkeypatch):
    many = [answers(seed) for seed in range(3)]
    method = TaskEmb(adapt="none")
    at_once = method.embed_many(many, bert, 0)
    monkeypatch.setattr(task_emb, "_MOST_SUMS", 1)
    for one, other in zip(method.embed_many(many, bert, 0), at_once, strict=True):
        assert one.left == pytest.approx(other.left, abs=2e-4)


def test_in_bfloat16_a_vector_is_the_same_whichever_pass_it_is_made_in(bert, monkeypatch):
    many = [answers(seed) for seed in range(3)]
    method, surrogate = TaskEmb(adapt="none"), Surrogate(bert.surrogate.id, dtype="bfloat16", max_tokens=64)
    alone = [method.embed_many([one], Features(surrogate), 0)[0] for one in many]
    monkeypatch.setattr(task_emb, "_MOST_SUMS", 1)  # a pass for each
    for one, other in zip(method.embed_many(many, Features(surrogate), 0), alone, strict=True):
        assert np.array_equal(one.left, other.left)


def test_only_what_has_the_same_gradients_is_shared():
    method = TaskEmb(adapt="none")
    key = method.shared(answers(0))
    assert key == method.shared(answers(1))
    others = [answers(0, 3), answers(0, inputs=INPUTS[1:] + INPUTS[:1]), answers(0, output="score")]
    assert len({key, *map(method.shared, others)}) == 4
    four = Examples(INPUTS, np.full((10, 4), 0.25, np.float32), ("a", "b", "c", "d"))
    texts = Examples(INPUTS, ["good"] * 10, (), "text")
    assert [method.shared(four), method.shared(texts)] == [None, None]
    changed = [{"adapt": "head"}, {"estimator": "per_batch"}, {"of": "outputs"}, {"targets": "sampled"}]
    assert {TaskEmb(**{"adapt": "none", **one}).shared(answers(0)) for one in changed} == {None}


MODELS = """
def _by(mark):
    return lambda texts: ["positive" if mark in text else "negative" for text in texts]

short = _by("e")
long = _by("film")
third = _by("the")
"""
PROJECT = """
surrogate: {surrogate}
method: {{name: task-emb, adapt: none, max_tokens: 32}}
dtype: float32
corpus: {{path: corpus.txt}}
datasets: [{{name: reviews, path: reviews.csv}}]
models:
  - {{name: short, python: "marks:short", labels: [negative, positive]}}
  - {{name: long, python: "marks:long", labels: [negative, positive]}}
  - {{name: third, python: "marks:third", labels: ["negative", "positive"]}}
"""


def test_a_project_makes_what_it_can_in_one_pass(bert, tmp_path, monkeypatch):
    write(tmp_path / "marks.py", MODELS)
    write(tmp_path / "corpus.txt", "\n".join(text for text, _ in REVIEWS[:12]))
    rows = [[text, ["negative", "positive"][label]] for text, label in REVIEWS]
    write(tmp_path / "reviews.csv", csv_text([["text", "label"], *rows]))
    write(tmp_path / "fute.yaml", PROJECT.format(surrogate=bert.surrogate.id))
    seen = []
    plain = TaskEmb.embed_many
    monkeypatch.setattr(
        TaskEmb, "embed_many", lambda self, many, *rest: seen.append(len(many)) or plain(self, many, *rest)
    )
    project = Project(tmp_path)
    report = project.run()
    assert (report.failures, seen) == ({}, [3])
    assert set(report.embedded) == {"reviews", "short", "long", "third"}
    model = next(m for m in project.models if m.name == "long")
    labelled = project.embedder.label([model], project.corpus)
    alone = project.embedder.embed("long", "model", model_examples(model, labelled), {})
    stored = project.space.get("long")
    assert cosine(stored, alone) > 0.99999
    assert stored.provenance["content"] == alone.provenance["content"]
    assert Project(tmp_path).run().embedded == ()
