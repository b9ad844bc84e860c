"""What a frozen surrogate makes of an input: the same in every step, so it is made once and kept."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fute.core.types import Input, Output
from fute.surrogates.base import Surrogate, represent, states
from fute.surrogates.side_by_side import side_by_side
from fute.surrogates.stack import resumed, states_below

Item = tuple[str, Input]
_MOST_KEPT = 4 << 30  # bytes


class Kept(dict[Item, Tensor]):
    """What was made of inputs, as far as there is room. The first ones stay: each model reads the inputs in
    the same order, so if later ones took their place it would find none.
    """

    bytes = 0
    is_full = False

    def add(self, fresh: Mapping[Item, Tensor]) -> None:
        for item, tensor in fresh.items():
            if self.bytes + tensor.nbytes > _MOST_KEPT:
                self.is_full = True
            else:
                self[item] = tensor
                self.bytes += tensor.nbytes

    def make_room(self, inputs: Sequence[Input]) -> None:
        """Forget what isn't about these inputs, which come now, if not all had room."""
        if self.is_full:
            coming = set(inputs)
            for item in [item for item in self if item[1] not in coming]:
                self.bytes -= self.pop(item).nbytes
            self.is_full = False


class Frozen:
    """Encoder states and representations by one copy of a surrogate's model.

    Args:
        surrogate: reads the inputs.
        model: a copy of it that nothing trains.
        max_tokens: longer inputs are cut.
        writer: the model with its language model head around it, where texts are to be written.
        kept: what another one, of the same weights and as precise, has made; it is added to.
    """

    def __init__(
        self, surrogate: Surrogate, model: Any, max_tokens: int, writer: Any = None, kept: Kept | None = None
    ) -> None:
        self.surrogate, self.model, self.max_tokens, self.writer = surrogate, model, max_tokens, writer
        self.kept = Kept() if kept is None else kept
        self._ahead: dict[Item, Tensor] = {}

    @classmethod
    def load(cls, surrogate: Surrogate, max_tokens: int, output: Output, kept: Kept | None = None) -> Frozen:
        """With a fresh copy of the model, in float32, that can learn answers of this kind.

        Raises:
            ModelError: texts, and the surrogate writes none.
        """
        if output != "text":
            return cls(surrogate, surrogate.load("float32"), max_tokens, None, kept)
        writer = surrogate.load_writer("float32")
        return cls(surrogate, writer.base_model, max_tokens, writer, kept)

    def representations(self, inputs: Sequence[Input]) -> Tensor:
        """`represent` of each: float32 (n, d)."""
        return torch.stack(
            self._of("representation", inputs, lambda tokens: list(represent(self.model, tokens)))
        )

    def read_ahead(self, inputs: Sequence[Input]) -> None:
        """Make the encoder states that `encoded` will be asked for: of many inputs at once, for then there
        are more of each length. They stay until the next are.
        """
        made = self._states("states", inputs, functools.partial(states, self.model))
        self._ahead = {("states", item): row for item, row in zip(inputs, made, strict=True)}

    def encoded(self, inputs: Sequence[Input]) -> tuple[Tensor, Tensor]:
        """An encoder-decoder's encoder states, padded: (n, T, d), and their mask, int64 (n, T)."""
        rows = self._states("states", inputs, functools.partial(states, self.model))
        sizes = torch.tensor([len(row) for row in rows], device=rows[0].device)
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return padded, (torch.arange(padded.shape[1], device=sizes.device) < sizes[:, None]).long()

    def resumed(self, inputs: Sequence[Input], below: int) -> contextlib.AbstractContextManager[None]:
        """While this is open, the model reads these inputs, together, from what its first `below` layers made
        of them: these are run once for each input.
        """
        if not below:
            return contextlib.nullcontext()
        made = functools.partial(states_below, self.model, below=below)  # which changes the model meanwhile
        rows = self._states(f"below {below}", inputs, made, most=1)
        return resumed(self.model, below, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))

    def _states(
        self, what: str, inputs: Sequence[Input], made: Callable[[Any], Tensor], most: int | None = None
    ) -> list[Tensor]:
        def read(tokens: Any) -> list[Tensor]:
            sizes = tokens["attention_mask"].sum(1).tolist()
            return [row[:size].clone() for row, size in zip(made(tokens), sizes, strict=True)]

        return self._of(what, inputs, read, most)

    def _of(
        self,
        what: str,
        inputs: Sequence[Input],
        read: Callable[[Any], list[Tensor]],
        most: int | None = None,
    ) -> list[Tensor]:
        known = ChainMap(self._ahead, self.kept)
        missing = [item for item in dict.fromkeys(inputs) if (what, item) not in known]
        batches = self.surrogate.by_tokens(missing, self.max_tokens)
        tokens = [self.surrogate.tokenize(some, self.max_tokens).to(self.model.device) for some in batches]
        made = side_by_side(read, tokens, most, self.model.device.type)
        rows = itertools.chain.from_iterable(made)
        fresh = {(what, item): row for item, row in zip(itertools.chain(*batches), rows, strict=True)}
        self.kept.add(fresh)
        return [fresh[what, item] if (what, item) in fresh else known[what, item] for item in inputs]
