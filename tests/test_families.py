"""Families of prompts: those that fute brings, the user's own, PromptSource's."""

import pytest

from fute.core.errors import ConfigError
from fute.core.types import Input
from fute.text.families import families, load_family, load_promptsource
from fute.text.prompt import Prompt
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer
from tests.helpers import refused, write

MINE = """\
name: mine
labels: {no: [" bad"], yes: [" good", " fine"]}
prompts:
  - {id: 1, template: "{{ text }} It was"}
  - {id: asked, template: "{{ text }} Good?", labels: {no: No, yes: Yes}, chat: true, reason: {max_tokens: 9}}
"""


@pytest.mark.parametrize("name", families())
def test_every_prompt_renders_and_answers_the_labels_of_its_family(name):
    family = load_family(name)
    assert len({prompt.id for prompt in family.prompts}) == len(family.prompts) >= 7
    labels = set(family.prompts[0].labels)
    for prompt in family.prompts:
        made = Prompt(PromptTemplate(prompt.template, prompt.columns), Verbalizer(dict(prompt.labels)))
        assert set(made.labels) == labels
        text = made.plain(Input("ONE.", "TWO."))
        assert "ONE." in text
        assert ("TWO." in text) == name.startswith("nli")
        assert all(prompt.chat or word.startswith(" ") for words in prompt.labels.values() for word in words)


def test_the_paper_has_13_prompts_for_each_task_of_which_3_reason():
    for name in ("sentiment-paper", "nli-paper"):
        prompts = load_family(name).prompts
        assert [p.id for p in prompts] == [str(i) for i in range(1, 14)]
        assert [p.id for p in prompts if p.reason] == ["11", "12", "13"]
        assert all(p.reason.max_tokens == 512 for p in prompts if p.reason)
    sentiment = [p.template for p in load_family("sentiment-paper").prompts]
    assert len(set(sentiment)) == 11
    assert sentiment[6] == "{{ text }} Is this review positive or negative?"
    nli = load_family("nli-paper").prompts[4]
    assert PromptTemplate(nli.template, nli.columns).render(Input("It rains.", "It is wet")) == (
        'It rains. Question: Does this imply that "It is wet"? Yes, no, or maybe?'
    )


def test_a_family_of_ones_own(tmp_path):
    write(tmp_path / "mine.yaml", MINE)
    plain, asked = load_family("mine.yaml", tmp_path).prompts
    assert (plain.id, dict(plain.labels), plain.chat, plain.reason) == (
        "1", {"no": (" bad",), "yes": (" good", " fine")}, False, None,
    )  # fmt: skip
    assert (dict(asked.labels), asked.chat, asked.reason.max_tokens) == (
        {"no": ("No",), "yes": ("Yes",)},
        True,
        9,
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('template: "{{ text }} It was"', 'templat: "x"'), ["templat", 'Did you mean "template"?']),
        (("id: asked", "id: 1"), ["two prompts have the id 1"]),
        (('labels: {no: [" bad"], yes: [" good", " fine"]}\n', ""), ["the prompt 1 has no labels"]),
        (("name: mine", "name: [mine"), ["not valid YAML"]),
        (("name: mine", "name: !!python/object/apply:os.system [ls]"), ["mine.yaml"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, words):
    assert change[0] in MINE
    write(tmp_path / "mine.yaml", MINE.replace(*change))
    with refused(ConfigError, *words):
        load_family("mine.yaml", tmp_path)


def test_a_family_that_is_not_there():
    with refused(ConfigError, 'no family of prompts "sentimen"', 'Did you mean "sentiment"?'):
        load_family("sentimen")


SOURCE = """\
dataset: some_nli
templates:
  a1: !Template
    answer_choices: Yes ||| Maybe ||| No
    id: a1
    jinja: '{{premise}} Does it follow that {{hypothesis}}? {{ answer_choices | join(", ") }}? |||
      {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      original_task: true
    name: follows
  a2: !Template
    answer_choices: null
    id: a2
    jinja: 'Write what follows from {{premise}} ||| {{hypothesis}}'
    metadata: !TemplateMetadata {}
    name: write
  a3: !Template
    answer_choices: A ||| B
    id: a3
    jinja: '{{premise}} {{hypothesis}} ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata {}
    name: two
"""


def test_promptsources_own_files(tmp_path):
    path = write(tmp_path / "templates.yaml", SOURCE)
    columns = {"premise": "text", "hypothesis": "text_pair"}
    family = load_promptsource(path, ["entailment", "neutral", "contradiction"], columns)
    (prompt,) = family.prompts
    made = PromptTemplate(prompt.template, prompt.columns, prompt.choices)
    assert (
        made.render(Input("It rains.", "it is wet"))
        == "It rains. Does it follow that it is wet? Yes, Maybe, No?"
    )
    assert prompt.labels == {"entailment": (" Yes",), "neutral": (" Maybe",), "contradiction": (" No",)}
    assert set(family.skipped) == {"write", "two"}
    with refused(ConfigError, "load_promptsource"):
        load_family("templates.yaml", tmp_path)
