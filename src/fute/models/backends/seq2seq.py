"""An encoder-decoder LLM on this machine: the encoder reads each prompt once, the decoder scores the
words.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fute.core.types import Floats
from fute.models.backends.base import LanguageModel
from fute.models.backends.packing import Question, TokenIds, batches
from fute.weights.load import load_seq2seq_lm

_BATCH_TOKENS = 2048


class Seq2SeqLM(LanguageModel):
    """T5, BART and their like. A word is scored as the beginning of the answer: no end token is asked for,
    so that words are compared as they are with a decoder-only LLM.
    """

    @functools.cached_property
    def _model(self) -> Any:
        return load_seq2seq_lm(self.weights, self.dtype, self.quantize)

    def encode_words(self, words: Sequence[str]) -> list[TokenIds]:
        """An answer begins its own text here, so a space before a word means nothing."""
        return self.encode([word.strip() for word in words], special_tokens=False)

    def score(self, items: Sequence[Sequence[Question]]) -> list[list[Floats]]:
        questions = [question for item in items for question in item]
        prompts = list(dict.fromkeys(question.prompt for question in questions))
        words: dict[TokenIds, list[TokenIds]] = {prompt: [] for prompt in prompts}
        for question in questions:
            words[question.prompt] += [w for w in question.words if w not in words[question.prompt]]
        scores: dict[tuple[TokenIds, TokenIds], float] = {}
        for batch in batches([len(prompt) for prompt in prompts], _BATCH_TOKENS):
            pairs = [(row, word) for row, i in enumerate(batch) for word in words[prompts[i]]]
            values = self._score_words([prompts[i] for i in batch], pairs)
            scores.update(
                {(prompts[batch[row]], word): value for (row, word), value in zip(pairs, values, strict=True)}
            )
        return [
            [np.array([scores[q.prompt, word] for word in q.words], dtype=np.float32) for q in item]
            for item in items
        ]

    def _score_words(self, prompts: Sequence[TokenIds], pairs: Sequence[tuple[int, TokenIds]]) -> list[float]:
        """log p(word | prompt) of (row of the prompt, word) pairs."""
        import torch

        device = self._model.device
        ids, mask = _padded(prompts, 0)
        targets, present = _padded([word for _, word in pairs], 0)
        start = self._model.config.decoder_start_token_id
        inputs = torch.cat([torch.full((len(pairs), 1), start), targets[:, :-1]], dim=1)
        rows = torch.tensor([row for row, _ in pairs])
        with torch.inference_mode():
            encoder = self._model.get_encoder()
            states = encoder(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
            logits = self._model(
                encoder_outputs=(states[rows.to(device)],),
                attention_mask=mask[rows].to(device),
                decoder_input_ids=inputs.to(device),
                use_cache=False,
            ).logits
            chosen = logits.float().log_softmax(-1).cpu().gather(-1, targets[..., None])[..., 0]
        return list(map(float, (chosen * present).sum(dim=1)))

    def _place(self, longest: int, length: int) -> slice:
        return slice(0, length)

    def _written_from(self, longest: int) -> int:
        return 1  # after the decoder's start


def _padded(rows: Sequence[TokenIds], pad: int) -> tuple[Any, Any]:
    """Rows of ids to the right of which is padding, and a mask of what is no padding; both int64."""
    import torch

    ids = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask
