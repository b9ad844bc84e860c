"""The datasets of the transfer experiments, read as `fute.yaml` would, to learn from and to score."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import Field

from fute.config import DatasetConfig, read_source
from fute.core.section import Section
from fute.core.types import Input, Span
from fute.data.dataset import Dataset
from fute.data.readers import Table, read_file, read_hub
from fute.data.squad import Row, read_squad
from fute.models.section import local
from fute.reproduce.finetuning import Schedule
from fute.reproduce.questions import by_search, from_choices

_WORD = re.compile(r"\S+")


class Own(Section):
    """What learning a task has other than the recipe's schedules."""

    learning_rate: float | None = None
    max_tokens: int | None = Field(default=None, ge=1)

    def of(self, schedule: Schedule) -> Schedule:
        return replace(schedule, **self.model_dump(exclude_none=True))


class TaskConfig(DatasetConfig):
    """A dataset with its two splits.

    `path` is a folder with `train.jsonl` and `validation.jsonl`, or the path or URL, with `{split}` in it, of
    files as SQuAD's; or `hf` is a hub id.

    Attributes:
        group: datasets of one group are compared "in class".
        choices: the column with the options {letter: text} of a multiple choice (`from_choices`).
        find: answers are texts whose place isn't told (`by_search`).
        held_out: the split that is scored; or a share of the other, drawn at random.
        size: rows to learn from, for plans before they are here.
        window: other than the recipe's.
        learn: other than the recipe's schedules.
        preset: whose options its task embeddings are trained with, other than the recipe's.
    """

    group: str
    choices: str | None = None
    find: bool = False
    held_out: str | float = "validation"
    size: int | None = None
    window: int | None = Field(default=None, ge=1)
    learn: Own = Own()
    preset: str | None = None

    def read(self, rows: int | None, window: int | None, seed: int = 0) -> Task:
        """Both splits, once they are asked for: `rows` of the second at most, contexts cut to `window` words;
        None leaves them whole.
        """
        return Task(self, rows, self.window or window, seed)

    def split_named(self, split: str, window: int | None) -> Dataset:
        """All rows of a split. Raises DataError where they can't be had."""
        if self.path is not None and "{split}" in self.path:
            return self._spans(read_squad(self.path.format(split=split)))
        if self.choices is not None:
            table = self._table(split)
            return self._spans(from_choices(table, self.text, self.choices, str(self.label), window))
        if self.find:
            columns = self.text, str(self.text_pair), str(self.label)
            return self._spans(by_search(self._table(split), *columns))
        place = {"split": split} if self.hf is not None else {"path": self._file(split)}
        return read_source(Dataset, self.model_copy(update=place))

    def _table(self, split: str) -> Table:
        if self.hf is not None:
            return read_hub(local(Path(), self.hf), self.config, split)
        return read_file(Path(self._file(split)), self.encoding)

    def _file(self, split: str) -> str:
        return str(Path(str(self.path)) / f"{split}.jsonl")

    def _spans(self, rows: list[Row]) -> Dataset:
        columns = {"text": "question", "text_pair": "context", "label": "answer"}
        return Dataset.from_object(rows, name=self.name, output="span", drop_empty=True, **columns)


@dataclass(frozen=True, eq=False)
class Task:
    """A dataset with the group that it is compared in, read when its rows are first asked for.

    Attributes:
        config: what is said of it.
        rows: that are scored, at most.
        window: words of a context.
        seed: of the rows that are scored.
    """

    config: TaskConfig
    rows: int | None
    window: int | None
    seed: int = 0

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def group(self) -> str:
        return self.config.group

    @property
    def train(self) -> Dataset:
        """Rows to learn from."""
        return self._splits[0]

    @property
    def test(self) -> Dataset:
        """Rows that are scored."""
        return self._splits[1]

    def read(self) -> None:
        """Get the rows now. Raises DataError where they can't be had."""
        _ = self._splits

    def takes(self, schedule: Schedule) -> tuple[int, int] | None:
        """How many steps and tokens learning it takes (`Schedule.takes`); None where it isn't here and nobody
        has said how many rows it has. Opens no connection.
        """
        if self.config.path is not None and "{split}" not in self.config.path:
            return schedule.takes(self.train)
        return None if self.config.size is None else schedule.takes_at_most(self.config.size)

    @cached_property
    def _splits(self) -> tuple[Dataset, Dataset]:
        train, test = (self._windowed(split) for split in self._whole())
        return train, test.relabelled(train.labels).few(self.rows, self.seed)

    def _whole(self) -> tuple[Dataset, Dataset]:
        learnt = self.config.split_named(self.config.split, self.window)
        if isinstance(self.config.held_out, float):
            return learnt.split(self.config.held_out, self.seed)
        return learnt, self.config.split_named(self.config.held_out, self.window)

    def _windowed(self, dataset: Dataset) -> Dataset:
        return dataset if self.window is None else windowed(dataset, self.window, self.seed)


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
