"""The texts that the paper's recipes evaluate on, which no corpus U may hold."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from fute.config import DatasetConfig, read_source
from fute.core.progress import Progress, silent
from fute.core.types import Input
from fute.data.dataset import Dataset
from fute.reproduce.prompts import GRIDS
from fute.reproduce.transfer import TransferRecipe


def evaluated(progress: Progress = silent) -> Iterator[Input]:
    """All rows of tables 1, 2 and 3, to learn from and to score, one dataset after the other.

    Raises:
        DataError: one can't be had.
    """
    tasks, others = TransferRecipe.read("paper", Path()).tasks, list(_of_prompts())
    count = len(tasks) + len(others)
    for done, task in enumerate(tasks):
        progress(f"reading {task.name}", done, count)
        read = task.read(rows=None, window=None)
        yield from read.train.inputs
        yield from read.test.inputs
    for done, config in enumerate(others, start=len(tasks)):
        progress(f"reading {config.name}", done, count)
        for split in (config.split, str(config.test)):
            whole = config.model_copy(update={"split": split, "sample": None})
            yield from read_source(Dataset, whole).inputs


def _of_prompts() -> Iterator[DatasetConfig]:
    """The datasets of table 3's recipes."""
    for text in dict.fromkeys(recipe.text() for recipe in GRIDS["paper"].values()):
        content = YAML(typ="safe").load(string.Template(text).safe_substitute())
        yield from map(DatasetConfig.model_validate, content["datasets"])
