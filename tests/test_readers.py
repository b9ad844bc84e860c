"""Every kind of file and object becomes the same plain table, or an error that names file and line."""

import json
import re

import datasets
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute import Dataset
from fute.core.errors import DataError
from fute.data.readers import Table, read_file, read_object
from tests.helpers import csv_text, refused, write

ROWS = [{"text": "good, really", "label": "positive"}, {"text": "bad", "label": "negative"}]
COLUMNS = {"text": ["good, really", "bad"], "label": ["positive", "negative"]}
FILES = {
    "reviews.csv": 'text,label\n"good, really",positive\nbad,negative\n',
    "REVIEWS.CSV": 'text,label\r\n"good, really",positive\r\nbad,negative\r\n',
    "reviews.tsv": "text\tlabel\ngood, really\tpositive\nbad\tnegative\n",
    "reviews.jsonl": "\n".join(map(json.dumps, ROWS)),
    "reviews.json": json.dumps(ROWS, indent=2),
}

# Lone surrogates can't be written to a file at all.
any_text = st.text(st.characters(exclude_categories=["Cs"]))
tricky_text = st.text(st.sampled_from("ab\"',;\t \n\r\u2028\u0085\x0b\x1c\ufeffé漢\x00"))


@pytest.mark.parametrize("name", FILES)
def test_a_text_file_becomes_columns(tmp_path, name):
    assert read_file(write(tmp_path / name, FILES[name])).columns == COLUMNS


def test_a_parquet_file_becomes_columns(tmp_path):
    pd.DataFrame(ROWS).to_parquet(tmp_path / "reviews.parquet")
    assert read_file(tmp_path / "reviews.parquet").columns == COLUMNS


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_a_text_file_holds_a_text_a_line(tmp_path, line_break):
    path = write(
        tmp_path / "corpus.txt", line_break.join(["first, with comma", "", "third\u2028still third"])
    )
    table = read_file(path)
    assert table.columns == {"text": ["first, with comma", "third\u2028still third"]}
    assert table.places == ["line 1", "line 3"]


@pytest.mark.parametrize(
    "data",
    [ROWS, tuple(ROWS), iter(ROWS), pd.DataFrame(ROWS), datasets.Dataset.from_list(ROWS)],
    ids=["list", "tuple", "iterator", "pandas", "datasets"],
)
def test_an_object_becomes_columns(data):
    table = read_object(data, "reviews")
    assert table.columns == COLUMNS
    assert table.places == ["row 1", "row 2"]


def test_class_labels_of_a_hub_dataset_become_their_names():
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)
    read = Dataset.from_object(data, name="reviews")
    assert [read.labels[i] for i in read.classes] == ["good", "bad", "good"]


def test_a_hub_row_without_a_class_is_no_class_of_its_own():
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    with refused(DataError, "row 3", '"label" is empty', "`drop_unlabelled: true`"):
        Dataset.from_object(data, name="reviews")
    read = Dataset.from_object(data, name="reviews", drop_unlabelled=True)
    assert [(item.text, read.labels[i]) for item, i in zip(read.inputs, read.classes, strict=True)] == [
        ("a", "good"),
        ("b", "bad"),
    ]


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.usefixtures("datasets_cache")
def test_hf_reads_a_split_of_a_local_folder(tmp_path, ending):
    for split, text in (("train", "seen"), ("test", "unseen")):
        frame = pd.DataFrame({"review": [f"{text} good", f"{text} bad"], "stars": [5, 1]})
        path = tmp_path / "data" / f"{split}.{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            frame.to_csv(index=False) if ending == "csv" else frame.to_json(orient="records", lines=True)
        )
    columns = {"text": "review", "label": "stars", "labels": {"1": "negative", "5": "positive"}}
    read = Dataset.from_hub(str(tmp_path / "data"), split="test", **columns)
    assert [item.text for item in read.inputs] == ["unseen good", "unseen bad"]
    assert [read.labels[i] for i in read.classes] == ["positive", "negative"]


@pytest.mark.usefixtures("datasets_cache")
def test_hf_names_what_it_cant_load(tmp_path):
    write(tmp_path / "data" / "train.csv", "text,label\na,x\nb,y\n")
    with refused(DataError, "[validation]", "check the id, `config` and `split`"):
        Dataset.from_hub(str(tmp_path / "data"), split="validation")
    with refused(DataError, "hf:nobody/no-such-dataset [train]", "without the network"):
        Dataset.from_hub("nobody/no-such-dataset")


@given(texts=st.lists(st.one_of(any_text, tricky_text), min_size=1), kind=st.sampled_from([",csv", "\ttsv"]))
def test_any_text_comes_back_from_a_delimited_file_with_its_line(scratch, texts, kind):
    delimiter, ending = kind[0], kind[1:]
    rows = [["number", "text"], *([str(i), text] for i, text in enumerate(texts))]
    written = [csv_text([row], delimiter) for row in rows]
    table = read_file(write(scratch / f"texts.{ending}", "".join(written)))
    assert table.columns["text"] == texts
    assert table.columns["number"] == [str(i) for i in range(len(texts))]
    breaks = [len(re.findall("\r\n|\r|\n", "".join(written[: i + 1]))) for i in range(len(texts))]
    assert table.places == [f"line {count + 1}" for count in breaks]


@given(texts=st.lists(st.one_of(any_text, tricky_text), min_size=1))
def test_any_text_comes_back_from_json_lines(scratch, texts):
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    assert read_file(write(scratch / "texts.jsonl", "\n".join(lines))).columns["text"] == texts


@given(
    content=st.one_of(st.binary(), st.text('{}[]":,ab1\n\\-').map(str.encode)),
    ending=st.sampled_from(["csv", "tsv", "jsonl", "json", "txt", "parquet"]),
)
def test_any_bytes_are_a_table_or_an_error_that_names_the_file(scratch, content, ending):
    path = write(scratch / f"noise.{ending}", content)
    try:
        table = read_file(path)
    except DataError as error:
        said = error.problem
    else:
        said = table.origin
        assert {len(column) for column in table.columns.values()} <= {len(table.places)}
    assert str(path) in said


def test_a_text_over_128_kib_is_read_whole(tmp_path):
    long = "word, " * 50_000
    path = write(tmp_path / "long.csv", csv_text([["text", "label"], [long, "x"], ["short", "y"]]))
    assert read_file(path).columns == {"text": [long, "short"], "label": ["x", "y"]}


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "text,label\nx,1\n"), ("a.jsonl", '{"text": "x", "label": "1"}'), ("a.txt", "x")],
)
@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf_8"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, name, content, encoding):
    table = read_file(write(tmp_path / name, "\ufeff" + content), encoding)
    assert table.columns["text"] == ["x"]


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "true", "007", "1e5", " padded "])
def test_words_are_not_guessed_to_be_values(tmp_path, word):
    path = write(tmp_path / "words.csv", csv_text([["text", "label"], [word, word]]))
    assert read_file(path).columns == {"text": [word], "label": [word]}


def test_blank_lines_are_no_rows(tmp_path):
    table = read_file(write(tmp_path / "gaps.csv", "\ntext,label\n\na,x\n\nb,y\n\n"))
    assert table.columns == {"text": ["a", "b"], "label": ["x", "y"]}
    assert table.places == ["line 4", "line 6"]


def test_keys_that_a_json_row_lacks_are_none(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"text": "a"}\n{"text": "b", "label": "y"}\n')
    assert read_file(path).columns == {"text": ["a", "b"], "label": [None, "y"]}


@pytest.mark.parametrize("nothing", [None, float("nan"), pd.NA, pd.NaT])
@pytest.mark.parametrize("dtype", [object, "string"])
def test_a_missing_value_of_a_data_frame_is_none(nothing, dtype):
    frame = pd.DataFrame({"text": pd.Series(["a", nothing], dtype=dtype), "label": ["x", "y"]})
    assert read_object(frame, "frame").columns["text"] == ["a", None]


def test_a_missing_number_of_a_data_frame_is_no_label():
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": pd.array([1, None, 0], dtype="Int64")})
    with refused(DataError, "frame, row 2", '"label" is empty'):
        Dataset.from_object(frame, name="frame")


def test_another_encoding_is_read_when_named(tmp_path):
    path = write(tmp_path / "old.csv", "text,label\ncafé,1\n".encode("latin-1"))
    assert read_file(path, "latin-1").columns["text"] == ["café"]
    with refused(DataError, "old.csv, line 2: not valid utf-8", "byte 0xe9", "encoding: latin-1"):
        read_file(path)


def test_utf_16_is_told_by_its_byte_order_mark(tmp_path):
    text = "text,label\ncafé,1\n"
    path = write(tmp_path / "wide.csv", text.encode("utf-16"))
    assert read_file(path, "utf-16").columns["text"] == ["café"]
    with refused(DataError, "wide.csv, line 1: not valid utf-8", "do: save", "`encoding: utf-16`"):
        read_file(path)
    for start in ("", "\ufeff"):
        write(path, (start + text + " " * len(text.encode())).encode())
        with refused(DataError, "wide.csv: not valid utf-16", "no byte order mark", "leave `encoding` out"):
            read_file(path, "utf-16")
    assert read_file(write(path, text.encode("utf-16-le")), "utf-16-le").columns["text"] == ["café"]


def test_a_folder_is_no_file(tmp_path):
    with refused(DataError, f"{tmp_path} is a folder, not a file"):
        read_file(tmp_path)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_broken_utf8_is_found_on_its_line(tmp_path, start):
    path = write(tmp_path / "broken.csv", start + b"text,label\na,b\n\xff,c\n")
    with refused(DataError, "broken.csv, line 3: not valid utf-8", "byte 0xff"):
        read_file(path)


@pytest.mark.parametrize("encoding", ["utf-9", "rot13", ""])
def test_an_unknown_encoding_is_named(tmp_path, encoding):
    path = write(tmp_path / "a.csv", "text\na\n")
    with refused(DataError, "a.csv", f'encoding called "{encoding}"', "latin-1"):
        read_file(path, encoding)


def test_a_missing_file_is_named_with_the_nearest(tmp_path):
    write(tmp_path / "reviews.csv", "text\na\n")
    with refused(DataError, f"no file {tmp_path / 'review.csv'}", 'Did you mean "reviews.csv"?', "check the"):
        read_file(tmp_path / "review.csv")
    with refused(DataError, "no file", "nowhere"):
        read_file(tmp_path / "nowhere" / "reviews.csv")


@pytest.mark.parametrize("name", ["reviews.xlsx", "reviews"])
def test_an_unknown_ending_lists_the_known(tmp_path, name):
    with refused(DataError, name, ".csv, .tsv, .jsonl, .json, .parquet, .txt"):
        read_file(write(tmp_path / name, "x"))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("text,label\na,x\nb\n", 3),
        ("text,label\na,x\nb,y,z\n", 3),
        ('text,label\n"three\nlines\nlong",x\nb\n', 5),
        ('text,label\r\n"two\r\nlines",x\r\n\r\nb\r\n', 5),
    ],
)
def test_a_ragged_row_is_found_on_its_line(tmp_path, content, line):
    path = write(tmp_path / "ragged.csv", content)
    with refused(DataError, f"ragged.csv, line {line}: ", "the header has 2", "double quotes"):
        read_file(path)


def test_an_unclosed_quote_is_found_where_it_opens(tmp_path):
    path = write(tmp_path / "open.csv", 'text,label\na,x\n"b,y\nc,z\nd,w\n')
    with refused(DataError, "open.csv, line 3: not valid CSV", "close every"):
        read_file(path)


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = write(tmp_path / "twice.csv", "text,label,text\na,x,b\n")
    with refused(DataError, "twice.csv", 'two columns are called "text"', "rename one"):
        read_file(path)
    with refused(DataError, "frame", 'two columns are called "text"', "rename one"):
        read_object(pd.DataFrame([["a", "b"]], columns=["text", "text"]), "frame")


@pytest.mark.parametrize("bad", ['{"text": "b"', "[1, 2]", '"b"', "{'text': 'b'}"])
def test_a_line_that_is_no_json_object_is_found(tmp_path, bad):
    path = write(tmp_path / "rows.jsonl", f'{{"text": "a"}}\n\n{bad}\n')
    with refused(DataError, "rows.jsonl, line 3: "):
        read_file(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"text": "a"},\n {"text": }]', ["line 2: not valid JSON", "use .jsonl"]),
        ('{"text": "a"}', ["a list of JSON objects"]),
        ('[{"text": "a"}, 3]', ["a list of JSON objects"]),
    ],
)
def test_a_json_file_that_is_no_list_of_objects_is_refused(tmp_path, content, words):
    with refused(DataError, "rows.json", *words):
        read_file(write(tmp_path / "rows.json", content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", ""),
        ("a.csv", "text,label\n"),
        ("a.tsv", "\n\n"),
        ("a.jsonl", "\n"),
        ("a.json", "[]"),
        ("a.txt", " "),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path, name, content):
    with refused(DataError, name, "holds no rows"):
        read_file(write(tmp_path / name, content))


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    with refused(DataError, "a.parquet: not a Parquet file"):
        read_file(write(tmp_path / "a.parquet", "text,label\n"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], ["holds no rows"]),
        (pd.DataFrame({"text": []}), ["holds no rows"]),
        ("reviews.csv", ["can't read a str", "a list of dicts"]),
        ({"text": ["a"]}, ["can't read a dict", "a list of dicts"]),
        (datasets.DatasetDict(), ["can't read a DatasetDict", "a datasets.Dataset"]),
        (["a", "b"], ["expected a list of dicts", "a list of str"]),
    ],
)
def test_an_object_that_is_no_table_is_refused(data, words):
    with refused(DataError, "reviews", *words):
        read_object(data, "reviews")


def test_a_missing_column_is_named_with_the_nearest():
    table = Table("reviews.csv", {"review": ["a"], "label": ["x"]}, ["line 2"], {})
    with refused(DataError, 'no column "reviw"', 'Did you mean "review"?', "review, label", "text: COLUMN"):
        table.column("reviw", "text")
