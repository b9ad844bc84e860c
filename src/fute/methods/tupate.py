"""TuPaTE: the task as the change of a few tuned parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import ConfigError
from fute.core.progress import Progress, silent
from fute.core.types import Examples, Floats
from fute.methods.base import Embedded, bootstrap_counts, check_options, flat
from fute.surrogates.features import Features

if TYPE_CHECKING:
    from fute.surrogates.adapters import Adapter

_CHOICES = {
    "head": ("labels", "noise"),
    "adapter": ("prefix", "bitfit", "lora"),
    "where": ("all", "encoder", "decoder"),
    "pool": ("layers", "tokens", "none"),
    "vector": ("change", "end"),
}


@dataclass(frozen=True)
class TuPaTE:
    """Parameter-efficient tuning of the frozen surrogate on the examples; the vector is what it learnt.

    With a prefix, in every attention layer `K' = [K_p; K]`, `V' = [V_p; V]`, K_p and V_p (heads, virtual
    tokens, head size). They and a head are trained on `−Σ_c p_c log softmax(H r(x))_c`, or `½ (s − h r(x))²`
    for scores, where the representation r is the mean state of an encoder, the last state of a decoder, or
    the state with which an encoder-decoder begins its answer. The head starts from the label names'
    representations, so the order of the labels doesn't matter. Spans have a head for their first and their
    last token that starts from the space's seed, texts the surrogate's own language model head, which stays
    as it is (`fute.surrogates.answers`). The vector is `pool(θ_end − θ_start)`, θ_start
    drawn from the space's seed; one longer than 16,384 numbers is projected (`fute.methods.projection`).

    Attributes:
        adapter: what is tuned: a "prefix" (Li & Liang 2021), "bitfit" (steps of biases) or "lora" (steps
            of low rank at queries and values).
        num_virtual_tokens: length of the prefix in every layer.
        where: the prefix's layers: "all", or of an encoder-decoder those of its "encoder" or "decoder".
        top_layers: only the last so many layers of each part of the surrogate are tuned; 0: all. What those
            below make of a text is made once, for all epochs and models.
        rank: of LoRA's steps.
        pool: "layers" (mean over layers, as in the paper), "tokens" (mean over virtual tokens) or "none".
        vector: the "change" from the start; or the "end", as published, in which the start is kept.
        head: what it starts from: the "labels", or "noise" drawn from the seed, one row for each label in
            their order: as published, but then the order counts.
        steps: most optimiser steps.
        epochs: most passes over the examples; then `steps` doesn't count. 0: `steps` does.
        stop_early: whether training stops, and goes back to its best, where a tenth of the examples, held out
            of it, says so. Without, all are trained on to the end.
        batch_size: examples per step.
        learning_rate: of AdamW.
        max_tokens: longer inputs are cut, here more than for features: every step reads its batch twice.
        replicates: bootstrap refits for an interval; each costs as much as the first fit. 0: no interval.

    Raises:
        ConfigError: an option that isn't one of these.
        ModelError: texts are to be learnt, and the surrogate is an encoder, which writes none; a DeBERTa is
            to have a prefix.

    Source: Zhou, Xu & McAuley 2022, aclanthology.org/2022.emnlp-main.334; Li & Liang 2021 (prefix tuning),
    doi:10.18653/v1/2021.acl-long.353.
    """

    name: ClassVar[str] = "tupate"
    defining: ClassVar[tuple[str, ...]] = (
        *("adapter", "num_virtual_tokens", "where", "top_layers", "rank", "pool", "vector", "head"),
    )

    adapter: str = "prefix"
    num_virtual_tokens: int = 16
    where: str = "all"
    top_layers: int = 0
    rank: int = 8
    pool: str = "layers"
    vector: str = "change"
    head: str = "labels"
    steps: int = 60
    epochs: int = 0
    stop_early: bool = True
    batch_size: int = 32
    learning_rate: float = 0.01
    max_tokens: int = 128
    replicates: int = 0

    def __post_init__(self) -> None:
        check_options(self, _CHOICES, ("num_virtual_tokens", "rank", "steps", "batch_size", "max_tokens"))
        for option in ("top_layers", "replicates"):
            if getattr(self, option) < 0:
                raise ConfigError(f"tupate: `{option}` must be at least 0", found=str(getattr(self, option)))
        if self.pool == "tokens" and self.adapter != "prefix":
            raise ConfigError(f"tupate: `adapter: {self.adapter}` has no tokens to pool", fix="pool layers")

    def embed(
        self, examples: Examples, features: Features, seed: int, progress: Progress = silent
    ) -> Embedded:
        n = len(examples.inputs)
        every = [np.ones(n, dtype=np.int64), *bootstrap_counts(n, self.replicates, seed)]
        fitted = list(self._fitted(examples, features, seed, progress, every))
        return flat(fitted[0][0], [vector for vector, _ in fitted[1:]], seed, fitted[0][1])

    def raw(
        self, examples: Examples, features: Features, seed: int, progress: Progress = silent
    ) -> Iterator[Floats]:
        """The vector before it is projected, in one piece."""
        ones = np.ones(len(examples.inputs), dtype=np.int64)
        yield from (vector for vector, _ in self._fitted(examples, features, seed, progress, [ones]))

    def _fitted(
        self,
        examples: Examples,
        features: Features,
        seed: int,
        progress: Progress,
        every: Sequence[NDArray[np.int64]],
    ) -> Iterator[tuple[Floats, Mapping[str, Any]]]:
        """The vector and its notes, for each of these counts of the examples."""
        from fute.surrogates.training import Training

        # A prefix learns the same in bfloat16; biases and low-rank steps don't, and have a copy in float32.
        as_it_is = self.adapter == "prefix" or features.surrogate.dtype == "float32"
        model_of = features.frozen if as_it_is else features.copied
        training = Training(model_of(self.max_tokens, examples.output), examples, self, seed)
        for counts in every:
            fitted = training.fit(self._adapter(training.model, seed), counts, progress)
            yield self._pooled(fitted.end if self.vector == "end" else fitted.change), fitted.notes

    def _adapter(self, model: Any, seed: int) -> Adapter:
        from fute.surrogates.adapters import BitFit, LoRA
        from fute.surrogates.prefix_attention import Prefix

        if self.adapter == "prefix":
            prefix = Prefix(model, self.num_virtual_tokens, seed, self.where, self.top_layers)
            return prefix.to(model.device)
        if self.adapter == "bitfit":
            return BitFit(model, self.top_layers)
        return LoRA(model, self.rank, seed, self.top_layers)

    def _pooled(self, change: dict[str, Floats]) -> Floats:
        if self.adapter == "prefix":  # (layers, heads, tokens, head size) of keys and of values
            both = np.stack([change["keys"], change["values"]])
            axis = {"layers": 1, "tokens": 3}.get(self.pool)
            return both.ravel() if axis is None else both.mean(axis=axis).ravel()
        return np.concatenate(
            [part.ravel() for part in (_over_layers if self.pool == "layers" else dict)(change).values()]
        )


def _over_layers(change: dict[str, Floats]) -> dict[str, Floats]:
    """Means of the tensors that differ only in the number of their layer."""
    groups: dict[str, list[Floats]] = {}
    for name, tensor in change.items():
        groups.setdefault(f"{re.sub(r'[0-9]+', '#', name)} {tensor.shape}", []).append(tensor)
    return {name: np.mean(tensors, axis=0) for name, tensors in groups.items()}
