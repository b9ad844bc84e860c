"""Tables 1 and 2 at the paper's scale: its recipe reads what the hub has, and runs to its end with tiny
models.
"""

import gzip
import json

import pytest

from fute.cli import reproduce as experiment
from fute.config import DatasetConfig
from fute.core.errors import DataError
from fute.core.progress import silent
from fute.core.types import Input, Span
from fute.data.readers import Table, read_object
from fute.data.squad import read_squad
from fute.presets import options_of
from fute.reproduce import evaluated
from fute.reproduce.evidence import FUTE, WAYS, Evidence
from fute.reproduce.prompts import GRIDS
from fute.reproduce.questions import by_search
from fute.reproduce.table import TransferResults
from fute.reproduce.transfer import BaseConfig, Transfer, TransferRecipe
from tests.helpers import command, refused, write
from tests.surrogates import make

SENTENCES = [
    "a fine film",
    "dull and slow",
    "what a joy",
    "never again",
    "it rained",
    "so it goes",
    "hm",
    "well",
]
CONTEXT = "Ann owns a red car and Bob a blue boat"
ANSWER = {"text": ["Bob"], "answer_start": [CONTEXT.index("Bob")]}
OTHER = {"text": ["a red car"], "answer_start": [CONTEXT.index("a red car")]}


def rows(columns, labels, label="label"):
    """Eight rows as a dataset of sentences has them on the hub."""
    texts = [{name: f"{text} {name}" for name in columns} for text in SENTENCES]
    return [{**row, label: labels[i % len(labels)]} for i, row in enumerate(texts)]


def asked(answers, context="context", answer="answers"):
    """Eight rows as a dataset of questions has them."""
    return [
        {"question": f"who is it, {i}?", context: CONTEXT, answer: answers[i % len(answers)]}
        for i in range(8)
    ]


GLUE = {
    "cola": (["sentence"], [0, 1]),
    "mnli": (["premise", "hypothesis"], [0, 1, 2]),
    "mrpc": (["sentence1", "sentence2"], [0, 1]),
    "qnli": (["question", "sentence"], [0, 1]),
    "qqp": (["question1", "question2"], [0, 1]),
    "rte": (["sentence1", "sentence2"], [0, 1]),
    "sst2": (["sentence"], [0, 1]),
    "stsb": (["sentence1", "sentence2"], [0.5, 4.5, 2.0]),
    "wnli": (["sentence1", "sentence2"], [0, 1]),
}
FOUND = asked([["bob"], ["nobody at all", "Ann"]])
DROP = [{"spans": ["2"], "types": ["number"]}, {"spans": ["Bob"], "types": ["span"]}]
DROP.append({"spans": ["a red car", "Ann"], "types": ["span", "span"]})
OPTIONS = {"A": "a car", "B": "a boat", "C": "a bike"}
CONVERTED = "refs/convert/parquet"
# hub id → configuration → rows
HUB = {
    "nyu-mll/glue": {name: rows(*made) for name, made in GLUE.items()},
    "allenai/scitail": {"tsv_format": rows(["premise", "hypothesis"], ["entails", "neutral"])},
    "stanfordnlp/snli": {"plain_text": rows(["premise", "hypothesis"], [0, 1, 2])},
    "rajpurkar/squad": {"default": asked([ANSWER, OTHER])},
    "rajpurkar/squad_v2": {"default": asked([ANSWER, {"text": [], "answer_start": []}])},
    "lucadiliello/newsqa": {"default": FOUND},
    "lucadiliello/hotpotqa": {"default": FOUND},
    "ibm-research/duorc": {
        name: asked([["Ann"], [], ["no such"], ["Bob"]], "plot") for name in ("ParaphraseRC", "SelfRC")
    },
    "ucinlp/drop": {"default": asked(DROP, "passage", "answers_spans")},
    "google/boolq": {"default": asked([True, False], "passage", "answer")},
    f"takala/financial_phrasebank@{CONVERTED}": {
        "sentences_allagree": rows(["sentence"], ["neutral", "positive"])
    },
    f"curaihealth/medical_questions_pairs@{CONVERTED}": {
        "default": rows(["question_1", "question_2"], [0, 1])
    },
    "GBaker/MedQA-USMLE-4-options": {
        "default": [
            {"question": f"what floats, {i}?", "options": OPTIONS, "answer_idx": "ABC"[i % 3]}
            for i in range(8)
        ]
    },
}
HELD_OUT = {"mnli": "validation_matched"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in which hub ids lead to small datasets with the columns of the real ones."""
    monkeypatch.chdir(tmp_path)
    for name, configs in HUB.items():
        card = []
        for config, made in configs.items():
            files = []
            for split in ("train", HELD_OUT.get(config, "validation")):
                write(tmp_path / name / config / f"{split}.jsonl", "\n".join(map(json.dumps, made)))
                files.append(f"  - {{split: {split}, path: {config}/{split}.jsonl}}\n")
            card.append(f"- config_name: {config}\n  data_files:\n{''.join(files)}")
        write(tmp_path / name / "README.md", f"---\nconfigs:\n{''.join(card)}---\n")
    asks = [{"question": "who?", "answers": [{"text": "Bob", "answer_start": ANSWER["answer_start"][0]}]}]
    asks.append({"question": "why?", "answers": []})
    content = {"data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": asks}]}]}
    for name in ("WikiHop", "ComQA", "ComplexQuestions"):
        for split in ("train", "dev"):
            write(tmp_path / f"{name}_{split}.json.gz", gzip.compress(json.dumps(content).encode()))
    write(tmp_path / "unlabelled/corpus.jsonl", "\n".join(json.dumps({"text": t}) for t in SENTENCES))
    return tmp_path


def recipe_of(folder, *names, **changes):
    """The paper's recipe with these tasks, or all, whose files lie in the folder."""
    recipe = TransferRecipe.read("paper", folder)
    tasks = [
        t.model_copy(update={"path": t.path and str(folder / t.path.rsplit("/", 1)[1])})
        for t in recipe.tasks
        if not names or t.name in names
    ]
    return recipe.model_copy(update={"tasks": tasks, **changes})


def test_the_recipe_reads_every_dataset_with_the_columns_of_the_hub(hub):
    tasks = {task.name: task for task in recipe_of(hub).read_tasks()}
    assert [sum(t.group == g for t in tasks.values()) for g in ("cr", "qa", "domain")] == [11, 11, 3]
    outputs = {name: task.train.output for name, task in tasks.items()}
    spans = {
        "squad",
        "squad_v2",
        "newsqa",
        "hotpotqa",
        "duorc_p",
        "duorc_s",
        "drop",
        "wikihop",
        "comqa",
        "cq",
        "medqa",
    }
    assert {name for name, output in outputs.items() if output == "span"} == spans
    assert [name for name, output in outputs.items() if output == "score"] == ["stsb"]
    for name in ("rte", "stsb", "wnli"):  # the published code reads the first sentence twice
        first = tasks[name].train.inputs[0]
        assert (first.text, first.text_pair) == ("a fine film sentence1", "a fine film sentence2")
    for task in tasks.values():
        assert len(task.train) > 1
        assert len(task.test) > 1
    assert tasks["newsqa"].train.targets[:2] == [Span("Bob", 23), Span("Ann", 0)]
    assert set(tasks["duorc_p"].train.targets) == {Span("Ann", 0), Span("", -1), Span("Bob", 23)}
    assert len(tasks["duorc_p"].train) == 6  # two rows' answer is nowhere
    assert set(tasks["drop"].train.targets) == {Span("Bob", 23), Span("a red car", 9)}  # numbers aren't spans
    assert tasks["cq"].train.targets == [Span("Bob", 23), Span("", -1)]
    assert tasks["medqa"].train.inputs[0].text_pair == "a car ; a boat ; a bike"
    sizes = {
        name: (len(tasks[name].train), len(tasks[name].test)) for name in ("financial_phrasebank", "medqa")
    }
    assert sizes == {"financial_phrasebank": (6, 2), "medqa": (6, 2)}  # a fifth, of each class


def test_answers_are_found_as_whole_words_and_in_the_right_case_first():
    table = read_object(
        [{"q": "?", "c": "Artist art Art", "a": "art"}, {"q": "?", "c": "ART", "a": "art"}], "t"
    )
    starts = [row["answer"] for row in by_search(table, "q", "c", "a")]
    assert starts == [{"text": ["art"], "answer_start": [7]}, {"text": ["ART"], "answer_start": [0]}]


def test_a_file_that_is_not_as_squads_is_refused(tmp_path):
    place = write(tmp_path / "other.json", "[]")
    with refused(DataError, "other.json", "no file as SQuAD's"):
        read_squad(str(place))
    with refused(DataError, "nowhere.json", "check the network"):
        read_squad(str(tmp_path / "nowhere.json"))


def test_a_loading_scripts_dataset_is_read_from_the_hubs_own_copy(monkeypatch):
    import datasets

    from fute.data.readers import read_hub

    asked_for = {}

    def load(repo, **where):
        asked_for[repo] = where
        return datasets.Dataset.from_list([{"a": 1}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert isinstance(read_hub("o/n@refs/convert/parquet", "c", "train"), Table)
    read_hub("o/m@v2", "c", "train")
    read_hub("o/k", None, "train")
    assert asked_for == {
        "o/n": {"split": "train", "data_dir": "c", "revision": "refs/convert/parquet"},
        "o/m": {"split": "train", "name": "c", "revision": "v2"},
        "o/k": {"split": "train", "name": None, "revision": None},
    }


def base_of(name, folder):
    """A tiny one of that family."""
    made = make(name, folder / name)
    config = json.loads((folder / name / "config.json").read_text())
    # T5's classifier looks where its tokenizer ends a text.
    ended = {**config, "eos_token_id": made.tokenizer.sep_token_id}
    write(folder / name / "config.json", json.dumps(ended))
    return BaseConfig(name=name, weights=str(folder / name))


KINDS = ("mnli", "stsb", "squad_v2")  # three classes, a score, spans


@pytest.mark.parametrize(
    ("base", "sources", "targets", "tables"),
    [
        ("bert", (*KINDS, "boolq"), {*KINDS, "boolq", "financial_phrasebank"}, ("table1", "table2")),
        ("gpt2", KINDS, {"financial_phrasebank"}, ("table2",)),  # others have two sources: no ranking
        ("t5", KINDS, {"financial_phrasebank"}, ("table2",)),
    ],
)
def test_tables_are_made(base, sources, targets, tables, hub, monkeypatch):
    """From each to each, with the options of the paper's presets."""
    surrogate = base_of("t5", hub).weights
    changes = {"bases": [base_of(base, hub)], "surrogate": surrogate}
    recipe = recipe_of(hub, *sources, "financial_phrasebank", **changes)
    monkeypatch.setattr(TransferRecipe, "read", lambda scale, data: recipe)
    few = {name: way for name, way in WAYS.items() if name in (FUTE, "FUTE+TuPaTE")}
    ways = WAYS if base == "bert" else few  # the surrogate is the same for all bases
    monkeypatch.setattr("fute.reproduce.evidence.WAYS", ways)
    experiment.compute("table1", "paper", hub, hub / "work", hub / "out", silent)

    cells = TransferResults.load(hub / "out" / "transfer-paper.json").cells
    assert {cell.target for cell in cells} == targets
    for cell in cells:
        assert set(cell.reached) == {*sources} - {cell.target}
        assert {*ways, "TextEmb", "DataSize", "CurveGrad"} <= set(cell.scores)
    for table in tables:  # a target that all sources serve alike is in none
        assert experiment.tables(table, "paper", hub / "out")

    grid = Transfer(recipe, hub / "work" / "transfer")
    made = Evidence(grid, grid.folder / "evidence").embeddings("FUTE+TuPaTE")
    assert {e.name for e in made} >= {f"model {base}/{name}" for name in sources}
    wanted = {name: options_of("paper", "tupate")[name] for name in ("num_virtual_tokens", "where", "pool")}
    for embedding in made:
        assert embedding.spec.surrogate == surrogate
        assert embedding.spec.options.items() >= wanted.items()


@pytest.fixture
def planned(tmp_path, monkeypatch, capsys):
    """What a table's plan prints at the paper's scale, without a connection."""

    def plan(table):
        monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection"))
        arguments = ["reproduce", table, "--scale", "paper", "--plan", "--data", str(tmp_path)]
        code, out, _ = command(monkeypatch, capsys, *arguments, "--json")
        assert code == 0
        shown = command(monkeypatch, capsys, *arguments)
        assert shown[0] == 0
        return json.loads(out), *shown[1:]

    return plan


def test_the_plan_opens_no_connection(planned):
    found, out, err = planned("table1")
    assert [(base["base"], base["models"], base["pairs"]) for base in found["bases"]] == [
        (name, 22, 22 * 22 + 3 * 23)
        for name in ("bert", "gpt2", "t5")  # a source, or none, on each other task
    ]
    assert found["bases"][0]["unknown"] == ["comqa", "cq"]
    assert found["bases"][0]["calls"] == 22 * 104_162
    models = [need["name"] for need in found["downloads"] if need["what"] == "model"]
    assert models == ["hf:google-bert/bert-base-uncased", "hf:openai-community/gpt2", "hf:google-t5/t5-base"]
    assert len(found["downloads"]) == 3 + 25

    assert "hf:takala/financial_phrasebank@refs/convert/parquet sentences_allagree" in out
    assert "100,000 tokens a second" in err
    assert "not counted: comqa, cq" in err


def test_the_plan_of_the_prompt_grids_opens_no_connection(planned):
    grids, out, err = planned("table3")
    found = {grid["grid"]: grid for grid in grids}
    assert list(found) == list(GRIDS["paper"])
    grid, held_out = found["sentiment-llama2-70b"], 1000 + 1000 + 872
    assert grid["prompts"] == 11, "9 and 10 repeat 3 and 6"
    assert grid["texts"] == 10_000 + held_out
    assert grid["calls"] == 11 * (10_000 + held_out + held_out) + 3
    assert grid["writes"] == 3 * 512 * (10_000 + held_out), "of 11 to 13"
    assert grid["hours"] == pytest.approx((grid["reads"] / 600 + grid["writes"] / 120) / 3600)

    assert "hf:mistralai/Mixtral-8x7B-Instruct-v0.1" in out
    assert "T5-base (0.9 GB)" in err


def test_what_is_evaluated_on_is_read_of_both_splits(hub, monkeypatch):
    recipe = recipe_of(hub, "cq", "financial_phrasebank")
    monkeypatch.setattr(TransferRecipe, "read", lambda scale, data: recipe)
    write(hub / "o/n/train.jsonl", '{"text": "to learn", "label": "a"}\n{"text": "from", "label": "b"}')
    write(hub / "o/n/test.jsonl", '{"text": "to score", "label": "a"}\n{"text": "by", "label": "b"}')
    other = DatasetConfig(name="other", hf="o/n", test="test", sample=1)
    monkeypatch.setattr(evaluated, "_of_prompts", lambda: [other])
    seen = list(evaluated.evaluated())
    assert len(seen) == (2 + 2) + 8 + (2 + 2)
    assert seen[0] == Input("who?", CONTEXT)
    assert [item.text for item in seen[-4:]] == ["to learn", "from", "to score", "by"]
