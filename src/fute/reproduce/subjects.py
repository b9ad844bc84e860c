"""Datasets of subjects, made from the unlabelled corpus: the source of a text tells what it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fute.core.errors import ConfigError
from fute.core.files import write_atomically

# dataset → source of texts → label
SUBJECTS: Mapping[str, Mapping[str, str]] = {
    "subjects-1": {
        "ade_corpus_v2-classification": "medicine",
        "climate_fever": "climate",
        "gsm8k": "mathematics",
        "semeval_absa_laptop": "computers",
    },
    "subjects-2": {
        "rct20k": "medicine",
        "climate_sentiment": "climate",
        "aqua_rat": "mathematics",
        "app_reviews": "computers",
    },
}


def write_subjects(corpus: Path, folder: Path) -> None:
    """Write into a folder `NAME.jsonl` for each of `SUBJECTS`, and `u.jsonl`: the corpus without their texts.

    Raises:
        ConfigError: there is no such corpus, or it lacks the texts of a dataset.
    """
    if not corpus.is_file():
        raise ConfigError(f"there is no {corpus}", fix="name the folder of evaluation data: `--data DIR`")
    rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    single = [row for row in rows if "text" in row]  # others are of several texts
    for name, labels in SUBJECTS.items():
        own = [{"text": r["text"], "label": labels[r["source"]]} for r in single if r["source"] in labels]
        if not own:
            raise ConfigError(f"{corpus} has no texts of {', '.join(labels)}")
        _write(folder / f"{name}.jsonl", own)
    taken = {source for labels in SUBJECTS.values() for source in labels}
    _write(folder / "u.jsonl", [row for row in single if row["source"] not in taken])


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
