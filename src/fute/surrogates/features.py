"""Frozen features Φ of inputs: computed once per (surrogate, input), kept on disk."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fute.core.errors import ConfigError, ModelError, listing
from fute.core.hashing import digest
from fute.core.keyvalue import KeyValue
from fute.core.progress import Progress, silent
from fute.core.types import Floats, Input, Output
from fute.surrogates.base import Surrogate, mean_pool, states, states_of_layers

if TYPE_CHECKING:
    from fute.surrogates.frozen import Frozen, Kept

_VERSION, _VERSION_OF_NOTHING = 1, 2
_AT_ONCE = 16  # batches that are read before they are kept
_POOLINGS: dict[str, Callable[[Any, Any], Any]] = {
    "mean": mean_pool,
    "first": lambda states, mask: states[:, 0],
    "last": lambda states, mask: states[range(len(mask)), mask.sum(1) - 1],
}


class Features:
    """Features of one surrogate.

    Args:
        surrogate: whose features.
        path: where they are kept; None keeps them in memory only.
        layer: whose states: -1 is the last, 0 the embeddings, None the mean of all layers, "each" all of them
            side by side, (n, layers · d), each scaled alike.
        pooling: "mean" over a text's tokens, its "first" or its "last".

    Raises:
        ConfigError: no such pooling.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        path: Path | None = None,
        layer: int | Literal["each"] | None = -1,
        pooling: str = "mean",
    ) -> None:
        if pooling not in _POOLINGS:
            raise ConfigError(f"there is no pooling {pooling!r}", expected=f"one of {listing(_POOLINGS)}")
        self.surrogate, self.path, self.layer, self.pooling = surrogate, path, layer, pooling
        self._store = KeyValue(path) if path is not None else None
        self._memory: dict[Input, Floats] = {}
        self._frozen: Frozen | None = None
        self._copies: tuple[int, Kept] | None = None
        self._last: tuple[list[Input], Floats] | None = None
        self._others: dict[tuple[int | None, str], Features] = {}

    def at(self, layer: int | None, pooling: str) -> Features:
        """Features of the same surrogate, kept in the same place, of another layer or pooling."""
        if (layer, pooling) == (self.layer, self.pooling):
            return self
        if (layer, pooling) not in self._others:
            self._others[layer, pooling] = Features(self.surrogate, self.path, layer, pooling)
        return self._others[layer, pooling]

    def frozen(self, max_tokens: int, output: Output = "class") -> Frozen:
        """The surrogate's own model, and what it makes of inputs, for methods that train beside it. Kept as
        long as `max_tokens` is the same: the next model on one U finds all of it. For an `output` of texts
        the model has its language model head around it.

        Raises:
            ModelError: texts, and the surrogate writes none.
        """
        from fute.surrogates.frozen import Frozen

        writer = self.surrogate.writer if output == "text" else None
        kept = self._frozen
        if kept is None or kept.max_tokens != max_tokens or kept.writer is not writer:
            model = self.surrogate.model if writer is None else writer.base_model
            kept = self._frozen = Frozen(self.surrogate, model, max_tokens, writer)
        return kept

    def copied(self, max_tokens: int, output: Output = "class") -> Frozen:
        """As `frozen`, by a fresh copy of the model in float32, which a method may change once it has made of
        inputs what it makes of them; that is kept for the next copy.
        """
        from fute.surrogates.frozen import Frozen, Kept

        if self._copies is None or self._copies[0] != max_tokens:
            self._copies = max_tokens, Kept()
        return Frozen.load(self.surrogate, max_tokens, output, self._copies[1])

    def __call__(self, inputs: Sequence[Input], progress: Progress = silent) -> Floats:
        """Pooled hidden states, each scaled to length 1: float32 (n, d).

        Raises:
            ConfigError: the surrogate has no such layer.
            ModelError: what it makes of a text is no number.
        """
        if self._last is not None and list(inputs) == self._last[0]:
            return self._last[1]
        missing = [item for item in dict.fromkeys(inputs) if item not in self._memory]
        places = {item: self._place(item) for item in missing}
        if self._store is not None and missing:
            stored = self._store.get(list(places.values()))
            found = {item: stored[place] for item, place in places.items() if place in stored}
            self._memory |= {item: np.frombuffer(value, dtype="<f4") for item, value in found.items()}
            missing = [item for item in missing if item not in found]
        batches = self.surrogate.by_tokens(missing)
        done = 0
        for first in range(0, len(batches), _AT_ONCE):
            some = batches[first : first + _AT_ONCE]
            fresh = dict(zip(itertools.chain(*some), itertools.chain(*self._encode(some)), strict=True))
            self._check(fresh)
            self._memory |= fresh
            if self._store is not None:
                self._store.put({places[item]: row.astype("<f4").tobytes() for item, row in fresh.items()})
            done += len(fresh)
            progress("features", done, len(missing))
        made = np.stack([self._memory[item] for item in inputs])
        made.flags.writeable = False  # the next model on these inputs gets the same array
        self._last = list(inputs), made
        return made

    @functools.cached_property
    def _identity(self) -> str:
        own = [_VERSION, *self.surrogate.identity]
        usual = (self.layer, self.pooling) == (-1, "mean")
        return digest(own if usual else [*own, self.layer, self.pooling])

    def _place(self, item: Input) -> str:
        # What was kept of "" under its plain key is no number where a tokenizer gives it no tokens.
        version = [] if item.text or item.text_pair else [_VERSION_OF_NOTHING]
        return digest([self._identity, item.key, *version])[:40]

    def _check(self, fresh: Mapping[Input, Floats]) -> None:
        for item, row in fresh.items():
            if not np.isfinite(row).all():
                raise ModelError(
                    f"the surrogate {self.surrogate.id} makes of a text what is no number",
                    found=f"of {item.text!r:.80}",
                    fix="`dtype: float32`, where it isn't, or another surrogate",
                )

    def of_texts(self, texts: Sequence[str]) -> Floats:
        """Features of plain texts, such as label names: float32 (n, d)."""
        return self([Input(text) for text in texts])

    def _encode(self, batches: Sequence[Sequence[Input]]) -> list[Floats]:
        import torch

        from fute.surrogates.side_by_side import side_by_side

        model = self.surrogate.model

        def read(tokens: Any) -> Floats:
            if self.layer == "each":
                layers = states_of_layers(model, tokens)
            else:
                layers = [states(model, tokens, self.layer)]
            pooled = (_POOLINGS[self.pooling](some, tokens["attention_mask"]) for some in layers)
            unit = [torch.nn.functional.normalize(some.float(), dim=-1) for some in pooled]
            together = torch.cat(unit, dim=-1) / len(unit) ** 0.5
            return np.asarray(together.cpu().numpy(), dtype=np.float32)

        tokens = [self.surrogate.tokenize(batch).to(model.device) for batch in batches]
        return side_by_side(read, tokens, device=model.device.type)
