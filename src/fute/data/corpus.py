"""The unlabelled corpus U, and fitting its texts to models that read one text or two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from fute.core.hashing import digest
from fute.core.types import Input, Shape
from fute.data.columns import inputs_of
from fute.data.dataset import Dataset
from fute.data.readers import Table, read_file, read_hub, read_object
from fute.data.splits import sample_indices

_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*\s+")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Corpus:
    """Unlabelled inputs that every model of a space is run on."""

    inputs: Sequence[Input]
    origin: str = ""

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def fingerprint(self) -> str:
        return digest([item.key for item in self.inputs])

    @classmethod
    def from_table(
        cls,
        table: Table,
        *,
        text: str = "text",
        text_pair: str | None = None,
        drop_empty: bool = False,
        sample: int | None = None,
        seed: int = 0,
    ) -> Corpus:
        """Take a table's text column; equal texts are kept once. Arguments as in `from_file`."""
        inputs = list(dict.fromkeys(inputs_of(table, text, text_pair, drop_empty)[0]))
        return cls([inputs[i] for i in sample_indices(len(inputs), sample, seed)], table.origin)

    @classmethod
    def from_file(cls, path: str | Path, *, encoding: str = "utf-8", **columns: Any) -> Corpus:
        """Read U from CSV, TSV, JSONL, JSON, Parquet or a text file with a text a line.

        Args:
            path: the file; its ending tells the format.
            encoding: of a text file.
            columns: `text`, `text_pair` (column names), `drop_empty`, `sample` (keep this many), `seed`.

        Raises:
            DataError: says which file, line and column, and what to do.
        """
        return cls.from_table(read_file(Path(path), encoding), **columns)

    @classmethod
    def from_object(cls, data: Any, *, name: str = "corpus", **columns: Any) -> Corpus:
        """U from a pandas DataFrame, a `datasets.Dataset` or a list of dicts."""
        return cls.from_table(read_object(data, name), **columns)

    @classmethod
    def from_hub(
        cls, hub_id: str, *, config: str | None = None, split: str = "train", **columns: Any
    ) -> Corpus:
        """U from a split of a dataset on the Hugging Face hub."""
        return cls.from_table(read_hub(hub_id, config, split), **columns)

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Corpus:
        """A labelled dataset with its labels dropped."""
        return cls(list(dict.fromkeys(dataset.inputs)), dataset.origin)


def fit(item: Input, shape: Shape) -> Input:
    """The input in the shape a model reads, always cut the same way.

    - to "text": the parts are joined by line breaks.
    - to "pair": a single text is cut at the sentence end nearest to its middle, else at the nearest space,
    else
      it is paired with itself. Options become lines below the first text.
    - to "question-context": a pair stays as it is. In a single text the first sentence that ends in a
    question
      mark is the question, else the last sentence; the rest is the context. A text of one sentence is its own
      context.
    - to "question-options": options stay as they are. A single text is cut as for a pair; the words of its
      second part, in four runs of nearly equal length, are the options ("yes" and "no" where that part has
      one word).
    """
    if shape == "question-options":
        return item if item.options else _with_options(item)
    if item.options:
        item = Input("\n".join([item.text, *item.options]), item.text_pair)
    if shape == "text":
        return item if item.text_pair is None else Input(f"{item.text}\n{item.text_pair}")
    if item.text_pair is not None:
        return item
    return _as_pair(item.text) if shape == "pair" else _as_question(item.text)


def _as_pair(text: str) -> Input:
    middle = len(text) / 2
    for pattern in (_SENTENCE_END, _SPACE):
        cuts = [m for m in pattern.finditer(text) if text[: m.start()].strip() and text[m.end() :].strip()]
        if cuts:
            cut = min(cuts, key=lambda m: abs(m.end() - middle))
            return Input(text[: cut.end()].rstrip(), text[cut.end() :])
    return Input(text, text)


def _as_question(text: str) -> Input:
    ends = [m.end() for m in _SENTENCE_END.finditer(text)]
    sentences = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True) if text[a:b].strip()]
    if len(sentences) < 2:
        return Input(text, text)
    asked = [i for i, sentence in enumerate(sentences) if sentence.rstrip().endswith("?")]
    question = sentences.pop(asked[0] if asked else -1)
    return Input(question.strip(), "".join(sentences).strip())


def _with_options(item: Input) -> Input:
    question, source = (item.text, item.text_pair) if item.text_pair else astuple(_as_pair(item.text))[:2]
    words = source.split()
    if len(words) < 2:
        return Input(question, options=("yes", "no"))
    parts = min(4, len(words))
    cuts = [round(i * len(words) / parts) for i in range(parts + 1)]
    return Input(question, options=tuple(" ".join(words[a:b]) for a, b in pairwise(cuts)))
