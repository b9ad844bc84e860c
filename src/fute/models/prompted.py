"""A local LLM with a prompt: one black box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from fute.core.errors import ConfigError, ModelError
from fute.core.hashing import digest
from fute.core.native import has_compiler
from fute.core.runtime import choose_dtype
from fute.core.types import Answer, Answers, Failure, Floats, Input
from fute.models.backends.base import LanguageModel, Written
from fute.models.backends.language_model import language_model
from fute.models.backends.packing import Question, TokenIds
from fute.models.backends.scores import by_marginalisation, contextual, domain_pmi, label_scores, softmax
from fute.models.base import BlackBox, Usage
from fute.models.prompting import PromptSection
from fute.models.section import Here
from fute.text.prompt import Prompt, Reasoning, Shot, Turn
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer, check_distinct
from fute.weights.amx import may_take
from fute.weights.load import is_encoder_decoder, model_type
from fute.weights.locate import locate

Calibration = Literal["contextual", "domain", "marginal"]
# Inputs without content, of Zhao et al. 2021: what the model says to them is its bias.
_NEUTRAL = ("N/A", "[MASK]", "")


class PromptedLLM(BlackBox):
    """LLM + prompt. A label's score is the log-probability of its words after the prompt.

    `p(label | x) ∝ Σ_w p(w | prompt(x))` over the label's words w, with `p(w | …)` the product over the
    word's tokens. Nothing is generated, unless `answer` is "generate" or the prompt asks for reasoning.

    Args:
        llm: `pkg:NAME`, `hf:org/name`, a model folder or a `.gguf` file: decoder-only or encoder-decoder.
        template: Jinja; `{{ text }}` is the input, `{{ text_pair }}` a pair's second text, `{{ options }}` a
            list of answers to choose from. Or a whole `Prompt`, which then brings labels, system, shots and
            reasoning.
        labels: for each label its word, or several. `" good"` and `"good"` differ: after a plain prompt
            words usually begin with a space, after a chat template they don't.
        name: what rankings call it; by default the template.
        chat: wrap the prompt as a user's turn in the model's chat template.
        system: a system prompt: a turn of its own in a chat, else the prompt's beginning.
        shots: in-context examples.
        reasoning: chain of thought: the LLM writes its reasons, then is asked for the label.
        answer: "score" (log-probabilities of the words) or "generate" (what the LLM writes, greedily, is
            parsed by the verbalizer into a hard label; an answer that names no label is a `Failure`).
        normalise: a word's score is the "sum" of its tokens' log-probabilities, or their "mean".
        pool: a label's score is the "logsumexp" of its words', or their "max".
        calibrate: None, "contextual" (divide by the answer to content-free inputs; Zhao et al. 2021,
            doi:10.48550/arXiv.2102.09690), "domain" (divide by the words' probability after `domain` alone;
            PMI_DC, Holtzman et al. 2021, doi:10.18653/v1/2021.emnlp-main.564) or "marginal" (divide by the
            mean over the inputs; Yang et al. 2024, doi:10.1162/tacl_a_00666).
        domain: the text that stands alone for `calibrate="domain"`, such as "Sentiment:".
        max_tokens: longer prompts are made to fit by cutting the text (never the template); so are those that
            leave no room in the LLM for what follows them.
        max_new_tokens: of a generated answer.
        dtype: "auto" (bfloat16 where the CPU is fast at it), "float32" or "bfloat16".
        quantize: None, "8bit" or "4bit".
        compile: less time for each text that is scored. Llama's layers in bfloat16 on a CPU with AMX take a
            second to compile; others are fused by `torch.compile`: half a minute when it first runs (seconds
            from then on). Needs a C++ compiler.

    Raises:
        ConfigError: bad template or verbalizer, or options that exclude each other.
        MissingError: the LLM isn't on this machine, or nothing here can quantise.
    """

    kind = "llm"
    batch = 128  # short texts, to fill the LLM's own batches
    batch_characters = 40_000  # 32 long reviews: a crash should not lose more

    def __init__(
        self,
        llm: str,
        template: str | Prompt,
        labels: Mapping[str, str | Sequence[str]] | None = None,
        *,
        name: str | None = None,
        chat: bool = False,
        system: str | None = None,
        shots: Sequence[Shot] = (),
        reasoning: Reasoning | None = None,
        answer: Literal["score", "generate"] = "score",
        normalise: Literal["sum", "mean"] = "sum",
        pool: Literal["logsumexp", "max"] = "logsumexp",
        calibrate: Calibration | None = None,
        domain: str | None = None,
        max_tokens: int = 1024,
        max_new_tokens: int = 16,
        dtype: str = "auto",
        quantize: Literal["8bit", "4bit"] | None = None,
        compile: bool = False,
    ) -> None:
        if isinstance(template, Prompt):
            self.prompt = template
        else:
            words = {k: (v,) if isinstance(v, str) else tuple(v) for k, v in (labels or {}).items()}
            self.prompt = Prompt(
                PromptTemplate(template),
                Verbalizer(words),
                system=system,
                shots=tuple(shots),
                reasoning=reasoning,
            )
        self.name = name or self.prompt.template.source
        self.labels, self.shape = self.prompt.labels, self.prompt.shape
        self.chat, self.answer = chat, answer
        self.normalise, self.pool, self.calibrate, self.domain = normalise, pool, calibrate, domain
        self.max_tokens, self.max_new_tokens = max_tokens, max_new_tokens
        self._check_options()
        self.weights = locate(llm)
        self.dtype, self.quantize, self.compile = choose_dtype(dtype), quantize, compile
        self._lm = language_model(self.weights, self.dtype, quantize, compile)
        self._encoded: tuple[Sequence[Input], list[TokenIds], list[Input]] | None = None
        # Scored prompts on one LLM read a text together.
        self.group = f"{self.weights.folder}/{self.weights.gguf}:{self.dtype}:{quantize}:{compile}:{answer}"

    def _check_options(self) -> None:
        if self.answer == "generate" and self.calibrate in ("contextual", "domain"):
            raise ConfigError(
                f"model {self.name}: `calibrate: {self.calibrate}` needs scores",
                fix="leave `answer: generate` out, or calibrate with `marginal`",
            )
        if (self.calibrate == "domain") != (self.domain is not None):
            raise ConfigError(
                f"model {self.name}: `calibrate: domain` and `domain` go together",
                expected='for example domain: "Sentiment:", the end of the prompt without any text',
            )
        if self.calibrate in ("contextual", "domain") and self.prompt.reasoning is not None:
            raise ConfigError(
                f"model {self.name}: `calibrate: {self.calibrate}` can't be used with reasoning"
            )

    @property
    def can_compile(self) -> bool:
        """Whether `compile` would make it faster here, which it isn't asked to yet."""
        scores = self.answer == "score" and self.prompt.reasoning is None
        plain = self.quantize is None and not is_encoder_decoder(self.weights)
        return scores and plain and not self.compile and has_compiler()

    @property
    def compiling_saves(self) -> float:
        """Which share of its time `compile` saves on a CPU (`python -m benchmarks label-bound`)."""
        return 0.5 if may_take(model_type(self.weights), self.dtype) else 0.25

    @cached_property
    def fingerprint(self) -> str:
        prompt = [*self.prompt.identity(), self.chat, self.max_tokens]
        scoring = [
            self.normalise,
            self.pool,
            self.calibrate if self.calibrate != "marginal" else None,
            self.domain,
        ]
        answer = [self.answer, self.max_new_tokens if self.answer == "generate" else None]
        version = 4 if self.answer == "generate" else 3
        return digest(
            [
                "prompted-llm",
                version,
                self.weights.digest,
                self.dtype,
                self._lm.quantiser,
                prompt,
                scoring,
                answer,
            ]
        )

    @property
    def provenance(self) -> Mapping[str, Any]:
        prompt = self.prompt
        return {
            "llm": self.weights.id,
            "template": prompt.template.source,
            "words": {label: list(words) for label, words in prompt.verbalizer.words.items()},
            "chat": self.chat,
            "system": prompt.system,
            "shots": len(prompt.shots),
            "reasoning": prompt.reasoning is not None,
            "answer": self.answer,
            "calibrate": self.calibrate,
            "dtype": self.dtype,
            "quantised": ", ".join(filter(None, (self.weights.quantised, self._lm.quantiser))) or None,
            "compile": self.compile,
        }

    @cached_property
    def _words(self) -> list[tuple[TokenIds, ...]]:
        """Token ids of each label's words."""
        pairs = {
            label: list(zip(words, self._lm.encode_words(words), strict=True))
            for label, words in self.prompt.verbalizer.words.items()
        }
        check_distinct(pairs)
        return [tuple(ids for _, ids in pairs[label]) for label in self.labels]

    @cached_property
    def _flat_words(self) -> tuple[TokenIds, ...]:
        return tuple(word for label in self._words for word in label)

    def predict(self, inputs: Sequence[Input]) -> Answers:
        return self.predict_together([self], inputs)[0]

    @classmethod
    def predict_together(cls, boxes: Sequence[Self], inputs: Sequence[Input]) -> list[Answers]:
        """Answers of every box; a text is read once for all scored prompts that begin alike."""
        lm = boxes[0]._lm
        lm.load()
        encoded = [box._encode(inputs) for box in boxes]
        for box, (_, fitted) in zip(boxes, encoded, strict=True):
            box.cut += sum(a is not b for a, b in zip(fitted, inputs, strict=True))
        prompts = [ids for ids, _ in encoded]
        limits = [box.prompt.reasoning.max_tokens if box.prompt.reasoning else 0 for box in boxes]
        for b, reasons in _write_together(lm, prompts, limits).items():
            prompts[b] = boxes[b]._after(prompts[b], encoded[b][1], reasons)
        if boxes[0].answer == "generate":
            said = _write_together(lm, prompts, [box.max_new_tokens for box in boxes])
            return [box._parsed(said[b]) for b, box in enumerate(boxes)]
        items = [
            [Question(p[i], box._flat_words) for box, p in zip(boxes, prompts, strict=True)]
            for i in range(len(inputs))
        ]
        scores = lm.score(items)
        return [box._probabilities(np.stack([item[b] for item in scores])) for b, box in enumerate(boxes)]

    def log_likelihoods(self, inputs: Sequence[Input]) -> Floats:
        """`mean_t log p(token_t | tokens before it)` of the prompt with each input, float32 (n,), in nats:
        minus the logarithm of its perplexity. As it is asked: with system prompt and examples, cut to
        `max_tokens`, without an answer.

        Raises:
            ModelError: an encoder-decoder, or a prompt of less than two tokens.
        """
        return self._lm.log_likelihoods(self._encode(inputs)[0])

    def write(self, text: str, max_new_tokens: int = 64) -> Written:
        """What the LLM writes when it is asked something else, always its most probable next token: after the
        text as a user's turn where it has a chat template, else right after the text.

        Raises:
            ModelError: the text is longer than the LLM can read.
        """
        chat = self._lm.tokenizer.chat_template is not None
        asked = self._lm.chat([Turn("user", text)]) if chat else text
        ids = self._lm.encode([asked], special_tokens=not chat)
        room = self._lm.room
        if room is not None and len(ids[0]) + max_new_tokens > room:
            raise ModelError(
                f"{self.weights.id} can't read so long a text",
                expected=f"at most {room} tokens with the {max_new_tokens} that it may write",
                found=f"{len(ids[0])} tokens",
            )
        return self._lm.generate([ids], max_new_tokens)[0][0]

    def finish(self, predictions: Floats) -> Floats:
        if self.calibrate != "marginal" or not len(predictions):
            return predictions
        return by_marginalisation(predictions)

    def usage(self, inputs: Sequence[Input]) -> Usage:
        """At most what `predict` would use. Raises ConfigError where one word's tokens begin another's, as
        `predict` would: before anything is spent.
        """
        tokens, calls = self.count_tokens(inputs), len(inputs)
        reasoning = self.prompt.reasoning
        written = len(inputs) * (self.max_new_tokens if self.answer == "generate" else 0)
        if reasoning is not None:
            reasons = len(inputs) * reasoning.max_tokens
            tokens += tokens + reasons + len(inputs) * self._ask_tokens
            calls, written = 2 * calls, reasons + written
        if self.answer == "score":
            _ = self._flat_words
            calibrating = self._calibrating
            calls, tokens = calls + len(calibrating), tokens + sum(map(len, calibrating))
        return Usage(calls, tokens, written)

    @property
    def _calibrating(self) -> list[TokenIds]:
        """The prompts without content that are scored once, before the first answer; none once they are."""
        if self.calibrate == "contextual" and "_neutral_scores" not in vars(self):
            return self._neutral_prompts
        if self.calibrate == "domain" and "_domain_scores" not in vars(self):
            return [self._domain_prompt]
        return []

    @cached_property
    def _ask_tokens(self) -> int:
        """At most how many tokens the second turn of a chain of thought adds to the prompt and the reasons: a
        tokenizer that knows all bytes makes no more tokens than bytes.
        """
        nothing = self._alike("")
        return max(0, len(self._text_after(nothing, "").encode()) - len(self._text(nothing).encode()))

    @cached_property
    def _most(self) -> int:
        """How many tokens a prompt may have: `max_tokens`, or what room the LLM leaves it beside what follows
        it in the same row: reasons, what asks for the label, a word or a written answer.
        """
        if self._lm.room is None:
            return self.max_tokens
        reasoning = self.prompt.reasoning
        after = reasoning.max_tokens + self._ask_tokens if reasoning is not None else 0
        if not self._lm.writes_apart:
            # A word's last token is never read.
            after += self.max_new_tokens if self.answer == "generate" else max(map(len, self._flat_words)) - 1
        return min(self.max_tokens, self._lm.room - after)

    def count_tokens(self, inputs: Sequence[Input]) -> int:
        return sum(len(ids) for ids in self._encode(inputs)[0])

    def _probabilities(self, word_scores: Floats) -> Floats:
        """From log-probabilities of words (n, words) to calibrated probabilities of labels (n, C)."""
        scores = self._label_scores(word_scores)
        if self.calibrate == "contextual":
            return contextual(scores, self._neutral_scores)
        if self.calibrate == "domain":
            return domain_pmi(scores, self._domain_scores)
        return softmax(scores)

    def _label_scores(self, word_scores: Floats) -> Floats:
        lengths = [len(word) for word in self._flat_words]
        owners = [i for i, words in enumerate(self._words) for _ in words]
        return label_scores(word_scores, lengths, owners, self.normalise, self.pool)

    @property
    def _neutral_prompts(self) -> list[TokenIds]:
        return self._tokens([self._text(self._alike(text)) for text in _NEUTRAL])

    def _alike(self, text: str) -> Input:
        """An input of the prompt's shape, all of whose texts are this one."""
        return Input(
            text, text if self.is_pair else None, (text,) if self.shape == "question-options" else ()
        )

    @cached_property
    def _neutral_scores(self) -> Floats:
        return self._score_prompts(self._neutral_prompts)

    @property
    def _domain_prompt(self) -> TokenIds:
        text = str(self.domain)
        return self._tokens([self._lm.chat([Turn("user", text)]) if self.chat else text])[0]

    @cached_property
    def _domain_scores(self) -> Floats:
        scores: Floats = self._score_prompts([self._domain_prompt])[0]
        return scores

    def _score_prompts(self, prompts: Sequence[TokenIds]) -> Floats:
        scored = self._lm.score([[Question(ids, self._flat_words)] for ids in prompts])
        return self._label_scores(np.stack([item[0] for item in scored]))

    def _parsed(self, written: Sequence[Written]) -> Answers:
        """Hard labels from what the LLM wrote after each prompt."""
        rows = np.eye(len(self.labels), dtype=np.float32)
        answers: list[Answer | Failure] = []
        for said in written:
            label = self.prompt.verbalizer.parse(said.text, self.prompt.reasoning is not None, said.finished)
            if label is not None:
                answers.append(rows[self.labels.index(label)])
            elif not said.text.strip():
                answers.append(Failure("empty", "the model wrote nothing"))
            else:
                answers.append(Failure("unparsed" if said.finished else "truncated", said.text[:200]))
        return answers

    def _after(
        self, prompts: Sequence[TokenIds], inputs: Sequence[Input], reasons: Sequence[Written]
    ) -> list[TokenIds]:
        """The token ids of what asks for the label after the LLM's reasons. Text may have more tokens when it
        is read than when it was written (half a character, say): the reasons then lose their end, so that
        what was reserved holds, and the room.
        """
        asked = self._tokens(
            [self._text_after(item, said.text) for item, said in zip(inputs, reasons, strict=True)]
        )
        limit = self.prompt.reasoning.max_tokens if self.prompt.reasoning else 0
        for i, (prompt, item, said) in enumerate(zip(prompts, inputs, reasons, strict=True)):
            most, text = len(prompt) + limit + self._ask_tokens, said.text
            while len(asked[i]) > most and text:
                text = text[: int(0.98 * len(text) * limit / max(limit, len(asked[i]) - len(prompt)))]
                asked[i] = self._tokens([self._text_after(item, text)])[0]
        return asked

    def _text(self, item: Input) -> str:
        return self._lm.chat(self.prompt.turns(item)) if self.chat else self.prompt.plain(item)

    def _text_after(self, item: Input, reasons: str) -> str:
        if self.chat:
            return self._lm.chat(self.prompt.turns_after(item, reasons))
        return self.prompt.plain_after(item, reasons)

    def _tokens(self, texts: Sequence[str]) -> list[TokenIds]:
        encoded: list[TokenIds] = self._lm.encode(texts, special_tokens=not self.chat)
        return encoded

    def _encode(self, inputs: Sequence[Input]) -> tuple[list[TokenIds], list[Input]]:
        """Token ids of the prompts, and the inputs as they were cut to fit. The last call's are kept, since
        a batch is counted, then asked.
        """
        if self._encoded is not None and self._encoded[0] is inputs:
            return self._encoded[1:]
        encoded, fitted = self._tokens([self._text(item) for item in inputs]), list(inputs)
        for i, ids in enumerate(encoded):
            if len(ids) > self._most:
                encoded[i], fitted[i] = self._cut(inputs[i], len(ids))
        self._encoded = (inputs, encoded, fitted)
        return encoded, fitted

    def _cut(self, item: Input, length: int) -> tuple[TokenIds, Input]:
        """The prompt with the text's end cut off until it has at most `_most` tokens."""
        keep = 1.0
        while keep > 1e-6:
            keep *= 0.98 * self._most / length
            pair = None if item.text_pair is None else item.text_pair[: int(keep * len(item.text_pair))]
            cut = replace(item, text=item.text[: int(keep * len(item.text))], text_pair=pair)
            ids = self._tokens([self._text(cut)])[0]
            if len(ids) <= self._most:
                return ids, cut
            length = len(ids)
        limited = self._most < self.max_tokens
        raise ConfigError(
            f"model {self.name}: the prompt without any text has more than {self._most} tokens",
            expected=f"{self._lm.room} tokens with all that is written after it" if limited else None,
            fix="shorten the prompt, or what may be written (`max_new_tokens`, `reason`)"
            if limited
            else "raise `max_tokens`",
        )


def _write_together(
    lm: LanguageModel, prompts: Sequence[Sequence[TokenIds]], limits: Sequence[int]
) -> dict[int, list[Written]]:
    """What the LLM writes after each prompt of each box, by the box's place; boxes whose limit of tokens is 0
    aren't asked. A text is read once for those whose prompts begin alike.
    """
    said: dict[int, list[Written]] = {}
    for limit in sorted(set(limits) - {0}):
        those = [b for b, own in enumerate(limits) if own == limit]
        rows = lm.generate(list(zip(*(prompts[b] for b in those), strict=True)), limit)
        said.update(zip(those, ([row[i] for row in rows] for i in range(len(those))), strict=True))
    return said


class LLMSection(PromptSection):
    """`llm:` an LLM that runs on this machine."""

    KEY: ClassVar[str] = "llm"

    llm: str
    chat: bool = False
    answer: Literal["score", "generate"] = "score"
    normalise: Literal["sum", "mean"] = "sum"
    pool: Literal["logsumexp", "max"] = "logsumexp"
    calibrate: Calibration | None = None
    domain: str | None = None
    max_tokens: int = Field(default=1024, ge=16)
    max_new_tokens: int = Field(default=16, ge=1)
    quantize: Literal["8bit", "4bit"] | None = None
    compile: bool = False

    def _of(self, prompt: Any) -> dict[str, Any]:
        return {**super()._of(prompt), "chat": self.chat or bool(prompt.chat)}

    def build(self, here: Here) -> BlackBox:
        return PromptedLLM(
            here.local(self.llm),
            self.prompt(here),
            name=self.name,
            chat=self.chat,
            answer=self.answer,
            normalise=self.normalise,
            pool=self.pool,
            calibrate=self.calibrate,
            domain=self.domain,
            max_tokens=self.max_tokens,
            max_new_tokens=self.max_new_tokens,
            dtype=here.dtype,
            quantize=self.quantize,
            compile=self.compile,
        )
