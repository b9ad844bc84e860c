"""What `fute run` says of texts without an answer, and `fute budget` of what was spent."""

import json

import pytest

from fute.cli.main import cli
from tests.helpers import write
from tests.surrogates import make as make_surrogate

PROJECT = """\
surrogate: tiny
dtype: float32
method: {name: linear-probe, replicates: 2}
corpus: {path: u.jsonl}
datasets:
  - {name: reviews, path: reviews.jsonl}
models:
  - {name: picky, python: "mymodels:picky", labels: [bad, good]}
  - {name: silent, python: "mymodels:silent", labels: [bad, good]}
  - {name: raising, python: "mymodels:raising", labels: [bad, good]}
budget: {max_calls: 100}
"""
MODELS = """\
def picky(texts):
    if any("three" in text for text in texts):
        raise ValueError("three is\\ntoo many")
    return silent(texts)


def silent(texts):
    return [None if "five" in text else ["bad", "good"][len(text) % 2] for text in texts]


def raising(texts):
    if any("three" in text for text in texts):
        raise OverflowError("x" * 300)
    return ["bad"] * len(texts)
"""
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    make_surrogate("bert", folder / "tiny")
    write(folder / "fute.yaml", PROJECT)
    write(folder / "mymodels.py", MODELS)
    write(folder / "u.jsonl", "".join(json.dumps({"text": f"Of {word}."}) + "\n" for word in WORDS))
    rows = [{"text": word, "label": ["bad", "good"][len(word) % 2]} for word in WORDS]
    write(folder / "reviews.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def call(capsys, *arguments):
    """What a command prints, on stdout and on stderr."""
    cli.main(list(map(str, arguments)), standalone_mode=False)
    return capsys.readouterr()


def test_a_run_says_for_each_kind_of_failure_what_happened_and_what_to_do(folder, capsys):
    said = call(capsys, "run", "--project", folder).err
    raised = "1 error, such as “ValueError: three is too many (mymodels.py, line 3)”"
    none = "1 empty, such as “the function gave None”"
    lines = {line.partition(":")[0]: line for line in said.splitlines()}
    assert raised in lines["picky"]
    assert none in lines["picky"]
    assert lines["picky"].endswith("(run again to ask for the errors, `fute run --retry` asks for all)")
    assert lines["silent"] == f"silent: some texts have no answer: {none} (`fute run --retry` asks again)"
    assert lines["raising"].endswith("x…” (run again to ask for them)")
    assert len(lines["raising"]) < 300


def test_json_lists_each_text_without_an_answer(folder, capsys):
    report = json.loads(call(capsys, "run", "--json", "--project", folder).out)
    assert report["failed_items"]["picky"] == {"error": 1, "empty": 1}
    found = {one["kind"]: one for one in report["failed_answers"]["picky"]}
    assert found["empty"] == {"text": "Of five.", "kind": "empty", "detail": "the function gave None"}
    assert found["error"]["text"] == "Of three."
    assert "three is\ntoo many" in found["error"]["detail"]
    assert [one["text"] for one in report["failed_answers"]["silent"]] == ["Of five."]


def test_what_is_spent_is_shown_and_can_be_forgotten(folder, capsys):
    call(capsys, "run", "--project", folder)
    spent = json.loads(call(capsys, "budget", "--json", "--project", folder).out)
    assert {name: one["calls"] for name, one in spent["models"].items()} == {
        "picky": 7,
        "silent": 8,
        "raising": 7,
    }
    assert spent["spent"]["calls"] == 22, "what raised is put back"
    shown = call(capsys, "budget", "--project", folder).out
    assert "silent" in shown
    assert "`max_calls`: 22 of 100." in shown
    assert "`max_calls`: 0 of 100." in call(capsys, "budget", "--reset", "--project", folder).out
    assert json.loads(call(capsys, "budget", "--json", "--project", folder).out)["spent"]["calls"] == 0
