"""Labelling item by item: what fails, what is asked again, what a cap leaves, and answers that come one by
one.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute.core.errors import BudgetError, ModelError
from fute.core.types import Failure, Input, Span
from fute.labelling.asking import cut
from fute.labelling.budget import Budget, Caps
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label, pending
from fute.models.base import BlackBox, Price, Usage
from tests.storage import finish, start

LABELS = ("no", "yes")
TEXTS = [Input(f"{i} text") for i in range(20)]


def number(item):
    return int(item.text.split()[0])


def row(item):
    return np.array([1 - number(item) / 100, number(item) / 100], dtype=np.float32)


class Moody(BlackBox):
    """Fails on some items: `moods` says how, by the number an input begins with."""

    kind = "python"
    labels = LABELS
    batch = 8

    def __init__(self, name="moody", moods=None, output="class"):
        self.name, self.moods, self.output, self.asked = name, dict(moods or {}), output, []

    @property
    def fingerprint(self):
        return f"moody {self.name}"

    def answer(self, item):
        return row(item)

    def predict(self, inputs):
        self.asked += [number(i) for i in inputs]
        return [
            Failure(self.moods[number(i)], "so it goes") if number(i) in self.moods else self.answer(i)
            for i in inputs
        ]


class Stream(Moody):
    """Answers one by one, odd ones first; `stop` raises for this item what is given."""

    batch = None
    group = "one server"
    price = Price(1.0, 1.0)
    is_remote = True

    def __init__(self, name="stream", moods=None, stop=None):
        super().__init__(name, moods)
        self.stop, self.closed = stop or {}, False

    @classmethod
    def stream(cls, questions, meters):
        order = sorted(range(len(questions)), key=lambda i: number(questions[i][1]) % 2 == 0)
        try:
            for index in order:
                box, item = questions[index]
                if number(item) in box.stop:
                    yield index, box.stop[number(item)]
                    continue
                try:
                    meters[box.name].reserve(Usage(1, 10, 10))
                except BudgetError as error:
                    yield index, error
                    return
                meters[box.name].settle(Usage(1, 10, 10), Usage(1, 5, 1))
                yield index, box.predict([item])
        finally:
            questions[0][0].closed = True


@pytest.fixture
def cache(tmp_path):
    return PredictionCache(tmp_path / "predictions.sqlite")


# --- Items that fail --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Moody, Stream])
def test_an_item_that_fails_has_no_answer_and_the_others_have_theirs(cache, kind):
    result = label([kind(moods={3: "empty", 5: "error"})], TEXTS, cache)
    (answered,) = result.answered.values()
    assert answered.failed == {3: Failure("empty", "so it goes"), 5: Failure("error", "so it goes")}
    assert answered.rows.tolist() == [i for i in range(20) if i not in (3, 5)]
    assert answered.predictions.tolist() == [row(TEXTS[i]).tolist() for i in answered.rows]
    assert result.failed_items() == {answered.box.name: {"empty": 1, "error": 1}}


@pytest.mark.parametrize("kind", [Moody, Stream])
def test_only_items_without_any_answer_are_asked_again_and_the_others_with_retry(cache, kind):
    moods = {3: "empty", 5: "error", 7: "unparsed", 9: "truncated", 11: "refused"}
    label([kind(moods=moods)], TEXTS, cache)

    again = kind(moods=moods)
    assert [number(i) for i in pending([again], TEXTS, cache)[again.name]] == [5]
    result = label([again], TEXTS, cache)
    assert again.asked == [5]
    assert result.failed_items()[again.name].total() == 5, "those not asked again still count as failed"

    healed = kind(moods={9: "truncated"})
    result = label([healed], TEXTS, cache, retry=True)
    assert sorted(healed.asked) == [3, 5, 7, 9, 11]
    assert result.failed_items() == {healed.name: {"truncated": 1}}
    assert label([kind()], TEXTS, cache).asked == 0, "an answer ends a failure, and a failure stays one"


def test_texts_and_spans_are_kept_as_they_are(cache):
    class Texts(Moody):
        labels = ()

        def answer(self, item):
            text = f'"{item.text}" é\n'
            return Span(text, number(item)) if self.output == "span" else text

    for output in ("text", "span"):
        first = label([Texts(output, output=output)], TEXTS, cache)
        second = label([Texts(output, output=output)], TEXTS, cache)
        assert second.asked == 0
        assert list(second.answered[output].answers) == list(first.answered[output].answers)
        assert type(second.answered[output].answers[0]) is (Span if output == "span" else str)
        assert second.predictions == {}


CONTEXT = "The old king rode home, and the old queen stayed."
PLACES = {  # by number: what the model answers, and what is kept of it
    0: (Span("old king", 4), Span("old king", 4)),
    1: (Span("old", 32), Span("old", 32)),
    2: (Span("", -1), Span("", -1)),
    3: (Span("", 4), Span("", -1)),
    4: (Span("king", np.int64(8)), Span("king", 8)),
    5: (Span(CONTEXT, 0), Span(CONTEXT, 0)),
    6: (Span("old", 5), None),
    7: (Span("princess", 4), None),
    8: (Span("king", -1), None),
    9: (Span("stayed.", -7), None),
    10: (Span("stayed.", 4000), None),
    11: (Span("stayed. And", 42), None),
    12: (Span("king", None), None),
    13: (Span(None, 4), None),
}


class Places(Moody):
    shape, labels = "question-context", ()

    def answer(self, item):
        return PLACES[number(item)][0]


class StreamedPlaces(Places, Stream):
    def __init__(self, output):
        Stream.__init__(self, "moody")
        self.output = output


@pytest.mark.parametrize("kind", [Places, StreamedPlaces])
def test_a_span_that_is_not_where_it_says_is_recorded_and_never_kept_as_an_answer(cache, kind):
    inputs = [Input(f"{i} who?", CONTEXT) for i in PLACES]
    right = [i for i, (_, kept) in PLACES.items() if kept is not None]
    for asked in (len(inputs), 0):
        result = label([kind(output="span")], inputs, cache)
        answered = result.answered["moody"]
        assert result.asked == asked
        assert answered.rows.tolist() == right
        assert list(answered.answers) == [PLACES[i][1] for i in right]
        assert result.failed_items() == {"moody": {"misplaced": len(inputs) - len(right)}}
    assert "'old' from character 5 on, where 'ld ' stands" in answered.failed[6].detail
    keys = [cache.key(answered.box.fingerprint, item.key) for item in inputs]
    assert len(cache.get(keys, "span")) == len(right)
    box = kind(output="span")
    assert len(pending([box], inputs, cache, retry=True)["moody"]) == len(inputs) - len(right)


def test_a_blank_text_is_no_answer(cache):
    class Blank(Moody):
        labels = ()

        def answer(self, item):
            return ["", " \n", "a word"][number(item) % 3]

    result = label([Blank(output="text")], TEXTS[:6], cache)
    assert result.answered["moody"].rows.tolist() == [2, 5]
    assert result.failed_items() == {"moody": {"empty": 4}}
    assert label([Blank(output="text")], TEXTS[:6], cache).asked == 0


@pytest.mark.parametrize(
    ("output", "answers"),
    [("class", ["yes"]), ("text", np.zeros((1, 2))), ("span", ["a text"]), ("score", np.zeros((1, 2)))],
)
def test_an_answer_of_another_kind_fails_the_model_and_is_not_kept(cache, output, answers):
    class Wrong(Moody):
        labels = ("similarity",) if output == "score" else LABELS

        def predict(self, inputs):
            return answers

    result = label([Wrong(output=output)], TEXTS[:1], cache)
    assert isinstance(result.failures["moody"], ModelError)
    assert len(pending([Wrong(output=output)], TEXTS[:1], cache)["moody"]) == 1


def test_scores_may_be_any_finite_number(cache):
    class Score(Moody):
        labels = ("similarity",)

        def answer(self, item):
            return np.array([number(item) - 5.5], dtype=np.float32)

    result = label([Score(output="score")], TEXTS, cache)
    assert result.predictions["moody"][:, 0].tolist() == [i - 5.5 for i in range(20)]


# --- Caps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [0, 1, 7, 8, 13, 20, 100])
@pytest.mark.parametrize("kind", [Moody, Stream])
def test_a_cap_is_used_to_its_end_and_never_passed(cache, kind, cap):
    box = kind()
    budget = Budget(caps=Caps(max_calls=cap))
    result = label([box], TEXTS, cache, budget=budget)
    assert len(box.asked) == result.asked == budget.spent.calls == min(cap, 20)
    assert result.left == 20 - result.asked
    assert (result.stopped is not None) == (cap < 20)
    more = kind()
    label([more], TEXTS, cache)
    assert sorted(box.asked + more.asked) == list(range(20)), "the rest, once"


def test_a_model_that_raises_on_this_machine_uses_up_no_cap_and_elsewhere_it_does(cache):
    class Broken(Moody):
        def predict(self, inputs):
            self.asked += [number(i) for i in inputs]
            raise OSError("no such lexicon")

    class Elsewhere(Broken):
        is_remote = True

    budget = Budget(caps=Caps(max_calls=30))
    for _ in range(4):
        broken = Broken("broken")
        assert "no such lexicon" in str(label([broken], TEXTS, cache, budget=budget).failures["broken"])
        assert len(broken.asked) == 8 + 8, "a batch, then some of its items"
    assert budget.spent.calls == 0
    assert len(label([Moody("good")], TEXTS, cache, budget=budget).answered["good"].rows) == 20
    label([Elsewhere("elsewhere")], TEXTS, cache, budget=budget)
    assert budget.spent.calls > 20


def test_models_that_fail_together_take_out_of_the_budget_what_they_are_asked_alone(cache):
    class Together(Moody):
        group = "g"
        price = Price(1.0, 1.0)

        def usage(self, inputs):
            return Usage(len(inputs), 10 * len(inputs), 0)

        @classmethod
        def predict_together(cls, boxes, inputs):
            if len(boxes) > 1:
                raise OSError("not together")
            return [boxes[0].predict(inputs)]

    boxes = [Together(name) for name in "abc"]
    budget = Budget(caps=Caps(max_calls=40))
    result = label(boxes, TEXTS, cache, budget=budget)
    asked = [len(box.asked) for box in boxes]
    assert sum(asked) == result.asked == budget.spent.calls <= 40
    assert budget.spent.tokens == 10 * sum(asked)
    assert "max_calls" in str(result.stopped)
    assert {name: spent.calls for name, spent in budget.spent_by_model.items()} == dict(
        zip("abc", asked, strict=True)
    )


def test_a_cap_on_cost_stops_only_models_that_cost(cache):
    free, dear = Moody("free"), Stream("dear")
    budget = Budget(caps=Caps(max_cost=50e-6))  # reserved: $20e-6 a question; used: $6e-6
    result = label([dear, free], TEXTS, cache, budget=budget)
    assert len(free.asked) == 20
    assert len(dear.asked) == 6, "6 are paid with 36, a seventh could take it to 56"
    assert budget.spent.cost == pytest.approx(36e-6)
    assert "max_cost" in str(result.stopped)


def test_a_model_without_a_price_is_not_asked_under_a_cap_on_cost(cache):
    box, other = Stream("unknown"), Moody()
    box.price = None
    result = label([box, other], TEXTS, cache, budget=Budget(caps=Caps(max_cost=1.0)))
    assert box.asked == []
    assert "prices:" in str(result.failures["unknown"])
    assert len(result.answered["moody"].rows) == 20


# --- Answers that come one by one -------------------------------------------------------------------------


def test_a_model_that_stops_keeps_its_answers_and_the_other_of_its_group_goes_on(cache):
    stop = {4: ModelError("the key is wrong")}
    boxes = [Stream("bad", stop=stop), Stream("good")]
    result = label(boxes, TEXTS, cache)
    assert "the key is wrong" in str(result.failures["bad"])
    assert len(result.answered["good"].rows) == 20
    assert len(pending([Stream("bad")], TEXTS, cache)["bad"]) == 1, "those it did answer are kept"
    assert boxes[0].closed


def test_offline_asks_no_remote_model_and_uses_what_is_kept(cache):
    label([Stream("known")], TEXTS, cache)
    remote, local = Stream("remote"), Moody()
    known = Stream("known")
    result = label([remote, local, known], TEXTS, cache, offline=True)
    assert "--offline" in str(result.failures["remote"])
    assert (remote.asked, len(local.asked), known.asked) == ([], 20, [])
    assert len(result.answered["known"].rows) == 20


ONE_OF_TWO = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from fute.core.types import Input
    from fute.labelling.cache import PredictionCache
    from fute.labelling.runner import label
    from fute.models.base import BlackBox

    class Slow(BlackBox):
        name, kind, labels, fingerprint, batch = "slow", "python", ("no", "yes"), "slow 1", 10

        def predict(self, inputs):
            time.sleep(0.005)
            yes = np.array([int(i.text) / 1000 for i in inputs], dtype=np.float32)
            return np.column_stack([1 - yes, yes])

    inputs = [Input(str(i)) for i in range(400)]
    result = label([Slow()], inputs, PredictionCache(Path(sys.argv[1]) / "predictions.sqlite"))
    print((result.predictions["slow"][:, 1] * 1000).round().astype(int).tolist() == list(range(400)))
"""


def test_two_processes_may_fill_one_cache(tmp_path):
    processes = [start(ONE_OF_TWO, tmp_path) for _ in range(2)]
    assert [finish(process).strip() for process in processes] == ["True", "True"]


class Small(Moody):
    batch = 4
    batch_characters = 30


@given(st.lists(st.text("ab", min_size=1, max_size=50).map(Input), max_size=30))
def test_a_batch_holds_neither_too_many_inputs_nor_too_many_characters(items):
    batches = cut(items, Small)
    assert [item for batch in batches for item in batch] == sorted(items, key=len)
    assert all(len(batch) <= 4 for batch in batches)
    assert all(len(batch) == 1 or sum(map(len, batch)) <= 30 for batch in batches)
    for batch, following in pairwise(batches):  # none ends early
        assert len(batch) == 4 or sum(map(len, batch)) + len(following[0]) > 30
