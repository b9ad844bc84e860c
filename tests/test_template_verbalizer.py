"""The text side of a prompted LLM: what a template may do, and which words can stand for labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute import Input
from fute.core.errors import ConfigError
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer, check_distinct
from tests.helpers import refused


@pytest.mark.parametrize(
    ("source", "item", "prompt"),
    [
        ("Review: {{ text }}\nSentiment:", Input("Fine."), "Review: Fine.\nSentiment:"),
        ("{{ text }}\n", Input("ends with a line break"), "ends with a line break\n"),
        ("{{ text }}\n\n", Input("a"), "a\n\n"),
        ("{{ text_pair }} then {{ text }}", Input("a", "b"), "b then a"),
        ("{{ text }}|{{ text_pair }}", Input("alone"), "alone|"),
        ("{% if text_pair %}{{ text_pair }}{% else %}{{ text }}{% endif %}", Input("a", "b"), "b"),
        ("{{ text | upper }} {{ text.split()[0] }}", Input("two words"), "TWO WORDS two"),
        ("{# a remark #}{{ text }}", Input("<b> & 'c'"), "<b> & 'c'"),
    ],
)
def test_a_template_is_filled_in(source, item, prompt):
    assert PromptTemplate(source).render(item) == prompt


@given(st.text(), st.sampled_from(["", "{{ text }}", "{% raw %}", "{{ 7 * 7 }}", "{#"]))
def test_a_text_is_never_read_as_a_template(text, code):
    assert PromptTemplate("<{{ text }}>").render(Input(code + text)) == f"<{code + text}>"


@pytest.mark.parametrize(
    ("source", "pair"),
    [
        ("{{ text }}", False),
        ("{{ text }}{{ text_pair }}", True),
        ("{% if text_pair %}{{ text }}{% endif %}", True),
    ],
)
def test_a_template_that_uses_the_second_text_reads_pairs(source, pair):
    assert PromptTemplate(source).is_pair is pair


@pytest.mark.parametrize(
    ("source", "columns", "shape"),
    [
        ("{{ text }}", {}, "text"),
        ("{{ text }}{{ text_pair }}", {}, "pair"),
        ("{{ text }}{{ options }}", {}, "question-options"),
        ("{{ text }}{{ text_pair }}{{ options | join }}", {}, "question-options"),
        ("{{ a }}", {"a": "text", "b": "text_pair"}, "text"),
        ("{{ a }}{{ b }}", {"a": "text", "b": "text_pair"}, "pair"),
        ("{{ a }}{{ c }}", {"a": "text", "c": "options"}, "question-options"),
    ],
)
def test_a_templates_shape_is_what_it_reads(source, columns, shape):
    template = PromptTemplate(source, columns)
    assert template.shape == shape
    assert template.is_pair is (shape == "pair")


def test_options_are_a_list():
    template = PromptTemplate("{{ text }}{% for o in options %}\n{{ loop.index }}) {{ o }}{% endfor %}")
    assert template.render(Input("Who?", options=("Ann", "Bo"))) == "Who?\n1) Ann\n2) Bo"
    assert template.render(Input("Who?")) == "Who?"


@pytest.mark.parametrize(
    ("source", "columns", "prompt"),
    [
        ("{{ premise }} > {{ hypothesis }}", {"premise": "text", "hypothesis": "text_pair"}, "one > two"),
        ("{{ b }} > {{ text }}", {"b": "text_pair"}, "two > one"),
        ("{{ text }}", {"text": "text"}, "one"),  # as in PromptSource's templates for AG News
        ("{{ text }} > {{ text_pair }}", {"text": "text_pair", "text_pair": "text"}, "two > one"),
    ],
)
def test_a_template_can_have_names_of_its_own(source, columns, prompt):
    assert PromptTemplate(source, columns).render(Input("one", "two")) == prompt


def test_answer_choices_are_there_where_they_are_given():
    source = "{{ text }} {{ answer_choices[0] }} or {{ answer_choices[1] }}?"
    assert PromptTemplate(source, choices=("No", "Yes")).render(Input("Good?")) == "Good? No or Yes?"
    with refused(ConfigError, "unknown variable `answer_choices`"):
        PromptTemplate(source)


@pytest.mark.parametrize(
    ("source", "columns", "words"),
    [
        ("{{ premis }}", {"premise": "text"}, ["unknown variable `premis`", 'Did you mean "premise"?']),
        ("{{ premise }}", {"premise": "txt"}, ['"premise" stands for', "`txt`", 'Did you mean "text"?']),
        ("{{ hypothesis }}", {"hypothesis": "text_pair"}, ["never uses {{ text }}"]),
    ],
)
def test_wrong_names_of_its_own_are_refused(source, columns, words):
    with refused(ConfigError, *words):
        PromptTemplate(source, columns)


def test_all_that_decides_a_rendered_text_is_in_the_identity():
    made = [
        PromptTemplate("{{ text }}"),
        PromptTemplate("{{ text }}."),
        PromptTemplate("{{ text }}", {"a": "text_pair"}),
        PromptTemplate("{{ text }}", choices=("a", "b")),
    ]
    assert len({str(template.identity()) for template in made}) == len(made)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Review: {{ txt }}", ["unknown variable `txt`", 'Did you mean "text"?', "{{ text_pair }}"]),
        ("{{ text }} {{ review }}", ["unknown variable `review`", "name your column", "text: review"]),
        ("Review: {{ text", ["not valid Jinja", "unexpected end", "found: Review: {{ text"]),
        ("{% for %}{{ text }}", ["not valid Jinja"]),
        ("{{ text | shout }}", ["not valid Jinja", "'shout'"]),
        ("Is it good?", ["never uses {{ text }}", "found: Is it good?"]),
        ("{{ text_pair }}", ["never uses {{ text }}"]),
        ("{% raw %}{{ text }}{% endraw %}", ["never uses {{ text }}"]),
        ("", ["never uses {{ text }}"]),
    ],
)
def test_a_wrong_template_is_refused_when_it_is_made(source, words):
    with refused(ConfigError, *words):
        PromptTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ text.__class__.__mro__ }}",
        "{{ text.__class__ }}",
        "{{ (text | attr('__class__')).__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}{{ text }}",
        "{{ text.format.__globals__ }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{% set x = text %}{{ x['__class__'] }}",
    ],
)
def test_the_sandbox_keeps_internals_out_of_reach(source):
    with refused(ConfigError, "can't be filled in", "unsafe", f"found: {source}", "a plain string"):
        PromptTemplate(source).render(Input("a"))


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("{{ text.sentiment }}", "no attribute 'sentiment'"),
        ("{{ text.split(':')[1] }}", "no element 1"),
        ("{{ text / 2 }}", "unsupported operand"),
        ("{% include 'other' %}{{ text }}", "no loader"),
        ("{{ text }}{% for i in [].x %}{% endfor %}", "no attribute 'x'"),
    ],
)
def test_what_a_text_does_not_have_is_an_error_and_no_blank(source, word):
    with refused(ConfigError, "can't be filled in", word, f"found: {source}"):
        PromptTemplate(source).render(Input("no colon"))


def test_a_verbalizer_keeps_the_order_of_its_labels():
    assert Verbalizer({"b": (" B",), "a": (" A", " a")}).labels == ("b", "a")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, ["at least two labels", "found: none", "for example"]),
        ({"good": (" good",)}, ["at least two labels", "found: good"]),
        ({"bad": (), "good": (" good",)}, ['the label "bad" has no word']),
        ({"bad": (" bad", " "), "good": (" good",)}, ['the label "bad"', "an empty one"]),
        ({"bad": ("",), "good": (" good",)}, ['the label "bad"', "an empty one"]),
        ({"bad": (" bad",), "good": (" good", " fine", " good")}, ['the label "good" has a word twice']),
        (
            {"bad": (" poor", " meh"), "good": (" good", " meh")},
            ["the word ' meh' stands for two labels", '"bad" and "good"', "words of its own"],
        ),
    ],
)
def test_a_wrong_verbalizer_is_refused(words, said):
    with refused(ConfigError, *said):
        Verbalizer(words)


def test_words_that_differ_in_spacing_or_case_are_different_words():
    assert Verbalizer({"a": ("good", "Good"), "b": (" good",)}).labels == ("a", "b")


@pytest.mark.parametrize(
    "words",
    [
        {"bad": [(" bad", (5,))], "good": [(" good", (6,))]},
        {"bad": [(" unlike", (5, 7))], "good": [(" unbound", (5, 8))]},
    ],
    ids=["different", "only the first token shared"],
)
def test_words_of_which_none_begins_another_labels_word_are_fine(words):
    check_distinct(words)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("longer", [(5,), (5, 7)], ids=["equal", "longer"])
def test_a_word_whose_tokens_begin_another_labels_word_is_refused(order, longer):
    pairs = [("bad", [(" no", (5,))]), ("good", [(" fine", (6,)), (" not bad", longer)])][::order]
    with refused(
        ConfigError, "' no' of \"bad\"", "' not bad' of \"good\"", "[5]", str(list(longer)), "choose"
    ):
        check_distinct(dict(pairs))


def test_a_word_without_a_token_is_refused():
    with refused(ConfigError, "the word '\\u200b' has no token"):
        check_distinct({"a": [("\u200b", ())], "b": [(" b", (1,))]})
