"""Losses of answers that are no classes: a span of the input's second text, or a text of the model's own
words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fute.core.errors import ConfigError, DataError, ModelError
from fute.core.types import Examples, Input, Span
from fute.surrogates.adapters import Reach
from fute.surrogates.base import SHARPNESS, at_least_single, decoder_start, family, represent_tokens
from fute.surrogates.frozen import Frozen
from fute.weights.padding import pad

_FEWEST = 24  # tokens: fewer leave no room for a question and a window of its context
_NOTHING = -100  # cross-entropy leaves out what has this as its target


class Answers(Protocol):
    """What training asks of answers.

    Attributes:
        inputs: as they are read.
        head_start: the head before training; without elements where none is trained.
    """

    inputs: Sequence[Input]
    head_start: Tensor

    def losses(self, head: Tensor, rows: NDArray[np.int64], reach: Reach) -> Tensor:
        """The loss of each of these rows, (n,), of the model as it is now; `reach`: which of its states are
        not the frozen ones.
        """
        ...

    def sample(self, head: Tensor, rows: NDArray[np.int64], rng: np.random.Generator) -> None:
        """Put answers in these rows' place that the model itself gives.

        Raises:
            ConfigError: answers of this kind can't be sampled.
        """
        ...


class Spans:
    """Spans of contexts: `L_i = ½ (−log p(first token) − log p(last token))`, where p is the softmax of
    `h_firstᵀ r(x_i)_t` (and of `h_lastᵀ r(x_i)_t`) over the tokens t of the context and the input's very
    first token, to which no answer points; r is `represent_tokens`. The two rows of the head start as random
    directions of length 10, drawn from the seed.

    A context that is too long is read in the first of its windows (which overlap by a quarter) that holds the
    answer, a question keeping at most a third of the tokens.

    Args:
        frozen: Θ_T.
        examples: with spans as targets.
        seed: of the space.

    Raises:
        DataError: an input without a second text; an answer that isn't where it says.
        ConfigError: so few `max_tokens` that no context fits in.
        ModelError: the surrogate's tokenizer can't tell where in the text its tokens are.
    """

    def __init__(self, frozen: Frozen, examples: Examples, seed: int) -> None:
        self.frozen, self.tokenizer = frozen, frozen.surrogate.tokenizer
        self.max_tokens = frozen.surrogate.longest(frozen.max_tokens)
        if self.max_tokens < _FEWEST:
            raise ConfigError(f"spans need `max_tokens` ≥ {_FEWEST}", found=str(self.max_tokens))
        if not self.tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer of {frozen.surrogate.id} doesn't tell where its tokens are",
                fix="use a surrogate with a tokenizer.json, or `method: linear-probe`",
            )
        pairs = zip(examples.inputs, examples.targets, strict=True)
        cut = [self._window(item, _checked(item, answer)) for item, answer in pairs]
        self.inputs: Sequence[Input] = [item for item, _ in cut]
        self.spans = [span for _, span in cut]
        self.sampled: dict[int, tuple[int, int]] = {}
        size = (2, frozen.model.config.hidden_size)
        drawn = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        self.head_start = SHARPNESS * torch.nn.functional.normalize(drawn, dim=-1).to(frozen.model.device)

    def losses(self, head: Tensor, rows: NDArray[np.int64], reach: Reach) -> Tensor:
        logits, places = self._outputs(head, rows, reach)
        both = torch.nn.functional.cross_entropy(logits, places, reduction="none")
        return both.mean(-1)

    def sample(self, head: Tensor, rows: NDArray[np.int64], rng: np.random.Generator) -> None:
        shares = self._outputs(head, rows, "all")[0].double().softmax(1).cumsum(1).cpu().numpy()
        drawn = (rng.random((len(rows), 1, 2)) * shares[:, -1:] >= shares).sum(axis=1)
        self.sampled |= {int(row): (int(a), int(b)) for row, (a, b) in zip(rows, drawn, strict=True)}

    def read(self, rows: NDArray[np.int64]) -> tuple[Any, Tensor, Tensor]:
        """The tokens of these rows; which are the context's, bool (n, T); and the first and the last of the
        answer, int64 (n, 2), 0 where there is none.
        """
        inputs, spans = [self.inputs[i] for i in rows], [self.spans[i] for i in rows]
        tokens = self.frozen.surrogate.tokenize(inputs, self.max_tokens, offsets=True)
        inside = torch.tensor([[of == 1 for of in tokens.sequence_ids(i)] for i in range(len(rows))])
        return tokens, inside, _places(inside, tokens["offset_mapping"], spans)

    def _outputs(self, head: Tensor, rows: NDArray[np.int64], reach: Reach) -> tuple[Tensor, Tensor]:
        """Logits (n, T, 2), −∞ where no answer can begin or end, and the right places, (n, 2)."""
        inputs = [self.inputs[i] for i in rows]
        tokens, inside, places = self.read(rows)
        for place, row in zip(places, rows, strict=True):
            if int(row) in self.sampled:
                place[:] = torch.tensor(self.sampled[int(row)])
        inside[:, 0] = True
        model = self.frozen.model
        read = None
        if reach == "decoder" and family(model) == "encoder-decoder":
            read = self.frozen.encoded(inputs)[0]
        with torch.set_grad_enabled(torch.is_grad_enabled() and reach != "nothing"):
            states = represent_tokens(model, tokens.to(model.device), read)
        logits = (states @ head.T).masked_fill(~inside.to(states.device)[..., None], float("-inf"))
        return logits, places.to(states.device)

    def _window(self, item: Input, span: Span) -> tuple[Input, Span]:
        """The item as it is read, and the answer in it."""
        question, context = (
            self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            for text in (item.text, str(item.text_pair))
        )
        room = self.max_tokens - self.tokenizer.num_special_tokens_to_add(pair=True)
        if len(question) + len(context) <= room:
            return item, span
        room -= 2  # what is cut out of a text may have a token more than it had within
        asked = min(len(question), self.max_tokens // 3)
        size = room - asked
        firsts = range(0, max(1, len(context) - size // 4), size - size // 4) if context else ()
        windows = [(context[i][0], context[min(i + size, len(context)) - 1][1]) for i in firsts] or [(0, 0)]
        last = span.start + len(span.text)
        begun = [(begin, end) for begin, end in windows if begin <= max(span.start, 0)]
        begin, end = next(((b, e) for b, e in begun if last <= e), begun[-1])
        cut = replace(
            item,
            text=item.text[: question[asked - 1][1]] if asked else item.text,
            text_pair=str(item.text_pair)[begin:end],
        )
        return cut, span if span.start < 0 else Span(span.text[: end - span.start], span.start - begin)


def _checked(item: Input, answer: Any) -> Span:
    if item.text_pair is None:
        raise DataError(
            "a span needs a context to lie in",
            expected="inputs with a question and a context",
            found=f"{item.text!r:.80} alone",
            fix="set `text_pair: COLUMN`",
        )
    if not answer.text:
        return Span("", -1)
    found = item.text_pair[answer.start : answer.start + len(answer.text)] if answer.start >= 0 else ""
    if found != answer.text:
        raise DataError(
            "an answer isn't in its context where it says",
            expected=f"{answer.text!r:.80} from character {answer.start} on",
            found=f"{found!r:.80}",
        )
    return Span(*answer)


def _places(inside: Tensor, offsets: Tensor, spans: Sequence[Span]) -> Tensor:
    """The first and the last token of each answer, int64 (n, 2); 0 where there is none.

    Args:
        inside: (n, T), whether a token is one of the context.
        offsets: (n, T, 2), where in its text each begins and ends.
        spans: n answers.
    """
    places = torch.zeros(len(spans), 2, dtype=torch.long)
    for i, span in enumerate(spans):
        touched = inside[i] & (offsets[i, :, 1] > span.start)
        touched &= offsets[i, :, 0] < span.start + len(span.text)
        found = touched.nonzero()[:, 0]
        if span.start >= 0 and len(found):
            places[i] = found[[0, -1]]
    return places


class Texts:
    """Texts: `L_i = −(1/T) Σ_t log p(y_it | y_i<t, x_i)` over the T tokens of the answer and its end, through
    the model's own language model head. An encoder-decoder writes behind its decoder's start; a decoder
    behind the input's tokens and a line break. The mean, so that a long answer counts no more than a short
    one.

    Of `max_tokens` an answer keeps at most half; of a decoder the input has what is left.

    Args:
        frozen: Θ_T, with its writer.
        examples: with texts as targets.
    """

    def __init__(self, frozen: Frozen, examples: Examples) -> None:
        self.frozen, self.tokenizer, self.inputs = frozen, frozen.surrogate.tokenizer, examples.inputs
        self.max_tokens = frozen.surrogate.longest(frozen.max_tokens)
        self.head_start = torch.empty(0)
        config = frozen.model.config
        ends = [self.tokenizer.eos_token_id, self.tokenizer.sep_token_id, config.eos_token_id]
        end = [token for token in ends if isinstance(token, int)][:1]
        own = self.tokenizer(examples.texts, add_special_tokens=False)["input_ids"]
        most = max(1, self.max_tokens // 2 - len(end))
        self.answers = [[*ids[:most], *end] for ids in own]
        if not end and not all(own):
            raise DataError(
                "an answer is empty", fix="leave such rows out: this surrogate knows no end token"
            )

    def losses(self, head: Tensor, rows: NDArray[np.int64], reach: Reach) -> Tensor:
        inputs, answers = [self.inputs[i] for i in rows], [self.answers[i] for i in rows]
        write = self._behind_start if family(self.frozen.model) == "encoder-decoder" else self._behind_input
        logits, targets = write(inputs, answers, reach)
        logits = logits.to(at_least_single(logits.dtype)).transpose(1, 2)
        each = torch.nn.functional.cross_entropy(logits, targets, ignore_index=_NOTHING, reduction="none")
        return each.sum(-1) / (targets != _NOTHING).sum(-1)

    def sample(self, head: Tensor, rows: NDArray[np.int64], rng: np.random.Generator) -> None:
        raise ConfigError("task-emb: answers that are texts can't be sampled", fix="`targets: given`")

    def _behind_start(
        self, inputs: Sequence[Input], answers: Sequence[list[int]], reach: Reach
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, T, V) of an encoder-decoder and the right tokens (n, T)."""
        writer = self.frozen.writer
        begin = [decoder_start(writer)]
        forced = getattr(writer.generation_config, "forced_bos_token_id", None)
        begin += [forced] if forced is not None else []  # what BART's kind always writes first
        ids, mask = pad([[*begin, *answer[:-1]] for answer in answers], 0)
        targets, _ = pad([[_NOTHING] * (len(begin) - 1) + answer for answer in answers], _NOTHING)
        if reach == "decoder":
            states, read_mask = self.frozen.encoded(inputs)
            given = {"encoder_outputs": (states,), "attention_mask": read_mask}
        else:
            tokens = self.frozen.surrogate.tokenize(inputs, self.max_tokens)
            given = {name: tokens[name].to(writer.device) for name in ("input_ids", "attention_mask")}
        logits = writer(
            **given,
            decoder_input_ids=ids.to(writer.device),
            decoder_attention_mask=mask.to(writer.device),
            use_cache=False,
        ).logits
        return logits, targets.to(logits.device)

    def _behind_input(
        self, inputs: Sequence[Input], answers: Sequence[list[int]], reach: Reach
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, T, V) of a decoder, from the first place on where an answer is, and the right tokens."""
        writer = self.frozen.writer
        tokens = self.frozen.surrogate.tokenize(inputs, self.max_tokens)
        between = self.tokenizer("\n", add_special_tokens=False)["input_ids"]
        whole, wanted = [], []
        for ids, mask, answer in zip(
            tokens["input_ids"].tolist(), tokens["attention_mask"].tolist(), answers, strict=True
        ):
            room = max(1, self.max_tokens - len(answer) - len(between))
            begin = [token for token, there in zip(ids, mask, strict=True) if there][:room] + between
            whole.append([*begin, *answer])
            wanted.append([_NOTHING] * (len(begin) - 1) + answer + [_NOTHING])
        ids, mask = pad(whole, 0)
        targets, _ = pad(wanted, _NOTHING)
        kept = (targets != _NOTHING).any(0).nonzero()[:, 0]
        logits = writer(
            input_ids=ids.to(writer.device),
            attention_mask=mask.to(writer.device),
            use_cache=False,
            logits_to_keep=kept.to(writer.device),
        ).logits
        return logits, targets[:, kept].to(logits.device)
