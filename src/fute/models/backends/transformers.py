"""A causal LM on this machine: log-probabilities of words after prompts, without generating."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fute.core.batching import cheapest_batches
from fute.core.errors import ModelError
from fute.core.types import Floats
from fute.models.backends.base import LanguageModel, Written, begun
from fute.models.backends.packing import (
    LEAST_SAVED,
    Question,
    TokenIds,
    TokenTree,
    build_tree,
    group_by_beginning,
    share_beginnings,
)
from fute.models.backends.rows import FULL, SLIDING, masks_by_kind, positions_and_mask, tokens_of
from fute.weights.load import compile_layers, load_causal_lm

_BATCH_TOKENS = 4096
_PAD_TO = 16  # tokens: PyTorch's attention to other numbers is up to 1.5 times slower on CPUs
_BEGINNINGS = 16  # whose keys and values are kept


@functools.cache
def _read_only() -> type:
    """The class of caches that a model reads what it has kept from and never adds to."""
    import torch
    from transformers import DynamicCache

    class ReadOnly(DynamicCache):  # type: ignore[misc]  # transformers has no types
        def __init__(self, layers: Sequence[tuple[Any, Any]]) -> None:
            super().__init__(layers)
            # Each one tensor (layers, 1, heads, tokens, width): compiled layers needn't know their number.
            self.own_keys, self.own_values = (torch.stack(side) for side in zip(*layers, strict=True))

        def update(self, keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
            shape = len(keys), -1, -1, -1
            return (
                torch.cat([self.own_keys[layer].expand(shape), keys], dim=-2),
                torch.cat([self.own_values[layer].expand(shape), values], dim=-2),
            )

    return ReadOnly


class CausalLM(LanguageModel):
    """A decoder-only LLM."""

    @functools.cached_property
    def _model(self) -> Any:
        model = load_causal_lm(self.weights, self.dtype, self.quantize)
        if self.compile:
            compile_layers(model)
        return model

    @property
    def _decoder(self) -> Any:
        """The model without its output head."""
        base = self._model.base_model
        return base if base is not self._model else self._model.model  # Llama 4 misnames its own

    @functools.cached_property
    def _head(self) -> Any:
        """The output head.

        Raises:
            ModelError: the architecture does more after its last state than a matrix product.
        """
        import torch

        from fute.weights.head import Head

        head = Head(self._model.get_output_embeddings())
        with torch.inference_mode(), self._uncompiled():
            ids = torch.arange(4, device=self._model.device)[None]
            own = self._model(ids, use_cache=False).logits.float()
            ours = head.logits(self._decoder(ids, use_cache=False).last_hidden_state)
        if not torch.allclose(own, ours, atol=0.02 * float(own.abs().max()) + 1e-3):
            raise ModelError(
                f"{self.weights.id}: this architecture ({self._model.config.model_type}) changes its logits "
                "after the output head, which fute doesn't support yet"
            )
        return head

    def score(self, items: Sequence[Sequence[Question]]) -> list[list[Floats]]:
        """As `LanguageModel.score`. Questions of one item that begin alike are read together, unless the
        model can't (`_packs`) or they are too long for it (`_bounds`), and what many items begin with is read
        once; equal to scoring each alone, up to rounding.
        """
        items = [[Question(begun(q.prompt, self), q.words) for q in questions] for questions in items]
        alone = [not self._packs or self._is_beyond(questions) for questions in items]
        each = [
            [chain]
            for questions, apart in zip(items, alone, strict=True)
            for q in (questions if apart else ())
            for chain in _chains(q)
        ]
        chains = iter(self._score(each))
        packed = iter(self._score([q for q, apart in zip(items, alone, strict=True) if not apart]))
        return [
            [np.concatenate([next(chains)[0] for _ in _chains(q)]) for q in questions]
            if apart
            else next(packed)
            for questions, apart in zip(items, alone, strict=True)
        ]

    def _score(self, items: Sequence[Sequence[Question]]) -> list[list[Floats]]:
        trees, owners = _plant(items)
        results: list[list[Floats]] = [[np.empty(0, np.float32)] * len(questions) for questions in items]
        for shared, chosen in self._passes(trees):
            scored = self._score_trees([trees[i] for i in chosen], shared)
            for index, scores in zip(chosen, scored, strict=True):
                number, group = owners[index]
                for question, values in zip(group, scores, strict=True):
                    results[number][question] = values
        return results

    def log_likelihoods(self, texts: Sequence[TokenIds]) -> Floats:
        short = next((text for text in texts if len(text) < 2), None)
        if short is not None:
            raise ModelError(
                "a text without a token that follows another has no perplexity",
                expected="at least two tokens",
                found=repr(self.tokenizer.decode(short)),
            )
        sums = self.score([[Question(text[:1], (text[1:],))] for text in texts])
        return np.array(
            [one[0][0] / (len(text) - 1) for one, text in zip(sums, texts, strict=True)], np.float32
        )

    def _passes(self, trees: Sequence[TokenTree]) -> list[tuple[int, list[int]]]:
        """The trees in batches, by their indices, each with the number of first tokens that is kept."""
        shares = share_beginnings(trees) if self._keeps else [(0, list(range(len(trees))))]
        return [
            (shared, [members[i] for i in batch])
            for shared, members in shares
            for batch in cheapest_batches([len(trees[i]) - shared for i in members], _BATCH_TOKENS)
        ]

    def _score_trees(self, trees: Sequence[TokenTree], shared: int) -> list[list[Floats]]:
        import torch

        wanted = [
            (row, node - shared, token)
            for row, tree in enumerate(trees)
            for q in tree.edges
            for word in q
            for node, token in word
        ]
        nodes = sorted({(row, node) for row, node, _ in wanted})
        place = {node: i for i, node in enumerate(nodes)}
        target = torch.tensor([place[row, node] for row, node, _ in wanted])
        tokens = torch.tensor([token for _, _, token in wanted])
        with torch.inference_mode():
            states = self._states(trees, shared)
            rows, columns = torch.tensor(nodes).T
            chosen = states[rows.to(states.device), columns.to(states.device)]
            values = self._head.log_probabilities(chosen, target, tokens)
        edge_scores = iter(values.tolist())
        return [
            [
                np.array([sum(next(edge_scores) for _ in word) for word in q], dtype=np.float32)
                for q in tree.edges
            ]
            for tree in trees
        ]

    @functools.cached_property
    def _bounds(self) -> tuple[float, float]:
        """How many tokens one prompt, and how many a packed sequence may have for its own mask and positions
        to say all that its tokens see: layers may look at a chunk of what stands before them only, and may
        count along the row how far they see.
        """
        config = self._model.config
        reaches = [getattr(config, "attention_chunk_size", None)]
        if not self._kinds <= {FULL, SLIDING}:
            reaches.append(self._window)
        rows = [getattr(config, "window_size", None)]  # of GPT-Neo
        if getattr(config, "attn_temperature_tuning", False):  # of Llama 4
            rows.append(config.floor_scale - 1)
        prompt, row = (min((n for n in part if n), default=math.inf) for part in (reaches, rows))
        return prompt, row

    @property
    def _window(self) -> int | None:
        return getattr(self._model.config, "sliding_window", None)

    @functools.cached_property
    def _kinds(self) -> set[str]:
        """How its layers attend, by transformers' names."""
        named = getattr(self._model.config, "layer_types", None)
        if named or not self._window:
            return set(named or [FULL])
        # All are alike then, but a config may also tell of a window that no layer has.
        made_by = sys.modules[type(self._decoder).__module__]
        return {SLIDING if hasattr(made_by, "create_sliding_window_causal_mask") else "unknown"}

    def _is_beyond(self, questions: Sequence[Question]) -> bool:
        longest = max((len(q.prompt) + max(map(len, q.words)) - 1 for q in questions), default=0)
        together = sum(len(q.prompt) + sum(len(word) - 1 for word in q.words) for q in questions)
        return longest > self._bounds[0] or together > self._bounds[1]

    def _states(self, trees: Sequence[TokenTree], shared: int, past: Any = None) -> Any:
        """Last hidden states (trees, longest rest, width) of all tokens but the first, `shared` ones. `past`,
        a cache that begins with those, takes the keys and values of the others.
        """
        import torch

        from fute.weights.attention import FUSED, IMPLEMENTATION

        attention = self._model.config._attn_implementation
        sizes = [len(tree) - shared for tree in trees]
        pad_to = 1 if attention == IMPLEMENTATION else _PAD_TO
        longest = -(-max(sizes) // pad_to) * pad_to
        if self.room is not None:  # there is no place for padding behind the last
            longest = max(max(sizes), min(longest, self.room - shared))
        device = self._model.device
        ids = tokens_of(trees, shared, longest).to(device)
        if not shared and all(tree.is_chain for tree in trees):
            # Padding stands to the right, where causal attention never looks: no mask needed.
            return self._body(ids, past)
        positions, mask = positions_and_mask(trees, shared, longest)
        masks = masks_by_kind(positions, mask, self._kinds, self._window)
        if attention not in FUSED:  # others add the mask to their scores
            low = torch.finfo(self._model.dtype).min
            masks = {kind: torch.where(m, 0.0, low).to(self._model.dtype) for kind, m in masks.items()}
        masks = {kind: m.to(device) for kind, m in masks.items()}
        given = {
            "attention_mask": masks if len(masks) > 1 else next(iter(masks.values())),
            "position_ids": positions[:, shared:].to(device),
        }
        if shared and past is None:
            past = self._begin(tuple(trees[0].tokens[:shared]))
        return self._body(ids, past, **given)

    def _body(self, ids: Any, past: Any, **given: Any) -> Any:
        if past is not None:
            given["past_key_values"] = past
        return self._decoder(ids, **given, use_cache=past is not None).last_hidden_state

    def _uncompiled(self) -> contextlib.AbstractContextManager[Any]:
        """Run layers as they are: one row, and keys and values that grow, would each be compiled for."""
        import torch

        return torch.compiler.set_stance("force_eager") if self.compile else contextlib.nullcontext()

    @functools.cached_property
    def _memory(self) -> list[type] | None:
        """The kinds of what each layer keeps of what it has read; None where that is no `DynamicCache`."""
        import torch
        from transformers import DynamicCache

        with torch.inference_mode(), self._uncompiled():
            read = self._decoder(torch.arange(4, device=self._model.device)[None], use_cache=True)
        kept = read.get("past_key_values", read.get("cache_params"))
        return [type(layer) for layer in kept.layers] if isinstance(kept, DynamicCache) else None

    @property
    def _continues(self) -> bool:
        """RWKV's own kind of state, handed on, gives other logits than reading anew (transformers 5.23)."""
        return self._memory is not None

    @functools.cached_property
    def _packs(self) -> bool:
        """Whether a token stands where it is told and sees what its mask shows. Not so where distances are
        counted along the row (ALiBi), or where a state goes from token to token (Mamba, RWKV): these read
        every prompt with one word after it alone.
        """
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        takes = inspect.signature(self._decoder.forward).parameters
        return (
            "position_ids" in takes
            and not getattr(self._model.config, "alibi", False)
            and set(self._memory or [object]) <= {DynamicLayer, DynamicSlidingWindowLayer}
        )

    @property
    def _keeps(self) -> bool:
        """Whether keys and values of a beginning say all about it."""
        if not self._packs:
            return False
        return self._bounds == (math.inf, math.inf) and self._kinds <= {FULL, SLIDING}

    @functools.cached_property
    def _begin(self) -> Callable[[TokenIds], Any]:
        """The keys and values of a beginning, as a cache that the model reads from and never adds to."""
        return functools.lru_cache(_BEGINNINGS)(self._read_beginning)

    def _read_beginning(self, tokens: TokenIds) -> Any:
        import torch
        from transformers import DynamicCache

        ids = torch.tensor([tokens], device=self._model.device)
        with self._uncompiled():
            read = self._decoder(ids, past_key_values=DynamicCache(), use_cache=True).past_key_values
        return _read_only()([(layer.keys, layer.values) for layer in read.layers])

    def _write(self, units: Sequence[Sequence[TokenIds]], max_new_tokens: int) -> list[Written]:
        with self._uncompiled():
            if self._packs:
                return super()._write(units, max_new_tokens)
            # Without padding: not all of these know what a mask is.
            prompts = [prompt for unit in units for prompt in unit]
            rows = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
            written: dict[int, Written] = {}
            for _, same in itertools.groupby(rows, key=lambda row: len(prompts[row])):
                part = list(same)
                found = super()._write([[prompts[row] for row in part]], max_new_tokens)
                written.update(zip(part, found, strict=True))
            return [written[row] for row in range(len(prompts))]

    def _read_before(self, units: Sequence[Sequence[TokenIds]], length: int) -> Any:
        """As `LanguageModel._read_before`, where enough is read once for several prompts to be worth it."""
        from transformers import DynamicCache

        # A word stands for what will be written: it would be read at the prompt's end.
        trees, owners = _plant([[Question(begun(p, self), ((0,),)) for p in unit] for unit in units])
        passes = self._passes(trees)
        whole = sum(len(prompt) for unit in units for prompt in unit)
        read = sum(len(trees[i]) - shared for shared, chosen in passes for i in chosen)
        if not self._keeps or whole - read < LEAST_SAVED:
            return None
        first = [0, *itertools.accumulate(map(len, units))]  # row of each unit
        layers: list[tuple[Any, Any]] = []
        for shared, chosen in passes:
            past = self._growing(tuple(trees[chosen[0]].tokens[:shared]), len(chosen))
            self._states([trees[i] for i in chosen], shared, past)
            rows = [first[number] + i for number, group in (owners[t] for t in chosen) for i in group]
            paths = [
                (at, trees[t].path(q[0][0][0])[:-1]) for at, t in enumerate(chosen) for q in trees[t].edges
            ]
            layers = layers or _empty(past, first[-1], length)
            _copy(past, paths, layers, rows)
        return DynamicCache(layers)

    def _growing(self, beginning: TokenIds, rows: int) -> Any:
        """A cache of as many rows that begin with these tokens; more can be added to it."""
        from transformers import DynamicCache

        if not beginning:
            return DynamicCache()
        kept, shape = self._begin(beginning), (rows, -1, -1, -1)
        pairs = zip(kept.own_keys, kept.own_values, strict=True)
        return DynamicCache([(keys.expand(shape), values.expand(shape)) for keys, values in pairs])

    def _place(self, longest: int, length: int) -> slice:
        return slice(longest - length, longest)  # an LLM writes on at the right end

    def _written_from(self, longest: int) -> int:
        return longest


def _chains(question: Question) -> list[Question]:
    """The question in parts whose tokens stand in one row: words that go on after a token part there."""
    if all(len(word) == 1 for word in question.words):
        return [question]
    return [Question(question.prompt, (word,)) for word in question.words]


def _plant(items: Sequence[Sequence[Question]]) -> tuple[list[TokenTree], list[tuple[int, list[int]]]]:
    """Trees of those questions of each item that begin alike, and whose they are: (item, its questions)."""
    trees: list[TokenTree] = []
    owners: list[tuple[int, list[int]]] = []
    for number, questions in enumerate(items):
        for group in group_by_beginning([q.prompt for q in questions]):
            trees.append(build_tree([questions[i] for i in group]))
            owners.append((number, group))
    return trees, owners


def _empty(cache: Any, rows: int, length: int) -> list[tuple[Any, Any]]:
    """Keys and values as the cache's, but of so many rows and tokens."""

    def zeros(states: Any) -> Any:
        return states.new_zeros(rows, states.shape[1], length, states.shape[3])

    return [(zeros(layer.keys), zeros(layer.values)) for layer in cache.layers]


def _copy(
    cache: Any,
    paths: Sequence[tuple[int, Sequence[int]]],
    layers: Sequence[tuple[Any, Any]],
    rows: Sequence[int],
) -> None:
    """Copy from the cache what stands along each path (row of the cache, columns) to the right end of a row
    of the layers.
    """
    import torch

    source = torch.tensor([[row] for row, _ in paths])
    columns = torch.zeros(len(paths), layers[0][0].shape[2], dtype=torch.long)
    for i, (_, path) in enumerate(paths):
        columns[i, columns.shape[1] - len(path) :] = torch.tensor(path)
    for own, layer in zip(layers, cache.layers, strict=True):
        for into, states in zip(own, (layer.keys, layer.values), strict=True):
            into[rows] = states[source, :, columns].transpose(1, 2)
