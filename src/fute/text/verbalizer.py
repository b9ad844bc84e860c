"""Verbalizers: which words stand for which label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fute.core.errors import ConfigError

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class Verbalizer:
    """Each label's words, spacing included: `" good"` and `"good"` are different words to an LLM.

    Raises:
        ConfigError: fewer than two labels, an empty word, a word twice, or one that stands for two labels.
    """

    words: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if len(self.words) < 2:
            raise ConfigError(
                "a verbalizer needs at least two labels",
                found=", ".join(self.words) or "none",
                fix='for example {negative: [" bad"], positive: [" good"]}',
            )
        owner: dict[str, str] = {}
        for label, words in self.words.items():
            if not words or not all(word.strip() for word in words):
                raise ConfigError(
                    f'the label "{label}" has no word, or an empty one', found=repr(list(words))
                )
            if len(set(words)) < len(words):
                raise ConfigError(f'the label "{label}" has a word twice', found=repr(list(words)))
            for word in words:
                if owner.setdefault(word, label) != label:
                    raise ConfigError(
                        f'the word {word!r} stands for two labels, "{owner[word]}" and "{label}"',
                        fix="give every label words of its own",
                    )

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.words)


def check_distinct(words: Mapping[str, Sequence[tuple[str, TokenIds]]]) -> None:
    """Refuse words of two labels where the tokens of one begin the tokens of the other.

    Then one word's probability would contain the other's. Sharing only the first token is fine: words
    are scored to their end.

    Args:
        words: for each label, its words with their token ids.
    """
    flat = [(label, word, ids) for label, pairs in words.items() for word, ids in pairs]
    for label, word, ids in flat:
        if not ids:
            raise ConfigError(f"the word {word!r} has no token in this model's vocabulary")
        for other_label, other_word, other_ids in flat:
            if other_label != label and other_ids[: len(ids)] == ids:
                raise ConfigError(
                    f'the word {word!r} of "{label}" begins like {other_word!r} of "{other_label}": '
                    "all tokens of the first are tokens of the second, so their scores overlap",
                    found=f"tokens {list(ids)} and {list(other_ids)}",
                    fix="choose words of which none is the beginning of another",
                )
