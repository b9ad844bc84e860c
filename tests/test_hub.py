"""Weights on the hub: `plan` looks up how large they are, `run` gets what is needed of them, once."""

import json

import pytest
import transformers

from fute.core.errors import MissingError, ModelError
from fute.weights.hub import needed, size_in_words
from tests.helpers import refused, write
from tests.servers import free_port, serving
from tests.storage import run
from tests.test_hf_models import bert

FUTE = """
    import os, sys
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ["HF_ENDPOINT"], os.environ["HF_HOME"], os.environ["HF_HUB_DISABLE_XET"] = *sys.argv[1:3], "1"
    from fute.cli.main import main
    sys.argv, sys.stderr = ["fute", *sys.argv[3:]], sys.stdout
    try:
        main()
    except SystemExit as end:
        print("exit", end.code)
"""
PROJECT = """\
corpus: {path: u.jsonl}
datasets: [{name: things, path: things.csv}]
models:
  - {name: away, transformers: "hf:someone/colours"}
  - {name: twin, transformers: "hf:someone/colours", max_tokens: 32}
  - {name: nowhere, transformers: "hf:someone/nothing"}
  - {name: pickled, transformers: "hf:someone/pickled"}
  - {name: rule, python: "rules:rule", labels: [other, red]}
"""


@pytest.fixture
def hub(tmp_path):
    """A hub with a small classifier: (its folder, its URL)."""
    folder = tmp_path / "hub"
    repo = folder / "someone" / "colours"
    repo.mkdir(parents=True)
    kind = transformers.BertForSequenceClassification
    bert(kind, repo, num_labels=2, id2label={0: "other", 1: "red"}).save_pretrained(repo)
    for name in ("pytorch_model.bin", "onnx/model.safetensors", "colours.Q8_0.gguf", "README.md"):
        write(repo / name, "x" * 5_000_000)  # which nobody needs
    write(repo / "source.spm", "x")
    write(folder / "someone" / "pickled" / "config.json", "{}")
    write(folder / "someone" / "pickled" / "pytorch_model.bin", "x")
    with serving("tests.hub", free_port(), folder) as url:
        yield folder, url.removesuffix("/v1")


@pytest.fixture
def fute(hub, tmp_path):
    project = tmp_path / "project"
    texts = [
        f"the {word} is on the {place}" for word in ("cat", "red box") for place in ("bed", "table", "key")
    ]
    write(project / "fute.yaml", PROJECT)
    write(project / "u.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    write(project / "things.csv", "text,label\na cat,other\nred box,red\na dog,other\nred bed,red\n")
    write(
        project / "rules.py",
        "def rule(texts):\n    return ['red' if 'red' in t else 'other' for t in texts]\n",
    )
    return lambda command, *options: run(
        FUTE, hub[1], tmp_path / "home", command, "--project", project, *options
    )


def report_of(out):
    """The JSON between what is said on stderr."""
    return json.loads(out[out.index("{\n") : out.rindex("}\n") + 1])


def asked(hub):
    log = hub[0] / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def test_plan_downloads_nothing_and_run_what_is_needed(hub, fute, tmp_path):
    repo = hub[0] / "someone" / "colours"
    files = {p.name for p in repo.glob("*.json")} | {"model.safetensors", "source.spm"}
    size = sum((repo / name).stat().st_size for name in files)

    planned = {one["name"]: one for one in json.loads(fute("plan", "--json"))["models"]}
    assert [planned[name]["download"] for name in ("away", "twin", "rule")] == [size, size, 0]
    assert "can't get hf:someone/nothing from the hub" in planned["nowhere"]["failure"]
    assert "hf:someone/pickled holds no safetensors" in planned["pickled"]["failure"]
    assert [line for line in asked(hub) if "/resolve/" in line] == []
    assert not list((tmp_path / "home").rglob("*.safetensors"))

    away = {one["name"]: one for one in json.loads(fute("plan", "--offline", "--json"))["models"]}["away"]
    assert (away["download"], away["failure"], away["to_label"]) == (None, None, 6)
    assert asked(hub) == []

    report = report_of(fute("run", "--json"))
    assert sorted(report["failures"]) == ["nowhere", "pickled"], report["failures"]
    assert {"away", "twin", "rule"} <= set(report["embedded"])
    got = {line.rsplit("/", 1)[-1] for line in asked(hub) if line.startswith("GET") and "/resolve/" in line}
    assert got == files

    planned = {one["name"]: one for one in json.loads(fute("plan", "--json"))["models"]}
    assert [planned[name]["download"] for name in ("away", "twin")] == [0, 0]
    assert (planned["away"]["cached"], planned["away"]["failure"]) == (6, None)
    assert not any("colours" in line for line in asked(hub)), "what is here needs no hub"


FILES = ["config.json", "tokenizer.json", "source.spm", "README.md", "original/model.safetensors"]


def test_of_a_repository_only_what_decides_the_answers_is_needed():
    both = [*FILES, "model.safetensors", "m.Q4_0.gguf"]
    assert needed(both, "hf:a/b") == ["config.json", "tokenizer.json", "source.spm", "model.safetensors"]
    assert needed([*FILES, "m.Q4_0.gguf"], "hf:a/b@v1") == ["m.Q4_0.gguf"]
    several = [*FILES, "m.Q4_0.gguf", "m.Q8_0.gguf"]
    with refused(ModelError, "2 GGUF files", "m.Q4_0.gguf, m.Q8_0.gguf", "name one: hf:a/b/m.Q4_0.gguf"):
        needed(several, "hf:a/b")
    assert needed(several, "hf:a/b/m.Q8_0.gguf@v1") == ["m.Q8_0.gguf"]
    with refused(MissingError, "a/b has no file m.Q2_K.gguf"):
        needed(several, "hf:a/b/m.Q2_K.gguf")


def test_sizes_in_words():
    assert [size_in_words(n) for n in (None, 10, 269_000_000, 1_640_000_000)] == [
        "an unknown number of bytes",
        "1 MB",
        "269 MB",
        "1.6 GB",
    ]
