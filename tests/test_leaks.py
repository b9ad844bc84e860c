"""Leaks: which rows stand in training data, by runs of words, and who is told."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute import Input, Project
from fute.choosing import choose, leaks
from fute.core.errors import ConfigError, DataError
from fute.data.overlap import overlapping
from tests.helpers import refused
from tests.reviews import REVIEWS

LONG = "one two three four five six seven eight nine ten eleven twelve"


def test_a_row_is_found_in_a_longer_text_whatever_its_case_and_punctuation():
    training = [Input(f"He said: {LONG.upper().replace(' ', ', ')}! And left.")]
    assert overlapping([Input(LONG), Input(LONG[::-1])], training).tolist() == [True, False]


def test_seventy_per_cent_of_the_runs_decide():
    """Twelve words have five runs of eight: four of them are 80 %, three are 60 %."""
    words = LONG.split()
    assert overlapping([Input(LONG)], [Input(" ".join(words[:11]))]).tolist() == [True]
    assert overlapping([Input(LONG)], [Input(" ".join(words[:10]))]).tolist() == [False]
    assert overlapping([Input(LONG)], [Input(" ".join(words[:10]))], share=0.6).tolist() == [True]
    both = [Input(" ".join(words[:10])), Input(" ".join(words[3:]))]
    assert overlapping([Input(LONG)], both).tolist() == [True], "runs may stand in several texts"


def test_a_short_row_must_be_a_whole_text():
    training = [Input("Not good."), Input("This was not bad at all, I think, and cheap.")]
    assert overlapping([Input("not good"), Input("not bad"), Input("...")], training).tolist() == [1, 0, 0]


def test_the_parts_of_a_pair_follow_each_other():
    pair = Input("It rains in the whole of Spain", "and the streets are wet")
    assert overlapping([pair], [Input(f"{pair.text} {pair.text_pair}")]).tolist() == [True]
    assert overlapping([pair], [Input(f"{pair.text_pair} {pair.text}")]).tolist() == [False]


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=12), min_size=1, max_size=6), st.integers(1, 4))
def test_runs_by_loops(texts, n):
    half = len(texts) // 2
    rows, others = texts[half:], texts[:half]

    def runs(words):
        return [words[i : i + n] for i in range(len(words) - n + 1)] or ([words] if words else [])

    there = [run for other in others for run in runs(other)]
    expected = [
        bool(runs(row)) and sum(run in there for run in runs(row)) / len(runs(row)) >= 0.7 for row in rows
    ]
    found = overlapping([Input(" ".join(r)) for r in rows], (Input(" ".join(o)) for o in others), n)
    assert found.tolist() == expected


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mymodels.py").write_text(
        "def lexicon(texts):\n    return [['bad', 'good']['e' in text] for text in texts]\n"
    )
    rows = [{"text": text, "label": ["bad", "good"][label]} for text, label in REVIEWS]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "u.jsonl").write_text("\n".join(json.dumps({"text": f"So: {text}"}) for text, _ in REVIEWS))
    lines = ["review", *(f'"{text.lower()}"' for text, _ in REVIEWS[:10]), '"Something else."']
    (tmp_path / "seen.csv").write_text("\n".join(lines))
    (tmp_path / "other.csv").write_text("text\nNothing of it here.\n")
    models = {"clean": "", "told": "other.csv", "leaky": "{path: seen.csv, text: review}", "sibling": ""}
    models["sibling"] = models["leaky"]
    content = ["corpus: {path: u.jsonl}", "method: {name: linear-probe, replicates: 0}"]
    content += ["datasets: [{name: d, path: d.jsonl, test: 0.5}]", "models:"]
    for name, files in models.items():
        given = f", trained_on: {files}" if files else ""
        content.append(f'  - {{name: {name}, python: "mymodels:lexicon", labels: [bad, good]{given}}}')
    (tmp_path / "fute.yaml").write_text("\n".join(content))
    return tmp_path


def test_who_was_trained_on_rows_of_the_dataset_is_named(folder):
    project = Project(folder)
    project.run()
    held_out = {item.text for item in project.datasets["d"][1].inputs}
    apart = sum(text in held_out for text, _ in REVIEWS[:10])
    assert 0 < apart < 10
    warning = f"leaky, sibling: trained on 10 of the 24 rows of d, {apart} of them held out."
    assert choose(project, "d", "model").warnings[0] == warning
    assert leaks(project, "d", ["leaky"]) == [warning.replace(", sibling", "")]
    assert leaks(project, "d", ["clean", "told"]) == []


def test_training_data_that_cannot_be_read_is_said(folder):
    config = folder / "fute.yaml"
    text = config.read_text()
    config.write_text(text.replace("text: review", "text: reviews"))
    with refused(DataError, "seen.csv", '"reviews"'):
        leaks(Project(folder), "d", ["leaky"])
    config.write_text(text.replace("path: seen.csv", "file: seen.csv"))
    with refused(ConfigError, "trained_on"):
        Project(folder)


def test_an_input_found_is_a_bool():
    assert overlapping([], []).dtype == np.bool_
