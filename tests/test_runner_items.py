"""Labelling item by item: what fails, what is asked again, what a cap leaves, and answers that come one by
one.
"""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute.core.errors import BudgetError, ModelError
from fute.core.types import Failure, Input, Span
from fute.labelling import asking, runner
from fute.labelling.asking import cut
from fute.labelling.budget import Budget, Caps
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label, pending
from fute.models.base import BlackBox, Price, Usage, usable
from fute.models.callable import CallableModel
from tests.servers import wait_until
from tests.storage import finish, start
from tests.test_client import Script

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


@pytest.mark.parametrize("kind", [Moody, Stream])
def test_what_cannot_be_written_is_replaced_in_answers_and_in_what_is_said_of_failures(cache, kind):
    """As `json` reads "\\ud83d half": half of an emoji."""
    half = "\ud83d half"

    class Half(kind):
        labels = ()

        def predict(self, inputs):
            return [Failure("unparsed", half) if number(i) == 3 else half for i in inputs]

    box = Half("half")
    box.output = "text"
    for asked in (20, 0):
        result = label([box], TEXTS, cache)
        assert result.asked == asked
        answered = result.answered["half"]
        assert set(answered.answers) == {"? half"}
        assert answered.failed == {3: Failure("unparsed", "? half")}
    assert usable(Input("who?"), Span(half, 2)) == Span("? half", 2)
    assert str(ModelError(half, found=half)) == "? half\n  found: ? half"


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


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [
        (1 / 1024, [7, 505, 488]),
        (1 / 64, [7, *[64] * 7, 57, *[64] * 7, 40]),
        (1 / 4, [7, *[4] * 126, 1, *[4] * 122]),
        (60, [7, *[2] * 252, 1, *[2] * 244]),
    ],
)
def test_a_slow_function_is_asked_for_less_at_a_time(monkeypatch, cache, seconds, sizes):
    clock, asked = [0.0], []

    def slow(texts):
        clock[0] += seconds * len(texts)
        asked.append(len(texts))
        return ["yes"] * len(texts)

    monkeypatch.setattr(asking, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    box = CallableModel(slow, LABELS, version="1")
    assert len(label([box], [Input(str(i)) for i in range(1000)], cache).answered["slow"].rows) == 1000
    assert asked == sizes


def test_a_stop_loses_what_was_being_asked_and_gives_its_cost_back(cache):
    asked = []

    def stopped(texts):
        asked.extend(texts)
        if "150" in texts and asked.count("150") == 1:
            raise KeyboardInterrupt
        return ["yes"] * len(texts)

    box, budget = CallableModel(stopped, LABELS, version="1"), Budget()
    inputs = [Input(str(i)) for i in range(100, 300)]
    with pytest.raises(KeyboardInterrupt):
        label([box], inputs, cache, budget=budget)
    left = len(pending([box], inputs, cache)["stopped"])
    assert 0 < budget.spent.calls == 200 - left <= 50
    assert label([box], inputs, cache, budget=budget).asked == left
    assert budget.spent.calls == 200


def test_a_function_that_fails_on_the_first_it_is_asked_may_answer_the_others(cache):
    def picky(texts):
        if any(int(text) < 30 for text in texts):
            raise ValueError("too short")
        return ["yes"] * len(texts)

    result = label([CallableModel(picky, LABELS, version="1")], [Input(str(i)) for i in range(200)], cache)
    assert result.failures == {}
    assert list(result.answered["picky"].failed) == list(range(30))


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


def test_a_streamed_answer_that_can_not_be_right_fails_alone_where_others_are(cache):
    class Wrong(Stream):
        def answer(self, item):
            return row(item) * (2 if number(item) in (4, 10) else 1)

    result = label([Wrong()], TEXTS, cache)
    assert result.failures == {}
    assert list(result.answered["stream"].failed) == [4, 10]
    assert "probabilities that don't sum to 1" in result.answered["stream"].failed[4].detail


def test_more_models_than_may_be_claimed_at_once_are_all_asked(cache, monkeypatch):
    monkeypatch.setattr(runner, "_MOST_CLAIMS", 3)
    result = label([Stream(str(i)) for i in range(8)], TEXTS, cache)
    assert [len(one.rows) for one in result.answered.values()] == [20] * 8


def test_offline_asks_no_remote_model_and_uses_what_is_kept(cache):
    label([Stream("known")], TEXTS, cache)
    remote, local = Stream("remote"), Moody()
    known = Stream("known")
    result = label([remote, local, known], TEXTS, cache, offline=True)
    assert "--offline" in str(result.failures["remote"])
    assert (remote.asked, len(local.asked), known.asked) == ([], 20, [])
    assert len(result.answered["known"].rows) == 20


# --- One model, asked from two sides ----------------------------------------------------------------------


class Named(Moody):
    """Under whatever name, the same model."""

    fingerprint = "the same"


class NamedStream(Stream):
    fingerprint = "the same"


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("kind", [Named, NamedStream])
def test_a_model_under_two_names_is_asked_once(tmp_path, kind, kept):
    cache = PredictionCache(tmp_path / "predictions.sqlite" if kept else None)
    boxes = [kind(name, {3: "empty", 5: "error"}) for name in "abc"]
    assert [len(missing) for missing in pending(boxes, TEXTS, cache).values()] == [20, 0, 0]
    result = label(boxes, TEXTS, cache)
    assert sorted(number for box in boxes for number in box.asked) == list(range(20))
    assert (result.asked, result.cached, result.left) == (20, 40, 0)
    for one in result.answered.values():
        assert one.rows.tolist() == [i for i in range(20) if i not in (3, 5)]
        assert {row: failure.kind for row, failure in one.failed.items()} == {3: "empty", 5: "error"}
        assert one.predictions.tolist() == [row(TEXTS[i]).tolist() for i in one.rows]


def test_what_stops_a_model_under_one_name_may_not_stop_it_under_another(cache):
    boxes = [NamedStream("no key", stop={4: ModelError("no key")}), NamedStream("with key")]
    result = label(boxes, TEXTS, cache)
    assert list(result.failures) == ["no key"]
    assert len(result.answered["with key"].rows) == 20
    assert boxes[1].asked == [4]


@pytest.mark.parametrize("kind", [Moody, Stream])
def test_of_two_answers_the_one_that_is_kept_counts_for_the_run_too(cache, kind):
    class Late(kind):
        def predict(self, inputs):
            keys = [cache.key(self.fingerprint, item.key) for item in inputs]
            cache.put({keys[0]: np.array([0.5, 0.5], dtype=np.float32)})  # by somebody else
            return super().predict(inputs)

    (late,) = label([Late("late")], TEXTS, cache).answered.values()
    (kept,) = label([kind("late")], TEXTS, cache).answered.values()
    assert late.predictions.tolist() == kept.predictions.tolist()
    assert [0.5, 0.5] in late.predictions.tolist()


ONE_OF_TWO = """
    import json, sys
    from pathlib import Path
    from fute.core.types import Input
    from fute.labelling.cache import PredictionCache
    from fute.labelling.runner import label
    from fute.models.backends.client import Manners
    from fute.models.callable import CallableModel
    from fute.models.http import HTTPModel

    folder, url = Path(sys.argv[1]), sys.argv[2]

    def here(texts):
        with open(folder / "asked.txt", "a") as log:
            log.write("".join(f"{text}\\n" for text in texts))
        return ["yes"] * len(texts)

    manners = Manners(concurrency=4)
    boxes = [HTTPModel(url, ["no", "yes"], name=n, version=n, manners=manners) for n in "ab"]
    boxes.append(CallableModel(here, ["no", "yes"], name="here", version="1"))
    inputs = [Input(str(i)) for i in range(50)]
    result = label(boxes, inputs, PredictionCache(folder / "predictions.sqlite"))
    rows = [one.tolist() for one in result.predictions.values()]
    print(json.dumps([result.asked, result.left, result.failed_items(), rows]))
"""


def says_yes(body):
    (item,) = body["inputs"]
    if item["text"] == "7":
        return (200, {}, [{"error": "not seven"}], 0.02)
    return (
        200,
        {},
        [{"probabilities": {"yes": int(item["text"]) / 100, "no": 1 - int(item["text"]) / 100}}],
        0.02,
    )


def test_two_processes_share_what_is_missing_and_ask_for_nothing_twice(tmp_path):
    with Script(says_yes) as server:
        processes = [start(ONE_OF_TWO, tmp_path, server.url) for _ in range(2)]
        (asked, left, kinds, rows), other = (json.loads(finish(process)) for process in processes)
        assert len(server.seen) == 100
    assert asked + other[0] == 150
    assert (left, kinds, rows) == tuple(other[1:])
    assert (left, kinds) == (0, {"a": {"error": 1}, "b": {"error": 1}})
    assert [len(one) for one in rows] == [49, 49, 50]
    assert sorted((tmp_path / "asked.txt").read_text().split(), key=int) == [str(i) for i in range(50)]


def test_what_a_killed_process_was_asking_is_taken_over_by_one_that_waits(tmp_path):
    with Script(lambda body: (*says_yes(body)[:3], 0.12)) as server:
        first = start(ONE_OF_TWO, tmp_path, server.url)
        wait_until(lambda: server.seen)
        second = start(ONE_OF_TWO, tmp_path, server.url)
        wait_until(lambda: (tmp_path / "asked.txt").exists())  # by the second, which then waits
        wait_until(lambda: len(server.seen) >= 40)
        first.kill()
        first.communicate()
        rows = json.loads(finish(second))[-1]
        assert [len(one) for one in rows] == [49, 49, 50]
        assert 100 <= len(server.seen) <= 100 + 20, "those under way, and those of one tick"


def test_a_run_that_has_reached_its_cap_does_not_wait_for_another(cache):
    box = Moody("busy")
    release = cache.claim(box.fingerprint)
    budget = Budget(caps=Caps(max_calls=5))
    result = label([Moody("free"), box], TEXTS, cache, budget=budget)
    assert (len(result.answered["free"].rows), len(result.answered["busy"].rows)) == (5, 0)
    assert result.left == 35
    release()
    assert len(label([box], TEXTS, cache).answered["busy"].rows) == 20


# --- What failed before -----------------------------------------------------------------------------------


def test_what_failed_before_is_asked_last_and_does_not_stop_a_model_that_answers(cache):
    """The first five stop the model as soon as it gets to them, and for ever."""
    gone = ModelError("it is gone", found="no answer")
    first = label([Stream(moods=dict.fromkeys(range(5), "error"))], TEXTS[:5], cache)
    assert first.failed_items() == {"stream": {"error": 5}}

    class InOrder(Stream):
        @classmethod
        def stream(cls, questions, meters):
            for index, (box, item) in enumerate(questions):
                if number(item) < 5:
                    yield index, gone
                    return
                yield index, box.predict([item])

    for asked in (15, 0):
        box = InOrder()
        result = label([box], TEXTS, cache)
        assert box.asked == list(range(5, 20))[:asked]
        assert result.failures == {}
        assert result.answered["stream"].rows.tolist() == list(range(5, 20))
        assert result.answered["stream"].failed[0] == Failure("error", "it is gone; found: no answer")
    never = Stream("never", stop={0: gone})
    assert list(label([never], TEXTS[:1], cache).failures) == ["never"]


def test_offline_a_model_that_answered_all_it_could_is_used(cache):
    label([Stream(moods={5: "error"})], TEXTS, cache)
    result = label([Stream()], TEXTS, cache, offline=True)
    assert len(result.answered["stream"].rows) == 19
    assert "--offline" in result.answered["stream"].failed[5].detail


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
