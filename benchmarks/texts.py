"""Real reviews of the lengths that the figures ask for."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fute.core.errors import DataError
from fute.core.types import Input


def evaluation_data() -> Path:
    """The folder of the evaluation data."""
    folder = Path(os.environ.get("FUTE_DATA", "../shared/data"))
    if not folder.is_dir():
        raise DataError(
            f"there is no evaluation data in {folder}",
            fix="name its folder: FUTE_DATA=/path/to/data python -m benchmarks NAME",
        )
    return folder


def reviews(dataset: str, n: int, words: int | None = None) -> list[Input]:
    """The first n texts of a sentiment dataset's test split, each with at most `words` words."""
    path = evaluation_data() / "prompt_selection" / dataset / "test.jsonl"
    with path.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(n), strict=False)]
    return [Input(" ".join(text.split()[:words])) for text in texts]
