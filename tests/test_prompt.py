"""Prompts as plain texts and as chats, examples drawn from a dataset, and how a written answer is read."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute import Input
from fute.core.errors import ConfigError
from fute.text.prompt import Prompt, Reasoning, Shot, Turn, draw_shots
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer, check_distinct
from tests.helpers import refused

SENTIMENT = Verbalizer({"negative": (" negative", " bad"), "positive": (" positive", " good")})
SHOTS = (Shot(Input("Superb."), "positive"), Shot(Input("Awful."), "negative"))


def prompt(template="Review: {{ text }}\nSentiment:", **options) -> Prompt:
    return Prompt(PromptTemplate(template), options.pop("verbalizer", SENTIMENT), **options)


def test_a_plain_prompt_is_system_then_examples_then_the_input():
    assert prompt().plain(Input("Fine.")) == "Review: Fine.\nSentiment:"
    assert prompt(system="Judge reviews.", shots=SHOTS).plain(Input("Fine.")) == (
        "Judge reviews.\n\n"
        "Review: Superb.\nSentiment: positive\n\n"
        "Review: Awful.\nSentiment: negative\n\n"
        "Review: Fine.\nSentiment:"
    )
    assert prompt(shots=SHOTS[:1], separator=" ## ").plain(Input("Fine.")) == (
        "Review: Superb.\nSentiment: positive ## Review: Fine.\nSentiment:"
    )


def test_in_a_chat_each_example_is_a_turn_and_its_answer():
    assert prompt("{{ text }} Good?").turns(Input("Fine.")) == [Turn("user", "Fine. Good?")]
    assert prompt("{{ text }} Good?", system="Judge.", shots=SHOTS).turns(Input("Fine.")) == [
        Turn("system", "Judge."),
        Turn("user", "Superb. Good?"),
        Turn("assistant", "positive"),
        Turn("user", "Awful. Good?"),
        Turn("assistant", "negative"),
        Turn("user", "Fine. Good?"),
    ]


def test_reasons_stand_between_the_prompt_and_the_question_for_the_label():
    reasons = "\nIt is warm praise. \n\n"
    thinking = prompt("{{ text }} Think.", reasoning=Reasoning())
    assert thinking.plain_after(Input("Fine."), reasons) == (
        "Fine. Think.\nIt is warm praise.\nTherefore, the answer is"
    )
    asked = prompt("{{ text }} Think.", reasoning=Reasoning(ask=" So it is"), system="Judge.")
    assert asked.plain_after(Input("Fine."), reasons) == (
        "Judge.\n\nFine. Think.\nIt is warm praise. So it is"
    )
    assert asked.turns_after(Input("Fine."), reasons) == [
        Turn("system", "Judge."),
        Turn("user", "Fine. Think."),
        Turn("assistant", "It is warm praise."),
        Turn("user", " So it is"),
    ]
    assert thinking.turns_after(Input("Fine."), reasons)[-1] == Turn(
        "user", "So what is the answer? Say one of these and nothing else: negative, positive."
    )


@given(st.lists(st.text(min_size=1), min_size=2, max_size=5))
def test_all_inputs_share_the_beginning(texts):
    beginning = prompt(system="Judge.", shots=SHOTS).plain(Input("")).removesuffix("\nSentiment:")
    plains = [prompt(system="Judge.", shots=SHOTS).plain(Input(text)) for text in texts]
    assert all(one.startswith(beginning) for one in plains)
    assert beginning.endswith("Review: Awful.\nSentiment: negative\n\nReview: ")


def test_an_example_with_an_unknown_label_is_refused():
    with refused(ConfigError, '"postive"', "positive"):
        prompt(shots=(Shot(Input("Superb."), "postive"),))


def test_all_that_is_asked_is_part_of_the_identity():
    options = [
        {},
        {"system": "Judge."},
        {"shots": SHOTS},
        {"shots": SHOTS[::-1]},
        {"separator": "\n"},
        {"reasoning": Reasoning()},
        {"reasoning": Reasoning(max_tokens=5)},
        {"verbalizer": Verbalizer({"negative": (" bad",), "positive": (" good",)})},
    ]
    identities = {str(prompt(**o).identity()) for o in options} | {str(prompt("{{ text }}").identity())}
    assert len(identities) == len(options) + 1


ITEMS = [Input(f"text {i}") for i in range(20)]
LABELS = ["a"] * 12 + ["b"] * 5 + ["c"] * 3


@pytest.mark.parametrize(("k", "least", "most"), [(3, 1, 1), (6, 2, 2), (7, 2, 3), (8, 2, 3), (9, 3, 3)])
def test_balanced_examples_have_as_many_of_each_label(k, least, most):
    shots = draw_shots(ITEMS, LABELS, k, seed=1)
    counts = Counter(shot.label for shot in shots)
    assert len(set(shots)) == counts.total() == k
    assert set(counts) == {"a", "b", "c"}
    assert least == min(counts.values()) <= max(counts.values()) == most
    assert all(LABELS[ITEMS.index(shot.item)] == shot.label for shot in shots), "each keeps its own label"


def test_which_label_gets_one_more_and_the_order_are_the_seeds_choice():
    drawn = [draw_shots(ITEMS, LABELS, 4, seed) for seed in range(20)]
    assert drawn == [draw_shots(ITEMS, LABELS, 4, seed) for seed in range(20)]
    assert len(set(drawn)) > 15
    assert {Counter(s.label for s in shots).most_common(1)[0][0] for shots in drawn} == {"a", "b", "c"}
    assert {shots[0].label for shots in drawn} == {"a", "b", "c"}


def test_unbalanced_examples_follow_the_data():
    counts = Counter(s.label for seed in range(100) for s in draw_shots(ITEMS, LABELS, 4, seed, False))
    assert counts["a"] / counts.total() == pytest.approx(12 / 20, abs=0.08)
    assert draw_shots(ITEMS, LABELS, 0, seed=1) == ()
    everything = draw_shots(ITEMS, LABELS, 20, 3, balanced=False)
    assert sorted(s.item.text for s in everything) == sorted(item.text for item in ITEMS)


def test_more_examples_than_there_are_is_refused():
    with refused(ConfigError, "21 examples", "20 rows"):
        draw_shots(ITEMS, LABELS, 21, seed=0)
    with refused(ConfigError, "fewer than no examples", "-1"):
        draw_shots(ITEMS, LABELS, -1, seed=0)
    assert draw_shots([], [], 0, seed=0) == ()
    with refused(ConfigError, '4 of "c"', "3 rows", "balanced: false"):
        draw_shots(ITEMS, LABELS, 12, seed=0)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("positive", "positive"),
        (" Positive.", "positive"),
        ("NEGATIVE", "negative"),
        ("good", "positive"),
        ("**Positive**", "positive"),
        ("_positive_", "positive"),
        ("__Positive__, I'd say", "positive"),
        ("<b>bad</b>", "negative"),
        ('"negative"', "negative"),
        ("“Negative”", "negative"),
        ("`positive`\n", "positive"),
        ("Answer: positive", "positive"),
        ("The sentiment is: **bad**.", "negative"),
        ("I would call this one good, all in all.", "positive"),
        ("not good", None),
        ("This is not a very good film", None),
        ("It isn't good", None),
        ("It isn’t really good", None),
        ("**not** good", None),
        ('not "good"', None),
        ("not entirely positive", None),
        ("not positive but negative", "negative"),
        ("It is not. Positive.", "positive"),
        ("Positive. The bad parts are few.", "positive"),
        ("**Positive**: the bad parts are few", "positive"),
        ("_Positive_. The bad parts are few", "positive"),
        ("Positive\n\nThere are bad parts.", "positive"),
        ("Positive or negative?", None),
        ("It has good and bad sides", None),
        ("good, positive", "positive"),
        ("goodness", None),
        ("badly", None),
        ("nonpositive", None),
        ("", None),
        ("   \n", None),
        ("I can't say.", None),
        ("🙂 positive 🙂", "positive"),
        # a pause after the first label
        ("Positive - the bad parts are few", "positive"),
        ("Positive (the bad parts are few)", "positive"),
        ("Bad, though I liked the good actors", "negative"),
        ("Positive?\nNo, bad", None),
        ("Positive parts are few, bad ones many", None),
        ("positive\n\nReview: I fell asleep.\nSentiment: negative", "positive"),
        # what is declared
        ("The sentiment is positive. The bad parts are few.", "positive"),
        ("The acting is bad, but the answer is:\n**positive**", "positive"),
        ("The sentiment of this review would be clearly positive in spite of bad jokes", "positive"),
        ("The answer is good. The answer is bad.", None),
        # labels side by side are a choice
        ("Is it positive or negative? Negative", "negative"),
        ("Positive/negative: negative", "negative"),
        ("This is definitely not a positive or negative review", None),
        ("Neither good nor bad", None),
        ("positive, negative", None),
        ("good or positive", "positive"),
        # further negations
        ("I don't think the review is positive", None),
        ("It can’t be called good", None),
        ("non-positive", None),
        ("No good", None),
        ("No. Good", "positive"),
        ("not (good)", None),
        ("He did not enjoy the movie, so negative", "negative"),
        ("Not only good", "positive"),
        # one character in several ways
        ("ｐｏｓｉｔｉｖｅ", "positive"),
    ],
)
def test_how_an_answer_is_read(answer, label):
    assert SENTIMENT.parse(answer) == label


def test_of_several_labels_the_last_counts_where_reasons_come_first():
    reasons = "The acting is good. But the plot is bad, so: negative"
    assert SENTIMENT.parse(reasons) is None
    assert SENTIMENT.parse(reasons, last=True) == "negative"
    assert SENTIMENT.parse("Positive? No. The answer is negative.", last=True) == "negative"
    assert SENTIMENT.parse("Good, so not negative", last=True) == "positive"
    assert SENTIMENT.parse("Who knows", last=True) is None
    declared = "Good start. So the answer is positive, although the ending was bad."
    assert SENTIMENT.parse(declared, last=True) == "positive"
    assert SENTIMENT.parse("Positive. Wait. So negative", last=True) == "negative"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Positive. The bad parts are", "positive"),
        ("**Positive**\n\nThe review", "positive"),
        ("Positive,", "positive"),
        ("The acting is bad, but the answer is: positive. I", "positive"),
        ("The sentiment is positive, since", "positive"),
        ("Well, the answer is positive or maybe it is", None),
        ("The answer is positive", None),
        ("Positive", None),
        ("Positive or", None),
        ("Positive?", None),
        ("I find it positive.", None),
        ("The review praises the good acting, but", None),
    ],
)
def test_of_an_answer_that_was_cut_off_only_what_a_pause_follows_counts(answer, label):
    assert SENTIMENT.parse(answer, finished=False) == label
    assert SENTIMENT.parse(answer, last=True, finished=False) == (None if "bad parts" in answer else label)


LETTERS = Verbalizer({"A": (" A",), "B": (" B",), "C": (" C",)})


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("B", "B"),
        (" B\n", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B) Paris", "B"),
        ("**C**", "C"),
        ("Answer: B", "B"),
        ("The answer is (B).", "B"),
        ("The answer is C.", "C"),
        ("Option A", "A"),
        ("Paris.\nAnswer: A", "A"),
        ("It is a film", None),
        ("A film about bees", None),
        ("I saw A Quiet Place", None),
        ("b", None),
        ("Because", None),
        ("B. A is wrong: the answer is B", "B"),
        ("(A) or (B)", None),
        ("[B]", "B"),
        ("（Ｂ）", "B"),
        ("I'd choose B", "B"),
        ("B is correct", "B"),
        ("B\nBecause A is out of stock", "B"),
        ("not B", None),
        ("A-list actors", None),
        ("J.A. Milne wrote it", None),
        ("C++ and B's", None),
    ],
)
def test_letters_count_only_where_they_stand_for_themselves(answer, label):
    assert LETTERS.parse(answer) == label


@pytest.mark.parametrize(
    ("words", "answer", "label"),
    [
        ({"ja": (" großartig",), "nein": (" übel",)}, "GROßARTIG", "ja"),
        ({"ja": (" großartig",), "nein": (" übel",)}, "u\u0308bel", "nein"),  # the umlaut as two characters
        ({"oui": (" très bon",), "non": (" mauvais",)}, "C'est tre\u0300s bon !", "oui"),
        ({"n": ("не",), "y": ("да",)}, "Да.", "y"),
        ({"n": ("差",), "y": ("好",)}, "好", "y"),
        ({"low": (" 1", " 2"), "high": (" 4", " 5")}, "4 stars", "high"),
        ({"low": (" 1", " 2"), "high": (" 4", " 5")}, "45", None),
        ({"bad": (" not good",), "good": (" good",)}, "It is not good", "bad"),
        ({"low": (" 1", " 2"), "high": (" 4", " 5")}, "2/5", "low"),
        ({"low": (" 1", " 2"), "high": (" 4", " 5")}, "1 out of 5 stars", "low"),
        ({"low": (" 1", " 2"), "high": (" 4", " 5")}, "3.5", None),
        ({"low": (" 1", " 2"), "high": (" 4", " 5")}, "4.5", None),
        ({"ja": (" Maß",), "nein": (" kein",)}, "MASS", "ja"),
        ({"n": ("负面",), "y": ("正面",)}, "这条评论的情感是正面的。", "y"),
        ({"n": ("负面",), "y": ("正面",)}, "不是正面的", None),
        ({"n": ("부정",), "y": ("긍정",)}, "긍정입니다.", "y"),
        ({"n": ("बुर",), "y": ("अच्छ",)}, "अच्छा", None),  # a vowel sign belongs to its word
        ({"n": ("👎",), "y": ("👍",)}, "great👍", "y"),
        (
            {"entailment": (" yes",), "not_entailment": (" no",)},
            "The label is not_entailment.",
            "not_entailment",
        ),
        ({"entailment": (" yes",), "not_entailment": (" no",)}, "not  entailment", "not_entailment"),
        ({"a": ("good", "fine"), "b": (" good", " bad")}, "good", None),
        ({"x": (" yes",), "y": (" Yes",)}, "**Yes**", "y"),
        ({"A": (" a",), "B": (" b",)}, "(B)", "B"),
        # a label's word goes before another label's name
        ({"negative": (" positive",), "positive": (" negative",)}, "negative", "positive"),
        # the case decides only between words that differ in nothing else
        ({"x": (" yes",), "y": (" Yes",)}, "Yes", "y"),
        ({"x": (" yes",), "y": (" Yes",)}, "yes", "x"),
    ],
)
def test_words_of_other_kinds(words, answer, label):
    assert Verbalizer(words).parse(answer) == label


WORD = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.strip)


@given(st.lists(WORD, min_size=2, max_size=6, unique_by=lambda w: w.strip().casefold()), st.text(), st.data())
def test_reading_never_fails_and_a_bare_word_is_its_label(words, answer, data):
    verbalizer = Verbalizer({f"label {i}": (word,) for i, word in enumerate(words)})
    assert verbalizer.parse(answer) in {*verbalizer.labels, None}
    assert verbalizer.parse(answer, last=True) in {*verbalizer.labels, None}
    i = data.draw(st.integers(0, len(words) - 1))
    assert verbalizer.parse(f"label {i}") == f"label {i}"
    assert verbalizer.parse(words[i]) == f"label {i}"


@pytest.mark.parametrize(
    "words",
    [{"a": (" x",)}, {"a": (" x",), "b": ()}, {"a": (" ",), "b": ("y",)}, {"a": ("x", "x"), "b": ("y",)}],
)
def test_verbalizers_that_cannot_be_are_refused(words):
    with pytest.raises(ConfigError):
        Verbalizer(words)


def test_a_word_of_two_labels_and_tokens_that_begin_others_are_refused():
    with refused(ConfigError, "' fun'", '"a"', '"b"'):
        Verbalizer({"a": (" fun",), "b": (" fun",)})
    check_distinct({"a": [(" fun", (1, 2))], "b": [(" fur", (1, 3))]})
    with refused(ConfigError, "begins like"):
        check_distinct({"a": [(" fun fair", (1, 2))], "b": [(" fun", (1,))]})
    with refused(ConfigError, "no token"):
        check_distinct({"a": [(" fun", ())], "b": [(" fur", (1, 3))]})
