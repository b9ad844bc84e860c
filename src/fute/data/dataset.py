"""A dataset D, labelled or not: what a DTE is the embedding of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import DataError, listing
from fute.core.hashing import digest
from fute.core.types import Examples, Floats, Input, Output, Span
from fute.data.columns import (
    answers_of,
    inputs_of,
    label_names,
    labelled,
    labels_of,
    scores_of,
    spans_of,
)
from fute.data.readers import Table, read_file, read_hub, read_object
from fute.data.splits import balanced_indices, sample_indices, split_indices


@dataclass(frozen=True)
class Dataset:
    """Inputs with what is right for each: a class, a score, a text, or a span of the second text.

    Attributes:
        name: what rankings call it.
        inputs: n inputs.
        targets: "class": int64 (n,) indices into `labels`; "score": float32 (n,); else n texts or `Span`s.
            None where nobody knows them.
        labels: the label names; the one name of a score; none for texts and spans.
        origin: where the rows came from.
        output: which of these it is.
    """

    name: str
    inputs: Sequence[Input]
    targets: NDArray[np.int64] | Floats | Sequence[str | Span] | None
    labels: tuple[str, ...]
    origin: str = ""
    output: Output = "class"

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def classes(self) -> NDArray[np.int64]:
        """int64 (n,) indices into `labels`. Raises DataError where there are no targets or no classes."""
        self._check_labelled()
        if self.output != "class" or not isinstance(self.targets, np.ndarray):
            raise DataError(f"dataset {self.name} has no classes: its `output` is {self.output}")
        return self.targets.astype(np.int64, copy=False)

    @cached_property
    def examples(self) -> Examples:
        """The rows as (input, target) pairs; a class is a one-hot row. Raises DataError without targets."""
        if self.output == "class":
            one_hot = np.eye(len(self.labels), dtype=np.float32)[self.classes]
            return Examples(self.inputs, one_hot, self.labels)
        targets = self._check_labelled()
        if isinstance(targets, np.ndarray):
            return Examples(self.inputs, targets[:, None].astype(np.float32), self.labels, self.output)
        return Examples(self.inputs, targets, self.labels, self.output)

    @cached_property
    def fingerprint(self) -> str:
        """Content address of the rows, of their labels, if they have some, and of the labels' names."""
        if self.targets is None:
            return digest([[item.key for item in self.inputs], list(self.labels)])
        return self.examples.fingerprint

    def _check_labelled(self) -> NDArray[np.int64] | Floats | Sequence[str | Span]:
        """The targets. Raises DataError where there are none."""
        if self.targets is None:
            raise DataError(f"dataset {self.name} has no labels", fix="name their column: `label: COLUMN`")
        return self.targets

    def take(self, rows: NDArray[np.int64]) -> Dataset:
        """The same dataset with some of its rows."""
        inputs, targets = [self.inputs[i] for i in rows], self.targets
        if targets is None or isinstance(targets, np.ndarray):
            return replace(self, inputs=inputs, targets=None if targets is None else targets[rows])
        return replace(self, inputs=inputs, targets=[targets[i] for i in rows])

    def split(self, test: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """(train, test): `test` is the share held out, the same from every class."""
        train, held_out = split_indices(self._strata, test, seed, self.name)
        return self.take(train), self.take(held_out)

    def few(self, size: int | None, seed: int = 0) -> Dataset:
        """So many of its rows, as many of each class as there can be; all where there are no more, or `size`
        is None. More rows hold all of fewer.

        Raises:
            DataError: they have one and the same target.
        """
        drawn = self.take(balanced_indices(self._strata, size, seed))
        drawn._check_differ(len(self))
        return drawn

    def relabelled(self, labels: tuple[str, ...]) -> Dataset:
        """The same rows with these label names in this order, some of which it may lack.

        Raises:
            DataError: it has others.
        """
        if self.labels == labels:
            return self
        others = [label for label in self.labels if label not in labels]
        if others:
            raise DataError(
                f"{self.origin or self.name} has labels that the other rows of {self.name} lack",
                expected=listing(labels),
                found=listing(others),
                fix="correct the labels, or say by `labels` what they are called",
            )
        columns = np.array([labels.index(label) for label in self.labels])
        return replace(self, labels=labels, targets=None if self.targets is None else columns[self.classes])

    @property
    def _strata(self) -> NDArray[np.int64]:
        """What draws keep in proportion: the classes (n,), where there are any."""
        known = self.output == "class" and self.targets is not None
        return self.classes if known else np.zeros(len(self), dtype=np.int64)

    @classmethod
    def unlabelled(
        cls, inputs: Sequence[Input | str], labels: Sequence[str], *, name: str, origin: str = ""
    ) -> Dataset:
        """Inputs of which nobody knows the class: their DTE is made from pseudo-labels.

        Args:
            inputs: n texts or `Input`s.
            labels: the names of the classes.
            name, origin: as for a labelled dataset.

        Raises:
            DataError: no inputs, or fewer than two different labels.
        """
        if not inputs:
            raise DataError(f"dataset {name} has no inputs")
        items = [item if isinstance(item, Input) else Input(item) for item in inputs]
        return cls(name, items, None, label_names(name, labels), origin)

    @classmethod
    def from_table(
        cls,
        table: Table,
        *,
        name: str,
        output: Output = "class",
        text: str = "text",
        label: str | None = "label",
        start: str = "start",
        text_pair: str | None = None,
        labels: Sequence[str] | Mapping[str, str] | None = None,
        drop_empty: bool = False,
        drop_unlabelled: bool = False,
        sample: int | None = None,
        balanced: bool = False,
        seed: int = 0,
    ) -> Dataset:
        """Map a table's columns. The arguments are those of `from_file`."""
        inputs, rows = inputs_of(table, text, text_pair, drop_empty)
        if drop_unlabelled and label is not None and output != "span":
            of_row = dict(zip(rows, inputs, strict=True))
            rows = labelled(table, label, rows)
            inputs = [of_row[row] for row in rows]
        if output != "class" and labels is not None and (output != "score" or len(labels) != 1):
            raise DataError(
                f"{table.origin}: `labels` are for classes",
                found=f"`output: {output}` with `labels` {listing(labels)}",
                fix="leave `labels` out; a score may have one, its name",
            )
        targets: NDArray[np.int64] | Floats | Sequence[str | Span] | None
        names: tuple[str, ...] = ()
        if label is None:
            targets, names = None, label_names(table.origin, labels, output)
        elif output == "class":
            targets, names = labels_of(table, label, rows, labels)
        elif output == "score":
            targets, names = scores_of(table, label, rows), tuple(labels or ["score"])
        elif output == "span":
            targets = spans_of(table, label, start, rows, inputs)
        else:
            targets = answers_of(table, label, rows)
        dataset = cls(name, inputs, targets, names, table.origin, output)
        if balanced:
            return dataset.few(len(inputs) if sample is None else sample, seed)
        sampled = dataset.take(sample_indices(len(inputs), sample, seed))
        sampled._check_differ(len(dataset))
        return sampled

    def _check_differ(self, of: int) -> None:
        """Raise DataError where all of these rows, of so many, have one and the same target."""
        if self.targets is None or len(set(self.targets)) > 1:
            return
        first = self.targets[0]
        what = {"class": "label", "score": "score"}.get(self.output, "answer")
        value = self.labels[int(self.classes[0])] if self.output == "class" else first
        raise DataError(
            f'{self.origin}: every row of the sample has the {what} "{getattr(value, "text", value)}"',
            found=f"{len(self)} of {of} rows",
            fix="raise `sample` or `few`, or choose another `seed`",
        )

    @classmethod
    def from_file(
        cls, path: str | Path, *, name: str | None = None, encoding: str = "utf-8", **columns: Any
    ) -> Dataset:
        """Read a labelled dataset from CSV, TSV, JSONL, JSON or Parquet.

        Args:
            path: the file; its ending tells the format.
            name: of the dataset; by default the file's name.
            encoding: of a text file.
            columns: `output` ("class", "score", "text" or "span"), `text`, `text_pair` (column names),
                `label` (the column with the class, the number or the answer; None where the classes, named by
                `labels`, aren't known), `start` (of a span: the column
                with the character of the second text that the answer begins at), `labels` (allowed names, or
                a mapping from raw values to names; the name of a score), `drop_empty` (leave rows without
                a text out), `drop_unlabelled` (leave rows without a class, score or answer out; a span may be
                empty), `sample` (keep this many rows), `balanced` (as many of each class as there
                can be), `seed`.

        Raises:
            DataError: says which file, line and column, and what to do.
        """
        path = Path(path)
        return cls.from_table(read_file(path, encoding), name=name or path.stem, **columns)

    @classmethod
    def from_object(cls, data: Any, *, name: str, **columns: Any) -> Dataset:
        """Read a pandas DataFrame, a `datasets.Dataset` or a list of dicts; arguments as in `from_file`."""
        return cls.from_table(read_object(data, name), name=name, **columns)

    @classmethod
    def from_hub(
        cls,
        hub_id: str,
        *,
        name: str | None = None,
        config: str | None = None,
        split: str = "train",
        **columns: Any,
    ) -> Dataset:
        """Read a split of a dataset on the Hugging Face hub; other arguments as in `from_file`."""
        return cls.from_table(read_hub(hub_id, config, split), name=name or hub_id, **columns)
