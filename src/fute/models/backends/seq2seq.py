"""An encoder-decoder LLM on this machine: the encoder reads each prompt once, the decoder scores the
words.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fute.core.batching import cheapest_batches
from fute.core.errors import ModelError
from fute.core.types import Floats
from fute.models.backends.base import LanguageModel, begun
from fute.models.backends.packing import Question, TokenIds
from fute.weights.load import load_seq2seq_lm

_BATCH_TOKENS = 2048
_DECODER_TOKENS = 512  # that are decoded at once: bounds the (tokens, vocabulary) matrix


class Seq2SeqLM(LanguageModel):
    """T5, BART and their like. A word is scored as the beginning of the answer: no end token is asked for,
    so that words are compared as they are with a decoder-only LLM.
    """

    writes_apart: ClassVar[bool] = True

    @functools.cached_property
    def _model(self) -> Any:
        model = load_seq2seq_lm(self.weights, self.dtype, self.quantize)
        # The output head in float32: bfloat16 logits are only good to 0.1 nats.
        head = copy.deepcopy(model.get_output_embeddings()).float()
        head.register_forward_pre_hook(lambda _, states: (states[0].float(),))
        model.set_output_embeddings(head)
        return model

    @functools.cached_property
    def _beginning(self) -> TokenIds:
        """What the decoder has read before it writes: its start, and the token that BART's kind always
        writes first.

        Raises:
            ModelError: the weights don't say how their decoder starts.
        """
        own, config = self._model.generation_config, self._model.config
        starts = own.decoder_start_token_id, getattr(config, "decoder_start_token_id", None), own.bos_token_id
        start = next((token for token in starts if token is not None), None)
        if start is None:
            raise ModelError(
                f"{self.weights.id} doesn't tell the token that its decoder starts with",
                fix="set `decoder_start_token_id` in its config.json",
            )
        return (start,) if own.forced_bos_token_id is None else (start, own.forced_bos_token_id)

    def encode_words(self, words: Sequence[str]) -> list[TokenIds]:
        """An answer begins its own text here, so a space before a word means nothing."""
        return self.encode([word.strip() for word in words], special_tokens=False)

    def score(self, items: Sequence[Sequence[Question]]) -> list[list[Floats]]:
        items = [[Question(begun(q.prompt, self), q.words) for q in item] for item in items]
        questions = [question for item in items for question in item]
        prompts = list(dict.fromkeys(question.prompt for question in questions))
        words: dict[TokenIds, list[TokenIds]] = {prompt: [] for prompt in prompts}
        for question in questions:
            words[question.prompt] += [w for w in question.words if w not in words[question.prompt]]
        scores: dict[tuple[TokenIds, TokenIds], float] = {}
        for batch in cheapest_batches([len(prompt) for prompt in prompts], _BATCH_TOKENS):
            pairs = [(row, word) for row, i in enumerate(batch) for word in words[prompts[i]]]
            values = self._score_words([prompts[i] for i in batch], pairs)
            scores.update(
                {(prompts[batch[row]], word): value for (row, word), value in zip(pairs, values, strict=True)}
            )
        return [
            [np.array([scores[q.prompt, word] for word in q.words], dtype=np.float32) for q in item]
            for item in items
        ]

    def log_likelihoods(self, texts: Sequence[TokenIds]) -> Floats:
        raise ModelError(
            f"{self.weights.id} is an encoder-decoder: it gives no probability to the prompts that it reads",
            expected="a decoder-only LLM, for perplexities",
        )

    def _score_words(self, prompts: Sequence[TokenIds], pairs: Sequence[tuple[int, TokenIds]]) -> list[float]:
        """log p(word | prompt) of (row of the prompt, word) pairs."""
        import torch

        from fute.weights.padding import pad

        ids, mask = (x.to(self._model.device) for x in pad(prompts, 0))
        size = max(1, _DECODER_TOKENS // (len(self._beginning) + max(len(word) for _, word in pairs)))
        with torch.inference_mode():
            states = self._model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            return [
                value
                for i in range(0, len(pairs), size)
                for value in self._decode(states, mask, pairs[i : i + size])
            ]

    def _decode(self, states: Any, mask: Any, pairs: Sequence[tuple[int, TokenIds]]) -> list[float]:
        """As `_score_words`, from the encoder's states (prompts, longest, width) and their mask."""
        import torch

        from fute.weights.padding import pad

        device = self._model.device
        targets, present = pad([word for _, word in pairs], 0)
        inputs, _ = pad([(*self._beginning, *word[:-1]) for _, word in pairs], 0)
        rows = torch.tensor([row for row, _ in pairs], device=device)
        logits = self._model(
            encoder_outputs=(states[rows],),
            attention_mask=mask[rows],
            decoder_input_ids=inputs.to(device),
            use_cache=False,
        ).logits[:, len(self._beginning) - 1 :]
        chosen = logits.float().log_softmax(-1).cpu().gather(-1, targets[..., None])[..., 0]
        return list(map(float, (chosen * present).sum(dim=1)))

    def _place(self, longest: int, length: int) -> slice:
        return slice(0, length)

    def _written_from(self, longest: int) -> int:
        return 1  # after the decoder's start
