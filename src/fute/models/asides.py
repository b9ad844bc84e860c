"""What an LLM is asked beside the labels, as black boxes: kept, counted and capped like any other answer."""

from __future__ import annotations

from collections.abc import Sequence

from fute.core.hashing import digest
from fute.core.types import Answer, Answers, Failure, Input, Output
from fute.models.backends.base import Written
from fute.models.base import BlackBox, Usage
from fute.models.prompted import PromptedLLM

_AROUND_CHAT = 64  # tokens that a chat template adds, at most


class Familiarity(BlackBox):
    """How familiar a prompt with an input looks to its LLM, as a score: `PromptedLLM.log_likelihoods`."""

    kind = "llm"
    output: Output = "score"
    labels = ("log-likelihood",)
    batch = PromptedLLM.batch
    batch_characters = PromptedLLM.batch_characters

    def __init__(self, box: PromptedLLM) -> None:
        self.box, self.name, self.shape = box, box.name, box.shape

    @property
    def fingerprint(self) -> str:
        return digest(["log-likelihood", 1, self.box.fingerprint])

    def predict(self, inputs: Sequence[Input]) -> Answers:
        return self.box.log_likelihoods(inputs)[:, None]

    def usage(self, inputs: Sequence[Input]) -> Usage:
        return Usage(len(inputs), self.box.count_tokens(inputs))


class Reply(BlackBox):
    """What a prompt's LLM writes when it is asked something else: `PromptedLLM.write`. What is cut off at the
    limit of tokens, or says nothing, is a failure with all that was written.
    """

    kind = "llm"
    output: Output = "text"
    labels = ()
    batch = 1

    def __init__(self, box: PromptedLLM, max_new_tokens: int = 64) -> None:
        self.box, self.name, self.max_new_tokens = box, box.name, max_new_tokens

    @property
    def fingerprint(self) -> str:
        return digest(["reply", 1, self.box.fingerprint, self.max_new_tokens])

    def predict(self, inputs: Sequence[Input]) -> Answers:
        return [_answer(self.box.write(item.text, self.max_new_tokens)) for item in inputs]

    def usage(self, inputs: Sequence[Input]) -> Usage:
        # No tokenizer makes more tokens than bytes.
        read = sum(len(item.text.encode()) + _AROUND_CHAT for item in inputs)
        return Usage(len(inputs), read, len(inputs) * self.max_new_tokens)


def _answer(said: Written) -> Answer | Failure:
    if not said.text.strip():
        return Failure("empty", "")
    return said.text if said.finished else Failure("truncated", said.text)


def as_written(answer: Answer | Failure) -> Written:
    """What the LLM wrote, from an answer of `Reply`."""
    if isinstance(answer, Failure):
        return Written(answer.detail, False)
    return Written(str(answer), True)
