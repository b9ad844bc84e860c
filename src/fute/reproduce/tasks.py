"""The datasets of the transfer experiments, read as `fute.yaml` would, to learn from and to score."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fute.config import DatasetConfig, read_source
from fute.core.types import Input, Span
from fute.data.dataset import Dataset
from fute.data.readers import read_file

_WORD = re.compile(r"\S+")


class TaskConfig(DatasetConfig):
    """A dataset with its two splits: `path` is a folder with `train.jsonl` and `validation.jsonl`, or `hf` is
    a hub id.

    Attributes:
        group: datasets of one group are compared "in class".
        choices: the column with the options {letter: text} of a multiple choice. It is read as a question
            whose context lists the options, and whose answer is the right one's text.
        held_out: the split that is scored.
    """

    group: str
    choices: str | None = None
    held_out: str = "validation"

    def read(self, rows: int, window: int, seed: int = 0) -> Task:
        """Both splits: `rows` of the second at most, contexts cut to `window` words."""
        train, test = (
            windowed(self._split(split, window), window, seed) for split in (self.split, self.held_out)
        )
        return Task(self.name, self.group, train, test.relabelled(train.labels).few(rows, seed))

    def _split(self, split: str, window: int) -> Dataset:
        if self.hf is not None:
            return read_source(Dataset, self.model_copy(update={"split": split}))
        path = str(Path(str(self.path)) / f"{split}.jsonl")
        if self.choices is None:
            return read_source(Dataset, self.model_copy(update={"path": path}))
        return Dataset.from_object(
            self._choices_as_contexts(Path(path), self.choices, window),
            name=self.name,
            output="span",
            text="question",
            text_pair="context",
            label="answer",
        )

    def _choices_as_contexts(self, path: Path, choices: str, window: int) -> list[dict[str, Any]]:
        """Of a long question its end is kept, which asks."""
        table, rows = read_file(path, self.encoding), []
        columns = (table.column(self.text, "text"), table.column(choices, "choices"))
        for question, options, right in zip(*columns, table.column(str(self.label), "label"), strict=True):
            before = "".join(f"{text} ; " for letter, text in options.items() if letter < right)
            span = {"text": [options[right]], "answer_start": [len(before)]}
            ending = " ".join(question.split()[-window:])
            rows.append({"question": ending, "context": " ; ".join(options.values()), "answer": span})
        return rows


@dataclass(frozen=True)
class Task:
    """A dataset with the group that it is compared in.

    Attributes:
        name: of the dataset.
        group: such as "cr" or "qa".
        train, test: rows to learn from, and rows that are scored.
    """

    name: str
    group: str
    train: Dataset
    test: Dataset


def windowed(dataset: Dataset, words: int, seed: int = 0) -> Dataset:
    """The dataset with each second text cut to so many words, for spans at a random place that holds the
    answer, where there is one; else from the beginning. Shorter ones stay whole.
    """
    if dataset.output != "span":
        return replace(dataset, inputs=[_beginning(item, words) for item in dataset.inputs])
    rng = np.random.default_rng(seed)
    cut = [_window(i, s, words, rng) for i, s in zip(dataset.inputs, _spans(dataset), strict=True)]
    return replace(dataset, inputs=[item for item, _ in cut], targets=[span for _, span in cut])


def _beginning(item: Input, words: int) -> Input:
    places = list(_WORD.finditer(item.text_pair or ""))
    return (
        item
        if len(places) <= words
        else replace(item, text_pair=str(item.text_pair)[: places[words - 1].end()])
    )


def _window(item: Input, span: Span, words: int, rng: np.random.Generator) -> tuple[Input, Span]:
    context = str(item.text_pair)
    places = [match.span() for match in _WORD.finditer(context)]
    if len(places) <= words:
        return item, span
    end = span.start + len(span.text)
    inside = [i for i, (a, b) in enumerate(places) if a < end and b > span.start >= 0]
    # The window's first word: from where it just ends with the answer to where it begins with it.
    first, last = (max(0, inside[-1] - words + 1), inside[0]) if inside else (0, len(places))
    begin = int(rng.integers(min(first, last), min(last, len(places) - words) + 1))
    stop = max(begin + words, inside[-1] + 1 if inside else 0)  # an answer longer than the window stays whole
    cut = context[places[begin][0] : places[stop - 1][1]]
    return replace(item, text_pair=cut), Span(span.text, span.start - places[begin][0]) if inside else span


def _spans(dataset: Dataset) -> list[Span]:
    return [target for target in dataset.targets or () if isinstance(target, Span)]
