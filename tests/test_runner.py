"""Labelling: each answer asked for once, saved at once, and given back in the order of the inputs."""

import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute.core.errors import ModelError, StorageError
from fute.core.types import Input
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label, pending
from fute.models.base import BlackBox
from fute.models.callable import CallableModel
from tests.helpers import refused
from tests.storage import finish, start, write_protected

LABELS = ("no", "yes")


def texts(n):
    """Texts of very different lengths, each with a number of its own, and not in the order of length."""
    return [Input(f"{i} " + "word " * (i * 37 % 91)) for i in range(n)]


def right(inputs):
    """What the models here answer to texts that start with a number: an answer of its own to each."""
    yes = np.array([int(item.text.split()[0]) / 1000 for item in inputs], dtype=np.float32)
    return np.column_stack([1 - yes, yes])


def counting(asked, name="counting", pair=False):
    """A model that writes down in the list `asked` what it was asked."""

    def model(given_texts):
        asked.extend(given_texts)
        return right([Input(text[0] if pair else text) for text in given_texts])

    return CallableModel(model, LABELS, name=name, pair=pair, version="1")


class Prompt(BlackBox):
    """Like a prompted LLM: asked in small batches, and together with those of its group.

    `asked` gets an entry (names of the boxes, texts) for each batch; `fault` is done to each answer.
    """

    kind = "llm"
    batch = 32
    labels = LABELS

    def __init__(self, name, asked, group=None, fault=None):
        self.name, self.asked, self.group, self.fault = name, asked, group, fault

    @property
    def fingerprint(self):
        return f"prompt {self.name}"

    def predict(self, inputs):
        return self.predict_together([self], inputs)[0]

    @classmethod
    def predict_together(cls, boxes, inputs):
        boxes[0].asked.append(([box.name for box in boxes], [item.text for item in inputs]))
        return [box.fault(right(inputs), inputs) if box.fault else right(inputs) for box in boxes]


@pytest.fixture
def cache(tmp_path):
    return PredictionCache(tmp_path / "predictions.sqlite")


# --- What is asked ----------------------------------------------------------------------------------------


def test_answers_are_in_the_order_of_the_inputs_though_batches_go_by_length(cache):
    asked = []
    inputs = texts(100)
    result = label([Prompt("p", asked)], inputs, cache)
    np.testing.assert_array_equal(result.predictions["p"], right(inputs))
    assert result.predictions["p"].dtype == np.float32
    assert list(result.inputs["p"]) == inputs
    lengths = [len(text) for _, batch in asked for text in batch]
    assert lengths == sorted(lengths) != [len(item) for item in inputs]
    assert [len(batch) for _, batch in asked] == [32, 32, 32, 4]


def test_a_second_run_asks_nothing_even_in_another_process(cache, tmp_path):
    asked = []
    inputs = texts(50)
    first = label([counting(asked)], inputs, cache)
    assert (len(asked), first.asked, first.cached) == (50, 50, 0)
    second = label([counting(asked)], inputs[::-1], PredictionCache(tmp_path / "predictions.sqlite"))
    assert (len(asked), second.asked, second.cached) == (50, 0, 50)
    np.testing.assert_array_equal(second.predictions["counting"], right(inputs[::-1]))


def test_only_what_is_missing_is_asked_for(cache):
    asked = []
    inputs = texts(30)
    label([counting(asked)], inputs[5:25], cache)
    asked.clear()
    assert pending([counting(asked)], inputs, cache) == {"counting": inputs[:5] + inputs[25:]}
    assert asked == []
    result = label([counting(asked)], inputs, cache)
    assert sorted(asked) == sorted(item.text for item in inputs[:5] + inputs[25:])
    assert (result.asked, result.cached) == (10, 20)
    np.testing.assert_array_equal(result.predictions["counting"], right(inputs))


def test_equal_texts_are_asked_once(cache):
    asked = []
    a, b, c = texts(3)
    inputs = [a, b, a, a, c, b]
    result = label([counting(asked)], inputs, cache)
    assert Counter(asked) == {a.text: 1, b.text: 1, c.text: 1}
    np.testing.assert_array_equal(result.predictions["counting"], right(inputs))


@given(st.lists(st.lists(st.integers(0, 40), max_size=50), max_size=4))
def test_whatever_is_asked_in_whatever_order_each_text_is_asked_once_and_answered_right(runs):
    asked, known = [], set()
    every = texts(41)
    with tempfile.TemporaryDirectory() as folder:
        cache = PredictionCache(Path(folder) / "predictions.sqlite")
        for numbers in runs:
            inputs = [every[i] for i in numbers]
            result = label([counting(asked)], inputs, cache)
            assert result.predictions["counting"].shape == (len(inputs), 2)
            np.testing.assert_array_equal(result.predictions["counting"], right(inputs))
            assert result.asked == len(set(numbers) - known)
            known |= set(numbers)
    assert Counter(asked) == {every[i].text: 1 for i in known}


def test_another_version_of_a_model_is_asked_anew(cache):
    inputs = texts(3)
    old = CallableModel(lambda given_texts: ["no"] * len(given_texts), LABELS, name="m", version="1")
    new = CallableModel(lambda given_texts: ["yes"] * len(given_texts), LABELS, name="m", version="2")
    assert label([old], inputs, cache).predictions["m"].tolist() == [[1, 0]] * 3
    assert label([new], inputs, cache).predictions["m"].tolist() == [[0, 1]] * 3
    assert label([old], inputs, cache).predictions["m"].tolist() == [[1, 0]] * 3


def test_without_a_cache_everything_is_asked_each_time():
    asked = []
    for _ in range(2):
        result = label([counting(asked)], texts(3), PredictionCache(None))
        np.testing.assert_array_equal(result.predictions["counting"], right(texts(3)))
    assert len(asked) == 6


# --- Shapes -----------------------------------------------------------------------------------------------


def test_a_pair_for_a_model_of_one_text_is_joined_and_a_text_for_a_model_of_two_is_cut(cache):
    one, two = [], []
    inputs = [Input("1 cat sat.", "It slept."), Input("2 dogs ran. They barked.")]
    models = [counting(one, "one"), counting(two, "two", pair=True)]
    result = label(models, inputs, cache)
    assert sorted(one) == ["1 cat sat.\nIt slept.", "2 dogs ran. They barked."]
    assert sorted(two) == [("1 cat sat.", "It slept."), ("2 dogs ran.", "They barked.")]
    assert list(result.inputs["one"]) == [Input("1 cat sat.\nIt slept."), Input("2 dogs ran. They barked.")]
    assert list(result.inputs["two"]) == [inputs[0], Input("2 dogs ran.", "They barked.")]
    for name in ("one", "two"):
        np.testing.assert_array_equal(result.predictions[name], right(inputs))


def test_a_joined_pair_and_the_same_text_are_one_question(cache):
    asked = []
    label([counting(asked)], [Input("1 a", "b"), Input("1 a\nb")], cache)
    assert asked == ["1 a\nb"]


# --- Models that fail -------------------------------------------------------------------------------------


def failing(given_texts):
    raise RuntimeError("out of order")


def test_a_model_that_fails_stops_no_other_and_is_reported(cache):
    asked = []
    broken = CallableModel(failing, LABELS, name="broken", version="1")
    inputs = texts(10)
    result = label([counting(asked, "a"), broken, counting(asked, "b")], inputs, cache)
    assert set(result.predictions) == set(result.inputs) == {"a", "b"}
    np.testing.assert_array_equal(result.predictions["b"], right(inputs))
    assert set(result.failures) == {"broken"}
    with refused(ModelError, "broken", "out of order"):
        raise result.failures["broken"]


def test_a_box_that_raises_anything_at_all_stops_no_other(cache):
    boxes = [Prompt("broken", [], fault=zero_division), Prompt("good", [])]
    result = label(boxes, texts(5), cache)
    np.testing.assert_array_equal(result.predictions["good"], right(texts(5)))
    with refused(ModelError, "broken", "ZeroDivisionError"):
        raise result.failures["broken"]


def a_row_too_few(rows, inputs):
    return rows[:-1]


def not_a_number(rows, inputs):
    return np.where(np.arange(len(rows))[:, None] == len(rows) - 1, np.nan, rows)


def no_probabilities(rows, inputs):
    return rows * 2


def zero_division(rows, inputs):
    return rows / (1 // 0)


FAULTS = [a_row_too_few, not_a_number, no_probabilities, zero_division]


@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_item_that_a_model_fails_on_fails_alone_and_only_it_is_asked_again(cache, fault, group):
    asked = []
    inputs = texts(200)
    bad = {inputs[i].text for i in (0, 3, 77, 78, 150)}

    def faulty(rows, batch):
        return fault(rows, batch) if bad & {item.text for item in batch} else rows

    for run in range(2):  # what failed is asked again, and fails again, however much of it there is
        asked.clear()
        boxes = [Prompt("p", asked, group, faulty), Prompt("other", [], group)]
        result = label(boxes, inputs, cache)
        assert result.failures == {}
        failed = result.answered["p"].failed
        assert {inputs[row].text for row in failed} == bad
        assert {failure.kind for failure in failed.values()} == {"error"}
        np.testing.assert_array_equal(result.predictions["p"], right(result.inputs["p"]))
        np.testing.assert_array_equal(result.predictions["other"], right(inputs))
        assert (result.asked, result.left) == ((400, 0) if run == 0 else (5, 0))
        assert {text for _, batch in asked for text in batch} == (
            {i.text for i in inputs} if not run else bad
        )
    result = label([Prompt("p", asked)], inputs, cache)
    assert (result.asked, result.cached) == (5, 195)
    np.testing.assert_array_equal(result.predictions["p"], right(inputs))


def test_an_item_that_fails_says_why(cache):
    def picky(given_texts):
        if any(text.startswith("7 ") for text in given_texts):
            raise ValueError("seven is not for me")
        return [
            None if text.startswith("3 ") else "maybe" if text.startswith("5 ") else "yes"
            for text in given_texts
        ]

    result = label([CallableModel(picky, LABELS, name="picky", version="1")], texts(60), cache)
    failed = result.answered["picky"].failed
    assert {row: failure.kind for row, failure in failed.items()} == {3: "empty", 5: "unparsed", 7: "error"}
    assert "ValueError: seven is not for me (test_runner.py, line" in failed[7].detail
    assert '"maybe", which is none of its labels' in failed[5].detail


@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_fails_on_all_is_given_up_soon_and_nothing_is_kept(cache, fault, group):
    asked = []

    boxes = [Prompt("broken", asked, group, fault), Prompt("good", [], group)]
    result = label(boxes, texts(300), cache)
    assert set(result.failures) == {"broken"}
    assert len([names for names, _ in asked if names == ["broken"]]) <= 10
    np.testing.assert_array_equal(result.predictions["good"], right(texts(300)))
    assert len(pending([Prompt("broken", [])], texts(300), cache)["broken"]) == 300
    assert cache.failures([cache.key("prompt broken", item.key) for item in texts(300)]) == {}


def test_a_text_that_a_prompt_can_not_count_fails_alone(cache):
    class Picky(Prompt):
        def usage(self, inputs):
            return super().usage([item for item in inputs if self.name == "good" or item.text.index("word")])

    asked, inputs = [], [*texts(40), Input("41")]
    result = label([Picky(name, asked, "g") for name in ("good", "picky")], inputs, cache)
    assert result.failures == {}
    short = [row for row, item in enumerate(inputs) if "word" not in item.text]
    assert list(result.answered["picky"].failed) == short
    assert "ValueError: substring not found" in result.answered["picky"].failed[40].detail
    assert len(result.answered["good"].rows) == 41


@pytest.mark.parametrize("said", ["fingerprint", "kind", "labels", "group", "price", "usage"])
@pytest.mark.parametrize("group", [None, "g"])
def test_a_model_that_can_not_say_what_it_is_or_takes_stops_no_other(cache, said, group):
    def raises(self, *_):
        raise ValueError("no idea")

    broken = type("Broken", (Prompt,), {said: raises if said == "usage" else property(raises)})
    asked, inputs = [], texts(40)
    if said == "group":
        bad = broken.__new__(broken)
        bad.name, bad.asked, bad.fault = "bad", asked, None
    else:
        bad = broken("bad", asked, group)
    boxes = [Prompt("first", asked, group), bad, Prompt("last", asked, group)]
    result = label(boxes, inputs, cache)
    assert list(result.failures) == ["bad"]
    assert "model bad failed" in str(result.failures["bad"])
    assert "ValueError: no idea" in str(result.failures["bad"])
    assert "bad" not in {name for names, _ in asked for name in names}
    for name in ("first", "last"):
        np.testing.assert_array_equal(result.predictions[name], right(inputs))
    assert (result.asked, result.left) == (80, 40)
    if said != "usage":
        todo = pending(boxes, inputs, cache)
        assert todo["first"] == todo["last"] == []
        assert "no idea" in str(todo["bad"])


def test_of_models_asked_together_one_that_can_not_say_what_it_takes_is_left_out(cache):
    class Uncounted(Prompt):
        def usage(self, inputs):
            return super().usage(inputs) if self.name != "bad" else int("no idea")

    asked, inputs = [], texts(40)
    result = label([Uncounted(name, asked, "g") for name in ("a", "bad", "c")], inputs, cache)
    assert list(result.failures) == ["bad"]
    assert [names for names, _ in asked] == [["a", "c"], ["a", "c"]]
    np.testing.assert_array_equal(result.predictions["c"], right(inputs))


def divides_by_zero(rows):
    return rows / (1 // 0)


def loses_a_row(rows):
    return rows[1:]


def overflows(rows):
    return rows + np.float32("inf")


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (divides_by_zero, "ZeroDivisionError"),
        (loses_a_row, "the wrong shape; expected: an array of shape (20, 2)"),
        (overflows, "NaN or infinity"),
    ],
)
def test_answers_that_can_not_be_finished_are_their_models_failure_and_stay_kept(cache, fault, found):
    class Finishing(Prompt):
        def finish(self, predictions):
            return fault(predictions) if self.name == "broken" else predictions[:, ::-1]

    inputs = texts(20)
    result = label([Finishing(name, [], "g") for name in ("a", "broken", "c")], inputs, cache)
    assert set(result.predictions) == {"a", "c"}
    np.testing.assert_array_equal(result.predictions["c"], right(inputs)[:, ::-1])
    assert list(result.failures) == ["broken"]
    with refused(ModelError, "broken can't finish its answers to 20 inputs", found, "correct its `finish`"):
        raise result.failures["broken"]
    asked = []
    again = label([Prompt("broken", asked)], inputs, cache)
    assert asked == []
    np.testing.assert_array_equal(again.predictions["broken"], right(inputs))


def test_without_an_answer_there_is_nothing_to_finish(cache):
    class Finishing(Prompt):
        def finish(self, predictions):
            raise AssertionError

    assert label([Finishing("p", [])], [], cache).predictions["p"].shape == (0, 2)


def test_a_disk_in_trouble_while_answers_are_finished_ends_the_run(cache):
    class Finishing(Prompt):
        def finish(self, predictions):
            raise StorageError("the disk of the model is full")

    with refused(StorageError, "the disk of the model is full"):
        label([Finishing("p", [])], texts(3), cache)


def test_a_cache_that_can_not_be_written_is_no_fault_of_the_model():
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with write_protected(Path(name)), refused(StorageError, "no permission"):
            label([counting([])], texts(3), PredictionCache(Path(name) / "predictions.sqlite"))


def test_a_disk_in_trouble_ends_the_run_even_where_a_model_meets_it(cache):
    def full(rows, inputs):
        raise StorageError("the disk of the model is full")

    asked = []
    with refused(StorageError, "the disk of the model is full"):
        label([Prompt("p", [], fault=full), Prompt("next", asked)], texts(3), cache)
    assert asked == []


# --- Models asked together --------------------------------------------------------------------------------


def test_models_of_one_class_and_group_are_asked_together(cache):
    asked = []
    inputs = texts(40)
    boxes = [
        Prompt("a", asked, "g"),
        Prompt("alone", asked),
        Prompt("b", asked, "g"),
        Prompt("c", asked, "h"),
    ]
    result = label(boxes, inputs, cache)
    assert [(names, len(batch)) for names, batch in asked] == [
        (["a", "b"], 32),
        (["a", "b"], 8),
        (["alone"], 32),
        (["alone"], 8),
        (["c"], 32),
        (["c"], 8),
    ]
    assert result.asked == 160
    for box in boxes:
        np.testing.assert_array_equal(result.predictions[box.name], right(inputs))


def test_one_of_a_group_that_has_answers_already_is_asked_for_the_others_only(cache):
    asked = []
    inputs = texts(20)
    label([Prompt("a", asked, "g")], inputs[:15], cache)
    asked.clear()
    result = label([Prompt("a", asked, "g"), Prompt("b", asked, "g")], inputs, cache)
    assert {tuple(names): sorted(batch) for names, batch in asked} == {
        ("b",): sorted(item.text for item in inputs[:15]),
        ("a", "b"): sorted(item.text for item in inputs[15:]),
    }
    for name in ("a", "b"):
        np.testing.assert_array_equal(result.predictions[name], right(inputs))


def test_when_one_of_a_group_fails_the_others_still_answer(cache):
    asked = []
    inputs = texts(40)
    boxes = [Prompt(n, asked, "g", no_probabilities if n == "bad" else None) for n in ("a", "bad", "c")]
    result = label(boxes, inputs, cache)
    assert set(result.failures) == {"bad"}
    assert set(result.predictions) == {"a", "c"}
    for name in ("a", "c"):
        np.testing.assert_array_equal(result.predictions[name], right(inputs))
    alone = [["a"], ["bad"], *[["bad"]] * 8, ["c"]]
    assert [names for names, _ in asked] == [["a", "bad", "c"], *alone, ["a", "c"]]


# --- Progress and rates -----------------------------------------------------------------------------------


def test_progress_counts_the_answers_that_were_missing(cache):
    inputs = texts(70)
    label([Prompt("a", [])], inputs[:6], cache)
    seen = []
    boxes = [Prompt("a", []), CallableModel(failing, LABELS, name="broken", version="1")]
    label(boxes, inputs, cache, lambda what, done, total: seen.append((what, done, total)))
    assert seen == [("labelling", done, 134) for done in (32, 64, 134)]


def test_progress_counts_an_answer_for_each_model_asked_together(cache):
    seen = []
    boxes = [Prompt("a", [], "g"), Prompt("b", [], "g")]
    label(boxes, texts(40), cache, lambda what, done, total: seen.append((done, total)))
    assert seen == [(64, 80), (80, 80)]


def test_rates_are_answers_per_second_of_the_models_that_answered(cache):
    def slow(given_texts):
        time.sleep(0.1)
        return ["yes"] * len(given_texts)

    known = counting([], "known")
    label([known], texts(20), cache)
    boxes = [CallableModel(slow, LABELS, name="slow", version="1"), known]
    boxes.append(CallableModel(failing, LABELS, name="broken", version="1"))
    began = time.monotonic()
    rates = label(boxes, texts(20), cache).rates
    assert set(rates) == {"slow"}
    assert 20 / (time.monotonic() - began) <= rates["slow"] <= 20 / 0.1


def test_models_asked_together_share_the_time(cache):
    def slow(rows, inputs):
        time.sleep(0.05)
        return rows

    boxes = [Prompt(name, [], "g", fault=slow) for name in ("a", "b")]
    began = time.monotonic()
    rates = label(boxes, texts(20), cache).rates
    assert rates["a"] == rates["b"]
    assert 40 / (time.monotonic() - began) <= rates["a"] <= 40 / 0.1


# --- Killed in the middle ---------------------------------------------------------------------------------

LABEL_300 = """
    import os, signal, sys, time
    from pathlib import Path
    import numpy as np
    from fute.core.types import Input
    from fute.labelling.cache import PredictionCache
    from fute.labelling.runner import label
    from fute.models.base import BlackBox

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us without
    folder = Path(sys.argv[1])
    log = os.open(folder / "asked.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    class Slow(BlackBox):
        name, kind, labels, fingerprint, batch = "slow", "llm", ("no", "yes"), "slow 1", 32

        def predict(self, inputs):
            os.write(log, "".join(f"{item.text}\\n" for item in inputs).encode())
            time.sleep(0.15)
            yes = np.array([int(item.text) / 1000 for item in inputs], dtype=np.float32)
            return np.column_stack([1 - yes, yes])

    inputs = [Input(str(i * 7 % 300)) for i in range(300)]
    result = label([Slow()], inputs, PredictionCache(folder / "predictions.sqlite"))
    np.save(folder / "answers.npy", result.predictions["slow"])
"""
BATCH = 32


def asked_so_far(folder):
    log = folder / "asked.txt"
    return log.read_text().split() if log.exists() else []


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_twice_nothing_is_lost_but_the_batch_in_flight(tmp_path, stop):
    for part in (1, 2):
        process = start(LABEL_300, tmp_path)
        enough = len(asked_so_far(tmp_path)) + 3 * BATCH
        while len(asked_so_far(tmp_path)) < enough:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(stop)
        process.communicate(timeout=30)
        assert process.returncode == -stop, "stopped by the signal, not at its end"
        times = Counter(Counter(asked_so_far(tmp_path)).values())
        assert times[1] >= 2 * BATCH
        assert sum(n * (count - 1) for count, n in times.items()) <= (part - 1) * BATCH
    assert not (tmp_path / "answers.npy").exists()
    finish(start(LABEL_300, tmp_path))

    asked = Counter(asked_so_far(tmp_path))
    assert set(asked) == {str(i) for i in range(300)}
    assert max(asked.values()) <= 3
    assert 1 <= sum(count - 1 for count in asked.values()) <= 2 * BATCH
    yes = np.array([i * 7 % 300 / 1000 for i in range(300)], dtype=np.float32)
    np.testing.assert_array_equal(np.load(tmp_path / "answers.npy"), np.column_stack([1 - yes, yes]))
