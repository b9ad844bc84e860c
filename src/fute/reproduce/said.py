"""What models said, in files without the texts that they said it of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fute.core.files import storing, writing
from fute.core.types import Examples, Input, Span
from fute.data.corpus import Corpus, fit
from fute.labelling.runner import Answered
from fute.models.base import BlackBox


def ids_of(inputs: Sequence[Input]) -> NDArray[np.uint64]:
    """Of each input 64 bits of its content address (n,)."""
    return np.array([int(item.key[:16], 16) for item in inputs], dtype=np.uint64)


def write_said(file: Path, model: BlackBox, answered: Answered, examples: Examples) -> None:
    """Keep the answers of a model of classes, scores or spans: which rows of U, and of each the probabilities
    (m, C), the score (m, 1), or the place (m, 2) of a span, its first character and its length.
    """
    about = {"shape": model.shape, "output": examples.output, "labels": examples.labels}
    said = examples.targets if isinstance(examples.targets, np.ndarray) else _places(examples.targets)
    with writing(file) as stream:
        np.savez_compressed(stream, rows=answered.rows, said=said, about=json.dumps(about))


def read_said(file: Path, corpus: Corpus) -> Examples:
    """The examples that `write_said` has kept, with the same U."""
    with storing(file), np.load(file) as kept:
        about, rows, said = json.loads(str(kept["about"])), kept["rows"], kept["said"]
    inputs = [fit(corpus.inputs[row], about["shape"]) for row in rows]
    if about["output"] != "span":
        return Examples(inputs, said, tuple(about["labels"]), about["output"])
    contexts = [str(item.text_pair) for item in inputs]
    spans = [
        Span(c[a : a + n], a) if a >= 0 else Span("", -1) for c, (a, n) in zip(contexts, said, strict=True)
    ]
    return Examples(inputs, spans, (), "span")


def _places(spans: Sequence[Any]) -> NDArray[np.int32]:
    return np.array([(span.start, len(span.text)) for span in spans], dtype=np.int32)
