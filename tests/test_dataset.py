"""From tables to labelled datasets and the unlabelled corpus: columns, labels, samples, splits, pairs."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fute import Corpus, Dataset, Input
from fute.core.errors import DataError
from fute.data.corpus import fit
from fute.data.splits import balanced_indices, sample_indices
from tests.helpers import csv_text, refused, write

REVIEWS = [
    {"review": "good", "reply": "thanks", "stars": 5},
    {"review": "bad", "reply": "sorry", "stars": 1},
    {"review": "fine", "reply": "well", "stars": 3},
    {"review": "awful", "reply": "oh", "stars": 1},
]


def dataset(raw, **columns):
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(raw)]
    return Dataset.from_object(rows, name="made", **columns)


def label_names(data):
    return [data.labels[i] for i in data.classes]


def test_columns_are_mapped():
    data = Dataset.from_object(REVIEWS, name="reviews", text="review", label="stars")
    assert data.inputs[:2] == [Input("good"), Input("bad")]
    assert label_names(data) == ["5", "1", "3", "1"]
    assert data.labels == ("1", "3", "5")


def test_pairs_keep_their_order():
    data = Dataset.from_object(REVIEWS, name="pairs", text="reply", text_pair="review", label="stars")
    assert data.inputs[0] == Input(text="thanks", text_pair="good")


def test_a_file_gives_its_name_to_the_dataset(tmp_path):
    path = write(tmp_path / "polite.csv", csv_text([["text", "label"], ["a", "x"], ["b", "y"]]))
    assert Dataset.from_file(path).name == "polite"
    assert Dataset.from_file(path, name="kind").name == "kind"


def test_examples_are_one_hot_in_the_order_of_the_labels():
    data = dataset(["b", "a", "c"], labels=["c", "b", "a"])
    assert data.examples.labels == ("c", "b", "a")
    assert data.examples.probabilities.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_a_list_of_labels_gives_their_order_and_may_hold_more_than_occur():
    data = dataset(["yes", "no"], labels=["yes", "maybe", "no"])
    assert data.labels == ("yes", "maybe", "no")
    assert data.classes.tolist() == [0, 2]


def test_a_mapping_of_labels_renames_and_merges():
    data = dataset([5, 1, 4, 2], labels={"1": "bad", "2": "bad", "4": "good", "5": "good"})
    assert data.labels == ("bad", "good")
    assert label_names(data) == ["good", "bad", "good", "bad"]


@pytest.mark.parametrize("labels", [[1, 0], {1: "1", 0: "0"}])
def test_labels_may_be_named_by_numbers(labels):
    data = dataset([0, 1], labels=labels)
    assert data.labels == ("1", "0")
    assert data.classes.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (1, "1"),
        (1.0, "1"),
        (np.int8(1), "1"),
        (np.float32(1), "1"),
        (True, "True"),
        (np.bool_(True), "True"),
        (" one ", "one"),
        ("1.0", "1.0"),
    ],
)
def test_a_label_is_text(raw, name):
    assert label_names(dataset([raw, "other"]))[0] == name


def test_integers_that_pandas_made_floats_are_integers_again():
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [0, 1, None]}).dropna()
    assert Dataset.from_object(frame, name="frame").labels == ("0", "1")


@pytest.mark.parametrize("empty", ["", "  ", None, float("nan"), 0.5, ["a", "b"], {"a": 1}])
def test_what_is_no_class_is_refused(empty):
    with refused(DataError, "made, row 3", '"label" is empty or not a class', "give every row one label"):
        dataset(["a", "b", empty])


@pytest.mark.parametrize("missing", ["", "  ", None, float("nan"), np.float32("nan")])
def test_rows_without_a_label_are_left_out_on_request(missing):
    data = dataset(["a", missing, "b", missing, "a"], drop_unlabelled=True)
    assert [item.text for item in data.inputs] == ["text 0", "text 2", "text 4"]
    assert label_names(data) == ["a", "b", "a"]
    with refused(DataError, "made, row 2", "`drop_unlabelled: true`"):
        dataset(["a", missing, "b"])
    with refused(DataError, 'no row has a "label"'):
        dataset([missing, missing], drop_unlabelled=True)


def test_leaving_rows_without_a_label_out_keeps_what_is_wrong_wrong():
    with refused(DataError, "made, row 2", "not a class"):
        dataset(["a", 0.5, "b"], drop_unlabelled=True)
    assert label_names(dataset([-1, 0, 1], drop_unlabelled=True)) == ["-1", "0", "1"], "a class here"


def test_rows_without_a_score_or_an_answer_are_left_out_on_request():
    scores = dataset([1.5, None, 2.5, float("nan")], output="score", drop_unlabelled=True)
    assert scores.targets.tolist() == [1.5, 2.5]
    answers = dataset(["Paris", " ", None, "Rome"], output="text", drop_unlabelled=True)
    assert list(answers.targets) == ["Paris", "Rome"]
    assert [item.text for item in answers.inputs] == ["text 0", "text 3"]
    for output, value in (("score", None), ("text", "")):
        with refused(DataError, "made, row 2", "`drop_unlabelled: true`"):
            dataset(["1", value, "2"], output=output)


def test_an_unknown_label_is_named_with_row_and_nearest(tmp_path):
    path = write(tmp_path / "r.csv", "text,label\na,positive\nb,negative\nc,positiv\n")
    with refused(
        DataError, "r.csv, line 4", '"positiv"', 'Did you mean "positive"?', "negative, positive", "add the"
    ):
        Dataset.from_file(path, labels=["negative", "positive"])


def test_one_class_is_refused():
    with refused(DataError, 'every row has the label "x"', "3 rows of one class", '"label" is the label'):
        dataset(["x", "x", "x"], labels=["x", "y"])
    with refused(DataError, 'every row has the label "same"'):
        dataset(["x", "y"], labels={"x": "same", "y": "same"})


def test_a_sample_of_one_class_is_refused():
    with refused(DataError, 'every row of the sample has the label "x"', "5 of 101 rows", "raise `sample`"):
        dataset(["x"] * 100 + ["y"], sample=5)


@pytest.mark.parametrize("empty", ["", " \n", None, float("nan")])
def test_an_empty_text_is_refused_or_dropped(empty):
    rows = [{"text": t, "label": y} for t, y in [("a", "x"), (empty, "y"), ("c", "z")]]
    with refused(DataError, "rows, row 2", '"text" is empty', "`drop_empty: true`"):
        Dataset.from_object(rows, name="rows")
    data = Dataset.from_object(rows, name="rows", drop_empty=True)
    assert [item.text for item in data.inputs] == ["a", "c"]
    assert label_names(data) == ["x", "z"]


def test_an_empty_half_of_a_pair_counts_as_empty():
    rows = [{"text": "a", "other": "b", "label": 0}, {"text": "c", "other": "", "label": 1}]
    with refused(DataError, "row 2", '"other" is empty'):
        Dataset.from_object(rows, name="rows", text_pair="other")


def test_only_empty_texts_are_refused_even_when_dropped():
    with refused(DataError, "corpus holds no row with a text"):
        Corpus.from_object([{"text": ""}, {"text": " "}], drop_empty=True)


@pytest.mark.parametrize(("value", "kind"), [(3, "int"), (2.5, "float"), (["a"], "list"), (b"a", "bytes")])
def test_a_text_that_is_none_is_refused(value, kind):
    rows = [{"text": "a", "label": 0}, {"text": value, "label": 1}]
    with refused(DataError, "row 2", '"text" is not text', f"({kind})", "choose another column"):
        Dataset.from_object(rows, name="rows")


def test_a_lone_surrogate_does_not_reach_the_tokenizer():
    corpus = Corpus.from_object([{"text": "half \ud83d of a smile"}])
    assert corpus.inputs[0].text == "half ? of a smile"


def test_a_missing_column_is_named_for_its_purpose():
    with refused(DataError, 'no column "review"', "columns text, label", "set `text: COLUMN`"):
        dataset(["a", "b"], text="review")
    with refused(DataError, 'no column "labels"', 'Did you mean "label"?', "set `label: COLUMN`"):
        dataset(["a", "b"], label="labels")


def test_a_sample_is_the_same_for_a_seed_and_another_for_another():
    one, again, other = (dataset(["x", "y"] * 50, sample=20, seed=seed) for seed in (1, 1, 2))
    assert len(one) == 20
    assert one.inputs == again.inputs
    assert one.classes.tolist() == again.classes.tolist()
    assert one.inputs != other.inputs


def test_a_sample_keeps_texts_and_labels_together():
    data = dataset(["even", "odd"] * 50, sample=30)
    for item, label in zip(data.inputs, label_names(data), strict=True):
        assert label == ("odd" if int(item.text.removeprefix("text ")) % 2 else "even")


@given(n=st.integers(1, 50), size=st.integers(1, 60), seed=st.integers(0, 9))
def test_a_sample_holds_each_row_once_in_order(n, size, seed):
    rows = sample_indices(n, size, seed).tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == min(n, size)
    assert set(rows) <= set(range(n))


@given(
    sizes=st.lists(st.integers(2, 30), min_size=2, max_size=4),
    test=st.floats(0.05, 0.95),
    seed=st.integers(0, 9),
)
def test_a_split_is_disjoint_complete_stratified_and_deterministic(sizes, test, seed):
    assume(all(0 < round(test * size) < size for size in sizes))
    labels = [f"class {c}" for c, size in enumerate(sizes) for _ in range(size)]
    shuffled = np.random.default_rng(seed).permutation(labels).tolist()
    data = dataset(shuffled)
    train, held_out = data.split(test, seed)
    numbers = [item.text for part in (train, held_out) for item in part.inputs]
    assert sorted(numbers) == sorted(item.text for item in data.inputs)
    counts = Counter(label_names(held_out))
    assert counts == {f"class {c}": round(test * size) for c, size in enumerate(sizes)}
    assert train.labels == held_out.labels == data.labels
    where = {item.text: label for item, label in zip(data.inputs, shuffled, strict=True)}
    assert label_names(train) == [where[item.text] for item in train.inputs]
    again = data.split(test, seed)
    assert [part.inputs for part in again] == [train.inputs, held_out.inputs]


def test_another_seed_splits_otherwise():
    data = dataset(["x", "y"] * 50)
    assert data.split(0.5, 0)[1].inputs != data.split(0.5, 1)[1].inputs


def test_no_test_share_holds_nothing_out():
    train, held_out = dataset(["x", "y", "x"]).split(0)
    assert (len(train), len(held_out)) == (3, 0)


@pytest.mark.parametrize("test", [0.1, 0.9])
def test_a_class_with_too_few_rows_to_split_is_refused(test):
    with refused(DataError, "dataset made: 3 rows of one class", f"a share of {test}", "change `test`"):
        dataset(["x"] * 10 + ["y"] * 3).split(test)


def test_a_corpus_keeps_equal_texts_once_in_order():
    rows = [{"text": t} for t in ["b", "a", "b", "c", "a"]]
    assert Corpus.from_object(rows).inputs == [Input("b"), Input("a"), Input("c")]


def test_a_corpus_samples_after_dropping_doubles():
    rows = [{"text": f"text {i % 10}"} for i in range(100)]
    assert len(Corpus.from_object(rows, sample=8)) == 8
    assert len(Corpus.from_object(rows, sample=50)) == 10


def test_a_corpus_of_pairs_tells_pairs_apart():
    rows = [{"a": "x", "b": "y"}, {"a": "x", "b": "z"}, {"a": "x", "b": "y"}]
    assert Corpus.from_object(rows, text="a", text_pair="b").inputs == [Input("x", "y"), Input("x", "z")]


def test_a_corpus_is_a_dataset_without_labels():
    rows = [{"text": t, "label": y} for t, y in [("a", 0), ("b", 1), ("a", 1)]]
    assert Corpus.from_dataset(Dataset.from_object(rows, name="d")).inputs == [Input("a"), Input("b")]


def test_the_fingerprint_of_a_corpus_is_that_of_its_texts_in_order():
    one, same, other = (Corpus.from_object([{"text": t} for t in texts]) for texts in ("ab", "abb", "ba"))
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("One two three four. Five six.", ("One two three four.", "Five six.")),
        ("Yes. It was a long day! Was it?", ("Yes. It was a long day!", "Was it?")),
        ('He said "no." Then he left.', ('He said "no."', "Then he left.")),
        ("no sentence end in here", ("no sentence", "end in here")),
        ("Only at the very end.", ("Only at the", "very end.")),
        ("word", ("word", "word")),
        (" word ", (" word ", " word ")),
    ],
)
def test_a_text_for_a_model_of_pairs_is_cut_near_its_middle(text, pair):
    assert fit(Input(text), "pair") == Input(*pair)


def test_a_pair_for_a_model_of_one_text_is_joined():
    assert fit(Input("It rains.", "It is wet."), "text") == Input("It rains.\nIt is wet.")


texts = st.text(st.sampled_from("ab .!?\n\u2003é'")).filter(str.strip)


@given(item=st.builds(Input, texts, st.none() | texts), pair=st.booleans())
def test_fitting_twice_is_fitting_once_and_loses_no_word(item, pair):
    shape = "pair" if pair else "text"
    fitted = fit(item, shape)
    assert (fitted.text_pair is not None) == pair
    assert fit(fitted, shape) == fitted
    before = f"{item.text} {item.text_pair or ''}".split()
    after = f"{fitted.text} {fitted.text_pair or ''}".split()
    assert after == before or (len(before) == 1 and after == before * 2)
    assert fitted.text.strip()
    assert fitted.text_pair is None or fitted.text_pair.strip()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(0, 3))
def test_a_larger_sample_holds_every_smaller_one(n, a, b, seed):
    small, large = sample_indices(n, min(a, b), seed), sample_indices(n, max(a, b), seed)
    assert set(small) <= set(large)
    assert len(large) == min(max(a, b), n)
    assert (np.diff(large) > 0).all()


def test_few_rows_are_of_every_class_in_turn():
    data = dataset(["common"] * 90 + ["rare"] * 3 + ["other"] * 7)
    counts = {size: Counter(label_names(data.few(size))) for size in (3, 9, 12, 20)}
    assert counts[3] == {"common": 1, "rare": 1, "other": 1}
    assert counts[9] == {"common": 3, "rare": 3, "other": 3}
    assert sorted(counts[12].values()) == [3, 4, 5]
    assert counts[12]["rare"] == 3
    assert counts[20] == {"common": 10, "rare": 3, "other": 7}
    assert len(data.few(1000)) == 100


def test_a_balanced_sample_is_of_every_class_alike():
    labels = ["common"] * 90 + ["rare"] * 10
    assert Counter(label_names(dataset(labels, sample=16, balanced=True))) == {"common": 8, "rare": 8}
    assert Counter(label_names(dataset(labels, sample=40, balanced=True))) == {"common": 30, "rare": 10}
    assert Counter(label_names(dataset(labels, balanced=True))) == {"common": 90, "rare": 10}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 5))
def test_few_rows_are_balanced_and_held_by_more(classes, size, seed):
    rows = balanced_indices(np.array(classes), size, seed)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == min(size, len(classes))
    assert set(rows) <= set(balanced_indices(np.array(classes), size + 1, seed))
    drawn, there = Counter(classes[i] for i in rows), Counter(classes)
    most = max(drawn.values())
    assert all(drawn[value] >= min(most - 1, there[value]) for value in there)


def test_another_seed_draws_other_rows():
    data = dataset(["x", "y"] * 50)
    assert data.few(8, 1).inputs == data.few(8, 1).inputs
    assert data.few(8, 1).inputs != data.few(8, 2).inputs


def test_few_rows_of_one_score_are_refused():
    rows = [{"text": f"text {i}", "label": 2.0 if i else 3.0} for i in range(100)]
    data = Dataset.from_object(rows, name="made", output="score")
    with refused(DataError, 'every row of the sample has the score "2.0"', "2 of 100 rows", "or `few`"):
        data.few(2)


def test_a_dataset_without_labels_has_inputs_and_the_names_of_its_classes():
    rows = [{"text": f"text {i}", "label": "never read"} for i in range(9)]
    data = Dataset.from_object(rows, name="new", label=None, labels={0: "bad", 1: "good"}, sample=4)
    assert (data.name, data.targets, data.labels, len(data)) == ("new", None, ("bad", "good"), 4)
    same = Dataset.unlabelled([item.text for item in data.inputs], ["bad", "good"], name="new", origin="new")
    assert same == data
    assert Dataset.unlabelled(data.inputs, ["bad", "good"], name="new").inputs == data.inputs


def test_a_dataset_without_labels_may_be_split_and_drawn_from():
    data = Dataset.unlabelled([f"text {i}" for i in range(10)], ["bad", "good"], name="new")
    train, held_out = data.split(0.3)
    assert (len(train), len(held_out), train.targets) == (7, 3, None)
    assert not set(train.inputs) & set(held_out.inputs)
    assert len(data.few(4)) == 4


def test_labels_that_nobody_knows_are_no_classes():
    data = Dataset.unlabelled(["a", "b"], ["bad", "good"], name="new")
    for what in ("classes", "examples"):
        with refused(DataError, "dataset new has no labels", "`label: COLUMN`"):
            getattr(data, what)


@pytest.mark.parametrize("labels", [None, [], ["only"], ["same", "same"], {"0": "same", "1": "same"}])
def test_a_dataset_without_labels_needs_the_names_of_two_classes(labels):
    with refused(DataError, "new has no labels", "at least two classes", "set `labels: [NAME, NAME]`"):
        Dataset.from_object([{"text": "a"}, {"text": "b"}], name="new", label=None, labels=labels)


def test_a_dataset_without_labels_is_of_classes():
    with refused(DataError, "new has no labels", "`output: text`"):
        Dataset.from_object([{"text": "a"}], name="new", label=None, output="text")
    with refused(DataError, "dataset new has no inputs"):
        Dataset.unlabelled([], ["bad", "good"], name="new")
