"""U from CrossFit: a few texts of each task, from one run to the next, and none that is evaluated on."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute import Input
from fute.cli import corpus as command_line
from fute.core.errors import DataError
from fute.data import crossfit
from fute.data.crossfit import CrossFitTask, build
from fute.reproduce import evaluated
from fute.reproduce.transfer import TransferRecipe
from tests.helpers import command, refused, write

LONG = " ".join(f"word{i}" for i in range(20))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in which hub ids lead to small datasets; `away` is none of them yet."""
    monkeypatch.chdir(tmp_path)

    def add(name, rows, split="train"):
        write(tmp_path / name / f"{split}.jsonl", "\n".join(map(json.dumps, rows)))

    add("o/plain", [{"text": f"plain {i % 40}", "label": 1} for i in range(60)])
    nested = {"choices": {"text": ["a", "b"], "label": [0, 1]}}
    add("o/nested", [{"question": f"which {i}?", **nested} for i in range(5)])
    add("o/evaluated", [{"text": f"{LONG} {i}"} for i in range(3)] + [{"text": "short one"}])
    return add


PLAIN = CrossFitTask(name="plain", hf="o/plain", text=["text"])
NESTED = CrossFitTask(name="nested", hf="o/nested", text=["question", "choices.text"])
AWAY = CrossFitTask(name="away", hf="o/away", text=["text"])
TOUCHED = CrossFitTask(name="touched", hf="o/evaluated", text=["text"])


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_so_many_texts_of_each_task_without_those_that_are_evaluated_on(hub, tmp_path):
    out = tmp_path / "u.jsonl"
    seen = [Input(f"Before. {LONG.upper()}"), Input("Short one!")]
    drawn = build(out, seen, tasks=[PLAIN, NESTED, TOUCHED], per_task=4)
    assert [(one.task, one.texts, one.overlapping) for one in drawn] == [
        ("plain", 4, 0),
        ("nested", 4, 0),
        ("touched", 0, 4),
    ]
    made = lines(out)
    assert len({line["text"] for line in made}) == len(made) == 8
    assert {line["task"] for line in made} == {"plain", "nested"}
    assert made[4]["text"].endswith("?\na b")
    assert not any("label" in line for line in made)


def test_a_draw_is_the_same_each_time_and_differs_by_seed(hub, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        build(tmp_path / f"{name}.jsonl", [], tasks=[PLAIN], per_task=10, seed=seed)
    one, two, three = (lines(tmp_path / f"{name}.jsonl") for name in ("one", "two", "three"))
    assert one == two != three


def test_a_task_that_failed_is_tried_again_and_the_others_are_not(hub, tmp_path, monkeypatch):
    out = tmp_path / "u.jsonl"
    first = build(out, [], tasks=[PLAIN, AWAY], per_task=2)
    assert first[1].texts == 0
    assert "can't load hf:o/away" in first[1].failure
    assert {line["task"] for line in lines(out)} == {"plain"}

    hub("o/away", [{"text": "here now"}, {"text": "and more"}])
    read, asked = crossfit.read_hub, []
    monkeypatch.setattr(crossfit, "read_hub", lambda name, *a, **k: asked.append(name) or read(name, *a, **k))
    again = build(out, [], tasks=[PLAIN, AWAY], per_task=2)
    assert asked == ["o/away"]
    assert [one.failure for one in again] == [None, None]
    assert {line["task"] for line in lines(out)} == {"plain", "away"}


def test_a_column_that_is_not_there_and_no_task_at_all(hub, tmp_path):
    wrong = CrossFitTask(name="wrong", hf="o/plain", text=["texts"])
    (_, failed) = build(tmp_path / "u.jsonl", [], tasks=[PLAIN, wrong], per_task=2)
    assert '"texts"' in failed.failure
    with refused(DataError, "no task of CrossFit could be read", "o/away"):
        build(tmp_path / "none.jsonl", [], tasks=[AWAY])
    assert not (tmp_path / "none.jsonl").exists()


words = st.lists(st.sampled_from("ab"), min_size=1, max_size=40)


@given(st.lists(words, min_size=1, max_size=4), st.lists(words, min_size=1, max_size=4))
def test_no_text_shares_thirteen_words_in_a_row_with_what_is_evaluated_on(texts, others):
    """Beside the plainest way to say so."""

    def runs(text):
        return {tuple(text[i : i + 13]) for i in range(max(1, len(text) - 12))}

    seen = [run for other in others for run in runs(other)]
    drawn = {"t": list(dict.fromkeys(" ".join(text) for text in texts))}
    found = crossfit._overlaps(drawn, [Input(" ".join(other)) for other in others])
    assert found == {text: any(run in seen for run in runs(text.split())) for text in drawn["t"]}


def test_every_task_is_named_once_and_what_is_left_out_is_evaluated_on():
    known = crossfit.crossfit()
    names = [task.name for task in known.tasks] + list(known.left_out) + known.absent
    assert len(names) == len(set(names))
    assert len(known.tasks) >= 100
    assert all(task.hf.count("/") >= 1 for task in known.tasks)
    from pathlib import Path

    tables = {task.name for task in TransferRecipe.read("paper", Path()).tasks}
    tables |= {config.name for config in evaluated._of_prompts()}
    assert {name for names in known.left_out.values() for name in names} <= tables


def test_the_command_says_what_it_wrote(hub, tmp_path, monkeypatch, capsys):
    few = crossfit.CrossFit(tasks=[PLAIN, AWAY], left_out={"squad": ["squad"]}, absent=[])
    monkeypatch.setattr(crossfit, "crossfit", lambda: few)
    monkeypatch.setattr(command_line, "evaluated", lambda progress: [Input("plain 3")])
    out = tmp_path / "u.jsonl"
    arguments = ["corpus", "crossfit", "--per-task", "30", "--out", str(out)]
    code, said, remarks = command(monkeypatch, capsys, *arguments)
    assert code == 0
    assert "plain" in said
    assert "30 texts of 1 tasks; 1 are evaluated on." in remarks
    assert "Run it again to try the 1 that failed once more." in remarks
    assert "plain 3" not in {line["text"] for line in lines(out)}
    code, said, _ = command(monkeypatch, capsys, *arguments, "--json")
    assert [one["task"] for one in json.loads(said)] == ["plain", "away"]
