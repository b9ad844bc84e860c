"""What `plan` says a run will take, and what it finds wrong before anything is asked."""

import json
from dataclasses import replace

import pytest
import transformers

from fute.cli import show
from fute.core.types import Input
from fute.labelling.budget import Caps, Spent
from fute.models.backends.client import Manners
from fute.models.base import Price, Usage
from fute.models.hf import HFModel
from fute.models.openai import OpenAIModel
from fute.models.timing import seconds
from fute.project import PlannedModel, Project
from fute.text.prompt import Prompt
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer
from tests.helpers import write
from tests.test_hf_models import bert, tokenizer
from tests.test_room import gpt2  # noqa: F401

TEXTS = [
    f"the {word} is on the table {'and so ' * n}it is" for n, word in enumerate(["cat", "dog", "key"] * 4)
]
BASE = """\
corpus: {path: u.jsonl}
datasets: [{name: things, path: things.csv}]
models:
"""


@pytest.fixture
def project(tmp_path):
    def make(models, **options):
        write(tmp_path / "fute.yaml", BASE + models)
        write(tmp_path / "u.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        write(tmp_path / "things.csv", "text,label\na cat,other\nred box,red\na dog,other\nred bed,red\n")
        return Project(tmp_path, **options)

    return make


@pytest.fixture
def colours(tmp_path):
    folder = tmp_path / "colours"
    kind = transformers.BertForSequenceClassification
    bert(kind, folder, num_labels=2, id2label={0: "other", 1: "red"}).save_pretrained(folder)
    return folder


# --- How long it takes ------------------------------------------------------------------------------------


def server(**manners):
    words = Verbalizer({"bad": ("bad",), "good": ("good",)})
    return OpenAIModel(
        "far",
        Prompt(PromptTemplate("{{ text }}"), words),
        name="far",
        price=Price(1, 1),
        manners=Manners(**manners),
    )


@pytest.mark.parametrize(
    ("manners", "rate", "expected"),
    [
        ({"concurrency": 16}, None, 38.0),  # 38 rounds of a second
        ({"concurrency": 1000}, None, 1.0),
        ({"requests_per_minute": 60}, None, 600.0),
        ({"tokens_per_minute": 6000}, None, 660.0),
        ({"concurrency": 16}, 50.0, 12.0),  # as measured
        ({"requests_per_minute": 1200}, 50.0, 30.0),  # but no faster than is allowed now
    ],
)
def test_a_server_takes_as_long_as_its_limits_say(manners, rate, expected):
    usage = Usage(600, 60_000, 6_000)
    assert seconds(server(**manners), 600, usage, rate) == pytest.approx(expected)


def test_a_plan_keeps_to_the_pace_of_a_server(project):
    planned = project(
        """\
  - {name: slow, openai: some-model, url: "http://127.0.0.1:9/v1", template: "{{ text }}",
     labels: {red: Red, other: Other}, requests_per_minute: 60}
"""
    ).plan()
    assert [(row.calls, row.seconds) for row in planned] == [(12, 12.0)]


def test_what_is_asked_about_beside_u_is_planned_too(project):
    made = project("  - {name: rule, python: 'rules:say', labels: [red, other]}\n")
    write(made.folder / "rules.py", "def say(texts):\n    return ['red'] * len(texts)\n")
    (row,) = made.plan(also=[[Input(TEXTS[0]), Input("another")]])
    assert (row.items, row.to_label) == (len(TEXTS) + 2, len(TEXTS) + 1), "one of them is in U"


def test_weights_here_take_two_operations_a_parameter_and_token(colours):
    box = HFModel(str(colours), name="m", dtype="float32")
    parameters = transformers.BertForSequenceClassification.from_pretrained(colours).num_parameters()
    assert box.weights.parameters == parameters
    assert seconds(box, 10, Usage(10, 1_200)) == pytest.approx(1_200 * 2 * parameters / 1.2e11)
    assert seconds(box, 10, Usage(10, 1_200), rate=5.0) == 2.0
    assert seconds(box, 0, Usage(0)) == 0


# --- Tokens of models with a head -------------------------------------------------------------------------

HEADS = {
    "classification": ({}, [Input(text) for text in TEXTS]),
    "pairs": ({"head": "classification", "pair": True}, [Input(text, "a red box") for text in TEXTS]),
    "multiple-choice": ({}, [Input(text, None, ("a box", "a red bed", "the key")) for text in TEXTS]),
    "question-answering": ({}, [Input("where is it", " ".join([text] * 9)) for text in TEXTS]),
}


@pytest.mark.parametrize(("head", "case"), HEADS.items(), ids=HEADS)
def test_a_head_counts_the_tokens_that_it_reads(tmp_path, head, case):
    options, items = case
    kind = {
        "multiple-choice": transformers.BertForMultipleChoice,
        "question-answering": transformers.BertForQuestionAnswering,
    }.get(head, transformers.BertForSequenceClassification)
    bert(kind, tmp_path).save_pretrained(tmp_path)
    labels = {"labels": ["no", "yes"]} if kind is transformers.BertForSequenceClassification else {}
    box = HFModel(str(tmp_path), name="m", dtype="float32", **{**options, **labels})
    found = box.usage(items)
    assert "_model" not in vars(box._headed), "counted without the weights"
    read = []
    run = box._headed._run
    box._headed._run = lambda rows, *rest, **named: (
        read.append(rows["input_ids"]) or run(rows, *rest, **named)
    )
    box.predict(items)
    assert found == Usage(len(items), sum(len(row) for rows in read for row in rows), 0)
    assert max(len(row) for rows in read for row in rows) <= 64


def test_a_cap_on_tokens_holds_for_a_model_with_a_head(project, colours):
    made = project("  - {name: red, transformers: colours}\n")
    (row,) = made.plan()
    tokens = sum(len(tokenizer()(text)["input_ids"]) for text in TEXTS)
    assert row.tokens_in == tokens
    report = made.run(caps=Caps(max_tokens=tokens // 2))
    assert 0 < report.spent.tokens <= tokens // 2
    assert "max_tokens" in str(report.stopped)
    assert report.left > 0


# --- What is wrong --------------------------------------------------------------------------------------


def test_words_that_overlap_are_found_by_plan_and_cost_nothing(project, gpt2):  # noqa: F811
    made = project(
        f"""\
  - {{name: both, llm: "{gpt2}", template: "{{{{ text }}}} It", labels: {{a: " good", b: " good day"}}}}
  - {{name: fine, llm: "{gpt2}", template: "{{{{ text }}}} It", labels: {{other: " good", red: " red"}}}}
"""
    )
    both, fine = made.plan()
    assert both.failure is not None
    assert "model both: the word ' good' of \"a\" begins like ' good day'" in both.failure
    assert (fine.failure, fine.to_label) == (None, len(TEXTS))
    report = made.run()
    assert list(report.failures) == ["both"]
    assert (report.asked, report.spent.calls) == (len(TEXTS), len(TEXTS))


def test_words_that_no_first_token_of_a_server_tells_apart_are_found_by_plan(project):
    entry = """\
  - {name: far, openai: some-model, url: "http://127.0.0.1:9/v1", template: "{{ text }}",
     labels: {a: [" good"], b: [" Good day", " fine"]}, answer: HOW}
"""
    (row,) = project(entry.replace("HOW", "logprobs")).plan()
    assert 'model far: every word of "a" is the beginning' in (row.failure or "")
    (row,) = project(entry.replace("HOW", "text")).plan()
    assert (row.failure, row.calls) == (None, len(TEXTS))


def test_what_is_to_be_downloaded_is_said_once_for_all_on_the_same_weights(capsys):
    there = PlannedModel("here", "llm", 5, 5, 0, 0, 0, 0, 0.0, 0.0)
    rows = [
        replace(there, name=name, to_label=5, download=size) for name, size in (("a", 269e6), ("b", 269e6))
    ]
    show.plan([there, *rows, replace(rows[0], name="c", download=None)], Spent(), Caps())
    out, err = capsys.readouterr()
    assert "15 answers to ask for, about < 1 s beside what a, b, c will take." in out
    said = " ".join(err.split())
    assert "a, b: `run` downloads 269 MB first" in said
    assert "c: `run` downloads an unknown number of bytes first" in said
    assert "here:" not in said


# --- Examples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_examples_are_never_rows_that_a_dataset_in_the_same_file_holds_out(project, gpt2, tmp_path, seed):  # noqa: F811
    project(
        f"""\
  - {{name: m, llm: "{gpt2}", template: "{{{{ text }}}} It", labels: {{other: " other", red: " red"}},
     examples: {{path: ./things.csv, k: 10, seed: {seed}}}}}
"""
    )
    rows = [f"a {thing} {n},{thing}" for n in range(10) for thing in ("red", "other")]
    write(tmp_path / "things.csv", "\n".join(["text,label", *rows]))
    config = (tmp_path / "fute.yaml").read_text()

    def shown_with(datasets):
        write(tmp_path / "fute.yaml", config.replace("things.csv}]", datasets))
        opened = Project(tmp_path)
        return {shot.item for shot in opened.models[0].prompt.shots}, opened.datasets["things"]

    shown, (train, held_out) = shown_with("things.csv, test: 0.5}]")
    assert len(held_out) == 10
    assert shown == set(train.inputs)
    assert shown_with("things.csv}]")[0] != shown, "where nothing is held out, all may be shown"
