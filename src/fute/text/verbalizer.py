"""Verbalizers: which words stand for which label."""

from __future__ import annotations

import functools
import re
import unicodedata
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

    def parse(self, answer: str, last: bool = False) -> str | None:
        """The label that a written answer names, or None where it names none, or several.

        A label is named by one of its words or by its own name: whole words in any case, the longest that
            fits,
        and not right after a "not". Words of one character ("B") count only as they are written, and where
        they
        stand for themselves: "B", "(B)", "B.", "answer: B". An answer that begins with a label ("Positive.
            The bad
        parts …") has named it.

        Args:
            last: of several labels take the last one, as fits an answer that ends a chain of reasons.
        """
        exact = [label for label, words in self.words.items() if answer.strip() in map(str.strip, words)]
        if len(exact) == 1:
            return exact[0]
        answer = _MARKUP.sub(" ", unicodedata.normalize("NFC", answer))
        named = self._mentions(answer)
        if not named:
            return None
        start, end, label = named[0]
        if not re.search(r"\w", answer[:start]) and re.match(r"\W*(?:[.!,;:\n]|$)", answer[end:]):
            return label if not last else named[-1][2]
        labels = {label for _, _, label in named}
        return named[-1][2] if last or len(labels) == 1 else None

    def _is_word_of_another(self, name: str, label: str) -> bool:
        return any(
            word.strip().casefold() == name.casefold()
            for other, words in self.words.items()
            for word in words
            if other != label
        )

    def _mentions(self, answer: str) -> list[tuple[int, int, str]]:
        """Where the answer names a label: start, end, label, in order and without overlap."""
        owner = {label.strip(): label for label in self.words}
        owner = {name: label for name, label in owner.items() if not self._is_word_of_another(name, label)}
        owner |= {word.strip(): label for label, words in self.words.items() for word in words}
        found = [
            (match.start("word"), match.end("word"), label)
            for word, label in owner.items()
            for match in _pattern(unicodedata.normalize("NFC", word)).finditer(answer)
        ]
        found.sort(key=lambda mention: (mention[0], -mention[1]))
        kept: list[tuple[int, int, str]] = []
        for start, end, label in found:
            if not kept or start >= kept[-1][1]:
                kept.append((start, end, label))
        return [mention for mention in kept if not _NEGATION.search(answer[: mention[0]])]


# What markdown and quotes put around a word.
_MARKUP = re.compile(r"[*_`\"“”„«»]")
# "not positive", "isn't very positive"
_NEGATION = re.compile(
    r"(?:\b(?:not|never|nor|neither|cannot)|n['’]t)"
    r"(?:\s+(?:an?|the|at|all|very|really|so|entirely|quite|exactly|particularly))*\s+$",
    re.I,
)


@functools.lru_cache(maxsize=4096)
def _pattern(word: str) -> re.Pattern[str]:
    """Where a word stands as a whole; a single character only where it stands for itself."""
    text = re.escape(word)
    if len(word) > 1 or not word.isalpha():
        return re.compile(rf"(?<!\w)(?P<word>{text})(?!\w)", re.I)
    alone = rf"(?:^\W*|\(|(?i:answer|option|choice)(?i:\s+is)?\W+)(?P<word>{text})(?=\W*(?:[).:,\n]|$))"
    return re.compile(alone, re.M)


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
