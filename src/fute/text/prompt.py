"""What an LLM is asked about an input: template, words, examples, reasoning; the same locally and on a
server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fute.core.errors import ConfigError, did_you_mean, listing
from fute.core.types import Input, Shape
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer


@dataclass(frozen=True)
class Turn:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Shot:
    """An in-context example."""

    item: Input
    label: str


@dataclass(frozen=True)
class Reasoning:
    """Chain of thought: the LLM writes at most `max_tokens` tokens of reasons, then `ask` asks for the label.

    `ask` follows the reasons in a plain prompt, and is a user's turn of its own in a chat. By default it is
    "Therefore, the answer is", and in a chat a question that lists the words.
    """

    max_tokens: int = 512
    ask: str | None = None


@dataclass(frozen=True)
class Prompt:
    """Everything about a prompt but the input.

    A plain prompt is `system + separator`, then for each example its filled-in template, its word and the
    separator, then the filled-in template: so all inputs share its beginning.

    Raises:
        ConfigError: an example with an unknown label.
    """

    template: PromptTemplate
    verbalizer: Verbalizer
    system: str | None = None
    shots: tuple[Shot, ...] = ()
    separator: str = "\n\n"
    reasoning: Reasoning | None = None

    def __post_init__(self) -> None:
        for shot in self.shots:
            if shot.label not in self.labels:
                raise ConfigError(
                    f'an example has the label "{shot.label}".{did_you_mean(shot.label, self.labels)}',
                    expected=f"one of {listing(self.labels)}",
                )

    @property
    def shape(self) -> Shape:
        return self.template.shape

    @property
    def labels(self) -> tuple[str, ...]:
        return self.verbalizer.labels

    def plain(self, item: Input) -> str:
        """The prompt as one text."""
        parts = [] if self.system is None else [self.system, self.separator]
        for shot in self.shots:
            parts += [self.template.render(shot.item), self._word(shot.label), self.separator]
        return "".join([*parts, self.template.render(item)])

    def turns(self, item: Input) -> list[Turn]:
        """The prompt as a chat: each example is a user's turn and the answer to it."""
        turns = [] if self.system is None else [Turn("system", self.system)]
        for shot in self.shots:
            turns.append(Turn("user", self.template.render(shot.item)))
            turns.append(Turn("assistant", self._word(shot.label).strip()))
        return [*turns, Turn("user", self.template.render(item))]

    def plain_after(self, item: Input, reasons: str) -> str:
        """The prompt, the reasons the LLM gave, and what asks for the label."""
        ask = self.reasoning.ask if self.reasoning else None
        return f"{self.plain(item)}{reasons.rstrip()}{ask if ask is not None else PLAIN_ASK}"

    def turns_after(self, item: Input, reasons: str) -> list[Turn]:
        """The chat with the reasons as the LLM's turn, and a user's turn that asks for the label."""
        ask = self.reasoning.ask if self.reasoning else None
        if ask is None:
            words = ", ".join(self._word(label).strip() for label in self.labels)
            ask = f"So what is the answer? Say one of these and nothing else: {words}."
        return [*self.turns(item), Turn("assistant", reasons.strip()), Turn("user", ask)]

    def identity(self) -> list[Any]:
        """All that decides what is asked and how an answer is read, as plain values."""
        reasoning = self.reasoning and [self.reasoning.max_tokens, self.reasoning.ask]
        shots = [
            [shot.item.text, shot.item.text_pair, list(shot.item.options), shot.label] for shot in self.shots
        ]
        words = [[label, list(words)] for label, words in self.verbalizer.words.items()]
        return [*self.template.identity(), self.system, shots, self.separator, reasoning, words]

    def _word(self, label: str) -> str:
        """The word that stands for the label in an example: its first."""
        return self.verbalizer.words[label][0]


PLAIN_ASK = "\nTherefore, the answer is"


def draw_shots(
    items: Sequence[Input], labels: Sequence[str], k: int, seed: int, balanced: bool = True
) -> tuple[Shot, ...]:
    """k in-context examples of a labelled dataset, in an order of the seed's.

    Args:
        items, labels: the n rows.
        k: how many.
        seed: equal seeds draw equal examples.
        balanced: as many of each label as of any other, up to one; which labels get one more is the seed's
            choice.

    Raises:
        ConfigError: there are fewer rows than k, or than a label needs.
    """
    random = np.random.default_rng(seed)
    if k < 0:
        raise ConfigError("fewer than no examples asked for", found=f"k = {k}")
    if k > len(items):
        raise ConfigError(f"{k} examples asked for, but there are {len(items)} rows")
    if k == 0:
        return ()
    if not balanced:
        chosen = random.choice(len(items), size=k, replace=False)
        return tuple(Shot(items[i], labels[i]) for i in chosen)
    names = sorted(set(labels))
    order = [names[i] for i in random.permutation(len(names))]
    drawn: list[int] = []
    for place, name in enumerate(order):
        wanted = k // len(names) + (place < k % len(names))
        rows = [i for i, label in enumerate(labels) if label == name]
        if wanted > len(rows):
            raise ConfigError(
                f'{k} balanced examples need {wanted} of "{name}"',
                found=f"{len(rows)} rows with this label",
                fix="ask for fewer, or set `balanced: false`",
            )
        drawn += [rows[i] for i in random.choice(len(rows), size=wanted, replace=False)]
    return tuple(Shot(items[drawn[i]], labels[drawn[i]]) for i in random.permutation(len(drawn)))
