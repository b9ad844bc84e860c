"""What a black box is, and the check that every answer of every black box goes through."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np

from fute.core.errors import ConfigError, FuteError, ModelError, listing
from fute.core.types import Answer, Answers, Failure, Floats, Input, Output, Shape, Span
from fute.core.unicode import writable


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens, read (`input`) and written (`output`)."""

    input: float
    output: float


FREE = Price(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Usage:
    """What asking takes: calls, tokens read, tokens written."""

    calls: int
    tokens_in: int = 0
    tokens_out: int = 0


class Meter(Protocol):
    """What a box asks before it spends. `labelling.budget` has the real one."""

    def reserve(self, usage: Usage) -> None:
        """Take at most this much out of the budget, before asking.

        Raises:
            BudgetError: a cap would be passed; nothing is taken.
        """
        ...

    def settle(self, reserved: Usage, used: Usage) -> None:
        """Put back what was reserved and not used. The number of calls stays."""
        ...


class Unmetered:
    """A meter without a budget."""

    def reserve(self, usage: Usage) -> None:
        pass

    def settle(self, reserved: Usage, used: Usage) -> None:
        pass


# A box that fails on so many items, and never gave an answer, is taken to fail on all.
MANY = 8

# What `BlackBox.stream` yields, and the seconds without an answer after which it says so.
Streamed: TypeAlias = tuple[int, Answers | Exception] | None
TICK = 0.2


class BlackBox(ABC):
    """Θ_M: reads inputs, answers each with class probabilities, a score, a text or a span.

    Attributes:
        name: what rankings call it.
        kind: "llm", "python", "sklearn", …: what it is made of, for maps.
        labels: the C label names, in the order of the columns of `predict`; the one name of a score; none for
            texts and spans.
        aliases: what datasets call some of its labels; several may be called the same. It decides no answer,
            so it is no part of the fingerprint.
        output: what an answer is.
        shape: what it reads (`data.corpus.fit` brings any input into it).
        group: boxes of one class with equal groups can be asked together, faster; None for none.
        price: of its tokens; None where it isn't known.
        cut: how many of the texts that it was asked for were too long for it and lost their end.
        batch: how many inputs it is asked for, then saved, at a time: what a crash can lose. None where it
            hands over each answer when it is there (`stream`).
        batch_seconds: about how long a batch may take: it has fewer inputs where `batch` of them take longer,
            and the first has few. None where it always has as many as it can.
        batch_characters: how many characters the inputs of a batch have at most, whatever their number.
        is_remote: whether asking it opens a connection to another program or machine.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    aliases: Mapping[str, str] = MappingProxyType({})
    output: Output = "class"
    shape: Shape = "text"
    group: str | None = None
    price: Price | None = FREE
    cut: int = 0
    batch: ClassVar[int | None] = 512
    batch_seconds: ClassVar[float | None] = None
    batch_characters: ClassVar[int | None] = None
    is_remote: ClassVar[bool] = False

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Content address of all that decides the answers: the cache forgets nothing and mixes nothing."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How it was made, for people."""
        return {}

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as datasets call them, each once."""
        return tuple(dict.fromkeys(self.aliases.get(label, label) for label in self.labels))

    @abstractmethod
    def predict(self, inputs: Sequence[Input]) -> Answers:
        """An answer for each input.

        An array: class probabilities, float32 (n, C), rows sum to 1, or scores, float32 (n, 1). Or a list of
        n answers, in which a `Failure` stands where an item has none.
        """

    @property
    def is_pair(self) -> bool:
        """Whether it reads two texts."""
        return self.shape in ("pair", "question-context")

    def plain(self, inputs: Sequence[Input]) -> list[Any]:
        """The inputs as a function or an estimator takes them: texts, or tuples `(text, text_pair)` or
        `(text, options)`. What a question with options stands on comes before it, on a line of its own.
        """
        if self.shape == "question-options":
            return [("\n".join(filter(None, (i.text_pair, i.text))), list(i.options)) for i in inputs]
        return [(i.text, i.text_pair) if self.is_pair else i.text for i in inputs]

    @classmethod
    def predict_together(cls, boxes: Sequence[Self], inputs: Sequence[Input]) -> list[Answers]:
        """`predict` of each box; a class whose boxes share work does it once."""
        return [box.predict(inputs) for box in boxes]

    @classmethod
    def stream(
        cls, questions: Sequence[tuple[Self, Input]], meters: Mapping[str, Meter]
    ) -> Iterator[Streamed]:
        """Answers to questions in any order, each when it is there: only for classes with `batch = None`.

        Args:
            questions: (box, input) pairs; the boxes share a group.
            meters: by the name of the box; asked before each call.

        Yields:
            the question's index with the box's answer (`Answers` of length 1), or with the exception that
            stops its box: a `BudgetError` where a cap is reached, a `ModelError` where the box can't answer
            at all. A stopped box's other questions need not be answered. None where there was no answer for
            `TICK` seconds: what waits to be saved can be saved then.

        Raises:
            ModelError: none of the boxes can be asked: no key, no such program.
        """
        raise NotImplementedError(f"{cls.__name__} answers in batches")

    def usage(self, inputs: Sequence[Input]) -> Usage:
        """At most what `predict` would use for these inputs; tokens are 0 where they have no meaning."""
        return Usage(len(inputs))

    def count_tokens(self, inputs: Sequence[Input]) -> int | None:
        """How many tokens `predict` would read, or None where that has no meaning."""
        return None

    def finish(self, predictions: Floats) -> Floats:
        """What the answers to many inputs together decide, such as a calibration: (n, C) in and out. What it
        raises, or gives that `predict` may not, is this model's failure and no other's.
        """
        return predictions


def answers_in_order(box: BlackBox, inputs: Sequence[Input]) -> list[Any]:
    """`predict` of a box that streams, without a budget. Raises what stops the box."""
    answers: list[Any] = [None] * len(inputs)
    for got in box.stream([(box, item) for item in inputs], {box.name: Unmetered()}):
        if got is None:
            continue
        index, answer = got
        if isinstance(answer, Exception):
            raise answer
        answers[index] = answer[0]
    return answers


def check_labels(name: str, labels: Sequence[Any]) -> tuple[str, ...]:
    """The labels of model `name` as text, or a `ConfigError` unless they are two or more, all different."""
    names = tuple(map(str, labels))
    if len(set(names)) != len(names) or len(names) < 2:
        raise ConfigError(f"model {name} needs at least two different labels", found=listing(names) or "none")
    return names


def check_answers(box: BlackBox, answers: Any, n: int) -> list[Answer | Failure]:
    """The answers one by one, or a `ModelError` that says which is wrong and how.

    Raises:
        ModelError: another number of answers than n; rows of another width than labels; NaN or infinity;
            negative probabilities or rows that don't sum to 1; texts of a box that answers numbers.
    """
    if isinstance(answers, list | tuple) and any(isinstance(a, Failure | str | Span) for a in answers):
        _check_count(box, len(answers), n)
        there = [i for i, answer in enumerate(answers) if not isinstance(answer, Failure)]
        checked = _check_values(box, [answers[i] for i in there], len(there))
        result: list[Answer | Failure] = list(answers)
        for i, answer in zip(there, checked, strict=True):
            result[i] = answer
        return result
    return _check_values(box, answers, n)


def brief(error: Exception) -> str:
    """An error in a line, as the detail of a `Failure`."""
    if not isinstance(error, FuteError):
        return f"{type(error).__name__}: {error}"
    if error.found and error.problem.endswith("failed on a batch of 1 inputs"):  # which the item knows
        return error.found
    return "; ".join(filter(None, (error.problem, error.found and f"found: {error.found}")))


def usable(item: Input, answer: Answer | Failure) -> Answer | Failure:
    """The checked answer to an item, in text that can be written, or a `Failure` where it says nothing about
    it: a blank text, or a span that isn't in the item's context, if it has one, where it says.
    """
    if isinstance(answer, str):
        return writable(answer) if answer.strip() else Failure("empty", "the model wrote nothing")
    if not isinstance(answer, Span):
        return answer
    if answer.text == "":
        return Span("", -1)
    try:
        text, start = writable(str(answer.text)), operator.index(answer.start)
    except TypeError:
        return Failure("misplaced", f"{answer!r:.200}")
    there = item.text_pair[start : start + len(text)] if item.text_pair is not None and start >= 0 else ""
    if item.text_pair is not None and there != text:
        return Failure("misplaced", f"{text!r:.80} from character {start} on, where {there!r:.80} stands")
    return Span(text, start)


def _check_values(box: BlackBox, answers: Any, n: int) -> list[Answer | Failure]:
    if box.output in ("class", "score"):
        return list(_check_rows(box, answers, n))
    kind = Span if box.output == "span" else str
    _check_count(box, len(answers), n)
    for i, answer in enumerate(answers):
        if not isinstance(answer, kind):
            raise ModelError(
                f"model {box.name} answered no {box.output}",
                expected=f"a {kind.__name__} per input",
                found=f"{answer!r:.100} for input {i + 1} of {n}",
            )
    return list(answers)


def _check_count(box: BlackBox, found: int, n: int) -> None:
    if found != n:
        raise ModelError(
            f"model {box.name} answered {found} times to {n} inputs", expected="one answer per input"
        )


@np.errstate(over="ignore", invalid="ignore")  # it is looked for
def _check_rows(box: BlackBox, predictions: Any, n: int) -> Floats:
    width = len(box.labels)
    what = "a score" if box.output == "score" else "a column per label"
    expected = f"an array of shape ({n}, {width}): a row per input, {what}"
    try:
        array = np.asarray(predictions, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(
            f"model {box.name} answered no array of numbers", expected=expected, found=str(error)
        ) from error
    if n == 0:
        return np.empty((0, width), dtype=np.float32)
    if array.shape != (n, width):
        raise ModelError(
            f"model {box.name} answered with the wrong shape",
            expected=expected,
            found=f"shape {array.shape}",
            fix="return one answer per input, in the same order",
        )
    checks = [(~np.isfinite(array).all(axis=1), "NaN or infinity")]
    if box.output == "class":
        checks += [
            ((array < 0).any(axis=1), "a negative probability"),
            (np.abs(array.sum(axis=1) - 1) > 1e-3, "probabilities that don't sum to 1"),
        ]
    for wrong, what in checks:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ModelError(
                f"model {box.name} answered {what}",
                expected=f"probabilities of {', '.join(box.labels)}" if box.output == "class" else "numbers",
                found=f"{array[row].tolist()} for input {row + 1} of {n}",
            )
    return array
