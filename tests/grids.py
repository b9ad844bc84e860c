"""Tiny grids of prompts and of source models, run to their end; and results of a real one."""

import json
import shutil
from pathlib import Path

import transformers

from fute.project import Project
from fute.reproduce.transfer import Transfer, TransferRecipe
from tests.helpers import write
from tests.surrogates import SPECIAL, VOCABULARY, make

POSITIVE = ["a lovely film", "great fun", "a wonderful story", "superb and moving"]
NEGATIVE = ["a dreadful film", "boring mess", "a terrible story", "stupid and slow"]
TEMPLATES = ["{{ text }}. It was", "Is this good? {{ text }}. Answer:", "{{ text }}. All in all it felt"]
WORDS = ["good", "bad", "fine", "dull", "great", "poor", "warm", "cold"]


def make_llm(folder):
    """A seeded Llama of two layers, with room for a question about three prompts."""
    make("llama", folder)  # its tokenizer
    transformers.set_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.LlamaConfig(**size, **SPECIAL, num_key_value_heads=2, vocab_size=VOCABULARY)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def make_grid(folder, datasets, templates=TEMPLATES, corpus=5, tasks=False, family=""):
    """A project of prompts on a tiny LLM, run: datasets of so many rows, half of them held out."""

    def told(name):
        return f", task: what is {name}" if tasks else ""

    make_llm(folder / "llm")
    make("bert", folder / "surrogate")
    write(folder / "u.jsonl", "\n".join(json.dumps({"text": f"text {word}"}) for word in WORDS[:corpus]))
    for name, rows in datasets.items():
        texts = [(f"{name} {i} {WORDS[i % 8]}", ["no", "yes"][i % 2]) for i in range(rows)]
        write(folder / f"{name}.jsonl", "\n".join(json.dumps({"text": t, "label": y}) for t, y in texts))
    content = ["surrogate: ./surrogate", "corpus: {path: u.jsonl}", "dtype: float32", "datasets:"]
    content += [f"  - {{name: {name}, path: {name}.jsonl, test: 0.5{told(name)}}}" for name in datasets]
    content += ["models:"]
    words = "{'no': [' bad'], 'yes': [' good']}"
    for i, template in enumerate(templates):
        name = f"{family}/{i + 1}" if family else f"p{i}"
        content += [f"  - {{name: {name}, llm: ./llm, template: {json.dumps(template)}, labels: {words}}}"]
    write(folder / "fute.yaml", "\n".join(content))
    report = Project(folder).run()
    assert not report.failures
    return folder


def transfer_recipe(folder):
    """Three tasks of a group and one of another, two rows of words each, and a base of one tiny BERT."""
    make("bert", folder / "base")
    for name, texts in {
        "mood": [(t, "good") for t in POSITIVE] + [(t, "bad") for t in NEGATIVE],
        "length": [("short", "few"), ("two words", "few"), ("a b c d e f g", "many"), ("one " * 9, "many")],
        "case": [("UPPER", "up"), ("SHOUT LOUD", "up"), ("quiet", "low"), ("calm down", "low")],
        "tone": [(t, "warm") for t in POSITIVE] + [(t, "cold") for t in NEGATIVE],
    }.items():
        for split in ("train", "validation"):
            lines = [json.dumps({"text": t, "label": label}) for t, label in texts]
            write(folder / name / f"{split}.jsonl", "\n".join(lines))
    write(folder / "u.jsonl", "\n".join(json.dumps({"text": t}) for t in POSITIVE + NEGATIVE + ["the cat"]))
    few = {"rows": 8, "epochs": 2, "learning_rate": 0.001}
    groups = {"mood": "cr", "length": "cr", "case": "cr", "tone": "domain"}
    return TransferRecipe.model_validate(
        {
            "corpus": {"path": str(folder / "u.jsonl")},
            "bases": [{"name": "tiny", "weights": str(folder / "base")}],
            "surrogate": str(folder / "base"),
            "source": few,
            "target": few,
            "test_rows": 4,
            "window": 20,
            "tasks": [{"group": g, "name": n, "path": str(folder / n)} for n, g in groups.items()],
        }
    )


def make_transfer(folder):
    """The grid of that recipe, run."""
    made = Transfer(transfer_recipe(folder), folder / "work")
    made.folder.mkdir()
    made.run()
    return made


def with_prompts(folder):
    """The folder, with results of prompts that are part of fute's own: no report is without."""
    for file in (Path(__file__).parents[1] / "benchmarks/results").glob("prompts-*"):
        shutil.copy(file, folder)
    return folder
