"""Questions whose answers aren't given as spans of a context, made such."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fute.data.readers import Table
from fute.data.squad import Row, row


def from_choices(table: Table, text: str, choices: str, label: str, words: int | None) -> list[Row]:
    """Of a multiple choice: the context lists the options, and the right one's text is the answer.

    Args:
        text, choices, label: the columns with the question, the options {letter: text} and the right letter.
        words: of a question with more its end is kept, which asks; None keeps all.
    """
    rows, columns = [], (table.column(text, "text"), table.column(choices, "choices"))
    for question, options, right in zip(*columns, table.column(label, "label"), strict=True):
        before = "".join(f"{option} ; " for letter, option in options.items() if letter < right)
        ending = " ".join(question.split()[-words:]) if words else question
        rows.append(row(ending, " ; ".join(options.values()), options[right], len(before)))
    return rows


def by_search(table: Table, text: str, text_pair: str, label: str) -> list[Row]:
    """Of answers whose place isn't told: where the first of them that stands in the context, as whole words,
    first stands there. A question without an answer keeps none; one none of whose answers is there is left
    out.

    Args:
        text, text_pair, label: the columns with the question, the context and the answers: a text, several,
            or, as DROP has them, {"spans": texts, "types": kinds}, of which those of the kind "span" count.
    """
    rows, columns = [], (table.column(text, "text"), table.column(text_pair, "text_pair"))
    for question, context, value in zip(*columns, table.column(label, "label"), strict=True):
        answers = _answers(value)
        found = next(filter(None, (_place(answer, context) for answer in answers or ())), None)
        if found is not None:
            rows.append(row(question, context, found.group(), found.start()))
        elif answers == []:
            rows.append(row(question, context))
    return rows


def _answers(value: Any) -> list[str] | None:
    """The texts; [] where nobody answered, None where all answers are of other kinds."""
    if isinstance(value, Mapping):
        kinds = zip(value["spans"], value["types"], strict=True)
        return [text for text, kind in kinds if kind == "span"] or None
    return [value] if isinstance(value, str) else list(value or ())


def _place(answer: str, context: str) -> re.Match[str] | None:
    if not answer.strip():
        return None
    whole = rf"(?<!\w){re.escape(answer.strip())}(?!\w)"
    return re.search(whole, context) or re.search(whole, context, re.IGNORECASE)
