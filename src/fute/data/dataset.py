"""A labelled dataset D: what a DTE is the embedding of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import DataError
from fute.core.types import Examples, Input
from fute.data.columns import inputs_of, labels_of
from fute.data.readers import Table, read_file, read_hub, read_object
from fute.data.splits import sample_indices, split_indices


@dataclass(frozen=True)
class Dataset:
    """Inputs with one class each.

    Attributes:
        name: what rankings call it.
        inputs: n inputs.
        classes: int64 (n,) indices into `labels`.
        labels: label names.
        origin: where the rows came from.
    """

    name: str
    inputs: Sequence[Input]
    classes: NDArray[np.int64]
    labels: tuple[str, ...]
    origin: str = ""

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def examples(self) -> Examples:
        """The rows as (input, one-hot target) pairs."""
        return Examples(self.inputs, np.eye(len(self.labels), dtype=np.float32)[self.classes], self.labels)

    def take(self, rows: NDArray[np.int64]) -> Dataset:
        """The same dataset with some of its rows."""
        return replace(self, inputs=[self.inputs[i] for i in rows], classes=self.classes[rows])

    def split(self, test: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """(train, test): `test` is the share held out, the same from every class."""
        train, held_out = split_indices(self.classes, test, seed, self.name)
        return self.take(train), self.take(held_out)

    @classmethod
    def from_table(
        cls,
        table: Table,
        *,
        name: str,
        text: str = "text",
        label: str = "label",
        text_pair: str | None = None,
        labels: Sequence[str] | Mapping[str, str] | None = None,
        drop_empty: bool = False,
        sample: int | None = None,
        seed: int = 0,
    ) -> Dataset:
        """Map a table's columns. The arguments are those of `from_file`."""
        inputs, rows = inputs_of(table, text, text_pair, drop_empty)
        classes, names = labels_of(table, label, rows, labels)
        dataset = cls(name, inputs, classes, names, table.origin)
        sampled = dataset.take(sample_indices(len(inputs), sample, seed))
        if len(np.unique(sampled.classes)) < 2:
            raise DataError(
                f'{table.origin}: every row of the sample has the label "{names[sampled.classes[0]]}"',
                found=f"{len(sampled)} of {len(dataset)} rows",
                fix="raise `sample`, or choose another `seed`",
            )
        return sampled

    @classmethod
    def from_file(
        cls, path: str | Path, *, name: str | None = None, encoding: str = "utf-8", **columns: Any
    ) -> Dataset:
        """Read a labelled dataset from CSV, TSV, JSONL, JSON or Parquet.

        Args:
            path: the file; its ending tells the format.
            name: of the dataset; by default the file's name.
            encoding: of a text file.
            columns: `text`, `label`, `text_pair` (column names), `labels` (allowed names, or a mapping
                from raw values to names), `drop_empty`, `sample` (keep this many rows), `seed`.

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
