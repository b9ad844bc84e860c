"""U from CrossFit: a few texts of each of its tasks, none of which stands in what is evaluated on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from ruamel.yaml import YAML

from fute.core.errors import DataError
from fute.core.files import storing, write_atomically
from fute.core.progress import Progress, silent
from fute.core.section import Section
from fute.core.types import Input
from fute.data.overlap import overlapping
from fute.data.readers import Table, read_hub

WORDS = 13  # that a text and what is evaluated on may not share in a row
_ANY = 1e-9  # the least share of such runs: one is enough
_SPARE = 2  # so many times the texts are drawn, to make up for those that overlap


class CrossFitTask(Section):
    """One task: `crossfit.yaml` says what its fields mean."""

    name: str
    hf: str
    config: str | None = None
    split: str = "train"
    text: list[str] = Field(min_length=1)


class CrossFit(Section):
    """`crossfit.yaml`.

    Attributes:
        tasks: whose texts are drawn.
        left_out: tasks that are not, and the evaluated datasets that they are made of.
        absent: tasks that the hub lacks.
    """

    tasks: list[CrossFitTask]
    left_out: dict[str, list[str]]
    absent: list[str]


class Drawn(NamedTuple):
    """What became of a task.

    Attributes:
        task: its name.
        texts: in U.
        overlapping: texts that were drawn and left out.
        failure: why there are none; None where there are.
    """

    task: str
    texts: int
    overlapping: int
    failure: str | None


@cache
def crossfit() -> CrossFit:
    """The tasks that fute knows."""
    file = resources.files("fute.data").joinpath("crossfit.yaml")
    return CrossFit.model_validate(YAML(typ="safe").load(file.read_text("utf-8")))


def build(
    to: Path,
    evaluated: Iterable[Input],
    *,
    tasks: Sequence[CrossFitTask] | None = None,
    per_task: int = 100,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Drawn]:
    """Write U, a JSON line `{"text": ..., "task": ...}` for each text, which is in it once.

    A text is left out where it shares 13 words in a row with one that is evaluated on, and one of fewer words
    where it is such a text (Brown et al. 2020, arXiv:2005.14165, appendix C).

    Args:
        to: the file. What is drawn of a task is kept beside it, in `TO.tasks`: run again, only tasks that
            failed are asked for.
        evaluated: read once, after all tasks.
        tasks: by default all that fute knows.
        per_task: texts of a task at most.
        seed: of the draws.

    Returns:
        What became of each task; a failed one is in no text of U.

    Raises:
        DataError: every task failed.
    """
    drawn: dict[str, list[str]] = {}
    failures: dict[str, str] = {}
    some = crossfit().tasks if tasks is None else tasks
    for done, task in enumerate(some):
        progress(f"drawing {task.name}", done, len(some))
        try:
            drawn[task.name] = _kept(to.with_name(f"{to.name}.tasks"), task, per_task, seed)
        except DataError as error:
            failures[task.name] = str(error)
    if not drawn:
        raise DataError("no task of CrossFit could be read", found=next(iter(failures.values()), "no tasks"))
    progress("looking for overlaps", len(some), len(some))
    found = _overlaps(drawn, evaluated)
    taken = {name: [text for text in texts if not found[text]][:per_task] for name, texts in drawn.items()}
    tasks_of = {text: name for name, texts in reversed(taken.items()) for text in texts}  # the first counts
    lines = [
        json.dumps({"text": text, "task": name}, ensure_ascii=False)
        for name, texts in taken.items()
        for text in texts
        if tasks_of[text] == name
    ]
    write_atomically(to, "\n".join(lines) + "\n")
    return [
        Drawn(
            task.name,
            sum(tasks_of[text] == task.name for text in taken.get(task.name, [])),
            sum(found[text] for text in drawn.get(task.name, [])),
            failures.get(task.name),
        )
        for task in some
    ]


def _overlaps(drawn: Mapping[str, Sequence[str]], evaluated: Iterable[Input]) -> dict[str, bool]:
    texts = list(dict.fromkeys(text for some in drawn.values() for text in some))
    flags = overlapping([Input(text) for text in texts], evaluated, n=WORDS, share=_ANY)
    return dict(zip(texts, flags.tolist(), strict=True))


def _kept(folder: Path, task: CrossFitTask, per_task: int, seed: int) -> list[str]:
    """What was drawn of a task, or is drawn now."""
    file = folder / f"{task.name}-{per_task}-{seed}.json"
    if file.is_file():
        with storing(file):
            kept: list[str] = json.loads(file.read_text(encoding="utf-8"))
            return kept
    table = read_hub(task.hf, task.config, task.split, sample=_SPARE * per_task, seed=seed)
    made = [text for row in range(len(table.places)) if (text := _text(table, task.text, row))]
    order = np.random.default_rng(seed).permutation(len(made))
    texts = list(dict.fromkeys(made[i] for i in order))
    if not texts:
        raise DataError(f"{table.origin} holds no text", found=f"columns {', '.join(task.text)}")
    write_atomically(file, json.dumps(texts, ensure_ascii=False))
    return texts


def _text(table: Table, columns: Sequence[str], row: int) -> str:
    parts = []
    for name in columns:
        # Some names have a dot themselves.
        column, _, below = (name, "", "") if name in table.columns else name.partition(".")
        value = table.column(column, "text")[row]
        parts.append(_line(value.get(below) if below and isinstance(value, Mapping) else value))
    return "\n".join(filter(None, parts))


def _line(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return " ".join(filter(None, map(_line, value)))
    return str(value).strip() if isinstance(value, str) else ""
