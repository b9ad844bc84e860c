"""Verbalizers: which words stand for which label."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
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

    def parse(self, answer: str, last: bool = False, finished: bool = True) -> str | None:
        """The label that a written answer names, or None where it names none, or several.

        A label is named by one of its words or by its own name: whole words, in any case, the longest that
        fits, whatever markup is around them. These name nothing: what stands after a "not" ("isn't a good
        film"), labels side by side, which are a choice and no answer ("positive or negative?"), and the
        second number of "2/5". A single letter ("B") counts as it is written, and not as an article ("A
        film"). Of several labels that are named, this counts:

        1. the one that the answer begins with, if a pause follows ("Positive. The bad parts are few.");
        2. the one that is declared ("the acting is bad, but the answer is: positive").

        Args:
            last: of several labels take the last one that is declared, or else named, as fits an answer that
                ends a chain of reasons; what it begins with means nothing then.
            finished: whether the answer came to its end. In one that was cut off only a label that a pause
                follows counts, and only by 1 (under `last`, if it is the only one that is named) or 2: "the
                answer is positive or" might have gone on in any way.
        """
        exact = [label for label, words in self.words.items() if answer.strip() in map(str.strip, words)]
        if len(exact) == 1 and finished:
            return exact[0]
        text = _plain(answer)
        named = self._mentions(text)
        if named and (not last or (not finished and len({label for _, _, label in named}) == 1)):
            start, end, label = named[0]
            if not re.search(r"\w", text[:start]) and _pauses(text, end, finished):
                return label
        declared = [mention for mention in named if _DECLARED.search(text[: mention[0]][-_REACH:])]
        if not finished:
            declared = [mention for mention in declared if _pauses(text, mention[1], finished)]
        for mentions in (declared, named if finished else []):
            if mentions and (last or len({label for _, _, label in mentions}) == 1):
                return mentions[-1][2]
        return None

    def _mentions(self, text: str) -> list[Mention]:
        """Where labels are named, in order and without overlap."""
        names = {(word.strip(), label) for label, words in self.words.items() for word in words}
        words_of = {(word.casefold(), label) for word, label in names}
        for label in self.words:
            if not any(word == label.strip().casefold() and other != label for word, other in words_of):
                names.add((label.strip(), label))
        found = [
            (start, -end, text[start:end] != word, label)
            for word, label in ((_plain(name).strip(), label) for name, label in names)
            for start, end in _occurrences(word, text)
        ]
        runs: list[list[Mention]] = []  # mentions side by side
        previous = (0, 0, True)
        for start, minus_end, inexact, label in sorted(found):
            place = (start, -minus_end, inexact)
            if runs and start < previous[1] and place != previous:
                continue
            if runs and _SIDE_BY_SIDE.fullmatch(text[previous[1] : start]):
                runs[-1].append((start, -minus_end, label))
            else:
                runs.append([(start, -minus_end, label)])
            previous = place
        return [
            mention
            for run in runs
            if len({label for _, _, label in run}) == 1
            for mention in run
            if not _NEGATION.search(text[: mention[0]][-_REACH:])
        ]


Mention = tuple[int, int, str]  # start, end, label

# How far back we look for what qualifies a mention, in characters.
_REACH = 120
# What markdown and quotes put around a word.
_MARKUP = re.compile(r"[*_`\"“”„«»]")
# After a label that is a statement of its own.
_PAUSE = re.compile(r"[^\w?]*?(?:[.!,;:()\n]|\s[-–—]|(?P<end>$))")
_SIDE_BY_SIDE = re.compile(r"[^\w.!?;:\n]*(?:\b(?:n?or|and|vs|versus)\b[^\w!?;:\n]*)?", re.I)
# "the answer is", "Sentiment of the review:"
_DECLARED = re.compile(
    r"\b(?:answer|label|class|category|choice|verdict|conclusion|sentiment|rating|topic|relation|prediction)"
    r"(?:\s+(?:of|for|to|here)\b[^.!?:\n]{0,60}?)?\s*(?:\bis\b|\bwas\b|\b(?:w|sh)ould be\b|[:=])"
    r"[^\w.!?]*(?:(?:an?|the|option|clearly|definitely|mostly|overall|therefore)\b[^\w.!?]*)*$",
    re.I,
)
# "not positive", "isn't a very good", "I don't think the review is bad"; only words that leave open what is
# negated may stand between: "did not enjoy it, so bad" and "not only good" name their label.
_FILLERS = (
    "a|an|the|any|at|all|of|to|as|be|been|being|is|are|was|it|its|it['’]s|this|that|my|very|really|so|too|quite"
    "|entirely|exactly|particularly|necessarily|clearly|completely|fully|totally|especially|overly|overall"
    "|think|believe|say|call|called|consider|considered|feel|find|found|seems?|appears?|sounds?|looks?|describe"
    "|review|film|movie|text|sentence|statement|sentiment|answer|label"
)
_NEGATION = re.compile(
    r"(?:\b(?:not|no|never|nor|neither|cannot|without|hardly)|n['’]t)"
    rf"(?:[^\w\n.!?,;:]+(?:{_FILLERS})\b)*[^\w\n.!?,;:]+$"
    r"|\bnon-$|[不没沒非未](?:是|很|太)?$",
    re.I,
)
# The 5 of "2/5", of "2 out of 5" and of "3.5".
_NOT_THE_NUMBER = re.compile(r"(?:\d[.,]|/\s?|\bout of\s)$", re.I)
# The first words of Unicode's names of characters that are written without spaces between words.
_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")


def _pauses(text: str, end: int, finished: bool) -> bool:
    """Whether a pause follows what ends there; the end of a text is one only where it is finished."""
    pause = _PAUSE.match(text, end)
    return pause is not None and (finished or pause["end"] is None)


def _plain(text: str) -> str:
    """Without markup, and characters that can be written in several ways in one of them."""
    normal = unicodedata.normalize("NFKC", text)
    # "ß" folds to "ss"; what folds to one character is left to `re.IGNORECASE`, since letters keep their case
    unfolded = "".join(c if len(c.casefold()) == 1 else c.casefold() for c in normal)
    return _MARKUP.sub(" ", unfolded)


def _occurrences(word: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a word stands as a whole; a single letter only where it is not an article or an initial."""
    if not word:
        return
    for match in _pattern(word).finditer(text):
        start, end = match.span()
        before, after = text[max(0, start - 8) : start], text[end : end + 2]
        inside = (before and _one_word(before[-1], word[0])) or (after and _one_word(word[-1], after[0]))
        of_a_number = (word[0].isdigit() and _NOT_THE_NUMBER.search(before)) or (
            word[-1].isdigit() and re.match(r"[.,]\d", after)
        )
        if not inside and not of_a_number:
            yield start, end


def _one_word(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    return all(
        (c.isalnum() or unicodedata.category(c).startswith("M"))
        and not unicodedata.name(c, "").startswith(_WITHOUT_SPACES)
        for c in (left, right)
    )


@functools.lru_cache(maxsize=4096)
def _pattern(word: str) -> re.Pattern[str]:
    text = r"\s+".join(map(re.escape, word.split()))
    if len(word) > 1 or not word.isalpha():
        return re.compile(text, re.I)
    verb = "(?:is|was|because|since|as|and|or|but)\\b"
    return re.compile(rf"(?<![\w'’&])(?<!\w[.-]){text}(?![\w'’+#&])(?![.-]\w)(?![^\S\n]+(?!{verb})\w)")


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
