"""From a table's columns to inputs and label indices, refusing what would silently be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import DataError, did_you_mean, listing
from fute.core.types import Input
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
    # A lone surrogate can't be written as UTF-8, so no tokenizer takes it.
    return value.encode("utf-8", "replace").decode("utf-8")


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
        for row, value in zip(rows, raw, strict=True):
            if value == "-1":  # how `datasets` writes "no label"
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
        fix="give every row one label, or remove the row",
    )
