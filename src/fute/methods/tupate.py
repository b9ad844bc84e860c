"""TuPaTE: the task as the change of a tuned prefix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import ConfigError, ModelError
from fute.core.progress import Progress, silent
from fute.core.types import Examples, Floats
from fute.methods.base import Embedded, bootstrap_counts
from fute.surrogates.base import mean_pool
from fute.surrogates.features import Features

_POOLS = ("layers", "tokens")
_CHECK_EVERY = 10  # steps between two looks at the held-out rows
_PATIENCE = 4  # looks without improvement before stopping
_HELD_OUT = 0.1  # share of the examples that training never sees
_MOST_LOOKED_AT = 96  # of these, so that looking costs less than training
_WINDOW = 8  # batches among which examples are sorted by length, so that little is padded
_SHARPNESS = 10.0  # scale of the head's start: logits are 10 × cosine of pooled state and label name


@dataclass(frozen=True)
class TuPaTE:
    """Prefix tuning of the frozen surrogate on the examples; the vector is what the prefix learnt.

    In every layer `K' = [K_p; K]`, `V' = [V_p; V]`. Prefix and head are trained on
    `−Σ_c p_c log softmax(head(pool(Θ_T(x))))_c`; the head starts from the label names' embeddings, so
    the order of the labels doesn't matter. The vector is `pool(θ_end − θ_start)` over the prefix, where
    θ_start is drawn from the space's seed.

    Attributes:
        num_virtual_tokens: length of the prefix in every layer.
        pool: "layers" (mean over layers, as in the paper) or "tokens" (mean over virtual tokens).
        steps: most optimiser steps; training stops earlier where held-out rows of the training data say so.
        batch_size: examples per step.
        learning_rate: of AdamW.
        max_tokens: longer inputs are cut, here more than for features: every step reads its batch twice.
        replicates: bootstrap refits for an interval; each costs as much as the first fit. 0: no interval.

    Source: Zhou, Xu & McAuley 2022, aclanthology.org/2022.emnlp-main.334; Li & Liang 2021 (prefix tuning).
    """

    name: ClassVar[str] = "tupate"
    defining: ClassVar[tuple[str, ...]] = ("num_virtual_tokens", "pool")

    num_virtual_tokens: int = 16
    pool: str = "layers"
    steps: int = 60
    batch_size: int = 32
    learning_rate: float = 0.01
    max_tokens: int = 128
    replicates: int = 0

    def __post_init__(self) -> None:
        if self.pool not in _POOLS:
            raise ConfigError(f"tupate: `pool` is {self.pool!r}", expected=f"one of {', '.join(_POOLS)}")
        for option in ("num_virtual_tokens", "steps", "batch_size", "max_tokens"):
            if getattr(self, option) < 1:
                raise ConfigError(f"tupate: `{option}` must be at least 1", found=str(getattr(self, option)))

    def embed(
        self, examples: Examples, features: Features, seed: int, progress: Progress = silent
    ) -> Embedded:
        trainer = _Trainer(self, examples, features, seed)
        ones = np.ones(len(examples.inputs), dtype=np.int64)
        change, notes = trainer.fit(ones, progress)
        left = self._pooled(change)
        counts = bootstrap_counts(len(ones), self.replicates, seed)
        resampled = [self._pooled(trainer.fit(weights, progress)[0]) for weights in counts]
        return Embedded(
            left=left,
            right=np.ones((1, 1), dtype=np.float32),
            replicates=np.array(resampled, dtype=np.float16).reshape(self.replicates, *left.shape),
            notes=notes,
        )

    def _pooled(self, change: Floats) -> Floats:
        """From (2, layers, heads, tokens, head size) to (d, 1)."""
        return np.ascontiguousarray(change.mean(axis=1 if self.pool == "layers" else 3).reshape(-1, 1))


class _Trainer:
    """One surrogate and one set of examples, fitted as often as there are resamples."""

    def __init__(self, options: TuPaTE, examples: Examples, features: Features, seed: int) -> None:
        import torch

        self.options, self.examples, self.seed = options, examples, seed
        self.surrogate = features.surrogate
        self.model = self.surrogate.load("float32")
        self.head_start = torch.from_numpy(features.of_texts(examples.labels).copy()) * _SHARPNESS
        self.targets = torch.from_numpy(examples.probabilities)

    def fit(self, counts: NDArray[np.int64], progress: Progress) -> tuple[Floats, dict[str, Any]]:
        """What training on the examples, each as often as it counts, changed in keys and values:
        float32 (2, layers, heads, tokens, head size); and how it went.
        """
        import torch

        from fute.surrogates.prefix_attention import Prefix

        options = self.options
        prefix = Prefix(self.model, options.num_virtual_tokens, self.seed).to(self.model.device)
        start = [p.detach().clone() for p in (prefix.keys, prefix.values)]
        head = torch.nn.Parameter(self.head_start.clone().to(self.model.device))
        optimiser = torch.optim.AdamW(
            [*prefix.parameters(), head], lr=options.learning_rate, weight_decay=0.0
        )
        rng = np.random.default_rng(self.seed)
        rows = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        held_out, train = np.split(rows, [max(1, int(_HELD_OUT * len(rows)))])
        train = train if len(train) else rows
        best_loss, best, best_step = np.inf, start, 0
        batches = self._batches(train, rng)
        for step in range(1, options.steps + 1):
            optimiser.zero_grad()
            loss = self._loss(prefix, head, next(batches))
            loss.backward()
            optimiser.step()
            if not np.isfinite(loss.item()):
                raise ModelError(
                    f"tupate: the loss is {loss.item()} at step {step}",
                    fix=f"lower `learning_rate` (it is {options.learning_rate})",
                )
            progress("tuning", step, options.steps)
            if step % _CHECK_EVERY == 0 or step == options.steps:
                with torch.no_grad():
                    current = self._loss(prefix, head, held_out[:_MOST_LOOKED_AT]).item()
                if current < best_loss:
                    best_loss, best_step = current, step
                    best = [p.detach().clone() for p in (prefix.keys, prefix.values)]
                elif step - best_step >= _PATIENCE * _CHECK_EVERY:
                    break
        progress("tuning", options.steps, options.steps)
        change = torch.stack([end - begin for end, begin in zip(best, start, strict=True)])
        return change.cpu().numpy(), {"steps": best_step, "held_out_loss": round(best_loss, 4)}

    def _batches(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Batches of texts of similar length, in random order, epoch after epoch."""
        lengths = np.array([len(item) for item in self.examples.inputs])
        size = self.options.batch_size
        while True:
            order = rng.permutation(rows)
            for start in range(0, len(order), size * _WINDOW):
                window = order[start : start + size * _WINDOW]
                window = window[np.argsort(lengths[window], kind="stable")]
                cuts = [window[i : i + size] for i in range(0, len(window), size)]
                for i in rng.permutation(len(cuts)):
                    yield cuts[i]

    def _loss(self, prefix: Any, head: Any, rows: NDArray[np.int64]) -> Any:
        import torch

        inputs = [self.examples.inputs[i] for i in rows]
        tokens = self.surrogate.tokenize(inputs, self.options.max_tokens).to(self.model.device)
        fast = self.surrogate.dtype == "bfloat16"
        with prefix.attached(), torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=fast):
            states = self.model(**tokens).last_hidden_state
        pooled = torch.nn.functional.normalize(mean_pool(states, tokens["attention_mask"]), dim=-1)
        return torch.nn.functional.cross_entropy(pooled @ head.T, self.targets[rows].to(pooled.device))
