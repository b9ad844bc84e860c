"""Every entry of `models:` on the page on black boxes, run: asked about a few texts, and embedded."""

import importlib.util
import json
import pickle
import re
import shutil
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from ruamel.yaml import YAML
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from fute import Project
from tests.helpers import write
from tests.reviews import REVIEWS
from tests.servers import free_port, serving
from tests.surrogates import make as make_surrogate
from tests.test_client import Script
from tests.test_hf_models import VOCABULARY, bert, tokenizer, train

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(yaml|python|perl)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
# An example that is a file begins with its name.
FILES = {found[1]: text for _, text in BLOCKS if (found := re.match(r"# (\S+\.\w+)\n", text))}
READ = [YAML(typ="safe").load(text) for kind, text in BLOCKS if kind == "yaml" and text not in FILES.values()]
ENTRIES = {entry["name"]: entry for block in READ if isinstance(block, list) for entry in block}
REST = {key: value for block in READ if isinstance(block, dict) for key, value in block.items()}

# What stands in for what isn't here: OpenAI's own server, an endpoint of somebody's, models of the hub.
INSTEAD = {
    "nli": {"transformers": "nli-model"},
    "rater": {"transformers": "stsb-model"},
    "reader": {"transformers": "squad2-model"},
    "chooser": {"transformers": "race-model"},
    "writer": {"transformers": "t5-model"},
    "stars": {"transformers": "star-model"},
    "seq2seq": {"llm": "flan-t5-small"},
}
SERVED = [name for name, entry in ENTRIES.items() if "openai" in entry]
PROMPTED = [*SERVED, *(name for name, entry in ENTRIES.items() if "llm" in entry)]
# These may answer all texts alike, which says nothing of them: SmolLM2 may write one word, and of no text
# here do both halves ask for the same.
ALIKE = ("local", "sampled", "chatty", "same")
NEEDS = {
    **dict.fromkeys(
        SERVED, (find_spec("xllamacpp"), "llama.cpp, which stands in for servers, isn't installed")
    ),
    **dict.fromkeys(("tree", "ridge"), (find_spec("skops"), "skops isn't installed")),
    "eight-bit": (find_spec("torchao"), "torchao isn't installed"),
    "textcat": (find_spec("spacy"), "spaCy isn't installed"),
    "rule": (shutil.which("perl"), "there is no perl"),
    "picker": (shutil.which("python3"), "there is no python3"),
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


def first_word(body):
    words = [item["text_pair"].split()[0] for item in body["inputs"]]
    return (200, {}, {"answers": [{"span": {"text": word, "start": 0}} for word in words]}, 0.0)


def write_models(folder):
    """The weights and files that the entries name."""
    classifier = transformers.BertForSequenceClassification
    for kind, name, options in [
        (classifier, "my-bert", {}),
        (
            classifier,
            "nli-model",
            {"id2label": dict(enumerate(["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]))},
        ),
        (classifier, "star-model", {"id2label": {i: f"{i + 1} star{'s' * (i > 0)}" for i in range(5)}}),
        (classifier, "stsb-model", {"num_labels": 1}),
        (transformers.BertForQuestionAnswering, "squad2-model", {}),
        (transformers.BertForMultipleChoice, "race-model", {}),
    ]:
        bert(kind, folder / name, **options).save_pretrained(folder / name)
    make_surrogate("t5", folder / "flan-t5-small", "Seq2SeqLM")
    write_writer(folder / "t5-model")
    texts, classes = [text for text, _ in REVIEWS], [label for _, label in REVIEWS]
    tree, old, ridge = (
        make_pipeline(CountVectorizer(), last).fit(texts, classes)
        for last in (DecisionTreeClassifier(random_state=0), LogisticRegression(), Ridge())
    )
    if "tree" not in ABSENT:
        import skops.io

        skops.io.dump(tree, folder / "tree.skops")
        skops.io.dump(ridge, folder / "ridge.skops")
    (folder / "old.pkl").write_bytes(pickle.dumps(old))
    for name, text in FILES.items():
        write(folder / name, text + (SVM if name == "mymodels.py" else ""))
    names = ["negative", "positive"]
    rows = "".join(f'{names[label]},"{text}"\n' for text, label in REVIEWS[10:])
    write(folder / "train.csv", "label,text\n" + rows)
    write_networks(folder, texts, classes)
    if "textcat" not in ABSENT:
        write_textcat(folder / "textcat", texts, [names[label] for label in classes])


def write_writer(folder):
    """A small T5 that has learnt a word for each of `TEXTS`."""
    config = transformers.T5Config(
        vocab_size=len(VOCABULARY), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
        decoder_start_token_id=0, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    transformers.set_seed(0)
    model, tok = transformers.T5ForConditionalGeneration(config), tokenizer()
    tok.save_pretrained(folder)
    words = [VOCABULARY[word] for word in ("red", "blue", "red", "blue", "green", "green")]
    rows = tok(TEXTS, padding=True, return_tensors="pt")
    batch = {
        "input_ids": rows["input_ids"],
        "attention_mask": rows["attention_mask"],
        "labels": torch.tensor([[word, 3] for word in words]),
    }
    train(model, 100, lambda random: batch).save_pretrained(folder)


def write_networks(folder, texts, classes):
    """The weights of the page's CNN and LSTM, trained."""
    words = sorted({word for text in texts for word in text.lower().split()})
    write(folder / "words.json", json.dumps({word: i + 1 for i, word in enumerate(words)}))
    spec = importlib.util.spec_from_file_location("networks_to_train", folder / "networks.py")
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    ids, wanted = networks.encode(texts), torch.tensor(classes)
    for kind, name in ((networks.CNN, "cnn.pt"), (networks.LSTM, "lstm.pt")):
        torch.manual_seed(0)
        model = kind()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(30):
            torch.nn.functional.cross_entropy(model(ids), wanted).backward()
            optimiser.step()
            optimiser.zero_grad()
        torch.save(model.state_dict(), folder / name)


def write_textcat(folder, texts, names):
    """A spaCy pipeline, trained."""
    import spacy
    from spacy.training import Example

    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    classifier = nlp.add_pipe("textcat")
    for name in sorted(set(names)):
        classifier.add_label(name)
    examples = [
        Example.from_dict(nlp.make_doc(text), {"cats": {one: float(one == name) for one in set(names)}})
        for text, name in zip(texts, names, strict=True)
    ]
    optimiser = nlp.initialize(lambda: examples)
    for _ in range(5):
        nlp.update(examples, sgd=optimiser)
    nlp.to_disk(folder)


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
        extractor = stack.enter_context(Script(first_word))
        instead = {**INSTEAD, "service": {"http": endpoint.url}, "extractor": {"http": extractor.url}}
        if "local" not in ABSENT:
            url = stack.enter_context(serving("tests.llama_server", free_port()))
            instead |= {name: {"url": url} for name in SERVED}
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


def test_the_pages_links_lead_to_its_headings():
    headings = re.findall(r"^#+ (.*)", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#(.*?)\)", PAGE)
    assert len(links) > 10
    assert set(links) <= anchors


@pytest.mark.parametrize("name", ENTRIES)
def test_an_example_answers_and_is_embedded(run, name):
    if name in ABSENT:
        pytest.skip(ABSENT[name])
    project, report = run
    made = [model.name for model in project.models if model.name.split("/")[0] == name]
    assert len(made) == {"mine": 2, "paper": 2}.get(name, 1)
    for one in made:
        assert one not in report.failures, report.failures[one]
        assert one in report.embedded
        embedding = project.space.get(one)
        assert embedding.provenance["examples"] == len(TEXTS) - sum(report.failed_items.get(one, {}).values())
        assert np.isfinite(embedding.vector).all()
        assert name in ALIKE or embedding.vector.any()


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in PROMPTED])
def test_what_is_no_llm_answers_every_text(run, name):
    if name in ABSENT:
        pytest.skip(ABSENT[name])
    assert name not in run[1].failed_items
