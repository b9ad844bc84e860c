"""The words of fute: inputs, examples, spaces and task embeddings.

A task embedding is `e = f({(x_i, y_i)}, Θ_T)`. An `Examples` is the set in the braces, whether the
targets are a dataset's labels (DTE) or a black box's outputs (MTE): f never knows which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import SpaceError
from fute.core.hashing import digest
from fute.core.unicode import writable

Floats = NDArray[np.float32]
Kind = Literal["dataset", "model"]
Output = Literal["class", "score", "text", "span"]
Shape = Literal["text", "pair", "question-context", "question-options"]


@dataclass(frozen=True, slots=True)
class Input:
    """What a black box reads: a text, two texts, or a question with its answer options.

    Attributes:
        text: the text; a pair's first; the question.
        text_pair: a pair's second text; the context of the question.
        options: the answers to choose from.
    """

    text: str
    text_pair: str | None = None
    options: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A content address: equal inputs have equal keys."""
        return digest([self.text, self.text_pair, *([list(self.options)] if self.options else [])])

    def __len__(self) -> int:
        return len(self.text) + len(self.text_pair or "") + sum(map(len, self.options))


class Span(NamedTuple):
    """An answer that stands in the context: its text, and the character it begins at; -1 and "" for none."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item has no answer.

    Attributes:
        kind: "empty" (the model said nothing), "unparsed" (nothing in it is a label), "misplaced" (a span
            that isn't in its context where it says), "truncated" (it was cut off before its answer),
            "refused" (the server will never take this item), or "error" (there was no answer at all: asking
            again may help).
        detail: what was said instead, for people: its first 500 characters.
    """

    kind: Literal["empty", "unparsed", "misplaced", "truncated", "refused", "error"]
    detail: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", writable(self.detail[:500]))


# One item's answer: class probabilities (C,) or a score (1,), a text, or a span.
Answer = Floats | str | Span
# Answers to n items: an array (n, C) of probabilities, (n, 1) of scores, or a list with an answer each, in
# which a `Failure` stands where there is none.
Answers = Floats | Sequence[Answer | Failure]


@dataclass(frozen=True)
class Examples:
    """Inputs with their targets: what an embedding method learns from.

    Attributes:
        inputs: n inputs.
        targets: "class": float32 (n, C), rows of probabilities; a hard label is a one-hot row. "score":
            float32 (n, 1). "text": n texts. "span": n `Span`s of the inputs' second texts.
        labels: the C label names, in column order; the one name of a score; none for texts.
        output: which of these it is.
    """

    inputs: Sequence[Input]
    targets: Floats | Sequence[str | Span]
    labels: tuple[str, ...]
    output: Output = "class"

    def __post_init__(self) -> None:
        shape: tuple[int, ...] = (len(self.inputs), len(self.labels))
        if isinstance(self.targets, np.ndarray) and self.targets.shape != shape:
            raise ValueError(f"targets have shape {self.targets.shape}, expected {shape}")
        if len(self.targets) != len(self.inputs):
            raise ValueError(f"{len(self.targets)} targets for {len(self.inputs)} inputs")

    @property
    def probabilities(self) -> Floats:
        """The targets as an array (n, C). Raises ValueError where they are texts."""
        if not isinstance(self.targets, np.ndarray):
            raise ValueError(f"targets are of the kind {self.output}, not an array")
        return self.targets

    @property
    def texts(self) -> list[str]:
        """The answers as texts, "" for none. Raises ValueError where they are numbers."""
        if isinstance(self.targets, np.ndarray):
            raise ValueError(f"targets are of the kind {self.output}, not texts")
        return [answer.text if isinstance(answer, Span) else str(answer) for answer in self.targets]

    @cached_property
    def fingerprint(self) -> str:
        """Content address of inputs, targets and label names."""
        targets = self.targets if isinstance(self.targets, np.ndarray) else list(map(str, self.targets))
        return digest([[i.key for i in self.inputs], targets, list(self.labels)])


@dataclass(frozen=True)
class SpaceSpec:
    """What makes task embeddings comparable: two with equal specs live in one space.

    Attributes:
        method: name of the embedding method f.
        options: its options that define the vector (not steps or learning rate).
        surrogate: id of Θ_T, as the user wrote it.
        surrogate_digest: sha256 of its weights.
        seed: from which adapters, heads and projections are drawn, once for the space.
    """

    method: str
    options: Mapping[str, Any]
    surrogate: str
    surrogate_digest: str
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            **{f"method.{name}": value for name, value in sorted(self.options.items())},
            "surrogate": self.surrogate,
            "surrogate_digest": self.surrogate_digest,
            "seed": self.seed,
        }

    @property
    def fingerprint(self) -> str:
        """16 hex digits. The surrogate's *weights* count, not the name they were found under."""
        fields = self.as_dict()
        del fields["surrogate"]
        return digest(fields)[:16]

    def check_same(self, other: SpaceSpec) -> None:
        """Raise `SpaceError`, naming the fields that differ, unless the fingerprints are equal."""
        if self is other or self.fingerprint == other.fingerprint:
            return
        mine, theirs = self.as_dict(), other.as_dict()
        differing = [
            f"{name}: {mine.get(name)!r} ≠ {theirs.get(name)!r}"
            for name in sorted(mine.keys() | theirs.keys())
            if digest([mine.get(name)]) != digest([theirs.get(name)])  # 1 and 1.0 are other spaces
        ]
        raise SpaceError(
            "these task embeddings live in different spaces and can't be compared",
            expected=f"space {self.fingerprint}",
            found=f"space {other.fingerprint}; fields that differ: {'; '.join(differing)}",
            fix="embed both with the same method, options, surrogate and seed",
        )


@dataclass(frozen=True)
class TaskEmbedding:
    """A DTE or an MTE: the matrix `W = left @ right.T`, kept as its factors.

    A linear probe is low rank, so its factors are small and similarities from them are exact. A plain
    vector v is the case `left = v[:, None]`, `right = [[1]]`.

    Attributes:
        name: what it is the embedding of.
        kind: "dataset" (DTE) or "model" (MTE).
        spec: the space it lives in.
        left: float32 (d, r), or float16 where a long vector was projected.
        right: float32 (k, r).
        replicates: float16 (B, d, r), the `left` of B bootstrap resamples of the examples; B may be 0.
        labels: label names of the task.
        provenance: how it was made; never decides comparability.
    """

    name: str
    kind: Kind
    spec: SpaceSpec
    left: Floats | NDArray[np.float16]
    right: Floats
    replicates: NDArray[np.float16]
    labels: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vector(self) -> Floats:
        """The flat vector `vec(left @ right.T)`, float32 (d * k,)."""
        return np.ascontiguousarray((self.left @ self.right.T).ravel(), dtype=np.float32)
