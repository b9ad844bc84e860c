"""From a file, a data frame or a `datasets.Dataset` to one plain table. No type guessing: text stays text."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fute.core.errors import DataError, did_you_mean, listing
from fute.core.files import storing
from fute.core.runtime import require
from fute.data.splits import sample_indices

# The branch with the hub's own copies.
_CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True)
class Table:
    """Columns of equal length, and where each row stands in its source.

    Attributes:
        origin: what to call it in messages, for example the file's path.
        columns: values by column name.
        places: for each row, "line 7" or "row 7".
        class_names: for columns whose integers stand for names (a hub dataset's ClassLabel), the names.
    """

    origin: str
    columns: dict[str, Sequence[Any]]
    places: Sequence[str]
    class_names: dict[str, list[str]]

    def column(self, name: str, purpose: str) -> Sequence[Any]:
        """The values of a column.

        Raises:
            DataError: there is no such column; lists those there are.
        """
        if name not in self.columns:
            raise DataError(
                f'{self.origin} has no column "{name}".{did_you_mean(name, self.columns)}',
                expected=f"a column for `{purpose}`",
                found=f"columns {listing(self.columns)}",
                fix=f"set `{purpose}: COLUMN`",
            )
        return self.columns[name]


def read_file(path: Path, encoding: str = "utf-8") -> Table:
    """Read `.csv`, `.tsv`, `.jsonl`, `.json` (a list), `.parquet` or `.txt` (a text a line).

    Raises:
        DataError: no such file, an ending fute doesn't know, no rows, or damaged content; names the line.
    """
    with storing(path):
        is_there = path.is_file()
    if not is_there:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        missing = f"there is no file {path}.{did_you_mean(path.name, near)}"
        raise DataError(
            f"{path} is a folder, not a file" if path.is_dir() else missing,
            fix="check the path; it is relative to the folder of fute.yaml",
        )
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: fute can't read files that end in {path.suffix or 'nothing'}",
            expected=f"one of {listing(_READERS)}",
        )
    table = reader(path, encoding)
    if not table.places:
        raise DataError(f"{path} holds no rows")
    return table


def _text_of(path: Path, encoding: str) -> str:
    with storing(path):
        content = path.read_bytes()
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        name = codecs.lookup(encoding).name
        if name == "utf-8":
            content = content.removeprefix(codecs.BOM_UTF8)
        if name == "utf-16" and not is_utf_16:  # any bytes would be letters of some script
            raise DataError(
                f"{path}: not valid {encoding}",
                found="no byte order mark at its beginning",
                fix="leave `encoding` out for UTF-8; without a mark, utf-16-le or utf-16-be",
            )
        return content.decode(encoding)
    except LookupError:
        raise DataError(
            f'{path}: there is no text encoding called "{encoding}"', fix="for example utf-8, latin-1"
        ) from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not valid {encoding}",
            found=f"byte 0x{content[error.start]:02x}",
            fix="save the file as UTF-8, or say how it is encoded"
            + (": `encoding: utf-16`" if is_utf_16 else ", for example `encoding: latin-1`"),
        ) from error


def _lines_of(path: Path, encoding: str) -> list[tuple[int, str]]:
    """The lines that aren't blank, with their numbers. Only line breaks part them, no U+2028."""
    lines = _text_of(path, encoding).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _from_rows(origin: str, rows: Sequence[dict[str, Any]], places: Sequence[str]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(origin, {name: [row.get(name) for row in rows] for name in names}, places, {})


def _delimited(path: Path, encoding: str, delimiter: str) -> Table:
    csv.field_size_limit(sys.maxsize)  # the default refuses a text over 128 KiB
    reader = csv.reader(io.StringIO(_text_of(path, encoding), newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    places: list[str] = []
    start = 1
    try:
        header = next((row for row in reader if row), [])
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise _same_name(str(path), twice)
        start = reader.line_num + 1
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise DataError(
                        f"{path}, line {start}: {len(row)} fields where the header has {len(header)}",
                        found=listing((repr(field[:40]) for field in row), 6),
                        fix='put fields that contain the delimiter or a line break in "double quotes"',
                    )
                rows.append(row)
                places.append(f"line {start}")
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {start}: not valid CSV",
            found=str(error),
            fix='close every "quoted field", and write a quote within it twice',
        ) from error
    return Table(str(path), {name: [row[i] for row in rows] for i, name in enumerate(header)}, places, {})


def _same_name(origin: str, names: Iterable[str]) -> DataError:
    quoted = listing(f'"{name}"' for name in names)
    return DataError(f"{origin}: two columns are called {quoted}", fix="rename one of them")


def _json_lines(path: Path, encoding: str) -> Table:
    lines = _lines_of(path, encoding)
    places = [f"line {number}" for number, _ in lines]
    rows = [_json_object(path, line, place) for (_, line), place in zip(lines, places, strict=True)]
    return _from_rows(str(path), rows, places)


def _json_object(path: Path, text: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, {place}: not valid JSON",
            found=f"{error.msg} at column {error.colno}",
            fix="write one JSON object a line",
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise DataError(f"{path}, {place}: JSON that can't be read", found=str(error)) from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, {place}: expected a JSON object", found=text[:80])
    return row


def _json_list(path: Path, encoding: str) -> Table:
    try:
        rows = json.loads(_text_of(path, encoding))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}: not valid JSON",
            found=error.msg,
            fix="for one object a line, use .jsonl",
        ) from error
    except (RecursionError, ValueError) as error:  # as above
        raise DataError(f"{path}: JSON that can't be read", found=str(error)) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected a list of JSON objects")
    return _from_rows(str(path), rows, [f"row {i + 1}" for i in range(len(rows))])


def _parquet(path: Path, encoding: str) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not a Parquet file that can be read", found=str(error).splitlines()[0]
        ) from error
    places = [f"row {i + 1}" for i in range(content.num_rows)]
    return Table(str(path), {name: content[name].to_pylist() for name in content.column_names}, places, {})


def _text_lines(path: Path, encoding: str) -> Table:
    lines = _lines_of(path, encoding)
    return Table(str(path), {"text": [line for _, line in lines]}, [f"line {i}" for i, _ in lines], {})


_READERS: dict[str, Callable[[Path, str], Table]] = {
    ".csv": lambda path, encoding: _delimited(path, encoding, ","),
    ".tsv": lambda path, encoding: _delimited(path, encoding, "\t"),
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".parquet": _parquet,
    ".txt": _text_lines,
}


def read_object(data: Any, origin: str) -> Table:
    """Read a pandas DataFrame, a `datasets.Dataset`, or a list of dicts.

    Raises:
        DataError: none of these, or no rows.
    """
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas
        if not data.columns.is_unique:
            raise _same_name(origin, data.columns[data.columns.duplicated()])
        # pandas has four words for "nothing" (nan, None, NA, NaT); here it is always None
        plain = data.astype(object).where(data.notna(), None)
        columns = {str(name): plain[name].tolist() for name in plain.columns}
        table = Table(origin, columns, [f"row {i + 1}" for i in range(len(data))], {})
    elif hasattr(data, "features") and hasattr(data, "column_names"):  # datasets
        columns = {name: list(data[name]) for name in data.column_names}
        names = {name: list(f.names) for name, f in data.features.items() if hasattr(f, "names")}
        table = Table(origin, columns, [f"row {i + 1}" for i in range(len(data))], names)
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | dict):
        rows = list(data)
        if not all(isinstance(row, dict) for row in rows):
            raise DataError(
                f"{origin}: expected a list of dicts", found=f"a list of {type(rows[0]).__name__}"
            )
        table = _from_rows(origin, rows, [f"row {i + 1}" for i in range(len(rows))])
    else:
        raise DataError(
            f"{origin}: can't read a {type(data).__name__}",
            expected="a pandas DataFrame, a datasets.Dataset or a list of dicts",
        )
    if not table.places:
        raise DataError(f"{origin} holds no rows")
    return table


def read_hub(name: str, config: str | None, split: str, *, sample: int | None = None, seed: int = 0) -> Table:
    """Read one split of a hub dataset, or of a local folder that the `datasets` library understands.

    Args:
        name: `org/name`, or `org/name@REVISION`. `refs/convert/parquet` is the hub's own copy of a dataset
            whose loading script `datasets` runs no more; its configurations are folders.
        config, split: as the dataset calls them.
        sample, seed: draw so many rows.

    Raises:
        DataError: the hub can't be reached, or has no such dataset or split.
        MissingError: the `datasets` library isn't installed.
    """
    require("datasets", "hf", f"the dataset hf:{name}")
    import datasets

    datasets.disable_progress_bars()
    origin = f"hf:{name} [{split}]"
    repo, _, revision = (name, "", "") if Path(name).exists() else name.partition("@")
    if revision == _CONVERTED:
        where: dict[str, Any] = {"data_dir": config, "revision": revision}
    else:
        where = {"name": config, "revision": revision or None}
    try:
        data = datasets.load_dataset(repo, split=split, **where)
    except Exception as error:  # `datasets` raises many unrelated types here
        message = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"can't load {origin}",
            found=message[0][:300],
            fix="check the id, `config` and `split`; without the network, download it and use `path`",
        ) from error
    return read_object(data.select(sample_indices(len(data), sample, seed)) if sample else data, origin)


def fetch(place: str) -> Path:
    """A file of the web, or of this machine, unpacked; what was downloaded is kept by the `datasets` library.

    Raises:
        DataError: it can't be had.
        MissingError: the `datasets` library isn't installed.
    """
    require("datasets", "hf", place)
    import datasets

    try:
        return Path(datasets.DownloadManager().download_and_extract(place))
    except Exception as error:  # as above
        raise DataError(
            f"can't get {place}",
            found=f"{type(error).__name__}: {error}".splitlines()[0][:300],
            fix="check the network; or download it elsewhere and name its path",
        ) from error
