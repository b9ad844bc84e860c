"""From a table's columns to inputs and label indices, refusing what would silently be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import DataError, did_you_mean, listing
from fute.core.types import Floats, Input, Output, Span
from fute.core.unicode import writable
from fute.data.readers import Table


def inputs_of(
    table: Table, text: str, text_pair: str | None = None, drop_empty: bool = False
) -> tuple[list[Input], list[int]]:
    """The inputs of a table, and the row each came from.

    Args:
        text: the column with the text.
        text_pair: the column with the second text of a pair.
        drop_empty: leave rows with an empty text out instead of raising.

    Raises:
        DataError: a column is missing, a value is not text, or a text is empty.
    """
    columns = [(text, table.column(text, "text"))]
    if text_pair is not None:
        columns.append((text_pair, table.column(text_pair, "text_pair")))
    inputs, rows = [], []
    for row, place in enumerate(table.places):
        values = [_text(column[row], f"{table.origin}, {place}", name) for name, column in columns]
        if all(value.strip() for value in values):
            inputs.append(Input(values[0], values[1] if text_pair is not None else None))
            rows.append(row)
        elif not drop_empty:
            empty = next(name for (name, _), value in zip(columns, values, strict=True) if not value.strip())
            raise DataError(
                f'{table.origin}, {place}: "{empty}" is empty',
                expected="a text in every row",
                fix="fill it in, remove the row, or set `drop_empty: true`",
            )
    if not inputs:
        raise DataError(f"{table.origin} holds no row with a text")
    return inputs, rows


def _text(value: Any, place: str, column: str) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if not isinstance(value, str):
        raise DataError(
            f'{place}: "{column}" is not text',
            found=f"{value!r:.80} ({type(value).__name__})",
            fix="choose another column, or write the values as text",
        )
    return writable(value)


def labelled(table: Table, column: str, rows: Sequence[int]) -> list[int]:
    """Those of the rows whose label, score or answer isn't missing: empty, None, NaN, or the -1 that
    `datasets` writes for "no class" where the column has class names.

    Raises:
        DataError: none of them has one.
    """
    values = table.column(column, "label")
    kept = [row for row in rows if not _is_missing(values[row], column in table.class_names)]
    if not kept:
        raise DataError(f'{table.origin}: no row has a "{column}"', fix="choose another `label: COLUMN`")
    return kept


def _is_missing(value: Any, has_names: bool) -> bool:
    if isinstance(value, str):
        return not value.strip()
    nothing = value is None or (isinstance(value, float | np.floating) and np.isnan(value))
    return nothing or (has_names and value == -1)


def labels_of(
    table: Table, column: str, rows: Sequence[int], wanted: Sequence[str] | Mapping[str, str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Label indices (n,) of the given rows, and the label names.

    Args:
        column: the column with the label.
        rows: which rows of the table.
        wanted: the label names that may occur (a list), or names for raw values (a mapping). Without it,
            the names are the values found, sorted.

    Raises:
        DataError: a label is empty or unknown, or all rows have the same one.
    """
    values = table.column(column, "label")
    raw = [_label(values[row], f"{table.origin}, {table.places[row]}", column) for row in rows]
    if column in table.class_names:
        stored = table.class_names[column]
        for row in rows:
            if _is_missing(values[row], has_names=True):
                raise _no_label(f"{table.origin}, {table.places[row]}", column, -1)
        raw = [stored[int(value)] if value.isdigit() and int(value) < len(stored) else value for value in raw]
    if wanted is None:
        renames = {value: value for value in sorted(set(raw))}
    elif isinstance(wanted, Mapping):
        renames = {str(value): str(name) for value, name in wanted.items()}
    else:
        renames = {str(value): str(value) for value in wanted}
    names = tuple(dict.fromkeys(renames.values()))
    for row, value in zip(rows, raw, strict=True):
        if value not in renames:
            where = f"{table.origin}, {table.places[row]}"
            raise DataError(
                f'{where}: unknown label "{value}".{did_you_mean(value, renames)}',
                expected=f"one of {listing(renames)}",
                fix="correct the row, or add the label to `labels`",
            )
    present = sorted({renames[value] for value in raw})
    if len(present) < 2:
        raise DataError(
            f'{table.origin}: every row has the label "{present[0]}"',
            expected="at least two different labels",
            found=f"{len(raw)} rows of one class",
            fix=f'check that "{column}" is the label column',
        )
    position = {name: i for i, name in enumerate(names)}
    return np.array([position[renames[value]] for value in raw], dtype=np.int64), names


def label_names(
    who: str, wanted: Sequence[str] | Mapping[str, str] | None, output: Output = "class"
) -> tuple[str, ...]:
    """The class names of the dataset `who`, none of whose rows has a label.

    Raises:
        DataError: fewer than two different names, or an `output` that is no class.
    """
    given = wanted.values() if isinstance(wanted, Mapping) else wanted or ()
    names = tuple(dict.fromkeys(map(str, given)))
    if output != "class" or len(names) < 2:
        raise DataError(
            f"{who} has no labels to learn from",
            expected="for pseudo-labels, the names of at least two classes",
            found=f"`label: null` with `output: {output}` and `labels` {listing(names) or 'none'}",
            fix="set `labels: [NAME, NAME]`, or name the column with the labels: `label: COLUMN`",
        )
    return names


def scores_of(table: Table, column: str, rows: Sequence[int]) -> Floats:
    """The numbers of the given rows, float32 (n,).

    Raises:
        DataError: a value is no finite number.
    """
    values = table.column(column, "label")
    return np.array([_score(values[row], table, row, column) for row in rows], dtype=np.float32)


def _score(value: Any, table: Table, row: int, column: str) -> float:
    try:
        number = float("nan" if value is None or isinstance(value, bool | np.bool_) else value)
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) <= float(np.finfo(np.float32).max):  # NaN isn't either
        raise DataError(
            f'{table.origin}, {table.places[row]}: the score "{column}" is not a number',
            expected="a finite number, such as 3.5",
            found=f"{value!r:.80}",
            fix="correct the row, or set `drop_unlabelled: true` if it is empty; for names, `output: class`",
        )
    return number


def answers_of(table: Table, column: str, rows: Sequence[int]) -> list[str]:
    """The answers in free text of the given rows.

    Raises:
        DataError: an answer is empty or not text.
    """
    values = table.column(column, "label")
    answers = [_text(values[row], f"{table.origin}, {table.places[row]}", column) for row in rows]
    for row, answer in zip(rows, answers, strict=True):
        if not answer.strip():
            raise DataError(
                f'{table.origin}, {table.places[row]}: the answer "{column}" is empty',
                fix="give every row an answer, or set `drop_unlabelled: true`",
            )
    return answers


def spans_of(
    table: Table, column: str, start: str, rows: Sequence[int], inputs: Sequence[Input]
) -> list[Span]:
    """The answers of the given rows that lie in their second texts; `Span("", -1)` for none.

    Args:
        column: the column with the answer: a text, or answers as SQuAD has them, of which the first counts:
            `{"text": [...], "answer_start": [...]}` or `[{"text": ..., "start": ...}, ...]`.
        start: for texts the column with the character that each begins at; an empty text is no answer.
        rows: which rows of the table.
        inputs: their inputs.

    Raises:
        DataError: no second text; an answer isn't there where it should begin.
    """
    values = table.column(column, "label")
    nested = any(isinstance(values[row], Mapping | list | np.ndarray) for row in rows)
    starts = [None] * len(values) if nested else table.column(start, "start")
    return [
        _span(*_first_answer(values[row], starts[row]), item, f"{table.origin}, {table.places[row]}", column)
        for row, item in zip(rows, inputs, strict=True)
    ]


def _first_answer(value: Any, start: Any) -> tuple[Any, Any]:
    """The text and the start, unchecked."""
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        several = [list(x) if isinstance(x, list | tuple | np.ndarray) else [x] for x in (texts, starts)]
        return (several[0][0], several[1][0]) if several[0] and several[1] else ("", -1)
    if isinstance(value, list | np.ndarray):
        return _first_answer(value[0], None) if len(value) else ("", -1)
    return value, start


def _span(value: Any, start: Any, item: Input, place: str, column: str) -> Span:
    if item.text_pair is None:
        raise DataError(
            f"{place}: a span lies in a second text, and there is none",
            expected="a question and its context",
            fix="set `text: COLUMN` (the question) and `text_pair: COLUMN` (the context)",
        )
    text = _text(value, place, column)
    if not text:
        return Span("", -1)
    try:
        begin = int(start)
    except (TypeError, ValueError):
        begin = -1
    found = item.text_pair[begin : begin + len(text)] if begin >= 0 else ""
    if found != text:
        there = item.text_pair.find(text)
        raise DataError(
            f"{place}: the answer isn't in the context where it says",
            expected=f"{text!r:.80} from character {start} on",
            found=f"{found!r:.80}",
            fix=f"it stands at character {there} (from 0)" if there >= 0 else "correct or remove the row",
        )
    return Span(text, begin)


def _label(value: Any, place: str, column: str) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or not str(value).strip():
        raise _no_label(place, column, value)
    return str(value).strip()


def _no_label(place: str, column: str, value: Any) -> DataError:
    return DataError(
        f'{place}: the label "{column}" is empty or not a class',
        found=f"{value!r:.80}",
        fix="give every row one label; `drop_unlabelled: true` leaves rows without one out",
    )
