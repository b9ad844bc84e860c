"""`fute rank`: its table and its JSON, what accuracy to expect, and what it says of the models."""

import json
import shutil
import sys
from functools import partial

import pytest

from fute.choosing import choose, choose_source
from fute.choosing.remarks import remarks
from fute.outcomes import expected, remember, why_none
from fute.project import Project
from fute.selection.expected import Outcome, expect
from fute.space.similarity import cosine
from tests.helpers import command

MODELS = """
def good(texts):
    return [[0.1, 0.9] if "good" in text else [0.9, 0.1] for text in texts]
def unsure(texts):
    return [[0.4, 0.6] if "good" in text else [0.6, 0.4] for text in texts]
def turned(texts):
    return [[0.9, 0.1] if "good" in text else [0.1, 0.9] for text in texts]
def always(texts):
    return [[1.0, 0.0] for _ in texts]
def lengths(texts):
    return [[0.3, 0.7] if len(text) > 22 else [0.7, 0.3] for text in texts]
def thirds(texts):
    return [[0.7, 0.2, 0.1] if len(text) % 3 else [0.1, 0.2, 0.7] for text in texts]
def fails(texts):  # on all texts but those of U
    return [[0.3, 0.7] if "is" in text and len(text) > 20 else [0.7, 0.3 / ("is" in text)] for text in texts]
"""
WORDS = ["film", "book", "song", "play", "meal", "trip", "game", "hotel", "phone", "course"]
TEXTS = [f"{a} {w} {b}" for w in WORDS for a in ("The", "Our long") for b in ("was good", "was bad")]
OTHERS = ("a", "b", "c")
HEADINGS = ["rank", "score", "with more texts", "−1       0        +1", "P(best)"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project after `fute run`: one task in four draws, a fifth whose labels no model answers."""
    folder = tmp_path_factory.mktemp("ranking")
    (folder / "mymodels.py").write_text(MODELS)
    rows = [{"text": t, "label": "pos" if "good" in t else "neg"} for t in TEXTS]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stars = [{"text": t, "label": "5" if "good" in t else "1"} for t in TEXTS]
    (folder / "stars.jsonl").write_text("\n".join(map(json.dumps, stars)))
    texts = [t.replace("was", "is") for t in TEXTS]
    (folder / "u.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    (folder / "seen.csv").write_text("\n".join(["text", *TEXTS[:5]]))
    content = ["corpus: {path: u.jsonl}", "method: {name: linear-probe, replicates: 30}", "datasets:"]
    content += [f"  - {{name: {n}, path: d.jsonl, test: 0.5, seed: {i}}}" for i, n in enumerate("dabc")]
    content += ["  - {name: stars, path: stars.jsonl, test: 0.5}", "models:"]
    for name in ("good", "unsure", "turned", "always", "lengths", "fails"):
        trained = ", trained_on: seen.csv" if name == "turned" else ""
        content.append(f'  - {{name: {name}, python: "mymodels:{name}", labels: [neg, pos]{trained}}}')
    content.append('  - {name: other, python: "mymodels:good", labels: [no, yes]}')
    content.append('  - {name: three, python: "mymodels:thirds", labels: [neg, pos, none]}')
    (folder / "fute.yaml").write_text("\n".join(content))
    assert not Project(folder).run().failures
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "project")


@pytest.fixture
def rank(folder, monkeypatch, capsys):
    """`rank(...)` in the project's folder: exit code, stdout and stderr of the command."""
    monkeypatch.chdir(folder)

    return partial(command, monkeypatch, capsys, "rank")


def reach(folder, **accuracies):
    """Outcomes on the three other datasets, as after `--accuracy`."""
    project = Project(folder)
    for i, other in enumerate(OTHERS):
        remember(project, other, {name: value + i / 50 for name, value in accuracies.items()})


def cells(out, name):
    (line,) = [line for line in out.splitlines() if line.split()[-1:] == [name] and line.split()[0].isdigit()]
    return line.split()


def test_without_outcomes_a_line_says_what_it_takes_to_expect_an_accuracy(folder, rank):
    code, out, err = rank("d")
    assert (code, err) == (0, "")
    headings = out.splitlines()[1]
    assert [heading for heading in [*HEADINGS, "name"] if heading not in headings] == []
    assert "accuracy" not in headings
    assert cells(out, "good")[-2] == "0.50"
    assert "No expected accuracy: outcomes of 0 of the 3 datasets needed (`--accuracy`)." in out

    found = json.loads(rank("d", "--json")[1])
    assert (
        found["no_expected"] == "No expected accuracy: outcomes of 0 of the 3 datasets needed (`--accuracy`)."
    )
    assert {line["expected"] for line in found["ranking"]} == {None}
    assert "accuracy" not in found["ranking"][0]

    remember(Project(folder), "a", {"good": 1.0})
    remember(Project(folder), "b", {"good": 1.0})
    remember(Project(folder), "d", {"good": 1.0})
    assert "outcomes of 2 of the 3" in rank("d")[1], "its own outcome doesn't count"
    assert "No expected accuracy: no model answers the labels of stars." in rank("stars")[1]


def test_what_to_know_of_the_models_needs_no_call(folder, rank):
    before = Project(folder).budget.spent
    held_out = {item.text for item in Project(folder).datasets["d"][1].inputs}
    apart = sum(text in held_out for text in TEXTS[:5])
    warnings = json.loads(rank("d", "--json")[1])["warnings"]
    assert warnings == [
        "three: no accuracy, for neg, pos, none aren't just neg, pos.",
        f"turned: trained on 5 of the 40 rows of d, {apart} of them held out.",
        "Nearly all texts of U get the same answer from always.",
        *[line for line in warnings if "answers U like" in line],
    ]
    assert any({"good", "unsure"} <= set(line.replace(".", "").split()) for line in warnings)
    out = rank("d")[1]
    assert [line for line in warnings if line not in out] == []
    assert Project(folder).budget.spent == before


def test_only_the_best_are_compared_with_each_other(folder, monkeypatch):
    """Of 100,000 models all pairs would be too many."""
    names = ["good", "unsure", "always"]
    assert "unsure answers U like good." in remarks(Project(folder), "d", names)
    monkeypatch.setattr("fute.choosing.remarks._COMPARED", 1)
    assert remarks(Project(folder), "d", names) == []
    assert remarks(Project(folder), "d", names[::-1]) == [
        "Nearly all texts of U get the same answer from always."
    ]


def test_with_three_outcomes_each_model_that_can_have_an_accuracy_has_an_expected_one(folder, rank):
    for other in OTHERS:
        assert rank(other, "--accuracy")[0] == 0
    found = json.loads(rank("d", "--json")[1])
    assert found["no_expected"] is None
    hopes = {line["name"]: line["expected"] for line in found["ranking"]}
    assert hopes["good"]["performance"] > 0.9
    assert hopes["good"]["low"] <= 1 <= hopes["good"]["high"]
    assert (hopes["other"], hopes["three"]) == (None, None), "they answer other labels"
    code, out, err = rank("d")
    assert (code, err) == (0, "")
    assert "expected accuracy" in out.splitlines()[1]
    hope = hopes["good"]
    shown = f"{hope['performance']:.2f} ({hope['low']:.2f} … {hope['high']:.2f})"
    assert " ".join(cells(out, "good")[-5:-1]) == shown
    assert cells(out, "other")[-2] == "–"
    assert "No expected accuracy" not in out
    both = rank("d", "--accuracy")[1]
    assert both.splitlines()[1].split()[-4:] == ["expected", "accuracy", "accuracy", "name"]
    assert cells(both, "good")[-2] == "1.000"


def test_the_expected_accuracy_is_of_the_scores_beside_it(folder):
    reach(folder, good=0.9, turned=0.1, always=0.5, lengths=0.4)
    project = Project(folder)
    names = ["good", "turned", "always", "lengths"]
    for of in ("map", "inputs"):
        score = {
            (d, m): cosine(project.space.get(d), project.space.get(m), of) for d in "dabc" for m in names
        }
        reached = {"good": 0.9, "turned": 0.1, "always": 0.5, "lengths": 0.4}
        outcomes = [
            Outcome(d, m, score[d, m], reached[m] + i / 50) for i, d in enumerate(OTHERS) for m in names
        ]
        by_hand = expect(outcomes, {m: score["d", m] for m in names})
        found = expected(project, "d", of)
        for name in names:
            assert vars(found[name]) == pytest.approx(vars(by_hand[name]))
    assert found["turned"] != expected(project, "d")["turned"]


def test_a_model_that_fails_on_the_rows_is_named_with_why(rank):
    code, out, err = rank("d", "--accuracy")
    assert code == 0
    assert cells(out, "fails")[-2] == "–"
    assert "fails has no accuracy: model fails failed" in err
    assert "division by zero" in err
    found = json.loads(rank("d", "--accuracy", "--json")[1])
    assert found["failures"].keys() == {"fails"}
    assert "division by zero" in found["failures"]["fails"]
    assert {line["name"]: line["accuracy"] for line in found["ranking"]}["fails"] is None


SHY = """
import json, sys
for line in sys.stdin:
    got = json.loads(line)
    said = {"label": "pos" if "good" in got["text"] else "neg"}
    if got["text"].startswith("Our") and "was good" in got["text"]:
        said = {"error": "no comment"}
    print(json.dumps({"id": got["id"], **said}), flush=True)
"""


def test_rows_that_a_model_left_without_an_answer_are_counted(folder, rank):
    (folder / "shy.py").write_text(SHY)
    with (folder / "fute.yaml").open("a") as config:
        config.write(f'\n  - {{name: shy, command: ["{sys.executable}", "shy.py"], labels: [neg, pos]}}\n')
    project = Project(folder)
    project.run()
    said = [item.text for item in project.datasets["d"][1].inputs]
    silent = sum(text.startswith("Our") and "was good" in text for text in said)
    assert 1 < silent < 10
    code, out, err = rank("d", "--accuracy")
    assert code == 0
    assert cells(out, "shy")[-2] == f"{1 - silent / 20:.3f}"
    assert f"shy: {silent} rows have no answer and count as wrong" in err
    assert json.loads(rank("d", "--accuracy", "--json")[1])["unanswered"] == {"shy": silent}


def test_a_cap_that_keeps_models_from_rows_is_named(folder, rank):
    spent = Project(folder).budget.spent.calls
    with (folder / "fute.yaml").open("a") as config:
        config.write(f"\nbudget: {{max_calls: {spent + 30}}}\n")
    code, out, err = rank("d", "--accuracy")
    assert code == 0
    assert "of 20 rows were not asked" in err
    assert "`max_calls` is reached" in err
    assert "No expected accuracy" in out


def test_a_model_that_left_fute_yaml_is_named(folder, rank):
    config = (folder / "fute.yaml").read_text().splitlines()
    (folder / "fute.yaml").write_text("\n".join(line for line in config if "name: lengths" not in line))
    code, out, _ = rank("d")
    assert code == 0
    assert cells(out, "lengths")
    assert "lengths: no longer in fute.yaml, but still ranked (see `fute space rm`)." in out


def test_a_ranking_needs_nothing_but_the_space(folder, rank):
    """What the warnings are read from may be gone: then a line says so."""
    (folder / "seen.csv").unlink()
    code, out, _ = rank("d")
    assert code == 0
    assert "Nothing is known of leaks: there is no file" in out
    assert "Nearly all texts of U get the same answer from always." in out
    (folder / "u.jsonl").unlink()
    code, out, _ = rank("d")
    assert code == 0
    assert "Nothing is known of doubts: there is no file" in out
    config = (folder / "fute.yaml").read_text()
    (folder / "fute.yaml").write_text(config.replace("{name: d, ", "{name: e, "))
    code, out, _ = rank("d")
    assert code == 0
    assert "d: no longer in fute.yaml, so nothing is known of its rows." in out


def test_a_model_that_changed_since_the_run_is_named_and_has_no_outcome(folder, rank):
    config = folder / "fute.yaml"
    config.write_text(config.read_text().replace("mymodels:good", "mymodels:turned"))
    code, out, _ = rank("d", "--accuracy")
    assert code == 0
    line = "good, other: the model changed since; scores are of what was (`fute run` embeds anew)."
    assert line in out
    assert line.replace(", other", "") in choose(Project(folder), "d", "model").warnings
    kept = json.loads((folder / ".fute" / "outcomes.json").read_text())["d"]
    assert kept.keys() == {"unsure", "turned", "always", "lengths"}
    choose(Project(folder), "a", "model", truth=True)
    assert "good" not in json.loads((folder / ".fute" / "outcomes.json").read_text()).get("a", {})
    Project(folder).run()
    assert "changed since" not in rank("d", "--accuracy")[1]
    assert "good" in json.loads((folder / ".fute" / "outcomes.json").read_text())["d"]


def test_data_that_changed_since_the_run_is_named_and_leaves_no_outcome(folder, rank):
    rows = [{"text": t, "label": "neg" if "good" in t else "pos"} for t in TEXTS]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = rank("d", "--accuracy")
    assert code == 0
    assert "d: its rows or labels changed since;" in out
    assert "a: its rows" not in out, "another dataset"
    assert not (folder / ".fute" / "outcomes.json").exists()
    assert choose_source(Project(folder), "stars").warnings[0].startswith("a, b, c, d: its rows or labels")

    project = Project(folder)
    project.run()
    assert remarks(project, "d", ["good"]) == []
    config = (folder / "fute.yaml").read_text()
    (folder / "fute.yaml").write_text(config.replace("{path: u.jsonl}", "{path: u.jsonl, sample: 30}"))
    changed = Project(folder)
    (line,) = remarks(changed, "d", ["good"])
    assert line.startswith("good: U changed since;")
    remember(changed, "d", {"good": 1.0})
    assert json.loads((folder / ".fute" / "outcomes.json").read_text()) == {"d": {}}


MALFORMED = [
    '{"a": {"good": "x"}, "b": {"good": 3}, "c": [1]}',
    "[1]",
    '{"a": {"good": ["p", "x"], "turned": [1, 0.5], "always": ["p", 0.5, 1]}, "b": null}',
    '{"a": {"good": ["p", NaN], "turned": ["p", 1.5], "always": ["p", true]}}',
    "{",
    "",
]


@pytest.mark.parametrize("content", MALFORMED)
def test_what_cannot_be_an_outcome_is_none(folder, rank, content):
    file = folder / ".fute" / "outcomes.json"
    file.write_text(content)
    assert "outcomes of 0 of the 3" in rank("d")[1]
    remember(Project(folder), "a", {"good": 1.0})
    ((dataset, reached),) = [(d, r) for d, r in json.loads(file.read_text()).items() if r]
    assert (dataset, [value for _, value in reached.values()]) == ("a", [1.0])
    assert "outcomes of 1 of the 3" in why_none(Project(folder), "d")


def test_outcomes_of_models_and_datasets_that_left_do_not_count(folder):
    reach(folder, good=0.9, turned=0.1)
    assert expected(Project(folder), "d") is not None
    Project(folder).space.remove("a")
    assert expected(Project(folder), "d") is None
    assert "outcomes of 2 of the 3" in why_none(Project(folder), "d")
    (folder / "mymodels.py").write_text(MODELS.replace("0.1, 0.9", "0.2, 0.8"))
    assert "outcomes of 0 of the 3" in why_none(Project(folder), "d"), "other models answered then"
